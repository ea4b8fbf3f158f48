// SPDX-License-Identifier: Apache-2.0

// Package hardening says, for a security officer, how an image answers ANSSI-BP-028 v2.0: from the configuration of its kernel, its
// command line and the kernel settings PID 1 writes. What it claims of these three is looked up in them, not believed.
package hardening

import (
	_ "embed"
	"fmt"
	"slices"
	"strings"
)

// The tables; each begins with what its columns are.

//go:embed options.txt
var optionsText string

//go:embed words.txt
var wordsText string

//go:embed anssi.txt
var anssiText string

// Setting is a kernel setting that PID 1 writes (sysctl).
type Setting struct {
	Name, Value string
	ANSSI       string // recommendation it answers, or ""
	Why         string
}

// System is what is looked at.
type System struct {
	Release     string // of the kernel
	Config      []byte // the kernel's configuration, as Debian has it in /boot/config-RELEASE
	CommandLine string // without what differs from profile to profile but in its modules' parameters
	Settings    []Setting
}

// option is a wanted option of the kernel's configuration.
type option struct{ recommendation, name, value, answer string }

// asked is the option and its value, as people write it.
func (o option) asked() string {
	switch o.value {
	case "y":
		return o.name
	case "n":
		return "no " + o.name
	}
	return o.name + "=" + o.value
}

// answered says how the kernel's configuration stands to a recommendation.
type answered struct {
	asked, otherwise []string // options as asked; those answered in another way
	open             []string // those that are not
}

// Text is the table in Markdown. An answer that refers to a word of the command line or a setting that is not there is an error, and so
// is a word without a reason.
func Text(s System) (string, error) {
	options, err := s.options()
	if err != nil {
		return "", err
	}
	words, err := s.words()
	if err != nil {
		return "", err
	}
	recommendations, err := recommendations(options)
	if err != nil {
		return "", err
	}
	return strings.Join([]string{recommendations, s.kernel(options), words, s.settings()}, "\n"), nil
}

// rows are the lines of a table without its comments.
func rows(text string) []string {
	return slices.DeleteFunc(strings.Split(text, "\n"), func(l string) bool { return l == "" || strings.HasPrefix(l, "#") })
}

// options looks each wanted option up.
func (s System) options() (map[string]*answered, error) {
	config := map[string]string{}
	for line := range strings.Lines(string(s.Config)) {
		if name, value, is := strings.Cut(strings.TrimSpace(line), "="); is {
			config[strings.TrimPrefix(name, "CONFIG_")] = strings.Trim(value, `"`)
		}
	}
	if config["X86_64"] == "" {
		return nil, fmt.Errorf("hardening: no configuration of a kernel")
	}
	all := map[string]*answered{}
	for _, row := range rows(optionsText) {
		fields := strings.SplitN(row, " ", 4)
		o := option{fields[0], fields[1], fields[2], strings.Join(fields[3:], "")}
		if all[o.recommendation] == nil {
			all[o.recommendation] = &answered{}
		}
		a, have := all[o.recommendation], config[o.name]
		if have == "" {
			have = "n"
		}
		if have == o.value {
			a.asked = append(a.asked, o.asked())
			continue
		}
		by, err := s.by(o, config)
		if err != nil {
			return nil, fmt.Errorf("hardening: %s: %w", o.name, err)
		}
		if by != "" {
			a.otherwise = append(a.otherwise, fmt.Sprintf("%s by %s", o.name, by))
			continue
		}
		a.open = append(a.open, strings.TrimSuffix(fmt.Sprintf("%s is %s: %s", o.name, have, o.answer), ": "))
	}
	return all, nil
}

// by is what answers in another way: that this kernel does not have what the option guards, or the word or setting that the table refers
// to, which must be there.
func (s System) by(o option, config map[string]string) (string, error) {
	switch {
	case strings.Contains(o.name, "MODULE") && config["MODULES"] == "":
		return "there being no modules", nil
	case strings.Contains(o.name, "DEVMEM") && config["DEVMEM"] == "":
		return "there being no /dev/mem", nil
	}
	if word, is := strings.CutPrefix(o.answer, "cmd:"); is {
		if !slices.Contains(strings.Fields(s.CommandLine), word) {
			return "", fmt.Errorf("the command line lacks %s", word)
		}
		return "`" + word + "`", nil
	}
	if name, is := strings.CutPrefix(o.answer, "sysctl:"); is {
		i := slices.IndexFunc(s.Settings, func(t Setting) bool { return t.Name == name })
		if i < 0 {
			return "", fmt.Errorf("PID 1 does not write %s", name)
		}
		return fmt.Sprintf("`%s=%s`", name, s.Settings[i].Value), nil
	}
	return "", nil
}

// recommendations is the table of all 80.
func recommendations(options map[string]*answered) (string, error) {
	count := map[string]int{}
	var b strings.Builder
	for n, row := range rows(anssiText) {
		fields := strings.Split(row, " | ")
		if number := fmt.Sprintf("R%d", n+1); len(fields) < 3 || fields[0] != number {
			return "", fmt.Errorf("hardening: row %q, want %s and three or four columns", row, number)
		}
		answer, how := fields[1], strings.Join(fields[3:], "")
		if answer == "kernel" {
			a := options[fields[0]]
			if a == nil {
				return "", fmt.Errorf("hardening: no options for %s", fields[0])
			}
			answer, how = "yes", "kernel, below"
			if len(a.open) > 0 {
				answer = "part"
			}
		}
		count[answer]++
		fmt.Fprintf(&b, "| %s | %s | **%s** | %s |\n", fields[0], strings.TrimSuffix(fields[2], " |"), answer, how)
	}
	return fmt.Sprintf("ANSSI-BP-028 v2.0, R1 to R80: %d yes, %d in part, %d no, %d for the site, %d with nothing here to speak of.\n\n"+
		"| | asks for | | how |\n|---|---|---|---|\n%s", count["yes"], count["part"], count["no"], count["site"], count["none"], b.String()), nil
}

// kernel is the table of the kernel's configuration.
func (s System) kernel(options map[string]*answered) string {
	var b strings.Builder
	fmt.Fprintf(&b, "Configuration of Linux %s:\n\n| | as asked | answered otherwise | left |\n|---|---|---|---|\n", s.Release)
	for n := range 80 {
		number := fmt.Sprintf("R%d", n+1)
		if a := options[number]; a != nil {
			fmt.Fprintf(&b, "| %s | %s | %s | %s |\n", number, strings.Join(a.asked, ", "), strings.Join(a.otherwise, ", "), strings.Join(a.open, "; "))
		}
	}
	return b.String()
}

// words is the table of the command line.
func (s System) words() (string, error) {
	reasons := map[string][]string{}
	for _, row := range rows(wordsText) {
		fields := strings.SplitN(row, " ", 3)
		reasons[fields[0]] = fields[1:]
	}
	var b strings.Builder
	b.WriteString("Command line:\n\n| word | | what for |\n|---|---|---|\n")
	for _, word := range strings.Fields(s.CommandLine) {
		r := reasons[word]
		if r == nil {
			return "", fmt.Errorf("hardening: no reason for %s on the command line", word)
		}
		fmt.Fprintf(&b, "| `%s` | %s | %s |\n", word, strings.TrimPrefix(r[0], "-"), r[1])
	}
	return b.String(), nil
}

// settings is the table of kernel settings, one row for each reason.
func (s System) settings() string {
	var b strings.Builder
	b.WriteString("Kernel settings, written by PID 1:\n\n| setting | | what for |\n|---|---|---|\n")
	for i := 0; i < len(s.Settings); {
		first, names := s.Settings[i], []string(nil)
		for ; i < len(s.Settings) && (s.Settings[i] == first || s.Settings[i].ANSSI == first.ANSSI && s.Settings[i].Why == "the same"); i++ {
			names = append(names, fmt.Sprintf("`%s=%s`", s.Settings[i].Name, s.Settings[i].Value))
		}
		fmt.Fprintf(&b, "| %s | %s | %s |\n", strings.Join(names, " "), first.ANSSI, first.Why)
	}
	return b.String()
}

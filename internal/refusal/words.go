// SPDX-License-Identifier: Apache-2.0

package refusal

import (
	"strconv"
	"strings"
	"time"
	"unicode"
)

// maxParam bounds, in characters, what one parameter puts on a screen.
const maxParam = 240

// Words is a refusal as a person reads it.
type Words struct {
	Title string // what is the case
	Text  string // what else is known; may be empty
	Next  string // what the person does now; never empty
	Light Light
}

// String returns everything as one line.
func (w Words) String() string {
	return strings.Join(strings.Fields(w.Title+" "+w.Text+" "+w.Next), " ")
}

// Words returns what the refusal says in a language; any other than French is English. Unknown codes read as OurFault,
// under their own number. A parameter that is missing takes its part of the sentence with it.
func (r Refusal) Words(lang Lang) Words {
	row, ok := Lookup(r.Code)
	if !ok {
		row, _ = Lookup(OurFault)
	}
	text := row.EN
	if lang == French {
		text = row.FR
	}
	t := template{lang, r}
	return Words{t.expand(text.Title), t.expand(text.Text), t.expand(text.Next), row.Light}
}

// template expands the small language described at Text for one refusal.
type template struct {
	lang Lang
	r    Refusal
}

// expand replaces the optional parts, then the parameters around them. Values are never read as templates.
func (t template) expand(s string) string {
	var out strings.Builder
	for {
		before, rest, found := strings.Cut(s, "[")
		plain, _ := t.fill(before)
		out.WriteString(plain)
		if !found {
			return out.String()
		}
		var part string
		part, s, _ = strings.Cut(rest, "]")
		for _, choice := range strings.Split(part, "|") {
			if filled, ok := t.fill(choice); ok {
				out.WriteString(filled)
				break
			}
		}
	}
}

// fill replaces the parameters of s; ok is false when one is not known.
func (t template) fill(s string) (string, bool) {
	var out strings.Builder
	ok := true
	for {
		before, rest, found := strings.Cut(s, "{")
		out.WriteString(before)
		if !found {
			return out.String(), ok
		}
		var param string
		param, s, _ = strings.Cut(rest, "}")
		value, known := t.param(param)
		out.WriteString(value)
		ok = ok && known
	}
}

func (t template) param(spec string) (string, bool) {
	name, format, _ := strings.Cut(spec, ":")
	if name == "code" {
		return tame(t.r.Error()), true
	}
	value := tame(t.r.Params[name])
	if value == "" {
		return "", false
	}
	kind, forms, _ := strings.Cut(format, ":")
	switch kind {
	case "day":
		return day(t.lang, value), true
	case "clock":
		return clock(t.lang, value), true
	case "span":
		return span(value), true
	case "countries":
		return Countries(t.lang, strings.Split(value, ",")), true
	case "n":
		one, many, _ := strings.Cut(forms, ":")
		if n, err := strconv.Atoi(value); err == nil && (n == 1 || n == 0 && t.lang == French) {
			return one, true
		}
		return many, true
	}
	return value, true
}

// tame makes one short line of a value that came over a wire.
func tame(s string) string {
	s = strings.Map(func(r rune) rune {
		if unicode.IsSpace(r) {
			return ' '
		}
		if !unicode.IsPrint(r) {
			return -1
		}
		return r
	}, s)
	s = strings.TrimSpace(s)
	if runes := []rune(s); len(runes) > maxParam {
		s = string(runes[:maxParam-1]) + "…"
	}
	return s
}

// day writes a date of the form 2026-03-12 in words; anything else as it is.
func day(lang Lang, value string) string {
	t, err := time.Parse(time.DateOnly, value)
	if err != nil {
		return value
	}
	return Day(lang, t)
}

// Day writes a date in words: 12 March 2026, 1er mars 2026.
func Day(lang Lang, t time.Time) string {
	if lang != French {
		return t.Format("2 January 2006")
	}
	months := [...]string{"janvier", "février", "mars", "avril", "mai", "juin", "juillet", "août", "septembre", "octobre", "novembre", "décembre"}
	number := strconv.Itoa(t.Day())
	if t.Day() == 1 {
		number = "1er"
	}
	return number + " " + months[t.Month()-1] + " " + strconv.Itoa(t.Year())
}

// clock writes a Moment as the clock beside it shows the time, where the words are read; anything else as it is.
func clock(lang Lang, value string) string {
	t, err := time.Parse(time.RFC3339, value)
	if err != nil {
		return value
	}
	return Clock(lang, t.Local())
}

// span writes a number of seconds as minutes and seconds: 2 min 10 s, 3 min, 40 s. Both languages write it so. Anything else as it is.
func span(value string) string {
	n, err := strconv.Atoi(value)
	if err != nil || n < 0 {
		return value
	}
	minutes, seconds := strconv.Itoa(n/60)+" min", strconv.Itoa(n%60)+" s"
	switch {
	case n < 60:
		return seconds
	case n%60 == 0:
		return minutes
	}
	return minutes + " " + seconds
}

// Moment is a time as a parameter carries it (RFC 3339, UTC): whoever refuses does not know the reader's time zone.
func Moment(t time.Time) string { return t.UTC().Format(time.RFC3339) }

// Clock writes a time of day: 14:02, 14 h 02.
func Clock(lang Lang, t time.Time) string {
	if lang == French {
		return t.Format("15 h 04")
	}
	return t.Format("15:04")
}

// Countries writes ISO 3166-1 alpha-2 codes as the places one may be in: "France or Belgium", "la France ou la Belgique".
// A code without a name here stays a code.
func Countries(lang Lang, codes []string) string {
	names := make([]string, len(codes))
	for i, c := range codes {
		names[i] = country(lang, strings.TrimSpace(c))
	}
	or := " or "
	if lang == French {
		or = " ou "
	}
	if last := len(names) - 1; last > 0 {
		return strings.Join(names[:last], ", ") + or + names[last]
	}
	return strings.Join(names, "")
}

// country names the countries a research centre of Europe meets most.
func country(lang Lang, code string) string {
	names := map[string][2]string{
		"AT": {"Austria", "l'Autriche"}, "BE": {"Belgium", "la Belgique"}, "BG": {"Bulgaria", "la Bulgarie"},
		"HR": {"Croatia", "la Croatie"}, "CY": {"Cyprus", "Chypre"}, "CZ": {"Czechia", "la Tchéquie"},
		"DK": {"Denmark", "le Danemark"}, "EE": {"Estonia", "l'Estonie"}, "FI": {"Finland", "la Finlande"},
		"FR": {"France", "la France"}, "DE": {"Germany", "l'Allemagne"}, "GR": {"Greece", "la Grèce"},
		"HU": {"Hungary", "la Hongrie"}, "IE": {"Ireland", "l'Irlande"}, "IT": {"Italy", "l'Italie"},
		"LV": {"Latvia", "la Lettonie"}, "LT": {"Lithuania", "la Lituanie"}, "LU": {"Luxembourg", "le Luxembourg"},
		"MT": {"Malta", "Malte"}, "NL": {"the Netherlands", "les Pays-Bas"}, "PL": {"Poland", "la Pologne"},
		"PT": {"Portugal", "le Portugal"}, "RO": {"Romania", "la Roumanie"}, "SK": {"Slovakia", "la Slovaquie"},
		"SI": {"Slovenia", "la Slovénie"}, "ES": {"Spain", "l'Espagne"}, "SE": {"Sweden", "la Suède"},
		"CH": {"Switzerland", "la Suisse"}, "GB": {"the United Kingdom", "le Royaume-Uni"}, "NO": {"Norway", "la Norvège"},
		"IS": {"Iceland", "l'Islande"}, "LI": {"Liechtenstein", "le Liechtenstein"}, "US": {"the United States", "les États-Unis"},
		"CA": {"Canada", "le Canada"}, "AU": {"Australia", "l'Australie"}, "JP": {"Japan", "le Japon"},
	}
	n, ok := names[code]
	switch {
	case !ok:
		return code
	case lang == French:
		return n[1]
	}
	return n[0]
}

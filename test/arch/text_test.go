// SPDX-License-Identifier: Apache-2.0

package arch

import (
	"io/fs"
	"os"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"testing"

	"github.com/stretchr/testify/require"
)

// files returns the paths from the root, and the texts, of the files with such a name.
func files(t *testing.T, named func(name string) bool) map[string]string {
	t.Helper()
	out := map[string]string{}
	err := filepath.WalkDir(root, func(p string, d fs.DirEntry, err error) error {
		if err != nil {
			return err
		}
		rel := filepath.ToSlash(strings.TrimPrefix(p, root+string(filepath.Separator)))
		switch {
		case d.IsDir() && foreign(rel, d.Name()):
			return filepath.SkipDir
		case d.Type().IsRegular() && named(d.Name()):
			text, err := os.ReadFile(p)
			out[rel] = string(text)
			return err
		}
		return nil
	})
	require.NoError(t, err)
	require.NotEmpty(t, out)
	return out
}

func TestEveryFileOfCodeBeginsWithItsLicence(t *testing.T) {
	code := map[string]bool{".go": true, ".sh": true, ".sql": true, ".js": true, ".css": true, ".cedar": true, ".service": true}
	texts := files(t, func(name string) bool { return code[filepath.Ext(name)] || name == "Makefile" })
	for name, text := range texts {
		head, rest, _ := strings.Cut(text, "\n")
		if strings.HasPrefix(head, "#!") {
			head, _, _ = strings.Cut(rest, "\n")
		}
		require.Contains(t, head, "SPDX-License-Identifier: Apache-2.0", "%s: no licence line", name)
	}
}

// A decision says its day, what it came from, what was chosen and what follows, in five lines: who reads the code next reads it too.
func TestReadmesLinkToWhatIsThereAndDecideInFiveLines(t *testing.T) {
	link := regexp.MustCompile(`\]\(([^)#:]+)[^)]*\)`)
	for name, text := range files(t, func(name string) bool { return strings.HasSuffix(name, ".md") }) {
		for _, m := range link.FindAllStringSubmatch(text, -1) {
			_, err := os.Stat(filepath.Join(root, filepath.Dir(name), m[1]))
			require.NoError(t, err, "%s links to %s", name, m[1])
		}
		for paragraph := range strings.SplitSeq(text, "\n\n") {
			if !strings.HasPrefix(paragraph, "**20") {
				continue
			}
			paragraph = strings.TrimSpace(paragraph)
			require.Regexp(t, `(?s)^\*\*20\d\d-\d\d-\d\d[,:] .*Context:.*Choice:.*Consequence:`, paragraph, name)
			require.LessOrEqual(t, strings.Count(paragraph, "\n"), 4, "%s: lines of a decision:\n%s", name, paragraph)
		}
	}
}

func TestPackageListHasNoDuplicate(t *testing.T) {
	text, err := os.ReadFile(filepath.Join(root, "debian-packages.txt"))
	require.NoError(t, err)
	var names []string
	for _, line := range lines(string(text)) {
		if !strings.HasPrefix(line, "[") {
			names = append(names, line)
		}
	}
	slices.Sort(names)
	require.Equal(t, slices.Compact(slices.Clone(names)), names)
}

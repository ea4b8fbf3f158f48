// SPDX-License-Identifier: Apache-2.0

package arch

import (
	"go/ast"
	"os"
	"path"
	"strconv"
	"strings"
	"testing"

	"sdbox/internal/refusal"

	"github.com/stretchr/testify/require"
)

// codeNames are the constants of package refusal, by their codes.
func codeNames(t *testing.T) map[string]string {
	names := map[string]string{}
	for _, s := range sources(t) {
		if s.path != "internal/refusal/table.go" {
			continue
		}
		ast.Inspect(s.file, func(n ast.Node) bool {
			if v, is := n.(*ast.ValueSpec); is && len(v.Names) == 1 && len(v.Values) == 1 {
				if text, is := v.Values[0].(*ast.BasicLit); is {
					if code, err := strconv.Unquote(text.Value); err == nil {
						names[code] = v.Names[0].Name
					}
				}
			}
			return true
		})
	}
	return names
}

// TestEveryCodeIsForcedBySomeTest: a code that no test forces may be one that nothing says.
func TestEveryCodeIsForcedBySomeTest(t *testing.T) {
	texts, tests := map[string]string{}, map[string]bool{}
	for _, s := range sources(t) {
		texts[s.path] = s.text
		for _, d := range s.file.Decls {
			if f, is := d.(*ast.FuncDecl); is && s.test {
				tests[s.dir+"."+f.Name.Name] = true
			}
		}
	}
	names := codeNames(t)
	list, err := os.ReadFile("codes.txt")
	require.NoError(t, err)
	var listed, want []string
	for _, line := range lines(string(list)) {
		row, _, _ := strings.Cut(line, "#")
		fields := strings.Fields(row)
		require.Len(t, fields, 4, line)
		code, how, file, test := fields[0], fields[1], fields[2], fields[3]
		listed = append(listed, code)
		require.Contains(t, []string{"house", "image", "parts"}, how, line)
		text, exists := texts[file]
		require.True(t, exists, "%s: there is no file %s", line, file)
		require.True(t, strings.Contains(text, "refusal."+names[code]) || strings.Contains(text, strconv.Quote(code)), "%s: %s does not name it", line, path.Base(file))
		require.True(t, tests[test], "%s: there is no test %s", line, test)
	}
	for _, row := range refusal.Table() {
		want = append(want, string(row.Code))
	}
	require.ElementsMatch(t, want, listed, "one row for each code")
}

// SPDX-License-Identifier: Apache-2.0

package arch

import (
	"go/ast"
	"os"
	"path"
	"slices"
	"strings"
	"testing"

	"github.com/stretchr/testify/require"
)

// TestEveryFuzzTargetNamesItsParser: scripts/fuzz.sh measures what the list names, so a target or a parser that is not in it, or no
// longer in the code, would be measured by nobody.
func TestEveryFuzzTargetNamesItsParser(t *testing.T) {
	text, err := os.ReadFile(path.Join(root, "scripts/fuzz.txt"))
	require.NoError(t, err)
	functions := map[string][]string{} // of a file
	var targets []string
	for _, s := range sources(t) {
		functions[s.path] = []string{}
		for _, d := range s.file.Decls {
			f, isFunction := d.(*ast.FuncDecl)
			if !isFunction {
				continue
			}
			functions[s.path] = append(functions[s.path], f.Name.Name)
			if s.test && strings.HasPrefix(f.Name.Name, "Fuzz") {
				targets = append(targets, s.dir+" "+f.Name.Name)
			}
		}
	}
	var listed []string
	for _, line := range lines(string(text)) {
		row, _, _ := strings.Cut(line, "#")
		fields := strings.Fields(row)
		require.GreaterOrEqual(t, len(fields), 3, line)
		listed = append(listed, fields[0]+" "+fields[1])
		for _, part := range fields[2:] {
			file, names, some := strings.Cut(part, ":")
			have, exists := functions[path.Join(fields[0], file)]
			require.True(t, exists, "%s: there is no file %s", line, file)
			for name := range strings.SplitSeq(names, ",") {
				require.True(t, !some || slices.Contains(have, name), "%s: there is no function %s", line, name)
			}
		}
	}
	require.ElementsMatch(t, targets, listed)
}

// SPDX-License-Identifier: Apache-2.0

package arch

import (
	"go/ast"
	"os"
	"strings"
	"testing"

	"github.com/stretchr/testify/require"
)

// TestEveryMachineIsListed: a test that starts a machine under QEMU and is not in the list would run beside others, and not be played by
// make test-vm.
func TestEveryMachineIsListed(t *testing.T) {
	starts := map[string]bool{} // a test's file starts machines
	for _, s := range sources(t) {
		if !s.test || s.dir == "test/arch" {
			continue
		}
		machines := strings.Contains(s.text, "vm.Start(") || s.dir == "image" && strings.Contains(s.text, "newMachine(t") || strings.Contains(s.text, "house.ImageForm")
		for _, d := range s.file.Decls {
			if f, is := d.(*ast.FuncDecl); is && strings.HasPrefix(f.Name.Name, "Test") && f.Name.Name != "TestMain" {
				starts[s.dir+" "+f.Name.Name] = machines
			}
		}
	}
	text, err := os.ReadFile("../../scripts/machines.txt")
	require.NoError(t, err)
	listed := map[string]bool{}
	for _, line := range lines(string(text)) {
		fields := strings.Fields(line)
		if strings.HasPrefix(line, "#") || len(fields) == 0 {
			continue
		}
		require.True(t, len(fields) == 2 || len(fields) == 3 && fields[2] == "long", line)
		test, _, script := strings.Cut(fields[1], "/")
		machines, exists := starts[fields[0]+" "+test]
		require.True(t, exists, "%s: there is no such test", line)
		require.True(t, machines || script, "%s: it starts no machine", line)
		listed[fields[0]+" "+test] = true
	}
	for test, machines := range starts {
		require.True(t, !machines || listed[test], "%s is not in scripts/machines.txt", test)
	}
}

// SPDX-License-Identifier: Apache-2.0

package arch

import (
	"go/ast"
	"go/token"
	"path"
	"strings"
	"testing"

	"github.com/stretchr/testify/require"
)

// The sizes at which a thing is split. Tests may have longer functions, a table of cases; not longer files.
const (
	maxFileLines     = 500
	maxFunctionLines = 60
	maxMainLines     = 60
	maxMethods       = 6
)

// longTables are the functions that may be longer: each is one table, or one switch over it, and is read by its rows.
func longTables() map[string]bool {
	return map[string]bool{"agent.Table": true, "agent.perform": true, "internal/refusal.Table": true}
}

func TestFilesFunctionsAndInterfacesStaySmall(t *testing.T) {
	tables := longTables()
	for _, s := range sources(t) {
		lines := strings.Count(s.text, "\n")
		require.LessOrEqual(t, lines, maxFileLines, "%s: lines of a file", s.path)
		if strings.HasPrefix(s.path, "cmd/") && path.Base(s.path) == "main.go" {
			require.LessOrEqual(t, lines, maxMainLines, "%s: lines of a main", s.path)
		}
		ast.Inspect(s.file, func(n ast.Node) bool {
			switch n := n.(type) {
			case *ast.FuncDecl:
				name := s.dir + "." + n.Name.Name
				if long := s.lines(n) > maxFunctionLines && !s.test; long && !tables[name] {
					t.Errorf("%s: %s has %d lines: want %d at most", s.path, n.Name.Name, s.lines(n), maxFunctionLines)
				} else if long {
					delete(tables, name)
				}
			case *ast.InterfaceType:
				require.LessOrEqual(t, n.Methods.NumFields(), maxMethods, "%s: methods of an interface, line %d", s.path, s.fset.Position(n.Pos()).Line)
			}
			return true
		})
	}
	require.Empty(t, tables, "no longer long: take them out of longTables")
}

func (s source) lines(n ast.Node) int {
	return s.fset.Position(n.End()).Line - s.fset.Position(n.Pos()).Line + 1
}

// Imports stand in three groups: the standard library, this house, others. gofmt sorts within a group.
func TestImportsStandInThreeGroups(t *testing.T) {
	group := func(path string) int {
		first, _, _ := strings.Cut(path, "/")
		switch {
		case first == "sdbox":
			return 1
		case strings.Contains(first, "."):
			return 2
		}
		return 0
	}
	for _, s := range sources(t) {
		for i := 1; i < len(s.imports); i++ {
			before, here := group(s.imports[i-1]), group(s.imports[i])
			require.LessOrEqual(t, before, here, "%s: %s stands behind %s", s.path, s.imports[i], s.imports[i-1])
			lines := s.fset.Position(s.file.Imports[i].Pos()).Line - s.fset.Position(s.file.Imports[i-1].Pos()).Line
			require.Equal(t, before != here, lines > 1, "%s: an empty line stands between groups and nowhere else, at %s", s.path, s.imports[i])
		}
	}
}

func TestNoWordPutsOffOrSilencesWhatIsWrong(t *testing.T) {
	for _, s := range sources(t) {
		for _, word := range []string{"no" + "lint", "TO" + "DO", "FIX" + "ME"} {
			require.NotContains(t, s.text, word, s.path)
		}
	}
}

// A package begins without running anything and changes no variable of its own: what is set is set by whoever calls.
func TestPackagesKeepNoState(t *testing.T) {
	held := map[string]map[string]bool{} // folder -> its variables
	for _, s := range sources(t) {
		for _, d := range s.file.Decls {
			switch d := d.(type) {
			case *ast.FuncDecl:
				require.False(t, d.Recv == nil && d.Name.Name == "init", "%s has an init function", s.path)
			case *ast.GenDecl:
				if d.Tok != token.VAR || s.test {
					continue
				}
				if held[s.dir] == nil {
					held[s.dir] = map[string]bool{}
				}
				for _, spec := range d.Specs {
					v := spec.(*ast.ValueSpec)
					embedded := d.Doc != nil && strings.Contains(s.text[d.Doc.Pos()-s.file.FileStart:d.Doc.End()-s.file.FileStart], "//go:embed")
					for _, n := range v.Names {
						require.True(t, embedded || len(v.Values) > 0, "%s: variable %s has no value, so something must set it", s.path, n.Name)
						held[s.dir][n.Name] = n.Name != "_"
					}
				}
			}
		}
	}
	for _, s := range sources(t) {
		ast.Inspect(s.file, func(n ast.Node) bool {
			for _, target := range assigned(n) {
				// The parser resolves what is declared in a function or in this file; nil is a name of another file, or unknown.
				if target.Obj != nil && target.Obj.Decl != nil && s.file.Scope.Lookup(target.Name) != target.Obj {
					continue
				}
				require.False(t, held[s.dir][target.Name], "%s: line %d changes the package's variable %s", s.path, s.fset.Position(n.Pos()).Line, target.Name)
			}
			return true
		})
	}
}

// assigned returns the variables that a statement changes, or whose address it takes.
func assigned(n ast.Node) []*ast.Ident {
	var to []ast.Expr
	switch n := n.(type) {
	case *ast.AssignStmt:
		if n.Tok != token.DEFINE {
			to = n.Lhs
		}
	case *ast.IncDecStmt:
		to = []ast.Expr{n.X}
	case *ast.UnaryExpr:
		if n.Op == token.AND {
			to = []ast.Expr{n.X}
		}
	}
	var out []*ast.Ident
	for _, e := range to {
		for {
			switch x := e.(type) {
			case *ast.IndexExpr:
				e = x.X
				continue
			case *ast.ParenExpr:
				e = x.X
				continue
			case *ast.Ident:
				out = append(out, x)
			}
			break
		}
	}
	return out
}

func TestTestsNeitherSleepNorSkip(t *testing.T) {
	for _, s := range sources(t) {
		var clock bool // testing/synctest: time passes when nothing else can happen
		for _, i := range s.imports {
			clock = clock || i == "testing/synctest"
			sub, testify := strings.CutPrefix(i, "github.com/stretchr/testify/")
			require.True(t, !testify || sub == "require", "%s imports testify/%s: require is all that is used here", s.path, sub)
		}
		ast.Inspect(s.file, func(n ast.Node) bool {
			call, is := n.(*ast.SelectorExpr)
			if !is {
				return true
			}
			x, _ := call.X.(*ast.Ident)
			line := s.fset.Position(n.Pos()).Line
			require.False(t, x != nil && x.Name == "time" && call.Sel.Name == "Sleep" && !clock, "%s: line %d sleeps: wait for what has to happen", s.path, line)
			require.False(t, s.test && strings.HasPrefix(call.Sel.Name, "Skip") && x != nil && len(x.Name) == 1, "%s: line %d skips a test", s.path, line)
			return true
		})
	}
}

// SPDX-License-Identifier: Apache-2.0

// Package arch keeps the plan of the house as tests: who may import whom, by which door an outside library enters, and what
// every file and package must carry. It parses the tree in this process, so its result is never a stale one.
package arch

import (
	_ "embed"
	"go/ast"
	"go/parser"
	"go/token"
	"io/fs"
	"os"
	"path"
	"path/filepath"
	"strconv"
	"strings"
	"sync"
	"testing"

	"github.com/stretchr/testify/require"
)

const root = "../.."

//go:embed plan.txt
var planText string

//go:embed doors.txt
var doorsText string

// source is one parsed Go file.
type source struct {
	path    string // from the root, with slashes
	dir     string
	test    bool
	file    *ast.File
	text    string
	imports []string
	fset    *token.FileSet
}

// parsed is the tree, read once for all tests of a run.
var parsed = sync.OnceValues(parse)

// sources returns every Go file of the tree.
func sources(t *testing.T) []source {
	t.Helper()
	out, err := parsed()
	require.NoError(t, err)
	require.NotEmpty(t, out)
	return out
}

func parse() ([]source, error) {
	var out []source
	fset := token.NewFileSet()
	err := filepath.WalkDir(root, func(p string, d fs.DirEntry, err error) error {
		if err != nil {
			return err
		}
		rel := filepath.ToSlash(strings.TrimPrefix(p, root+string(filepath.Separator)))
		if d.IsDir() {
			if foreign(rel, d.Name()) {
				return filepath.SkipDir
			}
			return nil
		}
		if !strings.HasSuffix(p, ".go") {
			return nil
		}
		text, err := os.ReadFile(p)
		if err != nil {
			return err
		}
		f, err := parser.ParseFile(fset, rel, text, parser.ParseComments)
		if err != nil {
			return err
		}
		s := source{path: rel, dir: path.Dir(rel), test: strings.HasSuffix(rel, "_test.go"), file: f, text: string(text), fset: fset}
		for _, i := range f.Imports {
			name, err := strconv.Unquote(i.Path.Value)
			if err != nil {
				return err
			}
			s.imports = append(s.imports, name)
		}
		out = append(out, s)
		return nil
	})
	return out, err
}

// foreign says whether a folder holds what is made or fetched, not what is kept here.
func foreign(rel, name string) bool {
	return rel == "build" || name == "testdata" || name == "node_modules" || strings.HasPrefix(name, ".") && name != ".."
}

// lines returns the text without comments and empty lines.
func lines(text string) []string {
	var out []string
	for line := range strings.Lines(text) {
		if line = strings.TrimSpace(line); line != "" && !strings.HasPrefix(line, "#") {
			out = append(out, line)
		}
	}
	return out
}

// expand turns "a/{b,c}, d" into a/b, a/c, d.
func expand(list string) []string {
	var out []string
	depth, start := 0, 0
	for i, r := range list + "," {
		switch {
		case r == '{':
			depth++
		case r == '}':
			depth--
		case r == ',' && depth == 0:
			item := strings.TrimSpace(list[start:i])
			start = i + 1
			head, rest, braces := strings.Cut(item, "{")
			if !braces {
				out = append(out, item)
				continue
			}
			for name := range strings.SplitSeq(strings.TrimSuffix(rest, "}"), ",") {
				out = append(out, head+strings.TrimSpace(name))
			}
		}
	}
	return out
}

// plan maps a room to every room it may import, and knows all rooms.
func plan(t *testing.T) map[string]map[string]bool {
	t.Helper()
	direct := map[string][]string{}
	for _, line := range lines(planText) {
		parts := strings.Split(line, "<")
		require.Greater(t, len(parts), 1, line)
		for i := 1; i < len(parts); i++ {
			for _, right := range expand(parts[i]) {
				direct[right] = append(direct[right], expand(parts[i-1])...)
			}
		}
	}
	out := map[string]map[string]bool{}
	var walk func(room string, into map[string]bool)
	walk = func(room string, into map[string]bool) {
		for _, below := range direct[room] {
			if below != "NONE" && !into[below] {
				into[below] = true
				walk(below, into)
			}
		}
	}
	for room := range direct {
		out[room] = map[string]bool{}
		walk(room, out[room])
		require.False(t, out[room][room], "the plan has a circle through %s", room)
	}
	return out
}

// isSim and isTest know a twin by its name: card/cardsim, desktop/desktoptest.
func isSim(dir string) bool  { return path.Base(dir) == path.Base(path.Dir(dir))+"sim" }
func isTest(dir string) bool { return path.Base(dir) == path.Base(path.Dir(dir))+"test" }

func under(dir, top string) bool {
	return dir == top || strings.HasPrefix(dir, top+"/")
}

func mayImport(rooms map[string]map[string]bool, from, to string) bool {
	free := under(from, "cmd") || under(from, "internal/lab") || under(from, "test")
	switch {
	case under(to, "cmd/internal"):
		return under(from, "cmd")
	case under(to, "cmd"), under(to, "test"):
		return false
	case isTest(to):
		return false
	case isSim(to) || under(to, "internal/lab"):
		return under(from, "internal/lab") || from == "cmd/sdbox-lab"
	case free:
		return true
	case isSim(from) || isTest(from):
		twin := path.Dir(from)
		return to == twin || rooms[twin][to]
	}
	return rooms[from][to]
}

func TestImportsFollowThePlan(t *testing.T) {
	rooms := plan(t)
	for _, s := range sources(t) {
		known := rooms[s.dir] != nil || under(s.dir, "cmd") || under(s.dir, "internal/lab") || under(s.dir, "test") || isSim(s.dir) || isTest(s.dir)
		require.True(t, known, "%s: the plan has no room %s", s.path, s.dir)
		if s.test {
			continue
		}
		for _, i := range s.imports {
			if to, ours := strings.CutPrefix(i, "sdbox/"); ours {
				require.True(t, mayImport(rooms, s.dir, to), "%s imports %s: not in the plan (test/arch/plan.txt)", s.path, to)
			}
		}
	}
}

func TestAgentAndGatewayNeverMeet(t *testing.T) {
	for _, s := range sources(t) {
		for _, i := range s.imports {
			to, ours := strings.CutPrefix(i, "sdbox/")
			if !ours {
				continue
			}
			require.False(t, under(s.dir, "agent") && under(to, "gateway"), "%s imports %s", s.path, to)
			require.False(t, under(s.dir, "gateway") && under(to, "agent"), "%s imports %s", s.path, to)
		}
	}
}

func TestOutsideLibrariesEnterByTheirDoor(t *testing.T) {
	doors := map[string][]string{}
	for _, line := range lines(doorsText) {
		module, rooms, found := strings.Cut(line, ":")
		require.True(t, found, line)
		doors[module] = expand(rooms)
	}
	for _, s := range sources(t) {
		for _, i := range s.imports {
			module := doorOf(doors, i)
			first, _, _ := strings.Cut(i, "/")
			if module == "" {
				require.False(t, strings.Contains(first, "."), "%s imports %s: a library without a door (test/arch/doors.txt)", s.path, i)
				continue
			}
			require.True(t, opens(doors[module], s), "%s imports %s: its doors are %v", s.path, i, doors[module])
		}
	}
}

// doorOf returns the longest module prefix of an import path that has a door, or "".
func doorOf(doors map[string][]string, importPath string) string {
	best := ""
	for module := range doors {
		if under(importPath, module) && len(module) > len(best) {
			best = module
		}
	}
	return best
}

func opens(doors []string, s source) bool {
	for _, d := range doors {
		switch {
		case d == "anywhere":
			return true
		case s.test || under(s.dir, "test") || isTest(s.dir):
			return true // a test may use any listed library: it is nobody's dependency
		case d == "cmd" || d == "image" || d == "internal/lab":
			if under(s.dir, d) {
				return true
			}
		case s.dir == d, isSim(s.dir) && path.Dir(s.dir) == d:
			return true
		}
	}
	return false
}

func TestEveryPackageSaysWhatItIs(t *testing.T) {
	comments := map[string]int{}
	for _, s := range sources(t) {
		if _, seen := comments[s.dir]; !seen {
			comments[s.dir] = 0
		}
		if s.file.Doc != nil && strings.TrimSpace(s.file.Doc.Text()) != "" {
			comments[s.dir]++
			name := s.file.Name.Name
			want := "Package " + name + " "
			if name == "main" {
				want = "Command " + path.Base(s.dir) + " "
			}
			require.True(t, strings.HasPrefix(s.file.Doc.Text(), want), "%s: the package comment begins %q", s.path, want)
		}
	}
	for dir, n := range comments {
		require.Equal(t, 1, n, "%s: package comments", dir)
	}
}

func TestExportedNamesAreDocumented(t *testing.T) {
	for _, s := range sources(t) {
		if s.test || s.file.Name.Name == "main" {
			continue
		}
		for _, d := range s.file.Decls {
			for _, name := range undocumented(d) {
				t.Errorf("%s: exported %s has no comment", s.path, name)
			}
		}
	}
}

func undocumented(d ast.Decl) []string {
	var out []string
	switch d := d.(type) {
	case *ast.FuncDecl:
		if d.Name.IsExported() && d.Doc == nil && (d.Recv == nil || receiverExported(d.Recv)) {
			out = append(out, d.Name.Name)
		}
	case *ast.GenDecl:
		for _, spec := range d.Specs {
			switch spec := spec.(type) {
			case *ast.TypeSpec:
				if spec.Name.IsExported() && spec.Doc == nil && d.Doc == nil {
					out = append(out, spec.Name.Name)
				}
			case *ast.ValueSpec:
				for _, n := range spec.Names {
					if n.IsExported() && spec.Doc == nil && spec.Comment == nil && d.Doc == nil {
						out = append(out, n.Name)
					}
				}
			}
		}
	}
	return out
}

func receiverExported(r *ast.FieldList) bool {
	x := r.List[0].Type
	for {
		switch v := x.(type) {
		case *ast.StarExpr:
			x = v.X
		case *ast.IndexExpr:
			x = v.X
		case *ast.Ident:
			return v.IsExported()
		default:
			return false
		}
	}
}

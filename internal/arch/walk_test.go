package arch

import (
	"go/ast"
	"go/parser"
	"go/token"
	"os"
	"path/filepath"
	"regexp"
	"strings"
	"testing"
)

// walks are the parts of docs/walk.md, and the most stops that each may have: a
// request whose way through the code grows longer is harder to follow.
var walks = map[string]int{"## One put": 25, "## One task": 33}

var stop = regexp.MustCompile("^[0-9]+\\. `([^`]+\\.go)` ((?:`[^`]+` ?)+):")

// TestTheWalkIsInTheCode holds docs/walk.md to the code: each stop's functions
// are declared in the file that it names.
func TestTheWalkIsInTheCode(t *testing.T) {
	text, err := os.ReadFile(filepath.Join(root, "docs", "walk.md"))
	if err != nil {
		t.Fatal(err)
	}
	part, stops := "", map[string]int{}
	for line := range strings.Lines(string(text)) {
		if strings.HasPrefix(line, "## ") {
			part = strings.TrimSpace(line)
		}
		if len(line) == 0 || line[0] < '0' || line[0] > '9' {
			continue
		}
		m := stop.FindStringSubmatch(line)
		if m == nil {
			t.Errorf("a stop names no file and functions: %s", line)
			continue
		}
		stops[part]++
		declared := functionsOf(t, filepath.Join(root, m[1]))
		for name := range strings.FieldsSeq(strings.ReplaceAll(m[2], "`", " ")) {
			if !declared[name] {
				t.Errorf("docs/walk.md: there is no %s in %s", name, m[1])
			}
		}
	}
	for part, most := range walks {
		if n := stops[part]; n == 0 || n > most {
			t.Errorf("docs/walk.md: %q has %d stops, it may have 1 to %d", part, n, most)
		}
	}
}

// functionsOf gives the functions of a file, methods as Type.Name.
func functionsOf(t *testing.T, path string) map[string]bool {
	file, err := parser.ParseFile(token.NewFileSet(), path, nil, parser.SkipObjectResolution)
	if err != nil {
		t.Error(err)
		return nil
	}
	names := map[string]bool{}
	for _, d := range file.Decls {
		f, ok := d.(*ast.FuncDecl)
		if !ok {
			continue
		}
		name := f.Name.Name
		if f.Recv != nil {
			of := f.Recv.List[0].Type
			if star, ok := of.(*ast.StarExpr); ok {
				of = star.X
			}
			if id, ok := of.(*ast.Ident); ok {
				name = id.Name + "." + name
			}
		}
		names[name] = true
	}
	return names
}

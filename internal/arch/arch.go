// Package arch holds the house rules that tests enforce: which package may
// import which (imports.txt at the root), one package comment each, functions
// that fit a screen, and cores that touch no clock, lock, file or socket.
package arch

import (
	"fmt"
	"go/ast"
	"go/parser"
	"go/token"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
)

// Module is the module path every import of ours starts with.
const Module = "banyan"

// Package is what the rules need to know of one directory of Go files.
type Package struct {
	Path     string // relative to the root; "." is the root package
	Files    []*ast.File
	Names    []string // file names, in the order of Files
	fset     *token.FileSet
	generate bool
}

// Load parses every non-test Go file below root, one Package a directory.
func Load(root string) ([]*Package, error) {
	byDir := map[string]*Package{}
	err := filepath.WalkDir(root, func(path string, d fs.DirEntry, err error) error {
		if err != nil {
			return err
		}
		name := d.Name()
		if d.IsDir() {
			if path != root && (strings.HasPrefix(name, ".") || name == "testdata" || hasOwnModule(path)) {
				return filepath.SkipDir
			}
			return nil
		}
		if !strings.HasSuffix(name, ".go") || strings.HasSuffix(name, "_test.go") {
			return nil
		}
		dir, err := filepath.Rel(root, filepath.Dir(path))
		if err != nil {
			return err
		}
		dir = filepath.ToSlash(dir)
		p := byDir[dir]
		if p == nil {
			p = &Package{Path: dir, fset: token.NewFileSet()}
			byDir[dir] = p
		}
		f, err := parser.ParseFile(p.fset, path, nil, parser.ParseComments|parser.SkipObjectResolution)
		if err != nil {
			return err
		}
		p.Files = append(p.Files, f)
		p.Names = append(p.Names, name)
		p.generate = p.generate || ast.IsGenerated(f)
		return nil
	})
	var all []*Package
	for _, p := range byDir {
		all = append(all, p)
	}
	slices.SortFunc(all, func(a, b *Package) int { return strings.Compare(a.Path, b.Path) })
	return all, err
}

func hasOwnModule(dir string) bool {
	_, err := os.Stat(filepath.Join(dir, "go.mod"))
	return err == nil
}

// Generated says whether the package holds generated code.
func (p *Package) Generated() bool { return p.generate }

// Imports lists the import paths of the package, sorted, each once.
func (p *Package) Imports() []string {
	var out []string
	for _, f := range p.Files {
		for _, im := range f.Imports {
			path, _ := strconv.Unquote(im.Path.Value)
			out = append(out, path)
		}
	}
	slices.Sort(out)
	return slices.Compact(out)
}

// Ours lists the packages of this module that the package imports, as paths
// relative to the root.
func (p *Package) Ours() []string {
	var out []string
	for _, path := range p.Imports() {
		switch rest, ok := strings.CutPrefix(path, Module+"/"); {
		case ok:
			out = append(out, rest)
		case path == Module:
			out = append(out, ".")
		}
	}
	return out
}

// Arrows renders the imports of all packages as imports.txt holds them.
func Arrows(pkgs []*Package) string {
	var b strings.Builder
	b.WriteString("# Which package imports which. Imports go down only.\n")
	b.WriteString("# Written by: go test ./internal/arch -update. A new arrow is a decision: read the diff.\n")
	for _, p := range pkgs {
		fmt.Fprintf(&b, "%s: %s\n", p.Path, strings.Join(p.Ours(), " "))
	}
	return b.String()
}

// LongFunctions lists functions longer than limit lines as "path.Name" → lines.
func LongFunctions(pkgs []*Package, limit int) map[string]int {
	out := map[string]int{}
	for _, p := range pkgs {
		if p.Generated() {
			continue
		}
		for _, f := range p.Files {
			for _, d := range f.Decls {
				fn, ok := d.(*ast.FuncDecl)
				if !ok || fn.Body == nil {
					continue
				}
				n := p.fset.Position(fn.End()).Line - p.fset.Position(fn.Pos()).Line + 1
				if n > limit {
					out[p.Path+"."+funcName(fn)] = n
				}
			}
		}
	}
	return out
}

func funcName(fn *ast.FuncDecl) string {
	if fn.Recv == nil || len(fn.Recv.List) == 0 {
		return fn.Name.Name
	}
	t := fn.Recv.List[0].Type
	if s, ok := t.(*ast.StarExpr); ok {
		t = s.X
	}
	if g, ok := t.(*ast.IndexExpr); ok {
		t = g.X
	}
	if id, ok := t.(*ast.Ident); ok {
		return id.Name + "." + fn.Name.Name
	}
	return fn.Name.Name
}

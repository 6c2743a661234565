package arch

import (
	"go/ast"
	"go/token"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"testing"
)

// logCall gives what a call writes to the log: level and message. The message
// is empty if it is not a literal.
func logCall(n ast.Node) (level, message string, keys []string, ok bool) {
	call, isCall := n.(*ast.CallExpr)
	if !isCall {
		return
	}
	fn, isMethod := call.Fun.(*ast.SelectorExpr)
	if !isMethod || !slices.Contains([]string{"log", "Logger", "logger"}, lastName(fn.X)) {
		return
	}
	args := call.Args
	level = strings.TrimSuffix(fn.Sel.Name, "Context")
	if level != fn.Sel.Name || level == "Log" {
		args = args[min(1, len(args)):]
	}
	if level == "Log" {
		args = args[min(1, len(args)):]
	}
	if !slices.Contains([]string{"Debug", "Info", "Warn", "Error", "Log"}, level) || len(args) == 0 {
		return
	}
	for _, a := range args[1:] {
		keys = append(keys, literal(a))
	}
	return level, literal(args[0]), keys, true
}

func lastName(x ast.Expr) string {
	switch x := x.(type) {
	case *ast.Ident:
		return x.Name
	case *ast.SelectorExpr:
		return x.Sel.Name
	}
	return ""
}

func literal(x ast.Expr) string {
	if lit, ok := x.(*ast.BasicLit); ok && lit.Kind == token.STRING {
		s, _ := strconv.Unquote(lit.Value)
		return s
	}
	return ""
}

// TestEventsAreDocumented holds docs/operations.md to what nodes may log from
// info on, and log calls to one name for errors.
func TestEventsAreDocumented(t *testing.T) {
	doc, err := os.ReadFile(filepath.Join(root, "docs", "operations.md"))
	if err != nil {
		t.Fatal(err)
	}
	seen := map[string]bool{"raft: …": true} // put together at run time
	for _, p := range load(t) {
		if strings.HasPrefix(p.Path, "internal/") || strings.HasPrefix(p.Path, "sim") {
			continue
		}
		for _, f := range p.Files {
			ast.Inspect(f, func(n ast.Node) bool {
				level, message, keys, ok := logCall(n)
				if !ok {
					return true
				}
				at := p.fset.Position(n.Pos())
				if slices.Contains(keys, "err") {
					t.Errorf("%s: the key of an error is \"error\"", at)
				}
				if level == "Debug" || message == "" {
					return true
				}
				seen[message] = true
				if !strings.Contains(string(doc), "`"+message+"`") {
					t.Errorf("%s: %q is in no list of docs/operations.md", at, message)
				}
				return true
			})
		}
	}
	for row := range strings.Lines(string(doc)) {
		cells := strings.Split(row, "|")
		if len(cells) < 4 || !slices.Contains([]string{"info", "warn", "error"}, strings.TrimSpace(cells[1])) {
			continue
		}
		for i, event := range strings.Split(cells[2], "`") {
			if i%2 == 1 && !seen[event] {
				t.Errorf("docs/operations.md lists %q, which nothing logs", event)
			}
		}
	}
}

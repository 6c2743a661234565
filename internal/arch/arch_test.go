package arch

import (
	"flag"
	"fmt"
	"go/ast"
	"maps"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"banyan"
	"banyan/internal/limitsdoc"
)

var update = flag.Bool("update", false, "rewrite imports.txt, long_functions.txt and docs/limits.md")

const (
	root      = "../.."
	longLimit = 70
	longFile  = "long_functions.txt"
)

// floors is the order of the house from the ground up: a package imports only
// packages on lower floors. Siblings on one floor do not know each other.
var floors = [][]string{
	{"."},
	{"api", "api/banyan/v1", "internal/arch", "internal/limitsdoc", "internal/apigen", "internal/modpath", "internal/film"},
	{"api/wire", "api/banyan/v1/banyanv1connect", "api/banyan/peer/v1"},
	{"api/banyan/peer/v1/peerv1connect"},
	{"obs"},
	{"obs/otlp", "obs/metric"},
	{"core/mvcc", "core/sched", "core/placement", "core/shardmap", "core/retry", "core/sweep"},
	{"core/mvcc/memrows", "core/job", "core/harness", "internal/pause"},
	{"engine/seam"},
	{"node/pki"},
	{"engine/store"},
	{"engine/store/simdisk"},
	{"engine/store/storetest"},
	{"engine/transport"},
	{"engine/transport/memnet"},
	{"engine/member"},
	{"engine/replica"},
	{"engine/blob"},
	{"engine/blob/blobtest"},
	{"node/exec"},
	{"engine/route"},
	{"layer/kv", "layer/coord", "layer/shards"},
	{"layer/work"},
	{"node/worker"},
	{"door/gate"},
	{"client"},
	{"node/server"},
	{"sim"},
	{"sim/banyansim"},
	{"cli"},
	{"cmd/banyan"},
}

// Everything in the folder core is pure: a core takes bytes, ticks and answers,
// and returns effects. Each of these imports would break that.
const coreFolder = "core/"

var forbidden = []string{"time", "sync", "sync/atomic", "os", "net", "net/http", "math/rand", "math/rand/v2", "crypto/rand", "log", "log/slog", "context", "runtime"}

func load(t *testing.T) []*Package {
	t.Helper()
	pkgs, err := Load(root)
	if err != nil {
		t.Fatal(err)
	}
	return pkgs
}

func TestImportsAreTheCommittedArrows(t *testing.T) {
	checkFile(t, filepath.Join(root, "imports.txt"), Arrows(load(t)))
}

func TestImportsGoDownOnly(t *testing.T) {
	floor := map[string]int{}
	for i, names := range floors {
		for _, n := range names {
			floor[n] = i
		}
	}
	for _, p := range load(t) {
		at, ok := floor[p.Path]
		if !ok {
			t.Errorf("package %s stands on no floor: give it one in arch_test.go", p.Path)
			continue
		}
		for _, dep := range p.Ours() {
			if below, ok := floor[dep]; !ok || below >= at {
				t.Errorf("%s imports %s, which does not stand below it", p.Path, dep)
			}
		}
	}
}

func TestCoresArePure(t *testing.T) {
	for _, p := range load(t) {
		if !strings.HasPrefix(p.Path, coreFolder) {
			continue
		}
		for _, im := range p.Imports() {
			if slices.Contains(forbidden, im) {
				t.Errorf("%s is a pure core and imports %q", p.Path, im)
			}
		}
		for _, f := range p.Files {
			ast.Inspect(f, func(n ast.Node) bool {
				if g, ok := n.(*ast.GoStmt); ok {
					t.Errorf("%s: a pure core starts a goroutine", p.fset.Position(g.Pos()))
				}
				return true
			})
		}
	}
}

func TestOnePackageComment(t *testing.T) {
	for _, p := range load(t) {
		var with []string
		for i, f := range p.Files {
			if f.Doc != nil && !ast.IsGenerated(f) {
				with = append(with, p.Names[i])
			}
		}
		if len(with) != 1 && !p.Generated() {
			t.Errorf("package %s has %d package comments %v: want one", p.Path, len(with), with)
		}
	}
}

func TestNoInitNoGlobalLogger(t *testing.T) {
	for _, p := range load(t) {
		if p.Generated() {
			continue
		}
		for _, f := range p.Files {
			for _, d := range f.Decls {
				if fn, ok := d.(*ast.FuncDecl); ok && fn.Recv == nil && fn.Name.Name == "init" {
					t.Errorf("%s: func init; wire it in server instead", p.fset.Position(fn.Pos()))
				}
			}
		}
		if slices.Contains(p.Imports(), "log") && !strings.HasPrefix(p.Path, "internal/") {
			t.Errorf("package %s imports log; take a *slog.Logger", p.Path)
		}
	}
}

// TestFunctionsFitAScreen is a ratchet: what is listed may shrink, not grow,
// and nothing new may be listed by hand.
func TestFunctionsFitAScreen(t *testing.T) {
	long := LongFunctions(load(t), longLimit)
	if *update {
		var b strings.Builder
		for _, name := range slices.Sorted(maps.Keys(long)) {
			fmt.Fprintf(&b, "%s %d\n", name, long[name])
		}
		write(t, longFile, b.String())
		return
	}
	allowed := map[string]int{}
	text, err := os.ReadFile(longFile)
	if err != nil {
		t.Fatal(err)
	}
	for line := range strings.Lines(string(text)) {
		var name string
		var n int
		if _, err := fmt.Sscan(line, &name, &n); err != nil {
			t.Fatalf("%s: %q: %v", longFile, line, err)
		}
		allowed[name] = n
	}
	for name, n := range long {
		if n > allowed[name] {
			t.Errorf("%s has %d lines, limit %d: split it", name, n, max(longLimit, allowed[name]))
		}
	}
	for name, n := range allowed {
		if long[name] < n {
			t.Errorf("%s shrank to %d: take it down in %s (-update)", name, long[name], longFile)
		}
	}
}

func TestNoReplaceInGoMod(t *testing.T) {
	text, err := os.ReadFile(filepath.Join(root, "go.mod"))
	if err != nil {
		t.Fatal(err)
	}
	for line := range strings.Lines(string(text)) {
		if strings.HasPrefix(strings.TrimSpace(line), "replace ") {
			t.Errorf("go.mod has %q: 'go install' refuses modules with replace", strings.TrimSpace(line))
		}
	}
}

func TestLimitsDoc(t *testing.T) {
	checkFile(t, filepath.Join(root, "docs", "limits.md"), limitsdoc.Render(banyan.Limits))
}

func checkFile(t *testing.T, path, want string) {
	t.Helper()
	if *update {
		write(t, path, want)
		return
	}
	got, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	if string(got) != want {
		t.Errorf("%s is out of date: go test ./internal/arch -update, and read the diff\n%s", path, firstDifference(string(got), want))
	}
}

func firstDifference(got, want string) string {
	g, w := strings.Split(got, "\n"), strings.Split(want, "\n")
	for i := range w {
		if i >= len(g) || g[i] != w[i] {
			return fmt.Sprintf("line %d: want %q", i+1, w[i])
		}
	}
	return "it has lines too many"
}

func write(t *testing.T, path, text string) {
	t.Helper()
	if err := os.WriteFile(path, []byte(text), 0o644); err != nil {
		t.Fatal(err)
	}
}

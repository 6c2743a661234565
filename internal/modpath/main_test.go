package main

import (
	"os"
	"path/filepath"
	"testing"
)

func TestRename(t *testing.T) {
	dir := t.TempDir()
	for name, c := range map[string]struct{ before, after string }{
		"go.mod":       {"module banyan\n\ngo 1.26\n", "module example.org/b\n\ngo 1.26\n"},
		"bench/go.mod": {"module banyan/bench\n\nrequire (\n\tbanyan v0.0.0\n)\n\nreplace banyan => ../\n", "module example.org/b/bench\n\nrequire (\n\texample.org/b v0.0.0\n)\n\nreplace example.org/b => ../\n"},
		"a.go":         {"import (\n\t\"banyan\"\n\t\"banyan/core/mvcc\"\n)\nvar x = \"banyan\" + \"banyan/no-import\", 1\n", "import (\n\t\"example.org/b\"\n\t\"example.org/b/core/mvcc\"\n)\nvar x = \"banyan\" + \"banyan/no-import\", 1\n"},
		"api/x.proto":  {`option go_package = "banyan/api/v1";`, `option go_package = "example.org/b/api/v1";`},
		"docs/api.md":  {"    require banyan v0.0.0\nthe banyan\n", "    require example.org/b v0.0.0\nthe banyan\n"},
	} {
		path := filepath.Join(dir, name)
		if err := os.MkdirAll(filepath.Dir(path), 0o755); err != nil {
			t.Fatal(err)
		}
		if err := os.WriteFile(path, []byte(c.before), 0o644); err != nil {
			t.Fatal(err)
		}
		defer func() {
			if got, _ := os.ReadFile(path); string(got) != c.after {
				t.Errorf("%s:\n%s\nwant\n%s", name, got, c.after)
			}
		}()
	}
	if err := rename(dir, "example.org/b"); err != nil {
		t.Fatal(err)
	}
	if err := rename(dir, "example.org/b"); err == nil {
		t.Error("the same name was taken again")
	}
}

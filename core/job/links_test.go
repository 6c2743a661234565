package job

import (
	"testing"

	banyanv1 "banyan/api/banyan/v1"
)

func TestLinkTarget(t *testing.T) {
	for _, c := range []struct{ name, target, to string }{
		{"l", "a", "a"}, {"l", "./a//b", "a/b"}, {"d/l", "../a", "a"}, {"d/l", "..", "."}, {"d/e/l", "../../x", "x"}, {"l", ".", "."},
		{"l", "..", ""}, {"l", "../a", ""}, {"d/l", "../../a", ""}, {"l", "/etc", ""}, {"l", "a/../b", ""}, {"l", "", ""},
		{"l", "a\x00", ""}, {"l", `..\a`, ""}, {"l", `C:\a`, ""}, {"l", "C:a", ""},
	} {
		to, ok := LinkTarget(c.name, c.target)
		if to != c.to || ok != (c.to != "") {
			t.Errorf("%s -> %q leads to %q, %v; want %q", c.name, c.target, to, ok, c.to)
		}
	}
}

// TestTrimSpecKeepsAllButTheFiles: what is added to a specification later stays too.
func TestTrimSpecKeepsAllButTheFiles(t *testing.T) {
	spec := &banyanv1.JobSpec{Name: "n", KeepMs: -1, KeepNewest: 3, OutputBytesMax: 5, Send: []*banyanv1.FileRef{{Path: []byte("x")}}}
	got := TrimSpec(spec)
	if len(got.Send) != 0 || got.Name != "n" || got.KeepMs != -1 || got.KeepNewest != 3 || got.OutputBytesMax != 5 || len(spec.Send) != 1 {
		t.Errorf("%v of %v", got, spec)
	}
}

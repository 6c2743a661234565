package worker

import (
	"os"
	"runtime"
	"slices"
	"testing"
)

// TestTasksFindProgramsWithoutAPath: a node that was started with an empty
// environment gives its tasks what a shell would have them look through.
func TestTasksFindProgramsWithoutAPath(t *testing.T) {
	if runtime.GOOS == "windows" {
		t.Skip("there PATH is always set")
	}
	t.Setenv("PATH", "/here") // put back afterwards
	os.Unsetenv("PATH")
	if got := inherited(); !slices.Contains(got, "PATH="+pathWithout) {
		t.Errorf("tasks get %q", got)
	}
	os.Setenv("PATH", "")
	if got := inherited(); !slices.Contains(got, "PATH=") {
		t.Errorf("an empty PATH that was given became %q", got)
	}
}

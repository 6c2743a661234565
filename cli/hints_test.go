package cli

import (
	"strings"
	"testing"

	banyanv1 "banyan/api/banyan/v1"
)

// TestAHintNamesTheFilesThatVanished: once a job.
func TestAHintNamesTheFilesThatVanished(t *testing.T) {
	f := &fakeJobs{}
	s := f.session(t)
	one, two := result(0, 0, "", ""), result(1, 0, "", "")
	for _, r := range []*banyanv1.TaskResult{one, two} {
		r.Dropped, r.DroppedCount = banyanv1.Bytes("out\x1b[2J", "b"), 3
	}
	f.follow = []*banyanv1.FollowResponse{message(2, 2, 0, succeeded, one, two)}
	_, errs, code := do(t, s, "run", "x", ":::", "1", "2")
	if code != 0 || strings.Count(errs, "gone with its directory: ") != 1 || !strings.Contains(errs, "b, 1 more: --return") || strings.Contains(errs, "\x1b") {
		t.Errorf("exit %d: %q", code, errs)
	}
}

// TestInputsInsideCodeAreWarnedOf: where a program takes them for syntax.
func TestInputsInsideCodeAreWarnedOf(t *testing.T) {
	for _, c := range []struct {
		args []string
		warn bool
	}{
		{[]string{"bash", "-c", "echo {}"}, true}, {[]string{"bash", "-lc", "echo {/.}"}, true}, {[]string{"env", "python3", "-c", "print({2})"}, true},
		{[]string{"bash", "-c", `echo "$1"`, "_", "{}"}, false}, {[]string{"bash", "-c", "echo {#}"}, false}, {[]string{"gzip", "-c", "x"}, false}, {[]string{"echo", "-lc", "{}"}, false},
	} {
		_, errs, code := do(t, nil, append(append([]string{"run", "--dry-run", "-C,", "--"}, c.args...), ":::", "a,b")...)
		if code != 0 || strings.Contains(errs, "is run as code by") != c.warn {
			t.Errorf("%q: exit %d: %s", c.args, code, errs)
		}
	}
}

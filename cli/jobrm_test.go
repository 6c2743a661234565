package cli

import (
	"fmt"
	"strings"
	"testing"
	"time"

	banyanv1 "banyan/api/banyan/v1"
)

func TestJobRemove(t *testing.T) {
	const a, b, c = "j0000000000001", "j0000000000002", "j0000000000003"
	now := time.Now().UnixMilli()
	for _, k := range []struct{ args, removed, errs string }{
		{a + " " + b, a + " " + b, "job " + a + " is removed"},
		{c, "", "job " + c + " is active"},
		{c + " " + a, a, "job " + c + " is active"}, // the others go
		{"--force " + c, c, ""},
		{"j0000000000009", "", "there is no job"},
		{"nonsense", "", "bad job id"},
		{"", "", "no job is named"},
		{"--ended " + a, "", "JOB excludes --ended"},
		{"--ended", a + " " + b, ""},
		{"--older 7d", b, ""},
		{"--older 70d", "", "there is no such job"},
		{"--older x", "", `bad --older "x"`},
	} {
		f := &fakeJobs{list: []*banyanv1.Job{
			{Id: a, State: banyanv1.JobState_JOB_STATE_SUCCEEDED, EndMs: now - 1000},
			{Id: b, State: banyanv1.JobState_JOB_STATE_FAILED, EndMs: now - 8*24*3_600_000},
			{Id: c, State: banyanv1.JobState_JOB_STATE_ACTIVE},
		}}
		s := f.session(t)
		s.stop = func() error { return nil } // one for each job
		_, errs, code := do(t, s, append([]string{"job", "rm", "--context", "x"}, strings.Fields(k.args)...)...)
		if got := strings.Join(f.removed, " "); got != k.removed || !strings.Contains(errs, k.errs) || (code == 0) != (k.removed != "" && !strings.Contains(k.errs, "active") || strings.Contains(k.errs, "no such")) {
			t.Errorf("job rm %s: exit %d, removes %q: %s", k.args, code, got, errs)
		}
	}
	f := &fakeJobs{list: []*banyanv1.Job{{Id: a, State: banyanv1.JobState_JOB_STATE_SUCCEEDED}}}
	if out, _, _ := do(t, f.session(t), "job", "rm", "-o", "json", a); !strings.HasPrefix(out, fmt.Sprintf(`{"id":%q`, a)) {
		t.Errorf("-o json: %s", out)
	}
}

package job

import (
	"strings"
	"testing"

	"google.golang.org/protobuf/proto"

	"banyan"
	banyanv1 "banyan/api/banyan/v1"
)

// TestFitOfNames: what processes and files are called is the task's own choice.
// Names of processes become text and short; a result that is too large with either
// kind of names goes without them, and says how many there were.
func TestFitOfNames(t *testing.T) {
	r := &banyanv1.TaskResult{Killed: []string{"\xff\x00x", strings.Repeat("k", 1<<20)}, KilledCount: 2}
	Fit(r)
	if _, err := proto.Marshal(r); err != nil || len(r.Killed) != 2 || len(r.Killed[1]) > 2*killedBytesMax {
		t.Errorf("%.300q, %v", r.Killed, err)
	}
	many := make([]string, 100_000)
	for i := range many {
		many[i] = strings.Repeat("k", 100)
	}
	for _, r := range []*banyanv1.TaskResult{
		{State: banyanv1.TaskState_TASK_STATE_SUCCEEDED, Killed: many, KilledCount: 9},
		{State: banyanv1.TaskState_TASK_STATE_SUCCEEDED, Dropped: banyanv1.Bytes(many...), DroppedCount: 9},
	} {
		Fit(r)
		if n := proto.Size(r); n > banyan.ResultBytesMax || r.KilledCount+r.DroppedCount != 9 {
			t.Errorf("%d bytes", n)
		}
	}
}

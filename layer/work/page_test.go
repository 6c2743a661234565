package work

import (
	"fmt"
	"testing"

	"google.golang.org/protobuf/proto"

	"banyan"
	banyanv1 "banyan/api/banyan/v1"
)

// TestPagesAreBoundedInBytes: of large jobs the newest that fit are kept, and the
// newest of the others is known, so that the next page begins there.
func TestPagesAreBoundedInBytes(t *testing.T) {
	var all []*banyanv1.Job
	l := &latestJobs{}
	for i := range 12 {
		j := &banyanv1.Job{Id: fmt.Sprintf("j%02d", i), Spec: &banyanv1.JobSpec{Env: [][]byte{make([]byte, banyan.ListBytesMax/8)}}}
		all = append(all, j)
		l.add(j)
	}
	if n := len(l.jobs); n != 7 || l.jobs[n-1].Id != "j11" || l.jobs[0].Id != "j05" || l.floor != "j04" {
		t.Errorf("%d jobs from %s on, above %s", n, l.jobs[0].Id, l.floor)
	}
	if n := fits(all); n != 7 || proto.Size(&banyanv1.ListJobsResponse{Jobs: all[:n]}) > banyan.ListBytesMax+1024 {
		t.Errorf("%d fit", n)
	}
	one := &banyanv1.Job{Spec: &banyanv1.JobSpec{Env: [][]byte{make([]byte, 2*banyan.ListBytesMax)}}}
	if n := fits([]*banyanv1.Job{one, one}); n != 1 {
		t.Errorf("%d of those that are too large alone", n)
	}
	if fits[*banyanv1.Job](nil) != 0 {
		t.Error("nothing does not fit")
	}
}

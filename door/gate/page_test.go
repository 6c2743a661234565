package gate

import (
	"strings"
	"testing"

	"google.golang.org/protobuf/proto"

	"banyan"
	banyanv1 "banyan/api/banyan/v1"
)

// TestAPageOfManyNodes: it has no gap where one node's page ended before the
// others', and no more bytes than a page may have.
func TestAPageOfManyNodes(t *testing.T) {
	page := func(more bool, kib int, ids ...string) *banyanv1.ListJobsResponse {
		r := &banyanv1.ListJobsResponse{More: more}
		for _, id := range ids {
			r.Jobs = append(r.Jobs, &banyanv1.Job{Id: id, Spec: &banyanv1.JobSpec{Env: [][]byte{make([]byte, kib<<10)}}})
		}
		return r
	}
	ids := func(r *banyanv1.ListJobsResponse) string {
		var all []string
		for _, j := range r.Jobs {
			all = append(all, j.Id)
		}
		return strings.Join(all, " ")
	}
	if r := merged([]*banyanv1.ListJobsResponse{page(true, 0, "j9", "j6"), page(false, 0, "j8", "j5", "j1")}, 10); ids(r) != "j9 j8 j6" || !r.More {
		t.Errorf("%s, more %v", ids(r), r.More)
	}
	if r := merged([]*banyanv1.ListJobsResponse{page(false, 0, "j9"), page(false, 0, "j8", "j5", "j1")}, 10); ids(r) != "j9 j8 j5 j1" || r.More {
		t.Errorf("%s, more %v", ids(r), r.More)
	}
	if r := merged([]*banyanv1.ListJobsResponse{page(false, 0, "j9"), page(false, 0, "j8", "j5")}, 2); ids(r) != "j9 j8" || !r.More {
		t.Errorf("%s, more %v", ids(r), r.More)
	}
	r := merged([]*banyanv1.ListJobsResponse{page(false, 1500, "j9", "j7"), page(false, 1500, "j8", "j6")}, 10)
	if ids(r) != "j9 j8" || !r.More || proto.Size(r) > banyan.ListBytesMax+1024 {
		t.Errorf("%s of %d bytes, more %v", ids(r), proto.Size(r), r.More)
	}
}

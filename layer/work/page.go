package work

import (
	"google.golang.org/protobuf/proto"

	"banyan"
	banyanv1 "banyan/api/banyan/v1"
)

// fits says how many messages, from the first on, make a page of at most
// banyan.ListBytesMax; one does whatever its size.
func fits[M proto.Message](list []M) int {
	bytes := 0
	for i, m := range list {
		if bytes += proto.Size(m); bytes > banyan.ListBytesMax && i > 0 {
			return i
		}
	}
	return len(list)
}

// latestJobs keeps the newest of the jobs of a shard, which come oldest first, as
// many as fit into a page.
type latestJobs struct {
	jobs  []*banyanv1.Job
	bytes int
	floor string // the newest job that did not fit: older ones of other shards are another page's
}

func (l *latestJobs) add(j *banyanv1.Job) {
	l.jobs, l.bytes = append(l.jobs, j), l.bytes+proto.Size(j)
	for l.bytes > banyan.ListBytesMax && len(l.jobs) > 1 {
		l.bytes, l.floor = l.bytes-proto.Size(l.jobs[0]), l.jobs[0].Id
		l.jobs[0], l.jobs = nil, l.jobs[1:]
	}
}

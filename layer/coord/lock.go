package coord

import (
	"cmp"

	banyanv1 "banyan/api/banyan/v1"
)

type lease struct {
	id        uint64
	partition string
	ttl       int64
	deadline  int64
	claims    []*claim

	at    int64 // where it stands among the deadlines: deadline, or earlier
	index int   // there
}

type claim struct {
	*banyanv1.Claim // as in its row; Token and Permit are set while it holds
	lock            *lock
	lease           *lease
	place           uint64 // in the queue
	held            bool   // perhaps not yet committed: then Token is 0
	ended           bool
	waiting         []uint64 // ops to answer when it holds
}

type lock struct {
	name    string
	holders []*claim // by permit
	queue   []*claim // by place
	next    uint64   // place
}

func (le *lease) claim(name string) *claim {
	for _, cl := range le.claims {
		if cl.Name == name {
			return cl
		}
	}
	return nil
}

// admits says whether a claim may hold the lock beside those who do.
func (l *lock) admits(cl *claim) bool {
	switch {
	case len(l.holders) == 0:
		return true
	case cl.Permits > 1:
		return len(l.holders) < int(cl.Permits)
	}
	return cl.Shared && l.holders[0].Shared
}

// permits is the number all claims to the lock agree on.
func (l *lock) permits() uint32 {
	if len(l.holders) > 0 {
		return l.holders[0].Permits
	}
	return l.queue[0].Permits
}

func (l *lock) holder() string {
	if len(l.holders) == 0 {
		return "nobody"
	}
	return cmp.Or(l.holders[0].Owner, "somebody")
}

// deadlines is a heap of leases by at, which never lies behind the deadline.
type deadlines []*lease

func (d deadlines) Len() int { return len(d) }
func (d deadlines) Less(i, j int) bool {
	if d[i].at != d[j].at {
		return d[i].at < d[j].at
	}
	return d[i].id < d[j].id
}
func (d deadlines) Swap(i, j int) {
	d[i], d[j] = d[j], d[i]
	d[i].index, d[j].index = i, j
}
func (d *deadlines) Push(x any) {
	le := x.(*lease)
	le.index = len(*d)
	*d = append(*d, le)
}
func (d *deadlines) Pop() any {
	old := *d
	le := old[len(old)-1]
	old[len(old)-1] = nil
	*d = old[:len(old)-1]
	return le
}

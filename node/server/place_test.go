package server

import (
	"fmt"
	"testing"
	"time"

	"banyan"
	peerv1 "banyan/api/banyan/peer/v1"
	"banyan/core/placement"
	"banyan/engine/replica"
)

func TestPlacementWaitsForLearnersThatComeNearer(t *testing.T) {
	nodes := []placement.Node{{ID: 1, Alive: true}, {ID: 2, Alive: true}, {ID: 3}}
	for what, c := range map[string]struct {
		learner banyan.NodeID
		behind  map[banyan.NodeID]uint64
		want    bool
	}{
		"new":       {2, nil, true},
		"behind":    {2, map[banyan.NodeID]uint64{2: placement.CaughtUp + 1}, true},
		"caught up": {2, map[banyan.NodeID]uint64{2: placement.CaughtUp}, false},
		"away":      {3, map[banyan.NodeID]uint64{3: 1 << 20}, false},
	} {
		if got := catchingUp(nodes, []placement.Shard{{ID: 1}, {ID: 2, Learners: []banyan.NodeID{c.learner}, Behind: c.behind}}); got != c.want {
			t.Errorf("%s: %v", what, got)
		}
	}
}

func TestOnlyALeaderSaysWhoHasAReplica(t *testing.T) {
	say := func(shards ...*peerv1.ShardInfo) *nodeInfo {
		return &nodeInfo{InfoResponse: &peerv1.InfoResponse{Shards: shards}}
	}
	for what, c := range map[string]struct {
		info        *nodeInfo
		named, sure bool
	}{
		"no answer":        {nil, false, false},
		"another shard":    {say(&peerv1.ShardInfo{Id: 4, Leader: 2, Term: 7, Voters: []uint64{1}}), false, false},
		"it leads no more": {say(&peerv1.ShardInfo{Id: 3, Leader: 1, Term: 7, Voters: []uint64{1}}), false, false},
		"of an old term":   {say(&peerv1.ShardInfo{Id: 3, Leader: 2, Term: 6, Voters: []uint64{1}}), false, false},
		"under way":        {say(&peerv1.ShardInfo{Id: 3, Leader: 2, Term: 7, Joint: true}), false, false},
		"voter":            {say(&peerv1.ShardInfo{Id: 3, Leader: 2, Term: 7, Voters: []uint64{2, 1}}), true, true},
		"learner":          {say(&peerv1.ShardInfo{Id: 3, Leader: 2, Term: 8, Voters: []uint64{2}, Learners: []uint64{1}}), true, true},
		"neither":          {say(&peerv1.ShardInfo{Id: 3, Leader: 2, Term: 7, Voters: []uint64{2}}), false, true},
	} {
		if named, sure := names(c.info, 1, 3, 2, 7); named != c.named || sure != c.sure {
			t.Errorf("%s: named %v, sure %v", what, named, sure)
		}
	}
}

// TestLeadsAreToldByWhoLeads: a term that is over, and one that has not been heard of
// yet, count for nothing; load is known of a shard that somebody else leads.
func TestLeadsAreToldByWhoLeads(t *testing.T) {
	l := newLeads()
	at := func(s int) time.Time { return l.begun.Add(time.Duration(s) * time.Second) }
	said := func(s int, st replica.Status) string {
		load, led := l.say(&st, at(s))
		return fmt.Sprint(load > 0, led)
	}
	l.hear(replica.Leadership{Shard: 1, Term: 3, Leading: true}, at(0))
	l.hear(replica.Leadership{Shard: 1, Term: 3, Leading: true}, at(5)) // said twice
	st := replica.Status{Shard: 1, Term: 3, Leading: true, Revision: 1}
	if got := said(10, st); got != "false 10000" {
		t.Error(got)
	}
	st.Revision = 100_000
	if got := said(20, st); got != "true 20000" {
		t.Error(got)
	}
	st.Term = 5 // it lost and won it since
	if got := said(20, st); got != "true 0" {
		t.Error(got)
	}
	l.hear(replica.Leadership{Shard: 1, Term: 3}, at(21))
	st.Term, st.Leading = 3, false
	if got := said(22, st); got != "true 0" {
		t.Error(got)
	}
}

// TestPatienceIsNotKept: who plans again begins to wait again.
func TestPatienceIsNotKept(t *testing.T) {
	p := patience{since: time.Now().Add(-time.Hour)}
	uneven := func() []placement.Step { return []placement.Step{{Shard: 1, Transfer: 2, Balance: true}} }
	if got := p.filter(uneven()); len(got) != 1 {
		t.Errorf("held back after an hour: %v", got)
	}
	p.forget()
	if got := p.filter(uneven()); len(got) != 0 {
		t.Errorf("moved at once: %v", got)
	}
}

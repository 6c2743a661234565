package server

import (
	"testing"

	"banyan"
	peerv1 "banyan/api/banyan/peer/v1"
	"banyan/core/placement"
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

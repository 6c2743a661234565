package server

import (
	"fmt"
	"slices"
	"strings"
	"testing"
	"time"

	"banyan"
	peerv1 "banyan/api/banyan/peer/v1"
	banyanv1 "banyan/api/banyan/v1"
)

func TestProblemsAreToldOncePerCause(t *testing.T) {
	node := func(id uint64, state string) *banyanv1.Node { return &banyanv1.Node{Id: id, State: state} }
	shard := func(id uint32, leader uint64) *banyanv1.Shard {
		return &banyanv1.Shard{Id: id, Leader: leader, Voters: []uint64{1, 2, 3}}
	}
	tell := func(nodes []*banyanv1.Node, shards ...*banyanv1.Shard) string {
		var b strings.Builder
		for _, p := range findProblems(nodes, shards, 3, time.Minute) {
			b.WriteString(p.What + "\n")
		}
		return b.String()
	}
	got := tell([]*banyanv1.Node{node(1, "alive"), node(2, "draining"), node(3, "dead")}, shard(0, 1), shard(1, 2), shard(2, 0), shard(3, 1))
	want := "node n2 is draining and takes no new work\nnode n3 (, ) is dead\n" +
		"the root shard and shards 1, 3 have 2 of 3 voters: n3 cannot be reached\nshard 2 has no leader: n3 cannot be reached\n"
	if order := strings.Split(got, "\n"); len(order) != 5 {
		t.Errorf("told:\n%s\nwant:\n%s", got, want)
	}
	for line := range strings.Lines(want) {
		if !strings.Contains(got, line) {
			t.Errorf("%q is missing in:\n%s", line, got)
		}
	}
	for down, remedy := range map[string]string{"alive": "wait two seconds", "dead": "bring back a majority"} {
		var told string
		for _, p := range findProblems([]*banyanv1.Node{node(1, "alive"), node(2, down), node(3, "dead")}, []*banyanv1.Shard{shard(0, 0)}, 3, time.Minute) {
			told += p.What + ": " + p.Remedy + "\n"
		}
		if !strings.Contains(told, remedy) {
			t.Errorf("with node 3 dead and node 2 %s, told:\n%s", down, told)
		}
	}
	if got := tell([]*banyanv1.Node{node(1, "draining"), node(2, "draining"), node(3, "dead")}, shard(0, 1)); !strings.Contains(got, "no node takes work") {
		t.Errorf("told:\n%s", got)
	}
	if got := tell([]*banyanv1.Node{node(1, "alive"), node(2, "alive"), node(3, "alive")}, shard(0, 1)); got != "" {
		t.Errorf("all is well, but told:\n%s", got)
	}
	for learners, copied := range map[uint64]bool{0: false, 2: true} {
		lone := shard(0, 1)
		lone.Voters = []uint64{1}
		if learners != 0 {
			lone.Learners, lone.Behind = []uint64{learners}, map[uint64]uint64{learners: 0}
		}
		got := tell([]*banyanv1.Node{node(1, "alive"), node(2, "alive")}, lone)
		if strings.Contains(got, "one disk only") == copied || !strings.Contains(got, "losing that machine stops the cluster") || strings.Contains(got, "copy") != copied {
			t.Errorf("one voter, learner %d, but told:\n%s", learners, got)
		}
	}
	few := shard(1, 1)
	few.Voters = []uint64{1}
	if got := tell([]*banyanv1.Node{node(1, "alive"), node(2, "alive"), node(3, "alive")}, shard(0, 1), few); got != "shard 1 has 1 of 3 voters\nshard 1 has what was written on one disk only, that of n1\n" {
		t.Errorf("one of three voters, but told:\n%s", got)
	}
	if got := tell([]*banyanv1.Node{node(1, "alive"), node(2, "alive"), node(3, "leaving")}, few); strings.Contains(got, "voters") {
		t.Errorf("one voter is all that two nodes can have, but told:\n%s", got)
	}
}

// TestOneDiskIsTold, whoever is listed beside it. (Case N6.)
func TestOneDiskIsTold(t *testing.T) {
	node := func(id uint64, state string) *banyanv1.Node { return &banyanv1.Node{Id: id, State: state} }
	told := func(sh *banyanv1.Shard, nodes ...*banyanv1.Node) bool {
		return slices.ContainsFunc(findProblems(nodes, []*banyanv1.Shard{sh}, 3, time.Minute), func(p *banyanv1.Problem) bool {
			return strings.HasSuffix(p.What, "has what was written on one disk only, that of n1")
		})
	}
	sh := &banyanv1.Shard{Id: 1, Leader: 1, Voters: []uint64{1}, Learners: []uint64{2}, Behind: map[uint64]uint64{1: 0, 2: 0}}
	if !told(sh, node(1, "alive"), node(2, "dead"), node(3, "alive")) {
		t.Error("its copy's node is dead, and nobody says so")
	}
	sh.Learners, sh.Behind[3] = []uint64{2, 3}, behindMax+1
	if !told(sh, node(1, "alive"), node(2, "dead"), node(3, "alive")) {
		t.Error("its copy has yet to catch up, and nobody says so")
	}
	sh.Behind[3] = 1
	if told(sh, node(1, "alive"), node(2, "dead"), node(3, "alive")) {
		t.Error("there is a copy")
	}
}

// TestLostWritesAreTold by status.
func TestLostWritesAreTold(t *testing.T) {
	nodes := []*banyanv1.Node{{Id: 2, State: "alive"}}
	got := contactProblems(nodes, map[banyan.NodeID]*nodeInfo{2: {InfoResponse: &peerv1.InfoResponse{Shards: []*peerv1.ShardInfo{{Id: 4, DiffersFrom: 1}}}}})
	if len(got) != 1 || !got[0].Critical || !strings.HasPrefix(got[0].What, "shard 4 has committed other entries on node n2 than on n1") {
		t.Errorf("told %v", got)
	}
}

// TestAPausedNodeIsNotItsDisk: each is told by itself.
func TestAPausedNodeIsNotItsDisk(t *testing.T) {
	nodes := []*banyanv1.Node{{Id: 1, State: "alive"}}
	for want, info := range map[string]*peerv1.InfoResponse{
		"":                           {PausedMs: pausedMax},
		"node n1 waits for its disk": {Stalled: true},
		"node n1 was paused, or had no CPU, for 2000 ms of the last 10s": {PausedMs: 2000},
	} {
		var got []string
		for _, p := range contactProblems(nodes, map[banyan.NodeID]*nodeInfo{1: {InfoResponse: info}}) {
			got = append(got, p.What)
		}
		if strings.Join(got, "; ") != want {
			t.Errorf("%v: told %q, want %q", info, got, want)
		}
	}
}

func TestFewPlacesAreTold(t *testing.T) {
	for want, info := range map[string]*peerv1.InfoResponse{
		"":                    {FilesMax: 65536, Connections: 1, ConnectionsMax: 10},
		"only 200 files open": {FilesMax: 200, Connections: 1, ConnectionsMax: 50},
		"has 10 connections":  {FilesMax: 65536, Connections: 10, ConnectionsMax: 10},
		"no place":            {Connections: 1, ConnectionsMax: 10, CrowdedMs: 1000},
	} {
		got := ""
		placesProblems(1, info, func(_, format string, args ...any) { got += fmt.Sprintf(format, args...) })
		if (want == "") != (got == "") || !strings.Contains(got, want) {
			t.Errorf("%v: %q", info, got)
		}
	}
}

func TestTasksThatMayReadTheNodeAreAProblem(t *testing.T) {
	for _, c := range []struct {
		info *peerv1.InfoResponse
		say  string
	}{
		{&peerv1.InfoResponse{}, ""}, // an older node does not say
		{&peerv1.InfoResponse{Isolation: "namespaces"}, ""},
		{&peerv1.InfoResponse{Isolation: "landlock", IsolationWhy: "namespaces: no"}, ""},
		{&peerv1.InfoResponse{Isolation: "none"}, "tasks on node n1 can read its keys"},
		{&peerv1.InfoResponse{Isolation: "none", IsolationWhy: "no"}, "tasks on node n1 can read its keys: no"},
		{&peerv1.InfoResponse{Isolation: "none", IsolationWhy: "no", IsolationRefused: true}, "node n1 takes no tasks, for they cannot be kept from it: no"},
	} {
		got := ""
		isolationProblems(1, c.info, func(remedy, format string, args ...any) { got += fmt.Sprintf(format, args...) })
		if got != c.say {
			t.Errorf("%v: %q, want %q", c.info, got, c.say)
		}
	}
}

package server

import (
	"slices"
	"strings"
	"testing"
	"time"

	"banyan"
	"banyan/engine/store"
)

func replicaOf(shard banyan.ShardID, term, index uint64, voters ...banyan.NodeID) Found {
	return Found{Shard: shard, Voters: voters, LastTerm: term, LastIndex: index}
}

func surveyOf(node banyan.NodeID, fs ...Found) *Survey {
	return &Survey{Version: recoveryVersion, Cluster: "c", Node: node, Shards: shardsTo(len(fs) - 1),
		Members: map[banyan.NodeID]string{1: "a", 2: "b", 3: "c", 4: "d", 5: "e"}, Found: fs}
}

func TestRecoveryKeepsTheLongestLog(t *testing.T) {
	n1 := surveyOf(1, replicaOf(0, 5, 100, 1, 2, 3, 4, 5), replicaOf(1, 4, 200, 1, 3, 4), replicaOf(2, 3, 10, 1, 2, 5))
	n2 := surveyOf(2, replicaOf(0, 5, 99, 1, 2, 3, 4, 5), replicaOf(2, 3, 10, 1, 2, 5))
	n2.Shards = shardsTo(2)
	n2.Found = append(n2.Found, replicaOf(1, 5, 7, 2, 4, 5)) // a later term counts more than a longer log
	lost := []banyan.NodeID{3, 4, 5}
	var texts []string
	for _, plan := range [][2]*Survey{{n1, n2}, {n2, n1}} {
		r, err := PlanRecovery(plan[0], []*Survey{plan[1]}, lost, time.UnixMilli(1))
		if err != nil {
			t.Fatal(err)
		}
		if len(r.Shards) != 2 || r.Shards[0].Shard != 0 || r.Shards[0].Keep != 1 || r.Shards[1].Shard != 1 || r.Shards[1].Keep != 2 {
			t.Errorf("%+v: want shard 0 from n1, shard 1 from n2, and shard 2, of which two of three are left, untouched", r.Shards)
		}
		texts = append(texts, r.Text())
	}
	if !strings.Contains(texts[0], "going on here: 0 from entry 100 of term 5; on other survivors: 1") {
		t.Errorf("what is remembered: %s", texts[0])
	}
}

func TestRecoveryRefuses(t *testing.T) {
	n1 := func() *Survey { return surveyOf(1, replicaOf(0, 1, 11, 1, 2, 3)) }
	n2 := func() *Survey { return surveyOf(2, replicaOf(0, 1, 11, 1, 2, 3)) }
	other := n2()
	other.Cluster = "d"
	for name, c := range map[string]struct {
		own    *Survey
		others []*Survey
		lost   []banyan.NodeID
		says   string
	}{
		"a majority is there":    {n1(), []*Survey{n2()}, []banyan.NodeID{3, 4, 5}, "every shard has a majority"},
		"a node nobody asked":    {n1(), nil, []banyan.NodeID{3, 4, 5}, "node n2 (b) is neither"},
		"a lost node's survey":   {n1(), []*Survey{n2()}, []banyan.NodeID{2, 3, 4, 5}, "no lost node"},
		"an unknown node":        {n1(), []*Survey{n2()}, []banyan.NodeID{3, 4, 5, 9}, "not known"},
		"another cluster":        {n1(), []*Survey{other}, []banyan.NodeID{3, 4, 5}, "of one cluster"},
		"the same survey, twice": {n1(), []*Survey{n1()}, []banyan.NodeID{2, 3, 4, 5}, "two surveys"},
	} {
		if _, err := PlanRecovery(c.own, c.others, c.lost, time.UnixMilli(1)); err == nil || !strings.Contains(err.Error(), c.says) {
			t.Errorf("%s: %v", name, err)
		}
	}
	joint := replicaOf(0, 1, 11, 1, 2, 3)
	joint.Outgoing = []banyan.NodeID{1, 4, 5}
	if hasMajority(joint, []banyan.NodeID{4, 5}) {
		t.Error("a change of voters under way needs a majority of both")
	}
}

func TestRecoverySaysWhatIsGone(t *testing.T) {
	n1 := surveyOf(1, replicaOf(0, 1, 11, 1, 2, 3))
	n1.Shards = shardsTo(1)
	r, err := PlanRecovery(n1, nil, []banyan.NodeID{2, 3, 4, 5}, time.UnixMilli(1))
	if err != nil || len(r.Shards) != 2 || r.Shards[1].Shard != 1 || r.Shards[1].Keep != 0 {
		t.Fatalf("%+v, %v: shard 1 is on no node that is left", r, err)
	}
	st, err := store.Open(t.TempDir(), store.Options{})
	if err != nil {
		t.Fatal(err)
	}
	defer st.Close()
	if _, err := r.toCreate(st); !banyan.IsKind(err, banyan.Conflict) || !strings.Contains(err.Error(), "--create-empty n1") {
		t.Errorf("without a word about it: %v", err)
	}
	r.CreateOn = 2
	if ids, err := r.toCreate(st); err != nil || ids != nil || !strings.Contains(r.Text(), "created empty on n2: 1") {
		t.Errorf("on another node: %v, %v, %s", ids, err, r.Text())
	}
	r.CreateOn = 1
	if ids, err := r.toCreate(st); err != nil || !slices.Equal(ids, []banyan.ShardID{1}) || !strings.Contains(r.Text(), "created empty here: 1") {
		t.Errorf("on this node: %v, %v, %s", ids, err, r.Text())
	}
	if err := st.Bootstrap([]banyan.ShardID{1}, 1); err != nil {
		t.Fatal(err)
	}
	if _, err := r.toCreate(st); !banyan.IsKind(err, banyan.Conflict) {
		t.Errorf("where it was once: %v", err)
	}
}

func TestARecoveryIsKnownAfterwards(t *testing.T) {
	c := Config{Dir: t.TempDir()}
	if at, err := RecoveredBefore(c, []banyan.NodeID{2}); err != nil || !at.IsZero() {
		t.Errorf("nothing was recovered here: %v, %v", at, err)
	}
	if err := writeRecoveries(c, []*Recovery{{TimeMs: 7, Lost: []banyan.NodeID{2, 3}}}); err != nil {
		t.Fatal(err)
	}
	if at, err := RecoveredBefore(c, []banyan.NodeID{3, 2}); err != nil || at.UnixMilli() != 7 {
		t.Errorf("recovered at 7: %v, %v", at, err)
	}
	if at, err := RecoveredBefore(c, []banyan.NodeID{2, 4}); err != nil || !at.IsZero() {
		t.Errorf("the loss of n4 was not: %v, %v", at, err)
	}
}

// shardsTo lists the root shard and the data shards up to n.
func shardsTo(n int) (ids []banyan.ShardID) {
	for id := range n + 1 {
		ids = append(ids, banyan.ShardID(id))
	}
	return ids
}

package placement

import (
	"slices"
	"testing"

	"banyan"
)

func TestDiskMarks(t *testing.T) {
	const gib = 1 << 30
	for _, c := range []struct{ total, reserve, mark int64 }{
		{100 * gib, 0, 2 * gib}, {20 * gib, 0, gib}, {gib, 0, gib / 10}, {0, 0, 0}, {100 * gib, -1, 0}, {100 * gib, 5 * gib, 5 * gib}, {10 * gib, 5 * gib, gib},
	} {
		if got := DiskMark(c.total, c.reserve); got != c.mark {
			t.Errorf("of %d bytes with reserve %d: %d, want %d", c.total, c.reserve, got, c.mark)
		}
	}
	level := DiskWell
	for _, c := range []struct {
		free int64
		want DiskLevel
	}{{100, DiskWell}, {99, DiskLow}, {124, DiskLow}, {125, DiskWell}, {49, DiskCritical}, {62, DiskCritical}, {63, DiskLow}, {101, DiskLow}} {
		if level = DiskLevelOf(c.free, 100, level); level != c.want {
			t.Errorf("%d free of mark 100: level %d, want %d", c.free, level, c.want)
		}
	}
	if DiskLevelOf(0, 0, DiskWell) != DiskWell {
		t.Error("a disk without a mark is low")
	}
}

func TestRoom(t *testing.T) {
	for _, c := range []struct {
		voters, sound []banyan.NodeID
		want          bool
	}{
		{ids(1), ids(1), true}, {ids(1), nil, false}, {ids(1, 2), ids(1), false}, {ids(1, 2, 3), ids(1, 3), true},
		{ids(1, 2, 3), ids(1), false}, {ids(1, 2, 3, 4, 5), ids(1, 2, 3), true}, {ids(1, 2, 3, 4, 5), ids(1, 2, 9), false},
	} {
		if got := Room(c.voters, func(id banyan.NodeID) bool { return slices.Contains(c.sound, id) }); got != c.want {
			t.Errorf("voters %v, sound %v: %v", c.voters, c.sound, got)
		}
	}
}

// TestALowNode gives up what it leads, and what it holds where that can go.
func TestALowNode(t *testing.T) {
	for name, c := range map[string]struct {
		change func(ns []Node)
		n      int
		want   []banyan.NodeID
	}{
		"a spare node":            {func(ns []Node) { ns[0].Low = true }, 4, ids(2, 3, 4)},
		"none":                    {func(ns []Node) { ns[0].Low = true }, 3, ids(1, 2, 3)},
		"the spare is tight":      {func(ns []Node) { ns[0].Low, ns[3].Tight = true, true }, 4, ids(1, 2, 3)},
		"two low, two spare":      {func(ns []Node) { ns[0].Low, ns[1].Low = true, true }, 5, ids(3, 4, 5)},
		"all low, and one is not": {func(ns []Node) { ns[0].Low, ns[1].Low, ns[2].Low = true, true, true }, 4, ids(1, 2, 3)},
	} {
		ns := nodes(c.n)
		c.change(ns)
		shards := []Shard{{ID: 1, Leader: 1, Voters: ids(1, 2, 3)}}
		settle(t, ns, shards, DefaultPolicy())
		s := shards[0]
		if name != "all low, and one is not" {
			if ns[s.Leader-1].Low {
				t.Errorf("%s: %v leads", name, s.Leader)
			}
			if !slices.Equal(s.Voters, c.want) {
				t.Errorf("%s: voters %v, want %v", name, s.Voters, c.want)
			}
		} else if !slices.Contains(s.Voters, 4) || ns[s.Leader-1].Low {
			t.Errorf("%s: voters %v led by %v: nothing has moved to where there is room", name, s.Voters, s.Leader)
		}
		if len(s.Learners) > 0 {
			t.Errorf("%s: learners %v", name, s.Learners)
		}
	}
}

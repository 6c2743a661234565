package server

import (
	"cmp"
	"context"
	"fmt"
	"slices"
	"strings"
	"sync"
	"time"

	"banyan"
	"banyan/core/placement"
	"banyan/door/gate"
	"banyan/engine/blob"
	"banyan/engine/replica"
	"banyan/internal/pause"
)

// How often disks are looked at: as soon as one could have filled up at
// fillBytesPerSecond, within bounds.
const (
	fillBytesPerSecond = 2 << 30
	diskLookMin        = 100 * time.Millisecond
	diskLookLow        = 250 * time.Millisecond // below a mark
	diskLookMax        = 5 * time.Second
	roomIdle           = 5 * time.Second // between looks at shards while no disk is low
)

// diskState is how the fullest disk of a node is.
type diskState struct {
	path        string
	free, total int64
	mark        int64 // the first
	level       placement.DiskLevel
}

// disks watches the file systems of a node's directories.
type disks struct {
	dirs    []string
	reserve int64
	space   func(dir string) (free, total int64)

	mu     sync.Mutex
	levels map[string]placement.DiskLevel
	now    diskState
}

func newDisks(c Config) *disks {
	d := &disks{dirs: []string{c.Dir, c.storeDir(), c.blobDir(), c.workDir()}, reserve: c.DiskReserveBytes, space: diskSpace, levels: map[string]placement.DiskLevel{}}
	if c.Embedded { // one who works alone on a machine decides that alone
		d.reserve = -1
	}
	if c.disk != nil {
		d.space = c.disk.space
	}
	d.look()
	return d
}

// look takes in how the disks are; before is what was known.
func (d *disks) look() (before, now diskState) {
	d.mu.Lock()
	defer d.mu.Unlock()
	before = d.now
	var worst diskState
	for i, dir := range d.dirs {
		s := diskState{path: dir}
		if s.free, s.total = d.space(dir); s.total == 0 {
			continue
		}
		s.mark = placement.DiskMark(s.total, d.reserve)
		s.level = placement.DiskLevelOf(s.free, s.mark, d.levels[dir])
		d.levels[dir] = s.level
		if i == 0 || cmp.Or(cmp.Compare(s.level, worst.level), cmp.Compare(worst.free-worst.mark, s.free-s.mark)) > 0 {
			worst = s
		}
	}
	d.now = worst
	return before, worst
}

func (d *disks) state() diskState {
	d.mu.Lock()
	defer d.mu.Unlock()
	return d.now
}

// low says whether this node takes nothing new.
func (d *disks) low() bool { return d.state().level != placement.DiskWell }

// next is when to look again.
func (s diskState) next() time.Duration {
	if s.level != placement.DiskWell {
		return diskLookLow
	}
	return min(max(time.Duration(float64(s.free-s.mark)/fillBytesPerSecond*float64(time.Second)), diskLookMin), diskLookMax)
}

func (s diskState) String() string {
	return fmt.Sprintf("%s has %d MiB left, and its low-water mark is %d MiB", s.path, s.free>>20, s.mark>>20)
}

// watchSpace tells the others, and this node's worker, when a disk becomes low.
// Below the second mark it stops an attempt a look, the one with the largest
// output first.
func (n *Server) watchSpace(ctx context.Context) error {
	for ctx.Err() == nil {
		before, now := n.disks.look()
		if now.level != before.level || !n.told {
			n.told = true
			n.tellSpace(before, now)
		}
		if now.level == placement.DiskCritical {
			if what := n.worker.StopLargest(fmt.Sprintf("stopped because the disk of node %v is nearly full: %v", n.file.Node, now)); what != "" {
				n.log.Warn("stopped an attempt: the disk is nearly full", "attempt", what, "disk", now.String())
			}
		}
		_ = pause.For(ctx, now.next())
	}
	return nil
}

func (n *Server) tellSpace(before, now diskState) {
	switch {
	case now.level > before.level:
		n.log.Warn("a disk is low", "disk", now.String())
	case now.level == placement.DiskWell && before.level != placement.DiskWell:
		n.log.Info("there is room on the disk again", "disk", now.String())
	}
	if n.members != nil {
		n.members.SetDisk(uint8(now.level))
	}
	n.drainWorker()
}

// drainWorker has the worker take attempts, or none.
func (n *Server) drainWorker() {
	self, _ := n.nodes.get(n.file.Node)
	n.worker.Drain(self.Draining || n.disks.low())
}

// diskLevel is a node's, by gossip.
func (n *Server) diskLevel(id banyan.NodeID) placement.DiskLevel {
	if id == n.file.Node {
		return n.disks.state().level
	}
	if n.members == nil {
		return placement.DiskWell
	}
	m, _ := n.members.Get(id)
	return placement.DiskLevel(m.Disk)
}

// room is why a shard that this node leads takes nothing new from users; nil:
// it does.
func (n *Server) room(shard banyan.ShardID) error {
	if full := n.crowded.Load(); full != nil {
		return (*full)[shard]
	}
	return nil
}

// keepRoom keeps what room says.
func (n *Server) keepRoom(ctx context.Context) error {
	changes, stop := n.members.Watch()
	defer stop()
	paths := map[banyan.NodeID]string{}
	for ctx.Err() == nil {
		wait := roomIdle
		if low := n.lowNodes(); len(low) == 0 {
			n.crowded.Store(nil)
			clear(paths)
		} else if statuses, err := n.host.Statuses(ctx); err == nil {
			wait = diskLookLow
			n.namePaths(ctx, low, paths)
			full := crowdedShards(statuses, func(id banyan.NodeID) bool { return low[id] }, n.gone, paths)
			n.crowded.Store(&full)
		}
		t := time.NewTimer(wait)
		select {
		case <-ctx.Done():
		case <-t.C:
		case <-changes:
			_ = pause.For(ctx, diskLookMin/2)
		}
		t.Stop()
	}
	return nil
}

// lowNodes are those whose disks are below a mark.
func (n *Server) lowNodes() map[banyan.NodeID]bool {
	out := map[banyan.NodeID]bool{}
	for _, row := range n.nodes.list() {
		if n.diskLevel(row.ID) != placement.DiskWell {
			out[row.ID] = true
		}
	}
	return out
}

func (n *Server) gone(id banyan.NodeID) bool {
	state := n.stateOf(id)
	return state == "dead" || state == "left"
}

// namePaths asks low nodes once which of their disks it is.
func (n *Server) namePaths(ctx context.Context, low map[banyan.NodeID]bool, paths map[banyan.NodeID]string) {
	for id := range low {
		switch {
		case paths[id] != "":
		case id == n.file.Node:
			paths[id] = n.disks.state().path
		default:
			if info := n.askLeader(ctx, id); info != nil {
				paths[id] = info.DiskPath
			}
		}
	}
}

// crowdedShards says which shards led here take nothing new from users.
func crowdedShards(statuses []replica.Status, low, gone func(banyan.NodeID) bool, paths map[banyan.NodeID]string) map[banyan.ShardID]error {
	out := map[banyan.ShardID]error{}
	for i := range statuses {
		st := &statuses[i]
		if !st.Leading || !slices.ContainsFunc(st.Voters, low) {
			continue
		}
		if placement.Room(st.Voters, func(id banyan.NodeID) bool { return !low(id) && !gone(id) }) {
			continue
		}
		var names []string
		for _, id := range st.Voters {
			if low(id) {
				names = append(names, strings.TrimSpace(id.String()+" "+paths[id]))
			}
		}
		out[st.Shard] = banyan.Errorf(banyan.Exhausted, "shard %d takes no new data: too many of its disks are below their low-water mark (%s): free space there, delete keys ('banyan kv delete', which goes on), or join a node with room; 'banyan status' tells how much is missing", st.Shard, strings.Join(names, ", "))
	}
	return out
}

// roomyBlobs refuses uploads when too few nodes have room. Outputs of tasks do
// not come this way.
type roomyBlobs struct {
	*blob.Replicated
	n *Server
}

var _ gate.Blobs = roomyBlobs{}

// PutCopies is Replicated's.
func (b roomyBlobs) PutCopies(ctx context.Context, h banyan.Hash, data []byte) (int, error) {
	keepers := b.n.keepers()
	sound := slices.DeleteFunc(slices.Clone(keepers), func(id banyan.NodeID) bool { return b.n.diskLevel(id) != placement.DiskWell })
	if len(sound) < len(keepers) && len(sound) <= min(b.n.cfg.Replication, len(keepers))/2 {
		return 0, banyan.Errorf(banyan.Exhausted, "too many of the cluster's disks are low to take files: free space ('banyan status' says where), or join a node with room")
	}
	return b.Replicated.PutCopies(ctx, h, data)
}

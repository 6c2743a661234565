package blob

import (
	"context"
	"slices"
	"sync"
	"testing"

	"banyan"

	"github.com/cockroachdb/pebble/v2/vfs"
)

// cluster is some Replicated stores that reach each other directly.
type cluster struct {
	mu    sync.Mutex
	nodes map[banyan.NodeID]*member
	alive []banyan.NodeID // what every node believes
}

type member struct {
	*Replicated
	fs   *vfs.MemFS
	down bool // does not answer
	hang bool // answers never
}

func newCluster(t *testing.T, n int) *cluster {
	c := &cluster{nodes: map[banyan.NodeID]*member{}}
	for i := range n {
		id := banyan.NodeID(i + 1)
		fs := vfs.NewMem()
		disk, err := OpenDisk("blobs", fs)
		if err != nil {
			t.Fatal(err)
		}
		c.nodes[id] = &member{fs: fs, Replicated: New(Config{Self: id, Local: disk, Peers: c, Nodes: c.believed})}
		c.alive = append(c.alive, id)
	}
	return c
}

func (c *cluster) believed() []banyan.NodeID {
	c.mu.Lock()
	defer c.mu.Unlock()
	return slices.Clone(c.alive)
}

func (c *cluster) believe(ids ...banyan.NodeID) {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.alive = ids
}

func (c *cluster) set(id banyan.NodeID, down, hang bool) {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.nodes[id].down, c.nodes[id].hang = down, hang
}

func (c *cluster) reach(ctx context.Context, id banyan.NodeID) (*member, error) {
	c.mu.Lock()
	m := *c.nodes[id]
	c.mu.Unlock()
	if m.hang {
		<-ctx.Done()
		return nil, waitErr(ctx)
	}
	if m.down {
		return nil, banyan.Errorf(banyan.Unavailable, "%v is down", id)
	}
	return &m, nil
}

func (c *cluster) PutBlob(ctx context.Context, to banyan.NodeID, epoch uint64, h banyan.Hash, data []byte) error {
	m, err := c.reach(ctx, to)
	if err != nil {
		return err
	}
	return m.PeerPut(ctx, epoch, h, data)
}

func (c *cluster) GetBlob(ctx context.Context, from banyan.NodeID, h banyan.Hash) ([]byte, error) {
	m, err := c.reach(ctx, from)
	if err != nil {
		return nil, err
	}
	return m.PeerGet(ctx, h)
}

func (c *cluster) HasBlobs(ctx context.Context, at banyan.NodeID, t Touch, hs []banyan.Hash) ([]bool, error) {
	m, err := c.reach(ctx, at)
	if err != nil {
		return nil, err
	}
	return m.PeerHas(t, hs)
}

// holders gives the nodes that have a good copy on disk.
func (c *cluster) holders(t *testing.T, h banyan.Hash) (ids []banyan.NodeID) {
	t.Helper()
	for id, m := range c.nodes {
		if _, err := m.Local.read(h); err == nil {
			ids = append(ids, id)
		}
	}
	slices.Sort(ids)
	return ids
}

// damage flips a bit of a node's copy.
func (c *cluster) damage(t *testing.T, id banyan.NodeID, h banyan.Hash) {
	t.Helper()
	d := c.nodes[id].Local
	data, err := d.read(h)
	if err != nil {
		t.Fatal(err)
	}
	data[len(data)/2] ^= 1
	if err := d.writeFile(d.path(h), data); err != nil {
		t.Fatal(err)
	}
}

package blob

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"log/slog"
	"slices"
	"sync/atomic"
	"time"

	"banyan"
	"banyan/internal/pause"
	"banyan/obs/metric"

	"golang.org/x/sync/errgroup"
)

const (
	// DefaultFactor is how many nodes keep each chunk, if there are as many.
	DefaultFactor = 3

	copyTimeout  = 30 * time.Second // one chunk to or from one node
	lateCopies   = 2 * time.Second  // waited for the last copies once most are there
	retryPause   = 250 * time.Millisecond
	hedgeAfter   = time.Second // then a read asks the next node too
	hedgeMax     = 3           // nodes asked at once
	settleWithin = 10 * time.Second
)

// Peers asks the blob stores of other nodes. Each call may block and ends with
// ctx; errors carry their kind (NotFound from GetBlob means: that node has no
// good copy).
type Peers interface {
	PutBlob(ctx context.Context, to banyan.NodeID, epoch uint64, h banyan.Hash, data []byte) error
	GetBlob(ctx context.Context, from banyan.NodeID, h banyan.Hash) ([]byte, error)
	// HasBlobs answers for each hash, in order.
	HasBlobs(ctx context.Context, at banyan.NodeID, t Touch, hs []banyan.Hash) ([]bool, error)
}

// Touch says whether a question for chunks comes from somebody who will refer to
// those that are there, and which epoch he knew before.
type Touch struct {
	Refer bool
	Epoch uint64
}

// Config is what a Replicated is made of.
type Config struct {
	Self   banyan.NodeID
	Local  *Disk
	Peers  Peers                  // nil on a node that will never have peers
	Nodes  func() []banyan.NodeID // the nodes believed alive, Self among them
	Factor int                    // copies wanted; 0: DefaultFactor
	Logger *slog.Logger           // nil: none
	// Metrics counts repairs; nil: none.
	Metrics *metric.Set

	// CheckEvery is how often Run looks whether nodes came or went; 0: 10 s.
	CheckEvery time.Duration
	// ScrubEvery is how often Run reads every chunk here and checks it; 0: a day.
	ScrubEvery time.Duration
}

// Replicated keeps each chunk on the first Factor nodes of its rank, or on as
// many as are alive.
type Replicated struct {
	Config
	meter meter
	thin  atomic.Bool // a chunk was stored with fewer copies than wanted: Run mends it
}

var _ Store = (*Replicated)(nil)

// New builds a Replicated. It starts nothing; Run does the background work.
func New(c Config) *Replicated {
	if c.Factor == 0 {
		c.Factor = DefaultFactor
	}
	if c.Logger == nil {
		c.Logger = slog.New(slog.DiscardHandler)
	}
	if c.CheckEvery == 0 {
		c.CheckEvery = 10 * time.Second
	}
	if c.ScrubEvery == 0 {
		c.ScrubEvery = 24 * time.Hour
	}
	r := &Replicated{Config: c, meter: newMeter(c.Metrics)}
	c.Metrics.Read(r.readMeter)
	return r
}

// plan gives every live node in the order of h's rank, and how many of them
// are meant to have it.
func (r *Replicated) plan(h banyan.Hash) (ranked []banyan.NodeID, want int) {
	ranked = Rank(h, r.Nodes())
	if len(ranked) == 0 {
		ranked = []banyan.NodeID{r.Self}
	}
	return ranked, min(r.Factor, len(ranked))
}

// most is how many copies must be on disk before a chunk counts as kept.
func most(want int) int { return want/2 + 1 }

// Put stores a chunk and returns when it is on every node meant to have it, or,
// if some of those do not answer, on others in their place; in the end a
// majority of the wanted copies must be on disk. While there are fewer, it
// tries again with the nodes then alive, until ctx ends or ten seconds passed.
func (r *Replicated) Put(ctx context.Context, h banyan.Hash, data []byte) error {
	_, err := r.PutCopies(ctx, h, data)
	return err
}

// PutCopies is Put that also says how many copies were made.
func (r *Replicated) PutCopies(ctx context.Context, h banyan.Hash, data []byte) (copies int, err error) {
	if err := check(h, data); err != nil {
		return 0, err
	}
	ctx, cancel := context.WithTimeout(ctx, settleWithin+copyTimeout)
	defer cancel()
	giveUp := time.Now().Add(settleWithin)
	for {
		ranked, want := r.plan(h)
		copies, err := r.spread(ctx, ranked, want, h, data)
		if copies >= most(want) {
			if copies < want {
				r.thin.Store(true)
			}
			return copies, nil
		}
		if ctx.Err() != nil {
			return copies, waitErr(ctx)
		}
		if time.Now().After(giveUp) || banyan.IsKind(err, banyan.Exhausted) {
			kind := banyan.Unavailable
			if banyan.IsKind(err, banyan.Exhausted) {
				kind = banyan.Exhausted
			}
			return copies, banyan.Errorf(kind, "blob %v: only %d of %d copies could be written: %w", h, copies, want, err)
		}
		_ = pause.For(ctx, retryPause)
	}
}

// spread writes to the first want nodes at once, and to the next in rank for
// each that fails. It returns when want copies are made, nobody is left to ask,
// most copies are made and the rest are late, or other nodes are alive than
// ranked says.
func (r *Replicated) spread(ctx context.Context, ranked []banyan.NodeID, want int, h banyan.Hash, data []byte) (copies int, err error) {
	ctx, cancel := context.WithTimeout(ctx, copyTimeout)
	results := make(chan error, len(ranked))
	next, flying := 0, 0
	defer func() { // data is the caller's again only when nobody reads it
		cancel()
		for ; flying > 0; flying-- {
			<-results //nolint:errcheck // too late to count
		}
	}()
	start := func() {
		to := ranked[next]
		next++
		flying++
		go func() { results <- r.putAt(ctx, to, h, data) }()
	}
	look := time.NewTicker(retryPause)
	defer look.Stop()
	var late <-chan time.Time
	for {
		for next < len(ranked) && copies+flying < want {
			start()
		}
		if flying == 0 {
			return copies, err
		}
		if copies >= most(want) && late == nil {
			t := time.NewTimer(lateCopies)
			defer t.Stop()
			late = t.C
		}
		select {
		case e := <-results:
			flying--
			if e == nil {
				copies++
			} else {
				err = e
			}
		case <-late:
			return copies, err
		case <-look.C:
			if now, _ := r.plan(h); !slices.Equal(now, ranked) {
				return copies, cmp.Or(err, errNodesChanged)
			}
		}
	}
}

var errNodesChanged = errors.New("nodes came or went meanwhile")

func (r *Replicated) putAt(ctx context.Context, to banyan.NodeID, h banyan.Hash, data []byte) error {
	var err error
	if to == r.Self {
		err = r.Local.Put(ctx, h, data)
	} else {
		err = r.Peers.PutBlob(ctx, to, r.Epoch(), h, data)
	}
	if err != nil {
		return fmt.Errorf("%v: %w", to, err)
	}
	return nil
}

// Get reads the copy here, or asks the other nodes in the order of rank, the
// next one too when one is slow. A copy that is missing or bad where it is
// meant to be is mended on the way.
func (r *Replicated) Get(ctx context.Context, h banyan.Hash) ([]byte, error) {
	data, err := r.Local.Get(ctx, h)
	if err == nil || ctx.Err() != nil {
		return data, err
	}
	bad := banyan.IsKind(err, banyan.Corrupt)
	if bad {
		r.meter.bad.Inc()
		r.Logger.Error("a blob on this node's disk went bad; mending it from another node", "blob", h, "error", err)
	}
	ranked, want := r.plan(h)
	mine := slices.Index(ranked, r.Self)
	data, perr := r.fetch(ctx, r.others(h), h)
	if perr != nil {
		if bad && banyan.IsKind(perr, banyan.NotFound) {
			return nil, err
		}
		return nil, perr
	}
	if bad || (mine >= 0 && mine < want) {
		if err := r.Local.Put(ctx, h, data); err != nil { // the caller has its bytes; Run tries again
			r.thin.Store(true)
			r.Logger.Warn("could not keep a copy of a blob that belongs here", "blob", h, "error", err)
		}
	}
	return data, nil
}

// fetch asks nodes in order and gives the first good copy.
func (r *Replicated) fetch(ctx context.Context, nodes []banyan.NodeID, h banyan.Hash) ([]byte, error) {
	ctx, cancel := context.WithTimeout(ctx, copyTimeout)
	defer cancel()
	type answer struct {
		data []byte
		err  error
	}
	answers := make(chan answer, len(nodes))
	next, flying := 0, 0
	defer func() {
		cancel()
		for ; flying > 0; flying-- {
			<-answers
		}
	}()
	var missing, failed error
	for {
		if next < len(nodes) && flying < hedgeMax {
			from := nodes[next]
			next++
			flying++
			go func() {
				data, err := r.getAt(ctx, from, h)
				answers <- answer{data, err}
			}()
		}
		if flying == 0 {
			switch {
			case failed != nil:
				return nil, banyan.Errorf(banyan.Unavailable, "blob %v: no node that answers has a good copy: %w", h, failed)
			case missing != nil:
				return nil, missing
			}
			return nil, notFound(h, "on any node")
		}
		hedge := time.NewTimer(hedgeAfter)
		select {
		case a := <-answers:
			flying--
			switch {
			case a.err == nil:
				hedge.Stop()
				return a.data, nil
			case banyan.IsKind(a.err, banyan.NotFound):
				missing = notFound(h, "on any node")
			default:
				failed = a.err
			}
		case <-hedge.C:
		}
		hedge.Stop()
	}
}

func (r *Replicated) getAt(ctx context.Context, from banyan.NodeID, h banyan.Hash) ([]byte, error) {
	data, err := r.Peers.GetBlob(ctx, from, h)
	if err != nil {
		return nil, fmt.Errorf("%v: %w", from, err)
	}
	if err := check(h, data); err != nil {
		return nil, banyan.Errorf(banyan.Corrupt, "%v sent other bytes than blob %v", from, h)
	}
	return data, nil
}

// Epoch is the latest epoch of sweeping that this node knows. Whoever stores
// chunks, or asks which are missing, and then refers to them says which it was
// before he began.
func (r *Replicated) Epoch() uint64 { return r.Local.Epoch() }

// Missing gives those of hs that are kept on fewer nodes than count as safe: a
// caller that is about to store them need only store these, and may refer to
// the others. At most banyan.BlobHashesMax hashes.
func (r *Replicated) Missing(ctx context.Context, hs []banyan.Hash) ([]banyan.Hash, error) {
	if len(hs) > banyan.BlobHashesMax {
		return nil, tooMany(len(hs))
	}
	nodes := r.Nodes()
	answers := make([][]bool, len(nodes))
	var asked errgroup.Group
	asked.SetLimit(askedAtOnce)
	t := Touch{Refer: true, Epoch: r.Epoch()}
	for i, n := range nodes {
		asked.Go(func() error {
			answers[i], _ = r.hasAt(ctx, n, hs, t) // what cannot be asked counts as not there; storing again is harmless
			return nil
		})
	}
	_ = asked.Wait() // none fails
	if ctx.Err() != nil {
		return nil, waitErr(ctx)
	}
	copies := make(map[banyan.Hash]int, len(hs))
	for _, has := range answers {
		for i := range has {
			if has[i] {
				copies[hs[i]]++
			}
		}
	}
	safe := most(min(r.Factor, max(1, len(nodes))))
	return slices.DeleteFunc(slices.Clone(hs), func(h banyan.Hash) bool { return copies[h] >= safe }), nil
}

// askedAtOnce is how many nodes are asked at once what they have.
const askedAtOnce = 16

func (r *Replicated) hasAt(ctx context.Context, n banyan.NodeID, hs []banyan.Hash, t Touch) ([]bool, error) {
	if n == r.Self {
		return r.PeerHas(t, hs)
	}
	ctx, cancel := context.WithTimeout(ctx, copyTimeout)
	defer cancel()
	has, err := r.Peers.HasBlobs(ctx, n, t, hs)
	if err == nil && len(has) != len(hs) {
		err = errors.New("blob: an answer for other hashes than asked")
	}
	return has, err
}

// PeerPut answers another node's PutBlob: it stores the chunk here.
func (r *Replicated) PeerPut(ctx context.Context, epoch uint64, h banyan.Hash, data []byte) error {
	return r.Local.PutAs(ctx, epoch, h, data)
}

// PeerGet answers another node's GetBlob with the copy here. A bad copy is
// mended from a third node first; it was moved aside when it was read, so nodes
// with bad copies do not ask each other in circles.
func (r *Replicated) PeerGet(ctx context.Context, h banyan.Hash) ([]byte, error) {
	data, err := r.Local.Get(ctx, h)
	if banyan.IsKind(err, banyan.Corrupt) {
		r.meter.bad.Inc()
		r.Logger.Error("a blob on this node's disk went bad; mending it from another node", "blob", h, "error", err)
		return r.Get(ctx, h)
	}
	return data, err
}

// PeerHas answers another node's HasBlobs.
func (r *Replicated) PeerHas(t Touch, hs []banyan.Hash) ([]bool, error) {
	if len(hs) > banyan.BlobHashesMax {
		return nil, tooMany(len(hs))
	}
	if t.Refer {
		return r.Local.Check(t.Epoch, hs)
	}
	return r.Local.HasAll(hs)
}

func tooMany(n int) error {
	return banyan.Errorf(banyan.Exhausted, "%d hashes in one request: ask about at most %d at once", n, banyan.BlobHashesMax)
}

package blob

import (
	"context"
	"slices"
	"time"

	"banyan"
)

// Mended counts what one repair pass did.
type Mended struct {
	Checked int // chunks on this node
	Copied  int // copies made on other nodes
	Bad     int // copies here that did not match their hash
	Failed  int // chunks that still lack copies; the next pass tries again
}

// Run keeps the chunks of this node on as many nodes as they should be, until
// ctx ends. It makes a pass when the set of nodes changed and stayed so for one
// check, when a chunk was stored with too few copies or a pass left some
// undone, and, reading every chunk, once per ScrubEvery.
func (r *Replicated) Run(ctx context.Context) error {
	if err := r.Local.tidy(); err != nil {
		r.Logger.Warn("could not remove half-written blobs", "error", err)
	}
	tick := time.NewTicker(r.CheckEvery)
	defer tick.Stop()
	seen := slices.Sorted(slices.Values(r.Nodes()))
	mended := seen // as of the last pass
	scrubbed := time.Now()
	for {
		select {
		case <-ctx.Done():
			return nil
		case <-tick.C:
		}
		now := slices.Sorted(slices.Values(r.Nodes()))
		stable := slices.Equal(now, seen)
		seen = now
		scrub := time.Since(scrubbed) >= r.ScrubEvery
		thin := r.thin.Swap(false)
		if !scrub && !thin && (!stable || slices.Equal(now, mended)) {
			continue
		}
		done, err := r.Repair(ctx, scrub)
		r.meter.mended(done)
		if ctx.Err() != nil {
			return nil
		}
		if err != nil || done.Failed > 0 {
			r.thin.Store(true)
			r.Logger.Warn("blobs that lack copies will be tried again", "chunks", done.Failed, "error", err)
		}
		if done.Copied > 0 || done.Bad > 0 {
			r.Logger.Info("mended blobs", "checked", done.Checked, "copied", done.Copied, "bad", done.Bad)
		}
		mended = now
		if scrub {
			scrubbed = time.Now()
		}
	}
}

// Repair makes one pass over the chunks of this node: those meant to be on
// other nodes and missing there are copied; with scrub each is read first and,
// if bad, mended from another node.
func (r *Replicated) Repair(ctx context.Context, scrub bool) (Mended, error) {
	var m Mended
	err := r.Local.List(ctx, func(hs []banyan.Hash) error {
		for part := range slices.Chunk(hs, banyan.BlobHashesMax) {
			r.repairPart(ctx, part, scrub, &m)
			if ctx.Err() != nil {
				return waitErr(ctx)
			}
		}
		return nil
	})
	return m, err
}

func (r *Replicated) repairPart(ctx context.Context, hs []banyan.Hash, scrub bool, m *Mended) {
	wanted := map[banyan.NodeID][]banyan.Hash{}
	for _, h := range hs {
		if r.Local.Condemned(h) {
			continue // a copy of it elsewhere would only have to be removed there, too
		}
		m.Checked++
		if scrub {
			if _, err := r.Local.Get(ctx, h); banyan.IsKind(err, banyan.Corrupt) {
				m.Bad++
				r.meter.bad.Inc()
				if data, err := r.fetch(ctx, r.others(h), h); err != nil || r.Local.Put(ctx, h, data) != nil {
					m.Failed++
					continue
				}
			}
		}
		ranked, want := r.plan(h)
		for _, n := range ranked[:want] {
			if n != r.Self {
				wanted[n] = append(wanted[n], h)
			}
		}
	}
	for n, hs := range wanted {
		has, err := r.hasAt(ctx, n, hs, Touch{})
		if err != nil {
			m.Failed += len(hs)
			continue
		}
		for i, h := range hs {
			if has[i] || ctx.Err() != nil {
				continue
			}
			data, err := r.Local.Get(ctx, h)
			if err == nil {
				err = r.putAt(ctx, n, h, data)
			}
			if err != nil {
				m.Failed++
			} else {
				m.Copied++
			}
		}
	}
}

func (r *Replicated) others(h banyan.Hash) []banyan.NodeID {
	ranked, _ := r.plan(h)
	return slices.DeleteFunc(ranked, func(n banyan.NodeID) bool { return n == r.Self })
}

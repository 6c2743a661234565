package work

import (
	"context"
	"errors"
	"slices"

	"banyan"
	banyanv1 "banyan/api/banyan/v1"
	"banyan/core/job"
	"banyan/core/mvcc"
	"banyan/core/sweep"
)

// Chunks is what a controller asks of the blob store before rows refer to it.
type Chunks interface {
	// Epoch is the latest epoch of sweeping that this node knows; Learn tells it
	// one that somebody else knew.
	Epoch() uint64
	Learn(epoch uint64)
	// Missing gives those of some chunks, at most banyan.BlobHashesMax, that the
	// cluster does not have, and touches the others.
	Missing(ctx context.Context, hs []banyan.Hash) ([]banyan.Hash, error)
	// Restore has the cluster keep a chunk that Missing has given, from whichever
	// node still has it. NotFound says that none has.
	Restore(ctx context.Context, h banyan.Hash) error
	// Files reads a list of files.
	Files(ctx context.Context, l *banyanv1.FileList) ([]*banyanv1.FileRef, error)
	// Current is the epoch as the root shard has it.
	Current(ctx context.Context) (uint64, error)
}

// Marks calls fn with the hash of every chunk that the rows of a shard refer to
// within its bounds. r reads them at one revision.
func Marks(ctx context.Context, r Reader, shard banyan.ShardID, lo, hi []byte, chunks Chunks, fn func(hash []byte) error) error {
	var spec struct { // the pieces of one list of sent files
		id     banyan.JobID
		pieces [][]byte
	}
	tell := func(refs *job.References) error {
		for _, l := range refs.Lists {
			files, err := chunks.Files(ctx, l)
			if err != nil {
				return err
			}
			refs.Files(files)
		}
		for _, h := range refs.Chunks {
			if err := fn(h); err != nil {
				return err
			}
		}
		return nil
	}
	sent := func() error {
		files, err := job.DecodeSend(spec.pieces)
		if spec.pieces = nil; err != nil {
			return err
		}
		var refs job.References
		refs.Files(files)
		return tell(&refs)
	}
	first, last := slotsOf(lo, hi)
	for slot := first; ; slot++ {
		next, err := nextSlot(ctx, r, shard, slot, last)
		if err != nil || next > last {
			return err
		}
		slot = next
		err = scan(ctx, r, shard, layerOf(slot, banyan.LayerJob), func(row mvcc.Row) error {
			if id, ok := job.SendOf(row.Key); ok {
				if id != spec.id && len(spec.pieces) > 0 {
					if err := sent(); err != nil {
						return err
					}
				}
				spec.id, spec.pieces = id, append(spec.pieces, row.Value)
			}
			return nil
		})
		if err == nil {
			err = sent()
		}
		if err != nil {
			return err
		}
		err = scan(ctx, r, shard, layerOf(slot, banyan.LayerResult), func(row mvcc.Row) error {
			res, err := job.DecodeResult(row.Value)
			if err != nil || !job.Refers(res) {
				return err
			}
			var refs job.References
			refs.Result(res)
			return tell(&refs)
		})
		if err != nil {
			return err
		}
	}
}

// nextSlot gives the first slot from one on of which there are rows; one behind
// the last if there are none. Most slots of a small shard are empty.
func nextSlot(ctx context.Context, r Reader, shard banyan.ShardID, slot, last int) (int, error) {
	if slot > last {
		return slot, nil
	}
	rows, _, err := r.Range(ctx, shard, mvcc.Query{Lo: banyan.SlotKey(slot), Hi: banyan.SlotKey(last + 1), Limit: 1, KeysOnly: true})
	if err != nil || len(rows) == 0 {
		return last + 1, err
	}
	return int(rows[0].Key[0])<<8 | int(rows[0].Key[1]), nil
}

// slotsOf gives the first and the last slot of which a shard may have rows.
func slotsOf(lo, hi []byte) (first, last int) {
	slot := func(key []byte) int {
		key = append(slices.Clone(key), 0, 0)
		return int(key[0])<<8 | int(key[1])
	}
	first, last = slot(lo), banyan.Slots-1
	if len(hi) > 0 {
		last = min(last, slot(hi))
	}
	return first, last
}

func layerOf(slot int, layer banyan.Layer) mvcc.Query {
	lo := append(banyan.SlotKey(slot), byte(layer))
	return mvcc.Query{Lo: lo, Hi: mvcc.PrefixEnd(lo)}
}

// FenceOf reads the fence of a shard, 0 if it has none.
func FenceOf(ctx context.Context, r Reader, shard banyan.ShardID) (uint64, error) {
	row, err := get(ctx, r, shard, job.FenceKey())
	if err != nil || row == nil {
		return 0, err
	}
	return job.Fence(row.Value)
}

// Raise is the command that raises the fence of a shard to an epoch.
func Raise(epoch uint64) *mvcc.Command {
	return &mvcc.Command{Muts: []mvcc.Mutation{{Op: mvcc.Max, Key: job.FenceKey(), Number: int64(epoch)}}}
}

// fresh is the condition that what was touched in an epoch may be referred to.
func fresh(touched uint64) mvcc.Cond {
	return mvcc.Cond{Key: job.FenceKey(), Test: mvcc.ValueLess, Value: job.FenceBelow(touched)}
}

// Stale says whether a batch was refused because the chunks that it refers to were
// touched too long ago. Then they have to be touched again, Touched to be called,
// and the command to be committed again under another request id.
func (b *Batch) Stale(res mvcc.Result) bool {
	return b.fence > 0 && !res.OK && !res.Stale && res.FailedCond == b.fence-1
}

// Results are those in the batch that refer to chunks.
func (b *Batch) Results() (out []*banyanv1.TaskResult) {
	for _, rep := range b.reports {
		if rep.refers() {
			out = append(out, rep.result)
		}
	}
	return out
}

// Touched says that what the results refer to was touched by somebody who knew an
// epoch before; gone are results of which something is no longer there.
func (b *Batch) Touched(epoch uint64, gone []*banyanv1.TaskResult) {
	for _, rep := range b.reports {
		if !rep.refers() {
			continue
		}
		rep.epoch = epoch
		if !slices.Contains(gone, rep.result) {
			continue
		}
		job.Bereave(rep.result)
		was := rep.row
		rep.row = encode(rep.run, rep.at, rep.result)
		for i := range b.Cmd.Muts {
			if m := &b.Cmd.Muts[i]; len(m.Value) > 0 && &m.Value[0] == &was[0] {
				m.Value = rep.row
			}
		}
	}
	b.Cmd.Conds[b.fence-1] = fresh(epoch)
}

// refers says whether the row that a report makes refers to chunks.
func (rep *report) refers() bool { return rep.final && rep.result != nil && job.Refers(rep.result) }

// fenced adds the condition on which a batch may refer to chunks, if it does.
func (b *Batch) fenced() {
	oldest, refers := uint64(0), false
	for _, rep := range b.reports {
		if rep.refers() && (!refers || rep.epoch < oldest) {
			oldest, refers = rep.epoch, true
		}
	}
	if refers {
		b.Cmd.Conds = append(b.Cmd.Conds, fresh(oldest))
		b.fence = len(b.Cmd.Conds)
	}
}

// retouch touches what the results of a refused batch refer to.
func (s *Service) retouch(ctx context.Context, l *lead, b *Batch) error {
	epoch, err := s.abreast(ctx, l.Shard)
	if err != nil {
		return err
	}
	var gone []*banyanv1.TaskResult
	for _, res := range b.Results() {
		var refs job.References
		refs.Result(res)
		missing, err := s.touchAll(ctx, &refs)
		if err != nil {
			return err
		}
		if missing {
			s.cfg.Logger.Error("a result lost what it refers to", "job", b.Key(res).Job, "task", res.Task+1)
			gone = append(gone, res)
		}
	}
	b.Touched(epoch, gone)
	return nil
}

// Key names the attempt of a result in the batch.
func (b *Batch) Key(res *banyanv1.TaskResult) (k Key) {
	for _, rep := range b.reports {
		if rep.result == res {
			k = rep.at.key
		}
	}
	return k
}

// touchAll touches chunks and those of the files in lists.
func (s *Service) touchAll(ctx context.Context, refs *job.References) (missing bool, err error) {
	for _, l := range refs.Lists {
		files, err := s.cfg.Chunks.Files(ctx, l)
		if banyan.IsKind(err, banyan.NotFound) {
			return true, nil
		}
		if err != nil {
			return false, err
		}
		refs.Files(files)
	}
	for some := range slices.Chunk(refs.Chunks, banyan.BlobHashesMax) {
		hs := make([]banyan.Hash, len(some))
		for i, h := range some {
			if len(h) != len(hs[i]) {
				return true, nil
			}
			hs[i] = banyan.Hash(h)
		}
		few, err := s.cfg.Chunks.Missing(ctx, hs)
		if err != nil {
			return false, err
		}
		for _, h := range few {
			if err := s.cfg.Chunks.Restore(ctx, h); banyan.IsKind(err, banyan.NotFound) {
				return true, nil
			} else if err != nil {
				return false, err
			}
		}
	}
	return false, nil
}

// abreast gives an epoch that this node knows now and that is fresh in a shard,
// which it gives a fence if it has none: one that came of a split has not.
func (s *Service) abreast(ctx context.Context, shard banyan.ShardID) (uint64, error) {
	row, err := get(ctx, s.cfg.Led, shard, job.FenceKey())
	if err != nil {
		return 0, err
	}
	fence := uint64(0)
	if row != nil {
		if fence, err = job.Fence(row.Value); err != nil {
			return 0, err
		}
	} else {
		if fence, err = s.cfg.Chunks.Current(ctx); err != nil {
			return 0, err
		}
		cmd := Raise(fence)
		if _, err := s.cfg.Committer.Commit(ctx, shard, cmd); err != nil {
			return 0, err
		}
	}
	if epoch := s.cfg.Chunks.Epoch(); !sweep.Fresh(fence, epoch) {
		s.cfg.Chunks.Learn(fence)
	}
	return s.cfg.Chunks.Epoch(), nil
}

// errFenced says that what a job was sent has to be touched again.
var errFenced = errors.New("what a job was sent was touched too long ago")

// sends touches what a job is sent and gives the epoch before.
func (x *submission) sends(ctx context.Context) (epoch uint64, err error) {
	if epoch, err = x.s.abreast(ctx, x.shard); err != nil {
		return 0, err
	}
	for _, f := range x.spec.Send {
		refs := job.References{Chunks: f.Chunks}
		missing, err := x.s.touchAll(ctx, &refs)
		if err != nil {
			return 0, err
		}
		if missing {
			return 0, banyan.Errorf(banyan.NotFound, "the cluster does not have what the file %q holds, or no longer: send it again", job.Text(string(f.Path), banyan.NameBytesMax))
		}
	}
	return epoch, nil
}

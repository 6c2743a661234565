package worker

import (
	"context"
	"slices"
	"time"

	"banyan"
	banyanv1 "banyan/api/banyan/v1"
	"banyan/core/job"
)

// Chunks is what a worker asks of the blob store about what its results refer to;
// see core/sweep.
type Chunks interface {
	// Epoch is the latest epoch of sweeping that this node knows.
	Epoch() uint64
	// Missing touches chunks, at most banyan.BlobHashesMax, and gives those that
	// are on too few nodes.
	Missing(ctx context.Context, hs []banyan.Hash) ([]banyan.Hash, error)
}

// pinMax is how long it may take to touch what results refer to.
const pinMax = time.Minute

func (w *Worker) epoch() uint64 {
	if w.cfg.Chunks == nil {
		return 0
	}
	return w.cfg.Chunks.Epoch()
}

// pin touches what results refer to that wait to be recorded, once in each epoch:
// no row refers to it yet, and without it they would be removed where a
// controller cannot be reached for long.
func (w *Worker) pin(ctx context.Context) {
	epoch := w.epoch()
	w.mu.Lock()
	defer w.mu.Unlock()
	if w.pinning || epoch == 0 {
		return
	}
	results := w.core.Unpinned(epoch)
	if len(results) == 0 {
		return
	}
	w.pinning = true
	w.attempts.Go(func() {
		ctx, cancel := context.WithTimeout(ctx, pinMax)
		defer cancel()
		for k, res := range results {
			if err := w.touch(ctx, res); err != nil {
				w.cfg.Logger.Debug("what a result refers to was not touched, tried again", "job", k.Job, "task", k.Task+1, "error", err)
				delete(results, k)
			}
		}
		w.do(func() {
			w.pinning = false
			for k := range results {
				w.core.Touched(k, epoch)
			}
		})
	})
}

// touch touches what a result refers to. What is on too few nodes has still been
// touched where it is.
func (w *Worker) touch(ctx context.Context, res *banyanv1.TaskResult) error {
	var refs job.References
	refs.Result(res)
	for _, l := range refs.Lists {
		files, err := w.readList(ctx, l)
		if err != nil {
			return err
		}
		refs.Files(files)
	}
	hs, err := hashes(refs.Chunks)
	if err != nil {
		return err
	}
	for some := range slices.Chunk(hs, banyan.BlobHashesMax) {
		few, err := w.cfg.Chunks.Missing(ctx, some)
		if err != nil {
			return err
		}
		if len(few) > 0 {
			return banyan.Errorf(banyan.Unavailable, "%d chunks are on too few nodes", len(few))
		}
	}
	return nil
}

package work

import (
	"cmp"
	"context"
	"slices"

	"banyan"
	"banyan/core/job"
	"banyan/core/mvcc"
)

// How much a keeper does at once. It comes again soon while there is more.
const (
	keepStep  = 512 // jobs
	keepBatch = 64  // in one command
)

// Committer commits a command at the leader of a shard (seam.DB).
type Committer interface {
	Commit(ctx context.Context, shard banyan.ShardID, cmd *mvcc.Command) (mvcc.Result, error)
}

// Keeper removes the jobs that have ended and are not to be kept any longer. What
// is kept holds for the whole cluster, so one keeper looks at the rows of all
// shards: no shard has a share of its own that another one could need. It runs
// beside the leader of the root shard; the rows of a job are removed by the leader
// of its shard.
type Keeper struct {
	Reader    Reader // of any shard, from its leader
	Committer Committer
	Shards    func() []banyan.ShardID // those with jobs
	ShardOf   func(partition []byte) banyan.ShardID
}

// Pass removes some of what is to go, the oldest first. more says that there is
// more of it.
func (k *Keeper) Pass(ctx context.Context, keep job.Keep, nowMs int64) (removed int, more bool, err error) {
	var past []job.Past
	for _, shard := range k.Shards() {
		lo, hi := job.EndedRange()
		err := scan(ctx, k.Reader, shard, mvcc.Query{Lo: lo, Hi: hi, EachSlot: true}, func(row mvcc.Row) error {
			e, err := job.DecodePast(row.Key, row.Value, row.Mod)
			past = append(past, e)
			return err
		})
		if err != nil {
			return 0, false, err
		}
	}
	gone := job.Expired(past, keep, nowMs)
	if len(gone) > keepStep {
		gone, more = gone[:keepStep], true
	}
	slices.SortStableFunc(gone, func(a, b job.Past) int { return cmp.Compare(k.shard(a), k.shard(b)) })
	for len(gone) > 0 {
		n := 1
		for n < min(len(gone), keepBatch) && k.shard(gone[n]) == k.shard(gone[0]) {
			n++
		}
		r, err := k.forget(ctx, gone[:n])
		if removed += r; err != nil {
			return removed, true, err
		}
		gone = gone[n:]
	}
	return removed, more, nil
}

func (k *Keeper) shard(e job.Past) banyan.ShardID { return k.ShardOf([]byte(e.ID)) }

// forget takes the first step of the removal of jobs of one shard. One that was
// resumed or removed since its row was read is left out.
func (k *Keeper) forget(ctx context.Context, jobs []job.Past) (removed int, err error) {
	for left := slices.Clone(jobs); len(left) > 0; {
		cmd := &mvcc.Command{Request: banyan.NewRequestID()}
		for _, e := range left {
			one := Forget(e.ID, e.Mod)
			cmd.Conds, cmd.Muts = append(cmd.Conds, one.Conds...), append(cmd.Muts, one.Muts...)
		}
		res, err := k.Committer.Commit(ctx, k.shard(left[0]), cmd)
		if err != nil {
			return 0, err
		}
		if res.OK {
			return len(left), nil
		}
		if res.FailedCond < 0 || res.FailedCond >= len(left) {
			return 0, banyan.Errorf(banyan.Unavailable, "shard %d did not remove %d jobs: it is asked again", k.shard(left[0]), len(left))
		}
		left = slices.Delete(left, res.FailedCond, res.FailedCond+1)
	}
	return 0, nil
}

package server

import (
	"context"
	"encoding/json"
	"slices"
	"time"

	"banyan"
	"banyan/core/job"
	"banyan/core/mvcc"
	"banyan/engine/route"
	"banyan/internal/pause"
	"banyan/layer/work"
	"banyan/node/pki"
)

// How often jobs that have ended are looked at: whether some are to go.
const (
	keepSoon  = 2 * time.Second // after the start, and while there is more to remove
	keepEvery = 5 * time.Minute
	keepDue   = 24 * time.Hour // a node inside a command looks before it ends, if it has not for so long
	keepLast  = time.Second    // and no longer than this
	keepNote  = time.Hour      // how far the clock goes on before its row is written
)

// keepRow is where the clock stands that jobs are removed by: see job.KeepClock.
type keepRow struct {
	ClockMs int64 `json:"clock_ms"`
	PassMs  int64 `json:"pass_ms"` // the time of day of the latest look at the jobs
}

// keeping is the clock as this node has moved it.
type keeping struct {
	ms int64
	at time.Time // when, by the clock that does not jump; zero: the row says how it stands
}

// anyRows reads the rows of shards wherever their leader is.
type anyRows struct{ *route.Router }

// Range is work.Reader's.
func (r anyRows) Range(ctx context.Context, shard banyan.ShardID, q mvcc.Query) ([]mvcc.Row, bool, error) {
	res, err := r.Read(ctx, shard, route.ReadQuery{Key: q.Lo, End: q.Hi, Limit: q.Limit, EachSlot: q.EachSlot, KeysOnly: q.KeysOnly})
	return res.Rows, res.More, err
}

func (n *Server) jobKeeper() *work.Keeper {
	return &work.Keeper{Reader: anyRows{n.router}, Committer: n.router, Shards: n.router.DataShards, ShardOf: n.router.ShardOf}
}

// keepJobs removes jobs that have ended and are not to be kept any longer. It runs
// on every node and acts only beside the root shard's leader.
func (n *Server) keepJobs(ctx context.Context) error {
	var clock keeping
	for wait := keepSoon; ctx.Err() == nil; {
		_ = pause.For(ctx, wait)
		if leader, _ := n.host.Leader(banyan.RootShard); leader != n.file.Node {
			clock, wait = keeping{}, keepSoon // the next term begins with what the row says
			continue
		}
		more, err := n.keepOnce(ctx, &clock)
		if err != nil && ctx.Err() == nil {
			n.log.Debug("jobs that have ended were not looked at, tried again", "error", err)
		}
		if wait = keepEvery; more || err != nil {
			wait = keepSoon
		}
	}
	return nil
}

// keepOnce looks at all jobs that have ended, and removes some of those that are
// to go; more says that there are more.
func (n *Server) keepOnce(ctx context.Context, clock *keeping) (more bool, err error) {
	row, mod, err := n.readKeep(ctx)
	if err != nil {
		return false, err
	}
	had, passed := row.ClockMs, int64(-1)
	if !clock.at.IsZero() {
		had, passed = clock.ms, time.Since(clock.at).Milliseconds()
	}
	now := n.wallOfMost(ctx)
	clock.ms, clock.at = job.KeepClock(had, now.UnixMilli(), passed), time.Now()
	removed, more, err := n.jobKeeper().Pass(ctx, n.keep(), clock.ms)
	if removed > 0 {
		n.log.Info("jobs that had ended are removed", "jobs", removed, "more", more)
	}
	if err == nil && !n.cfg.Embedded {
		err = n.forgetOld(ctx, clock.ms)
	}
	if d := clock.ms - row.ClockMs; err != nil || d >= 0 && d < keepNote.Milliseconds() {
		return more, err
	}
	value, err := json.Marshal(keepRow{ClockMs: clock.ms, PassMs: now.UnixMilli()})
	if err != nil {
		return more, err
	}
	_, err = n.router.Commit(ctx, banyan.RootShard, &mvcc.Command{
		Conds: []mvcc.Cond{{Key: []byte(keepKey), Test: mvcc.ModEquals, Number: uint64(mod)}},
		Muts:  []mvcc.Mutation{{Op: mvcc.Put, Key: []byte(keepKey), Value: value}},
	})
	return more, err
}

func (n *Server) readKeep(ctx context.Context) (row keepRow, mod banyan.Revision, err error) {
	res, err := n.router.Read(ctx, banyan.RootShard, route.ReadQuery{Key: []byte(keepKey)})
	if err != nil || len(res.Rows) == 0 {
		return row, 0, err
	}
	if err := json.Unmarshal(res.Rows[0].Value, &row); err != nil {
		return row, 0, banyan.Errorf(banyan.Corrupt, "row %s: %w", keepKey, err)
	}
	return row, res.Rows[0].Mod, nil
}

// wallOfMost is the time of day in the middle of what the nodes say.
func (n *Server) wallOfMost(ctx context.Context) time.Time {
	if n.cfg.Embedded {
		return time.Now()
	}
	var offsets []time.Duration
	for _, info := range n.gather(ctx) {
		offsets = append(offsets, info.offset)
	}
	slices.Sort(offsets)
	return time.Now().Add(offsets[len(offsets)/2])
}

// keepAtTheEnd has a node inside a command look at its jobs once a day, however
// short the commands are.
func (n *Server) keepAtTheEnd(failed error) {
	if !n.cfg.Embedded || failed != nil {
		return
	}
	ctx, cancel := context.WithTimeout(context.Background(), keepLast)
	defer cancel()
	row, _, err := n.readKeep(ctx)
	since := time.Since(time.UnixMilli(row.PassMs))
	due := since < 0 || since >= keepDue
	if err == nil && !due && !n.work.Removed() {
		return
	}
	for more := due; more && err == nil && ctx.Err() == nil; {
		more, err = n.keepOnce(ctx, &keeping{})
	}
	if err == nil {
		err = n.endRemovals(ctx)
	}
	if err == nil {
		err = n.sweepAtTheEnd(ctx)
	}
	if err != nil {
		n.log.Debug("jobs that have ended were not looked at, tried again", "error", err)
	}
}

// keep is how long jobs are kept that have ended.
func (n *Server) keep() job.Keep {
	s := n.facts.chosen()
	keep := job.DefaultKeep
	for _, c := range [...]struct {
		to     *int64
		chosen int64
	}{{&keep.Ms, s.KeepMs}, {&keep.Jobs, s.KeepJobs}, {&keep.Bytes, s.KeepBytes}} {
		if c.chosen != 0 {
			*c.to = c.chosen
		}
	}
	return keep
}

// endRemovals ends the removals under way in the shards led here, so that what the
// jobs referred to can go.
func (n *Server) endRemovals(ctx context.Context) error {
	for _, shard := range n.router.DataShards() {
		for {
			cmd, err := work.NextRemoval(ctx, localRows{n}, shard)
			if err == nil && cmd != nil {
				_, err = n.router.Commit(ctx, shard, cmd)
			}
			if err != nil {
				return err
			}
			if cmd == nil {
				break
			}
		}
	}
	return nil
}

// forgetRemoved is how long a node's row stays after its removal: till no
// certificate that it can show is valid, and as long again.
const forgetRemoved = 2 * pki.NodeTTL

// forgetOld removes the rows of nodes that were removed long ago, and of notices
// beyond the newest NoticesMax.
func (n *Server) forgetOld(ctx context.Context, nowMs int64) error {
	nodes, _, err := readRoot(ctx, n.router, nodePrefix)
	if err != nil {
		return err
	}
	notices, _, err := readRoot(ctx, n.router, noticePrefix)
	if err != nil {
		return err
	}
	var cmd mvcc.Command
	forget := func(row *mvcc.Row) {
		if len(cmd.Conds) < banyan.CommandConditionsMax { // the rest goes with a later look
			cmd.Conds = append(cmd.Conds, mvcc.Cond{Key: row.Key, Test: mvcc.ModEquals, Number: uint64(row.Mod)})
			cmd.Muts = append(cmd.Muts, mvcc.Mutation{Op: mvcc.Delete, Key: row.Key})
		}
	}
	for i := range nodes {
		var row nodeRow
		if json.Unmarshal(nodes[i].Value, &row) == nil && row.RemovedMs != 0 && nowMs-row.RemovedMs > forgetRemoved.Milliseconds() {
			forget(&nodes[i])
		}
	}
	for i := range notices[:max(0, len(notices)-banyan.NoticesMax)] { // their keys begin with their time
		forget(&notices[i])
	}
	if len(cmd.Muts) == 0 {
		return nil
	}
	_, err = n.router.Commit(ctx, banyan.RootShard, &cmd)
	return err
}

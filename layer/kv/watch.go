package kv

import (
	"context"
	"time"

	"banyan"
	banyanv1 "banyan/api/banyan/v1"
	"banyan/core/mvcc"
	"banyan/engine/route"
)

// idleProgress is how often a watcher hears of revisions that did not concern it.
const idleProgress = time.Second

// Watch calls send with every change of a key, or of the keys of a prefix of
// one partition, from a revision on, once and in order. The first call, made at
// once, tells the revision from which on changes will come. It returns send's
// error, ctx's, or Compacted.
func (s *Service) Watch(ctx context.Context, req *banyanv1.WatchRequest, send func(*banyanv1.WatchResponse) error) error {
	check := checkKey
	if req.Prefix {
		check = checkPrefix
	}
	if err := check(req.Key); err != nil {
		return err
	}
	shard := s.shardOf(req.Key)
	lo := rowKey(req.Key)
	hi := append(rowKey(req.Key), 0)
	if req.Prefix {
		hi = mvcc.PrefixEnd(lo)
	}
	after := banyan.Revision(max(req.FromRevision, 1) - 1)
	if req.FromRevision == 0 {
		res, err := s.db.Read(ctx, shard, route.ReadQuery{Key: lo, KeysOnly: true})
		if err != nil {
			return err
		}
		after = res.Revision
	}
	if err := send(&banyanv1.WatchResponse{Revision: uint64(after)}); err != nil {
		return err
	}
	sent := time.Now()
	return s.db.Watch(ctx, shard, lo, hi, after, func(evs []mvcc.Event, upTo banyan.Revision) error {
		if len(evs) == 0 && time.Since(sent) < idleProgress {
			return nil
		}
		sent = time.Now()
		return send(toWatchResponse(evs, upTo))
	})
}

func toWatchResponse(evs []mvcc.Event, upTo banyan.Revision) *banyanv1.WatchResponse {
	out := &banyanv1.WatchResponse{Revision: uint64(upTo)}
	for i := range evs {
		e := &banyanv1.Event{Type: banyanv1.Event_PUT, Kv: toKeyValue(&evs[i].Row)}
		if evs[i].Deleted {
			e.Type = banyanv1.Event_DELETE
		}
		out.Events = append(out.Events, e)
	}
	return out
}

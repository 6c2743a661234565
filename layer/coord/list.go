package coord

import (
	"cmp"
	"context"
	"errors"
	"slices"
	"strings"

	"banyan"
	banyanv1 "banyan/api/banyan/v1"
	"banyan/core/mvcc"
	"banyan/engine/route"
)

const (
	listDefault = 100
	listMax     = 1000
)

// List gives a page of locks, from the rows of every shard.
func (s *Service) List(ctx context.Context, req *banyanv1.ListLocksRequest) (*banyanv1.ListLocksResponse, error) {
	limit := listDefault
	if req.Limit > 0 {
		limit = int(min(req.Limit, listMax))
	}
	spans := s.cfg.Shards.Spans()
	if strings.Contains(req.Prefix, "/") {
		slot := banyan.SlotOf(banyan.Partition([]byte(req.Prefix)))
		spans = []route.Span{{Shard: s.cfg.Shards.ShardOfSlot(slot), From: slot, Until: slot + 1}}
	}
	out := &banyanv1.ListLocksResponse{}
	q := route.ReadQuery{EachSlot: true}
	q.Key, q.End = lockRange(req.Prefix, req.After)
	for _, span := range spans {
		q.UntilSlot = span.Until
		for q.FromSlot = span.From; q.FromSlot < span.Until; { // the shard may reach less far than the map here says
			found, _, until, more, err := s.read(ctx, s.cfg.Shards.ShardOfSlot(q.FromSlot), q, limit)
			if err != nil {
				return nil, err
			}
			out.Locks = append(out.Locks, found...)
			out.More, q.FromSlot = out.More || more, until
		}
	}
	slices.SortFunc(out.Locks, func(a, b *banyanv1.LockState) int { return cmp.Compare(a.Name, b.Name) })
	if len(out.Locks) > limit {
		out.Locks, out.More = out.Locks[:limit], true
	}
	return out, nil
}

// read gives the first locks of a range of rows: of one slot at one revision, of
// each slot page by page, as the pages are then.
// until is the slot up to which the shard holds the rows: where it is split
// between two pages, it is up to where it held them last.
func (s *Service) read(ctx context.Context, shard banyan.ShardID, q route.ReadQuery, limit int) (out []*banyanv1.LockState, at banyan.Revision, until int, more bool, err error) {
	first := q
	for {
		res, err := s.cfg.Rows.Read(ctx, shard, q)
		if err != nil {
			return nil, 0, 0, false, err
		}
		if until != 0 && res.UntilSlot != until { // rows of the first page may be another shard's now
			first.UntilSlot = res.UntilSlot
			return s.read(ctx, shard, first, limit)
		}
		until = res.UntilSlot
		if at == 0 {
			at = res.Revision
		}
		if !q.EachSlot {
			q.At = at
		}
		for i := range res.Rows {
			c, p, err := decodeClaim(&res.Rows[i])
			if err != nil {
				return nil, 0, 0, false, err
			}
			if len(out) == 0 || out[len(out)-1].Name != p.name {
				if len(out) == limit {
					return out, at, until, true, nil
				}
				out = append(out, &banyanv1.LockState{Name: p.name, Revision: uint64(at), Shard: uint32(shard)})
			}
			show(out[len(out)-1], c)
		}
		if !res.More {
			return out, at, until, false, nil
		}
		last := res.Rows[len(res.Rows)-1].Key
		if q.EachSlot {
			last = last[slotBytes:]
		}
		q.Key = append(last[:len(last):len(last)], 0)
	}
}

// show adds a claim to what is told of its lock.
func show(l *banyanv1.LockState, c *banyanv1.Claim) {
	list, count := &l.Waiters, &l.Waiting
	if c.Token != 0 {
		list, count = &l.Holders, &l.Holding
	}
	c.Ahead = 0
	if c.Token == 0 {
		c.Ahead = *count
	}
	if *count++; *count <= banyan.LockClaimsShownMax {
		*list = append(*list, c)
	}
}

var errChanged = errors.New("the lock has changed")

// Watch sends how a lock stands, now and after each change.
func (s *Service) Watch(ctx context.Context, req *banyanv1.WatchLockRequest, send func(*banyanv1.WatchLockResponse) error) error {
	if err := checkName(req.Name); err != nil {
		return err
	}
	shard := s.shardOf(req.Name)
	lo, hi := claimsOf(req.Name)
	for {
		locks, at, _, _, err := s.read(ctx, shard, route.ReadQuery{Key: lo, End: hi}, 1)
		if err != nil {
			return err
		}
		state := &banyanv1.LockState{Name: req.Name, Shard: uint32(shard), Revision: uint64(at)}
		if len(locks) > 0 {
			state = locks[0]
		}
		if err := send(&banyanv1.WatchLockResponse{Lock: state}); err != nil {
			return err
		}
		err = s.cfg.Rows.Watch(ctx, shard, lo, hi, at, func(evs []mvcc.Event, _ banyan.Revision) error {
			if len(evs) > 0 {
				return errChanged
			}
			return nil
		})
		if !errors.Is(err, errChanged) {
			return err
		}
	}
}

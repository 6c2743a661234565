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
	shards := s.cfg.Shards.DataShards()
	if strings.Contains(req.Prefix, "/") {
		shards = []banyan.ShardID{s.shardOf(req.Prefix)}
	}
	out := &banyanv1.ListLocksResponse{}
	q := route.ReadQuery{EachSlot: true}
	q.Key, q.End = lockRange(req.Prefix, req.After)
	for _, shard := range shards {
		found, _, more, err := s.read(ctx, shard, q, limit)
		if err != nil {
			return nil, err
		}
		out.Locks = append(out.Locks, found...)
		out.More = out.More || more
	}
	slices.SortFunc(out.Locks, func(a, b *banyanv1.LockState) int { return cmp.Compare(a.Name, b.Name) })
	if len(out.Locks) > limit {
		out.Locks, out.More = out.Locks[:limit], true
	}
	return out, nil
}

// read gives the first locks of a range of rows: of one slot at one revision, of
// each slot page by page, as the pages are then.
func (s *Service) read(ctx context.Context, shard banyan.ShardID, q route.ReadQuery, limit int) (out []*banyanv1.LockState, at banyan.Revision, more bool, err error) {
	for {
		res, err := s.cfg.Rows.Read(ctx, shard, q)
		if err != nil {
			return nil, 0, false, err
		}
		if at == 0 {
			at = res.Revision
		}
		if !q.EachSlot {
			q.At = at
		}
		for i := range res.Rows {
			c, p, err := decodeClaim(&res.Rows[i])
			if err != nil {
				return nil, 0, false, err
			}
			if len(out) == 0 || out[len(out)-1].Name != p.name {
				if len(out) == limit {
					return out, at, true, nil
				}
				out = append(out, &banyanv1.LockState{Name: p.name, Revision: uint64(at), Shard: uint32(shard)})
			}
			show(out[len(out)-1], c)
		}
		if !res.More {
			return out, at, false, nil
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
		locks, at, _, err := s.read(ctx, shard, route.ReadQuery{Key: lo, End: hi}, 1)
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

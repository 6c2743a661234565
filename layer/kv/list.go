package kv

import (
	"bytes"
	"context"
	"slices"
	"time"

	"banyan"
	banyanv1 "banyan/api/banyan/v1"
	"banyan/core/mvcc"
	"banyan/engine/route"

	"golang.org/x/sync/errgroup"
)

const (
	listRowsDefault = 1000
	listShardsOnce  = 4 // shards read at once, so at most as many pages in memory
)

// List gives one page of the keys of a prefix, in their order.
func (s *Service) List(ctx context.Context, req *banyanv1.ListRequest) (*banyanv1.ListResponse, error) {
	q, err := listQuery(req)
	if err != nil {
		return nil, err
	}
	var p page
	if bytes.IndexByte(req.Prefix, '/') >= 0 {
		res, err := s.db.Read(ctx, s.shardOf(req.Prefix), q)
		if err != nil {
			return nil, err
		}
		p = page{rows: res.Rows, more: res.More, age: res.Age, revision: res.Revision}
	} else if p, err = s.listAll(ctx, q); err != nil {
		return nil, err
	}
	out := &banyanv1.ListResponse{More: p.more, Revision: uint64(p.revision), AgeMs: p.age.Milliseconds()}
	if req.Revision != 0 {
		out.Revision = req.Revision
	}
	for i := range p.rows {
		out.Kvs = append(out.Kvs, toKeyValue(&p.rows[i]))
	}
	return out, nil
}

func listQuery(req *banyanv1.ListRequest) (q route.ReadQuery, err error) {
	if len(req.Prefix) > keyMax || len(req.After) > keyMax {
		return q, banyan.Errorf(banyan.Exhausted, "prefix or after is longer than a key may be: at most %d bytes (KeyBytesMax)", keyMax)
	}
	if req.Revision != 0 && bytes.IndexByte(req.Prefix, '/') < 0 {
		return q, banyan.Errorf(banyan.Invalid, "revision %d is one shard's, the prefix %.64q spans shards: give a prefix with a '/'", req.Revision, req.Prefix)
	}
	q = route.ReadQuery{Key: rowKey(req.Prefix), At: banyan.Revision(req.Revision), Limit: int(req.Limit), KeysOnly: req.KeysOnly, Stale: req.Stale}
	if q.EachSlot = bytes.IndexByte(req.Prefix, '/') < 0; q.EachSlot {
		q.Key = q.Key[slotBytes:]
	}
	prefix := q.Key[:len(q.Key)-len(req.Prefix)]
	q.End = mvcc.PrefixEnd(q.Key) // never nil: the space before it has one
	if bytes.Compare(req.After, req.Prefix) >= 0 && len(req.After) > 0 {
		q.Key = append(append(bytes.Clone(prefix), req.After...), 0)
	}
	switch {
	case q.Limit == 0:
		q.Limit = listRowsDefault
	case q.Limit > banyan.ListRowsMax:
		q.Limit = banyan.ListRowsMax
	}
	return q, nil
}

// listAll merges the pages of all shards.
func (s *Service) listAll(ctx context.Context, q route.ReadQuery) (page, error) {
	pages := make(chan page, listShardsOnce)
	g, ctx := errgroup.WithContext(ctx)
	g.Go(func() error {
		defer close(pages)
		readers, ctx := errgroup.WithContext(ctx)
		readers.SetLimit(listShardsOnce)
		for _, span := range s.db.Spans() {
			readers.Go(func() error {
				return route.ReadSpan(ctx, s.db, span, q, func(res route.ReadResult) error {
					pages <- page{rows: res.Rows, more: res.More, age: res.Age}
					return nil
				})
			})
		}
		return readers.Wait()
	})
	var all page
	for p := range pages {
		all.merge(p, q.Limit)
	}
	return all, g.Wait()
}

// page is a run of rows in key order; with more, what lies behind its last row
// is not known.
type page struct {
	rows     []mvcc.Row
	more     bool
	age      time.Duration
	revision banyan.Revision // of a single shard
}

// merge takes in the rows of another shard and cuts the page where one of the
// two ends early, and at the limits.
func (p *page) merge(o page, limit int) {
	cut := len(p.rows) + len(o.rows)
	ends := [][]byte{p.end(), o.end()}
	p.rows = append(p.rows, o.rows...)
	slices.SortFunc(p.rows, func(a, b mvcc.Row) int { return bytes.Compare(userKey(a.Key), userKey(b.Key)) })
	for _, end := range ends {
		if end != nil {
			known, _ := slices.BinarySearchFunc(p.rows, append(bytes.Clone(end), 0), func(r mvcc.Row, k []byte) int { return bytes.Compare(userKey(r.Key), k) })
			cut = min(cut, known)
		}
	}
	size := 0
	for i := range p.rows[:cut] {
		if i >= limit || size >= banyan.ListBytesMax {
			cut = i
			break
		}
		size += len(p.rows[i].Key) + len(p.rows[i].Value)
	}
	p.more = p.more || o.more || cut < len(p.rows)
	clear(p.rows[cut:])
	p.rows = p.rows[:cut]
	p.age = max(p.age, o.age)
}

// end is the last user's key up to which the page is known, nil if it is whole.
func (p *page) end() []byte {
	if !p.more || len(p.rows) == 0 {
		return nil
	}
	return userKey(p.rows[len(p.rows)-1].Key)
}

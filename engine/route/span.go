package route

import (
	"context"

	"banyan"
)

// Span is a run of slots that a shard holds, as far as is known here: from From
// up to Until.
type Span struct {
	Shard       banyan.ShardID
	From, Until int
}

// Spans lists the data shards with what they hold: every slot once.
func (r *Router) Spans() []Span {
	m := r.cfg.Map()
	var out []Span
	for _, shard := range m.Data() {
		if from, until := m.SlotsOf(shard); from < until {
			out = append(out, Span{shard, from, until})
		}
	}
	return out
}

// Reader reads rows of any shard. *Router is one.
type Reader interface {
	Read(ctx context.Context, shard banyan.ShardID, q ReadQuery) (ReadResult, error)
	ShardOfSlot(slot int) banyan.ShardID
}

var _ Reader = (*Router)(nil)

// ReadSpan answers a query for a range of each slot of a span, in one part after
// the other: the shard may have been split since the map here was made, and then
// the first part ends before the span does. So no slot is left out, and none is
// read twice.
func ReadSpan(ctx context.Context, r Reader, s Span, q ReadQuery, part func(ReadResult) error) error {
	q.EachSlot, q.UntilSlot = true, s.Until
	for q.FromSlot = s.From; q.FromSlot < s.Until; {
		res, err := r.Read(ctx, r.ShardOfSlot(q.FromSlot), q)
		if err != nil {
			return err
		}
		if res.UntilSlot <= q.FromSlot {
			return banyan.Errorf(banyan.Internal, "shard %d read slots up to %d, where slot %d was asked for", s.Shard, res.UntilSlot, q.FromSlot)
		}
		if err := part(res); err != nil {
			return err
		}
		q.FromSlot = res.UntilSlot
	}
	return nil
}

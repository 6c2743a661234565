package route

import (
	"context"
	"errors"
	"fmt"
	"sync/atomic"
	"testing"

	"banyan"
	"banyan/core/mvcc"
	"banyan/core/shardmap"
)

// divided is a router whose shard 1 is split at slot 512, into 1 and 2, when told.
type divided struct {
	*Router
	t   *testing.T
	now atomic.Pointer[shardmap.Map]
}

func newDivided(t *testing.T) *divided {
	t.Helper()
	d := &divided{t: t}
	d.now.Store(shardmap.New(1))
	d.Router = New(Config{Node: 1, Map: d.now.Load, Host: host(t, 0, 1)})
	if _, err := d.WaitLeader(t.Context(), 1); err != nil {
		t.Fatal(err)
	}
	return d
}

// split makes the child, and gives the map that tells of it.
func (d *divided) split() *shardmap.Map {
	d.t.Helper()
	m, err := d.now.Load().Decide(1, banyan.SlotKey(512))
	if err != nil {
		d.t.Fatal(err)
	}
	forked, err := d.Split(d.t.Context(), 1, m.Pending.At, m.Pending.Child)
	again, err2 := d.Split(d.t.Context(), 1, m.Pending.At, m.Pending.Child)
	if err != nil || err2 != nil || forked != again {
		d.t.Fatalf("split at revision %d, %v; asked again %d, %v", forked, err, again, err2)
	}
	return m.Finish(forked)
}

func (d *divided) put(shard banyan.ShardID, slot int, name string) mvcc.Result {
	d.t.Helper()
	res, err := d.Commit(d.t.Context(), shard, put(inSlot(slot, name), "v"))
	if err != nil || !res.OK {
		d.t.Fatalf("%+v, %v", res, err)
	}
	return res
}

func inSlot(slot int, name string) string {
	return string(banyan.AppendRowKey(nil, slot, banyan.LayerKV, banyan.SpaceDefault)) + name
}

// TestRowsAreFollowed: writes, reads and watches that begin while the map is
// behind go on at the child once it tells of it.
func TestRowsAreFollowed(t *testing.T) {
	d := newDivided(t)
	d.put(1, 1, "a")
	d.put(1, 700, "a")
	heard := make(chan string, 10)
	ctx, stop := context.WithCancel(t.Context())
	watched := make(chan error, 1)
	go func() {
		watched <- d.Watch(ctx, 1, []byte(inSlot(700, "")), []byte(inSlot(701, "")), 0, func(evs []mvcc.Event, _ banyan.Revision) error {
			for _, e := range evs {
				heard <- fmt.Sprintf("%s at %d", e.Row.Key[4:], e.Row.Mod)
			}
			return nil
		})
	}()
	if got := <-heard; got != "a at 2" {
		t.Fatal(got)
	}
	m := d.split()
	answers := make(chan error, 3)
	go func() {
		res, err := d.Commit(t.Context(), 1, put(inSlot(700, "b"), "v"))
		if err == nil && res.Revision != 3 {
			err = fmt.Errorf("revision %d", res.Revision)
		}
		answers <- err
	}()
	go func() {
		d.CommitThen(t.Context(), 1, put(inSlot(700, "a"), "w"), func(_ mvcc.Result, err error) { answers <- err })
	}()
	go func() {
		res, err := d.Read(t.Context(), 1, ReadQuery{Key: []byte(inSlot(700, "a"))})
		if err == nil && len(res.Rows) != 1 {
			err = errors.New("the row is not there")
		}
		answers <- err
	}()
	d.put(1, 1, "b") // what stays is not held up
	d.now.Store(m)
	for range 3 {
		if err := <-answers; err != nil && err.Error() != "revision 4" {
			t.Error(err)
		}
	}
	for range 2 {
		<-heard
	}
	stop()
	if err := <-watched; !errors.Is(err, context.Canceled) {
		t.Error(err)
	}
	if len(heard) != 0 {
		t.Errorf("heard of %d changes more", len(heard))
	}
}

// TestCopiesAreKnownBehindASplit: a copy of a request of before the split is not
// carried out again by the child. What the parent's later revisions say of a
// request, the child cannot judge: it is Moved, and the Router gives its own
// another name.
func TestCopiesAreKnownBehindASplit(t *testing.T) {
	d := newDivided(t)
	before := put(inSlot(700, "a"), "1")
	before.Request, before.Earliest = banyan.NewRequestID(), 1
	if _, err := d.Commit(t.Context(), 1, before); err != nil {
		t.Fatal(err)
	}
	m := d.split()
	for i := range 5 {
		d.put(1, 1, fmt.Sprint(i))
	}
	d.now.Store(m)
	for _, shard := range []banyan.ShardID{1, 2} { // by an old map, and by the new one
		if res, err := d.Commit(t.Context(), shard, before); err != nil || !res.Duplicate || res.Revision != 1 {
			t.Errorf("a copy at shard %d: %+v, %v", shard, res, err)
		}
	}
	late := put(inSlot(700, "a"), "2")
	late.Request, late.Earliest = banyan.NewRequestID(), 5 // the child is at 1
	if _, err := d.Commit(t.Context(), 1, late); !banyan.IsKind(err, banyan.Moved) {
		t.Errorf("a request that names the parent's revision: %v", err)
	}
	if err := d.Judge(2, 1, 4); !banyan.IsKind(err, banyan.Moved) {
		t.Error(err)
	}
	if err := errors.Join(d.Judge(2, 1, 1), d.Judge(2, 2, 9), d.Judge(2, 0, 9)); err != nil {
		t.Error(err)
	}
	if err := d.Judge(2, 7, 1); !banyan.IsKind(err, banyan.Unavailable) {
		t.Error(err)
	}
	if res := d.put(1, 700, "b"); res.Revision != 2 { // known here: revision 6 of the parent
		t.Errorf("%+v", res)
	}
	both := put(inSlot(1, "x"), "v")
	both.Muts = append(both.Muts, put(inSlot(700, "x"), "v").Muts...)
	if _, err := d.Commit(t.Context(), 1, both); !banyan.IsKind(err, banyan.Moved) {
		t.Errorf("a command of two shards: %v", err)
	}
}

// TestSpansAreReadWhole: a list that goes by a map of before the split leaves out
// nothing and tells nothing twice.
func TestSpansAreReadWhole(t *testing.T) {
	d := newDivided(t)
	d.put(1, 1, "a")
	d.put(1, 511, "b")
	d.put(1, 512, "c")
	d.put(1, 1023, "d")
	old := d.Spans()
	if len(old) != 1 || old[0] != (Span{1, 0, banyan.Slots}) {
		t.Fatal(old)
	}
	m := d.split()
	go d.now.Store(m) // before it, the second part waits
	for _, spans := range [][]Span{old, {{1, 0, 512}, {2, 512, banyan.Slots}}, {{1, 1, 2}, {1, 511, 513}, {2, 1023, banyan.Slots}}} {
		var got []string
		for _, s := range spans {
			q := ReadQuery{Key: []byte(inSlot(0, ""))[2:], End: []byte(inSlot(0, "\xff"))[2:]}
			if err := ReadSpan(t.Context(), d, s, q, func(res ReadResult) error {
				for _, row := range res.Rows {
					got = append(got, string(row.Key[4:]))
				}
				return nil
			}); err != nil {
				t.Fatal(err)
			}
		}
		if fmt.Sprint(got) != "[a b c d]" {
			t.Errorf("%v: %v", spans, got)
		}
	}
}

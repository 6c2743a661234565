package kv

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"slices"
	"strings"
	"testing"

	"banyan"
	banyanv1 "banyan/api/banyan/v1"
	"banyan/core/mvcc"
)

func put(t *testing.T, s *Service, key, value string) uint64 {
	t.Helper()
	res, err := s.Put(t.Context(), &banyanv1.PutRequest{Key: []byte(key), Value: []byte(value)})
	if err != nil {
		t.Fatalf("put %s: %v", key, err)
	}
	return res.Revision
}

func get(t *testing.T, s *Service, key string) string {
	t.Helper()
	res, err := s.Get(t.Context(), &banyanv1.GetRequest{Key: []byte(key)})
	if err != nil {
		t.Fatalf("get %s: %v", key, err)
	}
	if res.Kv == nil {
		return "(none)"
	}
	return string(res.Kv.Value)
}

func TestPutGetDelete(t *testing.T) {
	s := New(newFake(4))
	first := put(t, s, "a/x", "1")
	put(t, s, "a/x", "2")
	if got := get(t, s, "a/x"); got != "2" {
		t.Errorf("got %s", got)
	}
	old, err := s.Get(t.Context(), &banyanv1.GetRequest{Key: []byte("a/x"), Revision: first})
	if err != nil || string(old.Kv.Value) != "1" || string(old.Kv.Key) != "a/x" {
		t.Errorf("at revision %d: %v, %v", first, old, err)
	}
	put(t, s, "a/y", "3")
	put(t, s, "ab", "other partition")
	res, err := s.Delete(t.Context(), &banyanv1.DeleteRequest{Key: []byte("a/"), Prefix: true})
	if err != nil || res.Deleted != 2 {
		t.Errorf("delete prefix: %v, %v", res, err)
	}
	if get(t, s, "a/x") != "(none)" || get(t, s, "ab") != "other partition" {
		t.Error("the wrong keys went")
	}
}

func TestRetryIsAppliedOnce(t *testing.T) {
	s := New(newFake(2))
	id := banyan.NewRequestID()
	txn := &banyanv1.TxnRequest{RequestId: id[:], Mutations: []*banyanv1.Mutation{
		{Op: &banyanv1.Mutation_Append_{Append: &banyanv1.Mutation_Append{Prefix: []byte("q/"), Value: []byte("v")}}},
	}}
	for range 3 {
		res, err := s.Txn(t.Context(), txn)
		if err != nil || !slices.Equal(res.Sequences, []uint64{1}) {
			t.Fatalf("%v, %v", res, err)
		}
	}
	if get(t, s, "q/0000000000000001") != "v" || get(t, s, "q/0000000000000002") != "(none)" {
		t.Error("the append happened more than once")
	}
}

// TestLateCopiesAreRefused: of a put, a transaction and every step of a delete,
// once others have driven their requests out; a first copy is not.
func TestLateCopiesAreRefused(t *testing.T) {
	s := New(newFakeWindow(1, 4))
	known := put(t, s, "a", "0")
	ids := [3]banyan.RequestID{{1}, {2}, {3}}
	send := func(known uint64) (errs []error) {
		_, err := s.Put(t.Context(), &banyanv1.PutRequest{Key: []byte("a"), Value: []byte("1"), RequestId: ids[0][:], KnownRevision: &known})
		errs = append(errs, err)
		_, err = s.Txn(t.Context(), &banyanv1.TxnRequest{RequestId: ids[1][:], KnownRevision: &known, Mutations: []*banyanv1.Mutation{
			{Op: &banyanv1.Mutation_Append_{Append: &banyanv1.Mutation_Append{Prefix: []byte("q/"), Value: []byte("v")}}},
		}})
		errs = append(errs, err)
		_, err = s.Delete(t.Context(), &banyanv1.DeleteRequest{Key: []byte("b"), RequestId: ids[2][:], KnownRevision: &known})
		return append(errs, err)
	}
	for range 2 {
		if err := errors.Join(send(known)...); err != nil {
			t.Fatal(err)
		}
	}
	for i := range 5 {
		id := banyan.RequestID{4, byte(i)}
		if _, err := s.Put(t.Context(), &banyanv1.PutRequest{Key: []byte("a"), Value: []byte("2"), RequestId: id[:]}); err != nil {
			t.Fatal(err)
		}
	}
	for i, err := range send(known) {
		if !banyan.IsKind(err, banyan.Forgotten) {
			t.Errorf("late copy %d: %v", i, err)
		}
	}
	if get(t, s, "a") != "2" || get(t, s, "q/0000000000000002") != "(none)" {
		t.Error("a late copy was carried out")
	}
	ids = [3]banyan.RequestID{{5}, {6}, {7}}
	if err := errors.Join(send(known + 7)...); err != nil {
		t.Error(err)
	}
}

// TestDeleteOfManyKeysGoesInSteps: one request is one command of a bounded
// number of keys, whose copy changes nothing; who sent it goes on.
func TestDeleteOfManyKeysGoesInSteps(t *testing.T) {
	s := New(newFake(1))
	n := 2*banyan.DeleteStepKeysMax + 10
	for i := 0; i < n; {
		req := &banyanv1.TxnRequest{}
		for ; i < n && len(req.Mutations) < banyan.CommandMutationsMax; i++ {
			req.Mutations = append(req.Mutations, &banyanv1.Mutation{Op: &banyanv1.Mutation_Put_{Put: &banyanv1.Mutation_Put{Key: fmt.Appendf(nil, "m/%06d", i)}}})
		}
		if _, err := s.Txn(t.Context(), req); err != nil {
			t.Fatal(err)
		}
	}
	put(t, s, "n/other", "x")
	var after []byte
	for _, want := range []struct {
		deleted uint64
		more    bool
	}{{banyan.DeleteStepKeysMax, true}, {banyan.DeleteStepKeysMax, true}, {10, false}} {
		id := banyan.NewRequestID()
		req := &banyanv1.DeleteRequest{Key: []byte("m/"), Prefix: true, RequestId: id[:], KnownRevision: new(uint64), After: after}
		res, err := s.Delete(t.Context(), req)
		if err != nil || res.Deleted != want.deleted || res.More != want.more {
			t.Fatalf("%v, %v", res, err)
		}
		put(t, s, "m/.late", "x")
		again, err := s.Delete(t.Context(), req)
		if err != nil || again.Deleted != want.deleted || again.Revision != res.Revision {
			t.Fatalf("the copy: %v, %v", again, err)
		}
		after = res.After
	}
	if get(t, s, "m/.late") != "x" || get(t, s, "n/other") != "x" {
		t.Error("a copy deleted again, or a step too much")
	}
	_, err := s.Delete(t.Context(), &banyanv1.DeleteRequest{Key: []byte("m/"), Prefix: true, After: []byte("n")})
	if !banyan.IsKind(err, banyan.Invalid) {
		t.Error(err)
	}
}

// TestALargeStepIsGoneOnWith: values of which one command may displace no more
// stop a step before its last key.
func TestALargeStepIsGoneOnWith(t *testing.T) {
	s := New(newFake(1))
	n := banyan.DisplacedBytesMax/banyan.ValueBytesMax + 3
	value := strings.Repeat("v", banyan.ValueBytesMax)
	for i := range n {
		put(t, s, fmt.Sprintf("m/%06d", i), value)
	}
	var deleted uint64
	req := &banyanv1.DeleteRequest{Key: []byte("m/"), Prefix: true}
	for step := 1; ; step++ {
		res, err := s.Delete(t.Context(), req)
		if err != nil {
			t.Fatal(err)
		}
		deleted += res.Deleted
		if !res.More {
			if deleted != uint64(n) || step < 2 {
				t.Fatalf("%d of %d in %d steps", deleted, n, step)
			}
			return
		}
		req.After = res.After
	}
}

// TestTheLongestKey: what the limit says is what a key may have.
func TestTheLongestKey(t *testing.T) {
	s := New(newFake(1))
	key := "k/" + strings.Repeat("x", banyan.KeyBytesMax-2)
	put(t, s, key, "v")
	if get(t, s, key) != "v" {
		t.Error("not there")
	}
	if _, err := s.Delete(t.Context(), &banyanv1.DeleteRequest{Key: []byte("k/"), Prefix: true, After: []byte("k/a")}); err != nil {
		t.Error(err)
	}
}

func TestTxn(t *testing.T) {
	s := New(newFake(4))
	rev := put(t, s, "a/x", "1")
	txn := func(c *banyanv1.Condition, value string) *banyanv1.TxnResponse {
		t.Helper()
		c.Key = []byte("a/x")
		res, err := s.Txn(t.Context(), &banyanv1.TxnRequest{Conditions: []*banyanv1.Condition{c}, Mutations: []*banyanv1.Mutation{
			{Op: &banyanv1.Mutation_Put_{Put: &banyanv1.Mutation_Put{Key: []byte("a/x"), Value: []byte(value)}}},
			{Op: &banyanv1.Mutation_Delete{Delete: &banyanv1.Mutation_Del{Key: []byte("a/old"), Prefix: true}}},
		}})
		if err != nil {
			t.Fatal(err)
		}
		return res
	}
	exists := func(b bool) *banyanv1.Condition {
		return &banyanv1.Condition{Test: &banyanv1.Condition_Exists{Exists: b}}
	}
	if res := txn(exists(false), "no"); res.Succeeded || res.FailedCondition != 0 || get(t, s, "a/x") != "1" {
		t.Errorf("a condition that does not hold: %v", res)
	}
	if res := txn(exists(true), "2"); !res.Succeeded || get(t, s, "a/x") != "2" {
		t.Errorf("exists: %v", res)
	}
	if res := txn(&banyanv1.Condition{Test: &banyanv1.Condition_ModRevision{ModRevision: rev}}, "no"); res.Succeeded {
		t.Error("an old revision was taken for the last")
	}
	if res := txn(&banyanv1.Condition{Test: &banyanv1.Condition_Value{Value: []byte("2")}}, "3"); !res.Succeeded || get(t, s, "a/x") != "3" {
		t.Errorf("value: %v", res)
	}
}

func TestListMergesShards(t *testing.T) {
	db := newFake(5)
	s := New(db)
	var want []string
	used := map[banyan.ShardID]bool{}
	for p := range 40 {
		for k := range p % 4 {
			key := fmt.Sprintf("p%02d/%d", p, k)
			put(t, s, key, "v")
			want = append(want, key)
			used[db.ShardOf(banyan.Partition([]byte(key)))] = true
		}
	}
	put(t, s, "other", "v")
	if len(used) != 5 {
		t.Fatalf("the keys are on %d shards only", len(used))
	}
	for _, limit := range []uint32{0, 1, 2, 7, 59, 60, 61} {
		req := &banyanv1.ListRequest{Prefix: []byte("p"), Limit: limit, KeysOnly: true}
		var got []string
		for {
			res, err := s.List(t.Context(), req)
			if err != nil {
				t.Fatal(err)
			}
			for _, kv := range res.Kvs {
				got = append(got, string(kv.Key))
			}
			if !res.More {
				break
			}
			req.After = res.Kvs[len(res.Kvs)-1].Key
		}
		if !slices.Equal(got, want) {
			t.Errorf("limit %d: got %d keys %v", limit, len(got), got)
		}
	}
	res, err := s.List(t.Context(), &banyanv1.ListRequest{Prefix: []byte("p03/"), Limit: 2})
	if err != nil || len(res.Kvs) != 2 || !res.More || res.Revision == 0 || string(res.Kvs[0].Value) != "v" {
		t.Errorf("one partition: %v, %v", res, err)
	}
}

func TestMergeStopsWhereAPageEnds(t *testing.T) {
	row := func(keys ...string) (rows []mvcc.Row) {
		for _, k := range keys {
			rows = append(rows, mvcc.Row{Key: rowKey([]byte(k))})
		}
		return rows
	}
	p := page{rows: row("a", "d", "f")}
	p.merge(page{rows: row("b", "c"), more: true}, 100) // what follows c is not known
	if got := fmt.Sprintf("%s %v", keysOf(p), p.more); got != "[a b c] true" {
		t.Error(got)
	}
	p.merge(page{rows: row("aa", "zz")}, 3)
	if got := fmt.Sprintf("%s %v", keysOf(p), p.more); got != "[a aa b] true" {
		t.Error(got)
	}
	big := page{rows: []mvcc.Row{{Key: rowKey([]byte("a")), Value: make([]byte, banyan.ListBytesMax)}}}
	big.merge(page{rows: row("b")}, 100)
	if got := fmt.Sprintf("%s %v", keysOf(big), big.more); got != "[a] true" {
		t.Error(got)
	}
}

func keysOf(p page) (keys []string) {
	for _, r := range p.rows {
		keys = append(keys, string(userKey(r.Key)))
	}
	return keys
}

func TestWatch(t *testing.T) {
	s := New(newFake(3))
	put(t, s, "w/before", "x")
	stop := errors.New("enough")
	watch := func(req *banyanv1.WatchRequest, first func()) (got []string) {
		t.Helper()
		var last uint64
		err := s.Watch(t.Context(), req, func(m *banyanv1.WatchResponse) error {
			if m.Revision < last {
				t.Errorf("revision went back from %d to %d", last, m.Revision)
			}
			last = m.Revision
			for _, e := range m.Events {
				got = append(got, fmt.Sprintf("%v %s=%s", e.Type, e.Kv.Key, e.Kv.Value))
			}
			if first != nil {
				first()
				first = nil
			}
			if slices.ContainsFunc(got, func(g string) bool { return strings.Contains(g, "end") }) {
				return stop
			}
			return nil
		})
		if err != stop { //nolint:errorlint // the very same
			t.Errorf("ended with %v", err)
		}
		return got
	}
	var end uint64
	got := watch(&banyanv1.WatchRequest{Key: []byte("w/"), Prefix: true}, func() {
		put(t, s, "w/1", "a")
		put(t, s, "wx", "not in the prefix")
		if _, err := s.Delete(t.Context(), &banyanv1.DeleteRequest{Key: []byte("w/1")}); err != nil {
			t.Error(err)
		}
		end = put(t, s, "w/end", "")
	})
	if want := []string{"PUT w/1=a", "DELETE w/1=", "PUT w/end="}; !slices.Equal(got, want) {
		t.Errorf("after now: %q", got)
	}
	got = watch(&banyanv1.WatchRequest{Key: []byte("w/end"), FromRevision: end}, nil)
	if want := []string{"PUT w/end="}; !slices.Equal(got, want) {
		t.Errorf("one key from the revision of its change: %q", got)
	}
	ctx, cancel := context.WithCancel(t.Context())
	err := s.Watch(ctx, &banyanv1.WatchRequest{Key: []byte("w/x")}, func(*banyanv1.WatchResponse) error { cancel(); return nil })
	if !errors.Is(err, context.Canceled) {
		t.Errorf("a canceled watch gives %v", err)
	}
}

func TestBadInputIsRefusedAtTheDoor(t *testing.T) {
	s := New(newFake(2))
	ctx := t.Context()
	long := bytes.Repeat([]byte("k"), banyan.KeyBytesMax+1)
	mut := func(keys ...string) (ms []*banyanv1.Mutation) {
		for _, k := range keys {
			ms = append(ms, &banyanv1.Mutation{Op: &banyanv1.Mutation_Put_{Put: &banyanv1.Mutation_Put{Key: []byte(k)}}})
		}
		return ms
	}
	cases := []struct {
		what string
		kind banyan.Kind
		says string
		call func() error
	}{
		{"empty key", banyan.Invalid, "empty", func() error { _, err := s.Get(ctx, &banyanv1.GetRequest{}); return err }},
		{"long key", banyan.Exhausted, "KeyBytesMax", func() error { _, err := s.Put(ctx, &banyanv1.PutRequest{Key: long}); return err }},
		{"long value", banyan.Exhausted, "ValueBytesMax", func() error {
			_, err := s.Put(ctx, &banyanv1.PutRequest{Key: []byte("k"), Value: make([]byte, banyan.ValueBytesMax+1)})
			return err
		}},
		{"short request id", banyan.Invalid, "request_id", func() error {
			_, err := s.Put(ctx, &banyanv1.PutRequest{Key: []byte("k"), RequestId: []byte("x")})
			return err
		}},
		{"prefix over shards", banyan.Invalid, "spans shards", func() error {
			_, err := s.Delete(ctx, &banyanv1.DeleteRequest{Key: []byte("k"), Prefix: true})
			return err
		}},
		{"revision over shards", banyan.Invalid, "spans shards", func() error {
			_, err := s.List(ctx, &banyanv1.ListRequest{Prefix: []byte("k"), Revision: 4})
			return err
		}},
		{"two partitions", banyan.Invalid, "different partitions", func() error {
			_, err := s.Txn(ctx, &banyanv1.TxnRequest{Mutations: mut("a/x", "b/x")})
			return err
		}},
		{"no test", banyan.Invalid, "asks nothing", func() error {
			_, err := s.Txn(ctx, &banyanv1.TxnRequest{Conditions: []*banyanv1.Condition{{Key: []byte("a")}}})
			return err
		}},
		{"no operation", banyan.Invalid, "does nothing", func() error {
			_, err := s.Txn(ctx, &banyanv1.TxnRequest{Mutations: []*banyanv1.Mutation{{}}})
			return err
		}},
		{"empty transaction", banyan.Invalid, "is empty", func() error { _, err := s.Txn(ctx, &banyanv1.TxnRequest{}); return err }},
		{"watch over shards", banyan.Invalid, "spans shards", func() error {
			return s.Watch(ctx, &banyanv1.WatchRequest{Key: []byte("k"), Prefix: true}, nil)
		}},
		{"future revision", banyan.Invalid, "future", func() error {
			_, err := s.Get(ctx, &banyanv1.GetRequest{Key: []byte("k"), Revision: 99})
			return err
		}},
	}
	for _, c := range cases {
		if err := c.call(); !banyan.IsKind(err, c.kind) || !strings.Contains(err.Error(), c.says) {
			t.Errorf("%s: got %v: %v", c.what, banyan.KindOf(err), err)
		}
	}
}

// TestHeldCondition: a change is made only while a lock of the partition is
// held with the token given.
func TestHeldCondition(t *testing.T) {
	db := newFake(4)
	s := New(db)
	take := func() uint64 {
		t.Helper()
		res, err := db.Commit(t.Context(), db.ShardOf([]byte("shop")), &mvcc.Command{Muts: []mvcc.Mutation{{Op: mvcc.Put, Key: banyan.LockRow("shop/stock", 0)}}})
		if err != nil {
			t.Fatal(err)
		}
		return uint64(res.Revision)
	}
	write := func(held *banyanv1.Condition_Held, value string) (bool, error) {
		res, err := s.Txn(t.Context(), &banyanv1.TxnRequest{
			Conditions: []*banyanv1.Condition{{Key: []byte("shop/stock"), Test: &banyanv1.Condition_Held_{Held: held}}},
			Mutations:  []*banyanv1.Mutation{{Op: &banyanv1.Mutation_Put_{Put: &banyanv1.Mutation_Put{Key: []byte("shop/lamps"), Value: []byte(value)}}}},
		})
		return res.GetSucceeded(), err
	}
	old := take()
	if ok, err := write(&banyanv1.Condition_Held{Token: old}, "1"); !ok || err != nil {
		t.Errorf("the holder was refused: %v", err)
	}
	token := take()
	if ok, err := write(&banyanv1.Condition_Held{Token: old}, "2"); ok || err != nil {
		t.Errorf("an old token was taken, or an error: %v", err)
	}
	if ok, _ := write(&banyanv1.Condition_Held{Token: token, Permit: 1}, "3"); ok {
		t.Error("another permit's token was taken")
	}
	if ok, err := write(&banyanv1.Condition_Held{Token: token}, "4"); !ok || err != nil {
		t.Errorf("the new holder was refused: %v", err)
	}
	if _, err := write(&banyanv1.Condition_Held{Permit: 1}, "5"); !banyan.IsKind(err, banyan.Invalid) {
		t.Errorf("token 0: %v", err)
	}
	if got := get(t, s, "shop/lamps"); got != "4" {
		t.Errorf("the key is %q", got)
	}
}

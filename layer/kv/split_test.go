package kv

import (
	"testing"

	"banyan"
	banyanv1 "banyan/api/banyan/v1"
)

// TestAWriteSaysOfWhichShardItKnows: answers name the shard whose revision they
// tell, and a write that names another one's is Moved and does nothing.
func TestAWriteSaysOfWhichShardItKnows(t *testing.T) {
	f := newFake(2)
	s := New(f)
	key := []byte("a/x")
	own := uint32(f.ShardOf([]byte("a")))
	other := 3 - own
	got, err := s.Get(t.Context(), &banyanv1.GetRequest{Key: key})
	if err != nil || got.Shard != own {
		t.Fatalf("%v, %v", got, err)
	}
	id := banyan.NewRequestID()
	known := got.Revision
	if _, err := s.Put(t.Context(), &banyanv1.PutRequest{Key: key, RequestId: id[:], KnownRevision: &known, KnownShard: other}); !banyan.IsKind(err, banyan.Moved) {
		t.Errorf("put: %v", err)
	}
	if _, err := s.Delete(t.Context(), &banyanv1.DeleteRequest{Key: key, RequestId: id[:], KnownRevision: &known, KnownShard: other}); !banyan.IsKind(err, banyan.Moved) {
		t.Errorf("delete: %v", err)
	}
	txn := &banyanv1.TxnRequest{
		RequestId: id[:], KnownRevision: &known, KnownShard: other,
		Mutations: []*banyanv1.Mutation{{Op: &banyanv1.Mutation_Put_{Put: &banyanv1.Mutation_Put{Key: key}}}},
	}
	if _, err := s.Txn(t.Context(), txn); !banyan.IsKind(err, banyan.Moved) {
		t.Errorf("txn: %v", err)
	}
	if got, err := s.Get(t.Context(), &banyanv1.GetRequest{Key: key}); err != nil || got.Kv != nil || got.Revision != known {
		t.Errorf("something was done: %v, %v", got, err)
	}
	txn.KnownShard = own
	if res, err := s.Txn(t.Context(), txn); err != nil || res.Shard != own {
		t.Errorf("%v, %v", res, err)
	}
	if res, err := s.Put(t.Context(), &banyanv1.PutRequest{Key: key}); err != nil || res.Shard != own {
		t.Errorf("%v, %v", res, err)
	}
	if res, err := s.Delete(t.Context(), &banyanv1.DeleteRequest{Key: key}); err != nil || res.Shard != own {
		t.Errorf("%v, %v", res, err)
	}
}

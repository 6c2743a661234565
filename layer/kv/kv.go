// Package kv is the layer of the user's keys over the replicated machine. A
// key's partition, the part before its first '/', says which shard holds it;
// there it is a row of banyan.LayerKV in the slot of the partition. Everything is checked here, before a command
// is made of it.
package kv

import (
	"context"
	"slices"

	"banyan"
	banyanv1 "banyan/api/banyan/v1"
	"banyan/core/mvcc"
	"banyan/engine/route"
)

// Rows changes, reads and watches rows of any shard, wherever it is led.
// *route.Router is one.
type Rows interface {
	Commit(ctx context.Context, shard banyan.ShardID, cmd *mvcc.Command) (mvcc.Result, error)
	CommitThen(ctx context.Context, shard banyan.ShardID, cmd *mvcc.Command, done func(mvcc.Result, error))
	Read(ctx context.Context, shard banyan.ShardID, q route.ReadQuery) (route.ReadResult, error)
	ReadThen(ctx context.Context, shard banyan.ShardID, q route.ReadQuery, done func(route.ReadResult, error))
	Watch(ctx context.Context, shard banyan.ShardID, lo, hi []byte, after banyan.Revision, fn func(evs []mvcc.Event, upTo banyan.Revision) error) error
}

// Shards says where keys live.
type Shards interface {
	ShardOf(partition []byte) banyan.ShardID
	DataShards() []banyan.ShardID
}

// DB is what the layer stands on.
type DB interface {
	Rows
	Shards
}

var _ DB = (*route.Router)(nil)

// Service answers banyan.v1.KV, whose definition is the contract of its methods.
type Service struct{ db DB }

// New builds the layer over db.
func New(db DB) *Service { return &Service{db} }

// What stands before a user's key in a row key: the slot, of slotBytes, the layer
// and the space. It keeps users from reaching other rows.
const (
	slotBytes   = 2
	prefixBytes = slotBytes + 2
)

// keyMax is the longest key, in bytes.
const keyMax = banyan.KeyBytesMax - prefixBytes

func rowKey(key []byte) []byte {
	row := make([]byte, 0, prefixBytes+len(key)+1)
	return append(banyan.AppendRowKey(row, banyan.SlotOf(banyan.Partition(key)), banyan.LayerKV, banyan.SpaceDefault), key...)
}

func userKey(row []byte) []byte { return row[min(prefixBytes, len(row)):] }

func (s *Service) shardOf(key []byte) banyan.ShardID { return s.db.ShardOf(banyan.Partition(key)) }

// Get reads one key.
func (s *Service) Get(ctx context.Context, req *banyanv1.GetRequest) (*banyanv1.GetResponse, error) {
	if err := checkKey(req.Key); err != nil {
		return nil, err
	}
	return toGetResponse(s.db.Read(ctx, s.shardOf(req.Key), getQuery(req)))
}

// GetThen is Get for a caller that does not wait: done is called once, from a
// goroutine that must not be held up.
func (s *Service) GetThen(ctx context.Context, req *banyanv1.GetRequest, done func(*banyanv1.GetResponse, error)) {
	if err := checkKey(req.Key); err != nil {
		done(nil, err)
		return
	}
	s.db.ReadThen(ctx, s.shardOf(req.Key), getQuery(req), func(res route.ReadResult, err error) { done(toGetResponse(res, err)) })
}

func getQuery(req *banyanv1.GetRequest) route.ReadQuery {
	return route.ReadQuery{Key: rowKey(req.Key), At: banyan.Revision(req.Revision), Stale: req.Stale}
}

func toGetResponse(res route.ReadResult, err error) (*banyanv1.GetResponse, error) {
	if err != nil {
		return nil, err
	}
	out := &banyanv1.GetResponse{Revision: uint64(res.Revision), AgeMs: res.Age.Milliseconds()}
	if len(res.Rows) > 0 {
		out.Kv = toKeyValue(&res.Rows[0])
	}
	return out, nil
}

// Put sets one key.
func (s *Service) Put(ctx context.Context, req *banyanv1.PutRequest) (*banyanv1.PutResponse, error) {
	cmd, err := putCommand(req)
	if err != nil {
		return nil, err
	}
	res, err := s.db.Commit(route.UserWrite(ctx), s.shardOf(req.Key), cmd)
	if err != nil {
		return nil, err
	}
	return &banyanv1.PutResponse{Revision: uint64(res.Revision)}, nil
}

// PutThen is Put for a caller that does not wait: done is called once, from a
// goroutine that must not be held up.
func (s *Service) PutThen(ctx context.Context, req *banyanv1.PutRequest, done func(*banyanv1.PutResponse, error)) {
	cmd, err := putCommand(req)
	if err != nil {
		done(nil, err)
		return
	}
	s.db.CommitThen(route.UserWrite(ctx), s.shardOf(req.Key), cmd, func(res mvcc.Result, err error) {
		if err != nil {
			done(nil, err)
			return
		}
		done(&banyanv1.PutResponse{Revision: uint64(res.Revision)}, nil)
	})
}

func putCommand(req *banyanv1.PutRequest) (*mvcc.Command, error) {
	cmd, err := request(req.RequestId, req.KnownRevision)
	if err != nil {
		return nil, err
	}
	cmd.Muts = []mvcc.Mutation{{Op: mvcc.Put, Key: rowKey(req.Key), Value: req.Value}}
	return cmd, checkPair(req.Key, req.Value)
}

// Delete removes one key, or every key of a prefix. A prefix with very many
// keys goes in several revisions; a retry with the same request id goes on
// where the first try ended.
func (s *Service) Delete(ctx context.Context, req *banyanv1.DeleteRequest) (*banyanv1.DeleteResponse, error) {
	cmd, err := request(req.RequestId, req.KnownRevision)
	if err != nil {
		return nil, err
	}
	mut, err := deletion(req.Key, req.Prefix)
	if err != nil {
		return nil, err
	}
	out := &banyanv1.DeleteResponse{}
	id, earliest := cmd.Request, cmd.Earliest
	for {
		res, err := s.db.Commit(ctx, s.shardOf(req.Key), &mvcc.Command{Request: id, Earliest: earliest, Muts: []mvcc.Mutation{mut}})
		if err != nil {
			return nil, err
		}
		out.Revision = uint64(res.Revision)
		out.Deleted += res.Deleted
		if !res.More {
			return out, nil
		}
		id = nextID(id)
		if earliest != 0 {
			earliest = res.Revision + 1 // the next step was never sent before this one was through
		}
	}
}

// Txn changes keys of one partition if all conditions hold.
func (s *Service) Txn(ctx context.Context, req *banyanv1.TxnRequest) (*banyanv1.TxnResponse, error) {
	shard, cmd, err := s.command(req)
	if err != nil {
		return nil, err
	}
	if slices.ContainsFunc(cmd.Muts, func(m mvcc.Mutation) bool { return m.Op == mvcc.Put || m.Op == mvcc.Append }) {
		ctx = route.UserWrite(ctx)
	}
	res, err := s.db.Commit(ctx, shard, cmd)
	if err != nil {
		return nil, err
	}
	if !res.OK && res.FailedCond < 0 {
		return nil, banyan.Errorf(banyan.Exhausted, "the transaction would remove or replace too much at once (DeleteRowsMax, DisplacedBytesMax): delete the prefix by itself first")
	}
	out := &banyanv1.TxnResponse{Succeeded: res.OK, Revision: uint64(res.Revision), Sequences: res.Sequences}
	if !res.OK {
		out.FailedCondition = uint32(res.FailedCond)
	}
	return out, nil
}

func toKeyValue(r *mvcc.Row) *banyanv1.KeyValue {
	return &banyanv1.KeyValue{
		Key: userKey(r.Key), Value: r.Value, CreateRevision: uint64(r.Create), ModRevision: uint64(r.Mod), Version: r.Version, Lease: r.Lease,
	}
}

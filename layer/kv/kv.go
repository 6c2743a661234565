// Package kv is the layer of the user's keys over the replicated machine. A
// key's partition, the part before its first '/', says which shard holds it;
// there it is a row of banyan.LayerKV in the slot of the partition. Everything is checked here, before a command
// is made of it.
package kv

import (
	"bytes"
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
	ShardOfSlot(slot int) banyan.ShardID
	Spans() []route.Span
	// Judge gives Moved if what the sender of a request knew is not of its shard.
	Judge(shard, of banyan.ShardID, known banyan.Revision) error
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
const keyMax = banyan.KeyBytesMax

func rowKey(key []byte) []byte {
	row := make([]byte, 0, prefixBytes+len(key)+1)
	return append(banyan.AppendRowKey(row, banyan.SlotOf(banyan.Partition(key)), banyan.LayerKV, banyan.SpaceDefault), key...)
}

func userKey(row []byte) []byte { return row[min(prefixBytes, len(row)):] }

func (s *Service) shardOf(key []byte) banyan.ShardID { return s.db.ShardOf(banyan.Partition(key)) }

// whose says of which shard a revision is that was told of a key just now. The
// shard that told it may have been split meanwhile: the child that holds the key
// has that revision too.
func (s *Service) whose(key []byte) uint32 { return uint32(s.shardOf(key)) }

// Get reads one key.
func (s *Service) Get(ctx context.Context, req *banyanv1.GetRequest) (*banyanv1.GetResponse, error) {
	if err := checkKey(req.Key); err != nil {
		return nil, err
	}
	res, err := s.db.Read(ctx, s.shardOf(req.Key), getQuery(req))
	return s.toGetResponse(req, res, err)
}

// GetThen is Get for a caller that does not wait: done is called once, from a
// goroutine that must not be held up.
func (s *Service) GetThen(ctx context.Context, req *banyanv1.GetRequest, done func(*banyanv1.GetResponse, error)) {
	if err := checkKey(req.Key); err != nil {
		done(nil, err)
		return
	}
	s.db.ReadThen(ctx, s.shardOf(req.Key), getQuery(req), func(res route.ReadResult, err error) { done(s.toGetResponse(req, res, err)) })
}

func getQuery(req *banyanv1.GetRequest) route.ReadQuery {
	return route.ReadQuery{Key: rowKey(req.Key), At: banyan.Revision(req.Revision), Stale: req.Stale}
}

func (s *Service) toGetResponse(req *banyanv1.GetRequest, res route.ReadResult, err error) (*banyanv1.GetResponse, error) {
	if err != nil {
		return nil, err
	}
	out := &banyanv1.GetResponse{Revision: uint64(res.Revision), AgeMs: res.Age.Milliseconds(), Shard: s.whose(req.Key)}
	if len(res.Rows) > 0 {
		out.Kv = toKeyValue(&res.Rows[0])
	}
	return out, nil
}

// Put sets one key.
func (s *Service) Put(ctx context.Context, req *banyanv1.PutRequest) (*banyanv1.PutResponse, error) {
	shard, cmd, err := s.putCommand(req)
	if err != nil {
		return nil, err
	}
	res, err := s.db.Commit(route.UserWrite(ctx), shard, cmd)
	if err != nil {
		return nil, err
	}
	return &banyanv1.PutResponse{Revision: uint64(res.Revision), Shard: s.whose(req.Key)}, nil
}

// PutThen is Put for a caller that does not wait: done is called once, from a
// goroutine that must not be held up.
func (s *Service) PutThen(ctx context.Context, req *banyanv1.PutRequest, done func(*banyanv1.PutResponse, error)) {
	shard, cmd, err := s.putCommand(req)
	if err != nil {
		done(nil, err)
		return
	}
	s.db.CommitThen(route.UserWrite(ctx), shard, cmd, func(res mvcc.Result, err error) {
		if err != nil {
			done(nil, err)
			return
		}
		done(&banyanv1.PutResponse{Revision: uint64(res.Revision), Shard: s.whose(req.Key)}, nil)
	})
}

func (s *Service) putCommand(req *banyanv1.PutRequest) (banyan.ShardID, *mvcc.Command, error) {
	shard, cmd, err := s.request(req.Key, req)
	if err != nil {
		return 0, nil, err
	}
	cmd.Muts = []mvcc.Mutation{{Op: mvcc.Put, Key: rowKey(req.Key), Value: req.Value}}
	return shard, cmd, checkPair(req.Key, req.Value)
}

// Delete removes one key, or the first keys of a prefix. Who sends a prefix with
// very many keys goes on step by step, and so decides whether it goes on; were
// the node to do so, a retry at another one would do the same again beside it.
func (s *Service) Delete(ctx context.Context, req *banyanv1.DeleteRequest) (*banyanv1.DeleteResponse, error) {
	shard, cmd, err := s.request(req.Key, req)
	if err != nil {
		return nil, err
	}
	mut, err := deletion(req.Key, req.Prefix)
	if err != nil {
		return nil, err
	}
	out := &banyanv1.DeleteResponse{}
	if req.Prefix {
		if out.After, err = s.step(ctx, req, &mut); err != nil {
			return nil, err
		}
	}
	cmd.Muts = []mvcc.Mutation{mut}
	res, err := s.db.Commit(ctx, shard, cmd)
	if err != nil {
		return nil, err
	}
	out.Revision, out.Deleted, out.More = uint64(res.Revision), res.Deleted, out.After != nil
	out.Shard = s.whose(req.Key)
	if res.More { // their values were too much for one command: the step is not through
		out.More, out.After = true, req.After
	}
	return out, nil
}

// step cuts the range of a deletion down to what one step may remove, and gives
// the last key in it, nil if nothing lies behind. The range is what is committed,
// not the keys: a copy of the request changes nothing, whatever it finds here.
func (s *Service) step(ctx context.Context, req *banyanv1.DeleteRequest, mut *mvcc.Mutation) (last []byte, err error) {
	if len(req.After) > 0 {
		if err := checkKey(req.After); err != nil {
			return nil, err
		}
		if behind := append(rowKey(req.After), 0); bytes.Compare(behind, mut.Key) > 0 {
			mut.Key = behind
		}
		if bytes.Compare(mut.Key, mut.End) >= 0 {
			return nil, banyan.Errorf(banyan.Invalid, "after %.64q lies behind all keys that start with %.64q: nothing is left to delete", req.After, req.Key)
		}
	}
	res, err := s.db.Read(ctx, s.shardOf(req.Key), route.ReadQuery{Key: mut.Key, End: mut.End, Limit: banyan.DeleteStepKeysMax, KeysOnly: true})
	if err != nil || !res.More || len(res.Rows) == 0 {
		return nil, err
	}
	row := res.Rows[len(res.Rows)-1].Key
	mut.End = append(bytes.Clone(row), 0)
	return userKey(row), nil
}

// Txn changes keys of one partition if all conditions hold.
func (s *Service) Txn(ctx context.Context, req *banyanv1.TxnRequest) (*banyanv1.TxnResponse, error) {
	shard, key, cmd, err := s.command(req)
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
	out := &banyanv1.TxnResponse{Succeeded: res.OK, Revision: uint64(res.Revision), Sequences: res.Sequences, Shard: s.whose(key)}
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

package client

import (
	"context"
	"iter"
	"time"

	"banyan"
	banyanv1 "banyan/api/banyan/v1"
	"banyan/api/banyan/v1/banyanv1connect"
	"banyan/obs"

	"connectrpc.com/connect"
)

// KV reads and writes keys. Keys that share the part before their first '/'
// are a partition: they can be listed, watched and changed together.
type KV struct{ c *Client }

// KV gives the keys of the cluster.
func (c *Client) KV() KV { return KV{c} }

// ReadOption changes how a key or a list is read.
type ReadOption func(*banyanv1.ListRequest)

// AtRevision reads the state as of a revision of the partition's shard.
func AtRevision(r banyan.Revision) ReadOption {
	return func(q *banyanv1.ListRequest) { q.Revision = uint64(r) }
}

// Stale reads from the nearest replica, which may be a little behind.
func Stale() ReadOption { return func(q *banyanv1.ListRequest) { q.Stale = true } }

// KeysOnly lists without values.
func KeysOnly() ReadOption { return func(q *banyanv1.ListRequest) { q.KeysOnly = true } }

// After lists only what comes behind a key.
func After(key []byte) ReadOption { return func(q *banyanv1.ListRequest) { q.After = key } }

func readOptions(options []ReadOption) *banyanv1.ListRequest {
	q := &banyanv1.ListRequest{}
	for _, o := range options {
		o(q)
	}
	return q
}

// Get reads a key. NotFound: there is no such key.
func (k KV) Get(ctx context.Context, key []byte, options ...ReadOption) (*banyanv1.KeyValue, error) {
	q := readOptions(options)
	res, err := k.Read(ctx, &banyanv1.GetRequest{Key: key, Revision: q.Revision, Stale: q.Stale})
	if err != nil {
		return nil, err
	}
	if res.Kv == nil {
		return nil, banyan.Errorf(banyan.NotFound, "there is no key %q", key)
	}
	return res.Kv, nil
}

// Read is Get with the whole answer; a key that is not there is no error.
func (k KV) Read(ctx context.Context, req *banyanv1.GetRequest) (*banyanv1.GetResponse, error) {
	partition := banyan.Partition(req.Key)
	if req.Stale {
		partition = nil // any node has one
	}
	began := time.Now()
	res, err := call(ctx, k.c, partition, req, kvMethod(banyanv1connect.KVClient.Get), func(r *banyanv1.GetRequest) *banyanv1.Call {
		return &banyanv1.Call{Call: &banyanv1.Call_Get{Get: r}}
	}, (*banyanv1.Answer).GetGet)
	if err == nil && partition != nil {
		k.c.hear(partition, res.GetShard(), res.GetRevision(), began)
	}
	return res, err
}

// Put sets a key and gives the revision of the change.
func (k KV) Put(ctx context.Context, key, value []byte) (banyan.Revision, error) {
	var res *banyanv1.PutResponse
	err := k.write(ctx, key, func(ctx context.Context, id []byte, known line) (_ uint64, _ uint32, err error) {
		req := &banyanv1.PutRequest{Key: key, Value: value, RequestId: id, KnownRevision: &known.revision, KnownShard: known.shard}
		res, err = call(ctx, k.c, banyan.Partition(key), req, kvMethod(banyanv1connect.KVClient.Put), func(r *banyanv1.PutRequest) *banyanv1.Call {
			return &banyanv1.Call{Call: &banyanv1.Call_Put{Put: r}}
		}, (*banyanv1.Answer).GetPut)
		return res.GetRevision(), res.GetShard(), err
	})
	return banyan.Revision(res.GetRevision()), err
}

// Delete removes a key and says whether it was there.
func (k KV) Delete(ctx context.Context, key []byte) (bool, error) {
	res, err := k.delete(ctx, &banyanv1.DeleteRequest{Key: key})
	return res.GetDeleted() > 0, err
}

// DeletePrefix removes the keys that start with prefix, which must contain a
// '/', and says how many it removed, also beside an error. Many go in steps, one
// at a time, so that other writers are not held up; each step has the time of a
// call, and none begins once ctx has ended. done, if given, hears how many are
// gone after each step.
func (k KV) DeletePrefix(ctx context.Context, prefix []byte, done ...func(deleted uint64)) (deleted uint64, err error) {
	req := &banyanv1.DeleteRequest{Key: prefix, Prefix: true}
	for {
		res, err := k.delete(ctx, req)
		deleted += res.GetDeleted()
		if err != nil || !res.More {
			return deleted, err
		}
		for _, hear := range done {
			hear(deleted)
		}
		if ctx.Err() != nil {
			return deleted, &banyan.Error{Kind: banyan.Canceled, Err: context.Cause(ctx)}
		}
		req.After = res.After
	}
}

func (k KV) delete(ctx context.Context, what *banyanv1.DeleteRequest) (*banyanv1.DeleteResponse, error) {
	var res *banyanv1.DeleteResponse
	key := what.Key
	err := k.write(ctx, key, func(ctx context.Context, id []byte, known line) (_ uint64, _ uint32, err error) {
		req := &banyanv1.DeleteRequest{Key: key, Prefix: what.Prefix, After: what.After, RequestId: id, KnownRevision: &known.revision, KnownShard: known.shard}
		res, err = call(ctx, k.c, banyan.Partition(key), req, kvMethod(banyanv1connect.KVClient.Delete), func(r *banyanv1.DeleteRequest) *banyanv1.Call {
			return &banyanv1.Call{Call: &banyanv1.Call_Delete{Delete: r}}
		}, (*banyanv1.Answer).GetDelete)
		return res.GetRevision(), res.GetShard(), err
	})
	if err != nil {
		return nil, err
	}
	return res, nil
}

// List gives the keys that start with prefix, in order, asking for page after
// page. If prefix contains a '/' all are of one revision; else they are of many
// shards, each at its own. The error, if any, comes last.
func (k KV) List(ctx context.Context, prefix []byte, options ...ReadOption) iter.Seq2[*banyanv1.KeyValue, error] {
	return func(yield func(*banyanv1.KeyValue, error) bool) {
		q := readOptions(options)
		q.Prefix = prefix
		for {
			page, err := k.ListPage(ctx, q)
			if err != nil {
				yield(nil, err)
				return
			}
			for _, kv := range page.Kvs {
				if !yield(kv, nil) {
					return
				}
			}
			if !page.More || len(page.Kvs) == 0 {
				return
			}
			q.After = page.Kvs[len(page.Kvs)-1].Key
			if !q.Stale {
				q.Revision = page.Revision
			}
		}
	}
}

// ListPage gives one page of a list.
func (k KV) ListPage(ctx context.Context, req *banyanv1.ListRequest) (*banyanv1.ListResponse, error) {
	var partition []byte
	if p := banyan.Partition(req.Prefix); len(p) < len(req.Prefix) && !req.Stale {
		partition = p
	}
	return unary(ctx, k.c, partition, req, kvMethod(banyanv1connect.KVClient.List))
}

// Txn makes all mutations, at one revision, if all conditions hold; the answer
// says whether they did. All keys must be of one partition. A missing
// request_id is filled in, and known_revision with it.
func (k KV) Txn(ctx context.Context, req *banyanv1.TxnRequest) (res *banyanv1.TxnResponse, err error) {
	var key []byte
	switch {
	case len(req.Conditions) > 0:
		key = req.Conditions[0].GetKey()
	case len(req.Mutations) > 0:
		m := req.Mutations[0]
		key = append(append(append(key, m.GetPut().GetKey()...), m.GetDelete().GetKey()...), m.GetAppend().GetPrefix()...) // one of them is set
	}
	send := func(ctx context.Context, own *banyanv1.TxnRequest) (uint64, uint32, error) {
		res, err = call(ctx, k.c, banyan.Partition(key), own, kvMethod(banyanv1connect.KVClient.Txn), func(r *banyanv1.TxnRequest) *banyanv1.Call {
			return &banyanv1.Call{Call: &banyanv1.Call_Txn{Txn: r}}
		}, (*banyanv1.Answer).GetTxn)
		return res.GetRevision(), res.GetShard(), err
	}
	if len(req.RequestId) > 0 { // it may have been sent before
		_, _, err = send(ctx, &banyanv1.TxnRequest{
			Conditions: req.Conditions, Mutations: req.Mutations, RequestId: req.RequestId, KnownRevision: req.KnownRevision, KnownShard: req.KnownShard,
		})
		return res, err
	}
	err = k.write(ctx, key, func(ctx context.Context, id []byte, known line) (uint64, uint32, error) {
		return send(ctx, &banyanv1.TxnRequest{Conditions: req.Conditions, Mutations: req.Mutations, RequestId: id, KnownRevision: &known.revision, KnownShard: known.shard})
	})
	return res, err
}

// Watch calls fn with the changes of a key, or of the keys of a prefix in one
// partition, from a revision on (0: after now), once and in order, whatever
// becomes of the nodes. The first call, without events, says that the watch
// stands. It ends with fn's error, ctx's, or Compacted.
func (k KV) Watch(ctx context.Context, req *banyanv1.WatchRequest, fn func(*banyanv1.WatchResponse) error) error {
	from := req.FromRevision
	var own error
	err := k.c.keep(ctx, banyan.Partition(req.Key), func(ctx context.Context, n *node, heard func()) error {
		msg := connect.NewRequest(&banyanv1.WatchRequest{Key: req.Key, Prefix: req.Prefix, FromRevision: from})
		obs.ToHeader(ctx, msg.Header())
		stream, err := n.kv.Watch(ctx, msg)
		if err != nil {
			return err
		}
		defer stream.Close()
		for stream.Receive() {
			heard()
			m := stream.Msg()
			from = max(from, m.Revision+1)
			if own = fn(m); own != nil {
				return nil
			}
		}
		return brokenOff(stream.Err())
	})
	if own != nil {
		return own
	}
	return err
}

// brokenOff makes an error of a stream that ended before its time.
func brokenOff(err error) error {
	if err == nil {
		return banyan.Errorf(banyan.Unavailable, "the node ended the stream")
	}
	return err
}

func kvMethod[Req, Res any](m func(banyanv1connect.KVClient, context.Context, *connect.Request[Req]) (*connect.Response[Res], error)) func(*node, context.Context, *connect.Request[Req]) (*connect.Response[Res], error) {
	return func(n *node, ctx context.Context, req *connect.Request[Req]) (*connect.Response[Res], error) {
		return m(n.kv, ctx, req)
	}
}

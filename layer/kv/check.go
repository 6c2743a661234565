package kv

import (
	"bytes"

	"banyan"
	banyanv1 "banyan/api/banyan/v1"
	"banyan/core/mvcc"
)

func checkKey(key []byte) error {
	switch {
	case len(key) == 0:
		return banyan.Errorf(banyan.Invalid, "the key is empty: give one, such as space/name")
	case len(key) > keyMax:
		return banyan.Errorf(banyan.Exhausted, "the key %.32q… has %d bytes: at most %d are allowed (KeyBytesMax)", key, len(key), keyMax)
	}
	return nil
}

func checkPair(key, value []byte) error {
	if err := checkKey(key); err != nil {
		return err
	}
	if len(value) > banyan.ValueBytesMax {
		return banyan.Errorf(banyan.Exhausted, "the value of key %.64q has %d bytes: at most %d are allowed (ValueBytesMax); store larger things as files", key, len(value), banyan.ValueBytesMax)
	}
	return nil
}

// checkPrefix checks a prefix that must stay in one partition.
func checkPrefix(prefix []byte) error {
	if err := checkKey(prefix); err != nil {
		return err
	}
	if !bytes.Contains(prefix, []byte{'/'}) {
		return banyan.Errorf(banyan.Invalid, "the prefix %.64q spans shards: give one with a '/', such as %.64s/", prefix, prefix)
	}
	return nil
}

// asked is what all writes say.
type asked interface {
	GetRequestId() []byte
	GetKnownRevision() uint64
	GetKnownShard() uint32
}

// request is the beginning of the command of a request about a key: the shard it
// goes to, its id, and the first revision that it can have made there.
func (s *Service) request(key []byte, req asked) (banyan.ShardID, *mvcc.Command, error) {
	cmd, shard, id := &mvcc.Command{}, s.shardOf(key), req.GetRequestId()
	if len(id) != 0 && len(id) != len(cmd.Request) {
		return 0, nil, banyan.Errorf(banyan.Invalid, "request_id has %d bytes: give 16 random ones, or none", len(id))
	}
	copy(cmd.Request[:], id)
	if known, ok := knownOf(req); ok && len(id) != 0 {
		if err := s.db.Judge(shard, banyan.ShardID(req.GetKnownShard()), banyan.Revision(known)); err != nil {
			return 0, nil, err
		}
		cmd.Earliest = banyan.Revision(known) + 1
	}
	return shard, cmd, nil
}

// knownOf gives the revision that a write says was known, if it says one.
func knownOf(req asked) (revision uint64, ok bool) {
	switch r := req.(type) {
	case *banyanv1.PutRequest:
		ok = r.KnownRevision != nil
	case *banyanv1.DeleteRequest:
		ok = r.KnownRevision != nil
	case *banyanv1.TxnRequest:
		ok = r.KnownRevision != nil
	}
	return req.GetKnownRevision(), ok
}

func deletion(key []byte, prefix bool) (mvcc.Mutation, error) {
	if !prefix {
		return mvcc.Mutation{Op: mvcc.Delete, Key: rowKey(key)}, checkKey(key)
	}
	row := rowKey(key)
	return mvcc.Mutation{Op: mvcc.DeleteRange, Key: row, End: mvcc.PrefixEnd(row)}, checkPrefix(key)
}

// command checks a transaction and makes the machine's command of it. It also
// gives the shard, and a key of the one partition.
func (s *Service) command(req *banyanv1.TxnRequest) (shard banyan.ShardID, first []byte, cmd *mvcc.Command, err error) {
	if len(req.Mutations)+len(req.Conditions) == 0 {
		return 0, nil, nil, banyan.Errorf(banyan.Invalid, "the transaction is empty: give it conditions or mutations")
	}
	same := func(key []byte) error {
		if first == nil {
			first = key
		}
		if !bytes.Equal(banyan.Partition(first), banyan.Partition(key)) {
			return banyan.Errorf(banyan.Invalid, "keys %.64q and %.64q are in different partitions: a transaction changes keys that share the part before the first '/'", first, key)
		}
		return nil
	}
	var conds []mvcc.Cond
	for i, c := range req.Conditions {
		cond, err := condition(i, c)
		if err == nil {
			err = same(c.GetKey())
		}
		if err != nil {
			return 0, nil, nil, err
		}
		conds = append(conds, cond)
	}
	var muts []mvcc.Mutation
	for i, m := range req.Mutations {
		mut, key, err := mutation(i, m)
		if err == nil {
			err = same(key)
		}
		if err != nil {
			return 0, nil, nil, err
		}
		muts = append(muts, mut)
	}
	if shard, cmd, err = s.request(first, req); err != nil {
		return 0, nil, nil, err
	}
	cmd.Conds, cmd.Muts = conds, muts
	return shard, first, cmd, cmd.Validate()
}

func condition(i int, c *banyanv1.Condition) (mvcc.Cond, error) {
	out := mvcc.Cond{Key: rowKey(c.GetKey())}
	switch t := c.GetTest().(type) {
	case *banyanv1.Condition_Exists:
		out.Test = mvcc.Missing
		if t.Exists {
			out.Test = mvcc.Exists
		}
	case *banyanv1.Condition_Value:
		out.Test, out.Value = mvcc.ValueEquals, t.Value
	case *banyanv1.Condition_ModRevision:
		out.Test, out.Number = mvcc.ModEquals, t.ModRevision
	case *banyanv1.Condition_Held_:
		out.Key = banyan.LockRow(string(c.GetKey()), t.Held.GetPermit())
		out.Test, out.Number = mvcc.ModEquals, t.Held.GetToken()
		if out.Number == 0 {
			return out, banyan.Errorf(banyan.Invalid, "condition %d: a lock is never held with token 0: give the token that taking it gave", i)
		}
	default:
		return out, banyan.Errorf(banyan.Invalid, "condition %d asks nothing: set exists, value, mod_revision or held", i)
	}
	return out, checkPair(c.GetKey(), out.Value)
}

func mutation(i int, m *banyanv1.Mutation) (out mvcc.Mutation, key []byte, err error) {
	switch op := m.GetOp().(type) {
	case *banyanv1.Mutation_Put_:
		key = op.Put.GetKey()
		return mvcc.Mutation{Op: mvcc.Put, Key: rowKey(key), Value: op.Put.GetValue()}, key, checkPair(key, op.Put.GetValue())
	case *banyanv1.Mutation_Delete:
		key = op.Delete.GetKey()
		out, err = deletion(key, op.Delete.GetPrefix())
		return out, key, err
	case *banyanv1.Mutation_Append_:
		key = op.Append.GetPrefix()
		if err := checkPrefix(key); err != nil {
			return out, nil, err
		}
		return mvcc.Mutation{Op: mvcc.Append, Key: rowKey(key), Value: op.Append.GetValue()}, key, checkPair(mvcc.SequenceKey(key, 0), op.Append.GetValue())
	}
	return out, nil, banyan.Errorf(banyan.Invalid, "mutation %d does nothing: set put, delete or append", i)
}

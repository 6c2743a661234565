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

// request is the beginning of the command of a request: its id, and the first
// revision that it can have made.
func request(id []byte, known *uint64) (*mvcc.Command, error) {
	cmd := &mvcc.Command{}
	if len(id) != 0 && len(id) != len(cmd.Request) {
		return nil, banyan.Errorf(banyan.Invalid, "request_id has %d bytes: give 16 random ones, or none", len(id))
	}
	copy(cmd.Request[:], id)
	if known != nil && len(id) != 0 {
		cmd.Earliest = banyan.Revision(*known) + 1
	}
	return cmd, nil
}

func deletion(key []byte, prefix bool) (mvcc.Mutation, error) {
	if !prefix {
		return mvcc.Mutation{Op: mvcc.Delete, Key: rowKey(key)}, checkKey(key)
	}
	row := rowKey(key)
	return mvcc.Mutation{Op: mvcc.DeleteRange, Key: row, End: mvcc.PrefixEnd(row)}, checkPrefix(key)
}

// command checks a transaction and makes the machine's command of it.
func (s *Service) command(req *banyanv1.TxnRequest) (banyan.ShardID, *mvcc.Command, error) {
	cmd, err := request(req.RequestId, req.KnownRevision)
	if err != nil {
		return 0, nil, err
	}
	if len(req.Mutations)+len(req.Conditions) == 0 {
		return 0, nil, banyan.Errorf(banyan.Invalid, "the transaction is empty: give it conditions or mutations")
	}
	var first []byte // a key of the one partition
	same := func(key []byte) error {
		if first == nil {
			first = key
		}
		if !bytes.Equal(banyan.Partition(first), banyan.Partition(key)) {
			return banyan.Errorf(banyan.Invalid, "keys %.64q and %.64q are in different partitions: a transaction changes keys that share the part before the first '/'", first, key)
		}
		return nil
	}
	for i, c := range req.Conditions {
		cond, err := condition(i, c)
		if err == nil {
			err = same(c.GetKey())
		}
		if err != nil {
			return 0, nil, err
		}
		cmd.Conds = append(cmd.Conds, cond)
	}
	for i, m := range req.Mutations {
		mut, key, err := mutation(i, m)
		if err == nil {
			err = same(key)
		}
		if err != nil {
			return 0, nil, err
		}
		cmd.Muts = append(cmd.Muts, mut)
	}
	return s.shardOf(first), cmd, cmd.Validate()
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

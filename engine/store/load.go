package store

import (
	"bytes"
	"encoding/binary"
	"slices"

	"go.etcd.io/raft/v3/raftpb"

	"banyan"
)

// tailEntries is how much of the committed log is read and checked on opening,
// beside all that is not committed. What is older is checked when it is read.
const tailEntries = 256

// load checks what is on disk and brings it to memory. Nothing is changed
// before the format is known.
func (s *Store) load() error {
	if err := s.loadFormat(); err != nil {
		return err
	}
	key := []byte{prefixIdentity}
	row, err := s.kv.Get(key)
	if err != nil {
		return err
	}
	if row != nil {
		if s.identity, err = decodeIdentity(key, row); err != nil {
			return s.damaged(err)
		}
	}
	found, err := s.loadMeta()
	if err != nil {
		return err
	}
	for _, sh := range found {
		if err := sh.load(); err != nil {
			return err
		}
		s.states.Store(max(s.states.Load(), sh.m.at.state))
	}
	for _, sh := range found {
		if at := sh.m.at; sh.m.tombstone {
			sh.m.at = s.place(sh.id)
		} else {
			sh.m.at = newLayout(at.state, sh.id, at.lo, at.hi)
		}
	}
	return s.dropStages()
}

func (s *Store) damaged(err error) error {
	if banyan.IsKind(err, banyan.TooNew) {
		return err
	}
	return banyan.Errorf(banyan.Corrupt, "the store is damaged: %w: %s", err, corruptRemedy)
}

// loadFormat writes the format of a fresh store, which the next sync makes
// durable together with the first row that matters.
func (s *Store) loadFormat() error {
	key := []byte{prefixFormat}
	row, err := s.kv.Get(key)
	if err != nil {
		return err
	}
	if row != nil {
		var version uint64
		if err := decodeNumbers(key, row, &version); err != nil {
			return s.damaged(err)
		}
		if version > formatVersion {
			return banyan.Errorf(banyan.TooNew,
				"the store has format %d, this binary (%s) knows %d: start the newer banyan that wrote it",
				version, banyan.Version, formatVersion)
		}
		if version < formatVersion {
			return banyan.Errorf(banyan.TooNew,
				"the store has format %d, this binary (banyan %s) reads format %d only and does not convert: run the release that wrote it, or begin with a new directory",
				version, banyan.Version, formatVersion)
		}
		return nil
	}
	empty := true
	if err := s.kv.Scan(nil, nil, func(_, _ []byte) bool { empty = false; return false }); err != nil {
		return err
	}
	if !empty {
		return s.damaged(banyan.Errorf(banyan.Corrupt, "it has rows but no format"))
	}
	b := s.kv.NewBatch()
	b.Set(key, encodeNumbers(nil, key, formatVersion))
	return s.commit(b, false)
}

// loadMeta reads what is known of each replica, ascending by shard.
func (s *Store) loadMeta() ([]*Shard, error) {
	var found []*Shard
	var broken error
	lo := []byte{prefixMeta}
	err := s.kv.Scan(lo, prefixEnd(lo), func(k, v []byte) bool {
		if len(k) != 6 {
			broken = s.damaged(banyan.Errorf(banyan.Corrupt, "row %x has a strange key", k))
			return false
		}
		sh := s.Shard(banyan.ShardID(binary.BigEndian.Uint32(k[1:])))
		if !slices.Contains(found, sh) {
			found = append(found, sh)
		}
		if err := sh.m.decode(k, v); err != nil {
			broken = sh.damaged(err)
		}
		return broken == nil
	})
	if err == nil {
		err = broken
	}
	return found, err
}

// decode takes in one meta row.
func (m *meta) decode(k, v []byte) (err error) {
	switch k[5] {
	case kindDescriptor:
		at := *m.at
		err = decodeNumbers(k, v, &at.state, &m.trunc, &m.truncTerm)
		m.exists, m.at = true, &at
	case kindBounds:
		at := *m.at
		at.lo, at.hi, err = decodeBounds(k, v)
		m.at = &at
	case kindHardState:
		err = decodeNumbers(k, v, &m.term, &m.vote, &m.commit)
	case kindApplied:
		err = decodeNumbers(k, v, &m.applied, &m.appliedTerm)
	case kindConf:
		m.conf, err = decodeConf(k, v)
	case kindTombstone:
		m.tombstone = true
		err = decodeNumbers(k, v, &m.term, &m.vote)
	default:
		err = banyan.Errorf(banyan.Corrupt, "row %x is of no known kind", k)
	}
	return err
}

// load reads the end of the log and checks the whole replica.
func (sh *Shard) load() error {
	m := &sh.m
	if m.tombstone == m.exists {
		return sh.damaged(banyan.Errorf(banyan.Corrupt, "its descriptor does not fit its tombstone"))
	}
	if m.tombstone {
		return nil
	}
	from := m.trunc + 1
	if m.committed() > m.trunc+tailEntries {
		from = m.committed() - tailEntries
		first, err := sh.s.kv.Get(logKey(nil, sh.id, m.trunc+1))
		if err != nil {
			return err
		}
		if first == nil {
			return sh.damaged(banyan.Errorf(banyan.Corrupt, "log entry %d is missing", m.trunc+1))
		}
	}
	m.last = from - 1
	var broken error
	hi := prefixEnd(shardPrefix(prefixLog, sh.id))
	err := sh.s.kv.Scan(logKey(nil, sh.id, from), hi, func(k, v []byte) bool {
		var e *raftpb.Entry
		if e, broken = decodeEntry(k, v); broken == nil {
			broken = sh.follow(e)
		}
		return broken == nil
	})
	if err != nil {
		return err
	}
	if why := m.check(); broken == nil && why != "" {
		broken = banyan.Errorf(banyan.Corrupt, "%s (truncated %d, applied %d, committed %d, last %d)",
			why, m.trunc, m.applied, m.commit, m.last)
	}
	if broken != nil {
		return sh.damaged(broken)
	}
	return nil
}

// follow takes the next entry of the log into memory if it fits what is known.
func (sh *Shard) follow(e *raftpb.Entry) error {
	m, index, term := &sh.m, e.GetIndex(), e.GetTerm()
	before := m.truncTerm
	if len(sh.tail) > 0 {
		before = sh.tail[len(sh.tail)-1].GetTerm()
	}
	switch {
	case index != m.last+1:
		return banyan.Errorf(banyan.Corrupt, "log entry %d is missing", m.last+1)
	case term < before || term > m.term:
		return banyan.Errorf(banyan.Corrupt, "log entry %d is of term %d, which does not fit its place", index, term)
	case index == m.applied && term != m.appliedTerm:
		return banyan.Errorf(banyan.Corrupt, "log entry %d is not the one that was applied", index)
	}
	m.last = index
	sh.remember([]*raftpb.Entry{e})
	return nil
}

// dropStages removes what snapshots that were never installed left behind.
func (s *Store) dropStages() error {
	known := map[uint64]bool{}
	for _, sh := range s.all() {
		known[sh.m.at.state] = sh.m.exists || known[sh.m.at.state]
	}
	b := s.kv.NewBatch()
	defer b.Close()
	dropped := false
	for from := []byte{prefixState}; ; {
		var p []byte
		err := s.kv.Scan(from, []byte{prefixState + 1}, func(k, _ []byte) bool {
			p = bytes.Clone(k[:min(len(k), stateBytes)])
			return false
		})
		if err != nil {
			return err
		}
		if p == nil {
			break
		}
		if len(p) < stateBytes {
			return s.damaged(banyan.Errorf(banyan.Corrupt, "row %x has a strange key", p))
		}
		from = prefixEnd(p)
		state := binary.BigEndian.Uint64(p[1:])
		s.states.Store(max(s.states.Load(), state))
		if !known[state] {
			b.DeleteRange(p, from)
			dropped = true
		}
	}
	if !dropped {
		return nil
	}
	return s.commit(b, false)
}

package mvcc

import (
	"bytes"

	"banyan"
)

// planCompact works out how far the horizon can rise towards compactTo within
// the bound, and which rows go: the versions that ended at or below the new
// horizon, as the records of those revisions list them, and then the records
// themselves. A record whose request is still remembered stays until the
// window drops it. more says that compactTo was not reached.
func (p *plan) planCompact(m *Machine) (more bool, err error) {
	target := min(p.compactTo, m.revision)
	if target <= m.horizon {
		return false, nil
	}
	front := m.window.front()
	remembers := front != (place{})
	reached := m.horizon
	rows := 0
	from, to := appendPlaceKey(nil, place{rev: m.horizon + 1}), appendPlaceKey(nil, place{rev: target + 1})
	scanErr := p.r.Scan(from, to, func(k, v []byte) bool {
		if rows >= banyan.CompactRowsMax {
			return false
		}
		var rec record
		var at place
		if at, rec, err = nextRecord(k, v, reached); err != nil || at.n > 0 {
			return err == nil
		}
		p.reclaimed += uint64(len(k)+len(v)) + rec.displaced
		for _, c := range rec.changes {
			if c.displaced && m.bounds.has(c.key) { // others went to another shard, with their records
				p.dead = append(p.dead, appendHistoryKey(nil, c.key, at.rev))
			}
		}
		forgotten := rec.request == (banyan.RequestID{}) || at.before(front)
		if remembers && at.rev >= front.rev && forgotten { // keepFrom spares it
			p.dead = append(p.dead, bytes.Clone(k))
		}
		rows += 1 + len(rec.changes)
		reached = at.rev
		return true
	})
	if err != nil || scanErr != nil {
		if err == nil {
			err = scanErr
		}
		return false, err
	}
	p.horizon = reached
	p.keepFrom = reached + 1
	if remembers {
		p.keepFrom = min(p.keepFrom, front.rev)
	}
	return reached < target, nil
}

// nextRecord reads a row among the records, which must be the one behind
// revision prev, or a note.
func nextRecord(k, v []byte, prev banyan.Revision) (at place, rec record, err error) {
	if at, err = parsePlaceKey(k); err != nil || at.n > 0 {
		return at, rec, err
	}
	if at.rev != prev+1 {
		return at, rec, banyan.Errorf(banyan.Corrupt, "mvcc: the record of revision %d is missing", prev+1)
	}
	rec, err = decodeRecord(v)
	return at, rec, err
}

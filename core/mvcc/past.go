package mvcc

import (
	"bytes"

	"banyan"
)

const (
	// pieceRows is how many rows one scan of a read in the past looks at: what a
	// page has looked at in vain behind its last row is looked at again for the
	// next page, so it must be little.
	pieceRows = 1024
	// skipRows is after how many versions of one key in a row, none of them
	// asked for, the scan jumps over the others instead.
	skipRows = 16
)

// walk goes through the versions of one kind, current or ended, that held at a
// revision, in the order of their keys and a piece at a time.
type walk struct {
	q     *Query
	ended bool   // versions that ended, not current ones
	next  []byte // the row where the next piece begins
	to    []byte // the row where all ends
	seen  []byte // the last key looked at; what holds before it, or of it, is in rows or was
	rows  []Row  // that held, not taken yet
	done  bool   // nothing lies behind rows
}

// rangeAt merges the current versions and those that ended: a key has at most
// one among both that held. It looks no further ahead in one of them than the
// other one is, but for a piece: were it to look on until it finds a row, a page
// would cost the whole range where all keys were changed since.
func rangeAt(r Reader, q *Query) (rows []Row, more bool, err error) {
	current, ended := walk{q: q}, walk{q: q, ended: true}
	current.next, current.to = Bounds(currentPrefix, q.Lo, q.Hi)
	ended.next, ended.to = Bounds(historyPrefix, q.Lo, q.Hi)
	p := page{q: q}
	for {
		from, other := &current, &ended
		if from.behind(other) {
			from, other = other, from
		}
		switch {
		case len(from.rows) > 0 && other.past(from.rows[0].Key):
			if !p.add(from.rows[0]) {
				return p.rows, true, nil
			}
			from.rows = from.rows[1:]
			continue
		case len(from.rows) > 0:
			from = other // it may have a row before that
		case from.done && other.done:
			return p.rows, p.more, nil
		case from.done || !other.done && bytes.Compare(other.seen, from.seen) < 0:
			from = other
		}
		if q.Stop != nil && q.Stop() {
			return nil, false, banyan.Errorf(banyan.Canceled, "the list at revision %d was given up before it was whole", q.At)
		}
		if err := from.piece(r); err != nil {
			return nil, false, err
		}
	}
}

// behind says whether the first row of o comes before the first one of w, or w
// has none.
func (w *walk) behind(o *walk) bool {
	return len(o.rows) > 0 && (len(w.rows) == 0 || bytes.Compare(o.rows[0].Key, w.rows[0].Key) < 0)
}

// past says whether w has nothing to give before a key that the other walk has.
func (w *walk) past(key []byte) bool {
	return len(w.rows) > 0 || w.done || bytes.Compare(key, w.seen) <= 0
}

// piece looks at the next rows.
func (w *walk) piece(r Reader) error {
	p := page{q: w.q}
	looked, skipped := 0, 0
	whole := true
	var jump []byte
	var err error
	scanErr := r.Scan(w.next, w.to, func(k, v []byte) bool {
		key, end, row, rerr := w.version(k, v)
		if err = rerr; err != nil {
			return false
		}
		if looked >= pieceRows || len(p.rows) >= w.q.Limit || p.bytes >= w.q.BytesMax {
			jump, whole = bytes.Clone(k), false
			return false
		}
		looked++
		again := looked > 1 && bytes.Equal(key, w.seen)
		w.seen = append(w.seen[:0], key...)
		if end > w.q.At && row.Mod <= w.q.At {
			skipped = 0
			return p.addCopy(row)
		}
		if skipped++; !again {
			skipped = 1
		}
		if skipped == skipRows && w.ended {
			jump, whole = w.over(key, end), false
			return false
		}
		return true
	})
	if err == nil {
		err = scanErr
	}
	w.rows, w.next, w.done = p.rows, jump, whole
	return err
}

// version reads a row. A current version ends behind all revisions.
func (w *walk) version(k, v []byte) (key []byte, end banyan.Revision, row Row, err error) {
	key, end = k[1:], ^banyan.Revision(0)
	if w.ended {
		if key, end, err = parseHistoryKey(k); err != nil {
			return nil, 0, row, err
		}
	}
	row, err = decodeVersion(key, v)
	return key, end, row, err
}

// over gives the row behind the versions of a key that are not asked for: those
// that ended too early, or, if this one did not, all.
func (w *walk) over(key []byte, end banyan.Revision) []byte {
	if end <= w.q.At {
		return appendHistoryKey(nil, key, w.q.At+1)
	}
	return PrefixEnd(appendHistoryPrefix(nil, key))
}

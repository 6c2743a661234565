package mvcc

import (
	"bytes"

	"banyan"
)

// Get gives the version of key at a revision, 0 being now; nil if there was
// none. The row is the caller's. Errors are of kind Compacted (older than the
// horizon), Invalid (not reached yet), or what the Reader fails with.
func Get(r Reader, key []byte, at banyan.Revision) (*Row, error) {
	if at != 0 {
		if _, err := readable(r, at); err != nil {
			return nil, err
		}
	}
	return versionAt(r, key, at)
}

// RevisionOf gives the latest revision of the shard that r reads.
func RevisionOf(r Reader) (banyan.Revision, error) {
	mt, err := readMeta(r)
	return mt.revision, err
}

// readable checks that the state at a revision can still, and already, be read.
func readable(r Reader, at banyan.Revision) (meta, error) {
	mt, err := readMeta(r)
	switch {
	case err != nil:
	case at < mt.horizon:
		err = banyan.Errorf(banyan.Compacted, "revision %d is compacted away: read at %d or later", at, mt.horizon)
	case at > mt.revision:
		err = banyan.Errorf(banyan.Invalid, "revision %d is in the future: the shard is at %d", at, mt.revision)
	}
	return mt, err
}

func versionAt(r Reader, key []byte, at banyan.Revision) (*Row, error) {
	b, err := r.Get(appendCurrentKey(nil, key))
	if err != nil {
		return nil, err
	}
	if b != nil {
		row, err := decodeVersion(key, b)
		if err != nil {
			return nil, err
		}
		if at == 0 || row.Mod <= at {
			return row.clone(), nil
		}
	}
	if at == 0 {
		return nil, nil
	}
	if Unversioned(key) {
		if b == nil {
			return nil, nil
		}
		row, err := decodeVersion(key, b)
		return row.clone(), err
	}
	prefix := appendHistoryPrefix(nil, key)
	var row *Row
	scanErr := r.Scan(appendHistoryKey(nil, key, at+1), PrefixEnd(prefix), func(_, v []byte) bool {
		var old Row
		if old, err = decodeVersion(key, v); err == nil && old.Mod <= at {
			row = old.clone()
		}
		return false
	})
	if err == nil {
		err = scanErr
	}
	return row, err
}

func (r Row) clone() *Row {
	r.Key, r.Value = bytes.Clone(r.Key), bytes.Clone(r.Value)
	return &r
}

// Range gives rows in the order of their keys, as many as the query's bounds
// allow, and whether there are more. The rows are the caller's. Errors are
// those of Get, and Canceled if the query was stopped. With At it costs a look
// at the versions kept of the keys up to the last one it gives.
func Range(r Reader, q Query) (rows []Row, more bool, err error) {
	if q.At != 0 {
		if _, err := readable(r, q.At); err != nil {
			return nil, false, err
		}
	}
	if q.Limit <= 0 {
		q.Limit = banyan.ListRowsMax
	}
	if q.BytesMax <= 0 {
		q.BytesMax = banyan.ListBytesMax
	}
	if len(q.Hi) > 0 && bytes.Compare(q.Lo, q.Hi) >= 0 {
		return nil, false, nil
	}
	if q.EachSlot {
		return eachSlot(r, &q)
	}
	unversioned, one := oneClass(q.Lo, q.Hi)
	var all page
	if !one || !unversioned {
		all = page{q: &q}
		if q.At != 0 {
			all.rows, all.more, err = rangeAt(r, &q)
		} else {
			err = all.scanCurrent(r, currentPrefix)
		}
		if err != nil {
			return nil, false, err
		}
	}
	if !one || unversioned {
		others := page{q: &q}
		if err := others.scanCurrent(r, unversionedPrefix); err != nil {
			return nil, false, err
		}
		all = all.merge(&others)
	}
	return all.rows, all.more, nil
}

// merge gives the rows of both in the order of their keys. No key is in both.
// Each page holds the first of its kind until it is full by itself, so the
// merged one is full before it misses any.
func (p *page) merge(o *page) page {
	if len(p.rows) == 0 && !p.more {
		return *o
	}
	if len(o.rows) == 0 && !o.more {
		return *p
	}
	merged := page{q: o.q}
	a, b := p.rows, o.rows
	for len(a)+len(b) > 0 {
		from := &a
		if len(a) == 0 || len(b) > 0 && bytes.Compare(b[0].Key, a[0].Key) < 0 {
			from = &b
		}
		if !merged.add((*from)[0]) {
			break
		}
		*from = (*from)[1:]
	}
	merged.more = merged.more || p.more || o.more
	return merged
}

// page collects rows until it is full.
type page struct {
	q     *Query
	rows  []Row
	bytes int
	more  bool
}

// add takes a row, unless the page is full; then there are more.
func (p *page) add(row Row) bool {
	if len(p.rows) >= p.q.Limit || p.bytes >= p.q.BytesMax {
		p.more = true
		return false
	}
	p.rows = append(p.rows, row)
	p.bytes += len(row.Key) + len(row.Value)
	return true
}

// addCopy takes a row whose slices are the reader's.
func (p *page) addCopy(row Row) bool {
	if len(p.rows) >= p.q.Limit || p.bytes >= p.q.BytesMax {
		p.more = true // and no copy
		return false
	}
	if p.q.KeysOnly {
		row.Value = nil
	}
	return p.add(*row.clone())
}

// scanCurrent collects the current rows of a class.
func (p *page) scanCurrent(r Reader, class byte) error {
	var err error
	from, to := Bounds(class, p.q.Lo, p.q.Hi)
	scanErr := r.Scan(from, to, func(k, v []byte) bool {
		var row Row
		if row, err = decodeVersion(k[1:], v); err != nil {
			return false
		}
		return p.addCopy(row)
	})
	if err == nil {
		err = scanErr
	}
	return err
}

// EventsSince gives the changes of the keys [lo, hi) (an empty hi is the end)
// behind a revision, in their order, whole revisions at a time: it stops
// behind the revision at which there are limit events (0:
// banyan.WatchQueueMax), about banyan.ListBytesMax bytes of them, or
// banyan.HistoryScanMax revisions were looked at. Every change up to upTo has
// been given then; go on from there until upTo is the machine's revision. An
// after that is not reached yet gives nothing, and itself. Errors are of kind
// Compacted (after is older than the horizon) or the Reader's.
func EventsSince(r Reader, after banyan.Revision, lo, hi []byte, limit int) (evs []Event, upTo banyan.Revision, err error) {
	mt, err := readMeta(r)
	switch {
	case err != nil:
		return nil, 0, err
	case after >= mt.revision:
		return nil, after, nil
	case after < mt.horizon:
		return nil, 0, banyan.Errorf(banyan.Compacted, "changes behind revision %d are compacted away: read the keys at %d or later and watch from there", after, mt.horizon)
	}
	if limit <= 0 {
		limit = banyan.WatchQueueMax
	}
	past, upTo, err := changesSince(r, &mt, after, span{lo, hi}, limit)
	if err != nil {
		return nil, 0, err
	}
	bytesLeft := banyan.ListBytesMax
	for i := range past {
		rev := past[i].rev
		if bytesLeft <= 0 && past[i-1].rev < rev {
			return evs, past[i-1].rev, nil
		}
		ev, there, err := past[i].event(r)
		if err != nil {
			return nil, 0, err
		}
		if !there {
			continue
		}
		bytesLeft -= len(ev.Row.Key) + len(ev.Row.Value)
		evs = append(evs, ev)
	}
	return evs, upTo, nil
}

// pastChange is a change that a record tells of.
type pastChange struct {
	rev     banyan.Revision
	key     []byte
	end     []byte // of a range that was removed
	deleted bool
}

// Origin is what a change record says of a command beside what it changed.
type Origin struct {
	Time       banyan.Timestamp
	Request    banyan.RequestID
	Who, Trace []byte
}

// OriginOf gives where a revision comes from. Errors are of kind Compacted (its
// record is gone), Invalid (not reached yet), or what the Reader fails with.
func OriginOf(r Reader, rev banyan.Revision) (Origin, error) {
	if _, err := readable(r, rev); err != nil {
		return Origin{}, err
	}
	b, err := r.Get(appendPlaceKey(nil, place{rev: rev}))
	if err == nil && b == nil {
		err = banyan.Errorf(banyan.Compacted, "the record of revision %d is compacted away", rev)
	}
	if err != nil {
		return Origin{}, err
	}
	rec, err := decodeRecord(b)
	return Origin{Time: rec.result.Time, Request: rec.request, Who: bytes.Clone(rec.who), Trace: bytes.Clone(rec.trace)}, err
}

func changesSince(r Reader, mt *meta, after banyan.Revision, in span, limit int) (past []pastChange, upTo banyan.Revision, err error) {
	upTo = after
	scanErr := r.Scan(appendPlaceKey(nil, place{rev: after + 1}), []byte{recordPrefix + 1}, func(k, v []byte) bool {
		var at place
		var rec record
		if at, rec, err = nextRecord(k, v, upTo); err != nil || at.n > 0 {
			return err == nil
		}
		for _, t := range rec.trims {
			if e, ok := (Event{Row: Row{Key: t.lo}, End: t.hi}).Within(in.lo, in.hi); ok && mt.tells(t.lo, at.rev) {
				past = append(past, pastChange{at.rev, bytes.Clone(e.Row.Key), bytes.Clone(e.End), true})
			}
		}
		for _, c := range rec.changes {
			if bytes.Compare(in.lo, c.key) <= 0 && (len(in.hi) == 0 || bytes.Compare(c.key, in.hi) < 0) && mt.tells(c.key, at.rev) {
				past = append(past, pastChange{at.rev, bytes.Clone(c.key), nil, c.deleted})
			}
		}
		upTo = at.rev
		return len(past) < limit && upTo-after < banyan.HistoryScanMax
	})
	if err == nil {
		err = scanErr
	}
	return past, upTo, err
}

// event finds the version that a past change made. That of an unversioned row
// is not there if the row has been changed or deleted since: a later change tells
// of the row as it is.
func (c *pastChange) event(r Reader) (e Event, there bool, err error) {
	if c.deleted {
		return Event{Deleted: true, Row: Row{Key: c.key, Mod: c.rev}, End: c.end}, true, nil
	}
	row, err := versionAt(r, c.key, c.rev)
	if err != nil {
		return Event{}, false, err
	}
	if Unversioned(c.key) {
		if row == nil || row.Mod != c.rev {
			return Event{}, false, nil
		}
		return Event{Row: *row}, true, nil
	}
	if row == nil || row.Mod != c.rev {
		return Event{}, false, banyan.Errorf(banyan.Corrupt, "mvcc: the version of key %.64q made at revision %d is missing", c.key, c.rev)
	}
	return Event{Row: *row}, true, nil
}

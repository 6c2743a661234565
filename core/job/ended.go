package job

import (
	"cmp"
	"encoding/binary"
	"hash/fnv"
	"slices"

	"banyan"
	banyanv1 "banyan/api/banyan/v1"
)

// Past is what the removal of a job that has ended is decided by. It has a row
// of its own, so that nobody has to read headers for it.
type Past struct {
	ID     banyan.JobID
	Mod    banyan.Revision // of the row, and of the job's header: one command writes both
	EndMs  int64
	Bytes  int64  // of outputs and files
	Keep   int64  // milliseconds after its end; 0: not said; -1: for ever
	Newest uint32 // it goes once so many newer ones of its name have ended; 0: not said
	Name   uint64 // a hash of its name, or of its command if it has none
}

// NewPast tells of a job that has ended.
func NewPast(j *banyanv1.Job) Past {
	h := fnv.New64a()
	if s := j.GetSpec(); s.GetName() != "" {
		h.Write([]byte(s.Name))
	} else {
		for _, arg := range s.GetCommand().GetArgs() {
			h.Write(append([]byte{0}, arg...))
		}
	}
	return Past{
		ID: banyan.JobID(j.Id), EndMs: j.EndMs, Bytes: j.StoredBytes,
		Keep: j.GetSpec().GetKeepMs(), Newest: j.GetSpec().GetKeepNewest(), Name: h.Sum64(),
	}
}

// Encode gives the value of the row.
func (e Past) Encode() []byte {
	b := binary.AppendVarint([]byte{version}, e.EndMs)
	b = binary.AppendVarint(b, e.Bytes)
	b = binary.AppendVarint(b, e.Keep)
	b = binary.AppendUvarint(b, uint64(e.Newest))
	return binary.AppendUvarint(b, e.Name)
}

// DecodePast reads the row that was written at a revision.
func DecodePast(key, b []byte, mod banyan.Revision) (Past, error) {
	id, err := nameIn(key, ended)
	if err != nil {
		return Past{}, err
	}
	if b, err = open("ended", b); err != nil {
		return Past{}, err
	}
	e := Past{ID: id, Mod: mod}
	for _, v := range [...]*int64{&e.EndMs, &e.Bytes, &e.Keep} {
		var n int
		if *v, n = binary.Varint(b); n <= 0 {
			return Past{}, banyan.Errorf(banyan.Corrupt, "the ended row of job %s is cut short", id)
		}
		b = b[n:]
	}
	newest, n := binary.Uvarint(b)
	if n > 0 {
		b = b[n:]
		e.Name, n = binary.Uvarint(b)
	}
	if n <= 0 || n != len(b) || newest > 1<<32-1 {
		return Past{}, banyan.Errorf(banyan.Corrupt, "the ended row of job %s is cut short", id)
	}
	e.Newest = uint32(newest)
	return e, nil
}

// Keep is how long jobs are kept that have ended. 0 and less is no bound.
type Keep struct {
	Ms    int64 // after their end
	Jobs  int64 // the newest so many
	Bytes int64 // the newest, up to so many bytes of outputs and files
}

// DefaultKeep holds until something else is chosen: two weeks, ten thousand jobs,
// 64 GiB.
var DefaultKeep = Keep{Ms: 14 * 24 * 60 * 60 * 1000, Jobs: 10_000, Bytes: 64 << 30}

// KeepLeastMs is how long a job stays after its end whatever it is too many or
// too large for: who submitted it looks at it first.
const KeepLeastMs = 60 * 60 * 1000

// Expired gives those of the jobs that have ended that are to go, the oldest
// first. A job that says itself how long it is kept neither goes by what holds
// for others nor counts among them.
func Expired(jobs []Past, keep Keep, nowMs int64) []Past {
	all := slices.Clone(jobs)
	slices.SortFunc(all, func(a, b Past) int {
		return cmp.Or(cmp.Compare(b.EndMs, a.EndMs), cmp.Compare(b.ID, a.ID)) // the newest first
	})
	var out []Past
	var count, bytes int64
	named := map[uint64]uint32{} // newer ones of a name
	for _, e := range all {
		age := nowMs - e.EndMs
		newer := named[e.Name]
		named[e.Name]++
		gone := false
		switch {
		case e.Keep > 0 || e.Newest > 0:
			gone = e.Keep > 0 && age > e.Keep || e.Newest > 0 && newer >= e.Newest
		case e.Keep == 0:
			count++
			fits := keep.Bytes <= 0 || bytes+e.Bytes <= keep.Bytes
			if fits { // one that does not pushes none out that are older and do
				bytes += e.Bytes
			}
			gone = keep.Ms > 0 && age > keep.Ms || age > KeepLeastMs && (!fits || keep.Jobs > 0 && count > keep.Jobs)
		}
		if gone {
			out = append(out, e)
		}
	}
	slices.Reverse(out)
	return out
}

// How far the clock that jobs are removed by may run ahead of the time that has
// passed: the time of day may be years ahead for a while, and what is removed
// then does not come back.
const (
	keepClockRate  = 24
	keepClockFirst = 24 * 60 * 60 * 1000 // after a pause of which nobody knows how long it was
)

// KeepClock gives the clock that jobs are removed by, in milliseconds since 1970,
// when it was last at hadMs and the time of day is nowMs. passedMs is how much
// time has passed since, by a clock that does not jump; -1 if nobody knows. It
// follows a time of day that goes back at once, and one that goes forward by 24
// hours an hour: two weeks of jobs are not all too old before 14 hours are over.
func KeepClock(hadMs, nowMs, passedMs int64) int64 {
	if hadMs == 0 || nowMs < hadMs {
		return nowMs
	}
	ahead := int64(keepClockFirst)
	if passedMs >= 0 {
		ahead = passedMs * keepClockRate
	}
	return min(nowMs, hadMs+ahead)
}

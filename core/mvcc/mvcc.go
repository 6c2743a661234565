// Package mvcc is the replicated state of one shard: an ordered multi-version
// map changed by one command, a conditional batch of mutations.
//
// It is pure. It reads no clock, draws no random number, starts nothing and
// iterates no map; everything it does follows from its rows and the commands,
// so that two replicas fed the same commands hold the same bytes. Rows live
// behind Reader and Writer; rows.go says how they are laid out.
package mvcc

import (
	"bytes"

	"banyan"
)

// Reader gives the raw rows of one shard's state. A Reader of a batch sees the
// batch's own writes.
type Reader interface {
	// Get gives the row at key, nil if there is none (an empty value is not
	// nil). The slice stays valid until the next write to the batch and must
	// not be modified; later Gets and Scans do not disturb it.
	Get(key []byte) ([]byte, error)
	// Scan calls fn for each row of [lo, hi) in ascending order until fn
	// answers false. A nil hi is the end. The slices are valid only during fn;
	// fn must not write.
	Scan(lo, hi []byte, fn func(k, v []byte) bool) error
}

// Writer takes changes to raw rows. It copies its arguments; what goes wrong
// comes to light when its owner commits.
type Writer interface {
	Set(k, v []byte)
	Delete(k []byte)
	DeleteRange(lo, hi []byte)
}

// ReadWriter is a batch under construction.
type ReadWriter interface {
	Reader
	Writer
}

// Test is what a Cond asks of a key: whether it is there, or how something of it
// compares. The numbers are part of the log format: the upper half says what is
// compared, the lower half how.
type Test uint8

// The tests. A key that does not exist passes no test of its value, and
// compares as 0 in the others.
const (
	Exists  Test = 1
	Missing Test = 2

	ValueEquals  = ofValue + equals
	ValueDiffers = ofValue + differs
	ValueLess    = ofValue + less
	ValueGreater = ofValue + greater

	ModEquals  = ofMod + equals // Number 0: it does not exist
	ModDiffers = ofMod + differs
	ModLess    = ofMod + less // over a range: nothing has changed since
	ModGreater = ofMod + greater

	CreateEquals  = ofCreate + equals
	CreateDiffers = ofCreate + differs
	CreateLess    = ofCreate + less
	CreateGreater = ofCreate + greater

	VersionEquals  = ofVersion + equals
	VersionDiffers = ofVersion + differs
	VersionLess    = ofVersion + less
	VersionGreater = ofVersion + greater

	LeaseEquals  = ofLease + equals
	LeaseDiffers = ofLease + differs
	LeaseLess    = ofLease + less
	LeaseGreater = ofLease + greater
)

const (
	ofValue Test = (1 + iota) << 4
	ofMod
	ofCreate
	ofVersion
	ofLease
)

const (
	equals Test = iota
	differs
	less
	greater
)

// known says whether it is one of the tests.
func (t Test) known() bool {
	return t == Exists || t == Missing || t >= ofValue && t < ofLease+16 && t&15 <= greater
}

// Cond is a condition on the state before the command. With End it is one on
// the rows of [Key, End): Exists asks for a row, Missing for none, any other
// test must hold for every row, and for a key that does not exist if there is
// none. A range may not mix versioned and unversioned rows.
type Cond struct {
	Key    []byte
	End    []byte // exclusive
	Test   Test
	Value  []byte // for the tests of values
	Number uint64 // for the others: a revision, a version, a lease
}

// Op is what a Mutation does. The numbers are part of the log format.
type Op uint8

// The mutations. Each sees what those before it in the command did.
const (
	// Put sets Key to Value and attaches it to Lease, or to none if Lease is 0.
	// That the lease exists is for the layer to demand with a Cond.
	Put Op = 1
	// Delete removes Key. A key that is not there is no error.
	Delete Op = 2
	// DeleteRange removes the keys of [Key, End), which may not mix versioned
	// and unversioned rows. Of unversioned ones it leaves one record for all.
	DeleteRange Op = 3
	// Append puts Value under SequenceKey(Key, n), where n counts the appends
	// to Key from 1 and never repeats, whatever is deleted. A number whose key is
	// there already, because it was put, is left out.
	Append Op = 4
	// Revoke removes every key of a slot that is attached to Lease; Key is the
	// slot (banyan.SlotKey).
	Revoke Op = 5
	// Compact raises the horizon towards Rev: older states can no longer be
	// read and their rows go. One command reclaims at most
	// banyan.CompactRowsMax rows; repeat it until Horizon reaches Rev.
	// It makes no revision.
	Compact Op = 6
	// Add adds Number to the number at Key, 8 bytes, big-endian; a key that is
	// not there counts as 0. It keeps the row's lease. The command is refused
	// (NotNumber) if the value is no number or the sum is none.
	Add Op = 7
	// Max raises the number at Key to Number, if it is less or not there.
	Max Op = 8
)

// Mutation is one change.
type Mutation struct {
	Op    Op
	Key   []byte
	End   []byte // exclusive, with DeleteRange
	Value []byte // with Put and Append
	Lease uint64 // with Put, Append and Revoke
	Rev   banyan.Revision

	Number int64 // with Add and Max
}

// Command is the one thing the machine does: if all conditions hold, all
// mutations happen, at one new revision; else those of Else do.
type Command struct {
	Term    uint64           // the term it was proposed in; applied in another it is refused. 0: not fenced
	Time    banyan.Timestamp // the proposer's clock; recorded, never acted upon
	Request banyan.RequestID // a second command with it changes nothing and gets the first one's result
	// Earliest is the first revision that the request can have made: the one
	// after what its sender knew when it first sent it, the same in every copy.
	// The command is refused as Forgotten in two cases: the window no longer
	// reaches back to that revision, so that a copy may have been carried out
	// and forgotten; or the shard's revision is below what the sender knew, so
	// that the shard has lost writes. 0: not said; then a copy that comes after
	// 65,536 other requests is carried out a second time.
	Earliest banyan.Revision
	Conds    []Cond
	Muts     []Mutation
	Else     []Mutation

	// Who asked and the trace are kept in the change record. Both may be empty.
	Who, Trace []byte
}

// Result is what became of a command.
//
// A command may remove at most banyan.DeleteRowsMax rows through ranges and
// leases, and displace about banyan.DisplacedBytesMax bytes of old rows. One
// whose only mutation is a DeleteRange or a Revoke stops at the limit: OK and
// More are set, and the caller sends it again under a new request id. Any
// other is refused whole: OK is not set, FailedCond is -1 and More is set. So is
// one whose conditions look at more than banyan.ConditionRowsMax rows.
type Result struct {
	OK         bool             // all conditions held
	FailedCond int              // the first condition that did not hold, if !OK && !Stale; then Else was carried out. -1: nothing was
	Revision   banyan.Revision  // the command's own, or the latest if it changed nothing
	Time       banyan.Timestamp // of the command, greater than that of any before; 0 if it was refused
	Deleted    uint64           // keys removed
	Sequences  []uint64         // one per Append
	Numbers    []int64          // one per Add and Max: what is there now
	More       bool             // rows were left, see above
	Stale      bool             // refused by the term fence; nothing happened, and it may be sent again
	Duplicate  bool             // an earlier command with this request id had this result
	Forgotten  bool             // refused because of Earliest: an earlier copy may have been carried out, this one was not
	Moved      bool             // refused: the shard does not hold all of its rows. It is not remembered
	NotNumber  bool             // refused whole: an Add or Max met a value that is no number, or its sum is none
}

// Row is one version of one key.
type Row struct {
	Key, Value []byte
	Create     banyan.Revision // when the key came to be
	Mod        banyan.Revision // when it took this value
	Version    uint64          // revisions that changed it since Create, from 1
	Lease      uint64          // 0: none
}

// Event is a change of one key: a put, with its row, or a delete, of which
// only Row.Key and Row.Mod (the revision of the delete) are set. A command
// makes at most one event for each key, its net effect. The delete of a range
// of unversioned rows is one event, which comes before those of single keys:
// End is set then, and all of [Row.Key, End) is gone. To somebody who watches a
// part of the range it tells of that part.
type Event struct {
	Deleted bool
	Row     Row
	End     []byte
}

// Within says whether the event tells of keys of [lo, hi), and gives what it
// tells of them; an empty hi is the end.
func (e Event) Within(lo, hi []byte) (Event, bool) {
	if len(e.End) == 0 {
		return e, bytes.Compare(lo, e.Row.Key) <= 0 && (len(hi) == 0 || bytes.Compare(e.Row.Key, hi) < 0)
	}
	if bytes.Compare(lo, e.Row.Key) > 0 {
		e.Row.Key = lo
	}
	if len(hi) > 0 && bytes.Compare(hi, e.End) < 0 {
		e.End = hi
	}
	return e, bytes.Compare(e.Row.Key, e.End) < 0
}

// Query asks for the rows of [Lo, Hi).
type Query struct {
	Lo, Hi   []byte          // a nil or empty Hi is the end
	At       banyan.Revision // 0: now
	Limit    int             // rows; 0: banyan.ListRowsMax
	BytesMax int             // stop behind the row that reaches this many bytes; 0: banyan.ListBytesMax
	KeysOnly bool            // leave Value nil
	Stop     func() bool     // with At, asked now and then; true gives the query up. nil: never

	// EachSlot: Lo and Hi are what follows the slot in a row key; the rows of
	// all slots are given, in the order of what follows the slot. Not with At.
	EachSlot bool
	// With EachSlot: of the slots [FromSlot, UntilSlot) only; UntilSlot 0: to the end.
	FromSlot, UntilSlot int
}

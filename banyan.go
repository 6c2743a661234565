// Package banyan holds the words every other package shares: identifiers,
// revisions and the clock-free notion of order. It imports nothing of ours.
//
// Error and its kinds are in error.go, the table of limits in limits.go.
package banyan

import (
	"crypto/rand"
	"encoding/hex"
	"fmt"
	"strconv"
	"strings"
)

// Version is the release of this tree; the build stamps its commit beside it.
const Version = "0.1.0"

// The protocols that this binary speaks between nodes, the newest and the
// oldest. The cluster acts at one that all members speak; a node that does not
// speak it is refused, naming the versions.
//
//	4  rows by slot, shards as ranges of row keys, the third edition of the command (data format 2)
const (
	ProtocolVersion = 4
	ProtocolMin     = 4
)

// NodeID names one node of a cluster for ever. It is drawn from the root
// shard's counter when the node joins and is never used again, not even by the
// same machine after its disk was lost. Zero is no node.
type NodeID uint64

// String gives the form used on the command line and in logs: "n7".
func (n NodeID) String() string { return "n" + strconv.FormatUint(uint64(n), 10) }

// ParseNodeID reads "n7" or "7".
func ParseNodeID(s string) (NodeID, error) {
	v, err := strconv.ParseUint(strings.TrimPrefix(s, "n"), 10, 64)
	if err != nil || v == 0 {
		return 0, Errorf(Invalid, "bad node id %q: give one that 'banyan nodes' lists, such as n1", s)
	}
	return NodeID(v), nil
}

// ShardID names one slice of the key space, replicated by one Raft group.
type ShardID uint32

// RootShard holds which nodes exist, which shards live where, who may do what.
const RootShard ShardID = 0

// Revision is the position of a committed change in its shard, counted from 1.
// It is the only clock that orders changes. Zero is before every change.
type Revision uint64

// Timestamp is hybrid-clock time: 48 bits of milliseconds since 1970 and, below
// them, a counter of 16 bits. The machine makes it grow with every command of a
// shard, whatever the leaders' clocks say.
type Timestamp uint64

// TimestampOf gives the first timestamp of a millisecond since 1970.
func TimestampOf(ms int64) Timestamp { return Timestamp(max(ms, 0)) << 16 }

// Ms gives the milliseconds since 1970.
func (t Timestamp) Ms() int64 { return int64(t >> 16) }

// RequestID identifies one request of one client, so that a retry is applied
// at most once. The zero RequestID asks for no deduplication.
type RequestID [16]byte

// NewRequestID draws a random id.
func NewRequestID() RequestID {
	var id RequestID
	rand.Read(id[:]) // never fails (crypto/rand, Go 1.24)
	return id
}

// String gives the id in hexadecimal.
func (id RequestID) String() string { return hex.EncodeToString(id[:]) }

// JobID names a job: 'j' and 13 characters of lower-case base32 (Crockford),
// of which the first nine are the submission time in milliseconds, so that
// ids sort by time. A job's rows live in the shard that its id hashes to.
type JobID string

const crockford = "0123456789abcdefghjkmnpqrstvwxyz"

// NewJobID builds an id from a time in milliseconds since 1970 and 20 bits of randomness.
func NewJobID(timeMs int64, random uint32) JobID {
	v := uint64(timeMs)<<20 | uint64(random&0xfffff)
	b := make([]byte, 14)
	b[0] = 'j'
	for i := 13; i >= 1; i-- {
		b[i] = crockford[v&31]
		v >>= 5
	}
	return JobID(b)
}

// ParseJobID checks the form of a job id; it does not say whether the job exists.
func ParseJobID(s string) (JobID, error) {
	bad := func() (JobID, error) {
		return "", Errorf(Invalid, "bad job id %q: it is 'j' and 13 letters or digits; 'banyan jobs' lists the jobs there are", s)
	}
	if len(s) != 14 || s[0] != 'j' {
		return bad()
	}
	for i := 1; i < len(s); i++ {
		if strings.IndexByte(crockford, s[i]) < 0 {
			return bad()
		}
	}
	return JobID(s), nil
}

// TimeMs is when the id was drawn, in milliseconds since 1970.
func (id JobID) TimeMs() int64 {
	var v uint64
	for i := 1; i < len(id); i++ {
		v = v<<5 | uint64(strings.IndexByte(crockford, id[i]))
	}
	return int64(v >> 20)
}

// TaskIndex counts the tasks of a job from 0. What people see ({#}, logs, -o
// json "seq") counts from 1, as GNU parallel does.
type TaskIndex uint32

// Hash is the BLAKE3-256 digest that names a blob.
type Hash [32]byte

// String gives the digest in hexadecimal.
func (h Hash) String() string { return hex.EncodeToString(h[:]) }

// ParseHash reads 64 hexadecimal digits.
func ParseHash(s string) (Hash, error) {
	var h Hash
	b, err := hex.DecodeString(s)
	if err != nil || len(b) != len(h) {
		return h, Errorf(Invalid, "bad blob hash %q: it is 64 hexadecimal digits", s)
	}
	copy(h[:], b)
	return h, nil
}

// Resources is what a node offers, and what an attempt occupies of it.
type Resources struct {
	Slots  int   // an attempt occupies at least one
	Memory int64 // bytes
}

// Plus gives the sum.
func (r Resources) Plus(o Resources) Resources {
	return Resources{Slots: r.Slots + o.Slots, Memory: r.Memory + o.Memory}
}

// Minus gives the difference, which may be negative.
func (r Resources) Minus(o Resources) Resources {
	return Resources{Slots: r.Slots - o.Slots, Memory: r.Memory - o.Memory}
}

// FitsIn says whether there is as much of everything in room. What is not asked
// for fits everywhere, also where more is taken than there is.
func (r Resources) FitsIn(room Resources) bool {
	return (r.Slots == 0 || r.Slots <= room.Slots) && (r.Memory == 0 || r.Memory <= room.Memory)
}

var _ fmt.Stringer = NodeID(0)

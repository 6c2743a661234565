// Package sweep is the rule by which chunks that nothing refers to are removed,
// without the disks, rows and messages that it is about.
//
// The cluster counts epochs: a row of the root shard holds the epoch, and it only
// rises. In each epoch a node that holds chunks reads the marks: from every shard
// the chunks that its rows refer to, at one revision, which is not before that
// shard's fence was raised to the epoch. A chunk that is in no mark is condemned.
// It goes two epochs later, if it is in no mark then either and nobody has touched
// it since.
//
// To touch a chunk is to store it, or to answer that it is there. Whoever touches
// says which epoch he knew before; the holder knows that epoch too from then on. A
// command that adds references says the epoch of the oldest touch that it relies
// on, and its shard refuses it when that is more than one epoch behind its fence
// (Fresh). Then the chunks have to be touched again.
//
// Why nothing is removed that a row refers to: let a node remove a chunk in epoch
// N, which it condemned in epoch N-2 or before, and let a command refer to it. If
// the shard took the command before the mark of N was read there, the chunk was
// marked. Else the command relies on a touch of epoch N-1 or later, after the node
// condemned the chunk; and a touch ends that.
package sweep

import (
	"maps"

	"banyan"
)

// Fresh says whether a shard whose fence is at an epoch takes references that rely
// on touches of an epoch.
func Fresh(fence, touched uint64) bool { return touched+1 >= fence }

// Verdict is what becomes of a chunk when its mark was read.
type Verdict uint8

// The verdicts.
const (
	Keep    Verdict = iota // it is as it was
	Spare                  // it was condemned and is no longer
	Condemn                // nothing refers to it
	Go                     // nothing has referred to it for so long that it is to be removed
)

// Holder is what one node knows of its chunks: the epoch, and which are condemned.
// A chunk that is not condemned costs nothing here.
type Holder struct {
	epoch     uint64
	condemned map[banyan.Hash]uint64 // since which epoch
}

// NewHolder makes the holder of a node on whose disk so much was condemned. It
// knows no epoch.
func NewHolder(condemned map[banyan.Hash]uint64) *Holder {
	h := &Holder{condemned: map[banyan.Hash]uint64{}}
	maps.Copy(h.condemned, condemned)
	return h
}

// Epoch is the latest epoch that the holder knows.
func (h *Holder) Epoch() uint64 { return h.epoch }

// Learn tells the holder of an epoch; it never goes back.
func (h *Holder) Learn(epoch uint64) { h.epoch = max(h.epoch, epoch) }

// Condemned says since which epoch a chunk is condemned, 0 if it is not.
func (h *Holder) Condemned(c banyan.Hash) uint64 { return h.condemned[c] }

// All gives what is condemned.
func (h *Holder) All() map[banyan.Hash]uint64 { return maps.Clone(h.condemned) }

// Len counts what is condemned.
func (h *Holder) Len() int { return len(h.condemned) }

// Judge says what becomes of a chunk in an epoch. The epoch was read from the root
// shard before the marks were, by this process: what is known from before a
// restart may be behind touches from before it.
func (h *Holder) Judge(epoch uint64, c banyan.Hash, marked bool) Verdict {
	since := h.condemned[c]
	switch {
	case marked && since != 0:
		return Spare
	case marked:
		return Keep
	case since == 0:
		return Condemn
	case since+2 <= epoch:
		return Go
	}
	return Keep
}

// Condemn notes that nothing refers to a chunk. The holder's epoch is not before
// that of any touch of it, also where the marks were of an epoch before.
func (h *Holder) Condemn(c banyan.Hash) { h.condemned[c] = h.epoch }

// Free ends that a chunk is condemned: it was touched, marked or removed. What
// makes it last has to be on the disk before a touch is answered.
func (h *Holder) Free(c banyan.Hash) { delete(h.condemned, c) }

// Round is one reading of the marks: nothing is judged by it before every shard
// has been read.
type Round struct {
	left map[banyan.ShardID]bool
}

// NewRound begins to read the marks of some shards.
func NewRound(shards []banyan.ShardID) *Round {
	r := &Round{left: map[banyan.ShardID]bool{}}
	for _, s := range shards {
		r.left[s] = true
	}
	return r
}

// Read says that a shard's mark was read to its end.
func (r *Round) Read(shard banyan.ShardID) { delete(r.left, shard) }

// Whole says whether all were.
func (r *Round) Whole() bool { return len(r.left) == 0 }

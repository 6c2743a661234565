package job

import (
	"encoding/binary"

	"banyan"
)

// The rows of a job (banyan.LayerJob), all in the slot its id hashes to:
//
//	h<id>              header: state, specification, counts at the end
//	a<id>              the job has not ended
//	e<id>              the job has ended: what its removal is decided by
//	x<id>              the job is being removed: its header is gone, the rest goes
//	d<id>/s<n>         the list of sent files, encoded and cut into pieces
//	d<id>/i<first>     a chunk of inputs, from task number first on
//	d<id>/f<task>      how often a task failed; only for tasks that did
//	d<id>/l<task>     how often a task was lost with its node; only for tasks that were
//	d<id>/k<task>      a failed task among those that are trimmed
//	d<id>/t0           which results and inputs are trimmed; only of jobs whose inputs stream
//
// And, unversioned (banyan.LayerResult), the recorded results of its tasks:
//
//	<id>/r<task>
//
// Numbers are four bytes, big-endian, so that rows sort by task. The then step
// is the task behind the last. The headers of a slot stand together so that jobs
// can be listed without reading what belongs to them, and those that have not
// ended are found without reading those that have.
const (
	headers = 'h'
	active  = 'a'
	ended   = 'e'
	removed = 'x'
	details = 'd'
)

// slotBytes is what stands before the layer in a row key.
const slotBytes = 2

// prefix begins the rows of a job in a layer.
func prefix(layer banyan.Layer, id banyan.JobID) []byte {
	k := make([]byte, 0, 32)
	return banyan.AppendRowKey(k, banyan.SlotOf([]byte(id)), layer, banyan.SpaceDefault)
}

func named(kind byte, id banyan.JobID) []byte {
	return append(append(prefix(banyan.LayerJob, id), kind), id...)
}

// eachSlot is where the rows of a kind are, in each slot.
func eachSlot(kind byte) (lo, hi []byte) {
	k := prefix(banyan.LayerJob, "")[slotBytes:]
	return append(k[:len(k):len(k)], kind), append(k[:len(k):len(k)], kind+1)
}

// HeaderKey is where a job's header is.
func HeaderKey(id banyan.JobID) []byte { return named(headers, id) }

// HeaderRange is where the headers of a shard are, behind the slot: see
// AfterSlot.
func HeaderRange() (lo, hi []byte) { return eachSlot(headers) }

// ActiveKey is the row that a job has until it ends.
func ActiveKey(id banyan.JobID) []byte { return named(active, id) }

// ActiveRange is where those rows are, behind the slot.
func ActiveRange() (lo, hi []byte) { return eachSlot(active) }

// EndedKey is the row that a job has once it has ended.
func EndedKey(id banyan.JobID) []byte { return named(ended, id) }

// EndedRange is where those rows are, behind the slot.
func EndedRange() (lo, hi []byte) { return eachSlot(ended) }

// RemovedKey is the row that a job has while it is being removed.
func RemovedKey(id banyan.JobID) []byte { return named(removed, id) }

// RemovedRange is where those rows are, behind the slot.
func RemovedRange() (lo, hi []byte) { return eachSlot(removed) }

// RemovedOf tells which job it is that is being removed.
func RemovedOf(key []byte) (banyan.JobID, error) { return nameIn(key, removed) }

// AfterSlot is what follows the slot in a row's key.
func AfterSlot(key []byte) []byte { return key[min(slotBytes, len(key)):] }

// HeaderOf tells which job a header row belongs to.
func HeaderOf(key []byte) (banyan.JobID, error) {
	id, err := nameIn(key, headers)
	if err != nil {
		return "", err
	}
	return banyan.ParseJobID(string(id))
}

// ActiveOf tells which job it is that has not ended.
func ActiveOf(key []byte) (banyan.JobID, error) { return nameIn(key, active) }

func nameIn(key []byte, kind byte) (banyan.JobID, error) {
	r, ok := banyan.ParseRowKey(key)
	if !ok || r.Layer != banyan.LayerJob || len(r.Key) == 0 || r.Key[0] != kind {
		return "", banyan.Errorf(banyan.Corrupt, "row %q is not of a job", key)
	}
	return banyan.JobID(r.Key[1:]), nil
}

// Range is what belongs to a job beside its header and its results.
func Range(id banyan.JobID) (lo, hi []byte) {
	k := named(details, id)
	return append(k[:len(k):len(k)], '/'), append(k[:len(k):len(k)], '/'+1)
}

// ResultOf tells which task's result a row is; not ok if it is none.
func ResultOf(key []byte) (id banyan.JobID, task banyan.TaskIndex, ok bool) {
	r, ok := banyan.ParseRowKey(key)
	if !ok || r.Layer != banyan.LayerResult || len(r.Key) < 6 {
		return "", 0, false
	}
	task, err := Number(key)
	return banyan.JobID(r.Key[:len(r.Key)-6]), task, err == nil
}

// SendKey is where the n-th piece of the list of sent files is.
func SendKey(id banyan.JobID, n int) []byte { return key(id, 's', uint32(n)) }

// SendOf tells of which job's list of sent files a row is a piece; not ok if it is
// none.
func SendOf(key []byte) (id banyan.JobID, ok bool) {
	r, ok := banyan.ParseRowKey(key)
	if !ok || r.Layer != banyan.LayerJob || len(r.Key) < 7 || r.Key[0] != details || string(r.Key[len(r.Key)-6:len(r.Key)-4]) != "/s" {
		return "", false
	}
	return banyan.JobID(r.Key[1 : len(r.Key)-6]), true
}

// SendRange is where the pieces of the list of sent files are.
func SendRange(id banyan.JobID) (lo, hi []byte) { return span(id, 's', 0) }

// InputKey is where the chunk of inputs starting with task first is.
func InputKey(id banyan.JobID, first banyan.TaskIndex) []byte { return key(id, 'i', uint32(first)) }

// InputRange is where the chunks of inputs are.
func InputRange(id banyan.JobID) (lo, hi []byte) { return span(id, 'i', 0) }

// ResultKey is where a task's recorded result is.
func ResultKey(id banyan.JobID, task banyan.TaskIndex) []byte { return key(id, 'r', uint32(task)) }

// ResultRange is where the results from a task on are.
func ResultRange(id banyan.JobID, from banyan.TaskIndex) (lo, hi []byte) {
	return span(id, 'r', uint32(from))
}

// FailureKey is where the failed tries of a task are counted.
func FailureKey(id banyan.JobID, task banyan.TaskIndex) []byte { return key(id, 'f', uint32(task)) }

// FailureRange is where the counts of failed tries from a task on are.
func FailureRange(id banyan.JobID, from banyan.TaskIndex) (lo, hi []byte) {
	return span(id, 'f', uint32(from))
}

// LossKey is where the losses of a task are counted.
func LossKey(id banyan.JobID, task banyan.TaskIndex) []byte { return key(id, 'l', uint32(task)) }

// LossRange is where the losses of a job's tasks are counted.
func LossRange(id banyan.JobID) (lo, hi []byte) { return span(id, 'l', 0) }

// KeptKey is the row of a failed task whose result stays though those around it
// are trimmed. It stays when the task is tried again.
func KeptKey(id banyan.JobID, task banyan.TaskIndex) []byte { return key(id, 'k', uint32(task)) }

// KeptRange is where those rows are.
func KeptRange(id banyan.JobID) (lo, hi []byte) { return span(id, 'k', 0) }

// TrimKey is where it stands which tasks are trimmed.
func TrimKey(id banyan.JobID) []byte { return key(id, 't', 0) }

// Number reads the number at the end of a key of Send, Input, Result, Failure, Loss or Kept.
func Number(k []byte) (banyan.TaskIndex, error) {
	if len(k) < 5 {
		return 0, banyan.Errorf(banyan.Corrupt, "row %q of a job carries no number", k)
	}
	return banyan.TaskIndex(binary.BigEndian.Uint32(k[len(k)-4:])), nil
}

func key(id banyan.JobID, kind byte, n uint32) []byte {
	var k []byte
	if kind == 'r' {
		k = append(prefix(banyan.LayerResult, id), id...)
	} else {
		k = named(details, id)
	}
	return binary.BigEndian.AppendUint32(append(k, '/', kind), n)
}

func span(id banyan.JobID, kind byte, from uint32) (lo, hi []byte) {
	lo = key(id, kind, from)
	hi = append(append([]byte(nil), lo[:len(lo)-5]...), kind+1)
	return lo, hi
}

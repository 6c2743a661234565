package job

import (
	"encoding/binary"
	"strings"

	"banyan"
)

// The rows of a job, all in the shard its id hashes to:
//
//	j/<id>              header: state, specification, counts at the end
//	jd/<id>/s<n>        the list of sent files, encoded and cut into pieces
//	jd/<id>/i<first>    a chunk of inputs, from task number first on
//	jd/<id>/r<task>     the recorded result of a task
//	jd/<id>/f<task>     how often a task failed; only for tasks that did
//
// Numbers are four bytes, big-endian, so that rows sort by task. The then step
// is the task behind the last. The headers stand together so that jobs can be
// listed without reading what belongs to them.
const (
	headers = "j/"
	details = "jd/"
)

// HeaderKey is where a job's header is.
func HeaderKey(id banyan.JobID) []byte { return []byte(headers + string(id)) }

// HeaderRange is where the headers of a shard are.
func HeaderRange() (lo, hi []byte) { return []byte(headers), []byte("j0") }

// HeaderOf tells which job a header row belongs to.
func HeaderOf(key []byte) (banyan.JobID, error) {
	name, ok := strings.CutPrefix(string(key), headers)
	if !ok {
		return "", banyan.Errorf(banyan.Corrupt, "row %q is not a job's header", key)
	}
	return banyan.ParseJobID(name)
}

// Range is everything of a job but its header.
func Range(id banyan.JobID) (lo, hi []byte) {
	return []byte(details + string(id) + "/"), []byte(details + string(id) + "0")
}

// SendKey is where the n-th piece of the list of sent files is.
func SendKey(id banyan.JobID, n int) []byte { return key(id, 's', uint32(n)) }

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

// Number reads the number at the end of a key of Send, Input, Result or Failure.
func Number(k []byte) (banyan.TaskIndex, error) {
	if len(k) < 5 {
		return 0, banyan.Errorf(banyan.Corrupt, "row %q of a job carries no number", k)
	}
	return banyan.TaskIndex(binary.BigEndian.Uint32(k[len(k)-4:])), nil
}

func key(id banyan.JobID, kind byte, n uint32) []byte {
	k := make([]byte, 0, len(details)+len(id)+6)
	k = append(k, details...)
	k = append(k, id...)
	k = append(k, '/', kind)
	return binary.BigEndian.AppendUint32(k, n)
}

func span(id banyan.JobID, kind byte, from uint32) (lo, hi []byte) {
	lo = key(id, kind, from)
	hi = append(append([]byte(nil), lo[:len(lo)-5]...), kind+1)
	return lo, hi
}

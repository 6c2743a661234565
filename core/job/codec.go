package job

import (
	"encoding/binary"
	"math"

	"google.golang.org/protobuf/proto"

	"banyan"
	banyanv1 "banyan/api/banyan/v1"
)

// version is the first byte of every row's value.
const version = 1

func open(row string, b []byte) ([]byte, error) {
	if len(b) == 0 {
		return nil, banyan.Errorf(banyan.Corrupt, "a job's %s row is empty", row)
	}
	if b[0] != version {
		return nil, banyan.Errorf(banyan.TooNew, "a job's %s row has format %d, this binary knows %d: use the newer banyan", row, b[0], version)
	}
	return b[1:], nil
}

func seal(m proto.Message) []byte {
	b, err := proto.MarshalOptions{Deterministic: true}.MarshalAppend([]byte{version}, m)
	if err != nil {
		panic("job: a row cannot be encoded: " + err.Error()) // strings are made valid at the door
	}
	return b
}

func unseal(row string, b []byte, m proto.Message) error {
	b, err := open(row, b)
	if err != nil {
		return err
	}
	if err := proto.Unmarshal(b, m); err != nil {
		return banyan.Errorf(banyan.Corrupt, "a job's %s row cannot be read: %w", row, err)
	}
	return nil
}

// EncodeHeader encodes a job's header.
func EncodeHeader(j *banyanv1.Job) []byte { return seal(j) }

// DecodeHeader decodes a job's header.
func DecodeHeader(b []byte) (*banyanv1.Job, error) {
	j := &banyanv1.Job{}
	if err := unseal("header", b, j); err != nil {
		return nil, err
	}
	if j.Spec == nil || j.Tasks > tasksMax(j.Streamed) {
		return nil, banyan.Errorf(banyan.Corrupt, "the header of job %q has no specification or %d tasks", j.Id, j.Tasks)
	}
	return j, nil
}

func tasksMax(streamed bool) uint32 {
	if streamed {
		return banyan.StreamTasksMax
	}
	return banyan.JobTasksMax
}

// sendPieceBytes is the size of one row of the list of sent files.
const sendPieceBytes = 512 << 10

// EncodeSend encodes the list of sent files, cut into as many rows as it needs.
func EncodeSend(files []*banyanv1.FileRef) [][]byte {
	if len(files) == 0 {
		return nil
	}
	b := seal(&banyanv1.JobSpec{Send: files})
	var pieces [][]byte
	for len(b) > sendPieceBytes {
		pieces, b = append(pieces, b[:sendPieceBytes]), b[sendPieceBytes:]
	}
	return append(pieces, b)
}

// DecodeSend puts the pieces of EncodeSend together again.
func DecodeSend(pieces [][]byte) ([]*banyanv1.FileRef, error) {
	if len(pieces) == 0 {
		return nil, nil
	}
	var b []byte
	for _, p := range pieces {
		if b = append(b, p...); len(b) > banyan.JobSendBytesMax+sendPieceBytes {
			return nil, banyan.Errorf(banyan.Corrupt, "a job's list of sent files is longer than %d bytes", banyan.JobSendBytesMax)
		}
	}
	spec := &banyanv1.JobSpec{}
	err := unseal("sent files", b, spec)
	return spec.Send, err
}

// Meta is what a controller needs of a recorded result; it stands before the
// result so that a shard's jobs are rebuilt without decoding all of it.
type Meta struct {
	State   banyanv1.TaskState
	Node    banyan.NodeID
	Repeats uint32 // attempts of the task that were lost with their node
	Bytes   int64  // of its outputs and files
}

// EncodeResult encodes a recorded result. The input and the revision are left
// out: they are known from other rows. It fails on text that is not UTF-8.
func EncodeResult(m Meta, r *banyanv1.TaskResult) ([]byte, error) {
	b := []byte{version, byte(m.State)}
	b = binary.AppendUvarint(b, uint64(m.Node))
	b = binary.AppendUvarint(b, uint64(m.Repeats))
	b = binary.AppendUvarint(b, uint64(m.Bytes))
	input, revision := r.Input, r.Revision
	r.Input, r.Revision = nil, 0
	b, err := proto.MarshalOptions{Deterministic: true}.MarshalAppend(b, r)
	r.Input, r.Revision = input, revision
	return b, err
}

// DecodeMeta reads only what stands before a result, and gives the rest.
func DecodeMeta(b []byte) (m Meta, rest []byte, err error) {
	if b, err = open("result", b); err != nil {
		return m, nil, err
	}
	bad := banyan.Errorf(banyan.Corrupt, "a job's result row is cut short")
	if len(b) == 0 {
		return m, nil, bad
	}
	m.State = banyanv1.TaskState(b[0])
	node, n := binary.Uvarint(b[1:])
	if n <= 0 {
		return m, nil, bad
	}
	b = b[1+n:]
	repeats, n := binary.Uvarint(b)
	if n <= 0 || repeats > 1<<32-1 {
		return m, nil, bad
	}
	b = b[n:]
	bytes, n := binary.Uvarint(b)
	if n <= 0 || bytes > math.MaxInt64 {
		return m, nil, bad
	}
	m.Node, m.Repeats, m.Bytes = banyan.NodeID(node), uint32(repeats), int64(bytes)
	return m, b[n:], nil
}

// StoredBytes is how much of outputs and files a result refers to.
func StoredBytes(r *banyanv1.TaskResult) int64 {
	n := FilesBytes(r.Returned) + r.GetReturnedList().GetSize()
	for _, o := range [...]*banyanv1.Output{r.Stdout, r.Stderr} {
		if len(o.GetChunks()) > 0 || len(o.GetInline()) > 0 {
			n += max(o.Bytes, 0)
		}
	}
	return n
}

// FilesBytes is how much files hold.
func FilesBytes(files []*banyanv1.FileRef) int64 {
	var n int64
	for _, f := range files {
		n += max(f.GetSize(), 0)
	}
	return n
}

// DecodeResult reads a recorded result.
func DecodeResult(b []byte) (*banyanv1.TaskResult, error) {
	_, b, err := DecodeMeta(b)
	if err != nil {
		return nil, err
	}
	r := &banyanv1.TaskResult{}
	if err := proto.Unmarshal(b, r); err != nil {
		return nil, banyan.Errorf(banyan.Corrupt, "a job's result row cannot be read: %w", err)
	}
	return r, nil
}

// Failure counts the failed tries of one task.
type Failure struct {
	Count uint32
	Final bool   // no tries are left; the task has a result
	Last  uint64 // the attempt counted last: one that reports again is not counted again
}

// EncodeFailure encodes a count of failed tries.
func EncodeFailure(f Failure) []byte {
	final := byte(0)
	if f.Final {
		final = 1
	}
	b := binary.AppendUvarint([]byte{version, final}, uint64(f.Count))
	return binary.AppendUvarint(b, f.Last)
}

// DecodeFailure decodes a count of failed tries.
func DecodeFailure(b []byte) (Failure, error) {
	b, err := open("failure", b)
	if err != nil {
		return Failure{}, err
	}
	if len(b) == 0 || b[0] > 1 {
		return Failure{}, banyan.Errorf(banyan.Corrupt, "a job's failure row is cut short")
	}
	f := Failure{Final: b[0] == 1}
	count, n := binary.Uvarint(b[1:])
	if n > 0 {
		b = b[1+n:]
		f.Last, n = binary.Uvarint(b)
	}
	if n <= 0 || n != len(b) || count > 1<<32-1 {
		return Failure{}, banyan.Errorf(banyan.Corrupt, "a job's failure row does not hold a count and an attempt")
	}
	f.Count = uint32(count)
	return f, nil
}

// Loss counts the attempts of one task that were lost with their node. A task
// that has one is a suspect: it may be what ends nodes.
type Loss struct {
	Count uint32
	Last  uint64        // the attempt counted last, or handed back last; nothing is counted of it or of those before it
	Begun uint64        // the suspect that was allowed to begin last
	Node  banyan.NodeID // where Begun runs
}

// Pending says whether Begun may still run, or may have been lost.
func (l Loss) Pending() bool { return l.Begun > l.Last }

// EncodeLoss encodes the losses of a task.
func EncodeLoss(l Loss) []byte {
	b := binary.AppendUvarint([]byte{version}, uint64(l.Count))
	for _, v := range [...]uint64{l.Last, l.Begun, uint64(l.Node)} {
		b = binary.AppendUvarint(b, v)
	}
	return b
}

// DecodeLoss decodes the losses of a task.
func DecodeLoss(b []byte) (Loss, error) {
	b, err := open("loss", b)
	if err != nil {
		return Loss{}, err
	}
	var v [4]uint64
	for i := range v {
		n := 0
		if v[i], n = binary.Uvarint(b); n <= 0 {
			return Loss{}, banyan.Errorf(banyan.Corrupt, "a job's loss row is cut short")
		}
		b = b[n:]
	}
	if len(b) > 0 || v[0] > 1<<32-1 {
		return Loss{}, banyan.Errorf(banyan.Corrupt, "a job's loss row does not hold a count and three numbers")
	}
	return Loss{Count: uint32(v[0]), Last: v[1], Begun: v[2], Node: banyan.NodeID(v[3])}, nil
}

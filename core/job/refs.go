package job

import (
	"encoding/binary"

	"banyan"
	banyanv1 "banyan/api/banyan/v1"
)

// FenceKey is a row of each shard with jobs: the epoch from which on, less one,
// chunks must have been touched that a command adds references to (core/sweep).
// It is no row of a slot: a shard that came of a split gets its own.
func FenceKey() []byte {
	return append(banyan.AppendRowKey(nil, banyan.SlotOwn, banyan.LayerJob, banyan.SpaceSystem), "fence"...)
}

// FenceBelow is the value that a fence is less than when what was touched in an
// epoch is fresh.
func FenceBelow(touched uint64) []byte { return binary.BigEndian.AppendUint64(nil, touched+2) }

// Fence reads the row of a fence.
func Fence(value []byte) (uint64, error) {
	if len(value) != 8 {
		return 0, banyan.Errorf(banyan.Corrupt, "the fence of a shard is %d bytes long", len(value))
	}
	return binary.BigEndian.Uint64(value), nil
}

// References are what a row refers to outside the rows. What refers to chunks is
// listed here, or it is removed.
type References struct {
	Chunks [][]byte
	Lists  []*banyanv1.FileList // each keeps its own chunks, which are among Chunks, and those of the files in it
}

// Files adds files.
func (r *References) Files(files []*banyanv1.FileRef) {
	for _, f := range files {
		r.Chunks = append(r.Chunks, f.GetChunks()...)
	}
}

// Result adds what a task's result refers to.
func (r *References) Result(t *banyanv1.TaskResult) {
	r.Chunks = append(append(r.Chunks, t.GetStdout().GetChunks()...), t.GetStderr().GetChunks()...)
	r.Files(t.GetReturned())
	if l := t.GetReturnedList(); l != nil {
		r.Chunks = append(r.Chunks, l.Chunks...)
		r.Lists = append(r.Lists, l)
	}
}

// Spec adds what a job's specification refers to.
func (r *References) Spec(s *banyanv1.JobSpec) { r.Files(s.GetSend()) }

// Any says whether there are some.
func (r *References) Any() bool { return len(r.Chunks) > 0 }

// Refers says whether a result refers to chunks.
func Refers(t *banyanv1.TaskResult) bool {
	return len(t.GetStdout().GetChunks())+len(t.GetStderr().GetChunks())+len(t.GetReturned())+len(t.GetReturnedList().GetChunks()) > 0
}

// Bereave takes from a result what it refers to, because it is gone.
func Bereave(t *banyanv1.TaskResult) {
	for _, o := range [...]*banyanv1.Output{t.GetStdout(), t.GetStderr()} {
		if len(o.GetChunks()) > 0 {
			o.Chunks, o.Truncated = nil, true
		}
	}
	t.Returned, t.ReturnedList = nil, nil
	why := "what the task wrote was stored so long before its result could be recorded that it was removed"
	if t.Error != "" {
		why = t.Error + "; " + why
	}
	t.Error = Text(why, banyan.ErrorBytesMax)
}

package worker

import (
	"bytes"
	"context"
	"fmt"
	"slices"

	"google.golang.org/protobuf/proto"

	"banyan"
	peerv1 "banyan/api/banyan/peer/v1"
	banyanv1 "banyan/api/banyan/v1"
	"banyan/engine/blob"
)

// list puts the returned files into the result: a short list whole, a long one
// as a blob, so that a result fits into its row whatever the task returns.
func (w *Worker) list(ctx context.Context, refs []*banyanv1.FileRef, result *banyanv1.TaskResult) error {
	size := 0
	for _, f := range refs {
		size += proto.Size(f) + 4
	}
	switch {
	case size <= banyan.ReturnInlineMax:
		result.Returned = refs
		return nil
	case size > banyan.ReturnListBytesMax:
		return banyan.Errorf(banyan.Exhausted, "the list of the %d returned files has %d bytes, the most is %d (ReturnListBytesMax): pack them into one", len(refs), size, banyan.ReturnListBytesMax)
	}
	b, err := banyanv1.EncodeFiles(refs)
	if err != nil {
		return err
	}
	chunks, n, err := blob.Write(ctx, w.blobs, bytes.NewReader(b))
	if err != nil {
		return fmt.Errorf("store the list of returned files: %w", err)
	}
	result.ReturnedList = &banyanv1.FileList{Files: uint32(len(refs)), Size: n, Chunks: rawHashes(chunks)}
	return nil
}

// fromTasks is every file that the tasks returned to the then step.
func (w *Worker) fromTasks(ctx context.Context, a *peerv1.Attempt) ([]*banyanv1.FileRef, error) {
	files := slices.Clone(a.GetInputsFromTasks())
	total := int64(0)
	for _, l := range a.GetListsFromTasks() {
		if total += l.GetSize(); total > banyan.ThenFilesBytesMax || l.GetSize() < 0 {
			return nil, banyan.Errorf(banyan.Exhausted, "the lists of files returned by all tasks have more than %d bytes (ThenFilesBytesMax): return fewer, larger files", banyan.ThenFilesBytesMax)
		}
		more, err := w.readList(ctx, l)
		if err != nil {
			return nil, err
		}
		files = append(files, more...)
	}
	return files, nil
}

// readList reads a list of files that a task returned.
func (w *Worker) readList(ctx context.Context, l *banyanv1.FileList) ([]*banyanv1.FileRef, error) {
	chunks, err := hashes(l.GetChunks())
	if err != nil {
		return nil, err
	}
	var b bytes.Buffer
	if err := blob.Read(ctx, w.blobs, chunks, &b); err != nil {
		return nil, fmt.Errorf("get the list of files that a task returned: %w", err)
	}
	files, err := banyanv1.DecodeFiles(b.Bytes())
	if err != nil {
		return nil, banyan.Errorf(banyan.Corrupt, "the list of files that a task returned: %w", err)
	}
	return files, nil
}

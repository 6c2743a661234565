package worker

import (
	"strings"
	"testing"
	"unicode/utf8"

	"google.golang.org/protobuf/proto"

	"banyan"
	banyanv1 "banyan/api/banyan/v1"
)

// TestFilesWithAnyNameComeBack: a name that is not UTF-8 is returned as it is,
// by its name, by a glob and below a directory, and stays in an error's words.
func TestFilesWithAnyNameComeBack(t *testing.T) {
	w := newWorker(t, Config{})
	for _, pattern := range []string{"f\xe9.txt", "*.txt", ".", "{}"} {
		spec := &banyanv1.JobSpec{Command: shell(`printf x > "$(printf 'f\351.txt')"; printf x > 'in put'`), Return: [][]byte{[]byte(pattern)}}
		r := try(w, spec)
		if r.State != banyanv1.TaskState_TASK_STATE_SUCCEEDED {
			t.Fatalf("--return %q: %v", pattern, r)
		}
		if pattern != "{}" && string(r.Returned[0].Path) != "f\xe9.txt" {
			t.Errorf("--return %q: %q came back", pattern, r.Returned[0].Path)
		}
	}
	r := try(w, &banyanv1.JobSpec{Command: shell("true"), Return: [][]byte{[]byte("g\xe9")}})
	a := &attempt{}
	a.finish(r)
	if r.State != banyanv1.TaskState_TASK_STATE_FAILED || !utf8.ValidString(r.Error) || !strings.Contains(r.Error, `g\xe9`) {
		t.Errorf("%v", r)
	}
}

// TestALongListOfFilesIsABlob: the result stays small, and a then step gets all.
func TestALongListOfFilesIsABlob(t *testing.T) {
	w := newWorker(t, Config{})
	var refs []*banyanv1.FileRef
	for range 9900 {
		refs = append(refs, &banyanv1.FileRef{Path: []byte(strings.Repeat("\xe9", 930))})
	}
	r := &banyanv1.TaskResult{State: banyanv1.TaskState_TASK_STATE_SUCCEEDED}
	if err := w.list(t.Context(), refs, r); err != nil || len(r.Returned) > 0 || proto.Size(r) > 4096 {
		t.Fatalf("%d bytes, %v", proto.Size(r), err)
	}
	b := get(t, w, r.ReturnedList.Chunks)
	got, err := banyanv1.DecodeFiles([]byte(b))
	if err != nil || len(got) != len(refs) || !proto.Equal(got[9899], refs[9899]) || int64(len(b)) != r.ReturnedList.Size {
		t.Errorf("%d files, %v", len(got), err)
	}
}

// TestAResultThatCannotBeCarriedIsItsTasksFailure: nothing else of the message is
// lost, whatever the strings and sizes in it.
func TestAResultThatCannotBeCarriedIsItsTasksFailure(t *testing.T) {
	big := &banyanv1.TaskResult{
		State: banyanv1.TaskState_TASK_STATE_SUCCEEDED, Error: strings.Repeat("\xe9", 1<<20), Signal: "\xff",
		Stdout: &banyanv1.Output{Bytes: 1 << 50, Chunks: make([][]byte, 1<<18)},
	}
	a := &attempt{}
	if a.finish(big); a.bytes > banyan.ResultBytesMax || big.State != banyanv1.TaskState_TASK_STATE_FAILED || !strings.Contains(big.Error, "ResultBytesMax") || !big.Stdout.Truncated {
		t.Errorf("%d bytes, %.200v", a.bytes, big)
	}
	if _, err := proto.Marshal(big); err != nil {
		t.Error(err)
	}
}

package job

import (
	"bytes"
	"fmt"
	"math/rand/v2"
	"slices"
	"strings"
	"testing"

	"google.golang.org/protobuf/proto"

	"banyan"
	banyanv1 "banyan/api/banyan/v1"
)

const id = banyan.JobID("j0123456789abc")

func TestRowsOfAJobSortByTaskAndStayApart(t *testing.T) {
	other := banyan.JobID("j0123456789abd")
	keys := [][]byte{
		FailureKey(id, 0), FailureKey(id, 1<<31),
		InputKey(id, 0), InputKey(id, 255), InputKey(id, 256),
		SendKey(id, 0), SendKey(id, 1),
		HeaderKey(id),
		ResultKey(id, 9), ResultKey(id, 10), ResultKey(id, 1<<32-1),
	}
	if !slices.IsSortedFunc(keys, bytes.Compare) {
		t.Errorf("keys do not sort: %q", keys)
	}
	in := func(k []byte, lo, hi []byte) bool { return bytes.Compare(k, lo) >= 0 && bytes.Compare(k, hi) < 0 }
	headersLo, headersHi := HeaderRange()
	activeLo, activeHi := ActiveRange()
	lo, hi := Range(id)
	for i, k := range keys {
		if got := in(AfterSlot(k), headersLo, headersHi); got != (i == 7) || in(AfterSlot(k), activeLo, activeHi) {
			t.Errorf("%q in the headers: %v", k, got)
		}
		if r, ok := banyan.ParseRowKey(k); !ok || r.Slot != banyan.SlotOf([]byte(id)) || (r.Layer == banyan.LayerResult) != (i > 7) {
			t.Errorf("%q lies at %+v, %v", k, r, ok)
		}
		if got := in(k, lo, hi) || in(FailureKey(other, 0), lo, hi); got != (i < 7) {
			t.Errorf("%q among the rows of the job: %v", k, got)
		}
	}
	rlo, rhi := ResultRange(id, 10)
	for i, k := range keys {
		if got := in(k, rlo, rhi); got != (i == 9 || i == 10) {
			t.Errorf("%q among the results from 10 on: %v", k, got)
		}
	}
	if got, err := HeaderOf(HeaderKey(id)); err != nil || got != id {
		t.Error(got, err)
	}
	if got, err := ActiveOf(ActiveKey(id)); err != nil || got != id || !in(AfterSlot(ActiveKey(id)), activeLo, activeHi) {
		t.Error(got, err)
	}
	if got, task, ok := ResultOf(ResultKey(id, 77)); !ok || got != id || task != 77 {
		t.Error(got, task, ok)
	}
	if _, _, ok := ResultOf(FailureKey(id, 77)); ok {
		t.Error("a failure is taken for a result")
	}
	if got, err := Number(ResultKey(id, 77)); err != nil || got != 77 {
		t.Error(got, err)
	}
}

func TestInputsComeBackAsTheyWere(t *testing.T) {
	rng := rand.New(rand.NewPCG(1, 2))
	var want []*banyanv1.Input
	for range 20_000 {
		in := &banyanv1.Input{}
		for range 1 + rng.IntN(3) {
			in.Columns = append(in.Columns, []byte(strings.Repeat("x", rng.IntN(40))+fmt.Sprint(rng.Int())))
		}
		want = append(want, in)
	}
	want = append(want, banyanv1.NewInput(strings.Repeat("y", banyan.InputBytesMax)), banyanv1.NewInput(""))
	var c Chunker
	var chunks []Chunk
	for _, in := range want {
		if chunk, full := c.Add(in); full {
			chunks = append(chunks, chunk)
		}
	}
	if chunk, some := c.Close(); some {
		chunks = append(chunks, chunk)
	}
	if c.Tasks() != len(want) {
		t.Fatalf("%d tasks, want %d", c.Tasks(), len(want))
	}
	n := 0
	for _, chunk := range chunks {
		if int(chunk.First) != n {
			t.Fatalf("chunk starts at %d, want %d", chunk.First, n)
		}
		if len(chunk.Value) > InputChunkBytes+banyan.InputBytesMax+16 {
			t.Errorf("chunk of %d bytes", len(chunk.Value))
		}
		in, err := OpenInputs(chunk.Value)
		if err != nil {
			t.Fatal(err)
		}
		for i := range in.Len() {
			if !proto.Equal(in.Input(i), want[n]) {
				t.Fatalf("input %d: got %q, want %q", n, in.Input(i), want[n])
			}
			n++
		}
	}
	if n != len(want) {
		t.Errorf("%d inputs came back, want %d", n, len(want))
	}
}

func TestResultsComeBackAsTheyWere(t *testing.T) {
	r := &banyanv1.TaskResult{
		Task: 5, Attempt: 2, State: banyanv1.TaskState_TASK_STATE_FAILED, ExitCode: 3, Node: 4,
		Stdout: &banyanv1.Output{Bytes: 2, Inline: []byte("ab")}, Input: banyanv1.NewInput("in"), Revision: 9,
	}
	meta := Meta{State: r.State, Node: 4, Repeats: 300}
	b, err := EncodeResult(meta, r)
	if err != nil {
		t.Fatal(err)
	}
	if r.Input == nil || r.Revision != 9 {
		t.Error("encoding changed the result")
	}
	got, err := DecodeResult(b)
	if err != nil {
		t.Fatal(err)
	}
	want := proto.Clone(r).(*banyanv1.TaskResult)
	want.Input, want.Revision = nil, 0
	if !proto.Equal(got, want) {
		t.Errorf("got %v, want %v", got, want)
	}
	if m, _, err := DecodeMeta(b); err != nil || m != meta {
		t.Errorf("got %v %v, want %v", m, err, meta)
	}
	if f, err := DecodeFailure(EncodeFailure(Failure{1000, true, 1 << 40})); err != nil || f != (Failure{1000, true, 1 << 40}) {
		t.Error(f, err)
	}
	h := &banyanv1.Job{Id: string(id), Spec: &banyanv1.JobSpec{Name: "x"}, Tasks: 3}
	if got, err := DecodeHeader(EncodeHeader(h)); err != nil || !proto.Equal(got, h) {
		t.Error(got, err)
	}
}

func TestSentFilesAreCutIntoRows(t *testing.T) {
	var files []*banyanv1.FileRef
	for i := range banyan.SendFilesMax {
		files = append(files, &banyanv1.FileRef{Path: fmt.Appendf(nil, "some/directory/of/things/file-%d", i), Mode: 0o644, Size: 9, Chunks: [][]byte{make([]byte, 32)}})
	}
	pieces := EncodeSend(files)
	if len(pieces) < 2 {
		t.Fatalf("%d pieces", len(pieces))
	}
	got, err := DecodeSend(pieces)
	if err != nil || len(got) != len(files) || !proto.Equal(got[9999], files[9999]) {
		t.Error(len(got), err)
	}
	if _, err := DecodeSend(pieces[:len(pieces)-1]); !banyan.IsKind(err, banyan.Corrupt) {
		t.Errorf("a missing piece: %v", err)
	}
}

func TestNewerFormatsAreRefused(t *testing.T) {
	newer := []byte{version + 1, 0, 0, 0}
	for name, decode := range map[string]func([]byte) error{
		"header":  func(b []byte) error { _, err := DecodeHeader(b); return err },
		"result":  func(b []byte) error { _, err := DecodeResult(b); return err },
		"failure": func(b []byte) error { _, err := DecodeFailure(b); return err },
		"inputs":  func(b []byte) error { _, err := OpenInputs(b); return err },
		"send":    func(b []byte) error { _, err := DecodeSend([][]byte{b}); return err },
	} {
		if err := decode(newer); !banyan.IsKind(err, banyan.TooNew) {
			t.Errorf("%s: %v", name, err)
		}
		if err := decode([]byte{}); !banyan.IsKind(err, banyan.Corrupt) {
			t.Errorf("%s: %v", name, err)
		}
	}
}

func FuzzRows(f *testing.F) {
	f.Add([]byte{1, 0, 0, 0, 0})
	f.Add(EncodeFailure(Failure{Count: 3}))
	result, _ := EncodeResult(Meta{State: 3, Node: 1 << 40}, &banyanv1.TaskResult{Task: 1})
	f.Add(result)
	f.Add(EncodeHeader(&banyanv1.Job{Id: string(id), Spec: &banyanv1.JobSpec{}}))
	var c Chunker
	c.Add(banyanv1.NewInput("a", "b"))
	chunk, _ := c.Close()
	f.Add(chunk.Value)
	f.Add([]byte{1, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0x7f})
	f.Add([]byte{1, 1, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 1})
	f.Fuzz(func(t *testing.T, b []byte) {
		if in, err := OpenInputs(b); err == nil {
			for i := range in.Len() {
				in.Input(i)
			}
		}
		if m, _, err := DecodeMeta(b); err == nil {
			_ = m.State.String()
		}
		if fl, err := DecodeFailure(b); err == nil {
			if again, err := DecodeFailure(EncodeFailure(fl)); err != nil || again != fl {
				t.Fatalf("%v became %v, %v", fl, again, err)
			}
		}
		DecodeResult(b)
		DecodeHeader(b)
		DecodeSend([][]byte{b})
		HeaderOf(b)
		Number(b)
	})
}

package worker

import (
	"bytes"
	"strings"
	"testing"

	"google.golang.org/protobuf/proto"
	"google.golang.org/protobuf/reflect/protoreflect"

	"banyan"
	banyanv1 "banyan/api/banyan/v1"
)

// worst fills one field of a message with the worst of a kind, and those below it.
func worst(m protoreflect.Message, f protoreflect.FieldDescriptor, text string, many, depth int) {
	var v protoreflect.Value
	switch f.Kind() {
	case protoreflect.StringKind:
		v = protoreflect.ValueOfString(text)
	case protoreflect.BytesKind:
		v = protoreflect.ValueOfBytes([]byte(text))
	case protoreflect.MessageKind:
		if depth == 0 {
			return
		}
		var below protoreflect.Message
		if f.IsList() {
			e := m.Mutable(f).List().AppendMutable()
			below = e.Message()
			v = e
		} else {
			below = m.Mutable(f).Message()
		}
		for i := range below.Descriptor().Fields().Len() {
			worst(below, below.Descriptor().Fields().Get(i), text, many, depth-1)
		}
	default:
		return
	}
	if f.IsList() {
		for range many {
			m.Mutable(f).List().Append(v)
		}
	} else if f.Kind() != protoreflect.MessageKind {
		m.Set(f, v)
	}
}

// TestNoFieldOfAResultStopsTheOthers: whatever is in a field of it, a result can be
// sent and is small enough for its row: its task may have failed by it, no more.
func TestNoFieldOfAResultStopsTheOthers(t *testing.T) {
	fields := (&banyanv1.TaskResult{}).ProtoReflect().Descriptor().Fields()
	for i := range fields.Len() {
		for _, text := range []string{"\xff\x00\x1b[2J", strings.Repeat("\xe9", 1<<20), ""} {
			r := &banyanv1.TaskResult{State: banyanv1.TaskState_TASK_STATE_SUCCEEDED, Stdout: &banyanv1.Output{}, Stderr: &banyanv1.Output{}}
			worst(r.ProtoReflect(), fields.Get(i), text, 3, 3)
			a := &attempt{}
			a.finish(r)
			b, err := proto.Marshal(a.result)
			if err != nil || len(b) > banyan.ResultBytesMax {
				t.Errorf("%s of %d bytes: %d bytes, %v", fields.Get(i).Name(), len(text), len(b), err)
			}
			if bytes.Contains([]byte(a.result.GetError()), []byte("\x1b")) && a.result.GetError() != r.GetError() {
				t.Errorf("%q", a.result.Error)
			}
		}
	}
}

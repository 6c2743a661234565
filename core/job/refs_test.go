package job

import (
	"encoding/binary"
	"testing"

	"google.golang.org/protobuf/reflect/protoreflect"

	banyanv1 "banyan/api/banyan/v1"
)

// fillChunks puts a hash of its own into every field that is called chunks, in a
// message and all below it.
func fillChunks(m protoreflect.Message, n *uint64, depth int) {
	fields := m.Descriptor().Fields()
	for i := range fields.Len() {
		f := fields.Get(i)
		switch {
		case f.Name() == "chunks":
			*n++
			m.Mutable(f).List().Append(protoreflect.ValueOfBytes(binary.BigEndian.AppendUint64(nil, *n)))
		case f.Message() == nil || f.IsMap() || depth == 0:
		case f.IsList():
			e := m.Mutable(f).List().AppendMutable()
			fillChunks(e.Message(), n, depth-1)
		default:
			fillChunks(m.Mutable(f).Message(), n, depth-1)
		}
	}
}

// Whatever a message that becomes a row may refer to is found: a field that is new
// has to be listed.
func TestEveryReferenceIsFound(t *testing.T) {
	for _, c := range []struct {
		m    protoreflect.ProtoMessage
		find func(*References, protoreflect.ProtoMessage)
		want uint64
	}{
		{&banyanv1.TaskResult{}, func(r *References, m protoreflect.ProtoMessage) { r.Result(m.(*banyanv1.TaskResult)) }, 4},
		{&banyanv1.JobSpec{}, func(r *References, m protoreflect.ProtoMessage) { r.Spec(m.(*banyanv1.JobSpec)) }, 1},
	} {
		var n uint64
		fillChunks(c.m.ProtoReflect(), &n, 4)
		var r References
		c.find(&r, c.m)
		got := map[uint64]bool{}
		for _, h := range r.Chunks {
			got[binary.BigEndian.Uint64(h)] = true
		}
		if n != c.want || uint64(len(got)) != n {
			t.Errorf("%T has %d fields of chunks (%d were known), %d are found", c.m, n, c.want, len(got))
		}
		if res, ok := c.m.(*banyanv1.TaskResult); ok {
			if len(r.Lists) != 1 || !Refers(res) {
				t.Error("a list of files is not found")
			}
			if Bereave(res); Refers(res) || !res.Stdout.Truncated || res.Error == "" {
				t.Errorf("still refers: %v", res)
			}
		}
	}
}

// Of a specification only the list of sent files is left out of the header.
func TestTrimSpecLosesNothingElse(t *testing.T) {
	spec := &banyanv1.JobSpec{}
	m := spec.ProtoReflect()
	fields := m.Descriptor().Fields()
	for i := range fields.Len() {
		f := fields.Get(i)
		switch {
		case f.IsList() && f.Message() != nil:
			m.Mutable(f).List().AppendMutable()
		case f.IsList():
			m.Mutable(f).List().Append(protoreflect.ValueOfBytes([]byte("x")))
		case f.Message() != nil:
			m.Mutable(f)
		case f.Kind() == protoreflect.StringKind:
			m.Set(f, protoreflect.ValueOfString("x"))
		case f.Kind() == protoreflect.BytesKind:
			m.Set(f, protoreflect.ValueOfBytes([]byte("x")))
		case f.Kind() == protoreflect.BoolKind:
			m.Set(f, protoreflect.ValueOfBool(true))
		case f.Kind() == protoreflect.Int64Kind:
			m.Set(f, protoreflect.ValueOfInt64(7))
		case f.Kind() == protoreflect.Uint32Kind:
			m.Set(f, protoreflect.ValueOfUint32(7))
		default:
			t.Fatalf("%s: this test fills no %v", f.Name(), f.Kind())
		}
	}
	small := TrimSpec(spec).ProtoReflect()
	for i := range fields.Len() {
		if f := fields.Get(i); small.Has(f) != (f.Name() != "send") {
			t.Errorf("%s: %v", f.Name(), small.Has(f))
		}
	}
}

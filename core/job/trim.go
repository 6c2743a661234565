package job

import (
	"encoding/binary"
	"maps"
	"slices"

	"banyan"
	banyanv1 "banyan/api/banyan/v1"
)

// Trim says what is gone of a job whose inputs stream: of the tasks before
// Tasks the results of those that succeeded, and the inputs that no failed one
// needs. What counted them stands here.
type Trim struct {
	Tasks     uint32 // before this one it is trimmed
	Succeeded uint32 // of those, without a row
	Retried   uint32 // failed tries of those

	// As it was when this row was written; results recorded later are not in it.
	Repeated uint32
	Done     map[banyan.NodeID]uint32
}

// EncodeTrim encodes a Trim.
func EncodeTrim(t Trim) []byte {
	b := []byte{version}
	for _, n := range []uint32{t.Tasks, t.Succeeded, t.Retried, t.Repeated} {
		b = binary.AppendUvarint(b, uint64(n))
	}
	for _, id := range slices.Sorted(maps.Keys(t.Done)) {
		b = binary.AppendUvarint(b, uint64(id))
		b = binary.AppendUvarint(b, uint64(t.Done[id]))
	}
	return b
}

// DecodeTrim decodes a Trim.
func DecodeTrim(b []byte) (Trim, error) {
	t := Trim{Done: map[banyan.NodeID]uint32{}}
	body, err := open("trim", b)
	if err != nil {
		return t, err
	}
	var numbers []uint64
	for len(body) > 0 {
		n, size := binary.Uvarint(body)
		if size <= 0 {
			return t, banyan.Errorf(banyan.Corrupt, "a job's trim row is cut short")
		}
		numbers, body = append(numbers, n), body[size:]
	}
	if len(numbers) < 4 || len(numbers)%2 != 0 || slices.Max(numbers[:4]) > banyan.StreamTasksMax {
		return t, banyan.Errorf(banyan.Corrupt, "a job's trim row has %d numbers, or one that is too large", len(numbers))
	}
	t.Tasks, t.Succeeded, t.Retried, t.Repeated = uint32(numbers[0]), uint32(numbers[1]), uint32(numbers[2]), uint32(numbers[3])
	for rest := numbers[4:]; len(rest) > 0; rest = rest[2:] {
		t.Done[banyan.NodeID(rest[0])] = uint32(rest[1])
	}
	return t, nil
}

// CountsAll says whether a command or a pattern names the number of all tasks,
// which is not known of a job whose inputs stream.
func CountsAll(spec *banyanv1.JobSpec) bool {
	lists := [][][]byte{spec.GetCommand().GetArgs(), spec.GetReturn(), spec.GetSendTemplates()}
	for _, list := range lists {
		for _, s := range list {
			if countsAll(string(s)) {
				return true
			}
		}
	}
	return false
}

func countsAll(s string) bool {
	for s != "" {
		_, r, rest := next(s)
		if r.what == tasks || r.what == padded {
			return true
		}
		s = rest
	}
	return false
}

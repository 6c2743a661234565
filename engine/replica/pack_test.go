package replica

import (
	"bytes"
	"fmt"
	"testing"

	"banyan"
)

func TestPacks(t *testing.T) {
	var ps []*Proposal
	for i := range 2*packCommandsMax + 3 {
		ps = append(ps, &Proposal{Data: fmt.Appendf(nil, "\x01 command %d", i)})
	}
	ps = append(ps, &Proposal{Data: bytes.Repeat([]byte{1}, packBytesMax+1)}, &Proposal{Data: []byte{1}})
	entries := packs(ps)
	if len(entries) != 5 {
		t.Errorf("%d commands in %d entries, not 5", len(ps), len(entries))
	}
	n := 0
	for _, p := range entries {
		commands, err := Commands(p.entry().GetData())
		if err != nil || len(commands) != len(p) {
			t.Fatalf("%d commands out of %d: %v", len(commands), len(p), err)
		}
		for i, data := range commands {
			if p[i] != ps[n] || !bytes.Equal(data, ps[n].Data) {
				t.Fatalf("command %d is not the one that went in", n)
			}
			n++
		}
	}
}

func FuzzCommands(f *testing.F) {
	p := pack{{Data: []byte{1, 2, 3}}, {Data: []byte{1}}}
	f.Add(p.entry().GetData())
	f.Add([]byte{packVersion})
	f.Add([]byte{packVersion, 1, 1})
	f.Add([]byte{packVersion, 1, 1, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 1})
	f.Add([]byte{1, 2})
	f.Fuzz(func(t *testing.T, data []byte) {
		commands, err := Commands(data)
		if err != nil {
			if !banyan.IsKind(err, banyan.Corrupt) {
				t.Fatal(err)
			}
			return
		}
		size := 0
		for _, c := range commands {
			size += len(c)
		}
		if size > len(data) || len(commands) > packCommandsMax {
			t.Fatalf("%d commands of %d bytes out of %d", len(commands), size, len(data))
		}
	})
}

package film

import (
	"bytes"
	"encoding/binary"
	"fmt"
	"image/png"
	"os"
	"path/filepath"
	"strings"
	"testing"
)

func tiny(number, count int) Frame {
	return Frame{Number: number, Count: count, Width: 32, Height: 18, Samples: 1}
}

func encoded(t testing.TB, f Frame) []byte {
	t.Helper()
	if err := f.Validate(); err != nil {
		t.Fatal(err)
	}
	var b bytes.Buffer
	if err := Encode(&b, f, Render(f)); err != nil {
		t.Fatal(err)
	}
	return b.Bytes()
}

func TestFrameIsAFunctionOfItsNumber(t *testing.T) {
	a, b := encoded(t, tiny(3, 5)), encoded(t, tiny(3, 5))
	if !bytes.Equal(a, b) {
		t.Error("the same frame rendered twice differs")
	}
	if bytes.Equal(a, encoded(t, tiny(4, 5))) {
		t.Error("two frames are the same")
	}
}

func TestFrameShowsSomething(t *testing.T) {
	img := Render(tiny(60, 120))
	seen := map[uint8]bool{}
	for i := 0; i < len(img.Pix); i += 4 {
		seen[img.Pix[i]] = true
	}
	if len(seen) < 20 {
		t.Errorf("only %d shades of red in the picture", len(seen))
	}
}

// write puts frames into files whose names say nothing about their order.
func write(t *testing.T, frames ...Frame) []string {
	t.Helper()
	dir := t.TempDir()
	var paths []string
	for i, f := range frames {
		p := filepath.Join(dir, fmt.Sprintf("%d.png", i))
		if err := os.WriteFile(p, encoded(t, f), 0o600); err != nil {
			t.Fatal(err)
		}
		paths = append(paths, p)
	}
	return paths
}

func TestJoinedFilmHoldsEveryFrameInOrder(t *testing.T) {
	var b bytes.Buffer
	sum, err := Join(&b, write(t, tiny(2, 3), tiny(3, 3), tiny(1, 3)), 24)
	if err != nil {
		t.Fatal(err)
	}
	if sum != (Summary{Frames: 3, Width: 32, Height: 18}) {
		t.Errorf("summary is %+v", sum)
	}
	if _, err := png.Decode(bytes.NewReader(b.Bytes())); err != nil {
		t.Errorf("the film is no PNG: %v", err)
	}
	for i, data := range frameData(t, b.Bytes()) {
		p, err := parsePicture(encoded(t, tiny(i+1, 3)))
		if err != nil {
			t.Fatal(err)
		}
		if !bytes.Equal(data, bytes.Join(p.data, nil)) {
			t.Errorf("frame %d of the film is another picture", i+1)
		}
	}
}

// frameData reads an APNG as a player does: each frame's compressed bytes.
func frameData(t *testing.T, b []byte) [][]byte {
	t.Helper()
	var frames [][]byte
	sequence := uint32(0)
	expect := func(data []byte) {
		if got := binary.BigEndian.Uint32(data); got != sequence {
			t.Fatalf("sequence number %d, want %d", got, sequence)
		}
		sequence++
	}
	for rest := b[len(signature):]; len(rest) > 0; {
		n := binary.BigEndian.Uint32(rest)
		data := rest[8 : 8+n]
		switch string(rest[4:8]) {
		case "acTL":
			if count := binary.BigEndian.Uint32(data); count != 3 {
				t.Errorf("the film says it has %d frames", count)
			}
		case "fcTL":
			expect(data)
			frames = append(frames, nil)
		case "IDAT":
			frames[len(frames)-1] = append(frames[len(frames)-1], data...)
		case "fdAT":
			expect(data)
			frames[len(frames)-1] = append(frames[len(frames)-1], data[4:]...)
		}
		rest = rest[12+n:]
	}
	if len(frames) != 3 {
		t.Fatalf("the film has %d frames", len(frames))
	}
	return frames
}

func TestJoinRefuses(t *testing.T) {
	large := tiny(2, 3)
	large.Width = 40
	for _, c := range []struct {
		name   string
		frames []Frame
		want   string
	}{
		{"a missing frame", []Frame{tiny(1, 3), tiny(3, 3)}, "1 of 3 frames are missing, the first is frame 2"},
		{"a frame twice", []Frame{tiny(1, 3), tiny(2, 3), tiny(2, 3), tiny(3, 3)}, "frame 2 is there twice"},
		{"two films", []Frame{tiny(1, 3), tiny(2, 4)}, "of a film of 4 frames"},
		{"two sizes", []Frame{tiny(1, 3), large, tiny(3, 3)}, "differs from the others"},
		{"nothing", nil, "0 frames to join"},
	} {
		var b bytes.Buffer
		_, err := Join(&b, write(t, c.frames...), 24)
		if err == nil || !strings.Contains(err.Error(), c.want) {
			t.Errorf("%s: error %v, want %q", c.name, err, c.want)
		}
		if b.Len() > 0 {
			t.Errorf("%s: something was written", c.name)
		}
	}
}

func TestFrameLimits(t *testing.T) {
	for _, f := range []Frame{{}, tiny(0, 1), tiny(2, 1), tiny(1, CountMax+1), {Number: 1, Count: 1, Width: 1 << 20, Height: 9, Samples: 1}, {Number: 1, Count: 1, Width: 9, Height: 9}} {
		if f.Validate() == nil {
			t.Errorf("%+v is taken as valid", f)
		}
	}
}

func FuzzPicture(f *testing.F) {
	whole := encoded(f, tiny(1, 2))
	f.Add(whole)
	f.Add(whole[:len(whole)-5])
	f.Add([]byte(signature))
	f.Add(append([]byte(signature), 0xff, 0xff, 0xff, 0xff, 'I', 'D', 'A', 'T', 0, 0, 0, 0))
	f.Add(appendChunk(append([]byte(nil), whole[:33]...), frameChunk, []byte{2}))
	f.Fuzz(func(t *testing.T, b []byte) {
		p, err := parsePicture(b)
		if err == nil && (p.number < 1 || p.number > p.count || len(p.data) == 0) {
			t.Errorf("a frame without picture or number is taken: %+v", p)
		}
	})
}

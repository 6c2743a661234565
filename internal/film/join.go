package film

import (
	"bufio"
	"bytes"
	"encoding/binary"
	"fmt"
	"io"
	"os"

	"banyan"
)

// Summary says what was joined.
type Summary struct {
	Frames, Width, Height int
}

// Join writes the frames in the files as one animation, in the order of their
// numbers whatever their names are. Each frame of the film must be there exactly
// once; nothing is written before that is known.
//
// The animation is an APNG: it keeps every colour, where GIF has 256 and would
// draw bands into the sky, and each frame's compressed bytes are copied as they
// are, so joining costs no more than reading. Every browser plays it; a viewer
// that does not shows the first frame.
func Join(w io.Writer, paths []string, perSecond int) (Summary, error) {
	if perSecond < 1 || perSecond > 1000 {
		return Summary{}, banyan.Errorf(banyan.Invalid, "%d frames a second: give 1 to 1000", perSecond)
	}
	ordered, head, err := arrange(paths)
	if err != nil {
		return Summary{}, err
	}
	out := bufio.NewWriterSize(w, 256<<10)
	a := &animation{w: out, count: len(ordered), perSecond: perSecond, header: head}
	if err := a.begin(); err != nil {
		return Summary{}, err
	}
	for i, path := range ordered {
		p, err := readPicture(path)
		if err != nil {
			return Summary{}, err
		}
		if err := a.frame(i == 0, p.data); err != nil {
			return Summary{}, err
		}
	}
	if err := a.chunk("IEND", nil); err != nil {
		return Summary{}, err
	}
	width, height := a.size()
	return Summary{Frames: len(ordered), Width: int(width), Height: int(height)}, out.Flush()
}

// arrange puts the files into the order of their frames and gives the header
// they share.
func arrange(paths []string) (ordered []string, header []byte, err error) {
	if len(paths) == 0 || len(paths) > CountMax {
		return nil, nil, banyan.Errorf(banyan.Invalid, "%d frames to join: give 1 to %d", len(paths), CountMax)
	}
	for _, path := range paths {
		p, err := readPicture(path)
		if err != nil {
			return nil, nil, err
		}
		if ordered == nil {
			ordered, header = make([]string, p.count), bytes.Clone(p.header)
		}
		switch {
		case p.count != len(ordered):
			return nil, nil, banyan.Errorf(banyan.Invalid, "%s is of a film of %d frames, the others of one of %d: join one film at a time", path, p.count, len(ordered))
		case !bytes.Equal(p.header, header):
			return nil, nil, banyan.Errorf(banyan.Invalid, "%s differs from the others in size or colours: render all frames alike", path)
		case ordered[p.number-1] != "":
			return nil, nil, banyan.Errorf(banyan.Invalid, "frame %d is there twice, in %s and %s: remove one", p.number, ordered[p.number-1], path)
		}
		ordered[p.number-1] = path
	}
	missing, first := 0, 0
	for i, path := range ordered {
		if path == "" {
			if missing++; missing == 1 {
				first = i + 1
			}
		}
	}
	if missing > 0 {
		return nil, nil, banyan.Errorf(banyan.NotFound, "%d of %d frames are missing, the first is frame %d: render them", missing, len(ordered), first)
	}
	return ordered, header, nil
}

func readPicture(path string) (*picture, error) {
	f, err := os.Open(path)
	if err != nil {
		return nil, err
	}
	defer f.Close()
	b, err := io.ReadAll(io.LimitReader(f, FileBytesMax+1))
	if err != nil {
		return nil, err
	}
	if len(b) > FileBytesMax {
		return nil, banyan.Errorf(banyan.Exhausted, "%s is longer than %d bytes: it is no frame of ours", path, FileBytesMax)
	}
	p, err := parsePicture(b)
	if err != nil {
		return nil, fmt.Errorf("%s: %w", path, err)
	}
	return p, nil
}

// animation writes an APNG.
type animation struct {
	w         io.Writer
	count     int
	perSecond int
	header    []byte
	sequence  uint32
}

func (a *animation) size() (width, height uint32) {
	return binary.BigEndian.Uint32(a.header), binary.BigEndian.Uint32(a.header[4:])
}

func (a *animation) chunk(kind string, data []byte) error {
	_, err := a.w.Write(appendChunk(nil, kind, data))
	return err
}

func (a *animation) begin() error {
	if _, err := io.WriteString(a.w, signature); err != nil {
		return err
	}
	if err := a.chunk("IHDR", a.header); err != nil {
		return err
	}
	control := binary.BigEndian.AppendUint32(nil, uint32(a.count))
	return a.chunk("acTL", binary.BigEndian.AppendUint32(control, 0)) // 0: for ever
}

// next gives the running number that begins every chunk of an animation.
func (a *animation) next() []byte {
	a.sequence++
	return binary.BigEndian.AppendUint32(nil, a.sequence-1)
}

// frame adds a picture. The first is also what a viewer without animation shows.
func (a *animation) frame(first bool, data [][]byte) error {
	width, height := a.size()
	control := binary.BigEndian.AppendUint32(a.next(), width)
	control = binary.BigEndian.AppendUint32(control, height)
	control = append(control, make([]byte, 8)...) // at the corner
	control = binary.BigEndian.AppendUint16(control, 1)
	control = binary.BigEndian.AppendUint16(control, uint16(a.perSecond))
	control = append(control, 0, 0) // replace the frame before, whole
	if err := a.chunk("fcTL", control); err != nil {
		return err
	}
	for _, d := range data {
		kind, body := "IDAT", d
		if !first {
			kind, body = "fdAT", append(a.next(), d...)
		}
		if err := a.chunk(kind, body); err != nil {
			return err
		}
	}
	return nil
}

package film

import (
	"bytes"
	"encoding/binary"
	"hash/crc32"
	"image"
	"image/png"
	"io"

	"banyan"
)

// A frame is a PNG file with a chunk of ours that says which frame it is, so
// that joining trusts the picture and not the name of a file.
const (
	signature    = "\x89PNG\r\n\x1a\n"
	frameChunk   = "bnFr" // ancillary, private, safe to copy
	frameVersion = 1
)

// FileBytesMax bounds one frame's file.
const FileBytesMax = 64 << 20

// Encode writes a rendered frame.
func Encode(w io.Writer, f Frame, img image.Image) error {
	var b bytes.Buffer
	if err := png.Encode(&b, img); err != nil {
		return err
	}
	head := len(signature) + 12 + 13 // IHDR comes first, and is 13 bytes long
	mark := []byte{frameVersion}
	mark = binary.BigEndian.AppendUint32(mark, uint32(f.Number))
	mark = binary.BigEndian.AppendUint32(mark, uint32(f.Count))
	out := append([]byte(nil), b.Bytes()[:head]...)
	out = appendChunk(out, frameChunk, mark)
	out = append(out, b.Bytes()[head:]...)
	_, err := w.Write(out)
	return err
}

func appendChunk(dst []byte, kind string, data []byte) []byte {
	dst = binary.BigEndian.AppendUint32(dst, uint32(len(data)))
	start := len(dst)
	dst = append(dst, kind...)
	dst = append(dst, data...)
	return binary.BigEndian.AppendUint32(dst, crc32.ChecksumIEEE(dst[start:]))
}

// picture is a frame's file taken apart.
type picture struct {
	number, count int
	header        []byte   // of IHDR
	data          [][]byte // of each IDAT
}

// parsePicture takes a frame's file apart; its slices point into b. It checks
// every checksum, and that the file is a whole frame.
func parsePicture(b []byte) (*picture, error) {
	bad := func(what string) (*picture, error) {
		return nil, banyan.Errorf(banyan.Corrupt, "not a frame of a film: %s: render it again with 'banyan film frame'", what)
	}
	if !bytes.HasPrefix(b, []byte(signature)) {
		return bad("not a PNG file")
	}
	p := &picture{}
	for rest := b[len(signature):]; ; {
		if len(rest) < 12 {
			return bad("the file is cut off")
		}
		n := int(binary.BigEndian.Uint32(rest))
		if n > len(rest)-12 {
			return bad("the file is cut off")
		}
		kind, data := string(rest[4:8]), rest[8:8+n]
		if crc32.ChecksumIEEE(rest[4:8+n]) != binary.BigEndian.Uint32(rest[8+n:]) {
			return bad("a checksum is wrong")
		}
		rest = rest[12+n:]
		switch kind {
		case "IHDR":
			p.header = data
		case frameChunk:
			if n != 9 || data[0] != frameVersion {
				return nil, banyan.Errorf(banyan.TooNew, "the frame's format %v is unknown: join it with the banyan that rendered it", data[:min(n, 1)])
			}
			p.number, p.count = int(binary.BigEndian.Uint32(data[1:])), int(binary.BigEndian.Uint32(data[5:]))
		case "IDAT":
			p.data = append(p.data, data)
		case "IEND":
			if len(p.header) != 13 || len(p.data) == 0 {
				return bad("it holds no picture")
			}
			if p.count < 1 || p.count > CountMax || p.number < 1 || p.number > p.count {
				return bad("it does not say which frame it is")
			}
			return p, nil
		}
	}
}

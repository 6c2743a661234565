package mvcc

import (
	"encoding/binary"
	"math/bits"

	"banyan"
)

func appendBytes(dst, b []byte) []byte {
	return append(binary.AppendUvarint(dst, uint64(len(b))), b...)
}

// flags packs bits, the first one lowest.
func flags(set ...bool) byte {
	var f byte
	for i, on := range set {
		if on {
			f |= 1 << i
		}
	}
	return f
}

// decoder takes bytes apart. Its first failure sticks: all later answers are
// zero, and end reports it.
type decoder struct {
	b    []byte
	what string // what is being decoded, for the error
	err  error
}

func (d *decoder) fail(format string, args ...any) {
	if d.err == nil {
		err := banyan.Errorf(banyan.Corrupt, format, args...)
		d.err = banyan.Errorf(banyan.Corrupt, "mvcc: a %s cannot be read: %w", d.what, err)
	}
	d.b = nil
}

// version reads the format, which must be the newest: there is no older one in
// data of format 2.
func (d *decoder) version(newest byte) byte {
	v := d.byte()
	if v > newest {
		d.err = banyan.Errorf(banyan.TooNew, "mvcc: a %s has format %d, this binary knows up to %d: run a newer banyan", d.what, v, newest)
		d.b = nil
	} else if v < newest && d.err == nil {
		d.fail("it has format %d, this binary reads %d", v, newest)
	}
	return v
}

func (d *decoder) byte() byte {
	if len(d.b) == 0 {
		d.fail("it is cut short")
		return 0
	}
	v := d.b[0]
	d.b = d.b[1:]
	return v
}

func (d *decoder) uvarint() uint64 {
	v, n := binary.Uvarint(d.b)
	if n <= 0 {
		d.fail("it is cut short in a number")
		return 0
	}
	d.b = d.b[n:]
	return v
}

func (d *decoder) varint() int64 {
	v, n := binary.Varint(d.b)
	if n <= 0 {
		d.fail("it is cut short in a number")
		return 0
	}
	d.b = d.b[n:]
	return v
}

func (d *decoder) uint64() uint64 {
	if len(d.b) < 8 {
		d.fail("it is cut short in a number")
		return 0
	}
	v := binary.BigEndian.Uint64(d.b)
	d.b = d.b[8:]
	return v
}

func (d *decoder) uint16() uint16 {
	if len(d.b) < 2 {
		d.fail("it is cut short in a number")
		return 0
	}
	v := binary.BigEndian.Uint16(d.b)
	d.b = d.b[2:]
	return v
}

// count reads how many things of at least size bytes follow: no more than max,
// and no more than there are bytes for.
func (d *decoder) count(max, size int) int {
	n := d.uvarint()
	if n > uint64(max) || n > uint64(len(d.b)/size) {
		d.fail("it promises %d parts in %d bytes", n, len(d.b))
		return 0
	}
	return int(n)
}

// bytes gives a slice of the input.
func (d *decoder) bytes(max int) []byte {
	n := d.uvarint()
	if n > uint64(max) || n > uint64(len(d.b)) {
		d.fail("it promises %d bytes, %d are left, %d are allowed", n, len(d.b), max)
		return nil
	}
	v := d.b[:n:n]
	d.b = d.b[n:]
	return v
}

func (d *decoder) request() (id banyan.RequestID) {
	if len(d.b) < len(id) {
		d.fail("it is cut short in the request id")
		return id
	}
	d.b = d.b[copy(id[:], d.b):]
	return id
}

// optional is bytes for a nil that is not there.
func (d *decoder) optional(there bool, max int) []byte {
	if !there {
		return nil
	}
	b := d.bytes(max)
	if len(b) == 0 {
		d.fail("it promises what is empty")
	}
	return b
}

func (d *decoder) flags(to ...*bool) {
	f := d.byte()
	if bits.Len8(f) > len(to) {
		d.fail("flags %08b are unknown", f)
	}
	for i, p := range to {
		*p = d.err == nil && f&(1<<i) != 0
	}
}

// rest gives what is left of the input.
func (d *decoder) rest() []byte {
	v := d.b
	d.b = nil
	return v
}

// end reports the first failure, or that something is left over.
func (d *decoder) end() error {
	if d.err == nil && len(d.b) > 0 {
		d.fail("%d bytes are left over", len(d.b))
	}
	return d.err
}

package mvcc

import (
	"encoding/binary"
	"slices"

	"banyan"
)

// codecVersion leads every encoded Command, Result and row. A binary that
// meets a higher one refuses it rather than guess.
const codecVersion = 1

// commandEarliest is the version of a Command that has Earliest behind Request,
// protocolEarliest the first protocol whose nodes all read it.
const (
	commandEarliest  = 2
	protocolEarliest = 3
)

// EncodeFor is Encode for readers of a protocol: what an older one has no form
// for is left out.
func (c *Command) EncodeFor(protocol uint32, dst []byte) []byte {
	if c.Earliest != 0 && protocol < protocolEarliest {
		plain := *c
		plain.Earliest = 0
		c = &plain
	}
	return c.Encode(dst)
}

// size is the most that the command's encoding usually takes.
func (c *Command) size() int {
	size := commandOverhead
	for i := range c.Conds {
		size += len(c.Conds[i].Key) + len(c.Conds[i].Value) + rowOverhead
	}
	for i := range c.Muts {
		u := &c.Muts[i]
		size += len(u.Key) + len(u.End) + len(u.Value) + rowOverhead
	}
	return size
}

// Encode appends the command's encoding to dst, which it may grow, and gives
// the result. It keeps no reference to the command.
func (c *Command) Encode(dst []byte) []byte {
	version := byte(codecVersion)
	if c.Earliest != 0 {
		version = commandEarliest
	}
	dst = append(slices.Grow(dst, c.size()), version)
	dst = binary.AppendUvarint(dst, c.Term)
	dst = binary.AppendVarint(dst, c.TimeMs)
	dst = appendRequest(dst, c.Request)
	if version >= commandEarliest {
		dst = binary.AppendUvarint(dst, uint64(c.Earliest))
	}
	dst = binary.AppendUvarint(dst, uint64(len(c.Conds)))
	for i := range c.Conds {
		q := &c.Conds[i]
		dst = append(dst, byte(q.Test))
		dst = appendBytes(dst, q.Key)
		switch q.Test {
		case ValueEquals:
			dst = appendBytes(dst, q.Value)
		case ModEquals:
			dst = binary.AppendUvarint(dst, uint64(q.Mod))
		}
	}
	dst = binary.AppendUvarint(dst, uint64(len(c.Muts)))
	for i := range c.Muts {
		dst = c.Muts[i].encode(dst)
	}
	return dst
}

func (u *Mutation) encode(dst []byte) []byte {
	dst = append(dst, byte(u.Op))
	switch u.Op {
	case Put, Append:
		dst = appendBytes(dst, u.Key)
		dst = binary.AppendUvarint(dst, u.Lease)
		dst = appendBytes(dst, u.Value)
	case Delete:
		dst = appendBytes(dst, u.Key)
	case DeleteRange:
		dst = appendBytes(dst, u.Key)
		dst = appendBytes(dst, u.End)
	case Revoke:
		dst = binary.AppendUvarint(dst, u.Lease)
	case Compact:
		dst = binary.AppendUvarint(dst, uint64(u.Rev))
	}
	return dst
}

// Decode reads what Encode wrote.
func Decode(b []byte) (*Command, error) {
	c := &Command{}
	if err := c.Decode(b); err != nil {
		return nil, err
	}
	return c, nil
}

// Decode reads what Encode wrote into c, whose memory it uses again. The
// command's keys and values are slices of b, which must not change as long as
// the command, or an event that Apply made of it, is in use. Errors are of kind
// Corrupt or TooNew.
//
// What it accepts can be applied, but need not be worth it: see Validate.
func (c *Command) Decode(b []byte) error {
	d := decoder{b: b, what: "command"}
	version := d.version(commandEarliest)
	c.Term, c.TimeMs, c.Request, c.Earliest = d.uvarint(), d.varint(), d.request(), 0
	if version >= commandEarliest {
		c.Earliest = banyan.Revision(d.uvarint())
	}
	c.Conds = zeroed(c.Conds, d.count(banyan.CommandConditionsMax, 2))
	for i := range c.Conds {
		d.cond(&c.Conds[i])
	}
	c.Muts = zeroed(c.Muts, d.count(banyan.CommandMutationsMax, 2))
	for i := range c.Muts {
		d.mutation(&c.Muts[i])
	}
	return d.end()
}

// zeroed is n zero elements, in s's memory if they fit; nil if there are none
// and s has no memory.
func zeroed[T any](s []T, n int) []T {
	if n > cap(s) {
		return make([]T, n)
	}
	s = s[:n]
	clear(s)
	return s
}

func (d *decoder) cond(q *Cond) {
	q.Test = Test(d.byte())
	q.Key = d.bytes(banyan.KeyBytesMax)
	switch q.Test {
	case Exists, Missing:
	case ValueEquals:
		q.Value = d.bytes(banyan.ValueBytesMax)
	case ModEquals:
		q.Mod = banyan.Revision(d.uvarint())
	default:
		d.fail("condition %d is unknown", q.Test)
	}
}

func (d *decoder) mutation(u *Mutation) {
	u.Op = Op(d.byte())
	switch u.Op {
	case Put, Append:
		u.Key = d.bytes(banyan.KeyBytesMax)
		u.Lease = d.uvarint()
		u.Value = d.bytes(banyan.ValueBytesMax)
	case Delete:
		u.Key = d.bytes(banyan.KeyBytesMax)
	case DeleteRange:
		u.Key = d.bytes(banyan.KeyBytesMax)
		u.End = d.bytes(banyan.KeyBytesMax)
	case Revoke:
		u.Lease = d.uvarint()
	case Compact:
		u.Rev = banyan.Revision(d.uvarint())
	default:
		d.fail("mutation %d is unknown", u.Op)
	}
}

// Encode appends the result's encoding to dst.
func (r *Result) Encode(dst []byte) []byte {
	dst = append(dst, codecVersion, flags(r.OK, r.More, r.Stale, r.Duplicate, r.Forgotten))
	dst = binary.AppendVarint(dst, int64(r.FailedCond))
	dst = binary.AppendUvarint(dst, uint64(r.Revision))
	dst = binary.AppendUvarint(dst, r.Deleted)
	dst = binary.AppendUvarint(dst, uint64(len(r.Sequences)))
	for _, n := range r.Sequences {
		dst = binary.AppendUvarint(dst, n)
	}
	return dst
}

// DecodeResult reads what Result.Encode wrote.
func DecodeResult(b []byte) (Result, error) {
	d := decoder{b: b, what: "result"}
	r := d.result()
	if err := d.end(); err != nil {
		return Result{}, err
	}
	return r, nil
}

func (d *decoder) result() Result {
	d.version(codecVersion)
	var r Result
	d.flags(&r.OK, &r.More, &r.Stale, &r.Duplicate, &r.Forgotten)
	r.FailedCond = int(d.varint())
	if r.FailedCond < -1 || r.FailedCond >= banyan.CommandConditionsMax {
		d.fail("condition %d failed, of at most %d", r.FailedCond, banyan.CommandConditionsMax)
	}
	r.Revision = banyan.Revision(d.uvarint())
	r.Deleted = d.uvarint()
	if n := d.count(banyan.CommandMutationsMax, 1); n > 0 {
		r.Sequences = make([]uint64, n)
	}
	for i := range r.Sequences {
		r.Sequences[i] = d.uvarint()
	}
	return r
}

// Validate says what is wrong with a command, as an error of kind Invalid or
// Exhausted, before it is proposed. Whoever proposes must ask.
func (c *Command) Validate() error {
	if len(c.Conds) > banyan.CommandConditionsMax {
		return banyan.Errorf(banyan.Exhausted, "the command has %d conditions, at most %d are allowed: split it", len(c.Conds), banyan.CommandConditionsMax)
	}
	if len(c.Muts) > banyan.CommandMutationsMax {
		return banyan.Errorf(banyan.Exhausted, "the command has %d mutations, at most %d are allowed: split it", len(c.Muts), banyan.CommandMutationsMax)
	}
	for i := range c.Conds {
		q := &c.Conds[i]
		if q.Test < Exists || q.Test > ModEquals {
			return banyan.Errorf(banyan.Invalid, "condition %d asks for unknown test %d", i, q.Test)
		}
		if err := validRow(q.Key, q.Value, 0); err != nil {
			return err
		}
	}
	for i := range c.Muts {
		if err := c.Muts[i].validate(); err != nil {
			return err
		}
	}
	if size := c.size() - commandOverhead; size > banyan.CommandBytesMax {
		return banyan.Errorf(banyan.Exhausted, "the command has %d bytes, at most %d are allowed: split it", size, banyan.CommandBytesMax)
	}
	return nil
}

// rowOverhead is more than the encoding of a condition or mutation takes
// beside its keys and values, commandOverhead what a command takes beside them.
const (
	rowOverhead     = 24
	commandOverhead = 48
)

func (u *Mutation) validate() error {
	switch u.Op {
	case Put, Delete:
		return validRow(u.Key, u.Value, 0)
	case Append:
		return validRow(u.Key, u.Value, sequenceBytes)
	case DeleteRange:
		if string(u.Key) >= string(u.End) {
			return banyan.Errorf(banyan.Invalid, "the range from %q to %q is empty: its end must be greater than its start", u.Key, u.End)
		}
		if err := validRow(u.Key, nil, 0); err != nil {
			return err
		}
		return validRow(u.End, nil, 0)
	case Revoke:
		if u.Lease == 0 {
			return banyan.Errorf(banyan.Invalid, "lease 0 cannot be revoked: it stands for no lease")
		}
		return nil
	case Compact:
		return nil
	}
	return banyan.Errorf(banyan.Invalid, "mutation %d is unknown", u.Op)
}

func validRow(key, value []byte, suffixBytes int) error {
	if len(key) == 0 {
		return banyan.Errorf(banyan.Invalid, "the key is empty: give one")
	}
	if len(key)+suffixBytes > banyan.KeyBytesMax {
		return banyan.Errorf(banyan.Exhausted, "key %.32q… has %d bytes, at most %d are allowed: shorten it", key, len(key)+suffixBytes, banyan.KeyBytesMax)
	}
	if len(value) > banyan.ValueBytesMax {
		return banyan.Errorf(banyan.Exhausted, "the value of key %.64q has %d bytes, at most %d are allowed: store it as a file", key, len(value), banyan.ValueBytesMax)
	}
	return nil
}

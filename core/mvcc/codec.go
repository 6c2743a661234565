package mvcc

import (
	"encoding/binary"
	"slices"

	"banyan"
)

// codecVersion leads every encoded Command, Result and row. A binary that
// meets a higher one refuses it rather than guess.
const codecVersion = 3

// size is the most that the command's encoding usually takes.
func (c *Command) size() int {
	size := commandOverhead + len(c.Who) + len(c.Trace)
	for i := range c.Conds {
		q := &c.Conds[i]
		size += len(q.Key) + len(q.End) + len(q.Value) + rowOverhead
	}
	for _, muts := range [...][]Mutation{c.Muts, c.Else} {
		for i := range muts {
			u := &muts[i]
			size += len(u.Key) + len(u.End) + len(u.Value) + rowOverhead
		}
	}
	return size
}

// Encode appends the command's encoding to dst, which it may grow, and gives
// the result. It keeps no reference to the command.
func (c *Command) Encode(dst []byte) []byte {
	named := c.Request != (banyan.RequestID{})
	dst = append(slices.Grow(dst, c.size()), codecVersion,
		flags(named, c.Earliest != 0, len(c.Else) > 0, len(c.Who) > 0, len(c.Trace) > 0))
	dst = binary.AppendUvarint(dst, c.Term)
	dst = binary.BigEndian.AppendUint64(dst, uint64(c.Time))
	if named {
		dst = append(dst, c.Request[:]...)
	}
	if c.Earliest != 0 {
		dst = binary.AppendUvarint(dst, uint64(c.Earliest))
	}
	dst = appendOptional(appendOptional(dst, c.Who), c.Trace)
	dst = binary.AppendUvarint(dst, uint64(len(c.Conds)))
	for i := range c.Conds {
		dst = c.Conds[i].encode(dst)
	}
	dst = appendMutations(dst, c.Muts)
	if len(c.Else) > 0 {
		dst = appendMutations(dst, c.Else)
	}
	return dst
}

func appendOptional(dst, b []byte) []byte {
	if len(b) == 0 {
		return dst
	}
	return appendBytes(dst, b)
}

// overRange marks the test of a condition that has an end.
const overRange = 0x80

func (q *Cond) encode(dst []byte) []byte {
	if len(q.End) == 0 {
		dst = appendBytes(append(dst, byte(q.Test)), q.Key)
	} else {
		dst = appendBytes(appendBytes(append(dst, byte(q.Test)|overRange), q.Key), q.End)
	}
	switch {
	case q.Test < ofValue:
		return dst
	case q.Test < ofMod:
		return appendBytes(dst, q.Value)
	}
	return binary.AppendUvarint(dst, q.Number)
}

func appendMutations(dst []byte, muts []Mutation) []byte {
	dst = binary.AppendUvarint(dst, uint64(len(muts)))
	for i := range muts {
		dst = muts[i].encode(dst)
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
		dst = appendBytes(dst, u.Key)
		dst = binary.AppendUvarint(dst, u.Lease)
	case Compact:
		dst = binary.AppendUvarint(dst, uint64(u.Rev))
	case Add, Max:
		dst = appendBytes(dst, u.Key)
		dst = binary.AppendVarint(dst, u.Number)
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
	d.version(codecVersion)
	var named, earliest, otherwise, who, trace bool
	d.flags(&named, &earliest, &otherwise, &who, &trace)
	c.Term, c.Time = d.uvarint(), banyan.Timestamp(d.uint64())
	c.Request, c.Earliest = banyan.RequestID{}, 0
	if named {
		c.Request = d.request()
	}
	if earliest {
		c.Earliest = banyan.Revision(d.uvarint())
	}
	c.Who, c.Trace = d.optional(who, banyan.PrincipalBytesMax), d.optional(trace, banyan.TraceBytesMax)
	c.Conds = zeroed(c.Conds, d.count(banyan.CommandConditionsMax, 2))
	for i := range c.Conds {
		d.cond(&c.Conds[i])
	}
	c.Muts, c.Else = d.mutations(c.Muts), c.Else[:0]
	if otherwise {
		c.Else = d.mutations(c.Else)
	}
	return d.end()
}

func (d *decoder) mutations(muts []Mutation) []Mutation {
	muts = zeroed(muts, d.count(banyan.CommandMutationsMax, 2))
	for i := range muts {
		d.mutation(&muts[i])
	}
	return muts
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
	test := d.byte()
	q.Test = Test(test &^ overRange)
	q.Key = d.bytes(banyan.RowKeyBytesMax)
	q.End = d.optional(test&overRange != 0, banyan.RowKeyBytesMax)
	if len(q.End) > 0 {
		d.oneClass(q.Key, q.End)
	}
	switch {
	case !q.Test.known():
		d.fail("condition %d is unknown", q.Test)
	case q.Test < ofValue:
	case q.Test < ofMod:
		q.Value = d.bytes(banyan.ValueBytesMax)
	default:
		q.Number = d.uvarint()
	}
}

// oneClass refuses a range that mixes versioned and unversioned rows.
func (d *decoder) oneClass(lo, hi []byte) {
	if _, ok := oneClass(lo, hi); !ok {
		d.fail("the range from %x to %x mixes classes of rows", lo, hi)
	}
}

func (d *decoder) mutation(u *Mutation) {
	u.Op = Op(d.byte())
	switch u.Op {
	case Put, Append:
		u.Key = d.bytes(banyan.RowKeyBytesMax)
		u.Lease = d.uvarint()
		u.Value = d.bytes(banyan.ValueBytesMax)
	case Delete:
		u.Key = d.bytes(banyan.RowKeyBytesMax)
	case DeleteRange:
		u.Key = d.bytes(banyan.RowKeyBytesMax)
		u.End = d.bytes(banyan.RowKeyBytesMax)
		d.oneClass(u.Key, u.End)
	case Revoke:
		if u.Key = d.bytes(slotBytes); len(u.Key) != slotBytes {
			d.fail("a lease is revoked in no slot")
		}
		u.Lease = d.uvarint()
	case Compact:
		u.Rev = banyan.Revision(d.uvarint())
	case Add, Max:
		u.Key = d.bytes(banyan.RowKeyBytesMax)
		u.Number = d.varint()
	default:
		d.fail("mutation %d is unknown", u.Op)
	}
}

// Encode appends the result's encoding to dst.
func (r *Result) Encode(dst []byte) []byte {
	dst = append(dst, codecVersion, flags(r.OK, r.More, r.Stale, r.Duplicate, r.Forgotten, r.Moved, r.NotNumber, len(r.Numbers) > 0))
	dst = binary.AppendVarint(dst, int64(r.FailedCond))
	dst = binary.AppendUvarint(dst, uint64(r.Revision))
	dst = binary.BigEndian.AppendUint64(dst, uint64(r.Time))
	dst = binary.AppendUvarint(dst, r.Deleted)
	dst = binary.AppendUvarint(dst, uint64(len(r.Sequences)))
	for _, n := range r.Sequences {
		dst = binary.AppendUvarint(dst, n)
	}
	if len(r.Numbers) > 0 {
		dst = binary.AppendUvarint(dst, uint64(len(r.Numbers)))
		for _, n := range r.Numbers {
			dst = binary.AppendVarint(dst, n)
		}
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
	var numbers bool
	d.flags(&r.OK, &r.More, &r.Stale, &r.Duplicate, &r.Forgotten, &r.Moved, &r.NotNumber, &numbers)
	r.FailedCond = int(d.varint())
	if r.FailedCond < -1 || r.FailedCond >= banyan.CommandConditionsMax {
		d.fail("condition %d failed, of at most %d", r.FailedCond, banyan.CommandConditionsMax)
	}
	r.Revision = banyan.Revision(d.uvarint())
	r.Time = banyan.Timestamp(d.uint64())
	r.Deleted = d.uvarint()
	if n := d.count(banyan.CommandMutationsMax, 1); n > 0 {
		r.Sequences = make([]uint64, n)
	}
	for i := range r.Sequences {
		r.Sequences[i] = d.uvarint()
	}
	if !numbers {
		return r
	}
	if n := d.count(banyan.CommandMutationsMax, 1); n > 0 {
		r.Numbers = make([]int64, n)
	}
	for i := range r.Numbers {
		r.Numbers[i] = d.varint()
	}
	return r
}

// Validate says what is wrong with a command, as an error of kind Invalid or
// Exhausted, before it is proposed. Whoever proposes must ask.
func (c *Command) Validate() error {
	if len(c.Conds) > banyan.CommandConditionsMax {
		return banyan.Errorf(banyan.Exhausted, "the command has %d conditions, at most %d are allowed: split it", len(c.Conds), banyan.CommandConditionsMax)
	}
	if n := max(len(c.Muts), len(c.Else)); n > banyan.CommandMutationsMax {
		return banyan.Errorf(banyan.Exhausted, "the command has %d mutations, at most %d are allowed: split it", n, banyan.CommandMutationsMax)
	}
	if len(c.Who) > banyan.PrincipalBytesMax || len(c.Trace) > banyan.TraceBytesMax {
		return banyan.Errorf(banyan.Exhausted, "who asks has %d bytes and the trace %d, at most %d and %d are allowed", len(c.Who), len(c.Trace), banyan.PrincipalBytesMax, banyan.TraceBytesMax)
	}
	for i := range c.Conds {
		if err := c.Conds[i].validate(i); err != nil {
			return err
		}
	}
	for i := range c.Muts {
		if err := c.Muts[i].validate(); err != nil {
			return err
		}
	}
	for i := range c.Else {
		if err := c.Else[i].validate(); err != nil {
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

func (q *Cond) validate(i int) error {
	if !q.Test.known() {
		return banyan.Errorf(banyan.Invalid, "condition %d asks for unknown test %d", i, q.Test)
	}
	if len(q.End) > 0 {
		if err := validRange(q.Key, q.End); err != nil {
			return err
		}
	}
	return validRow(q.Key, q.Value, 0)
}

func validRange(lo, hi []byte) error {
	if string(lo) >= string(hi) {
		return banyan.Errorf(banyan.Invalid, "the range from %q to %q is empty: its end must be greater than its start", lo, hi)
	}
	if err := validRow(lo, nil, 0); err != nil {
		return err
	}
	if _, ok := oneClass(lo, hi); !ok {
		return banyan.Errorf(banyan.Invalid, "the range from %q to %q mixes versioned and unversioned rows, or slots: split it", lo, hi)
	}
	return validRow(hi, nil, 0)
}

func (u *Mutation) validate() error {
	switch u.Op {
	case Put, Delete, Add, Max:
		return validRow(u.Key, u.Value, 0)
	case Append:
		return validRow(u.Key, u.Value, sequenceBytes)
	case DeleteRange:
		return validRange(u.Key, u.End)
	case Revoke:
		if u.Lease == 0 {
			return banyan.Errorf(banyan.Invalid, "lease 0 cannot be revoked: it stands for no lease")
		}
		if len(u.Key) != slotBytes {
			return banyan.Errorf(banyan.Invalid, "lease %x is revoked in %x: give a slot of two bytes", u.Lease, u.Key)
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
	if len(key)+suffixBytes > banyan.RowKeyBytesMax {
		return banyan.Errorf(banyan.Exhausted, "key %.32q… has %d bytes, at most %d are allowed: shorten it", key, len(key)+suffixBytes, banyan.RowKeyBytesMax)
	}
	if len(value) > banyan.ValueBytesMax {
		return banyan.Errorf(banyan.Exhausted, "the value of key %.64q has %d bytes, at most %d are allowed: store it as a file", key, len(value), banyan.ValueBytesMax)
	}
	return nil
}

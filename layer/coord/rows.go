package coord

import (
	"bytes"
	"encoding/binary"
	"fmt"
	"strconv"
	"strings"

	"google.golang.org/protobuf/proto"

	"banyan"
	banyanv1 "banyan/api/banyan/v1"
	"banyan/core/mvcc"
)

// The rows (banyan.LayerLock), in the slot of the partition, each attached to
// the lease it belongs to:
//
//	l<partition> 00 <lease>      a lease: how long it lasts
//	o<name> 00 h<permit>         the claim that holds a permit of a lock
//	o<name> 00 w<place>          a waiting claim, at its place in the queue
//
// And one of the shard (banyan.LayerChain, SlotOwn), attached to none: the latest
// command, see Core.link.
//
// Numbers are hexadecimal, of fixed length. Leases sort before claims. A
// holder's row is not changed while it holds: its revision is the token.
const (
	leases = 'l'
	locks  = 'o'
)

// prefix begins the rows of a slot.
func prefix(slot int) []byte {
	return banyan.AppendRowKey(make([]byte, 0, 64), slot, banyan.LayerLock, banyan.SpaceDefault)
}

func slotOf(name string) int { return banyan.SlotOf(banyan.Partition([]byte(name))) }

// chainKey is where the row of the latest command is.
func chainKey() []byte {
	return banyan.AppendRowKey(nil, banyan.SlotOwn, banyan.LayerChain, banyan.SpaceSystem)
}

const rowVersion = 1

func leaseKey(partition string, lease uint64) []byte {
	return fmt.Appendf(prefix(slotOf(partition)), "%c%s\x00%016x", leases, partition, lease)
}

func holderKey(name string, permit uint32) []byte { return banyan.LockRow(name, permit) }

func waiterKey(name string, place uint64) []byte {
	return fmt.Appendf(prefix(slotOf(name)), "%c%s\x00w%016x", locks, name, place)
}

// slotBytes is what stands before the layer in a row key.
const slotBytes = 2

// All asks for all rows of this layer in a shard: leases, then claims.
func All() mvcc.Query {
	p := prefix(0)[slotBytes:]
	return mvcc.Query{Lo: append(p[:len(p):len(p)], leases), Hi: append(p[:len(p):len(p)], locks+1), EachSlot: true}
}

// lockRange is where, in each slot, the claims to locks are whose names start
// with start and come behind after.
func lockRange(start, after string) (lo, hi []byte) {
	p := append(prefix(0)[slotBytes:], locks)
	lo = append(p[:len(p):len(p)], start...)
	hi = mvcc.PrefixEnd(lo)
	if behind := append(append(p[:len(p):len(p)], after...), 1); after != "" && bytes.Compare(behind, lo) > 0 {
		lo = behind
	}
	return lo, hi
}

// claimsOf is where the claims to one lock are.
func claimsOf(name string) (lo, hi []byte) {
	lo = append(append(prefix(slotOf(name)), locks), name...)
	return append(lo[:len(lo):len(lo)], 0), append(lo[:len(lo):len(lo)], 1)
}

// place is what the key of a row says.
type place struct {
	lease  bool   // else a claim
	name   string // of the lock, or the lease's partition
	held   bool
	number uint64 // the lease, the permit, or the place in the queue
}

func parseKey(key []byte) (p place, err error) {
	row, ok := banyan.ParseRowKey(key)
	if !ok || row.Layer != banyan.LayerLock || len(row.Key) == 0 {
		return p, banyan.Errorf(banyan.Corrupt, "row %q is not of a lock", key)
	}
	isLease, text := row.Key[0] == leases, string(row.Key[1:])
	digits := 16
	name, number, ok := strings.Cut(text, "\x00")
	ok = ok && (isLease || row.Key[0] == locks) && row.Slot == slotOf(name)
	p = place{lease: isLease, name: name}
	if ok && !isLease && number != "" {
		p.held = number[0] == 'h'
		ok = p.held || number[0] == 'w'
		if number = number[1:]; p.held {
			digits = 8
		}
	}
	if ok && len(number) == digits {
		p.number, err = strconv.ParseUint(number, 16, 64)
		ok = err == nil
	}
	if !ok || len(number) != digits {
		return p, banyan.Errorf(banyan.Corrupt, "row %q is not of a lock", key)
	}
	return p, nil
}

func encodeLease(ttl int64) []byte {
	return binary.AppendUvarint([]byte{rowVersion}, uint64(ttl))
}

func decodeLease(b []byte) (ttl int64, err error) {
	if err := checkVersion(b); err != nil {
		return 0, err
	}
	v, n := binary.Uvarint(b[1:])
	if n <= 0 || n != len(b)-1 || v == 0 || v > TTLMaxMs {
		return 0, banyan.Errorf(banyan.Corrupt, "the row of a lease cannot be read: % x", b)
	}
	return int64(v), nil
}

func encodeClaim(c *banyanv1.Claim) []byte {
	b, err := proto.MarshalOptions{Deterministic: true}.MarshalAppend([]byte{rowVersion}, c)
	if err != nil {
		panic("coord: a claim cannot be encoded: " + err.Error()) // its strings were checked
	}
	return b
}

// decodeClaim gives the claim of a row, with its token if it holds.
func decodeClaim(row *mvcc.Row) (*banyanv1.Claim, place, error) {
	p, err := parseKey(row.Key)
	if err != nil || p.lease {
		return nil, p, err
	}
	if err := checkVersion(row.Value); err != nil {
		return nil, p, err
	}
	c := &banyanv1.Claim{}
	if err := proto.Unmarshal(row.Value[1:], c); err != nil {
		return nil, p, banyan.Errorf(banyan.Corrupt, "row %q of a lock cannot be read: %w", row.Key, err)
	}
	if c.Name != p.name || c.Lease != row.Lease || c.Lease == 0 || c.Permits == 0 {
		return nil, p, banyan.Errorf(banyan.Corrupt, "row %q holds a claim of lease %x to %q, and is attached to lease %x", row.Key, c.Lease, c.Name, row.Lease)
	}
	c.Token, c.Permit = 0, 0
	if p.held {
		c.Token, c.Permit = uint64(row.Mod), uint32(p.number)
	}
	return c, p, nil
}

func checkVersion(b []byte) error {
	switch {
	case len(b) == 0:
		return banyan.Errorf(banyan.Corrupt, "a row of a lock is empty")
	case b[0] > rowVersion:
		return banyan.Errorf(banyan.TooNew, "a row of a lock has format %d: this banyan knows up to %d, upgrade it", b[0], rowVersion)
	case b[0] == 0:
		return banyan.Errorf(banyan.Corrupt, "a row of a lock has format 0")
	}
	return nil
}

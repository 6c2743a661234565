package member

import (
	"encoding/binary"

	"banyan"

	"github.com/hashicorp/memberlist"
)

// metaVersion is the newest encoding of meta that this binary reads.
const metaVersion = 1

// metaBytesMax is what gossip carries for one node; leadsRoom of it is kept
// for at least some leads.
const (
	metaBytesMax = memberlist.MetaMaxSize
	leadsRoom    = 64
)

// meta is what a node says of itself. The encoding is a version byte, numbers
// as uvarints, strings with their length before them.
type meta struct {
	Name, Addr, Zone, Version string
	Slots                     int
	Draining, Leaving         bool
	Disk                      uint8 // placement.DiskLevel
	Leads                     []Lead
}

const (
	flagDraining = 1 << iota
	flagLeaving
	flagLow      // its disk is below the first mark
	flagCritical // and the second
)

// encode gives at most metaBytesMax bytes; leads that do not fit are left out.
// It is refused when the texts alone are too long.
func (m *meta) encode() ([]byte, error) {
	var flags uint64
	if m.Draining {
		flags |= flagDraining
	}
	if m.Leaving {
		flags |= flagLeaving
	}
	if m.Disk > 0 {
		flags |= flagLow
	}
	if m.Disk > 1 {
		flags |= flagCritical
	}
	b := []byte{metaVersion}
	b = binary.AppendUvarint(b, flags)
	b = binary.AppendUvarint(b, uint64(m.Slots))
	for _, s := range []string{m.Name, m.Addr, m.Zone, m.Version} {
		b = append(binary.AppendUvarint(b, uint64(len(s))), s...)
	}
	if len(b) > metaBytesMax-leadsRoom {
		return nil, banyan.Errorf(banyan.Invalid, "the node's name, address and zone take %d bytes together, more than %d: choose shorter ones", len(b), metaBytesMax-leadsRoom)
	}
	var head, lead []byte
	var body []byte
	n := 0
	for _, l := range m.Leads {
		lead = binary.AppendUvarint(lead[:0], uint64(l.Shard))
		lead = binary.AppendUvarint(lead, l.Term)
		if len(b)+binary.MaxVarintLen16+len(body)+len(lead) > metaBytesMax {
			break
		}
		body = append(body, lead...)
		n++
	}
	head = binary.AppendUvarint(head, uint64(n))
	return append(append(b, head...), body...), nil
}

// decodeMeta reads what another node sent.
func decodeMeta(b []byte) (m meta, err error) {
	if len(b) == 0 || len(b) > metaBytesMax {
		return m, banyan.Errorf(banyan.Corrupt, "%d bytes of what a node says of itself", len(b))
	}
	if b[0] > metaVersion {
		return m, banyan.Errorf(banyan.TooNew, "a node describes itself in format %d, this banyan (%s) knows %d: install a newer one", b[0], banyan.Version, metaVersion)
	}
	d := decoder{b: b[1:]}
	flags := d.number()
	m.Draining, m.Leaving = flags&flagDraining != 0, flags&flagLeaving != 0
	switch {
	case flags&flagCritical != 0:
		m.Disk = 2
	case flags&flagLow != 0:
		m.Disk = 1
	}
	m.Slots = int(min(d.number(), banyan.SlotsMax))
	for _, into := range []*string{&m.Name, &m.Addr, &m.Zone, &m.Version} {
		*into = d.text()
	}
	for n := d.number(); n > 0 && !d.bad; n-- {
		m.Leads = append(m.Leads, Lead{Shard: banyan.ShardID(d.number()), Term: d.number()})
	}
	if d.bad {
		return meta{}, banyan.Errorf(banyan.Corrupt, "what a node says of itself is cut short (%d bytes)", len(b))
	}
	return m, nil
}

// decoder reads numbers and texts; after the first failure it gives zeros.
type decoder struct {
	b   []byte
	bad bool
}

func (d *decoder) number() uint64 {
	v, n := binary.Uvarint(d.b)
	if n <= 0 || d.bad {
		d.bad = true
		return 0
	}
	d.b = d.b[n:]
	return v
}

func (d *decoder) text() string {
	n := d.number()
	if n > uint64(len(d.b)) || d.bad {
		d.bad = true
		return ""
	}
	s := string(d.b[:n])
	d.b = d.b[n:]
	return s
}

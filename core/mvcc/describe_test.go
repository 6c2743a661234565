package mvcc

import (
	"fmt"
	"strings"
)

// describeRow puts a raw row in words, decoding it as the machine would.
func describeRow(k, v []byte) string {
	switch k[0] {
	case currentPrefix:
		return fmt.Sprintf("current %q: %s", k[1:], describeVersion(v))
	case historyPrefix:
		key, end, err := parseHistoryKey(k)
		if err != nil {
			return err.Error()
		}
		return fmt.Sprintf("history %q until %d: %s", key, end, describeVersion(v))
	case recordPrefix:
		return describeRecord(k, v)
	case leasePrefix:
		d := decoder{b: k[1:]}
		return fmt.Sprintf("lease %d: %q", d.uint64(), d.rest())
	case counterPrefix:
		n, err := decodeCounter(v)
		return fmt.Sprintf("counter %q: %d%s", k[1:], n, orError(err))
	}
	if string(k) == metaKey {
		m, err := decodeMeta(v)
		return fmt.Sprintf("meta: revision %d horizon %d front %v%s", m.revision, m.horizon, m.front, orError(err))
	}
	return fmt.Sprintf("unknown row %q", k)
}

func describeVersion(v []byte) string {
	r, err := decodeVersion(nil, v)
	return fmt.Sprintf("%q create %d mod %d version %d lease %d%s", r.Value, r.Create, r.Mod, r.Version, r.Lease, orError(err))
}

func describeRecord(k, v []byte) string {
	at, err := parsePlaceKey(k)
	if err != nil {
		return err.Error()
	}
	rec, err := decodeRecord(v)
	var b strings.Builder
	fmt.Fprintf(&b, "record %d", at.rev)
	if at.n > 0 {
		fmt.Fprintf(&b, " note %d", at.n)
	}
	fmt.Fprintf(&b, ": request %d", rec.request[0])
	for _, c := range rec.changes {
		fmt.Fprintf(&b, " %q", c.key)
		if c.deleted {
			b.WriteString(" deleted")
		}
		if c.displaced {
			b.WriteString(" displaced")
		}
	}
	return b.String() + orError(err)
}

func orError(err error) string {
	if err != nil {
		return " ERROR " + err.Error()
	}
	return ""
}

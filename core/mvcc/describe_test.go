package mvcc

import (
	"bytes"
	"fmt"
	"strconv"
	"strings"

	"banyan"
)

// describeRow puts a raw row in words, decoding it as the machine would.
func describeRow(k, v []byte) string {
	switch k[0] {
	case currentPrefix:
		return fmt.Sprintf("current %q: %s", showKey(k[1:]), describeVersion(v))
	case unversionedPrefix:
		return fmt.Sprintf("unversioned %q: %s", showKey(k[1:]), describeVersion(v))
	case historyPrefix:
		key, end, err := parseHistoryKey(k)
		if err != nil {
			return err.Error()
		}
		return fmt.Sprintf("history %q until %d: %s", showKey(key), end, describeVersion(v))
	case recordPrefix:
		return describeRecord(k, v)
	case leasePrefix:
		d := decoder{b: k[1+slotBytes:]}
		return fmt.Sprintf("lease %d: %q", d.uint64(), showKey(append(bytes.Clone(k[1:1+slotBytes]), d.rest()...)))
	case counterPrefix:
		n, err := decodeCounter(v)
		return fmt.Sprintf("counter %q: %d%s", showKey(k[1:]), n, orError(err))
	}
	if string(k) == metaKey {
		m, err := decodeMeta(v)
		return fmt.Sprintf("meta: revision %d horizon %d front %v%s", m.revision, m.horizon, m.front, orError(err))
	}
	if string(k[:1]) == metaKey {
		at, t, err := decodeCount(k, v)
		return fmt.Sprintf("count of slot %d space %d: %d rows %d bytes%s", at.slot, at.space, t.rows, t.bytes, orError(err))
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
	for _, t := range rec.trims {
		fmt.Fprintf(&b, " %q to %q trimmed", showKey(t.lo), showKey(t.hi))
	}
	for _, c := range rec.changes {
		fmt.Fprintf(&b, " %q", showKey(c.key))
		if c.deleted {
			b.WriteString(" deleted")
		}
		if c.displaced {
			b.WriteString(" displaced")
		}
	}
	return b.String() + orError(err)
}

// Keys in scripts are those of the default space in slot 0, versioned. Before
// others stand their slot, if it is not 0, and u if they are unversioned:
// "u:a", "s7:a", "s7u:a".

func scriptKey(s []byte) []byte {
	slot, layer := 0, banyan.LayerKV
	if where, rest, ok := bytes.Cut(s, []byte(":")); ok {
		s = rest
		if n, ok := bytes.CutPrefix(where, []byte("s")); ok {
			slot, _ = strconv.Atoi(string(bytes.TrimSuffix(n, []byte("u"))))
		}
		if bytes.HasSuffix(where, []byte("u")) {
			layer |= banyan.Unversioned
		}
	}
	return append(banyan.AppendRowKey(nil, slot, layer, banyan.SpaceDefault), s...)
}

func showKey(key []byte) string {
	r, ok := banyan.ParseRowKey(key)
	if !ok {
		return string(key)
	}
	where := ""
	if r.Slot != 0 {
		where = fmt.Sprintf("s%d", r.Slot)
	}
	if r.Layer&banyan.Unversioned != 0 {
		where += "u"
	}
	if where != "" {
		where += ":"
	}
	return where + string(r.Key)
}

func orError(err error) string {
	if err != nil {
		return " ERROR " + err.Error()
	}
	return ""
}

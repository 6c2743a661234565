package mvcc_test

import (
	"testing"

	"banyan"
	"banyan/core/mvcc"
)

// counted counts the rows that scans look at.
type counted struct {
	mvcc.Reader
	looked int
}

func (c *counted) Scan(lo, hi []byte, fn func(k, v []byte) bool) error {
	return c.Reader.Scan(lo, hi, func(k, v []byte) bool {
		c.looked++
		return fn(k, v)
	})
}

// pages lists everything at a revision, a small page at a time.
func (c *counted) pages(t *testing.T, at banyan.Revision, limit int) (keys int) {
	t.Helper()
	q := mvcc.Query{At: at, Limit: limit}
	for {
		rows, more, err := mvcc.Range(c, q)
		if err != nil {
			t.Fatal(err)
		}
		keys += len(rows)
		if !more {
			return keys
		}
		q.Lo = append(rows[len(rows)-1].Key, 0)
	}
}

// TestPastCostsWhatItGives: pages of a list at an older revision look at each
// version about once, whatever has become of the keys since.
func TestPastCostsWhatItGives(t *testing.T) {
	const keys, limit = 20_000, 1000
	for name, since := range map[string]func(b *bed){
		"nothing":     func(*bed) {},
		"all changed": func(b *bed) { b.fill(keys, 2, 0) },
		"all deleted": func(b *bed) {
			for {
				if res, _ := b.apply(everything); !res.More {
					return
				}
			}
		},
		"half changed": func(b *bed) { b.fill(keys/2, 2, 0) },
		"others before": func(b *bed) {
			for i := range 5 {
				b.apply(mvcc.Mutation{Op: mvcc.Put, Key: keyed("a%d", i)})
			}
		},
	} {
		t.Run(name, func(t *testing.T) {
			b := newBed(t)
			b.fill(keys, 1, 0)
			at := b.m.Revision()
			since(b)
			c := &counted{Reader: b.rows}
			if got := c.pages(t, at, limit); got != keys {
				t.Fatalf("%d keys", got)
			}
			if most := 2*keys + keys/limit*4*1100; c.looked > most {
				t.Errorf("looked at %d rows for %d keys", c.looked, keys)
			}
		})
	}
}

// TestPastJumpsOverVersions: a key that was changed very often costs as few
// looks as any other.
func TestPastJumpsOverVersions(t *testing.T) {
	b := newBed(t)
	hot, cold := []byte("hot"), []byte("i")
	b.apply(mvcc.Mutation{Op: mvcc.Put, Key: cold})
	for range 3000 {
		b.apply(mvcc.Mutation{Op: mvcc.Put, Key: hot, Value: []byte("x")})
	}
	at := b.m.Revision()
	for range 3000 {
		b.apply(mvcc.Mutation{Op: mvcc.Put, Key: hot, Value: []byte("y")})
	}
	c := &counted{Reader: b.rows}
	rows, more, err := mvcc.Range(c, mvcc.Query{At: at})
	if err != nil || more || len(rows) != 2 || string(rows[0].Value) != "x" || c.looked > 100 {
		t.Fatalf("%v, more %v, %v after %d looks", rows, more, err, c.looked)
	}
}

// TestPastStops: a walk that finds nothing can be given up.
func TestPastStops(t *testing.T) {
	b := newBed(t)
	b.fill(1, 1, 0)
	at := b.m.Revision()
	asked := 0
	_, _, err := mvcc.Range(b.rows, mvcc.Query{At: at, Stop: func() bool { asked++; return asked > 1 }})
	if !banyan.IsKind(err, banyan.Canceled) {
		t.Fatal(err)
	}
}

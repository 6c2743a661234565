package simdisk

import (
	"testing"

	"banyan"
)

func TestSpoiledBlocksAreRefused(t *testing.T) {
	for name, read := range map[string]func(k *KV) error{
		"get":  func(k *KV) error { _, err := k.Get([]byte("b")); return err },
		"scan": func(k *KV) error { return k.Scan(nil, nil, func(_, _ []byte) bool { return true }) },
		"snapshot": func(k *KV) error {
			s, err := k.Snapshot()
			if err == nil {
				_, err = s.Get([]byte("b"))
			}
			return err
		},
		"batch": func(k *KV) error {
			return k.NewBatch().Scan([]byte("a"), []byte("z"), func(_, _ []byte) bool { return true })
		},
	} {
		d := New(1)
		k, err := d.Open()
		if err != nil {
			t.Fatal(err)
		}
		put := func(key string) error {
			b := k.NewBatch()
			b.Set([]byte(key), []byte(key))
			return b.Commit(true)
		}
		for _, key := range []string{"a", "b", "c"} {
			if err := put(key); err != nil {
				t.Fatal(err)
			}
		}
		d.Spoil([]byte("b"))
		if _, err := k.Get([]byte("a")); err != nil || k.Err() != nil {
			t.Errorf("%s: a sound row: %v, %v", name, err, k.Err())
		}
		if err := put("b"); err != nil {
			t.Fatal(err)
		}
		if err := read(k); err != nil {
			t.Errorf("%s: a row written anew: %v", name, err)
		}
		d.Spoil([]byte("b"))
		if err := read(k); !banyan.IsKind(err, banyan.Corrupt) {
			t.Errorf("%s: %v", name, err)
		}
		if err := put("d"); !banyan.IsKind(err, banyan.Corrupt) || k.Err() == nil {
			t.Errorf("%s: written after damage was read: %v", name, err)
		}
	}
}

package store_test

import (
	"fmt"
	"log/slog"
	"math/rand/v2"
	"strings"
	"testing"

	"github.com/cockroachdb/pebble/v2/vfs"

	"banyan/engine/store"
	"banyan/engine/store/simdisk"
	"banyan/engine/store/storetest"
)

const dir = "store"

var quiet = slog.New(slog.DiscardHandler)

// pebbleMachine runs Pebble on a file system whose crashes lose what was not
// synced, or a random part of it.
type pebbleMachine struct {
	fs  *vfs.MemFS
	rng *rand.Rand
	kv  *closeOnce
}

func newPebbleMachine(seed uint64) storetest.Machine {
	return &pebbleMachine{fs: vfs.NewCrashableMem(), rng: rand.New(rand.NewPCG(seed, 3))}
}

func (m *pebbleMachine) Open(t testing.TB) store.KV {
	t.Helper()
	kv, err := store.OpenPebble(dir, store.Options{FS: m.fs, Logger: quiet})
	if err != nil {
		t.Fatal(err)
	}
	m.kv = &closeOnce{KV: kv}
	return m.kv
}

func (m *pebbleMachine) Crash() {
	m.fs = m.fs.CrashClone(vfs.CrashCloneCfg{UnsyncedDataPercent: m.rng.IntN(101), RNG: m.rng})
	if m.kv != nil {
		m.kv.Close()
	}
}

type closeOnce struct {
	store.KV
	closed bool
}

func (c *closeOnce) Close() error {
	if c.closed {
		return nil
	}
	c.closed = true
	return c.KV.Close()
}

type simMachine struct{ d *simdisk.Disk }

func newSimMachine(seed uint64) storetest.Machine { return simMachine{simdisk.New(seed)} }

func (m simMachine) Open(t testing.TB) store.KV {
	t.Helper()
	kv, err := m.d.Open()
	if err != nil {
		t.Fatal(err)
	}
	return kv
}

func (m simMachine) Crash() { m.d.Crash() }

func TestPebbleKV(t *testing.T)  { storetest.KV(t, newPebbleMachine) }
func TestSimdiskKV(t *testing.T) { storetest.KV(t, newSimMachine) }

func TestPebbleStore(t *testing.T)  { t.Parallel(); storetest.Store(t, newPebbleMachine) }
func TestSimdiskStore(t *testing.T) { storetest.Store(t, newSimMachine) }

// TestSimdiskReplays: the same seed and calls give the same disk, crashes and
// failed writes included.
func TestSimdiskReplays(t *testing.T) {
	run := func(seed uint64) string {
		d := simdisk.New(seed)
		n := 0
		d.Inject(func(simdisk.Op) error {
			if n++; n%23 == 0 {
				return errDisk
			}
			return nil
		})
		var out strings.Builder
		for life := range 40 {
			kv, err := d.Open()
			if err != nil {
				t.Fatal(err)
			}
			for i := range 6 {
				b := kv.NewBatch()
				b.Set(fmt.Appendf(nil, "k%d", i), fmt.Appendf(nil, "life %d", life))
				b.DeleteRange(fmt.Appendf(nil, "k%d", i+3), []byte("l"))
				fmt.Fprintln(&out, b.Commit(i == 3))
			}
			d.Crash()
			if kv, err = d.Open(); err != nil {
				t.Fatal(err)
			}
			err = kv.Scan(nil, nil, func(k, v []byte) bool {
				fmt.Fprintf(&out, "%s=%s ", k, v)
				return true
			})
			fmt.Fprintln(&out, err, d.Stats())
			d.Crash()
		}
		return out.String()
	}
	if first, again := run(1), run(1); first != again {
		t.Fatal("the same seed gave two histories")
	}
	if run(1) == run(2) {
		t.Fatal("the seed changes nothing")
	}
}

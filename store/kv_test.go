package store_test

import (
	"log/slog"
	"math/rand/v2"
	"testing"

	"github.com/cockroachdb/pebble/v2/vfs"

	"banyan/store"
	"banyan/store/simdisk"
	"banyan/store/storetest"
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

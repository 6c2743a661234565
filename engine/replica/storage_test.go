package replica

import (
	"errors"
	"testing"

	"go.etcd.io/raft/v3"

	"banyan"
	"banyan/engine/store"
	"banyan/engine/store/simdisk"
)

func TestStorageErrors(t *testing.T) {
	run := func(err error) (caughtErr error) {
		defer caught(&caughtErr)
		return must(err)
	}
	if err := run(raft.ErrCompacted); err != raft.ErrCompacted { //nolint:errorlint // raft compares
		t.Errorf("raft expects this error: %v", err)
	}
	broken := errors.New("broken")
	var se *StorageError
	if err := run(broken); !errors.As(err, &se) || !errors.Is(err, broken) {
		t.Errorf("not thrown and caught: %v", err)
	}
	defer func() {
		if recover() == nil {
			t.Error("a broken invariant was caught")
		}
	}()
	func() (err error) {
		defer caught(&err)
		panic("invariant")
	}()
}

// A replica whose log cannot be read is reported, not run.
func TestUnreadableLog(t *testing.T) {
	disk := simdisk.New(1)
	kv, err := disk.Open()
	if err != nil {
		t.Fatal(err)
	}
	st, err := store.New(kv, store.Options{})
	if err != nil {
		t.Fatal(err)
	}
	if err := st.Bootstrap([]banyan.ShardID{0}, 1); err != nil {
		t.Fatal(err)
	}
	broken := errors.New("broken")
	disk.Inject(func(op simdisk.Op) error {
		if op == simdisk.Read {
			return broken
		}
		return nil
	})
	if _, err := New(Config{Node: 1, Store: st}); !errors.Is(err, broken) {
		t.Errorf("started: %v", err)
	}
	if _, err := New(Config{Node: 1, Store: st, ElectionTicks: 1, HeartbeatTicks: 1}); !banyan.IsKind(err, banyan.Invalid) {
		t.Errorf("nonsense was accepted: %v", err)
	}
}

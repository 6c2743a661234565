package server

import (
	"os"
	"path/filepath"
	"strings"
	"testing"

	"banyan"
)

// TestMissingStore: a node whose store is gone, or was emptied, does not begin
// a new one in its name, and says what is missing.
func TestMissingStore(t *testing.T) {
	dir := filepath.Join(t.TempDir(), "node")
	n, err := New(Config{Dir: dir, Embedded: true, Slots: 1})
	if err != nil {
		t.Fatal(err)
	}
	if err := n.Close(); err != nil {
		t.Fatal(err)
	}
	store := filepath.Join(dir, "store")
	for _, how := range []string{"gone", "empty"} {
		if err := os.RemoveAll(store); err != nil {
			t.Fatal(err)
		}
		if how == "empty" {
			if err := os.Mkdir(store, 0o700); err != nil {
				t.Fatal(err)
			}
		}
		for range 2 { // a refused start does not help the next
			_, err = New(Config{Dir: dir, Embedded: true})
			if !banyan.IsKind(err, banyan.Corrupt) || !strings.Contains(err.Error(), store) || !strings.Contains(err.Error(), "data is missing") {
				t.Fatalf("with its store %s: %v", how, err)
			}
		}
	}
}

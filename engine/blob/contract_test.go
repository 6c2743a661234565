package blob_test

import (
	"testing"

	"banyan"
	"banyan/engine/blob"
	"banyan/engine/blob/blobtest"
)

func disk(t *testing.T) *blob.Disk {
	d, err := blob.OpenDisk(t.TempDir(), nil)
	if err != nil {
		t.Fatal(err)
	}
	return d
}

func TestContract(t *testing.T) {
	t.Run("Memory", func(t *testing.T) { blobtest.Run(t, func(*testing.T) blob.Store { return &blob.Memory{} }) })
	t.Run("Disk", func(t *testing.T) { blobtest.Run(t, func(t *testing.T) blob.Store { return disk(t) }) })
	t.Run("Replicated", func(t *testing.T) {
		blobtest.Run(t, func(t *testing.T) blob.Store {
			return blob.New(blob.Config{Self: 1, Local: disk(t), Nodes: func() []banyan.NodeID { return []banyan.NodeID{1} }})
		})
	})
}

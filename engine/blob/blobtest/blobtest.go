// Package blobtest is the contract suite that every blob.Store passes.
package blobtest

import (
	"bytes"
	"context"
	"fmt"
	"math/rand/v2"
	"sync"
	"testing"

	"banyan"
	"banyan/engine/blob"
)

// Run checks a store that open makes empty.
func Run(t *testing.T, open func(t *testing.T) blob.Store) {
	t.Run("what is put can be got", func(t *testing.T) { roundTrip(t, open(t)) })
	t.Run("refusals", func(t *testing.T) { refusals(t, open(t)) })
	t.Run("slices belong to their callers", func(t *testing.T) { ownership(t, open(t)) })
	t.Run("many at once", func(t *testing.T) { concurrent(t, open(t)) })
	t.Run("files", func(t *testing.T) { files(t, open(t)) })
	t.Run("ended context", func(t *testing.T) { canceled(t, open(t)) })
}

func want(t *testing.T, s blob.Store, h banyan.Hash, data []byte) {
	t.Helper()
	got, err := s.Get(t.Context(), h)
	if err != nil || !bytes.Equal(got, data) {
		t.Errorf("got %d bytes, %v; want %d", len(got), err, len(data))
	}
}

func wantKind(t *testing.T, what string, err error, k banyan.Kind) {
	t.Helper()
	if !banyan.IsKind(err, k) {
		t.Errorf("%s: got %v, want kind %v", what, err, k)
	}
}

func roundTrip(t *testing.T, s blob.Store) {
	for _, data := range [][]byte{{}, []byte("x"), make([]byte, banyan.BlobChunkBytes)} {
		h := blob.Sum(data)
		_, err := s.Get(t.Context(), h)
		wantKind(t, "get before put", err, banyan.NotFound)
		for range 2 {
			if err := s.Put(t.Context(), h, data); err != nil {
				t.Fatal(err)
			}
			want(t, s, h, data)
		}
	}
}

func refusals(t *testing.T, s blob.Store) {
	h := blob.Sum([]byte("a"))
	wantKind(t, "other bytes than the hash's", s.Put(t.Context(), h, []byte("b")), banyan.Invalid)
	long := make([]byte, banyan.BlobChunkBytes+1)
	wantKind(t, "too long", s.Put(t.Context(), blob.Sum(long), long), banyan.Invalid)
	_, err := s.Get(t.Context(), h)
	wantKind(t, "get of what was refused", err, banyan.NotFound)
}

func ownership(t *testing.T, s blob.Store) {
	data := []byte("mine")
	h := blob.Sum(data)
	if err := s.Put(t.Context(), h, data); err != nil {
		t.Fatal(err)
	}
	data[0] = 'x'
	got, err := s.Get(t.Context(), h)
	if err != nil {
		t.Fatal(err)
	}
	got[1] = 'x'
	want(t, s, h, []byte("mine"))
}

func concurrent(t *testing.T, s blob.Store) {
	var wg sync.WaitGroup
	for i := range 40 {
		wg.Go(func() {
			data := fmt.Appendf(nil, "chunk %d", i/2) // each twice
			h := blob.Sum(data)
			if err := s.Put(t.Context(), h, data); err != nil {
				t.Error(err)
			}
			want(t, s, h, data)
		})
	}
	wg.Wait()
}

func files(t *testing.T, s blob.Store) {
	random := rand.NewChaCha8([32]byte{1})
	for _, size := range []int{0, 1, banyan.BlobChunkBytes, 2*banyan.BlobChunkBytes + 3} {
		data := make([]byte, size)
		_, _ = random.Read(data) // never fails
		chunks, n, err := blob.Write(t.Context(), s, bytes.NewReader(data))
		if err != nil || n != int64(size) || len(chunks) != (size+banyan.BlobChunkBytes-1)/banyan.BlobChunkBytes {
			t.Fatalf("write of %d bytes: %d chunks, %d bytes, %v", size, len(chunks), n, err)
		}
		var got bytes.Buffer
		if err := blob.Read(t.Context(), s, chunks, &got); err != nil || !bytes.Equal(got.Bytes(), data) {
			t.Errorf("read of %d bytes: %d bytes, %v", size, got.Len(), err)
		}
	}
	missing := []banyan.Hash{blob.Sum([]byte("nobody has this"))}
	wantKind(t, "read of a missing chunk", blob.Read(t.Context(), s, missing, &bytes.Buffer{}), banyan.NotFound)
}

func canceled(t *testing.T, s blob.Store) {
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	// Either answer is right: done all the same, or given up.
	if err := s.Put(ctx, blob.Sum(nil), nil); err != nil {
		wantKind(t, "put", err, banyan.Canceled)
	}
}

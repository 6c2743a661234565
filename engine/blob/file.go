package blob

import (
	"cmp"
	"context"
	"io"

	"banyan"

	"golang.org/x/sync/errgroup"
)

// ahead is how many chunks of one file are under way at once, so a file in
// transfer holds at most ahead chunks in memory.
const ahead = 4

// Write cuts what r gives into chunks, stores them and gives their hashes in
// order and the size. An empty file has no chunks. It returns when all are
// durable; on an error some chunks may have been stored.
func Write(ctx context.Context, s Store, r io.Reader) (chunks []banyan.Hash, size int64, err error) {
	g, ctx := errgroup.WithContext(ctx)
	free := make(chan []byte, ahead) // buffers, grown as needed, used again
	for range ahead {
		free <- nil
	}
	for {
		var buf []byte
		select {
		case buf = <-free:
		case <-ctx.Done():
			return nil, 0, cmp.Or(g.Wait(), waitErr(ctx))
		}
		buf, rerr := fill(r, buf[:0])
		if len(buf) > 0 {
			h := Sum(buf)
			chunks = append(chunks, h)
			size += int64(len(buf))
			g.Go(func() error {
				defer func() { free <- buf }()
				return s.Put(ctx, h, buf)
			})
		}
		if rerr == nil && size > banyan.BlobBytesMax {
			rerr = banyan.Errorf(banyan.Exhausted, "a file may have at most %d bytes (BlobBytesMax)", int64(banyan.BlobBytesMax))
		}
		if rerr == io.EOF { //nolint:errorlint // a stream that broke may wrap EOF: only the bare one is the end
			if err := g.Wait(); err != nil {
				return nil, 0, err // nobody may refer to a chunk that was not written
			}
			return chunks, size, nil
		}
		if rerr != nil {
			return nil, 0, cmp.Or(g.Wait(), rerr)
		}
	}
}

// fill reads one chunk into buf, growing it as bytes come, so that a small file
// costs little. The error is io.EOF when r is at its end.
func fill(r io.Reader, buf []byte) ([]byte, error) {
	for len(buf) < banyan.BlobChunkBytes {
		if len(buf) == cap(buf) {
			grown := make([]byte, len(buf), min(max(32<<10, 4*cap(buf)), banyan.BlobChunkBytes))
			copy(grown, buf)
			buf = grown
		}
		n, err := r.Read(buf[len(buf):cap(buf)])
		buf = buf[:len(buf)+n]
		if err != nil {
			return buf, err
		}
	}
	return buf, nil
}

// Read writes the chunks to w in order, fetching a few ahead.
func Read(ctx context.Context, s Store, chunks []banyan.Hash, w io.Writer) error {
	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	type got struct {
		data []byte
		err  error
	}
	fetch := func(h banyan.Hash) <-chan got {
		c := make(chan got, 1)
		go func() {
			data, err := s.Get(ctx, h)
			c <- got{data, err}
		}()
		return c
	}
	var queue []<-chan got
	defer func() {
		cancel()
		for _, c := range queue { // nobody is left behind
			<-c
		}
	}()
	for next := 0; next < len(chunks) || len(queue) > 0; {
		for next < len(chunks) && len(queue) < ahead {
			queue = append(queue, fetch(chunks[next]))
			next++
		}
		g := <-queue[0]
		queue = queue[1:]
		if g.err != nil {
			return g.err
		}
		if _, err := w.Write(g.data); err != nil {
			return err
		}
	}
	return nil
}

package client

import (
	"context"
	"io"
	"os"
	"time"

	"banyan"
	banyanv1 "banyan/api/banyan/v1"

	"connectrpc.com/connect"
	"github.com/zeebo/blake3"
	"golang.org/x/sync/errgroup"
)

// Blobs stores immutable chunks by their BLAKE3-256 hash. A file is a list of
// chunks of at most banyan.BlobChunkBytes.
type Blobs struct{ c *Client }

// Blobs gives the chunks of the cluster.
func (c *Client) Blobs() Blobs { return Blobs{c} }

const (
	chunkPatience = 30 * time.Second
	chunksAhead   = 4         // chunks of one transfer in memory
	askFrom       = 256 << 10 // bytes from which it pays to ask first whether the cluster has a chunk
)

// Put stores a chunk and gives its hash, when enough copies are on disk.
func (b Blobs) Put(ctx context.Context, data []byte) (hash []byte, err error) {
	sum := blake3.Sum256(data)
	err = b.c.try(ctx, nil, chunkPatience, func(ctx context.Context, n *node) error {
		_, err := n.blobs.Put(ctx, connect.NewRequest(&banyanv1.PutBlobRequest{Hash: sum[:], Data: data}))
		return err
	})
	return sum[:], err
}

// Get reads a chunk and checks it against its hash.
func (b Blobs) Get(ctx context.Context, hash []byte) (data []byte, err error) {
	err = b.c.try(ctx, nil, chunkPatience, func(ctx context.Context, n *node) error {
		reply, err := n.blobs.Get(ctx, connect.NewRequest(&banyanv1.GetBlobRequest{Hash: hash}))
		if err != nil {
			return err
		}
		data = reply.Msg.Data
		if sum := blake3.Sum256(data); string(sum[:]) != string(hash) {
			return banyan.Errorf(banyan.Corrupt, "blob %x: node %s sent other bytes", hash, n.addr)
		}
		return nil
	})
	return data, err
}

// Missing gives those of some chunks that the cluster does not have. Ask about
// at most banyan.BlobHashesMax at once.
func (b Blobs) Missing(ctx context.Context, hashes [][]byte) (missing [][]byte, err error) {
	err = b.c.try(ctx, nil, chunkPatience, func(ctx context.Context, n *node) error {
		reply, err := n.blobs.Missing(ctx, connect.NewRequest(&banyanv1.MissingRequest{Hashes: hashes}))
		if err == nil {
			missing = reply.Msg.Hashes
		}
		return err
	})
	return missing, err
}

// store makes sure that the cluster has a chunk.
func (b Blobs) store(ctx context.Context, hash, data []byte) error {
	if len(data) >= askFrom {
		missing, err := b.Missing(ctx, [][]byte{hash})
		if err != nil || len(missing) == 0 {
			return err
		}
	}
	_, err := b.Put(ctx, data)
	return err
}

// Upload stores all that r gives, a few chunks at a time, and gives the hashes
// of the chunks, in order, and the number of bytes. Chunks that the cluster has
// are not sent. The upload of an empty r has no chunks.
func (b Blobs) Upload(ctx context.Context, r io.Reader) (chunks [][]byte, size int64, err error) {
	g, ctx := errgroup.WithContext(ctx)
	free := make(chan []byte, chunksAhead)
	for range chunksAhead {
		free <- nil
	}
	for err == nil {
		var buf []byte
		select {
		case buf = <-free:
		case <-ctx.Done():
			if err := g.Wait(); err != nil {
				return nil, 0, err
			}
			return nil, 0, &banyan.Error{Kind: banyan.Canceled, Err: context.Cause(ctx)}
		}
		buf, err = fill(r, buf[:0])
		if len(buf) == 0 {
			break
		}
		sum := blake3.Sum256(buf)
		chunks = append(chunks, sum[:])
		size += int64(len(buf))
		g.Go(func() error {
			defer func() { free <- buf }()
			return b.store(ctx, sum[:], buf)
		})
	}
	if waited := g.Wait(); waited != nil {
		return nil, 0, waited
	}
	if err != io.EOF { //nolint:errorlint // a stream that broke may wrap EOF: only the bare one is the end
		return nil, 0, err
	}
	return chunks, size, nil
}

// fill reads one chunk into buf, growing it as bytes come. The error is io.EOF
// when r is at its end.
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

// UploadFile stores a file and gives the reference that puts it into tasks at
// path name: relative, with slashes, without "..".
func (b Blobs) UploadFile(ctx context.Context, name, file string) (*banyanv1.FileRef, error) {
	f, err := os.Open(file)
	if err != nil {
		return nil, err
	}
	defer f.Close()
	info, err := f.Stat()
	if err != nil {
		return nil, err
	}
	if !info.Mode().IsRegular() {
		return nil, banyan.Errorf(banyan.Invalid, "%s is not a regular file: only those can be sent", file)
	}
	chunks, size, err := b.Upload(ctx, f)
	if err != nil {
		return nil, err
	}
	return &banyanv1.FileRef{Path: []byte(name), Mode: uint32(info.Mode().Perm()), Size: size, Chunks: chunks, ModifiedNs: info.ModTime().UnixNano()}, nil
}

// Download writes chunks to w, in order, fetching a few ahead. What was written
// before an error is good.
func (b Blobs) Download(ctx context.Context, chunks [][]byte, w io.Writer) error {
	ctx, cancel := context.WithCancel(ctx)
	type got struct {
		data []byte
		err  error
	}
	var queue []chan got
	defer func() {
		cancel()
		for _, c := range queue {
			<-c
		}
	}()
	for next := 0; next < len(chunks) || len(queue) > 0; {
		for ; next < len(chunks) && len(queue) < chunksAhead; next++ {
			c, hash := make(chan got, 1), chunks[next]
			queue = append(queue, c)
			go func() {
				data, err := b.Get(ctx, hash)
				c <- got{data, err}
			}()
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

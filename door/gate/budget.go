package gate

import (
	"compress/gzip"
	"context"
	"io"
	"net/http"
	"strings"
	"sync/atomic"

	"banyan"
	"banyan/api/banyan/peer/v1/peerv1connect"
	"banyan/api/banyan/v1/banyanv1connect"
	"banyan/api/wire"
	"banyan/obs/metric"

	"connectrpc.com/connect"
	"google.golang.org/protobuf/proto"
)

// budget is what the calls of one class may take together: so many at once, and
// so many bytes of requests and answers. Users and nodes have one each, so that
// users can neither keep nodes from each other nor take all memory; strangers
// are bounded by strangersDoor.
type budget struct {
	node      banyan.NodeID
	callsName string // the limit, as errors tell it
	places    chan struct{}
	bytes     *bytesBudget
	crowded   metric.Counter
}

// bytesBudget counts bytes under way.
type bytesBudget struct {
	name    string
	most    int64
	held    atomic.Int64
	crowded metric.Counter
}

func (b *bytesBudget) take(n int) error {
	if held := b.held.Add(int64(n)); held > b.most {
		b.held.Add(-int64(n))
		b.crowded.Inc()
		return banyan.Errorf(banyan.Exhausted, "this node holds %d MiB of calls under way, the most it does (%s): try again, or ask another node", b.most>>20, b.name)
	}
	return nil
}

// bill is what one call holds of its class's bytes. A nil one counts nothing.
type bill struct {
	bytes *bytesBudget
	held  atomic.Int64

	// Of its body; used by whoever reads that.
	most   int64 // that may be read at once; 0: it is not counted
	read   int64 // and charged
	packed bool  // it came compressed
	grown  int64 // by unpacking, and charged
}

var _ wire.Room = (*bill)(nil)

type billKey struct{}

func billOf(ctx context.Context) *bill {
	b, _ := ctx.Value(billKey{}).(*bill)
	return b
}

// Take charges the call with more bytes.
func (b *bill) Take(n int) error {
	if b == nil || n <= 0 {
		return nil
	}
	if err := b.bytes.take(n); err != nil {
		return err
	}
	b.held.Add(int64(n))
	return nil
}

// Give takes back what was charged.
func (b *bill) Give(n int) {
	if b != nil && n > 0 {
		b.held.Add(-int64(n))
		b.bytes.held.Add(-int64(n))
	}
}

// turn says that what was read of the body is done with: a session's next
// message begins.
func (b *bill) turn() {
	if b != nil {
		b.Give(int(b.read + b.grown))
		b.read, b.grown = 0, 0
	}
}

// settle gives back all: the call is over.
func (b *bill) settle() { b.bytes.held.Add(-b.held.Swap(0)) }

// charged is the body of a request, whose bytes are charged as they come: who
// drips holds what he has sent, not what he says he will send.
type charged struct {
	io.ReadCloser
	bill *bill
}

func (c charged) Read(p []byte) (int, error) {
	n, err := c.ReadCloser.Read(p)
	if n == 0 {
		return n, err
	}
	if c.bill.read += int64(n); c.bill.read > c.bill.most {
		return 0, wire.Encode(banyan.Errorf(banyan.Exhausted, "a request of more than %d MiB (RequestBytesMax): make it smaller", c.bill.most>>20))
	}
	if full := c.bill.Take(n); full != nil {
		c.bill.read -= int64(n)
		return 0, wire.Encode(full)
	}
	return n, err
}

// envelopeSlack is what a protocol puts around a message.
const envelopeSlack = 1 << 10

// bodyMax is how much of a request may be read before it is over, or before its
// next message. What flows between nodes without end is bounded where it is
// used, message by message: 0.
func bodyMax(path string) int64 {
	switch path {
	case peerv1connect.PeerWorkProcedure, peerv1connect.PeerSendSnapshotProcedure:
		return 0
	case banyanv1connect.JobsSubmitProcedure: // keeps all inputs until the last has come
		return 2 * banyan.JobInputBytesMax
	}
	return banyan.RequestBytesMax + envelopeSlack
}

// budgetOf tells whose budget a call goes by: calls that only nodes make have
// their own. What a node passes on for a user, and tails, which last as long as
// a user likes, go by that of users.
func (g *gate) budgetOf(path string) *budget {
	switch {
	case isLook(path):
		return &g.looks
	case strings.HasPrefix(path, peerPrefix) && path != peerv1connect.PeerTailProcedure:
		return &g.peers
	}
	return &g.users
}

// limit bounds the calls answered at once, and their bytes.
func (g *gate) limit(next http.Handler) http.Handler {
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		b := g.budgetOf(r.URL.Path)
		select {
		case b.places <- struct{}{}:
			defer func() { <-b.places }()
		default:
			b.crowded.Inc()
			refuse(w, r, banyan.Errorf(banyan.Exhausted, "node %v answers %d such calls already (%s): try again, or ask another node", b.node, cap(b.places), b.callsName))
			return
		}
		bill := &bill{bytes: b.bytes, most: bodyMax(r.URL.Path), packed: compressed(r.Header)}
		defer bill.settle()
		r = r.WithContext(context.WithValue(r.Context(), billKey{}, bill))
		if bill.most > 0 && r.Body != nil {
			r.Body = charged{r.Body, bill}
		}
		next.ServeHTTP(w, r)
	})
}

// unpacked charges a call with a message of its request that came compressed.
func (b *bill) unpacked(msg any) error {
	m, ok := msg.(proto.Message)
	if b == nil || !b.packed || !ok {
		return nil
	}
	n := proto.Size(m)
	if err := b.Take(n); err != nil {
		return err
	}
	b.grown += int64(n)
	return nil
}

// packedStream is a stream whose messages are charged when they are unpacked.
type packedStream struct {
	connect.StreamingHandlerConn
	bill *bill
}

func (s packedStream) Receive(msg any) error {
	if err := s.StreamingHandlerConn.Receive(msg); err != nil {
		return err
	}
	return s.bill.unpacked(msg)
}

// answer charges a call with its answer, which stays in memory until the caller
// has taken it.
func (b *bill) answer(res connect.AnyResponse) error {
	if b == nil {
		return nil
	}
	m, ok := res.Any().(proto.Message)
	if !ok {
		return nil
	}
	return b.Take(proto.Size(m))
}

// compressed says whether the message of a request came compressed.
func compressed(h http.Header) bool {
	for _, name := range []string{"Content-Encoding", "Grpc-Encoding", "Connect-Content-Encoding"} {
		if e := h.Get(name); e != "" && e != "identity" {
			return true
		}
	}
	return false
}

// unpacker unpacks requests. It stops at the limit, where the one that comes
// with Connect unpacks to the end to tell how long that would have been; and
// few unpack at once, for what they make is charged when it is there.
type unpacker struct {
	gzip   gzip.Reader
	places chan struct{}
	in     bool // it has one of the places
	made   int64
}

// unpackersMax is how many requests are unpacked at once. None waits for its
// caller meanwhile: what is packed is there as a whole.
const unpackersMax = 8

// unpacking gives the way requests are unpacked, and answers packed.
func unpacking() connect.HandlerOption {
	places := make(chan struct{}, unpackersMax)
	return connect.WithCompression("gzip",
		func() connect.Decompressor { return &unpacker{places: places} },
		func() connect.Compressor { return gzip.NewWriter(io.Discard) })
}

func (u *unpacker) Reset(from io.Reader) error {
	u.leave()
	u.made = 0
	return u.gzip.Reset(from)
}

func (u *unpacker) Read(p []byte) (int, error) {
	if !u.in {
		u.places <- struct{}{}
		u.in = true
	}
	n, err := u.gzip.Read(p)
	if u.made += int64(n); u.made > banyan.RequestBytesMax {
		return 0, wire.Encode(banyan.Errorf(banyan.Exhausted, "a request that unpacks to more than %d MiB (RequestBytesMax): make it smaller", banyan.RequestBytesMax>>20))
	}
	return n, err
}

func (u *unpacker) Close() error {
	u.leave()
	return u.gzip.Close()
}

func (u *unpacker) leave() {
	if u.in {
		u.in = false
		<-u.places
	}
}

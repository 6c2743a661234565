// Package client is the Go SDK of Banyan. It speaks banyan.v1 with any node of
// a cluster, or with a node in the same process, and knows nothing else.
//
// A Client finds a node that answers, passing over those that are not of its
// cluster or have something else wrong with them (the error says what, if none
// is right), asks the leader of a key's shard directly
// once it has learned where that is, and repeats a call elsewhere when its node
// fails, if that is safe: reads always, writes because each carries a request
// id that the cluster applies once. One that a node has no room for is tried at
// two others. A write whose answer was lost for so long
// that the cluster has forgotten its id fails with banyan.Forgotten: it may have
// been done, and is not tried again. A call without a deadline gives up after
// half a minute; any call does once no node could be reached for five seconds.
// Every error is a *banyan.Error, whose kind banyan.KindOf tells.
package client

import (
	"context"
	"crypto/tls"
	"io"
	"iter"
	"net/http"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"time"

	"banyan"
	"banyan/api/banyan/v1/banyanv1connect"
	"banyan/api/wire"
	"banyan/node/pki"

	"connectrpc.com/connect"
)

// Config says how to reach a cluster: by Addresses and TLS, or by Transport.
type Config struct {
	Addresses []string    // host:port of some nodes; the others are learned from them
	TLS       *tls.Config // shows a certificate of the cluster and checks the nodes'
	Transport http.RoundTripper

	// Otherwise says what else there is to do when no address can be reached: it
	// ends the error, which comes sooner if they all refuse to be connected to.
	Otherwise string
}

// FromContext gives the Config of a context, which holds addresses and
// certificates.
func FromContext(c *pki.Context) (Config, error) {
	t, err := c.TLS()
	return Config{Addresses: c.Addresses, TLS: t}, err
}

// localAddress stands for the one node behind a Transport.
const localAddress = "in-process"

// Client is a way to one cluster. It is safe for use by many goroutines; close
// it when done.
type Client struct {
	http      connect.HTTPClient
	tls       *tls.Config // of sessions
	closing   []io.Closer
	scheme    string
	otherwise string        // of Config
	single    bool          // one node behind a Transport: nothing to route
	patience  time.Duration // with one node, before another is asked too
	alone     time.Duration // without a stream, before it is given up
	learner   sync.WaitGroup
	beats     *beater
	sessions  sync.WaitGroup
	life      context.Context // ends with Close
	end       context.CancelFunc
	topology  atomic.Pointer[topology]
	learning  atomic.Bool
	routed    atomic.Uint32 // calls that knowledge of leaders would have helped
	preferred atomic.Pointer[node]
	began     time.Time
	shards    [banyan.ShardsMax + 1]known
	told      [banyan.Slots]atomic.Uint32 // the shard that answered last about each; 0: none has

	mu    sync.Mutex              // of additions to nodes
	nodes atomic.Pointer[[]*node] // seeds first; never changed in place
}

// doer is an http.Client without what Connect has no use for: redirects,
// cookies, and the cost of both.
type doer struct{ http.RoundTripper }

func (d doer) Do(req *http.Request) (*http.Response, error) { return d.RoundTrip(req) }

// node is one node's door.
type node struct {
	addr    string
	kv      banyanv1connect.KVClient
	jobs    banyanv1connect.JobsClient
	cluster banyanv1connect.ClusterClient
	blobs   banyanv1connect.BlobsClient
	coord   banyanv1connect.CoordClient

	mu          sync.Mutex
	session     *session // nil: none is open
	sessionless bool     // an older version, which knows none, or this process, where one spares nothing
}

// Open prepares a Client. It does no I/O: the first call connects.
func Open(cfg Config) (*Client, error) {
	c := &Client{scheme: "https", patience: patienceMin, alone: callMax, began: time.Now(), otherwise: cfg.Otherwise}
	c.life, c.end = context.WithCancel(context.Background())
	c.beats = newBeater(c)
	switch {
	case cfg.Transport != nil:
		c.scheme, c.single = "http", true
		c.http = doer{cfg.Transport}
		cfg.Addresses = []string{localAddress}
		if closer, ok := cfg.Transport.(io.Closer); ok {
			c.closing = append(c.closing, closer)
		}
	case cfg.TLS == nil:
		return nil, banyan.Errorf(banyan.Invalid, "client: Config has neither TLS nor Transport: use FromContext or InProcess")
	case len(cfg.Addresses) == 0:
		return nil, banyan.Errorf(banyan.Invalid, "client: Config has no addresses: give host:port of at least one node")
	default:
		c.tls = cfg.TLS.Clone()
		c.tls.NextProtos = []string{"http/1.1"}
		c.tls.DynamicRecordSizingDisabled = true // a message is one packet from the first on
		l := newLanes(cfg.TLS)
		c.http = doer{l}
		c.closing = append(c.closing, l)
	}
	for _, addr := range cfg.Addresses {
		if !c.single && !strings.Contains(addr, ":") {
			return nil, banyan.Errorf(banyan.Invalid, "client: bad address %q: give host:port", addr)
		}
		c.nodeAt(addr)
	}
	return c, nil
}

// Close ends what the Client does in the background and its connections. Calls
// must have ended.
func (c *Client) Close() error {
	c.end()
	c.learner.Wait()
	c.beats.calls.Wait()
	c.sessions.Wait()
	var first error
	for _, closer := range c.closing {
		if err := closer.Close(); err != nil && first == nil {
			first = err
		}
	}
	return first
}

// nodeAt gives the door at an address, making it known.
func (c *Client) nodeAt(addr string) *node {
	if n := find(c.known(), addr); n != nil {
		return n
	}
	c.mu.Lock()
	defer c.mu.Unlock()
	if n := find(c.known(), addr); n != nil {
		return n
	}
	url := c.scheme + "://" + addr
	options := connect.WithClientOptions(
		connect.WithInterceptors(wire.ClientInterceptor()),
		connect.WithAcceptCompression("gzip", nil, nil), // costs more than it saves between machines that are near
		connect.WithReadMaxBytes(readMax),
	)
	n := &node{
		addr:    addr,
		kv:      banyanv1connect.NewKVClient(c.http, url, options),
		jobs:    banyanv1connect.NewJobsClient(c.http, url, options),
		cluster: banyanv1connect.NewClusterClient(c.http, url, options),
		blobs:   banyanv1connect.NewBlobsClient(c.http, url, options),
		coord:   banyanv1connect.NewCoordClient(c.http, url, options),

		sessionless: c.single,
	}
	more := append(slices.Clone(c.known()), n)
	c.nodes.Store(&more)
	return n
}

func (c *Client) known() []*node {
	if nodes := c.nodes.Load(); nodes != nil {
		return *nodes
	}
	return nil
}

func find(nodes []*node, addr string) *node {
	for _, n := range nodes {
		if n.addr == addr {
			return n
		}
	}
	return nil
}

// readMax is the longest message taken from a node: a list of jobs or tasks may
// be longer than any request.
const readMax = 8 * banyan.RequestBytesMax

// first gives the node to ask first about a partition.
func (c *Client) first(partition []byte) *node {
	if n := c.leaderOf(partition); n != nil {
		return n
	}
	if n := c.preferred.Load(); n != nil {
		return n
	}
	return c.known()[0]
}

// Answers is the address of the node that answered last, "" before any did.
func (c *Client) Answers() string {
	if n := c.preferred.Load(); n != nil {
		return n.addr
	}
	return ""
}

// prefer remembers who answered last.
func (c *Client) prefer(n *node) {
	if c.preferred.Load() != n {
		c.preferred.Store(n)
	}
}

// everyone gives the nodes in the order to try them: first if not nil, then the
// one that answered last, then the others.
func (c *Client) everyone(first *node) iter.Seq[*node] {
	return func(yield func(*node) bool) {
		second := c.preferred.Load()
		if first != nil && !yield(first) {
			return
		}
		if second != nil && second != first && !yield(second) {
			return
		}
		for _, n := range c.known() {
			if n != first && n != second && !yield(n) {
				return
			}
		}
	}
}

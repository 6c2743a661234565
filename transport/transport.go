// Package transport carries everything between nodes through one TCP port
// under mutual TLS 1.3: raft messages and gossip as framed, versioned, batched
// conversations; gossip streams; and HTTP/2 for calls and bulk, each on
// connections of its own so that bulk never delays raft. See DESIGN below.
package transport

import (
	"context"
	"log/slog"
	"net"
	"net/http"
	"time"

	"banyan"
	"banyan/pki"

	"go.etcd.io/raft/v3/raftpb"
)

// Config says how a node is reached and how it reaches others.
type Config struct {
	Node   banyan.NodeID
	Listen string // host:port; port 0 lets the system choose
	Keeper *pki.Keeper
	// Resolve says where a node listens (host:port). It must not block.
	Resolve func(banyan.NodeID) (string, bool)
	Logger  *slog.Logger
}

// Handlers receive what arrives. They are called on the connection's own
// goroutine and must not block for long; arguments belong to the handler.
// Any of them may be nil.
type Handlers struct {
	OnRaft   func(from banyan.NodeID, shard banyan.ShardID, m *raftpb.Message)
	OnPacket func(from banyan.NodeID, b []byte)
	// OnStream owns conn and must close it.
	OnStream func(from banyan.NodeID, conn net.Conn)
	// OnLost says that the process that was node is gone: its connection
	// broke, and nothing listens at its address or another process does.
	OnLost func(node banyan.NodeID)
	// OnFound says that a connection to node stands (again).
	OnFound func(node banyan.NodeID)
}

// Transport is one node's port.
type Transport struct{}

// Listen binds the port; nothing is accepted before Start.
func Listen(c Config) (*Transport, error) { panic("todo") }

// Start accepts connections and hands what arrives to h. Call it once.
func (t *Transport) Start(h Handlers) { panic("todo") }

// Close closes the port and every connection and waits for all goroutines.
func (t *Transport) Close() error { panic("todo") }

// Addr is the bound address.
func (t *Transport) Addr() net.Addr { panic("todo") }

// HTTPListener gives the connections that are neither raft nor gossip, TLS
// handshake done, as *tls.Conn, for http.Server.Serve (HTTP/2 and 1.1).
func (t *Transport) HTTPListener() net.Listener { panic("todo") }

// Send queues a raft message. It never blocks and may drop; raft sends again.
// m must not be changed afterwards.
func (t *Transport) Send(to banyan.NodeID, shard banyan.ShardID, m *raftpb.Message) { panic("todo") }

// SendPacket queues a gossip packet. It never blocks and may drop. b is copied.
func (t *Transport) SendPacket(to banyan.NodeID, b []byte) { panic("todo") }

// DialStream opens a gossip stream to whoever listens at addr and says who that is.
func (t *Transport) DialStream(ctx context.Context, addr string) (net.Conn, banyan.NodeID, error) {
	panic("todo")
}

// HTTPClient calls other nodes at URL(node) over mutual TLS, HTTP/2.
func (t *Transport) HTTPClient() *http.Client { panic("todo") }

// BulkHTTPClient is HTTPClient with connections of its own, for blobs and snapshots.
func (t *Transport) BulkHTTPClient() *http.Client { panic("todo") }

// URL is the base URL of a node for HTTPClient and BulkHTTPClient, such as
// "https://n7"; the client resolves it and checks that node 7 answers.
func (t *Transport) URL(node banyan.NodeID) string { panic("todo") }

// LastContact is when something last arrived from node; zero if never.
func (t *Transport) LastContact(node banyan.NodeID) time.Time { panic("todo") }

// Package gate is the door of a node: who is calling, may they, how much, and
// what an error looks like outside. It serves banyan.v1 to users and
// banyan.peer.v1 to nodes, each as gRPC, gRPC-web and JSON on one port.
//
// What the calls mean is not decided here: each service is handed to the
// layer that answers it.
package gate

import (
	"context"
	"fmt"
	"log/slog"
	"net/http"
	"sync/atomic"

	"banyan"
	"banyan/api/banyan/peer/v1/peerv1connect"
	banyanv1 "banyan/api/banyan/v1"
	"banyan/api/banyan/v1/banyanv1connect"
	"banyan/node/pki"
	"banyan/obs/metric"

	"connectrpc.com/connect"
)

// KV answers banyan.v1.KV; *kv.Service does.
type KV interface {
	Get(context.Context, *banyanv1.GetRequest) (*banyanv1.GetResponse, error)
	// GetThen is Get for a caller that does not wait: done is called once, from
	// a goroutine that must not be held up.
	GetThen(ctx context.Context, req *banyanv1.GetRequest, done func(*banyanv1.GetResponse, error))
	Put(context.Context, *banyanv1.PutRequest) (*banyanv1.PutResponse, error)
	// PutThen is Put as GetThen is Get.
	PutThen(ctx context.Context, req *banyanv1.PutRequest, done func(*banyanv1.PutResponse, error))
	Delete(context.Context, *banyanv1.DeleteRequest) (*banyanv1.DeleteResponse, error)
	List(context.Context, *banyanv1.ListRequest) (*banyanv1.ListResponse, error)
	Txn(context.Context, *banyanv1.TxnRequest) (*banyanv1.TxnResponse, error)
	Watch(ctx context.Context, req *banyanv1.WatchRequest, send func(*banyanv1.WatchResponse) error) error
}

// Clusters answers banyan.v1.Cluster; the server does. Join is the one method
// whose caller may be unknown: see Strangers.
type Clusters interface {
	Status(context.Context, *banyanv1.StatusRequest) (*banyanv1.StatusResponse, error)
	Nodes(context.Context, *banyanv1.NodesRequest) (*banyanv1.NodesResponse, error)
	Map(context.Context, *banyanv1.MapRequest) (*banyanv1.MapResponse, error)
	Drain(context.Context, *banyanv1.DrainRequest) (*banyanv1.DrainResponse, error)
	CreateToken(context.Context, *banyanv1.CreateTokenRequest) (*banyanv1.CreateTokenResponse, error)
	ListTokens(context.Context, *banyanv1.ListTokensRequest) (*banyanv1.ListTokensResponse, error)
	RevokeToken(context.Context, *banyanv1.RevokeTokenRequest) (*banyanv1.RevokeTokenResponse, error)
	Join(context.Context, *banyanv1.JoinRequest) (*banyanv1.JoinResponse, error)
	Renew(context.Context, *banyanv1.RenewRequest) (*banyanv1.RenewResponse, error)
	Settings(context.Context, *banyanv1.SettingsRequest) (*banyanv1.SettingsResponse, error)
	ChangeSettings(context.Context, *banyanv1.ChangeSettingsRequest) (*banyanv1.ChangeSettingsResponse, error)
	RemoveNode(context.Context, *banyanv1.RemoveNodeRequest) (*banyanv1.RemoveNodeResponse, error)
}

// Config is what a door opens to.
type Config struct {
	// Admit refuses callers whose certificate is good but who are no longer
	// wanted; nil: none. It is asked on every call and must not block.
	Admit   func(pki.Subject) error
	Node    banyan.NodeID
	Cluster string // whose certificates are let in
	Logger  *slog.Logger
	Metrics *metric.Set // nil: none, and no GET /metrics

	KV       KV
	Clusters Clusters
	Blobs    Blobs
	Jobs     Jobs // those of the shards that this node leads
	Coord    Coord
	Debug    Debug

	// Leaders, JobsAt and CoordAt find the jobs and locks of other nodes. The
	// clients must decode errors (ClientInterceptor); nil on a node that will
	// never have peers.
	Leaders Leaders
	JobsAt  func(banyan.NodeID) (banyanv1connect.JobsClient, error)
	CoordAt func(banyan.NodeID) (banyanv1connect.CoordClient, error)

	// Tail reads what runs here, PeerAt asks for it elsewhere (nil as JobsAt).
	Tail   Tailer
	PeerAt func(banyan.NodeID) (peerv1connect.PeerClient, error)

	Peer  peerv1connect.PeerHandler // nil: no peers
	Ready func() error              // what /ready tells; nil: always ready
}

// gate is a Config at work.
type gate struct {
	Config
	users   budget
	peers   budget        // apart: users must not keep nodes from each other
	looks   budget        // apart, to see what a node that is full does
	chunks  chan struct{} // chunks of users in memory
	peering chan struct{} // chunks of peers in memory: apart, for a user's put waits for a peer's

	strangers metric.Counter
}

// newGate makes the budgets of a door.
func newGate(c Config) *gate {
	crowded := c.Metrics.Crowded("calls")
	class := func(name string, most int, bytes *bytesBudget) budget {
		return budget{c.Node, name, make(chan struct{}, most), bytes, crowded}
	}
	users := &bytesBudget{name: "CallBytesMax", most: banyan.CallBytesMax, crowded: c.Metrics.Crowded("call bytes")}
	peers := &bytesBudget{name: "PeerCallBytesMax", most: banyan.PeerCallBytesMax, crowded: c.Metrics.Crowded("peer call bytes")}
	return &gate{
		Config:    c,
		users:     class("CallsMax", banyan.CallsMax, users),
		peers:     class("PeerCallsMax", banyan.PeerCallsMax, peers),
		looks:     class("LooksMax", banyan.LooksMax, &bytesBudget{name: "LooksMax", most: banyan.LooksMax << 20, crowded: crowded}),
		chunks:    make(chan struct{}, banyan.BlobTransfersMax),
		peering:   make(chan struct{}, banyan.BlobTransfersMax),
		strangers: c.Metrics.Counter("banyan_strangers_total", strangersHelp, "at", "call"),
	}
}

// New builds the handler of everything a node answers.
func New(c Config) http.Handler {
	g := newGate(c)
	unpacks := unpacking()
	options := func(peer bool) connect.HandlerOption {
		return connect.WithHandlerOptions(
			connect.WithReadMaxBytes(banyan.RequestBytesMax),
			connect.WithCompressMinBytes(compressMin),
			unpacks,
			connect.WithInterceptors(&edge{node: c.Node, log: c.Logger, peer: peer, metrics: c.Metrics}),
		)
	}
	mux := http.NewServeMux()
	jobs := &anywhere{finder[banyanv1connect.JobsClient]{c.Node, c.Leaders, c.JobsAt}, c.Jobs}
	locks := &locks{c.Coord, finder[banyanv1connect.CoordClient]{c.Node, c.Leaders, c.CoordAt}}
	keys := kvDoor{c.KV, locks, c.Leaders, &edge{node: c.Node, log: c.Logger, metrics: c.Metrics}, new([doors]atomic.Pointer[callMeter])}
	keysPath, keysHandler := banyanv1connect.NewKVHandler(keys, options(false))
	mux.Handle(keysPath, keysHandler)
	mux.Handle("GET "+banyanv1connect.KVSessionProcedure, keys.upgrade(keysHandler))
	mux.Handle(banyanv1connect.NewClusterHandler(clusterDoor{c.Clusters}, options(false)))
	mux.Handle(banyanv1connect.NewJobsHandler(jobsDoor{jobs, &logs{jobs, c.Blobs, g.tail}}, options(false)))
	mux.Handle(banyanv1connect.NewCoordHandler(coordDoor{locks}, options(false)))
	mux.Handle(bounded(g.chunks)(banyanv1connect.NewBlobsHandler(blobsDoor{c.Blobs}, options(false))))
	if c.Peer != nil {
		path, peer := peerv1connect.NewPeerHandler(c.Peer, options(true))
		mux.Handle(path, peer)
		mux.Handle(bounded(g.peering)(peerv1connect.PeerPutBlobProcedure, peer))
		mux.Handle(bounded(g.peering)(peerv1connect.PeerGetBlobProcedure, peer))
	}
	mux.Handle(banyanv1connect.NewDebugHandler(debugDoor{c.Debug}, options(false)))
	mux.HandleFunc("GET /{$}", g.hello)
	mux.HandleFunc("GET /ready", g.ready)
	if c.Metrics != nil {
		mux.HandleFunc("GET "+metricsPath, g.showMetrics)
		c.Metrics.Read(g.readMeter)
	}
	return g.identify(g.limit(mux))
}

// compressMin is from how many bytes on an answer is compressed for those who
// ask for it; nodes and the SDK do not ask.
const compressMin = 1 << 10

func (g *gate) hello(w http.ResponseWriter, _ *http.Request) {
	fmt.Fprintf(w, `This is banyan %s, node %v of cluster %s.
Call it with the banyan command, the Go SDK, or any gRPC, gRPC-web or Connect client:
  POST /banyan.v1.Cluster/Status  Content-Type: application/json  {}
The services are KV, Jobs, Coord, Cluster, Blobs and Debug, defined in api/banyan/v1.
GET /ready says whether this node answers, GET /metrics is for Prometheus.
`, banyan.Version, g.Node, g.Cluster)
}

func (g *gate) ready(w http.ResponseWriter, _ *http.Request) {
	if g.Ready != nil {
		if err := g.Ready(); err != nil {
			http.Error(w, "not ready: "+err.Error(), http.StatusServiceUnavailable)
			return
		}
	}
	fmt.Fprintln(w, "ready")
}

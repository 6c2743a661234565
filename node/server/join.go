package server

import (
	"context"
	"errors"
	"io/fs"
	"log/slog"
	"net"
	"net/http"
	"net/http/httptrace"
	"os"
	"sync/atomic"
	"time"

	"banyan"
	banyanv1 "banyan/api/banyan/v1"
	"banyan/api/banyan/v1/banyanv1connect"
	"banyan/api/wire"
	"banyan/core/shardmap"
	"banyan/engine/store"
	"banyan/internal/pause"
	"banyan/node/pki"

	"connectrpc.com/connect"
)

const (
	joinTimeout  = 30 * time.Second // bounds the one call that lets a node in, with all its tries
	joinTryMax   = 10 * time.Second // each of them
	joinPauseMax = 2 * time.Second
)

// Join lets this machine into the cluster that answers at addr: it asks for a
// certificate over a connection pinned to the token's fingerprint and fills
// c.Dir. New and Run then start the node like any other. A directory that
// already holds a node is refused.
func Join(ctx context.Context, c Config, addr, token string) error {
	if err := c.Validate(); err != nil {
		return err
	}
	c = c.withDefaults()
	if err := checkAddress("the address to join", addr); err != nil {
		return err
	}
	_, fingerprint, err := pki.ParseToken(token)
	if err != nil {
		return err
	}
	if err := c.checkFirstListen(); err != nil {
		return err // and the token is as good as before
	}
	_, statErr := os.Stat(c.Dir)
	if err := prepareDir(c); err != nil {
		return err
	}
	if errors.Is(statErr, fs.ErrNotExist) {
		defer func() { _ = os.Remove(c.Dir) }() // refused if anything is in it
	}
	if f, err := readNodeFile(c); err != nil {
		return err
	} else if f != nil {
		return banyan.Errorf(banyan.AlreadyExists, "%s already holds node %v of cluster %s: start it with 'banyan up --dir %s', or give an empty directory", c.Dir, f.Node, f.Cluster, c.Dir)
	}
	if c.Listen == "" {
		c.Listen = DefaultListen
	}
	csr, key, err := pki.NewRequest()
	if err != nil {
		return err
	}
	step, err := openDoorstep(c.Listen, key)
	if err != nil {
		return err
	}
	defer step.close()
	if c.Advertise == "" {
		c.Advertise = step.address()
	}
	if _, port, _ := net.SplitHostPort(c.Listen); port == "0" {
		c.Listen = step.listener.Addr().String()
	}
	id := banyan.NewRequestID()
	reply, err := askToJoin(ctx, c.Logger, addr, fingerprint, &banyanv1.JoinRequest{
		Token: token, Csr: csr, Name: c.Name, Address: c.Advertise, Zone: c.Zone, Slots: uint32(c.offered()),
		Protocol: banyan.ProtocolVersion, ProtocolMin: banyan.ProtocolMin, Version: banyan.Version, RequestId: id[:],
		Listening: true,
	})
	if err != nil {
		return banyan.Errorf(banyan.KindOf(err), "joining at %s: %w", addr, err)
	}
	return settle(c, reply, key)
}

// askToJoin repeats a request that a member may have got, until it is answered:
// its token may be spent. One that nobody can have got is not repeated.
func askToJoin(ctx context.Context, log *slog.Logger, addr, fingerprint string, req *banyanv1.JoinRequest) (*banyanv1.JoinResponse, error) {
	var reached atomic.Bool
	ctx = httptrace.WithClientTrace(ctx, &httptrace.ClientTrace{GotConn: func(httptrace.GotConnInfo) { reached.Store(true) }})
	ctx, cancel := context.WithTimeout(ctx, joinTimeout)
	defer cancel()
	member := joinClient(addr, fingerprint)
	try := func() (*connect.Response[banyanv1.JoinResponse], error) {
		ctx, cancel := context.WithTimeout(ctx, joinTryMax)
		defer cancel()
		req.NowMs = time.Now().UnixMilli()
		return member.Join(ctx, connect.NewRequest(req))
	}
	for wait := 50 * time.Millisecond; ; wait = min(2*wait, joinPauseMax) {
		reply, err := try()
		if err == nil {
			return reply.Msg, nil
		}
		unclear := banyan.IsKind(err, banyan.Unavailable) || banyan.IsKind(err, banyan.Timeout)
		if unclear && !reached.Load() {
			return nil, banyan.Errorf(banyan.KindOf(err), "%w: see whether a node listens there ('banyan nodes' on a member lists addresses), and whether this machine reaches it", err)
		}
		if !unclear {
			return nil, err
		}
		_ = pause.For(ctx, wait)
		if ctx.Err() != nil {
			return nil, notLetIn(ctx, err)
		}
		log.Warn("no answer to the join, trying again", "at", addr, "error", err)
	}
}

// notLetIn says what is so when a member that can be reached has not answered in
// all the time there was: it waits for a majority to agree.
func notLetIn(ctx context.Context, err error) error {
	if !errors.Is(ctx.Err(), context.DeadlineExceeded) {
		return err
	}
	return banyan.Errorf(banyan.Unavailable, "the node there answers connections, but did not let this machine in within %v: most likely its cluster has no majority of its nodes; 'banyan status' on a member says which are missing: start them, then run this command again (with a new token, if this one is spent)", joinTimeout)
}

// settle writes what a member answered; node.json comes last.
func settle(c Config, m *banyanv1.JoinResponse, key []byte) error {
	ca, err := pki.ParseCA(m.Ca, m.CaKey)
	if err != nil {
		return err
	}
	if err := pki.SaveDir(c.pkiDir(), ca, m.Certificate, key); err != nil {
		return err
	}
	st, err := store.Open(c.storeDir(), store.Options{Logger: c.Logger})
	if err != nil {
		return err
	}
	err = st.SetIdentity(store.Identity{Cluster: m.ClusterId, Node: banyan.NodeID(m.Node)})
	if err == nil {
		var first *shardmap.Map
		if first, err = shardmap.Decode(m.ShardMap); err == nil {
			err = writeMap(st, first)
		}
	}
	if cerr := st.Close(); err == nil {
		err = cerr
	}
	if err != nil {
		return err
	}
	f := &nodeFile{
		Version: nodeFileVersion, Cluster: m.ClusterId, Node: banyan.NodeID(m.Node),
		Name: c.Name, Zone: c.Zone, Listen: c.Listen, Address: c.Advertise, Slots: c.Slots, Memory: c.Memory,
		Peers: map[banyan.NodeID]string{},
	}
	for _, n := range m.Nodes {
		f.Peers[banyan.NodeID(n.Id)] = n.Address
	}
	return f.write(c)
}

func joinClient(addr, fingerprint string) banyanv1connect.ClusterClient {
	tr := &http.Transport{
		TLSClientConfig:     pki.PinnedTLS(fingerprint),
		DialContext:         (&net.Dialer{Timeout: 5 * time.Second}).DialContext,
		TLSHandshakeTimeout: 5 * time.Second,
		DisableKeepAlives:   true,
		ForceAttemptHTTP2:   true, // what the pinned ALPN asks for
	}
	return banyanv1connect.NewClusterClient(explained{tr}, "https://"+addr, connect.WithInterceptors(wire.ClientInterceptor()))
}

// explained is a transport whose errors say what to do.
type explained struct{ http.RoundTripper }

func (e explained) Do(req *http.Request) (*http.Response, error) {
	res, err := e.RoundTrip(req)
	return res, pki.Explain(req.URL.Host, err)
}

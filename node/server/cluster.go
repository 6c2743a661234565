package server

import (
	"context"
	"fmt"
	"sync"
	"time"

	"banyan"
	peerv1 "banyan/api/banyan/peer/v1"
	banyanv1 "banyan/api/banyan/v1"
	"banyan/door/gate"
	"banyan/engine/member"
	"banyan/node/pki"

	"connectrpc.com/connect"
)

// infoTimeout bounds how long status waits for a node.
const infoTimeout = 1500 * time.Millisecond

// clusterService answers banyan.v1.Cluster.
type clusterService struct{ n *Server }

// CreateToken makes a join token and says where to use it.
func (s clusterService) CreateToken(ctx context.Context, req *banyanv1.CreateTokenRequest) (*banyanv1.CreateTokenResponse, error) {
	if s.n.keeper == nil {
		return nil, errEmbedded()
	}
	by, _ := gate.Caller(ctx)
	token, id, row, err := createToken(ctx, s.n.router, s.n.keeper.CA().Fingerprint(), time.Duration(req.TtlMs)*time.Millisecond, int(req.Uses), time.Now(), by.Name)
	if err != nil {
		return nil, err
	}
	s.n.log.Info("join token created", "id", id, "by", by.Name, "uses", row.Uses, "expires", time.UnixMilli(row.ExpireMs))
	return &banyanv1.CreateTokenResponse{Token: token, Id: id, ExpireMs: row.ExpireMs, Address: s.n.file.Address}, nil
}

// ListTokens tells which tokens are valid.
func (s clusterService) ListTokens(ctx context.Context, _ *banyanv1.ListTokensRequest) (*banyanv1.ListTokensResponse, error) {
	if s.n.keeper == nil {
		return nil, errEmbedded()
	}
	tokens, _, err := validTokens(ctx, s.n.router, time.Now())
	return &banyanv1.ListTokensResponse{Tokens: tokens}, err
}

// RevokeToken ends a token before its time.
func (s clusterService) RevokeToken(ctx context.Context, req *banyanv1.RevokeTokenRequest) (*banyanv1.RevokeTokenResponse, error) {
	if s.n.keeper == nil {
		return nil, errEmbedded()
	}
	token, err := revokeToken(ctx, s.n.router, req.Id, time.Now())
	if err != nil {
		return nil, err
	}
	by, _ := gate.Caller(ctx)
	s.n.log.Info("join token revoked", "id", token.Id, "by", by.Name)
	return &banyanv1.RevokeTokenResponse{Token: token}, nil
}

// Join lets a new node in: the token is the proof, the answer its certificate.
func (s clusterService) Join(ctx context.Context, req *banyanv1.JoinRequest) (*banyanv1.JoinResponse, error) {
	from := gate.From(ctx)
	err := s.n.guesses.allow(from, time.Now())
	var out *banyanv1.JoinResponse
	if err == nil {
		out, err = s.join(ctx, req)
	}
	s.n.guesses.ended(from, time.Now(), err)
	return out, err
}

// join checks everything before it spends the token.
func (s clusterService) join(ctx context.Context, req *banyanv1.JoinRequest) (*banyanv1.JoinResponse, error) {
	now := time.Now()
	if s.n.keeper == nil {
		return nil, errEmbedded()
	}
	if err := checkJoin(req, now); err != nil {
		return nil, err
	}
	who, err := readNewcomer(req, now)
	if err != nil {
		return nil, err
	}
	if req.Listening {
		again, err := checkToken(ctx, s.n.router, who)
		if err == nil && !again {
			err = s.n.callBack(ctx, who)
		}
		if err != nil {
			return nil, err
		}
	}
	node, err := admit(ctx, s.n.router, who, func(acts uint32) error {
		if len(s.n.nodes.list()) >= banyan.NodesMax {
			return banyan.Errorf(banyan.Exhausted, "the cluster has %d nodes, the most there may be", banyan.NodesMax)
		}
		return checkProtocols(req, acts)
	})
	if err != nil {
		return nil, err
	}
	s.n.nodes.learn(node) // it comes in a moment
	ca := s.n.keeper.CA()
	cert, err := ca.Sign(req.Csr, nodeSubject(node.ID), now, pki.NodeTTL)
	if err != nil {
		return nil, err
	}
	key, err := ca.KeyDER()
	if err != nil {
		return nil, err
	}
	s.n.log.Info("node admitted", "node", node.ID, "name", node.Name, "address", node.Address, "from", gate.From(ctx))
	out := &banyanv1.JoinResponse{
		Node: uint64(node.ID), ClusterId: ca.Cluster(), Certificate: cert, Ca: ca.CertDER(), CaKey: key, ShardMap: s.n.shards.get().Encode(),
	}
	for _, n := range s.n.nodes.list() {
		out.Nodes = append(out.Nodes, &banyanv1.Node{Id: uint64(n.ID), Address: n.Address})
	}
	return out, nil
}

func readNewcomer(req *banyanv1.JoinRequest, now time.Time) (who newcomer, err error) {
	if n := len(req.RequestId); n != 0 && n != len(who.request) {
		return who, banyan.Errorf(banyan.Invalid, "request_id has %d bytes: give 16 random ones, the same with each try of one join, or none", n)
	}
	if copy(who.request[:], req.RequestId); who.request == (banyan.RequestID{}) {
		who.request = banyan.NewRequestID() // it cannot be repeated
	}
	who.token = req.Token
	who.row = nodeRow{Name: req.Name, Address: req.Address, Zone: req.Zone, Slots: int(req.Slots), JoinMs: now.UnixMilli()}
	who.key, err = pki.RequestKey(req.Csr)
	return who, err
}

func checkProtocols(req *banyanv1.JoinRequest, acts uint32) error {
	least := req.ProtocolMin
	if least == 0 {
		least = req.Protocol
	}
	if req.Protocol < acts || least > acts {
		return banyan.Errorf(banyan.TooNew, "the new node (banyan %s) speaks protocols %d to %d, this cluster acts at %d: install the release that its nodes run (here %s)", req.Version, least, req.Protocol, acts, banyan.Version)
	}
	return nil
}

func checkJoin(req *banyanv1.JoinRequest, now time.Time) error {
	if skew := time.UnixMilli(req.NowMs).Sub(now); skew.Abs() > clockSkewMax {
		return banyan.Errorf(banyan.Invalid, "the clock of the joining machine is %v off from this cluster's: set it (NTP), then join again", skew.Round(time.Second))
	}
	if len(req.Name) > nameBytesMax || len(req.Zone) > nameBytesMax || req.Slots > banyan.SlotsMax {
		return banyan.Errorf(banyan.Invalid, "the joining node's name, zone or slots are beyond the limits of docs/limits.md")
	}
	if req.Name == "" || !printable(req.Name+req.Zone+req.Version) {
		return banyan.Errorf(banyan.Invalid, "the joining node's name %q, zone %q or version %q has characters that cannot be printed, or there is no name", req.Name, req.Zone, req.Version)
	}
	if len(req.Version) > banyan.NameBytesMax || len(req.Address) > addressBytesMax || !printable(req.Address) {
		return banyan.Errorf(banyan.Invalid, "the joining node's version or address is longer than any is, or cannot be printed")
	}
	if !req.Listening { // an older release: it says where it is reached when it starts
		return checkAddress("--advertise", req.Address)
	}
	return checkAdvertise(req.Address)
}

// Renew signs a new certificate for the caller's own name.
func (s clusterService) Renew(ctx context.Context, req *banyanv1.RenewRequest) (*banyanv1.RenewResponse, error) {
	who, ok := gate.Caller(ctx)
	if !ok || s.n.keeper == nil {
		return nil, banyan.Errorf(banyan.Unauthenticated, "only the holder of a certificate can have it renewed")
	}
	ttl := pki.UserTTL
	if who.Kind == pki.Node {
		ttl = pki.NodeTTL
	}
	ca := s.n.keeper.CA()
	cert, err := ca.Sign(req.Csr, who, time.Now(), ttl)
	return &banyanv1.RenewResponse{Certificate: cert, Ca: ca.CertDER()}, err
}

// Drain marks a node; placement and its worker act on the mark.
func (s clusterService) Drain(ctx context.Context, req *banyanv1.DrainRequest) (*banyanv1.DrainResponse, error) {
	if s.n.cfg.Embedded {
		return nil, errEmbedded()
	}
	row, err := editNode(ctx, s.n.router, banyan.NodeID(req.Node), func(n *nodeRow) bool {
		change := n.Draining == req.Undo || n.LeavingMs != 0 && req.Undo
		n.Draining = !req.Undo
		if req.Undo {
			n.LeavingMs = 0
		}
		return change
	})
	if err != nil {
		return nil, err
	}
	state := "draining"
	if req.Undo {
		state = "alive"
	}
	s.n.log.Info("node drained, or taken back", "node", row.ID, "state", state)
	return &banyanv1.DrainResponse{Node: &banyanv1.Node{Id: uint64(row.ID), Name: row.Name, Address: row.Address, Zone: row.Zone, Slots: uint32(row.Slots), State: state}}, nil
}

// Map says where every slot and shard is.
func (s clusterService) Map(ctx context.Context, _ *banyanv1.MapRequest) (*banyanv1.MapResponse, error) {
	m := s.n.shards.get()
	out := &banyanv1.MapResponse{ClusterId: s.n.file.Cluster, Epoch: m.Epoch, Slots: make([]uint32, banyan.Slots)}
	for slot := range out.Slots {
		out.Slots[slot] = uint32(m.OfSlot(slot))
	}
	for _, id := range m.All() {
		leader, _ := s.n.router.Leader(id)
		out.Shards = append(out.Shards, &banyanv1.Shard{Id: uint32(id), Leader: uint64(leader)})
	}
	for _, n := range s.n.nodes.list() {
		out.Nodes = append(out.Nodes, s.node(n, nil))
	}
	return out, nil
}

// Nodes lists the nodes with what each says of itself.
func (s clusterService) Nodes(ctx context.Context, _ *banyanv1.NodesRequest) (*banyanv1.NodesResponse, error) {
	infos := s.n.gather(ctx)
	out := &banyanv1.NodesResponse{}
	for _, n := range s.n.nodes.list() {
		out.Nodes = append(out.Nodes, s.node(n, infos[n.ID]))
	}
	return out, nil
}

func (s clusterService) node(row nodeRow, info *nodeInfo) *banyanv1.Node {
	n := &banyanv1.Node{
		Id: uint64(row.ID), Name: row.Name, Address: row.Address, Zone: row.Zone, Slots: uint32(row.Slots),
		JoinMs: row.JoinMs, State: s.n.stateOf(row.ID),
	}
	if n.State == "alive" && s.n.members != nil { // its row may say yet where it was before
		if addr, ok := s.n.members.Addr(row.ID); ok {
			n.Address = addr
		}
	}
	if row.Draining && n.State == "alive" {
		n.State = "draining"
	}
	if row.LeavingMs != 0 && n.State == "draining" {
		n.State = "leaving"
	}
	if info == nil {
		return n
	}
	n.ProtocolMax = max(info.ProtocolMax, banyan.ProtocolMin)
	n.Running, n.Version = info.Running, info.Version
	n.DiskFreeBytes, n.DiskTotalBytes, n.MemoryBytes = info.DiskFreeBytes, info.DiskTotalBytes, info.MemoryBytes
	n.DiskLevel, n.DiskMarkBytes, n.DiskPath = info.DiskLevel, info.DiskMarkBytes, info.DiskPath
	n.CertificateExpireMs = info.CertificateExpireMs
	n.ClockOffsetMs = info.offset.Milliseconds()
	n.Replicas = uint32(len(info.Shards))
	for _, sh := range info.Shards {
		if sh.Leader == uint64(row.ID) {
			n.Leaders++
		}
	}
	return n
}

// Status says how the cluster is and what to do about what is not well.
func (s clusterService) Status(ctx context.Context, _ *banyanv1.StatusRequest) (*banyanv1.StatusResponse, error) {
	infos := s.n.gatherCounts(ctx, true)
	if s.n.outside.Load() { // the others' refusals would pass for their troubles
		return nil, s.n.askAnother()
	}
	out := &banyanv1.StatusResponse{ClusterId: s.n.file.Cluster, Node: uint64(s.n.file.Node), Version: banyan.Version}
	for _, n := range s.n.nodes.list() {
		out.Nodes = append(out.Nodes, s.node(n, infos[n.ID]))
	}
	m := s.n.shards.get()
	out.Shards = mergeShards(m.All(), infos)
	for _, sh := range out.Shards {
		from, until := m.SlotsOf(banyan.ShardID(sh.Id))
		sh.FromSlot, sh.UntilSlot = uint32(from), uint32(until)
		out.Replication = max(out.Replication, uint32(len(sh.Voters)))
	}
	for _, info := range infos {
		out.JobsActive += info.JobsActive
	}
	out.Problems = append(contactProblems(out.Nodes, infos), findProblems(out.Nodes, out.Shards, s.n.voters(), s.n.deadAfter())...)
	out.Protocol = s.n.facts.acts()
	if _, why := s.n.spoken(infos); why != "" && len(out.Problems) == 0 {
		out.Problems = append(out.Problems, &banyanv1.Problem{What: fmt.Sprintf("the cluster acts at protocol %d, not at the newest", out.Protocol), Remedy: why})
	}
	for _, note := range s.n.facts.remembered() {
		out.Notices = append(out.Notices, &banyanv1.Notice{TimeMs: note.TimeMs, Node: uint64(note.Node), Text: note.Text})
	}
	return out, nil
}

// mergeShards takes of each shard what the leader with the highest term says.
func mergeShards(ids []banyan.ShardID, infos map[banyan.NodeID]*nodeInfo) []*banyanv1.Shard {
	out := make([]*banyanv1.Shard, len(ids))
	at := map[uint32]*banyanv1.Shard{}
	for i, id := range ids {
		out[i] = &banyanv1.Shard{Id: uint32(id)}
		at[uint32(id)] = out[i]
	}
	for node, info := range infos {
		for _, sh := range info.Shards {
			best := at[sh.Id]
			if best == nil {
				continue
			}
			leads := sh.Leader == uint64(node)
			if sh.Term < best.Term || (!leads && best.Leader != 0) || (!leads && len(best.Voters) > 0 && sh.Term == best.Term) {
				continue
			}
			best.Term, best.Voters, best.Learners = sh.Term, sh.Voters, sh.Learners
			best.Revision, best.AppliedIndex = sh.Revision, sh.AppliedIndex
			if leads {
				best.Leader, best.Behind = sh.Leader, sh.Behind
				best.Rows, best.Bytes = sh.Rows, sh.Bytes
			}
		}
	}
	return out
}

// nodeInfo is what a node said of itself, and how far its clock is off.
type nodeInfo struct {
	*peerv1.InfoResponse
	offset time.Duration
}

// gather asks every node for its Info at once; those that do not answer in
// time are missing from the result.
func (n *Server) gather(ctx context.Context) map[banyan.NodeID]*nodeInfo {
	return n.gatherCounts(ctx, false)
}

// gatherCounts is gather, with counts also of rows.
func (n *Server) gatherCounts(ctx context.Context, counts bool) map[banyan.NodeID]*nodeInfo {
	ctx, cancel := context.WithTimeout(ctx, infoTimeout)
	defer cancel()
	var (
		mu  sync.Mutex
		wg  sync.WaitGroup
		out = map[banyan.NodeID]*nodeInfo{n.file.Node: {InfoResponse: n.info(counts)}}
	)
	for _, row := range n.nodes.list() {
		if row.ID == n.file.Node || n.stateOf(row.ID) == "dead" || n.stateOf(row.ID) == "left" {
			continue
		}
		wg.Go(func() {
			info, err := n.askCounts(ctx, row.ID, counts)
			if err != nil {
				return // it shows as a node without figures, and as a problem if it stays so
			}
			mu.Lock()
			defer mu.Unlock()
			out[row.ID] = info
		})
	}
	wg.Wait()
	return out
}

func (n *Server) askInfo(ctx context.Context, id banyan.NodeID) (*nodeInfo, error) {
	return n.askCounts(ctx, id, false)
}

func (n *Server) askCounts(ctx context.Context, id banyan.NodeID, counts bool) (*nodeInfo, error) {
	peer, err := n.router.Peer(id)
	if err != nil {
		return nil, err
	}
	sent := time.Now()
	reply, err := peer.Info(ctx, connect.NewRequest(&peerv1.InfoRequest{Counts: counts}))
	if err != nil {
		return nil, err
	}
	middle := sent.Add(time.Since(sent) / 2)
	return &nodeInfo{InfoResponse: reply.Msg, offset: time.UnixMilli(reply.Msg.NowMs).Sub(middle)}, nil
}

// stateOf says what gossip knows of a node: alive, suspect, dead, left.
func (n *Server) stateOf(id banyan.NodeID) string {
	if id == n.file.Node {
		return "alive"
	}
	if n.members == nil {
		return "dead"
	}
	if m, ok := n.members.Get(id); ok {
		return string(m.State)
	}
	return string(member.Dead)
}

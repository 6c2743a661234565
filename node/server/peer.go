package server

import (
	"context"
	"time"

	"banyan"
	peerv1 "banyan/api/banyan/peer/v1"
	"banyan/api/banyan/peer/v1/peerv1connect"
	"banyan/door/gate"
	"banyan/engine/member"
	"banyan/engine/route"

	"connectrpc.com/connect"
)

// peerService answers banyan.peer.v1.Peer out of the parts: rows from route,
// chunks from blob, work and output from the controller and the worker.
type peerService struct {
	*route.Handler
	gate.PeerBlobs
	n *Server
}

var _ peerv1connect.PeerHandler = peerService{}

// SendSnapshot takes in a shard's state.
func (s peerService) SendSnapshot(ctx context.Context, stream *connect.ClientStream[peerv1.SnapshotChunk]) (*connect.Response[peerv1.SnapshotResponse], error) {
	return s.n.receiveSnapshot(ctx, stream)
}

// Work is the conversation with a worker.
func (s peerService) Work(ctx context.Context, stream *connect.BidiStream[peerv1.WorkerMessage, peerv1.ControllerMessage]) error {
	return s.n.work.Work(ctx, stream)
}

// Tail reads the output of an attempt that runs here.
func (s peerService) Tail(ctx context.Context, req *connect.Request[peerv1.TailRequest], stream *connect.ServerStream[peerv1.TailResponse]) error {
	return s.n.worker.Tail(ctx, req.Msg, stream.Send)
}

// Info says how this node is.
func (s peerService) Info(_ context.Context, req *connect.Request[peerv1.InfoRequest]) (*connect.Response[peerv1.InfoResponse], error) {
	return connect.NewResponse(s.n.info(req.Msg.Counts)), nil
}

func (n *Server) membersKnown() []member.Member {
	if n.members == nil {
		return nil
	}
	return n.members.Members()
}

// info is what this node says of itself; with counts, also how many rows the
// shards hold that it leads.
func (n *Server) info(counts bool) *peerv1.InfoResponse {
	space := n.disks.state()
	out := &peerv1.InfoResponse{
		Node: uint64(n.file.Node), NowMs: time.Now().UnixMilli(), Version: banyan.Version,
		Running: uint32(n.worker.Running()), ProtocolMin: banyan.ProtocolMin, ProtocolMax: banyan.ProtocolVersion, Evacuated: n.evacuated.Load(),
		DiskFreeBytes: space.free, DiskTotalBytes: space.total,
		DiskLevel: uint32(space.level), DiskMarkBytes: space.mark, DiskPath: space.path,
		MemoryBytes: residentMemory(), JobsActive: uint32(n.work.Active()),
		PausedMs: n.metrics.Paused(pausesLook).Milliseconds(),
	}
	n.isolation(out)
	out.Sweep = n.sweeps.say(n.file.Node)
	if n.port != nil {
		c := n.port.Connections()
		out.Connections, out.ConnectionsMax, out.FilesMax = uint32(c.Open), uint32(c.Most), uint32(c.Files)
		if !c.Refused.IsZero() {
			out.CrowdedMs = max(1, time.Since(c.Refused).Milliseconds())
		}
	}
	if n.keeper != nil {
		out.CertificateExpireMs = n.keeper.Certificate().NotAfter.UnixMilli()
	}
	for _, m := range n.membersKnown() {
		if m.State == member.Suspect {
			out.Unheard = append(out.Unheard, uint64(m.ID))
		}
	}
	ctx, cancel := context.WithTimeout(context.Background(), infoTimeout/2) // less than who asks waits
	defer cancel()
	statuses, err := n.host.Statuses(ctx)
	if err != nil {
		out.Stalled = n.metrics.Paused(infoTimeout/2) < infoTimeout/4 // or it is stopping
		return out
	}
	for _, st := range statuses {
		out.Stalled = out.Stalled || st.Stalled
		sh := &peerv1.ShardInfo{
			Id: uint32(st.Shard), Leader: uint64(st.Leader), Term: st.Term, Joint: st.Joint, Unsettled: st.Leading && !st.Settled,
			Revision: uint64(st.Revision), AppliedIndex: st.Applied, Behind: map[uint64]uint64{},
			DiffersFrom: uint64(st.DiffersFrom),
		}
		sh.Load, sh.LedMs = n.leads.say(&st, time.Now())
		for _, v := range st.Voters {
			sh.Voters = append(sh.Voters, uint64(v))
		}
		for _, v := range st.Learners {
			sh.Learners = append(sh.Learners, uint64(v))
		}
		for id, match := range st.Match {
			sh.Behind[uint64(id)] = st.Last - min(match, st.Last)
		}
		if counts && st.Leading {
			sh.Rows, sh.Bytes = n.counts(st.Shard)
		}
		out.Shards = append(out.Shards, sh)
	}
	return out
}

// counts sums up how many rows a shard holds, and how many bytes; 0 if its
// replica has just gone.
func (n *Server) counts(shard banyan.ShardID) (rows, bytes int64) {
	counts, err := n.router.CountsHere(shard)
	if err != nil {
		return 0, 0
	}
	for _, c := range counts {
		rows, bytes = rows+c.Rows, bytes+c.Bytes
	}
	return rows, bytes
}

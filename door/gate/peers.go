package gate

import (
	"context"

	"banyan"
	peerv1 "banyan/api/banyan/peer/v1"
	"banyan/api/banyan/peer/v1/peerv1connect"
	"banyan/engine/blob"

	"connectrpc.com/connect"
)

// PeerBlobs is the part of the peer service that answers for this node's
// chunks; the server embeds it in its PeerHandler.
type PeerBlobs struct{ Store *blob.Replicated }

// PutBlob stores a chunk on this node.
func (p PeerBlobs) PutBlob(ctx context.Context, req *connect.Request[peerv1.PutChunkRequest]) (*connect.Response[peerv1.PutChunkResponse], error) {
	h, err := toHash(req.Msg.Hash)
	if err != nil {
		return nil, err
	}
	if err := p.Store.PeerPut(ctx, req.Msg.Epoch, h, req.Msg.Data); err != nil {
		return nil, err
	}
	return connect.NewResponse(&peerv1.PutChunkResponse{}), nil
}

// GetBlob reads the copy of this node.
func (p PeerBlobs) GetBlob(ctx context.Context, req *connect.Request[peerv1.GetChunkRequest]) (*connect.Response[peerv1.GetChunkResponse], error) {
	h, err := toHash(req.Msg.Hash)
	if err != nil {
		return nil, err
	}
	data, err := p.Store.PeerGet(ctx, h)
	if err != nil {
		return nil, err
	}
	return connect.NewResponse(&peerv1.GetChunkResponse{Data: data}), nil
}

// HasBlobs says which chunks this node has.
func (p PeerBlobs) HasBlobs(_ context.Context, req *connect.Request[peerv1.HasChunksRequest]) (*connect.Response[peerv1.HasChunksResponse], error) {
	hs, err := toHashes(req.Msg.Hashes)
	if err != nil {
		return nil, err
	}
	has, err := p.Store.PeerHas(blob.Touch{Refer: req.Msg.Refer, Epoch: req.Msg.Epoch}, hs)
	if err != nil {
		return nil, err
	}
	return connect.NewResponse(&peerv1.HasChunksResponse{Has: has}), nil
}

// BlobPeers reaches the chunks of other nodes through their peer service. dial
// must decode errors (ClientInterceptor).
func BlobPeers(dial func(banyan.NodeID) (peerv1connect.PeerClient, error)) blob.Peers {
	return blobPeers(dial)
}

type blobPeers func(banyan.NodeID) (peerv1connect.PeerClient, error)

func (dial blobPeers) PutBlob(ctx context.Context, to banyan.NodeID, epoch uint64, h banyan.Hash, data []byte) error {
	peer, err := dial(to)
	if err != nil {
		return err
	}
	_, err = peer.PutBlob(ctx, connect.NewRequest(&peerv1.PutChunkRequest{Hash: h[:], Data: data, Epoch: epoch}))
	return err
}

func (dial blobPeers) GetBlob(ctx context.Context, from banyan.NodeID, h banyan.Hash) ([]byte, error) {
	peer, err := dial(from)
	if err != nil {
		return nil, err
	}
	reply, err := peer.GetBlob(ctx, connect.NewRequest(&peerv1.GetChunkRequest{Hash: h[:]}))
	if err != nil {
		return nil, err
	}
	return reply.Msg.Data, nil
}

func (dial blobPeers) HasBlobs(ctx context.Context, at banyan.NodeID, t blob.Touch, hs []banyan.Hash) ([]bool, error) {
	peer, err := dial(at)
	if err != nil {
		return nil, err
	}
	reply, err := peer.HasBlobs(ctx, connect.NewRequest(&peerv1.HasChunksRequest{Hashes: fromHashes(hs), Epoch: t.Epoch, Refer: t.Refer}))
	if err != nil {
		return nil, err
	}
	return reply.Msg.Has, nil
}

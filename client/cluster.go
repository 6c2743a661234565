package client

import (
	"context"
	"time"

	"banyan"
	banyanv1 "banyan/api/banyan/v1"
	"banyan/api/banyan/v1/banyanv1connect"

	"connectrpc.com/connect"
)

// Cluster tells how the cluster is and changes who belongs to it.
type Cluster struct{ c *Client }

// Cluster gives the cluster itself.
func (c *Client) Cluster() Cluster { return Cluster{c} }

// Status says what is unhealthy and what to do about it.
func (l Cluster) Status(ctx context.Context) (*banyanv1.StatusResponse, error) {
	return soonest(ctx, l.c, &banyanv1.StatusRequest{}, clusterMethod(banyanv1connect.ClusterClient.Status))
}

// Nodes lists the nodes.
func (l Cluster) Nodes(ctx context.Context) ([]*banyanv1.Node, error) {
	res, err := unary(ctx, l.c, nil, &banyanv1.NodesRequest{}, clusterMethod(banyanv1connect.ClusterClient.Nodes))
	return res.GetNodes(), err
}

// Map says where slots, shards and nodes are.
func (l Cluster) Map(ctx context.Context) (*banyanv1.MapResponse, error) {
	return unary(ctx, l.c, nil, &banyanv1.MapRequest{}, clusterMethod(banyanv1connect.ClusterClient.Map))
}

// Drain moves leaders and work off a node, or with undo lets it take them again.
func (l Cluster) Drain(ctx context.Context, node banyan.NodeID, undo bool) (*banyanv1.Node, error) {
	res, err := unary(ctx, l.c, nil, &banyanv1.DrainRequest{Node: uint64(node), Undo: undo}, clusterMethod(banyanv1connect.ClusterClient.Drain))
	return res.GetNode(), err
}

// CreateToken makes a token with which machines may join. A try that failed may
// leave a token behind that nobody knows; it expires.
func (l Cluster) CreateToken(ctx context.Context, ttl time.Duration, uses int) (*banyanv1.CreateTokenResponse, error) {
	return unary(ctx, l.c, nil, &banyanv1.CreateTokenRequest{TtlMs: ttl.Milliseconds(), Uses: uint32(uses)}, clusterMethod(banyanv1connect.ClusterClient.CreateToken))
}

// Tokens lists the join tokens that are valid, the soonest to expire first.
func (l Cluster) Tokens(ctx context.Context) ([]*banyanv1.Token, error) {
	res, err := unary(ctx, l.c, nil, &banyanv1.ListTokensRequest{}, clusterMethod(banyanv1connect.ClusterClient.ListTokens))
	return res.GetTokens(), err
}

// RevokeToken ends the one token whose id begins so. When a try that failed has
// ended it, the next says NotFound.
func (l Cluster) RevokeToken(ctx context.Context, id string) (*banyanv1.Token, error) {
	res, err := unary(ctx, l.c, nil, &banyanv1.RevokeTokenRequest{Id: id}, clusterMethod(banyanv1connect.ClusterClient.RevokeToken))
	return res.GetToken(), err
}

// Renew has a new certificate signed for the caller's own name.
func (l Cluster) Renew(ctx context.Context, csr []byte) (*banyanv1.RenewResponse, error) {
	return unary(ctx, l.c, nil, &banyanv1.RenewRequest{Csr: csr}, clusterMethod(banyanv1connect.ClusterClient.Renew))
}

// Settings tells what was chosen for the whole cluster.
func (l Cluster) Settings(ctx context.Context) (*banyanv1.SettingsResponse, error) {
	return unary(ctx, l.c, nil, &banyanv1.SettingsRequest{}, clusterMethod(banyanv1connect.ClusterClient.Settings))
}

// ChangeSettings changes those that are not zero and gives all of them.
func (l Cluster) ChangeSettings(ctx context.Context, s *banyanv1.Settings) (*banyanv1.Settings, error) {
	res, err := unary(ctx, l.c, nil, &banyanv1.ChangeSettingsRequest{Settings: s}, clusterMethod(banyanv1connect.ClusterClient.ChangeSettings))
	return res.GetSettings(), err
}

// RemoveNode takes a node out of the cluster for good. Call it again until the
// answer says removed: until then the node hands over what it holds, and the
// answer says what that is.
func (l Cluster) RemoveNode(ctx context.Context, node banyan.NodeID) (*banyanv1.RemoveNodeResponse, error) {
	return unary(ctx, l.c, nil, &banyanv1.RemoveNodeRequest{Node: uint64(node)}, clusterMethod(banyanv1connect.ClusterClient.RemoveNode))
}

func clusterMethod[Req, Res any](m func(banyanv1connect.ClusterClient, context.Context, *connect.Request[Req]) (*connect.Response[Res], error)) func(*node, context.Context, *connect.Request[Req]) (*connect.Response[Res], error) {
	return func(n *node, ctx context.Context, req *connect.Request[Req]) (*connect.Response[Res], error) {
		return m(n.cluster, ctx, req)
	}
}

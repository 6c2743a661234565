package gate

import (
	"context"
	"fmt"
	"testing"

	"banyan"
	banyanv1 "banyan/api/banyan/v1"
	"banyan/api/banyan/v1/banyanv1connect"

	"connectrpc.com/connect"
)

// fakeLocks are those of one node: every one is free, and its owner is the node.
type fakeLocks struct {
	Coord
	jobs *fakeJobs // knows what is led here
}

func (f fakeLocks) Acquire(_ context.Context, req *banyanv1.AcquireRequest) (*banyanv1.AcquireResponse, error) {
	if err := f.leads(req.Name); err != nil {
		return nil, err
	}
	return &banyanv1.AcquireResponse{Claim: &banyanv1.Claim{Name: req.Name, Owner: f.jobs.node.String()}}, nil
}

func (f fakeLocks) Release(_ context.Context, req *banyanv1.ReleaseRequest) (*banyanv1.ReleaseResponse, error) {
	return &banyanv1.ReleaseResponse{Released: true}, f.leads(req.Partition + req.Name)
}

func (f fakeLocks) KeepAlive(_ context.Context, req *banyanv1.KeepAliveRequest) (*banyanv1.KeepAliveResponse, error) {
	res := &banyanv1.KeepAliveResponse{}
	for _, ref := range req.Leases {
		if err := f.leads(ref.Partition); err != nil {
			return nil, err
		}
		res.Kept = append(res.Kept, ref.Lease)
	}
	return res, nil
}

func (f fakeLocks) List(context.Context, *banyanv1.ListLocksRequest) (*banyanv1.ListLocksResponse, error) {
	return &banyanv1.ListLocksResponse{Locks: []*banyanv1.LockState{{Name: f.jobs.node.String()}}}, nil
}

func (f fakeLocks) leads(name string) error {
	return f.jobs.leads(string(banyan.Partition([]byte(name))))
}

// TestLocksGoToTheirLeader: any node answers for any lock, whoever leads it.
func TestLocksGoToTheirLeader(t *testing.T) {
	n := newNet(t, 3)
	n.lead(2, 2)
	n.lead(3, 3)
	ctx := t.Context()
	for asked := banyan.NodeID(1); asked <= 3; asked++ {
		c := banyanv1connect.NewCoordClient(n.user(t), n.nodes[asked].url, decoded)
		all := &banyanv1.KeepAliveRequest{}
		for i := range 20 {
			name := fmt.Sprintf("lock%d/x", i)
			leader, _ := n.Leader(n.ShardOf(banyan.Partition([]byte(name))))
			res, err := c.Acquire(ctx, connect.NewRequest(&banyanv1.AcquireRequest{Name: name}))
			if err != nil || res.Msg.Claim.Owner != leader.String() {
				t.Fatalf("%s at %v: %v, %v, not from %v", name, asked, res, err, leader)
			}
			if _, err := c.Release(ctx, connect.NewRequest(&banyanv1.ReleaseRequest{Name: name})); err != nil {
				t.Errorf("release: %v", err)
			}
			if _, err := c.Release(ctx, connect.NewRequest(&banyanv1.ReleaseRequest{Partition: name})); err != nil {
				t.Errorf("release of a lease: %v", err)
			}
			all.Leases = append(all.Leases, &banyanv1.LeaseRef{Partition: name, Lease: uint64(i)})
		}
		if res, err := c.KeepAlive(ctx, connect.NewRequest(all)); err != nil || len(res.Msg.Kept) != 20 {
			t.Errorf("keep alive: %v, %v", res, err)
		}
		res, err := c.List(ctx, connect.NewRequest(&banyanv1.ListLocksRequest{}))
		if err != nil || res.Msg.Locks[0].Name != asked.String() {
			t.Errorf("list: %v, %v", res, err)
		}
	}
}

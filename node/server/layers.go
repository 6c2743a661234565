package server

import (
	"context"

	"banyan/engine/seam"
	"banyan/obs/metric"
)

// layer is a layer of the data shards as a node runs it.
type layer struct {
	seam.Controller                             // hears which shards this node leads
	run             func(context.Context) error // until the context ends
	read            func(*metric.Reading)       // tells its metrics; nil: they tell themselves
}

// openLayers lists the layers that have something to do beside leaders. A new
// layer is one line here.
func (n *Server) openLayers() {
	n.layers = []layer{
		{Controller: n.work, run: n.work.Run},
		{Controller: n.coord, run: n.coord.Run, read: n.readLocks},
	}
}

// readLocks tells how many locks there are here.
func (n *Server) readLocks(r *metric.Reading) {
	leases, locks := n.coord.Counts()
	r.Gauge("banyan_leases", "Leases in the shards that this node leads.", float64(leases))
	r.Gauge("banyan_locks", "Locks held or waited for, in the shards that this node leads.", float64(locks))
}

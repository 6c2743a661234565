package cli

import (
	"context"
	"errors"
	"fmt"

	"github.com/spf13/cobra"

	"banyan"
	banyanv1 "banyan/api/banyan/v1"
)

// nodeJSON is a node as -o json prints it.
type nodeJSON struct {
	ID             string `json:"id"`
	Name           string `json:"name"`
	Address        string `json:"address"`
	Zone           string `json:"zone"`
	State          string `json:"state"`
	Slots          uint32 `json:"slots"`
	Running        uint32 `json:"running"`
	Leaders        uint32 `json:"leaders"`
	Replicas       uint32 `json:"replicas"`
	DiskFreeBytes  int64  `json:"disk_free_bytes"`
	DiskTotalBytes int64  `json:"disk_total_bytes"`
	MemoryBytes    int64  `json:"memory_bytes"`
	CertExpireMs   int64  `json:"certificate_expire_ms"`
	ClockOffsetMs  int64  `json:"clock_offset_ms"`
	Version        string `json:"version"`
	JoinMs         int64  `json:"join_ms"`
}

func newNodeJSON(n *banyanv1.Node) nodeJSON {
	return nodeJSON{
		ID: banyan.NodeID(n.Id).String(), Name: n.Name, Address: n.Address, Zone: n.Zone, State: n.State, Slots: n.Slots,
		Running: n.Running, Leaders: n.Leaders, Replicas: n.Replicas, DiskFreeBytes: n.DiskFreeBytes, DiskTotalBytes: n.DiskTotalBytes,
		MemoryBytes: n.MemoryBytes, CertExpireMs: n.CertificateExpireMs, ClockOffsetMs: n.ClockOffsetMs, Version: n.Version, JoinMs: n.JoinMs,
	}
}

func (a *app) nodesCommand() *cobra.Command {
	var f format
	cmd := &cobra.Command{
		Use:   "nodes",
		Short: "List the nodes of the cluster",
		Args:  exactly(),
		RunE: func(cmd *cobra.Command, _ []string) error {
			if err := f.check(); err != nil {
				return err
			}
			return a.with(cmd.Context(), need{}, func(ctx context.Context, s *session) error {
				nodes, err := s.Cluster().Nodes(ctx)
				if err != nil {
					return err
				}
				return errors.Join(a.printNodes(f, nodes), s.remember(nodes))
			})
		},
	}
	f.add(cmd.Flags())
	return cmd
}

func (a *app) printNodes(f format, nodes []*banyanv1.Node) error {
	t := newTable("NODE", "NAME", "STATE", "ADDRESS", "ZONE", "SLOTS", "RUNNING", "LEADS", "REPLICAS", "DISK FREE", "MEMORY").numbers(5, 6, 7, 8, 9, 10)
	for _, n := range nodes {
		if f.json() {
			if err := writeJSON(a.Out, newNodeJSON(n)); err != nil {
				return err
			}
			continue
		}
		t.add(banyan.NodeID(n.Id).String(), n.Name, n.State, n.Address, dash(n.Zone), fmt.Sprint(n.Slots), fmt.Sprint(n.Running),
			fmt.Sprint(n.Leaders), fmt.Sprint(n.Replicas), size(n.DiskFreeBytes), size(n.MemoryBytes))
	}
	if f.json() {
		return nil
	}
	return t.print(a.Out)
}

// size prints a number of bytes in binary units; 0 is unknown.
func size(n int64) string {
	if n <= 0 {
		return "-"
	}
	units := []string{"B", "KiB", "MiB", "GiB", "TiB", "PiB"}
	v, i := float64(n), 0
	for ; v >= 1024 && i < len(units)-1; i++ {
		v /= 1024
	}
	if i == 0 || v >= 100 {
		return fmt.Sprintf("%.0f %s", v, units[i])
	}
	return fmt.Sprintf("%.1f %s", v, units[i])
}

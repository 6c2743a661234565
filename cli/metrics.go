package cli

import (
	"bytes"
	"context"
	"math"

	"github.com/spf13/cobra"

	banyanv1 "banyan/api/banyan/v1"
	"banyan/obs/metric"
)

// metricJSON is a line of 'metrics -o json'.
type metricJSON struct {
	Name   string            `json:"name"`
	Labels map[string]string `json:"labels"`
	Value  float64           `json:"value"`
}

func (a *app) metricsCommand() *cobra.Command {
	var f format
	var node nodeFlag
	cmd := &cobra.Command{
		Use:   "metrics",
		Short: "Print the metrics of a node, as Prometheus reads them",
		Long: `Print the metrics of a node, as Prometheus reads them at /metrics of the node's
port, with a certificate of the cluster. docs/operations.md says what each one
answers, and how Prometheus is set up.`,
		Args: exactly(),
		RunE: func(cmd *cobra.Command, _ []string) error {
			return a.look(cmd.Context(), f, &node, func(ctx context.Context, s *session) error {
				text, err := s.Debug().Dump(ctx, banyanv1.DumpKind_DUMP_KIND_METRICS, node.id, 0)
				if err == nil && f.json() {
					return a.printSamples(text)
				}
				if err == nil {
					_, err = a.Out.Write(text)
				}
				return err
			})
		},
	}
	node.add(cmd.Flags())
	f.add(cmd.Flags())
	return cmd
}

func (a *app) printSamples(text []byte) error {
	samples, err := metric.Parse(bytes.NewReader(text))
	if err != nil {
		return err
	}
	for _, m := range samples {
		if math.IsNaN(m.Value) || math.IsInf(m.Value, 0) {
			continue // JSON has no such number
		}
		if err := writeJSON(a.Out, metricJSON(m)); err != nil {
			return err
		}
	}
	return nil
}

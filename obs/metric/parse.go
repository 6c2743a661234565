package metric

import (
	"io"
	"slices"
	"strings"

	"github.com/prometheus/common/expfmt"
	"github.com/prometheus/common/model"
)

// Sample is one line of the text format.
type Sample struct {
	Name   string
	Labels map[string]string
	Value  float64
}

// Parse reads what WriteText wrote, sorted by name.
func Parse(r io.Reader) ([]Sample, error) {
	parser := expfmt.NewTextParser(model.UTF8Validation)
	families, err := parser.TextToMetricFamilies(r)
	if err != nil {
		return nil, err
	}
	var out []Sample
	for _, f := range families {
		vector, err := expfmt.ExtractSamples(&expfmt.DecodeOptions{}, f)
		if err != nil {
			return nil, err
		}
		for _, v := range vector {
			s := Sample{Labels: map[string]string{}, Value: float64(v.Value)}
			for name, value := range v.Metric {
				if name == model.MetricNameLabel {
					s.Name = string(value)
				} else {
					s.Labels[string(name)] = string(value)
				}
			}
			out = append(out, s)
		}
	}
	slices.SortStableFunc(out, func(a, b Sample) int { return strings.Compare(a.Name, b.Name) })
	return out, nil
}

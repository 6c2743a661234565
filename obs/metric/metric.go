// Package metric counts and times what a node does, and shows it to Prometheus:
// the one place that knows its library. The names stand with the code that
// counts; docs/operations.md lists them all, and a test holds it to that.
//
// Labels have few values, known beforehand: kinds, doors, calls, shards, never
// keys, jobs or users. Each count is made once, when its part of the node is
// built, so that counting is an atomic addition and looks nothing up.
package metric

import (
	"errors"
	"fmt"
	"io"
	"time"

	"github.com/prometheus/client_golang/prometheus"
	"github.com/prometheus/common/expfmt"

	"banyan"
	"banyan/obs"
)

// ContentType is of what WriteText writes.
const ContentType = string("text/plain; version=0.0.4; charset=utf-8")

// Set is the metrics of one node, its slow log and its pulse. A nil Set counts
// for nobody.
type Set struct {
	registry *prometheus.Registry
	slow     *obs.Ring[Slow]
	pulse    pulse
	paused   Timer
}

// NewSet gives a set that holds what the process and Go's runtime tell.
func NewSet() *Set {
	s := &Set{registry: prometheus.NewRegistry(), slow: obs.NewRing[Slow](banyan.SlowOpsMax), pulse: pulse{pauses: obs.NewRing[pause](pausesKept)}}
	s.registry.MustRegister(
		prometheus.NewProcessCollector(prometheus.ProcessCollectorOpts{}), //nolint:staticcheck // its new home pulls in database/sql
		prometheus.NewGoCollector(),                                       //nolint:staticcheck // as above
	)
	s.paused = s.Timer("banyan_pause_seconds", "Times in which this process did not run: it was paused, or had no CPU.")
	return s
}

// Counter only grows. The zero Counter counts nothing.
type Counter struct{ c prometheus.Counter }

// Inc adds one.
func (c Counter) Inc() { c.Add(1) }

// Add adds n.
func (c Counter) Add(n int) {
	if c.c != nil {
		c.c.Add(float64(n))
	}
}

// Counter makes a counter: its name ends in _total, labels are pairs of a name
// and this counter's value.
func (s *Set) Counter(name, help string, labels ...string) Counter {
	return Counter{register(s, prometheus.NewCounter(prometheus.CounterOpts{Name: name, Help: help, ConstLabels: pairs(labels)}))}
}

// Crowded makes the counter of what is refused or dropped at a limit; where
// names the queue or door.
func (s *Set) Crowded(where string) Counter {
	return s.Counter("banyan_backpressure_total", "Requests and messages refused or dropped because a limit was reached.", "where", where)
}

// Timer tells how long something takes, as a histogram in seconds.
type Timer struct{ h prometheus.Histogram }

// bounds are those of every Timer: a fast disk's fsync is in the first ones, a
// caller's patience at the end.
var bounds = []float64{0.0001, 0.0003, 0.001, 0.003, 0.01, 0.03, 0.1, 0.3, 1, 3, 10}

// Observe adds one duration.
func (t Timer) Observe(d time.Duration) { t.h.Observe(d.Seconds()) }

// Timer makes a timer: its name ends in _seconds.
func (s *Set) Timer(name, help string, labels ...string) Timer {
	return Timer{register(s, prometheus.NewHistogram(prometheus.HistogramOpts{Name: name, Help: help, ConstLabels: pairs(labels), Buckets: bounds}))}
}

// register adds c to the set, or gives the one that has its name and labels.
func register[C prometheus.Collector](s *Set, c C) C {
	if s == nil {
		return c
	}
	err := s.registry.Register(c)
	var before prometheus.AlreadyRegisteredError
	if errors.As(err, &before) {
		return before.ExistingCollector.(C)
	}
	if err != nil {
		panic(err) // a name that is taken by something else
	}
	return c
}

func pairs(labels []string) prometheus.Labels {
	out := prometheus.Labels{}
	for i := 0; i < len(labels); i += 2 {
		out[labels[i]] = labels[i+1]
	}
	return out
}

// Read has fn called whenever the metrics are read, for what is the case then
// and need not be counted. fn may be called by several goroutines at once.
func (s *Set) Read(fn func(*Reading)) {
	if s != nil {
		s.registry.MustRegister(reader(fn))
	}
}

// Reading takes what a function that was given to Read finds.
type Reading struct{ out chan<- prometheus.Metric }

// Gauge tells a value that goes up and down.
func (r *Reading) Gauge(name, help string, value float64, labels ...string) {
	r.put(prometheus.GaugeValue, name, help, value, labels)
}

// Counter tells a value that was counted elsewhere and only grows.
func (r *Reading) Counter(name, help string, value float64, labels ...string) {
	r.put(prometheus.CounterValue, name, help, value, labels)
}

func (r *Reading) put(t prometheus.ValueType, name, help string, value float64, labels []string) {
	r.out <- prometheus.MustNewConstMetric(prometheus.NewDesc(name, help, nil, pairs(labels)), t, value)
}

type reader func(*Reading)

// Describe says nothing: what is read may differ each time.
func (reader) Describe(chan<- *prometheus.Desc) {}

// Collect implements prometheus.Collector.
func (r reader) Collect(out chan<- prometheus.Metric) { r(&Reading{out}) }

// WriteText writes all metrics in Prometheus's text format.
func (s *Set) WriteText(w io.Writer) error {
	families, err := s.registry.Gather()
	if err != nil {
		return fmt.Errorf("cannot read the metrics: %w", err)
	}
	for _, f := range families {
		if _, err := expfmt.MetricFamilyToText(w, f); err != nil {
			return err
		}
	}
	return nil
}

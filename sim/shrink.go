package sim

import (
	"slices"
	"time"
)

// twists is how many timings are tried of each smaller configuration: what is
// left out changes when everything else happens.
const twists = 16

// Shrink looks for the smallest configuration in which the seed of cfg fails
// as it does with cfg: it cuts the trouble short, leaves out kinds of faults,
// loads and then single faults, and takes fewer machines, shards and clients,
// again and again until nothing more can go. Every run is told to tried.
func Shrink(cfg Config, tried func(*Report)) *Report {
	s := shrinker{tried: tried, best: Run(cfg)}
	tried(s.best)
	if s.best.Failure == "" {
		return s.best
	}
	s.kind = s.best.Kind
	for size := -1; size != s.size(); {
		size = s.size()
		s.length()
		s.counts()
		s.kinds()
		s.singles()
	}
	return s.best
}

type shrinker struct {
	best  *Report // the smallest that fails
	kind  string
	tried func(*Report)
}

// size tells whether a round has made anything smaller.
func (s *shrinker) size() int {
	c := s.best
	return c.Plan.Nodes + c.Plan.Shards + c.Plan.Clients + int(c.Plan.Length/time.Millisecond) + len(c.Planned) - 1000*len(c.Config.Without)
}

// fails says whether a change of the smallest configuration still fails, in
// any timing, and takes it if it does.
func (s *shrinker) fails(change func(*Config)) bool {
	cfg := s.best.Config
	cfg.Without, cfg.Only = slices.Clone(cfg.Without), slices.Clone(cfg.Only)
	change(&cfg)
	if s.try(cfg) {
		return true
	}
	for n := range uint64(twists) {
		if n == s.best.Config.Twist {
			continue // that was the first
		}
		if cfg.Twist = n; s.try(cfg) {
			return true
		}
	}
	return false
}

// try takes a configuration if it fails in the same way.
func (s *shrinker) try(cfg Config) bool {
	r := Run(cfg)
	s.tried(r)
	if r.Failure == "" || r.Kind != s.kind {
		return false
	}
	s.best = r
	return true
}

// length ends the trouble when the run failed, and earlier by halves.
func (s *shrinker) length() {
	for {
		to := (s.best.Plan.Length / 2).Round(time.Millisecond)
		if now := s.best.Time.Round(time.Millisecond); now < s.best.Plan.Length && now > to {
			if s.fails(func(c *Config) { c.Length = now }) {
				continue
			}
		}
		if to < 50*time.Millisecond || !s.fails(func(c *Config) { c.Length = to }) {
			break
		}
	}
	if to := (s.best.Plan.Length * 3 / 4).Round(time.Millisecond); to >= 50*time.Millisecond {
		s.fails(func(c *Config) { c.Length = to })
	}
}

func (s *shrinker) counts() {
	for s.best.Plan.Nodes > 3 && s.fails(func(c *Config) { c.Nodes = s.best.Plan.Nodes - 1 }) {
	}
	for s.best.Plan.Shards > 1 && s.fails(func(c *Config) { c.Shards = s.best.Plan.Shards - 1 }) {
	}
	for s.best.Plan.Clients > 1 && s.fails(func(c *Config) { c.Clients = s.best.Plan.Clients - 1 }) {
	}
}

// kinds leaves out whole kinds.
func (s *shrinker) kinds() {
	for _, kind := range slices.Concat(Loads, Kinds) {
		if happened := slices.Contains(Loads, kind) || s.best.Faults[kind] > 0; happened && !s.best.Config.without(kind) {
			s.fails(func(c *Config) { c.Without = append(c.Without, kind) })
		}
	}
}

// singles leaves out one fault of the plan after the other.
func (s *shrinker) singles() {
	for _, number := range slices.Clone(s.best.Planned) {
		rest := slices.DeleteFunc(slices.Clone(s.best.Planned), func(n int) bool { return n == number })
		if len(rest) == 0 {
			rest = []int{-1} // none
		}
		s.fails(func(c *Config) { c.Only = rest })
	}
}

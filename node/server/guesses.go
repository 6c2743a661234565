package server

import (
	"log/slog"
	"net"
	"net/netip"
	"sync"
	"time"

	"banyan"
	"banyan/obs"
	"banyan/obs/metric"
)

const (
	guessesEvery = time.Minute
	guessersMax  = 1024 // addresses counted apart
)

// guesses counts joins whose token was not good. Each costs the root shard a
// read, so one address may make JoinGuessesMax a minute, and all together
// JoinGuessesAllMax; the next is refused without one.
type guesses struct {
	log     *slog.Logger
	refused metric.Counter
	seldom  obs.Seldom

	mu    sync.Mutex
	since time.Time
	all   int
	from  map[string]int
}

func newGuesses(log *slog.Logger, m *metric.Set) *guesses {
	return &guesses{log: log, from: map[string]int{}, refused: m.Counter("banyan_joins_refused_total", "Joins refused, for their token or anything else.")}
}

// network is what an address is counted as: hosts have many of IPv6.
func network(addr string) string {
	host, _, err := net.SplitHostPort(addr)
	ip, perr := netip.ParseAddr(host)
	if err != nil || perr != nil {
		return ""
	}
	if ip = ip.Unmap(); ip.Is6() {
		if p, err := ip.WithZone("").Prefix(64); err == nil {
			return p.String()
		}
	}
	return ip.String()
}

// allow refuses who has guessed too often lately.
func (g *guesses) allow(from string, now time.Time) error {
	g.mu.Lock()
	defer g.mu.Unlock()
	if now.Sub(g.since) >= guessesEvery {
		g.since, g.all = now, 0
		clear(g.from)
	}
	if g.from[network(from)] >= banyan.JoinGuessesMax || g.all >= banyan.JoinGuessesAllMax {
		return banyan.Errorf(banyan.Exhausted, "too many joins with bad tokens in the last minute (JoinGuessesMax): wait a minute, or join at another node")
	}
	return nil
}

// ended counts and logs a join that was refused.
func (g *guesses) ended(from string, now time.Time, err error) {
	if err == nil {
		return
	}
	g.refused.Inc()
	if banyan.IsKind(err, banyan.Unauthenticated) {
		g.mu.Lock()
		g.all++
		if n := network(from); g.from[n] > 0 || len(g.from) < guessersMax {
			g.from[n]++
		}
		g.mu.Unlock()
	}
	if left, due := g.seldom.Now(now); due {
		g.log.Warn("refused a join", "from", from, "error", err, "more", left)
	}
}

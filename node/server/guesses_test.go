package server

import (
	"fmt"
	"log/slog"
	"testing"
	"time"

	"banyan"
	"banyan/obs/metric"
)

func TestGuessesAreFew(t *testing.T) {
	g := newGuesses(slog.New(slog.DiscardHandler), metric.NewSet())
	bad := banyan.Errorf(banyan.Unauthenticated, "no")
	now := time.Unix(1e9, 0)
	try := func(from string, times int) (allowed int) {
		for range times {
			if g.allow(from, now) == nil {
				allowed++
				g.ended(from, now, bad)
			}
		}
		return allowed
	}
	if n := try("192.0.2.1:1", 100); n != banyan.JoinGuessesMax {
		t.Errorf("one address guessed %d times", n)
	}
	for i := range 20 { // one host
		if n := try(fmt.Sprintf("[2001:db8::%x]:1", i), 100); i > 0 && n != 0 {
			t.Errorf("another address of one IPv6 network guessed %d times", n)
		}
	}
	g.ended("192.0.2.2:1", now, banyan.Errorf(banyan.Invalid, "no guess"))
	if g.allow("192.0.2.2:1", now) != nil {
		t.Error("an address that guessed nothing was refused")
	}
	all := 2 * banyan.JoinGuessesMax
	for i := range 5000 {
		all += try(fmt.Sprintf("10.0.%d.%d:1", i/256, i%256), banyan.JoinGuessesMax)
	}
	if all != banyan.JoinGuessesAllMax || len(g.from) > guessersMax {
		t.Errorf("%d guesses of all, %d addresses counted", all, len(g.from))
	}
	now = now.Add(guessesEvery)
	if g.allow("192.0.2.1:2", now) != nil {
		t.Error("refused a minute later")
	}
}

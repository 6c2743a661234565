package cli

import (
	"fmt"
	"io"
	"math"
	"os"
	"strings"
	"time"

	"charm.land/lipgloss/v2"
	"github.com/charmbracelet/x/term"

	"banyan"
	banyanv1 "banyan/api/banyan/v1"
)

// progressBar shows how far a job is. It is called by one goroutine.
type progressBar interface {
	show(*banyanv1.Progress)
	clear() // takes what is shown off the screen
	// through gives the writer for output that may share the screen; it takes
	// the progress out of its way.
	through(w io.Writer) io.Writer
}

// When progress begins to be shown, and how often plain lines come.
const (
	barAfter   = 300 * time.Millisecond
	plainAfter = 5 * time.Second
	plainEvery = 5 * time.Second
	barNodes   = 12 // node lines at most
)

// newProgress chooses how to show progress on standard error.
func (a *app) newProgress(how string) progressBar {
	if how == "auto" {
		how = "plain"
		if isTerminal(a.Err) && a.Env("TERM") != "dumb" {
			how = "bar"
		}
	}
	switch how {
	case "bar":
		return &bar{w: a.Err, now: a.now, start: a.now(), width: widthOf(a.Err), color: a.Env("NO_COLOR") == ""}
	case "plain":
		return &plain{w: a.Err, now: a.now, last: a.now().Add(plainAfter - plainEvery)}
	}
	return silent{}
}

func terminalFile(f *os.File) bool { return term.IsTerminal(f.Fd()) }

// widthOf gives a function that measures the terminal behind w.
func widthOf(w io.Writer) func() int {
	return func() int {
		if f, ok := w.(*os.File); ok {
			if width, _, err := term.GetSize(f.Fd()); err == nil && width > 0 {
				return width
			}
		}
		return 80
	}
}

type silent struct{}

func (silent) show(*banyanv1.Progress) {}
func (silent) clear()                  {}

func (silent) through(w io.Writer) io.Writer { return w }

// plain writes a line now and then, and nothing for short jobs.
type plain struct {
	w    io.Writer
	now  func() time.Time
	last time.Time
}

func (p *plain) show(m *banyanv1.Progress) {
	if p.now().Sub(p.last) < plainEvery {
		return
	}
	p.last = p.now()
	fmt.Fprintln(p.w, "banyan: "+strings.Join(figures(m), ", "))
}

func (p *plain) clear() {}

func (p *plain) through(w io.Writer) io.Writer { return w }

// figures gives the words of a progress, such as "12 of 40 done".
func figures(m *banyanv1.Progress) []string {
	done := m.Succeeded + m.Failed
	f := []string{fmt.Sprintf("%d of %d done", done, m.Tasks), fmt.Sprintf("%d running", m.Running)}
	if m.Open {
		f[0] = fmt.Sprintf("%d done of %d so far", done, m.Tasks)
	}
	if m.ThenRunning {
		f[1] = "the --then step is running"
	}
	if m.Failed > 0 {
		f = append(f, fmt.Sprintf("%d failed", m.Failed))
	}
	if m.Repeated > 0 {
		f = append(f, fmt.Sprintf("%d repeated", m.Repeated))
	}
	if m.RatePerS > 0 && done < m.Tasks {
		f = append(f, fmt.Sprintf("%.*f/s", rateDigits(m.RatePerS), m.RatePerS))
		if s := float64(m.Tasks-done) / m.RatePerS; s < 100*24*3600 && !m.Open {
			f = append(f, duration(time.Duration(math.Ceil(s))*time.Second)+" left")
		}
	}
	return f
}

func rateDigits(r float64) int {
	switch {
	case r < 1:
		return 2
	case r < 100:
		return 1
	}
	return 0
}

// bar redraws a bar and a line per node in place.
type bar struct {
	w     io.Writer
	now   func() time.Time
	start time.Time
	width func() int
	color bool
	lines int  // on the screen now
	mid   bool // output stopped in the middle of a line
}

// through takes the bar away before output comes, and watches where that leaves
// the cursor: the bar must not be drawn into an unfinished line.
func (b *bar) through(w io.Writer) io.Writer {
	if !isTerminal(w) {
		return w
	}
	return &screen{w, b}
}

type screen struct {
	w io.Writer
	b *bar
}

func (s *screen) Write(p []byte) (int, error) {
	if len(p) > 0 {
		s.b.clear()
		s.b.mid = p[len(p)-1] != '\n'
	}
	return s.w.Write(p)
}

func (b *bar) clear() {
	if b.lines > 0 {
		fmt.Fprintf(b.w, "\r\x1b[%dA\x1b[J", b.lines)
		b.lines = 0
	}
}

func (b *bar) show(m *banyanv1.Progress) {
	if b.now().Sub(b.start) < barAfter {
		return
	}
	width := b.width()
	lines := []string{b.first(m, width)}
	if len(m.Nodes) > 1 {
		for i, n := range m.Nodes {
			if i == barNodes {
				lines = append(lines, fmt.Sprintf("  … and %d more nodes", len(m.Nodes)-i))
				break
			}
			lines = append(lines, b.node(n, width))
		}
	}
	// One write, so that a terminal never shows half of it.
	text := strings.Join(lines, "\x1b[K\n") + "\x1b[K\n\x1b[J"
	if b.mid {
		text, b.mid = "\n"+text, false
	}
	if b.lines > 0 {
		text = fmt.Sprintf("\r\x1b[%dA", b.lines) + text
	}
	_, _ = io.WriteString(b.w, text) // a terminal that is gone does not stop the job
	b.lines = len(lines)
}

// first is the line of the bar itself.
func (b *bar) first(m *banyanv1.Progress, width int) string {
	tail := fmt.Sprintf(" %3.0f%%  %s", 100*part(m.Succeeded+m.Failed, m.Tasks), strings.Join(figures(m), "  "))
	cells := min(40, width-1-lipgloss.Width(tail)-1)
	if cells < 4 {
		return clip(strings.TrimSpace(tail), width-1)
	}
	good := int(part(m.Succeeded, m.Tasks) * float64(cells))
	bad := int(math.Ceil(part(m.Failed, m.Tasks) * float64(cells)))
	bad = min(bad, cells-good)
	running := min(int(math.Ceil(part(m.Running, m.Tasks)*float64(cells))), cells-good-bad)
	return " " + b.paint("2", strings.Repeat("█", good)) + b.paint("1", strings.Repeat("█", bad)) +
		b.paint("3", strings.Repeat("▒", running)) + b.paint("8", strings.Repeat("░", cells-good-bad-running)) + tail
}

func (b *bar) node(n *banyanv1.NodeProgress, width int) string {
	mark, color := "●", "2"
	switch n.State {
	case "suspect", "draining":
		mark, color = "◐", "3"
	case "dead", "left":
		mark, color = "✕", "1"
	}
	text := fmt.Sprintf("%-4v %-16s %2d of %2d running  %6d done", banyan.NodeID(n.Node), abbreviate(n.Name, 16), n.Running, n.Slots, n.Done)
	if n.State != "" && n.State != "alive" {
		text += "  " + n.State
	}
	return "  " + b.paint(color, mark) + " " + clip(text, width-5)
}

func (b *bar) paint(color, s string) string {
	if !b.color || s == "" {
		return s
	}
	return lipgloss.NewStyle().Foreground(lipgloss.Color(color)).Render(s)
}

func clip(s string, width int) string { return abbreviate(s, max(width, 8)) }

func part(n, of uint32) float64 {
	if of == 0 {
		return 0
	}
	return min(1, float64(n)/float64(of))
}

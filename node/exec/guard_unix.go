//go:build unix

package exec

import (
	"fmt"
	"io"
	"log/slog"
	"os/exec"
	"sync"
	"syscall"
)

// guardScript keeps the groups it is told of; at the end of its input, which
// comes when the node's process ends in whatever way, it kills them, and what has
// the node's cookie ($1) in its environment, where the system shows that. A process
// that is just executing a program shows none for an instant: so it looks thrice.
const guardScript = `trap '' HUP INT TERM
g=
while read -r op p; do
	case $op in
	+) g="$g $p" ;;
	q) exit ;;
	-) n=; for x in $g; do [ "$x" = "$p" ] || n="$n $x"; done; g=$n ;;
	esac
done
for x in $g; do kill -KILL "-$x" 2>/dev/null; done
[ -n "$1" ] || exit 0
n=0
for i in 1 2 3 4 5 6 7 8 9 10 11 12 13 14 15 16 17 18 19 20; do
	l=$(grep -ls "$1[.]" /proc/[0-9]*/environ)
	for e in $l; do e=${e#/proc/}; kill -KILL "${e%/environ}" 2>/dev/null; done
	n=$((n + 1))
	[ -z "$l" ] || n=0
	[ $n -lt 3 ] || exit 0
	sleep 0.05
done`

// guard is a shell that outlives this process just long enough to kill the
// process groups left behind. It is started with the first group to watch.
type guard struct {
	log    *slog.Logger
	cookie string // "": none

	mu   sync.Mutex
	cmd  *exec.Cmd
	pipe io.WriteCloser
}

func newGuard(log *slog.Logger, cookie string) *guard { return &guard{log: log, cookie: cookie} }

func (g *guard) add(pgid int) {
	g.mu.Lock()
	defer g.mu.Unlock()
	if g.cmd == nil {
		cmd := exec.Command("/bin/sh", "-c", guardScript, "banyan-guard", g.cookie)
		cmd.SysProcAttr = &syscall.SysProcAttr{Setsid: true}
		cmd.Dir = "/"
		pipe, err := cmd.StdinPipe()
		if err == nil {
			err = cmd.Start()
		}
		if err != nil {
			g.log.Warn("no guard for tasks: should this node be killed, tasks may go on without it", "error", err)
			return
		}
		g.cmd, g.pipe = cmd, pipe
	}
	g.tell('+', pgid)
}

func (g *guard) remove(pgid int) {
	g.mu.Lock()
	defer g.mu.Unlock()
	g.tell('-', pgid)
}

// tell ignores that the guard is gone: it is there for worse than that.
func (g *guard) tell(op byte, pgid int) {
	if g.pipe != nil {
		fmt.Fprintf(g.pipe, "%c %d\n", op, pgid)
	}
}

func (g *guard) close() {
	g.mu.Lock()
	defer g.mu.Unlock()
	if g.cmd != nil {
		fmt.Fprintln(g.pipe, "q") // nothing is left; an error means that it is gone
		g.pipe.Close()
		_ = g.cmd.Wait() // how the guard ended matters to nobody
		g.cmd, g.pipe = nil, nil
	}
}

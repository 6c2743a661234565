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
// comes when the node's process ends in whatever way, it kills them.
const guardScript = `trap '' HUP INT TERM
g=
while read -r op p; do
	case $op in
	+) g="$g $p" ;;
	-) n=; for x in $g; do [ "$x" = "$p" ] || n="$n $x"; done; g=$n ;;
	esac
done
for x in $g; do kill -KILL "-$x" 2>/dev/null; done`

// guard is a shell that outlives this process just long enough to kill the
// process groups left behind. It is started with the first group to watch.
type guard struct {
	log *slog.Logger

	mu   sync.Mutex
	cmd  *exec.Cmd
	pipe io.WriteCloser
}

func newGuard(log *slog.Logger) *guard { return &guard{log: log} }

func (g *guard) add(pgid int) {
	g.mu.Lock()
	defer g.mu.Unlock()
	if g.cmd == nil {
		cmd := exec.Command("/bin/sh", "-c", guardScript)
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
		g.pipe.Close()
		_ = g.cmd.Wait() // how the guard ended matters to nobody
		g.cmd, g.pipe = nil, nil
	}
}

package cli

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"runtime"
	"strings"
	"time"

	"banyan"
	"banyan/core/job"
)

// remote is a machine that is reached by the user's own ssh, so that the user's
// configuration, keys and agent hold. What runs there are short sh scripts;
// what they find out are lines of standard output that begin with "banyan:",
// whatever else the login there prints.
type remote struct {
	target  string // as ssh takes it: host, user@host, ssh://user@host:port or a name of the user's configuration
	control string // directory of the connection that the scripts share, "" for none
}

const (
	remoteMark      = "banyan:"
	remoteOutputMax = 1 << 20

	// sshFailed is the exit code of ssh when it was not the script that failed.
	sshFailed = 255
	// remotePersist keeps the shared connection for what follows, should we die.
	remotePersist = "60"
)

// checkTarget refuses what ssh would take for an option, or a terminal for more than text.
func checkTarget(target string) error {
	if target == "" || strings.HasPrefix(target, "-") || strings.ContainsAny(target, " \t\n") || shown(target) != target {
		return usage("bad host %q: give what ssh takes, such as user@host or ssh://user@host:2222", target)
	}
	return nil
}

// reach makes a remote. Nothing is connected before the first script.
func reach(target string) (*remote, error) {
	r := &remote{target: target}
	if runtime.GOOS == "windows" { // its ssh shares no connections
		return r, nil
	}
	dir, err := os.MkdirTemp("/tmp", "banyan-ssh-") // the paths of sockets are short
	if err != nil {
		return nil, err
	}
	r.control = dir
	return r, nil
}

// close ends the shared connection.
func (r *remote) close() {
	if r.control == "" {
		return
	}
	if left, _ := os.ReadDir(r.control); len(left) > 0 {
		_ = exec.Command("ssh", "-o", "ControlPath="+r.socket(), "-O", "exit", r.target).Run() //nolint:gosec // it ends by itself, too
	}
	_ = os.RemoveAll(r.control) // what stays is in a directory for such things
}

func (r *remote) socket() string { return filepath.Join(r.control, "%C") }

// said is what a script found out.
type said map[string]string

// run runs a script there, with vars set, and gives what it said. The error is
// the last line that it wrote to standard error.
func (r *remote) run(ctx context.Context, stdin io.Reader, vars map[string]string, script string) (said, error) {
	args := []string{"-T", "-o", "ConnectTimeout=20"}
	if r.control != "" {
		args = append(args, "-o", "ControlMaster=auto", "-o", "ControlPath="+r.socket(), "-o", "ControlPersist="+remotePersist)
	}
	cmd := exec.CommandContext(ctx, "ssh", append(args, r.target, "exec sh -c "+job.Quote(withVars(vars, script)))...) //nolint:gosec // what the user asked for
	cmd.Stdin = stdin
	cmd.WaitDelay = 500 * time.Millisecond
	// A file: the process that keeps the shared connection holds standard error
	// open, and a pipe would be waited for.
	errs, err := os.CreateTemp("", "banyan-ssh-")
	if err != nil {
		return nil, err
	}
	defer func() { errs.Close(); os.Remove(errs.Name()) }()
	out := &bounded{max: remoteOutputMax}
	cmd.Stdout, cmd.Stderr = out, errs
	err = cmd.Run()
	found := said{}
	for line := range strings.Lines(out.String()) {
		if line, ours := strings.CutPrefix(strings.TrimRight(line, "\r\n"), remoteMark); ours {
			name, value, _ := strings.Cut(line, "=")
			found[name] = value
		}
	}
	if err == nil {
		return found, nil
	}
	return found, r.failed(ctx, err, errs)
}

func (r *remote) failed(ctx context.Context, err error, errs io.ReadSeeker) error {
	var e *exec.ExitError
	switch {
	case ctx.Err() != nil:
		return ctx.Err()
	case errors.Is(err, exec.ErrNotFound):
		return banyan.Errorf(banyan.NotFound, "there is no ssh here: install OpenSSH's client")
	case !errors.As(err, &e):
		return fmt.Errorf("running ssh: %w", err)
	}
	text := ""
	if _, err := errs.Seek(0, io.SeekStart); err == nil {
		b, _ := io.ReadAll(io.LimitReader(errs, remoteOutputMax)) // what cannot be read is not shown
		lines := strings.Split(strings.TrimSpace(string(b)), "\n")
		text = strings.TrimPrefix(oneLine(lines[len(lines)-1]), "banyan: ")
	}
	if e.ExitCode() == sshFailed {
		return banyan.Errorf(banyan.Unavailable, "cannot be reached: %s: try 'ssh %s'", text, r.target)
	}
	if text == "" {
		text = err.Error()
	}
	return banyan.Errorf(banyan.Unavailable, "%s", text)
}

// withVars sets variables before a script, sorted by use: they do not refer to each other.
func withVars(vars map[string]string, script string) string {
	var b strings.Builder
	for name, value := range vars {
		b.WriteString(name + "=" + job.Quote(value) + "\n")
	}
	return b.String() + remotePrelude + script
}

// bounded keeps the first max bytes of what is written.
type bounded struct {
	bytes.Buffer
	max int
}

func (b *bounded) Write(p []byte) (int, error) {
	b.Buffer.Write(p[:min(len(p), max(0, b.max-b.Len()))])
	return len(p), nil
}

// The scripts. base is the directory of what 'add' copies, dir the node's.
const (
	remotePrelude = `
say() { printf 'banyan:%s=%s\n' "$1" "$2"; }
die() { echo "$1" >&2; exit 1; }
alive() { kill -0 "$1" 2>/dev/null && case $(ps -o stat= -p "$1" 2>/dev/null) in Z*) false;; esac; }
nap() { sleep 0.2 2>/dev/null || sleep 1; }
XDG_RUNTIME_DIR=${XDG_RUNTIME_DIR:-/run/user/$(id -u)}; export XDG_RUNTIME_DIR
if [ "$(id -u)" = 0 ]; then user=; else user=--user; fi
`
	// remoteProbe looks at the machine and changes nothing.
	remoteProbe = `
os=$(uname -s)
say os "$os"; say arch "$(uname -m)"; say uid "$(id -u)"
if [ -z "$base" ]; then if [ -z "$user" ]; then base=/opt/banyan; else base=$HOME/.local/lib/banyan; fi; fi
if [ -z "$dir" ]; then
  if [ -z "$user" ]; then dir=/var/lib/banyan
  elif [ "$os" = Darwin ]; then dir="$HOME/Library/Application Support/banyan/node"
  else dir=${XDG_STATE_HOME:-$HOME/.local/state}/banyan/node; fi
fi
case $base in /*) ;; *) base=$HOME/$base;; esac
case $dir in /*) ;; *) dir=$HOME/$dir;; esac
say base "$base"
if systemctl $user show-environment >/dev/null 2>&1; then if [ -n "$user" ]; then say manager user; else say manager system; fi; fi
if [ -r "$base/added" ]; then
  while IFS= read -r line; do say "had.${line%%=*}" "${line#*=}"; done <"$base/added"
  if ! grep -q '^node=' "$base/added" && [ -e "$dir" ] && [ -n "$(ls -A "$dir")" ]; then say taken "$dir"; fi
elif [ -e "$base" ] && [ -n "$(ls -A "$base")" ]; then say taken "$base"
elif [ -e "$dir" ] && [ -n "$(ls -A "$dir")" ]; then say taken "$dir"
fi
say dir "$dir"
`
	// remoteCopy takes the binary from standard input.
	remoteCopy = `
umask 022
mkdir -p "$base" || exit 1
[ -e "$base/added" ] || printf 'cluster=%s\n' "$cluster" >"$base/added" || exit 1
cat >"$base/banyan.new" || exit 1
[ "$(wc -c <"$base/banyan.new" | tr -d ' ')" = "$size" ] || die "the copy is not complete: is there room under $base?"
chmod 755 "$base/banyan.new"
version=$("$base/banyan.new" version -o json) || die "the copy does not run there"
say version "$version"
`
	// remoteJoin takes the token from standard input, so that no command line has
	// it. A join that is cut off here goes on there: join.pid is for who undoes it.
	remoteJoin = `
cd "$base" || exit 1
mv -f banyan.new banyan || exit 1
set -- join "$at" --token - --no-start --dir "$dir" --listen "$listen"
[ -z "$zone" ] || set -- "$@" --zone "$zone"
[ -z "$slots" ] || set -- "$@" --slots "$slots"
echo $$ >join.pid
out=$(./banyan "$@") || { rm -f join.pid; exit 1; }
rm -f join.pid
say joined "$out"
`
	remoteRecord = `
umask 077
printf '%s\n' "$record" >"$base/added.new" && mv -f "$base/added.new" "$base/added"
`
	remoteStart = `
if [ "$manager" = none ]; then
  rm -f "$base/pid"
  if command -v setsid >/dev/null; then set -- setsid; else set --; fi
  nohup "$@" "$base/banyan" up --dir "$dir" >"$base/log" 2>&1 </dev/null &
  pid=$!
  echo $pid >"$base/pid"
  n=0
  until grep -q ' is up at ' "$base/log"; do
    alive $pid || die "the node ended: $(tail -n 1 "$base/log")"
    n=$((n+1)); [ $n -lt 300 ] || die "the node is not up after a minute: see $base/log there"
    nap
  done
else
  "$base/banyan" service install --dir "$dir" --unit "$unit" 2>"$base/log" || die "$(tail -n 1 "$base/log")"
  if [ "$manager" = user ] && [ "$(loginctl show-user "$(id -un)" -p Linger --value 2>/dev/null)" != yes ]; then
    if loginctl enable-linger >/dev/null 2>&1; then say linger enabled; else say linger refused; fi
  fi
fi
`
	// remoteStop ends the node, and waits until it has ended.
	remoteStop = `
if [ "$manager" != none ]; then
  systemctl $user stop "$unit.service" || exit 1
elif [ -r "$base/pid" ]; then
  pid=$(cat "$base/pid")
  kill "$pid" 2>/dev/null
  n=0
  while alive "$pid"; do n=$((n+1)); [ $n -lt 300 ] || die "process $pid does not end"; nap; done
fi
`
	// remoteWho waits for a join that may be under way, and says which node is there.
	remoteWho = `
n=0
while [ -r "$base/join.pid" ] && alive "$(cat "$base/join.pid")" && [ $n -lt 300 ]; do n=$((n+1)); nap; done
[ -r "$dir/node.json" ] && say node "$(sed -n 's/^ *"node": *"\{0,1\}\([n0-9]*\).*/\1/p' "$dir/node.json")"
true
`
	// remoteDelete removes the service and what was copied, and the node's directory.
	remoteDelete = `
if [ "$manager" != none ]; then "$base/banyan" service remove --unit "$unit" >/dev/null 2>&1
elif [ -r "$base/pid" ]; then
  pid=$(cat "$base/pid")
  kill "$pid" 2>/dev/null
  n=0
  while alive "$pid" && [ $n -lt 150 ]; do n=$((n+1)); nap; done
  kill -9 "$pid" 2>/dev/null
fi
[ -z "$linger" ] || loginctl disable-linger >/dev/null 2>&1
rm -rf "$dir" 2>/dev/null
[ ! -e "$dir" ] || say left "$dir"
cd "$base" && rm -f banyan banyan.new banyan.before added added.new swapped log pid join.pid && cd / && { rmdir "$base" 2>/dev/null || say left "$base"; }
`
)

package cli

import (
	"context"
	"errors"
	"fmt"
	"os"
	"os/user"
	"strconv"
	"time"

	"github.com/spf13/cobra"

	"banyan"
	"banyan/client"
)

// The exit codes of lock and elect that are not the command's own: timeout(1)'s.
const (
	exitNotTaken  = 124
	exitLockError = 125
	exitCannotRun = 126
	exitNoCommand = 127
)

// toldMin is how long a command is told that its lock is lost before it is
// killed, though another may have the lock already.
const toldMin = time.Second

// lockFlags say how a lock is taken.
type lockFlags struct {
	shared  bool
	permits int
	ttl     time.Duration
	timeout time.Duration
	bounded bool // a timeout was given
	value   string
}

func (a *app) lockCommand() *cobra.Command {
	var f lockFlags
	cmd := &cobra.Command{
		Use:   "lock NAME [flags] -- COMMAND [ARG …]",
		Short: "Run a command while holding a lock of the cluster",
		Long: `Wait for the lock, run COMMAND, release the lock, exit as COMMAND did: flock for
a cluster. Those who wait get it in order. A lock whose holder is gone is free
after --ttl.

COMMAND finds the fencing token in BANYAN_LOCK_TOKEN (and the lock's name in
BANYAN_LOCK, its permit in BANYAN_LOCK_PERMIT). Each later holder's token is
greater: what the lock protects should refuse a smaller one than it has seen.
Keys of the lock's partition, the part of NAME before its first '/', can be
protected by a condition:

  banyan kv txn --if "shop/stock held $BANYAN_LOCK_TOKEN" --do 'put shop/n 7'

When the lock is lost, because the cluster cannot be reached or somebody took it
away, COMMAND and what it started get SIGTERM, and SIGKILL before another can
have the lock. (On a terminal only COMMAND itself does; and a process that was
stopped, or a machine that slept, is too late: hence the token.)

Exits with 124 if the lock was not to be had in time, 125 if it was lost or
after another error, 126 or 127 if COMMAND cannot be run or found.`,
		Example:           "  banyan lock nightly --timeout 0s -- ./backup\n  banyan lock shop/stock -- sh -c 'echo token $BANYAN_LOCK_TOKEN'\n  banyan lock gpu --permits 4 -- ./train",
		Args:              lockArgs,
		ValidArgsFunction: inTurn(cobra.ShellCompDirectiveDefault, a.locks()),
		RunE: func(cmd *cobra.Command, args []string) error {
			f.bounded = cmd.Flags().Changed("timeout")
			if f.timeout < 0 {
				return usage("bad --timeout %v: give 0s to not wait, or a time such as 30s", f.timeout)
			}
			if f.ttl <= 0 {
				return f.badTTL()
			}
			if f.permits < 1 {
				return usage("--permits %d: give at least 1", f.permits)
			}
			return a.lock(cmd.Context(), args[0], args[1:], f)
		},
	}
	cmd.Flags().SortFlags = false
	cmd.Flags().DurationVar(&f.timeout, "timeout", 0, "give up after this `TIME`; 0s: do not wait (default: wait for ever)")
	cmd.Flags().BoolVar(&f.shared, "shared", false, "share the lock with others who do; not with --permits")
	cmd.Flags().IntVar(&f.permits, "permits", 1, "let `N` hold it at once; all must give the same number")
	cmd.Flags().DurationVar(&f.ttl, "ttl", client.LockTTL, "free the lock when its holder was not heard of for this `TIME`")
	return cmd
}

func (a *app) electCommand() *cobra.Command {
	var f lockFlags
	cmd := &cobra.Command{
		Use:   "elect NAME [flags] -- COMMAND [ARG …]",
		Short: "Run a command on one of many candidates at a time",
		Long: `Stand for election; while this candidate is the leader, run COMMAND. When
COMMAND ends, so does the candidacy, and another candidate leads. When
leadership is lost COMMAND is stopped as 'banyan lock' does, and this candidate
stands again.

COMMAND finds its fencing token in BANYAN_LOCK_TOKEN. 'banyan locks NAME' shows
who leads and who stands by. The exit codes are those of 'banyan lock'.`,
		Example:           "  banyan elect scheduler --value \"$(hostname):8080\" -- ./scheduler",
		Args:              lockArgs,
		ValidArgsFunction: inTurn(cobra.ShellCompDirectiveDefault, a.locks()),
		RunE: func(cmd *cobra.Command, args []string) error {
			if f.ttl <= 0 {
				return f.badTTL()
			}
			return a.elect(cmd.Context(), args[0], args[1:], f)
		},
	}
	cmd.Flags().SortFlags = false
	cmd.Flags().StringVar(&f.value, "value", "", "a `TEXT` that others see of the leader, such as its address")
	cmd.Flags().DurationVar(&f.ttl, "ttl", client.LockTTL, "elect another when the leader was not heard of for this `TIME`")
	return cmd
}

func (f lockFlags) badTTL() error { return usage("bad --ttl %v: give a time such as 10s", f.ttl) }

func lockArgs(cmd *cobra.Command, args []string) error {
	if len(args) < 2 || cmd.ArgsLenAtDash() != 1 {
		return usage("%s: give NAME -- COMMAND, as in 'banyan %s nightly -- ./backup'", cmd.CommandPath(), cmd.Name())
	}
	return nil
}

func (a *app) lock(ctx context.Context, name string, command []string, f lockFlags) error {
	return a.holding(ctx, func(ctx context.Context, s *session, sig *interrupts) error {
		lock, err := a.take(ctx, s, sig, name, f)
		if err != nil {
			return err
		}
		code, err := a.hold(ctx, lock, name, command, sig)
		if lost := a.released(ctx, lock); err == nil && lost != nil {
			return &exit{code: exitLockError, err: fmt.Errorf("lock %s: %w", name, lost)}
		}
		return exitAs(code, err)
	})
}

func (a *app) elect(ctx context.Context, name string, command []string, f lockFlags) error {
	return a.holding(ctx, func(ctx context.Context, s *session, sig *interrupts) error {
		for {
			lock, err := a.take(ctx, s, sig, name, f)
			if err != nil {
				return err
			}
			code, err := a.hold(ctx, lock, name, command, sig)
			lost := a.released(ctx, lock)
			if err != nil || lost == nil || a.signaled.Load() {
				return exitAs(code, err)
			}
			fmt.Fprintf(a.Err, "banyan: election %s: %v; standing again\n", name, lost)
		}
	})
}

// holding opens the cluster for a command that runs another. Errors of its own
// get exit codes that the other command's do not hide.
func (a *app) holding(ctx context.Context, fn func(context.Context, *session, *interrupts) error) error {
	sig := a.listen()
	defer sig.stop()
	s, err := a.opens(ctx, need{})
	if err == nil {
		if s.local {
			err = usage("--local: a node inside this command has nobody to hold a lock against: 'banyan up' starts a cluster")
		} else {
			err = fn(ctx, s, sig)
		}
		err = errors.Join(err, s.close())
	}
	var e *exit
	switch {
	case err == nil || errors.As(err, &e):
		return err
	case banyan.IsKind(err, banyan.Timeout), banyan.IsKind(err, banyan.Conflict):
		return &exit{code: exitNotTaken, err: err}
	case a.signaled.Load() && banyan.IsKind(err, banyan.Canceled):
		return &exit{code: exitInterrupted}
	}
	return &exit{code: exitLockError, err: err}
}

// take waits for the lock.
func (a *app) take(ctx context.Context, s *session, sig *interrupts, name string, f lockFlags) (*client.Lock, error) {
	ctx, cancel := sig.untilFirst(ctx)
	defer cancel()
	o := client.LockOptions{
		Shared: f.shared, Permits: f.permits, TTL: f.ttl, Grace: f.ttl / 5, Owner: a.owner(), Value: []byte(f.value),
		Try: f.bounded && f.timeout <= 0,
	}
	if isTerminal(a.Err) {
		o.Waiting = func(holder string, ahead int) {
			fmt.Fprintf(a.Err, "banyan: %s: waiting, %s holds it, %d wait in front\n", name, holder, ahead)
		}
	}
	if f.bounded && !o.Try {
		var stop context.CancelFunc
		ctx, stop = context.WithTimeout(ctx, f.timeout)
		defer stop()
	}
	return s.Locks().Acquire(ctx, name, o)
}

// owner says who takes a lock: "ann@host pid 123".
func (a *app) owner() string {
	who, host := "somebody", "unknown"
	if u, err := user.Current(); err == nil {
		who = u.Username
	}
	if h, err := os.Hostname(); err == nil {
		host = h
	}
	return fmt.Sprintf("%s@%s pid %d", who, host, os.Getpid())
}

// hold runs the command and gives its exit code. Signals are passed on to it;
// when the lock is lost it is told, then killed.
func (a *app) hold(ctx context.Context, lock *client.Lock, name string, command []string, sig *interrupts) (int, error) {
	env := append(os.Environ(),
		"BANYAN_LOCK="+name,
		"BANYAN_LOCK_TOKEN="+strconv.FormatUint(uint64(lock.Token()), 10),
		"BANYAN_LOCK_PERMIT="+strconv.Itoa(lock.Permit()),
	)
	c, err := startChild(command, env, a.IO)
	if err != nil {
		return 0, err
	}
	lost := lock.Lost()
	var kill <-chan time.Time
	for {
		select {
		case code := <-c.ended:
			return code, nil
		case s := <-sig.c:
			a.signaled.Store(true)
			c.signal(s)
		case <-lost:
			lost = nil
			c.terminate()
			kill = time.After(max(time.Until(lock.Deadline()), toldMin))
		case <-kill:
			c.kill()
		case <-ctx.Done():
			c.kill()
			return <-c.ended, ctx.Err()
		}
	}
}

// releaseMax is how long the end of a command waits for the lock to be released.
const releaseMax = 5 * time.Second

// released releases the lock, and gives the reason if it was lost before.
func (a *app) released(ctx context.Context, lock *client.Lock) (lost error) {
	lost = lock.Err()
	ctx, cancel := context.WithTimeout(context.WithoutCancel(ctx), releaseMax)
	defer cancel()
	if err := lock.Release(ctx); err != nil && lost == nil {
		fmt.Fprintf(a.Err, "banyan: the lock was not released, it is free when its time is over: %s\n", oneLine(err.Error()))
	}
	return lost
}

func exitAs(code int, err error) error {
	if err == nil && code != 0 {
		return &exit{code: code}
	}
	return err
}

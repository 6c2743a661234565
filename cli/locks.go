package cli

import (
	"context"
	"fmt"

	"github.com/spf13/cobra"

	"banyan"
	banyanv1 "banyan/api/banyan/v1"
)

// lockJSON is a lock as -o json prints it.
type lockJSON struct {
	Name     string      `json:"name"`
	Shard    uint32      `json:"shard"`
	Permits  uint32      `json:"permits"` // 1: a lock, more: a semaphore
	Holding  uint32      `json:"holding"` // how many hold it; holders may be the first of them
	Waiting  uint32      `json:"waiting"`
	Holders  []claimJSON `json:"holders"`
	Waiters  []claimJSON `json:"waiters"` // in order
	Revision uint64      `json:"revision"`
}

// claimJSON is one who holds a lock or waits for it.
type claimJSON struct {
	Owner   string `json:"owner"`
	Token   uint64 `json:"token,omitempty"` // of a holder
	Permit  uint32 `json:"permit"`
	Shared  bool   `json:"shared"`
	SinceMs int64  `json:"since_ms"` // asked for the lock
	TTLMs   int64  `json:"ttl_ms"`
	Lease   string `json:"lease"`
	Value   string `json:"value,omitempty"`
	Base64  string `json:"value_base64,omitempty"` // the same, when it is not UTF-8
}

func newLockJSON(l *banyanv1.LockState) lockJSON {
	j := lockJSON{
		Name: l.Name, Shard: l.Shard, Holding: l.Holding, Waiting: l.Waiting, Revision: l.Revision,
		Holders: []claimJSON{}, Waiters: []claimJSON{},
	}
	for _, c := range l.Holders {
		j.Permits = c.Permits
		j.Holders = append(j.Holders, newClaimJSON(c))
	}
	for _, c := range l.Waiters {
		j.Permits = c.Permits
		j.Waiters = append(j.Waiters, newClaimJSON(c))
	}
	return j
}

func newClaimJSON(c *banyanv1.Claim) claimJSON {
	j := claimJSON{
		Owner: c.Owner, Token: c.Token, Permit: c.Permit, Shared: c.Shared, SinceMs: c.SinceMs, TTLMs: c.TtlMs, Lease: fmt.Sprintf("%x", c.Lease),
		Value: string(c.Value), Base64: base64Of(string(c.Value)),
	}
	return j
}

func (a *app) locksCommand() *cobra.Command {
	var f format
	cmd := &cobra.Command{
		Use:               "locks [PREFIX]",
		Short:             "List locks: who holds them, who waits",
		Args:              atMost(0, "PREFIX"),
		ValidArgsFunction: arguments(a.locks()),
		RunE: func(cmd *cobra.Command, args []string) error {
			if err := f.check(); err != nil {
				return err
			}
			prefix := ""
			if len(args) > 0 {
				prefix = args[0]
			}
			return a.with(cmd.Context(), need{}, func(ctx context.Context, s *session) error {
				return a.printLocks(ctx, s, f, prefix)
			})
		},
	}
	f.add(cmd.Flags())
	return cmd
}

func (a *app) printLocks(ctx context.Context, s *session, f format, prefix string) error {
	t := newTable("LOCK", "STATE", "OWNER", "TOKEN", "ASKED", "VALUE").numbers(3)
	add := func(state string, c *banyanv1.Claim) {
		if c.Shared {
			state += ", shared"
		}
		token := "-"
		if c.Token != 0 {
			token = fmt.Sprint(c.Token)
		}
		t.add(c.Name, state, dash(c.Owner), token, when(c.SinceMs, a.now()), dash(printable(c.Value)))
	}
	for l, err := range s.Locks().List(ctx, prefix) {
		if err != nil {
			return err
		}
		if f.json() {
			if err := writeJSON(a.Out, newLockJSON(l)); err != nil {
				return err
			}
			continue
		}
		for _, c := range l.Holders {
			state := "held"
			if c.Permits > 1 {
				state = fmt.Sprintf("permit %d of %d", c.Permit, c.Permits)
			}
			add(state, c)
		}
		for _, c := range l.Waiters {
			add(fmt.Sprintf("waits, %d in front", c.Ahead), c)
		}
	}
	if f.json() {
		return nil
	}
	return t.print(a.Out)
}

func (a *app) unlockCommand() *cobra.Command {
	var token uint64
	cmd := &cobra.Command{
		Use:   "unlock NAME",
		Short: "Take a lock away from who holds it",
		Long: `Take a lock away from who holds it, for one that is stuck: a holder that is gone
loses it by itself. The holder is told within a quarter of its TTL and stopped;
the next in the queue has the lock at once, so the two may overlap: where tokens
are checked, that of the former holder is refused from now on.`,
		Args:              exactly("NAME"),
		ValidArgsFunction: arguments(a.locks()),
		RunE: func(cmd *cobra.Command, args []string) error {
			return a.with(cmd.Context(), need{}, func(ctx context.Context, s *session) error {
				return a.unlock(ctx, s, args[0], token)
			})
		},
	}
	cmd.Flags().Uint64Var(&token, "token", 0, "only from the holder with this `TOKEN`, as 'banyan locks' lists it")
	return cmd
}

func (a *app) unlock(ctx context.Context, s *session, name string, token uint64) error {
	n := 0
	for l, err := range s.Locks().List(ctx, name) {
		if err != nil {
			return err
		}
		if l.Name != name {
			break // it sorts first
		}
		for _, c := range l.Holders {
			if token != 0 && c.Token != token {
				continue
			}
			done, err := s.Locks().Break(ctx, c)
			if err != nil {
				return err
			}
			if done {
				n++
				fmt.Fprintf(a.Out, "taken from %s, token %d\n", inLine(dash(c.Owner)), c.Token)
			}
		}
	}
	if n == 0 {
		with := ""
		if token != 0 {
			with = fmt.Sprintf(" with token %d", token)
		}
		return banyan.Errorf(banyan.NotFound, "nobody holds lock %q%s: 'banyan locks' lists who holds what", name, with)
	}
	return nil
}

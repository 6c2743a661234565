package cli

import (
	"context"
	"fmt"
	"net"
	"time"

	"github.com/spf13/cobra"

	"banyan"
	banyanv1 "banyan/api/banyan/v1"
)

// tokenJSON is what 'token -o json' prints.
type tokenJSON struct {
	Token    string `json:"token"`
	ExpireMs int64  `json:"expire_ms"`
	Uses     int    `json:"uses"`
	Address  string `json:"address"`
}

func (a *app) tokenCommand() *cobra.Command {
	var f format
	var ttl time.Duration
	var uses int
	cmd := &cobra.Command{
		Use:   "token",
		Short: "Make a token that lets other machines join",
		Long: `Make a token that lets other machines join the cluster. It is printed once and
kept nowhere; it holds the fingerprint of the cluster, so that the joining
machine knows whom it talks to. On a terminal the whole command for the other
machine is shown, elsewhere the token alone.`,
		Args: exactly(),
		RunE: func(cmd *cobra.Command, _ []string) error {
			if err := f.check(); err != nil {
				return err
			}
			if ttl < time.Second {
				return usage("bad --ttl %v: give a second or more", ttl)
			}
			if uses < 1 || uses > banyan.TokenUsesMax {
				return usage("bad --uses %d: give 1 to %d", uses, banyan.TokenUsesMax)
			}
			return a.with(cmd.Context(), need{}, func(ctx context.Context, s *session) error {
				r, err := s.Cluster().CreateToken(ctx, ttl, uses)
				if err != nil {
					return err
				}
				if f.json() {
					return writeJSON(a.Out, tokenJSON{r.Token, r.ExpireMs, uses, r.Address})
				}
				if !isTerminal(a.Out) {
					_, err = fmt.Fprintln(a.Out, r.Token)
					return err
				}
				return a.showToken(r, uses)
			})
		},
	}
	cmd.Flags().DurationVar(&ttl, "ttl", time.Hour, "how long it may be used, such as 10m or 24h (`TIME`)")
	cmd.Flags().IntVar(&uses, "uses", 1, "let in `N` machines with it")
	f.add(cmd.Flags())
	return cmd
}

// showToken shows what to type on the other machine.
func (a *app) showToken(r *banyanv1.CreateTokenResponse, uses int) error {
	machines := "On the other machine"
	if uses > 1 {
		machines = fmt.Sprintf("On each of up to %d other machines", uses)
	}
	fmt.Fprintf(a.Err, "%s, until %s:\n\n", machines, time.UnixMilli(r.ExpireMs).Format("2006-01-02 15:04"))
	join := "  banyan join " + r.Address + " --token " + r.Token
	host, port, err := net.SplitHostPort(r.Address)
	if ip := net.ParseIP(host); err == nil && ip.IsLoopback() {
		fmt.Fprintf(a.Err, "(%s is reached from this machine only: to let in others, start this node with\n--listen 0.0.0.0:%s before you make a token.)\n\n", host, port)
	} else {
		join += " --listen 0.0.0.0:7117"
	}
	_, err = fmt.Fprintln(a.Out, join)
	return err
}

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
	ID       string `json:"id"` // for 'token revoke'
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
machine is shown, elsewhere the token alone. 'banyan token list' shows which
tokens are valid, 'banyan token revoke' ends one.`,
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
					return writeJSON(a.Out, tokenJSON{r.Token, r.Id, r.ExpireMs, uses, r.Address})
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
	cmd.AddCommand(a.tokenListCommand(), a.tokenRevokeCommand())
	return cmd
}

// validTokenJSON is a token as 'token list -o json' prints it.
type validTokenJSON struct {
	ID       string `json:"id"`
	CreateMs int64  `json:"create_ms"`
	ExpireMs int64  `json:"expire_ms"`
	Uses     uint32 `json:"uses"` // left
	MadeBy   string `json:"made_by"`
}

func newValidTokenJSON(t *banyanv1.Token) validTokenJSON {
	return validTokenJSON{t.Id, t.CreateMs, t.ExpireMs, t.Uses, t.MadeBy}
}

func (a *app) tokenListCommand() *cobra.Command {
	var f format
	cmd := &cobra.Command{
		Use:   "list",
		Short: "List the tokens that machines can still join with",
		Args:  exactly(),
		RunE: func(cmd *cobra.Command, _ []string) error {
			if err := f.check(); err != nil {
				return err
			}
			return a.with(cmd.Context(), need{}, func(ctx context.Context, s *session) error {
				tokens, err := s.Cluster().Tokens(ctx)
				if err != nil {
					return err
				}
				t := newTable("ID", "EXPIRES", "USES LEFT", "MADE", "BY").numbers(2)
				for _, token := range tokens {
					if f.json() {
						if err := writeJSON(a.Out, newValidTokenJSON(token)); err != nil {
							return err
						}
						continue
					}
					t.add(token.Id, minute(token.ExpireMs), fmt.Sprint(token.Uses), minute(token.CreateMs), dash(token.MadeBy))
				}
				if f.json() {
					return nil
				}
				return t.print(a.Out)
			})
		},
	}
	f.add(cmd.Flags())
	return cmd
}

func minute(ms int64) string { return time.UnixMilli(ms).Format("2006-01-02 15:04") }

func (a *app) tokenRevokeCommand() *cobra.Command {
	var f format
	cmd := &cobra.Command{
		Use:   "revoke ID",
		Short: "End a token before its time",
		Long: `End a token before its time: nobody can join with it any more. ID is what
'banyan token list' shows, or the beginning of it. Nodes that joined with it
stay; 'banyan node remove' sends one away.`,
		Args: exactly("ID"),
		RunE: func(cmd *cobra.Command, args []string) error {
			if err := f.check(); err != nil {
				return err
			}
			return a.with(cmd.Context(), need{}, func(ctx context.Context, s *session) error {
				token, err := s.Cluster().RevokeToken(ctx, args[0])
				if err != nil {
					return err
				}
				if f.json() {
					return writeJSON(a.Out, newValidTokenJSON(token))
				}
				_, err = fmt.Fprintf(a.Out, "token %s is revoked; %s of it were left\n", token.Id, count(token.Uses, "use"))
				return err
			})
		},
	}
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

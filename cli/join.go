package cli

import (
	"fmt"
	"io"
	"os"
	"strings"

	"github.com/spf13/cobra"

	"banyan"
	"banyan/node/server"
)

func (a *app) joinCommand() *cobra.Command {
	f := &nodeFlags{}
	var token string
	var noStart bool
	cmd := &cobra.Command{
		Use:   "join HOST:PORT --token TOKEN",
		Short: "Let this machine join a cluster, and start its node",
		Long: `Let this machine join the cluster that answers at HOST:PORT, and start its node.
The token comes from 'banyan token' on a member. Where others see command
lines ('ps'), give --token @FILE, or --token - to read it from the standard
input, or put it into BANYAN_TOKEN, which is taken out of the environment before
the node starts. Later 'banyan up' with the same --dir starts the node again.`,
		Args: exactly("HOST:PORT"),
		RunE: func(cmd *cobra.Command, args []string) error {
			token, err := a.joinToken(token)
			if err != nil {
				return err
			}
			c, err := a.nodeConfig(f)
			if err != nil {
				return err
			}
			ctx, stop := a.interruptible(cmd.Context())
			defer stop()
			if err := server.Join(ctx, c, args[0], token); err != nil {
				return err
			}
			if noStart {
				return a.tellJoined(c)
			}
			return a.serve(ctx, c)
		},
	}
	f.add(cmd.Flags())
	cmd.Flags().BoolVar(&noStart, "no-start", false, "join only: 'banyan up' or 'banyan service install' with the same --dir starts the node")
	cmd.Flags().StringVar(&token, "token", "", "the `TOKEN` that lets this machine in; @FILE: read it from there, -: from the standard input")
	return cmd
}

func (a *app) tellJoined(c server.Config) error {
	node, cluster, address, err := server.Holds(c)
	if err == nil {
		_, err = fmt.Fprintf(a.Out, "node %v of cluster %s has joined, at %s; it is not started\n", node, cluster, address)
	}
	return err
}

// tokenBytesMax is more than any token has, with the lines around it.
const tokenBytesMax = 4 << 10

// joinToken reads the token from where --token says it is. No task of the node
// is to find it in its environment.
func (a *app) joinToken(flag string) (string, error) {
	kept := a.Env("BANYAN_TOKEN")
	if err := os.Unsetenv("BANYAN_TOKEN"); err != nil {
		return "", err
	}
	var from io.Reader
	switch path, file := strings.CutPrefix(flag, "@"); {
	case flag == "" && kept == "":
		return "", usage("--token is missing: 'banyan token' on a member of the cluster makes one")
	case flag == "":
		return kept, nil
	case flag == "-":
		from = a.In
	case file:
		f, err := os.Open(path)
		if err != nil {
			return "", banyan.Errorf(banyan.NotFound, "the file with the token cannot be read: %w", err)
		}
		defer f.Close()
		from = f
	default:
		return flag, nil
	}
	text, err := io.ReadAll(io.LimitReader(from, tokenBytesMax))
	if err != nil {
		return "", banyan.Errorf(banyan.Unavailable, "reading the token: %w", err)
	}
	if token := strings.TrimSpace(string(text)); token != "" {
		return token, nil
	}
	return "", usage("there is no token in what --token %s names", flag)
}

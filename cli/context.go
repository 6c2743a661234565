package cli

import (
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strings"

	"github.com/spf13/cobra"

	"banyan"
	"banyan/node/pki"
)

// contextJSON is a context as -o json prints it.
type contextJSON struct {
	Name      string   `json:"name"`
	Current   bool     `json:"current"`
	Cluster   string   `json:"cluster"`
	Addresses []string `json:"addresses"`
}

func (a *app) contextCommand() *cobra.Command {
	cmd := &cobra.Command{
		Use:   "context",
		Short: "List and choose the clusters this user knows",
		Args:  exactly(),
		RunE:  func(cmd *cobra.Command, _ []string) error { return cmd.Help() },
	}
	var f format
	list := &cobra.Command{
		Use:   "list",
		Short: "List the clusters this user has a certificate for",
		Args:  exactly(),
		RunE: func(_ *cobra.Command, _ []string) error {
			if err := f.check(); err != nil {
				return err
			}
			return a.listContexts(f)
		},
	}
	f.add(list.Flags())
	use := &cobra.Command{
		Use:               "use NAME",
		Short:             "Use this cluster from now on",
		Args:              exactly("NAME"),
		ValidArgsFunction: arguments(a.contexts()),
		RunE: func(_ *cobra.Command, args []string) error {
			dir, err := a.configDir()
			if err != nil {
				return err
			}
			names, err := pki.ListContexts(dir)
			if err != nil {
				return err
			}
			if !slices.Contains(names, args[0]) {
				return banyan.Errorf(banyan.NotFound, "there is no context %q in %s: 'banyan context list' lists those there are", args[0], dir)
			}
			return pki.SetCurrentContext(dir, args[0])
		},
	}
	cmd.AddCommand(list, use, a.contextRenameCommand(), a.contextRemoveCommand(), a.contextExportCommand(), a.contextRenewCommand())
	return cmd
}

func (a *app) contextRenameCommand() *cobra.Command {
	return &cobra.Command{
		Use:               "rename NAME NEW",
		Short:             "Give a context another name",
		Long:              "Give a context another name. A node on this machine keeps it under that name.",
		Args:              exactly("NAME", "NEW"),
		ValidArgsFunction: inTurn(cobra.ShellCompDirectiveNoFileComp, a.contexts()),
		RunE: func(_ *cobra.Command, args []string) error {
			dir, err := a.configDir()
			if err != nil {
				return err
			}
			return pki.RenameContext(dir, args[0], args[1])
		},
	}
}

func (a *app) contextRemoveCommand() *cobra.Command {
	return &cobra.Command{
		Use:   "remove NAME",
		Short: "Forget a cluster, and this user's certificate for it",
		Long: `Forget a cluster. This user's certificate and key for it are deleted; the
cluster is not told and is none the worse. If it was the current one, there is
none until 'banyan context use' chooses one, and 'run' uses a node inside the
command. 'banyan up' on a node's directory makes its cluster's context anew.`,
		Args:              exactly("NAME"),
		ValidArgsFunction: arguments(a.contexts()),
		RunE: func(_ *cobra.Command, args []string) error {
			dir, err := a.configDir()
			if err != nil {
				return err
			}
			names, err := pki.ListContexts(dir)
			if err != nil {
				return err
			}
			if !slices.Contains(names, args[0]) { // also one that cannot be read may go
				return banyan.Errorf(banyan.NotFound, "there is no context %q in %s: 'banyan context list' lists those there are", args[0], dir)
			}
			return pki.DeleteContext(dir, args[0])
		},
	}
}

func (a *app) contextExportCommand() *cobra.Command {
	return &cobra.Command{
		Use:   "export DIR",
		Short: "Write the certificates as PEM files, for curl, gRPC and browsers",
		Long: `Write ca.crt, client.crt and client.key into DIR, which is made (mode 0700) if
need be. Whoever has them can do what you can. Nodes answer to the name banyan:

  curl --cacert DIR/ca.crt --cert DIR/client.crt --key DIR/client.key \
    --connect-to banyan:443:HOST:PORT https://banyan/banyan.v1.Cluster/Status \
    -H 'Content-Type: application/json' -d '{}'`,
		Args:              exactly("DIR"),
		ValidArgsFunction: arguments(dirs),
		RunE:              func(_ *cobra.Command, args []string) error { return a.exportContext(args[0]) },
	}
}

// contextName is the context that a command uses: named, or the current one.
func (a *app) contextName(dir string) (string, error) {
	if a.target.context != "" {
		return a.target.context, nil
	}
	if name := a.Env("BANYAN_CONTEXT"); name != "" {
		return name, nil
	}
	name, err := pki.CurrentContext(dir)
	if err == nil && name == "" {
		err = banyan.Errorf(banyan.NotFound, "there is no context yet: 'banyan up' starts a cluster here and writes one")
	}
	return name, err
}

func (a *app) exportContext(to string) error {
	dir, err := a.configDir()
	if err != nil {
		return err
	}
	name, err := a.contextName(dir)
	if err != nil {
		return err
	}
	c, err := pki.LoadContext(dir, name)
	if err != nil {
		return err
	}
	if err := os.MkdirAll(to, 0o700); err != nil {
		return err
	}
	for file, text := range map[string]string{"ca.crt": c.CA, "client.crt": c.Cert, "client.key": c.Key} {
		if err := pki.WritePrivate(filepath.Join(to, file), []byte(text)); err != nil {
			return err
		}
	}
	_, err = fmt.Fprintf(a.Out, "ca.crt, client.crt and client.key of %s are in %s; addresses: %s\n", c.Name, to, strings.Join(c.Addresses, " "))
	return err
}

func (a *app) listContexts(f format) error {
	dir, err := a.configDir()
	if err != nil {
		return err
	}
	names, err := pki.ListContexts(dir)
	if err != nil {
		return err
	}
	current, err := pki.CurrentContext(dir)
	if err != nil {
		return err
	}
	t := newTable("", "NAME", "CLUSTER", "ADDRESSES")
	for _, name := range names {
		c, err := pki.LoadContext(dir, name)
		if err != nil { // the others are none the worse for it
			fmt.Fprintf(a.Err, "banyan: %v\n", err)
			continue
		}
		if f.json() {
			if err := writeJSON(a.Out, contextJSON{name, name == current, c.Cluster, c.Addresses}); err != nil {
				return err
			}
			continue
		}
		mark := ""
		if name == current {
			mark = "*"
		}
		t.add(mark, name, c.Cluster, fmt.Sprint(c.Addresses))
	}
	if f.json() {
		return nil
	}
	return t.print(a.Out)
}

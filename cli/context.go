package cli

import (
	"fmt"
	"slices"

	"github.com/spf13/cobra"

	"banyan"
	"banyan/pki"
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
		Use:   "use NAME",
		Short: "Use this cluster from now on",
		Args:  exactly("NAME"),
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
	cmd.AddCommand(list, use)
	return cmd
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
		if err != nil {
			return err
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

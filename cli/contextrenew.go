package cli

import (
	"context"
	"fmt"
	"time"

	"github.com/spf13/cobra"

	"banyan/node/pki"
)

// renewJSON is what 'context renew -o json' prints.
type renewJSON struct {
	Context  string `json:"context"`
	Cluster  string `json:"cluster"`
	ExpireMs int64  `json:"expire_ms"`
}

func (a *app) contextRenewCommand() *cobra.Command {
	var f format
	cmd := &cobra.Command{
		Use:   "renew",
		Short: "Have the cluster sign a new certificate for this user",
		Long: `Have a node sign a new certificate, for a new key, for the user of the context,
and keep it there. The one before stays valid until it expires. Certificates
that were exported stay as they are: export them again. A certificate that has
expired cannot be renewed.`,
		Args: exactly(),
		RunE: func(cmd *cobra.Command, _ []string) error {
			if err := f.check(); err != nil {
				return err
			}
			return a.with(cmd.Context(), need{}, func(ctx context.Context, s *session) error { return a.renewContext(ctx, s, f) })
		},
	}
	f.add(cmd.Flags())
	return cmd
}

func (a *app) renewContext(ctx context.Context, s *session, f format) error {
	if s.context == nil {
		return usage("a node inside the command has no certificate: choose a context with --context")
	}
	csr, key, err := pki.NewRequest()
	if err != nil {
		return err
	}
	m, err := s.Cluster().Renew(ctx, csr)
	if err != nil {
		return err
	}
	c, err := pki.NewContext(s.context.Name, s.context.Addresses, m.Ca, m.Certificate, key)
	if err != nil {
		return err
	}
	if err := pki.SaveContext(s.dir, c); err != nil {
		return err
	}
	end, err := c.Expires()
	switch {
	case err != nil:
	case f.json():
		err = writeJSON(a.Out, renewJSON{c.Name, c.Cluster, end.UnixMilli()})
	default:
		_, err = fmt.Fprintf(a.Out, "the certificate of context %s is valid until %s\n", c.Name, end.Format(time.DateOnly))
	}
	return err
}

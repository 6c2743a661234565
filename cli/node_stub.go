//go:build !banyan_server

package cli

import (
	"context"

	"github.com/spf13/cobra"
)

func (a *app) startLane(ctx context.Context, ln *lane, slots int, hint string) (*session, error) {
	panic("todo")
}
func (a *app) upCommand() *cobra.Command   { return &cobra.Command{Use: "up"} }
func (a *app) joinCommand() *cobra.Command { return &cobra.Command{Use: "join"} }

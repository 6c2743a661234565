package cli

import "github.com/spf13/cobra"

func (a *app) filmCommand() *cobra.Command { return &cobra.Command{Use: "film", Hidden: true} }
func (a *app) demoCommand() *cobra.Command { return &cobra.Command{Use: "demo"} }

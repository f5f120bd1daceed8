package main

import (
	"fmt"
	"os"

	"github.com/spf13/cobra"

	"github.com/omnirelay/leadership/adapters/config"
)

func newConfigCommand() *cobra.Command {
	cmd := &cobra.Command{
		Use: "config", Short: "Work with configuration files",
		// Without these cobra would answer a command it does not know with success.
		Args: cobra.NoArgs, RunE: func(cmd *cobra.Command, _ []string) error { return cmd.Help() },
	}
	cmd.AddCommand(&cobra.Command{
		Use:   "check FILE",
		Short: "Report every problem of a configuration, with its line and key",
		Args:  cobra.ExactArgs(1),
		RunE: func(cmd *cobra.Command, args []string) error {
			if _, err := config.Load(args[0], os.Environ()); err != nil {
				return err
			}
			fmt.Fprintf(cmd.OutOrStdout(), "%s: good\n", args[0])
			return nil
		},
	})
	return cmd
}

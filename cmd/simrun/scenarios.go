package main

import (
	"encoding/json"
	"fmt"

	"github.com/spf13/cobra"

	"github.com/omnirelay/leadership/sim"
)

func newScenariosCommand() *cobra.Command {
	var show string
	cmd := &cobra.Command{
		Use:   "scenarios",
		Short: "List the scenarios, or print one as a file to start from",
		Args:  cobra.NoArgs,
		RunE: func(cmd *cobra.Command, _ []string) error {
			if show == "" {
				for _, s := range sim.Scenarios() {
					fmt.Fprintf(cmd.OutOrStdout(), "%-17s %s\n", s.Name, s.About)
				}
				return nil
			}
			s, err := sim.ScenarioByName(show)
			if err != nil {
				return fmt.Errorf("--show: %w", err)
			}
			data, err := json.MarshalIndent(s, "", "  ")
			fmt.Fprintln(cmd.OutOrStdout(), string(data))
			return err
		},
	}
	cmd.Flags().StringVar(&show, "show", "", "print this scenario as JSON")
	return cmd
}

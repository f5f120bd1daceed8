package main

import (
	"encoding/json"
	"fmt"
	"strings"

	"github.com/spf13/cobra"

	"github.com/omnirelay/leadership/sim"
)

// logsOf names the logs that a scenario can be run over.
func logsOf(s *sim.Scenario) string {
	var logs []string
	for _, log := range []sim.Log{sim.LogRaft, sim.LogCAS} {
		if s.On(log) == nil {
			logs = append(logs, string(log))
		}
	}
	return strings.Join(logs, ",")
}

func newScenariosCommand() *cobra.Command {
	var show string
	cmd := &cobra.Command{
		Use:   "scenarios",
		Short: "List the scenarios, or print one as a file to start from",
		Args:  cobra.NoArgs,
		RunE: func(cmd *cobra.Command, _ []string) error {
			if show == "" {
				for _, s := range sim.Scenarios() {
					fmt.Fprintf(cmd.OutOrStdout(), "%-19s %-8s %s\n", s.Name, logsOf(&s), s.About)
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

package main

import (
	"fmt"
	"io"
	"slices"
	"strings"
	"time"

	"github.com/spf13/cobra"

	"github.com/omnirelay/leadership/core/plant"
	"github.com/omnirelay/leadership/sim"
)

func newSelftestCommand() *cobra.Command {
	var (
		list bool
		jobs int
	)
	cmd := &cobra.Command{
		Use:   "selftest",
		Short: "Plant every known bug and check that the named property catches it",
		Args:  cobra.NoArgs,
		RunE: func(cmd *cobra.Command, _ []string) error {
			if list {
				listTrials(cmd.OutOrStdout())
				return nil
			}
			return selftest(cmd.OutOrStdout(), jobs)
		},
	}
	cmd.Flags().BoolVar(&list, "list", false, "only list the plants, what must catch them and where")
	cmd.Flags().IntVar(&jobs, "jobs", defaultJobs(), "trials side by side")
	return cmd
}

func listTrials(w io.Writer) {
	for _, t := range sim.Trials() {
		names := make([]string, len(t.Properties))
		for i, p := range t.Properties {
			names[i] = string(p)
		}
		fmt.Fprintf(w, "%-30s %-31s %-4s %-20s within %d seeds\n", t.Plant, strings.Join(names, "|"), t.Log, t.Scenario, t.Seeds)
	}
	listMasked(w)
}

// listMasked names the plants that nothing catches.
func listMasked(w io.Writer) {
	masked := sim.Masked()
	for _, p := range plant.All() {
		if why, ok := masked[p]; ok {
			fmt.Fprintf(w, "%-30s NOT TRIED: %s\n", p, why)
		}
	}
}

func selftest(w io.Writer, jobs int) error {
	started := time.Now()
	failed := 0
	results := sim.Selftest(sim.Trials(), jobs, func(r sim.TrialResult) {
		fmt.Fprintln(w, r)
		if !r.Passed() {
			failed++
		}
	})
	listMasked(w)
	needed := make([]int, len(results))
	for i := range results {
		needed[i] = results[i].Needed
	}
	slices.Sort(needed)
	fmt.Fprintf(w, "plants=%d caught=%d median-seeds=%d wall=%v\n", len(results), len(results)-failed, needed[len(needed)/2], time.Since(started).Round(time.Millisecond))
	if failed > 0 {
		return ended(exitHarness, "%d planted bugs were not caught as they must be", failed)
	}
	return nil
}

package main

import (
	"fmt"
	"io"
	"strings"
	"time"

	"github.com/spf13/cobra"

	"github.com/omnirelay/leadership/sim"
)

func newSwarmCommand() *cobra.Command {
	var (
		world  worldFlags
		seeds  string
		budget time.Duration
		jobs   int
	)
	cmd := &cobra.Command{
		Use:   "swarm",
		Short: "Run many seeds side by side",
		Args:  cobra.NoArgs,
		RunE: func(cmd *cobra.Command, _ []string) error {
			o, bounds, err := world.options()
			if err != nil {
				return err
			}
			s := &sim.Swarm{Options: o, From: 1, Budget: budget, Jobs: jobs}
			switch {
			case (seeds == "") == (budget == 0):
				return fmt.Errorf("want either --seeds or --budget")
			case budget < 0 || jobs < 1:
				return fmt.Errorf("want a positive --budget and --jobs")
			case seeds != "":
				if s.From, s.To, err = parseSeeds(seeds); err != nil {
					return err
				}
			}
			return swarm(cmd.OutOrStdout(), s, bounds, world.report)
		},
	}
	world.register(cmd)
	cmd.Flags().StringVar(&seeds, "seeds", "", "seeds to run, A..B")
	cmd.Flags().DurationVar(&budget, "budget", 0, "run seeds from 1 on until this much wall time is spent")
	cmd.Flags().IntVar(&jobs, "jobs", defaultJobs(), "runs side by side")
	return cmd
}

func swarm(w io.Writer, s *sim.Swarm, bounds []bound, format string) error {
	var all []sim.Report
	s.Done = func(r sim.Report) {
		if format != "" {
			all = append(all, r)
		}
		if len(r.Violations) > 0 {
			fmt.Fprintln(w, lastLine(&r, s.Options.StopAt))
		}
	}
	total := s.Run()
	printStats(w, &total.Stats)
	code := exitPass
	for i := range total.Failed {
		code = worst(code, exitOf(&total.Failed[i]))
	}
	if len(total.Failed) > 0 {
		o := s.Options
		o.Seed = total.Failed[0].Seed
		fmt.Fprintln(w, sim.Explain(o))
	}
	code = worse(w, code, s, &total, bounds)
	if err := printReport(w, format, all); err != nil {
		return ended(exitHarness, "%v", err)
	}
	fmt.Fprintf(w, "seeds=%d..%d runs=%d failed=%d simulated=%v wall=%v speed=%.0f\n", s.From, s.From+uint64(total.Runs)-1, total.Runs,
		len(total.Failed), total.Simulated, total.Wall.Round(time.Millisecond), total.Simulated.Seconds()/total.Wall.Seconds())
	return ended(code, "")
}

// worse turns a pass into a failure when a bound is broken, or when the swarm did
// not reach what it is there to reach. Only the default scenario has every fault.
func worse(w io.Writer, code int, s *sim.Swarm, total *sim.Total, bounds []bound) int {
	broken := brokenBounds(bounds, &total.Stats)
	for _, b := range broken {
		fmt.Fprintln(w, b)
	}
	if code == exitPass && len(broken) > 0 {
		code = exitSLA
	}
	if s.Options.Scenario.Name != "default" {
		return code
	}
	if missing := total.Stats.Missing(s.Options.Log); len(missing) > 0 {
		fmt.Fprintln(w, "the swarm never met:", strings.Join(missing, ", "))
		if code == exitPass {
			code = exitUnknown
		}
	}
	return code
}

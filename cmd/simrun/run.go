package main

import (
	"encoding/json"
	"fmt"
	"io"
	"maps"
	"os"
	"path/filepath"
	"slices"
	"time"

	"github.com/spf13/cobra"

	"github.com/omnirelay/leadership/sim"
	"github.com/omnirelay/leadership/sim/check"
)

func newRunCommand() *cobra.Command {
	var (
		world worldFlags
		seed  uint64
		out   string
	)
	cmd := &cobra.Command{
		Use:   "run",
		Short: "Run one seed and say what broke",
		Args:  cobra.NoArgs,
		RunE: func(cmd *cobra.Command, _ []string) error {
			o, bounds, err := world.options()
			if err != nil {
				return err
			}
			o.Seed = seed
			return runOne(cmd.OutOrStdout(), o, bounds, world.report, out)
		},
	}
	world.register(cmd)
	cmd.Flags().Uint64Var(&seed, "seed", 1, "seed: the same one gives the same run")
	cmd.Flags().StringVar(&out, "out", "", "directory for the report and, after a failure, its explanation")
	return cmd
}

func runOne(w io.Writer, o sim.Options, bounds []bound, format, out string) error {
	r := sim.Run(o)
	printStats(w, &r.Stats)
	explanation := ""
	if len(r.Violations) > 0 {
		explanation = sim.Explain(o)
		fmt.Fprintln(w, explanation)
	}
	if out != "" {
		if err := writeOut(out, o, &r, explanation); err != nil {
			return ended(exitHarness, "%v", err)
		}
	}
	broken := brokenBounds(bounds, &r.Stats)
	for _, b := range broken {
		fmt.Fprintln(w, b)
	}
	if err := printReport(w, format, []sim.Report{r}); err != nil {
		return ended(exitHarness, "%v", err)
	}
	fmt.Fprintln(w, lastLine(&r, o.StopAt))
	code := exitOf(&r)
	if code == exitPass && len(broken) > 0 {
		code = exitSLA
	}
	return ended(code, "")
}

// lastLine is read by scripts: its format is fixed.
func lastLine(r *sim.Report, looked []check.Property) string {
	result, property := "pass", "none"
	if len(r.Violations) > 0 {
		result, property = "fail", string(named(r, looked).Property)
	}
	return fmt.Sprintf("seed=%d result=%s property=%s hash=%s simulated=%v wall=%v", r.Seed, result, property, r.Hash, r.Simulated, r.Wall.Round(time.Millisecond))
}

func printStats(w io.Writer, s *sim.Stats) {
	fmt.Fprint(w, "elections:")
	for _, cause := range s.Causes() {
		fmt.Fprintf(w, " %s=%d", cause, s.Elections[cause])
	}
	fmt.Fprintf(w, "\nexpiries=%d crashes=%d member-crashes=%d cuts=%d offices=%d snapshot-installs=%d stale-effects-refused=%d effects-applied=%d reads=%d\n",
		s.Expiries, s.Crashes, s.MemberCrashes, s.Cuts, s.Offices, s.SnapshotInstalls, s.StaleEffectsRefused, s.EffectsApplied, s.Reads)
	if s.StoreCalls > 0 {
		fmt.Fprintf(w, "store: calls=%d restarts=%d fail-overs=%d jumps=%d\n", s.StoreCalls, s.StoreRestarts, s.StoreFailOvers, s.Jumps)
	}
	if s.Observations > 0 || len(s.SplitBrains) > 0 {
		fmt.Fprintf(w, "gossip: observations=%d", s.Observations)
		for _, reason := range slices.Sorted(maps.Keys(s.SplitBrains)) {
			fmt.Fprintf(w, " %s=%d", reason, s.SplitBrains[reason])
		}
		fmt.Fprintln(w)
	}
	fmt.Fprintf(w, "failover: p50=%v p99=%v max=%v of %d\n", s.Failover(50), s.Failover(99), s.Failover(100), len(s.Failovers))
}

// writeOut leaves the report, and what explains a failure, in a directory.
func writeOut(dir string, o sim.Options, r *sim.Report, explanation string) error {
	if err := os.MkdirAll(dir, 0o755); err != nil {
		return err
	}
	data, err := json.MarshalIndent(struct {
		Scenario sim.Scenario
		Report   *sim.Report
	}{o.Scenario, r}, "", "  ")
	if err != nil {
		return err
	}
	base := filepath.Join(dir, fmt.Sprintf("seed-%d", r.Seed))
	if err := os.WriteFile(base+".json", append(data, '\n'), 0o644); err != nil {
		return err
	}
	if explanation == "" {
		return nil
	}
	return os.WriteFile(base+".txt", []byte(explanation+"\n"), 0o644)
}

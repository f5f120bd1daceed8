package main

import (
	"fmt"
	"runtime"
	"strconv"
	"strings"
	"time"

	"github.com/spf13/cobra"

	"github.com/omnirelay/leadership/core/plant"
	"github.com/omnirelay/leadership/sim"
	"github.com/omnirelay/leadership/sim/check"
)

// worldFlags say what is simulated; run and swarm share them.
type worldFlags struct {
	scenario string
	length   time.Duration
	log      string
	plant    string
	report   string
	sla      []string
}

func (f *worldFlags) register(cmd *cobra.Command) {
	flags := cmd.Flags()
	flags.StringVar(&f.scenario, "scenario", "", "scenario by name (see simrun scenarios) or a JSON file; default \"default\", or the plant's own")
	flags.DurationVar(&f.length, "for", 0, "simulated length; default: the scenario's")
	flags.StringVar(&f.log, "log", "", "log under the core: raft, among the replicas, or cas, compare and append in an external store; default raft, or the plant's own")
	flags.StringVar(&f.plant, "plant", "", "bug to plant (see simrun selftest --list)")
	flags.StringVar(&f.report, "report", "", "also print a report: json or junit")
	flags.StringArrayVar(&f.sla, "sla", nil, "bound on a measured time, like 'failover.p99<3s'; may be repeated")
}

// options turns the flags into what the simulator takes.
func (f *worldFlags) options() (sim.Options, []bound, error) {
	var o sim.Options
	if f.report != "" && f.report != "json" && f.report != "junit" {
		return o, nil, fmt.Errorf("--report %q: want json or junit", f.report)
	}
	if err := f.setPlant(&o); err != nil {
		return o, nil, err
	}
	if err := f.setLog(&o); err != nil {
		return o, nil, err
	}
	if err := f.setScenario(&o); err != nil {
		return o, nil, err
	}
	bounds, err := parseBounds(f.sla)
	return o, bounds, err
}

// setPlant also aims the run at the property that must catch the plant.
func (f *worldFlags) setPlant(o *sim.Options) error {
	if f.plant == "" {
		return nil
	}
	p, err := plant.Parse(f.plant)
	if err != nil {
		return fmt.Errorf("--plant: %w", err)
	}
	o.Plants = plant.Of(p)
	if t, ok := sim.TrialOf(p); ok {
		o.StopAt = t.Properties
		if f.scenario == "" {
			f.scenario = t.Scenario
		}
		if f.log == "" {
			f.log = string(t.Log)
		}
	}
	return nil
}

func (f *worldFlags) setLog(o *sim.Options) error {
	if f.log == "" {
		f.log = string(sim.LogRaft)
	}
	var err error
	if o.Log, err = sim.ParseLog(f.log); err != nil {
		return fmt.Errorf("--log %q: want raft or cas", f.log)
	}
	return nil
}

func (f *worldFlags) setScenario(o *sim.Options) error {
	name := f.scenario
	if name == "" {
		name = "default"
	}
	var err error
	if o.Scenario, err = sim.LoadScenario(name); err != nil {
		return fmt.Errorf("--scenario: %w", err)
	}
	if err := o.Scenario.On(o.Log); err != nil {
		return fmt.Errorf("--scenario: %w", err)
	}
	if f.length != 0 {
		if err := o.Scenario.Lengthen(f.length); err != nil {
			return fmt.Errorf("--for: %w", err)
		}
	}
	return nil
}

// defaultJobs is how many runs go side by side.
func defaultJobs() int { return runtime.GOMAXPROCS(0) }

// parseSeeds reads A..B.
func parseSeeds(s string) (from, to uint64, err error) {
	a, b, ok := strings.Cut(s, "..")
	if ok {
		var err1, err2 error
		from, err1 = strconv.ParseUint(a, 10, 63)
		to, err2 = strconv.ParseUint(b, 10, 63)
		if err1 == nil && err2 == nil && from <= to {
			return from, to, nil
		}
	}
	return 0, 0, fmt.Errorf("--seeds %q: want A..B with A <= B, like 1..100", s)
}

// named picks the violation that a report is about: of the property that was
// looked for, or else the first.
func named(r *sim.Report, looked []check.Property) check.Violation {
	if v, ok := r.Violated(looked); ok {
		return v
	}
	return r.Violations[0]
}

// exitOf is the exit code of a run: a broken safety property outweighs liveness,
// and that what could not be decided.
func exitOf(r *sim.Report) int {
	code := exitPass
	for _, v := range r.Violations {
		switch {
		case v.Unknown:
			code = worst(code, exitUnknown)
		case v.Property.Liveness():
			code = worst(code, exitLiveness)
		default:
			code = exitSafety
		}
	}
	return code
}

// worst is the graver of two exit codes of runs.
func worst(a, b int) int {
	if a == exitPass || b != exitPass && b < a {
		return b
	}
	return a
}

package sim

import (
	"maps"
	"slices"
	"time"

	"github.com/omnirelay/leadership/core"
	"github.com/omnirelay/leadership/sim/check"
)

// Report is what came out of one run.
type Report struct {
	Seed       uint64
	Scenario   string
	Violations []check.Violation // the first of each property; empty: it passed
	Hash       string
	Simulated  time.Duration
	Wall       time.Duration
	Stats      Stats
}

// Violated returns the first violation of one of the properties.
func (r *Report) Violated(looked []check.Property) (check.Violation, bool) {
	i := slices.IndexFunc(r.Violations, func(v check.Violation) bool { return slices.Contains(looked, v.Property) })
	if i < 0 {
		return check.Violation{}, false
	}
	return r.Violations[i], true
}

// Stats counts what a run, or a swarm of runs, went through.
type Stats struct {
	Elections           map[string]int // by what made the scope vacant
	Expiries            int            // sessions
	Crashes             int            // replica processes
	MemberCrashes       int
	Cuts                int
	Offices             int
	SnapshotInstalls    int
	StaleEffectsRefused int
	EffectsApplied      int
	Resignations        int
	Closes              int
	DiskErrors          int
	Reads               int
	StoreCalls          int
	StoreRestarts       int
	StoreFailOvers      int
	Jumps               int
	// SplitBrains are the reports, by reason, and Observations the changes of what the log
	// says that gossip says.
	SplitBrains  map[string]int
	Observations int
	// Failovers are the times for which a scope that had a leader had none, to
	// within the interval of sampling.
	Failovers []time.Duration

	vacatedBy map[string]string
}

// Failover is a percentile of the failovers; 0 when there was none.
func (s *Stats) Failover(percentile int) time.Duration {
	if len(s.Failovers) == 0 {
		return 0
	}
	sorted := slices.Sorted(slices.Values(s.Failovers))
	return sorted[(len(sorted)*percentile+99)/100-1]
}

// record counts an election under what ended the leadership before it.
func (s *Stats) record(r *core.Record) {
	if s.Elections == nil {
		s.Elections, s.vacatedBy = map[string]int{}, map[string]string{}
	}
	switch k := core.EventKind(r.Kind); {
	case k == core.EventElected:
		s.Elections[s.vacatedBy[r.Scope]]++
	case k.EndsLeadership() || k == core.EventScopeDeclared:
		s.vacatedBy[r.Scope] = r.Reason
	case k == core.EventMemberObserved:
		s.Observations++
	case k == core.EventSplitBrain:
		if s.SplitBrains == nil {
			s.SplitBrains = map[string]int{}
		}
		s.SplitBrains[r.Reason]++
	}
}

// Add adds another run's counts.
func (s *Stats) Add(o *Stats) {
	if s.Elections == nil {
		s.Elections = map[string]int{}
	}
	for cause, n := range o.Elections {
		s.Elections[cause] += n
	}
	s.Expiries += o.Expiries
	s.Crashes += o.Crashes
	s.MemberCrashes += o.MemberCrashes
	s.Cuts += o.Cuts
	s.Offices += o.Offices
	s.SnapshotInstalls += o.SnapshotInstalls
	s.StaleEffectsRefused += o.StaleEffectsRefused
	s.EffectsApplied += o.EffectsApplied
	s.Resignations += o.Resignations
	s.Closes += o.Closes
	s.DiskErrors += o.DiskErrors
	s.Reads += o.Reads
	s.StoreCalls += o.StoreCalls
	s.StoreRestarts += o.StoreRestarts
	s.StoreFailOvers += o.StoreFailOvers
	s.Jumps += o.Jumps
	if s.SplitBrains == nil {
		s.SplitBrains = map[string]int{}
	}
	for reason, n := range o.SplitBrains {
		s.SplitBrains[reason] += n
	}
	s.Observations += o.Observations
	s.Failovers = append(s.Failovers, o.Failovers...)
}

// Causes lists the causes of elections, sorted.
func (s *Stats) Causes() []string { return slices.Sorted(maps.Keys(s.Elections)) }

// causesOfElections are those that a swarm must have seen.
var causesOfElections = []string{
	core.ReasonScopeDeclared, core.ReasonExpired, core.ReasonResigned, core.ReasonSessionEnded, core.ReasonReplaced,
	core.AskTransfer, core.AskDrain, core.AskRebalance,
}

// Missing names what a swarm over every fault should have met and did not: a
// simulator that no longer reaches something must not look like a success.
func (s *Stats) Missing(log Log) []string {
	var missing []string
	for _, cause := range causesOfElections {
		if s.Elections[cause] == 0 {
			missing = append(missing, "elections after "+cause)
		}
	}
	for _, c := range []struct {
		name  string
		count int
	}{
		{"expiries", s.Expiries}, {"crashes", s.Crashes}, {"cuts", s.Cuts},
		{"snapshot installs", s.SnapshotInstalls}, {"refused stale effects", s.StaleEffectsRefused},
	} {
		if c.count == 0 {
			missing = append(missing, c.name)
		}
	}
	if log == LogCAS {
		for name, count := range map[string]int{"store restarts": s.StoreRestarts, "store fail-overs": s.StoreFailOvers} {
			if count == 0 {
				missing = append(missing, name)
			}
		}
	}
	slices.Sort(missing)
	return missing
}

func (w *World) report(wall time.Duration) Report {
	return Report{
		Seed: w.seed, Scenario: w.scenario.Name, Violations: w.checks.violations, Hash: w.digest.String(),
		Simulated: time.Duration(w.now), Wall: wall, Stats: w.stats,
	}
}

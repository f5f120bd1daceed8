package sim

import (
	"fmt"
	"slices"
	"sync"
	"time"

	"github.com/omnirelay/leadership/core/plant"
	"github.com/omnirelay/leadership/sim/check"
)

// Trial is one planted bug and what must catch it.
type Trial struct {
	Plant      plant.Plant
	Properties []check.Property // any of these
	Log        Log
	Scenario   string
	Seeds      int // within which it must be caught
}

// TrialResult is how a trial went.
type TrialResult struct {
	Trial     Trial
	Caught    bool
	Needed    int // seeds until it was caught
	Violation check.Violation
	// Unclean is the first violation that one of the same seeds shows without the
	// plant; nil: none.
	Unclean *check.Violation
	Seed    uint64 // of Violation, or of Unclean
	Wall    time.Duration
}

// Passed reports whether the named property fired within the budget, and the same
// seeds are green without the plant.
func (r *TrialResult) Passed() bool { return r.Caught && r.Unclean == nil }

// Selftest plants every bug of the table in turn and returns one result for each,
// in the order of the table. done, if not nil, is told each as it comes.
func Selftest(trials []Trial, jobs int, done func(TrialResult)) []TrialResult {
	results := make([]TrialResult, len(trials))
	clean := &cleanRuns{runs: map[cleanKey]*cleanRun{}}
	var (
		mu   sync.Mutex
		wait sync.WaitGroup
		next int
	)
	for range max(jobs, 1) {
		wait.Go(func() {
			for {
				mu.Lock()
				i := next
				next++
				mu.Unlock()
				if i >= len(trials) {
					return
				}
				results[i] = trials[i].run(clean)
				mu.Lock()
				if done != nil {
					done(results[i])
				}
				mu.Unlock()
			}
		})
	}
	wait.Wait()
	return results
}

func (t Trial) run(clean *cleanRuns) TrialResult {
	started := time.Now()
	result := TrialResult{Trial: t}
	s, err := ScenarioByName(t.Scenario)
	if err != nil {
		result.Violation.Text = err.Error()
		return result
	}
	for seed := uint64(1); seed <= uint64(t.Seeds) && !result.Caught; seed++ {
		result.Seed = seed
		result.Needed++
		if v := clean.violation(s, t.Log, seed); v != nil {
			result.Unclean = v
			break
		}
		r := Run(Options{Seed: seed, Scenario: s, Log: t.Log, Plants: plant.Of(t.Plant), StopAt: t.Properties})
		for _, v := range r.Violations {
			if slices.Contains(t.Properties, v.Property) {
				result.Caught, result.Violation = true, v
				break
			}
		}
	}
	result.Wall = time.Since(started)
	return result
}

// cleanRuns runs each seed without a plant once, however many trials ask.
type cleanRuns struct {
	mu   sync.Mutex
	runs map[cleanKey]*cleanRun
}

type cleanKey struct {
	scenario string
	log      Log
	seed     uint64
}

type cleanRun struct {
	once      sync.Once
	violation *check.Violation
}

func (c *cleanRuns) violation(s Scenario, log Log, seed uint64) *check.Violation {
	c.mu.Lock()
	k := cleanKey{s.Name, log, seed}
	run := c.runs[k]
	if run == nil {
		run = &cleanRun{}
		c.runs[k] = run
	}
	c.mu.Unlock()
	run.once.Do(func() {
		if r := Run(Options{Seed: seed, Scenario: s, Log: log}); len(r.Violations) > 0 {
			run.violation = &r.Violations[0]
		}
	})
	return run.violation
}

// String tells a result in one line.
func (r TrialResult) String() string {
	what := fmt.Sprintf("%-30s %-16s %-4s %-20s", r.Trial.Plant, r.Trial.Properties[0], r.Trial.Log, r.Trial.Scenario)
	switch {
	case r.Unclean != nil:
		return fmt.Sprintf("%s UNCLEAN  seed %d breaks %s without the plant", what, r.Seed, r.Unclean.Property)
	case !r.Caught:
		return fmt.Sprintf("%s MISSED   in %d seeds", what, r.Needed)
	}
	return fmt.Sprintf("%s caught   by %s after %d of %d seeds (%v)", what, r.Violation.Property, r.Needed, r.Trial.Seeds, r.Wall.Round(time.Millisecond))
}

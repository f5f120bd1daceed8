package sim

import (
	"testing"
	"time"

	"go.uber.org/goleak"

	"github.com/omnirelay/leadership/core/plant"
	"github.com/omnirelay/leadership/sim/check"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

// named finds a scenario that must be there.
func named(t *testing.T, name string) Scenario {
	t.Helper()
	s, err := ScenarioByName(name)
	if err != nil {
		t.Fatal(err)
	}
	return s
}

// clean runs seeds of a scenario and fails on any violation.
func clean(t *testing.T, s Scenario, log Log, from, to uint64) Total {
	t.Helper()
	swarm := Swarm{Options: Options{Scenario: s, Log: log}, From: from, To: to, Jobs: 2}
	total := swarm.Run()
	for _, r := range total.Failed {
		t.Errorf("%s\n%s", s.Name, Explain(Options{Seed: r.Seed, Scenario: s, Log: log}))
	}
	return total
}

func TestEveryScenarioIsClean(t *testing.T) {
	seeds := uint64(3)
	if testing.Short() {
		seeds = 1
	}
	for _, log := range []Log{LogRaft, LogCAS} {
		for _, s := range Scenarios() {
			if s.On(log) == nil {
				t.Run(string(log)+"/"+s.Name, func(t *testing.T) { clean(t, s, log, 1, seeds) })
			}
		}
	}
}

func TestDefaultReachesEverything(t *testing.T) {
	if testing.Short() {
		t.Skip("70 seeds")
	}
	for _, log := range []Log{LogRaft, LogCAS} {
		total := clean(t, named(t, "default"), log, 101, 135)
		if missing := total.Stats.Missing(log); len(missing) > 0 {
			t.Errorf("%s: never met: %v", log, missing)
		}
	}
}

func TestSameSeedSameHash(t *testing.T) {
	for _, o := range []Options{
		{Scenario: named(t, "default")}, {Scenario: named(t, "registrar-churn")}, {Scenario: named(t, "contested-elections")},
		{Scenario: named(t, "default"), Log: LogCAS}, {Scenario: named(t, "store-lost-writes"), Log: LogCAS},
	} {
		hashes, err := Determinism(o, 1, 3, 2, 6)
		if err != nil {
			t.Error(err)
		}
		if hashes[1] == hashes[2] {
			t.Errorf("%s: two seeds have one hash", o.Scenario.Name)
		}
	}
}

func TestDeterminismNoticesMapOrder(t *testing.T) {
	o := Options{Scenario: named(t, "steady"), Plants: plant.Of(plant.ApplyRangesOverMap)}
	if _, err := Determinism(o, 1, 4, 4, 2); err == nil {
		t.Error("a registry that ranges over a map gave equal hashes")
	}
}

func TestTracingChangesNothing(t *testing.T) {
	s := named(t, "default")
	if a, b := Run(Options{Seed: 3, Scenario: s}), Run(Options{Seed: 3, Scenario: s, Trace: true}); a.Hash != b.Hash {
		t.Errorf("hash %s untraced, %s traced", a.Hash, b.Hash)
	}
}

// Messages are shared between simulated replicas; a real network copies them.
func TestSharedMessagesAreNotModified(t *testing.T) {
	for seed := uint64(1); seed <= 6; seed++ {
		o := Options{Seed: seed, Scenario: named(t, "default"), Log: []Log{LogRaft, LogCAS}[seed%2]}
		shared := Run(o)
		o.Copy = true
		if copied := Run(o); copied.Hash != shared.Hash {
			t.Errorf("seed %d: hash %s with shared messages, %s with copies", seed, shared.Hash, copied.Hash)
		}
	}
}

func TestExplanationNamesThePropertyAndWhatLedToIt(t *testing.T) {
	o := Options{Seed: 1, Scenario: named(t, "hand-over"), Plants: plant.Of(plant.SuccessorBeforeAck)}
	r := Run(o)
	if _, ok := r.Violated([]check.Property{check.HolderIsLeaderProperty, check.ExclusiveLeaseProperty}); !ok {
		t.Fatalf("violations: %v", r.Violations)
	}
	if text := Explain(o); len(text) < 200 {
		t.Errorf("explanation: %s", text)
	}
}

func TestSwarmKeepsItsBudget(t *testing.T) {
	swarm := Swarm{Options: Options{Scenario: named(t, "steady")}, From: 1, Budget: 50 * time.Millisecond, Jobs: 1}
	if total := swarm.Run(); total.Runs == 0 || total.Wall > 5*time.Second {
		t.Errorf("%d runs in %v", total.Runs, total.Wall)
	}
}

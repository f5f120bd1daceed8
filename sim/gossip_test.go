package sim

import (
	"testing"

	"github.com/omnirelay/leadership/core/plant"
)

// What is healthy raises no alarm: nothing happens, or scopes are handed over all the time,
// by request, by drains, with members that end and come back; with and without gossip.
func TestHealthyRunsReportNoSplitBrain(t *testing.T) {
	for _, name := range []string{"steady", "hand-over"} {
		for _, setup := range []GossipSetup{{}, honestGossip()} {
			s := named(t, name)
			s.Faults = nil
			s.Workload.CloseEvery = Duration(10 * sec)
			s.Gossip = setup
			s.Gossip.FastScopes = 4 * min(1, s.Gossip.FastScopes)
			for _, log := range []Log{LogRaft, LogCAS} {
				if total := clean(t, s, log, 1, 6); len(total.Stats.SplitBrains) > 0 {
					t.Errorf("%s over %s, gossip %+v: %v", name, log, setup, total.Stats.SplitBrains)
				}
			}
		}
	}
}

// A holder that is cut off and still believes is reported, when its scope fails over fast.
func TestTwoWhoClaimAreReported(t *testing.T) {
	s := named(t, "steady")
	s.Gossip = honestGossip()
	s.Gossip.FastScopes = s.Scopes
	s.Faults = []FaultRate{fault("isolate-member", 6*sec, 2*sec, 4*sec)}
	for _, log := range []Log{LogRaft, LogCAS} {
		if total := clean(t, s, log, 1, 4); total.Stats.SplitBrains["two-claimants"] == 0 {
			t.Errorf("%s: %v", log, total.Stats.SplitBrains)
		}
	}
}

// Every rule about gossip that can be broken is, and is found.
func TestPlantedBugsOfGossipAreCaught(t *testing.T) {
	var trials []Trial
	for _, p := range []plant.Plant{
		plant.GossipRevokesLease, plant.SuspicionNotCancelled, plant.ObservedNeverCleared, plant.IneligibleElected, plant.DetectorSilent,
	} {
		trial, ok := TrialOf(p)
		if !ok {
			t.Fatalf("%s is not in the table", p)
		}
		trials = append(trials, trial)
	}
	Selftest(trials, 2, func(r TrialResult) {
		if !r.Passed() {
			t.Error(r)
		} else {
			t.Log(r)
		}
	})
}

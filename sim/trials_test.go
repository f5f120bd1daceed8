package sim

import (
	"testing"

	"github.com/omnirelay/leadership/core/plant"
)

// cheap are plants whose trials take well under a second: the whole table is
// simrun selftest.
var cheap = []plant.Plant{
	plant.SuccessorBeforeAck, plant.ReplyCacheLost, plant.ApplyReadsClock, plant.StreamResumesLate, plant.RetiredScopeElected,
	plant.SnapshotDropsSessions, plant.AuditOutsideTransaction, plant.NoPreVoteCheckQuorum, plant.IgnoreDrift,
	plant.FenceNotRaised, plant.GuardRecordsRefused, plant.AckAfterNote,
}

func TestPlantedBugsAreCaught(t *testing.T) {
	var trials []Trial
	for _, p := range cheap {
		trial, ok := TrialOf(p)
		if !ok {
			t.Fatalf("%s is not in the table", p)
		}
		trials = append(trials, trial)
	}
	Selftest(trials, 2, func(r TrialResult) {
		if !r.Passed() {
			t.Error(r)
		}
	})
}

func TestSelftestMissesWhatIsNotPlanted(t *testing.T) {
	trial, _ := TrialOf(plant.SuccessorBeforeAck)
	trial.Plant, trial.Seeds = plant.GuardForgetsOnRestart, 1 // no resource restarts there
	for _, r := range Selftest([]Trial{trial}, 1, nil) {
		if r.Passed() || r.Caught {
			t.Errorf("caught what was not there: %v", r)
		}
	}
}

func TestTrialsNameScenariosAndEachPlantOnce(t *testing.T) {
	seen := map[plant.Plant]bool{}
	for _, trial := range Trials() {
		if _, err := ScenarioByName(trial.Scenario); err != nil {
			t.Error(err)
		}
		if seen[trial.Plant] || len(trial.Properties) == 0 || trial.Seeds < 1 {
			t.Errorf("%+v", trial)
		}
		seen[trial.Plant] = true
	}
}

func TestEveryPlantHasATrialOrAReason(t *testing.T) {
	for _, p := range plant.All() {
		_, tried := TrialOf(p)
		_, masked := Masked()[p]
		if tried == masked {
			t.Errorf("%s: in the table of trials %v, among the masked %v; want one of them", p, tried, masked)
		}
	}
}

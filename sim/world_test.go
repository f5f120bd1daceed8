package sim

import (
	"testing"
)

func TestSteady(t *testing.T) {
	s, _ := ScenarioByName("steady")
	r := Run(Options{Seed: 1, Scenario: s})
	t.Logf("%+v hash %s wall %v", r.Stats, r.Hash, r.Wall)
	for _, v := range r.Violations {
		t.Error(v)
		t.Log(Explain(Options{Seed: 1, Scenario: s}))
	}
}

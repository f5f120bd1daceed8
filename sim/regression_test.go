package sim

import "testing"

// Seeds that once failed, and what they had found.
var treasures = []struct {
	seed  uint64
	found string
}{
	{19, "a keeper whose proposals the log dropped decided again at once, without end"},
	{128, "a deposed registrar's duties kept its deadline in the past"},
	{162, "the same, while the office was handed over"},
	{639, "churn of offices by faults was counted against ElectionSLA"},
	{1441, "a slow disk's last write outlasted the fault and was counted against BoundedExpiry"},
	{1675, "the same"},
	{2652, "the same"},
	{2661, "churn of offices by faults was counted against ElectionSLA"},
	{3169, "a slow disk's last write outlasted the fault and was counted against BoundedExpiry"},
	{5836, "raft takes no proposals while the office is handed to a replica that does not take it"},
}

func TestSeedsThatOnceFailed(t *testing.T) {
	s, err := ScenarioByName("default")
	if err != nil {
		t.Fatal(err)
	}
	for _, tr := range treasures {
		for _, v := range Run(Options{Seed: tr.seed, Scenario: s}).Violations {
			t.Errorf("seed %d, which had found that %s:\n%v", tr.seed, tr.found, v)
		}
	}
}

package sim

import (
	"testing"

	"github.com/omnirelay/leadership/core/plant"
	"github.com/omnirelay/leadership/sim/check"
)

// Seeds that once failed, and what they had found.
var treasures = []struct {
	log      Log
	scenario string
	seed     uint64
	found    string
}{
	{LogRaft, "no-gossip", 19, "a keeper whose proposals the log dropped decided again at once, without end"},
	{LogRaft, "no-gossip", 128, "a deposed registrar's duties kept its deadline in the past"},
	{LogRaft, "no-gossip", 162, "the same, while the office was handed over"},
	{LogRaft, "no-gossip", 639, "churn of offices by faults was counted against ElectionSLA"},
	{LogRaft, "no-gossip", 1441, "a slow disk's last write outlasted the fault and was counted against BoundedExpiry"},
	{LogRaft, "no-gossip", 1675, "the same"},
	{LogRaft, "no-gossip", 2652, "the same"},
	{LogRaft, "no-gossip", 2661, "churn of offices by faults was counted against ElectionSLA"},
	{LogRaft, "no-gossip", 3169, "a slow disk's last write outlasted the fault and was counted against BoundedExpiry"},
	{LogRaft, "no-gossip", 5836, "raft takes no proposals while the office is handed to a replica that does not take it"},

	{LogCAS, "no-gossip", 134, "an append meant for a server that is gone was repeated on its successor, for ever"},
	{LogCAS, "store-lost-writes", 1, "a replica that had told of what was lost did not tell of what the jump ended"},
	{LogCAS, "store-fail-overs", 5, "one answer of a superseded server made a replica close the log on the right one"},
	{LogCAS, "store-fail-overs", 20, "the same"},
	{LogCAS, "store-fail-overs", 31, "audit records of entries that were lost were published behind those that were kept"},
	{LogCAS, "store-fail-overs", 75, "a replica vouched for a server by what another one held: an acknowledged command was lost unnoticed"},
	{LogCAS, "store-fail-overs", 234, "the same"},
	{LogCAS, "store-fail-overs", 987, "the same"},
	{LogCAS, "store-lost-writes", 20062, "attestations left on a superseded server were completed, and the log was adopted twice"},
	{LogCAS, "store-lost-writes", 20426, "the same"},
	{LogCAS, "store-quick-fail-overs", 19, "the same"},
	{LogCAS, "store-quick-fail-overs", 33, "the same"},
	{LogCAS, "store-quick-fail-overs", 40, "the same"},
	{LogCAS, "store-quick-fail-overs", 47, "the same"},
	{LogCAS, "store-restarts", 4, "a lost fetch was waited for so long that a server that was back was not asked"},
	{LogCAS, "store-lost-writes", 8, "a stream went on across a jump and kept a leader whose election was lost"},
}

func TestSeedsThatOnceFailed(t *testing.T) {
	for _, tr := range treasures {
		for _, v := range Run(Options{Seed: tr.seed, Scenario: named(t, tr.scenario), Log: tr.log}).Violations {
			t.Errorf("%s over %s, seed %d, which had found that %s:\n%v", tr.scenario, tr.log, tr.seed, tr.found, v)
		}
	}
}

// With the bug planted again these still play the schedule; 33 and 40 did before drains left
// with their holder what nobody else can lead.
func TestSeedsOfLogsAdoptedTwice(t *testing.T) {
	for _, seed := range []uint64{19, 47} {
		r := Run(Options{Seed: seed, Scenario: named(t, "store-quick-fail-overs"), Log: LogCAS, Plants: plant.Of(plant.OneRound)})
		if len(r.Violations) == 0 || r.Violations[0].Property != check.AgreementProperty {
			t.Errorf("seed %d without rounds: %v", seed, r.Violations)
		}
	}
}

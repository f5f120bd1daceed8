package sim

import "math/rand/v2"

// honestGossip is gossip that says what it knows, a little late.
func honestGossip() GossipSetup {
	return GossipSetup{Every: Duration(400 * ms), Late: Duration(300 * ms), SuspectAfter: Duration(1500 * ms), DeadAfter: Duration(4 * sec), FastScopes: 2}
}

// noGossip is the default scenario as it was played before there was gossip: seeds that
// once found something still play their schedules.
func noGossip() Scenario {
	s := defaultScenario()
	s.Name, s.About = "no-gossip", "the default scenario among members that do not gossip"
	vary := s.vary
	s.vary = func(s *Scenario, rng *rand.Rand) {
		vary(s, rng)
		s.Gossip = GossipSetup{}
	}
	return s
}

func gossipLies() Scenario {
	s := baseline("gossip-lies", "gossip suspects, buries and waves farewell to the living, each replica hears something else, late, and claims are invented")
	s.Gossip = honestGossip()
	s.Gossip.FastScopes = 4
	s.Faults = []FaultRate{
		fault("gossip-suspects", 2*sec, 50*ms, 4*sec),
		fault("gossip-buries", 2*sec, 50*ms, 5*sec),
		fault("gossip-waves", 4*sec, 50*ms, 5*sec),
		fault("gossip-unsupported", 6*sec, 200*ms, 5*sec),
		fault("gossip-splits", 6*sec, 200*ms, 4*sec),
		fault("gossip-late", 5*sec, 500*ms, 5*sec),
		fault("gossip-invents", 5*sec, 0, 0),
		fault("member-crash", 12*sec, 0, 0),
		fault("member-pause", 8*sec, 300*ms, 3*sec),
		fault("isolate-member", 8*sec, 500*ms, 4*sec),
		fault("member-one-replica", 10*sec, 500*ms, 4*sec),
		fault("isolate-registrar", 12*sec, 300*ms, 3*sec),
		fault("replica-crash", 15*sec, 100*ms, 3*sec),
		fault("hand-over", 20*sec, 0, 0),
	}
	s.vary = func(s *Scenario, rng *rand.Rand) {
		s.Faults = append(chosen(s.Faults[:7], rng), chosen(s.Faults[7:], rng)...)
		s.Members = 2 + rng.IntN(4)
		s.FormationMembers = rng.IntN(3)
		s.SnapshotEntries = []uint64{5, 20, 100, 10_000}[rng.IntN(4)]
		s.Clocks.Edge = rng.IntN(3) == 0
		if rng.IntN(4) == 0 {
			s.Replicas = 5
		}
	}
	return s
}

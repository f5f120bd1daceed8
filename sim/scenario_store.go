package sim

import (
	"math/rand/v2"
)

// storeTroubles is what can go wrong with a store that loses nothing.
func storeTroubles() []FaultRate {
	return []FaultRate{
		fault("store-restart", 12*sec, 50*ms, 3*sec),
		fault("store-pause", 12*sec, 100*ms, 3*sec),
		fault("store-slow", 10*sec, 500*ms, 5*sec),
		fault("store-loses", 10*sec, 500*ms, 5*sec),
		fault("store-cut", 8*sec, 300*ms, 5*sec),
		fault("store-cut-registrar", 8*sec, 300*ms, 4*sec),
		fault("store-late-tail", 10*sec, 500*ms, 4*sec),
		fault("late-append", 5*sec, 100*ms, 4*sec),
		fault("store-fail-over", 25*sec, 0, 0),
	}
}

func storeFaults() Scenario {
	s := baseline("store-faults", "a store that is slow or stands still, calls and answers that are lost, repeated or late, replicas cut off from it")
	s.only = LogCAS
	s.Workload.ReadEvery = Duration(150 * ms)
	s.Faults = []FaultRate{
		fault("store-pause", 6*sec, 100*ms, 3*sec),
		fault("store-slow", 6*sec, 500*ms, 5*sec),
		fault("store-loses", 5*sec, 500*ms, 5*sec),
		fault("store-cut", 4*sec, 300*ms, 5*sec),
		fault("store-cut-registrar", 5*sec, 300*ms, 4*sec),
		fault("store-late-tail", 4*sec, 500*ms, 4*sec),
		fault("late-append", 3*sec, 100*ms, 4*sec),
		fault("replica-crash", 9*sec, 100*ms, 2*sec),
		fault("member-pause", 8*sec, 500*ms, 4*sec),
	}
	s.varyStore = func(s *Scenario, rng *rand.Rand) { s.Faults = chosen(s.Faults, rng) }
	return s
}

func storeRestarts() Scenario {
	s := baseline("store-restarts", "a store that restarts and keeps everything, with and without becoming another to its clients, while replicas die")
	s.only = LogCAS
	s.SnapshotEntries = 20
	s.Faults = []FaultRate{
		fault("store-restart", 5*sec, 50*ms, 3*sec),
		fault("store-cut", 6*sec, 300*ms, 3*sec),
		fault("replica-crash", 6*sec, 100*ms, 3*sec),
		fault("replica-crash-at-port", 6*sec, 100*ms, 3*sec),
		fault("late-append", 6*sec, 100*ms, 4*sec),
		fault("member-pause", 8*sec, 500*ms, 4*sec),
	}
	s.varyStore = func(s *Scenario, rng *rand.Rand) {
		s.Faults = append(s.Faults[:1:1], chosen(s.Faults[1:], rng)...)
		s.Store.KeepsIdentity = rng.IntN(3) == 0
	}
	return s
}

func storeFailOvers() Scenario {
	s := baseline("store-fail-overs", "another server takes the store over and has everything, while the old one still answers: all replicas must see for themselves")
	s.only = LogCAS
	s.Faults = []FaultRate{
		fault("store-fail-over", 7*sec, 0, 3*sec),
		fault("store-cut", 6*sec, 300*ms, 3*sec),
		fault("replica-crash", 6*sec, 100*ms, 3*sec),
		fault("replica-pause", 8*sec, 100*ms, 3*sec),
		fault("late-append", 6*sec, 100*ms, 4*sec),
	}
	return s
}

func storeQuickFailOvers() Scenario {
	s := baseline("store-quick-fail-overs", "servers that take the store over one after another, each before all replicas have seen what the one before holds")
	s.only = LogCAS
	s.Faults = []FaultRate{
		fault("store-fail-over", 500*ms, 0, 1500*ms),
		fault("store-slow", 3*sec, 300*ms, 2*sec),
		fault("store-loses", 5*sec, 500*ms, 2*sec),
		fault("store-cut", 3*sec, 100*ms, 1500*ms),
		fault("replica-pause", 3*sec, 100*ms, 1500*ms),
		fault("replica-crash", 8*sec, 100*ms, 1500*ms),
	}
	s.varyStore = func(s *Scenario, rng *rand.Rand) { s.Faults = append(s.Faults[:1:1], chosen(s.Faults[1:], rng)...) }
	return s
}

func storeLostWrites() Scenario {
	s := baseline("store-lost-writes", "another server takes the store over and misses writes; the service stops until an operator jumps the fence")
	s.only = LogCAS
	s.Duration, s.Quiet = Duration(90*sec), Duration(25*sec)
	s.Workload.TransferEvery = Duration(sec)
	s.Faults = []FaultRate{
		fault("store-lost-writes", 12*sec, 0, 3*sec),
		fault("store-blackout", 17*sec, 0, 1*sec),
		fault("store-cut", 7*sec, 300*ms, 3*sec),
		fault("replica-crash", 6*sec, 100*ms, 3*sec),
		fault("replica-crash-at-port", 6*sec, 100*ms, 3*sec),
		fault("store-wiped-mark", 15*sec, 0, 0),
		fault("isolate-member", 6*sec, 500*ms, 3*sec),
		fault("resource-restart", 6*sec, 100*ms, 2*sec),
	}
	s.varyStore = func(s *Scenario, rng *rand.Rand) {
		s.Faults = append(s.Faults[:2:2], chosen(s.Faults[2:], rng)...)
		s.SnapshotEntries = []uint64{10, 10_000}[rng.IntN(2)]
	}
	return s
}

package gossip

import (
	"sync/atomic"
)

// Why something that arrived was refused.
const (
	refusedKey       = "key"       // encrypted with no key of ours, or not at all
	refusedLabel     = "label"     // of another cluster, or no gossip at all
	refusedCluster   = "cluster"   // a member that says it is of another cluster
	refusedMetadata  = "metadata"  // a member whose word of itself cannot be read
	refusedFull      = "full"      // more members than are kept
	refusedEnded     = "ended"     // an old packet of a member that left
	refusedMalformed = "malformed" // damaged, or meant to do damage
	refusedStale     = "stale"     // a word of an earlier life or claim, or of nobody who is known
	refusedBusy      = "busy"      // more connections at once than are served
)

// Refusals are all reasons of Stats.Refused.
var Refusals = []string{refusedKey, refusedLabel, refusedCluster, refusedMetadata, refusedFull, refusedEnded, refusedMalformed, refusedStale, refusedBusy}

// Stats are figures of one Gossip. All but the gauges only grow.
type Stats struct {
	Members map[Status]int // gauge; by what they are now
	Refused map[string]uint64

	SentBytes, SentPackets         uint64 // packets and writes on streams
	ReceivedBytes, ReceivedPackets uint64

	// Probes of our own: answered, missed, and those that say nothing as this process
	// was late itself.
	ProbesAnswered, ProbesMissed, ProbesUnsure uint64
	Suspicions, Recoveries                     uint64 // members that became suspect; that answered after all
	Watched                                    int    // gauge; members that are probed

	// Words told by this member; of others that were new; that came along another way too.
	WordsSent, WordsHeard, WordsRepeated uint64
	Joins, JoinsFailed                   uint64 // full exchanges with seeds
	Conflicts                            uint64 // packets of another process under a name that is taken
	Keys                                 int    // gauge; in the keyring
	KeyReloads                           uint64
	KeyReloadsFailed                     uint64
	HealthScore                          int // gauge; memberlist's: 0 is well, more is slow itself
}

// counters are what is counted while it happens.
type counters struct {
	refused                                    [9]atomic.Uint64
	sentBytes, sentPackets                     atomic.Uint64
	receivedBytes, receivedPackets             atomic.Uint64
	probesAnswered, probesMissed, probesUnsure atomic.Uint64
	suspicions, recoveries                     atomic.Uint64
	watched                                    atomic.Int64
	wordsSent, wordsHeard, wordsRepeated       atomic.Uint64
	joins, joinsFailed                         atomic.Uint64
	conflicts                                  atomic.Uint64
	keys                                       atomic.Int64
	keyReloads, keyReloadsFailed               atomic.Uint64
}

func (c *counters) sent(n int) {
	c.sentBytes.Add(uint64(n))
	c.sentPackets.Add(1)
}

func (c *counters) received(n int) {
	c.receivedBytes.Add(uint64(n))
	c.receivedPackets.Add(1)
}

func (c *counters) refuse(reason string) {
	for i, r := range Refusals {
		if r == reason {
			c.refused[i].Add(1)
		}
	}
}

func (c *counters) stats() Stats {
	s := Stats{
		Refused:   map[string]uint64{},
		SentBytes: c.sentBytes.Load(), SentPackets: c.sentPackets.Load(), ReceivedBytes: c.receivedBytes.Load(), ReceivedPackets: c.receivedPackets.Load(),
		ProbesAnswered: c.probesAnswered.Load(), ProbesMissed: c.probesMissed.Load(), ProbesUnsure: c.probesUnsure.Load(),
		Suspicions: c.suspicions.Load(), Recoveries: c.recoveries.Load(), Watched: int(c.watched.Load()),
		WordsSent: c.wordsSent.Load(), WordsHeard: c.wordsHeard.Load(), WordsRepeated: c.wordsRepeated.Load(), Joins: c.joins.Load(), JoinsFailed: c.joinsFailed.Load(),
		Conflicts: c.conflicts.Load(), Keys: int(c.keys.Load()), KeyReloads: c.keyReloads.Load(), KeyReloadsFailed: c.keyReloadsFailed.Load(),
	}
	for i, r := range Refusals {
		s.Refused[r] = c.refused[i].Load()
	}
	return s
}

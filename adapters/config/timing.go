package config

import (
	"fmt"
	"time"

	"github.com/omnirelay/leadership/core"
)

// What the checks of timing assume of disks and networks, for want of a setting.
const (
	AssumedCommit    = 25 * time.Millisecond // from a proposal to its entry applied, by raft
	AssumedRoundTrip = 50 * time.Millisecond // between two nodes
	AssumedStoreCall = 50 * time.Millisecond // a call on an external store
)

// commit is how long an entry is assumed to take. In an external store it is
// appended by one call and read by another.
func (c *Config) commit() time.Duration {
	if c.Registry.External() {
		return 2 * AssumedStoreCall
	}
	return AssumedCommit
}

// judgeTiming holds the settings against each other: alone each may be right and
// together they break the bounds on how long a scope can stay unled.
func (c *Config) judgeTiming(j *judge) {
	if c.HeartbeatInterval >= c.ElectionTimeout/3 {
		j.refuse("heartbeatInterval", fmt.Sprintf("%v leaves an electionTimeout of %v no room for two lost heartbeats", c.HeartbeatInterval, c.ElectionTimeout),
			fmt.Sprintf("less than a third of it, %v, is right", c.ElectionTimeout/3))
	}
	if note := c.noteBound(); note >= c.LeaseDuration/2 {
		j.refuse("leaseDuration", fmt.Sprintf("%v is too short: a note of silence takes up to %v (0.4 of it, stretched by clockDrift, and an assumed commit of %v), which must be less than half of it",
			c.LeaseDuration, round(note), c.commit()), "raise leaseDuration or lower clockDrift")
	}
	if need := max(c.failoverBound(), c.changeoverBound()); need > c.MaxElectionWindow {
		j.refuse("maxElectionWindow", fmt.Sprintf("%v is shorter than the %v that failover may take: a leaseDuration of %v stretched by clockDrift, two election timeouts of %v, an assumed commit of %v and round trip of %v",
			c.MaxElectionWindow, round(need), c.LeaseDuration, c.ElectionTimeout, c.commit(), AssumedRoundTrip),
			fmt.Sprintf("at least %v is right, or lower leaseDuration or electionTimeout", round(need)))
	}
}

// noteBound is N/(1-ε) + commit: the longest from the last keepalive to the note
// of silence. Above TTL/2 registrar churn could postpone an expiry for ever.
func (c *Config) noteBound() time.Duration {
	return c.slow(core.NoteAfter(c.LeaseDuration)) + c.commit()
}

// failoverBound is TTL(1+ε)/(1-ε) + election + commit: from the death of a holder
// that was the registrar too to its successor.
func (c *Config) failoverBound() time.Duration {
	return c.slow(c.ClockDrift.Stretch(c.LeaseDuration)) + 2*c.ElectionTimeout + c.commit()
}

// changeoverBound is 2 election timeouts + TTL(1+ε) + a round trip.
func (c *Config) changeoverBound() time.Duration {
	return 2*c.ElectionTimeout + c.ClockDrift.Stretch(c.LeaseDuration) + AssumedRoundTrip
}

// slow returns d/(1-ε): the true time that passes while a clock at its slowest
// counts d.
func (c *Config) slow(d time.Duration) time.Duration {
	return time.Duration((int64(d)*1000 + 999) / (1000 - int64(c.ClockDrift)))
}

// round rounds up for people: a bound that was rounded down would be refused.
func round(d time.Duration) time.Duration {
	return (d + 10*time.Millisecond - 1).Truncate(10 * time.Millisecond)
}

package check

import (
	"maps"
	"slices"
	"time"

	"github.com/omnirelay/leadership/core"
)

// BoundedExpiry: a silent session is expired in time. In one office that is
// TTL(1+ε)/(1-ε) and a slack for flight and commit. Under churn every whole
// office adds what it noted: with N the silence after which a note is made, an
// office of length k·N/(1-ε) + slack adds k·N, and the session is gone when
// TTL(1+ε) is reached.
//
// Only healthy office time counts: the world says when a registrar is in office
// and nothing stands between it and a majority.
type BoundedExpiry struct {
	report  Report
	epsilon core.Epsilon
	slack   time.Duration
	office  bool
	since   int64 // start of the healthy office
	silent  map[core.SessionID]*silence
}

// silence is a session that nothing was heard of.
type silence struct {
	ttl     time.Duration
	since   int64
	noted   int64 // whole stretches of N in earlier offices
	told    bool
	offices int
}

// NewBoundedExpiry allows slack for flight and commit in each office.
func NewBoundedExpiry(report Report, epsilon core.Epsilon, slack time.Duration) *BoundedExpiry {
	return &BoundedExpiry{report: report, epsilon: epsilon, slack: slack, silent: map[core.SessionID]*silence{}}
}

// Opened tells that a session is in the registry.
func (c *BoundedExpiry) Opened(at int64, id core.SessionID, ttl time.Duration) {
	if c.silent[id] == nil {
		c.silent[id] = &silence{ttl: ttl, since: at}
	}
}

// Heard tells that a keepalive of the session reached a replica.
func (c *BoundedExpiry) Heard(at int64, id core.SessionID) {
	if s := c.silent[id]; s != nil {
		s.since, s.noted, s.offices = at, 0, 0
	}
}

// Ended tells that the session is gone.
func (c *BoundedExpiry) Ended(id core.SessionID) { delete(c.silent, id) }

// Office tells that a healthy office began.
func (c *BoundedExpiry) Office(at int64) {
	c.NoOffice(at)
	c.office, c.since = true, at
}

// NoOffice tells that the office, or its health, ended.
func (c *BoundedExpiry) NoOffice(at int64) {
	if !c.office {
		return
	}
	c.Check(at)
	for _, s := range c.silent {
		if k := c.stretches(s, at); k > 0 {
			s.noted += k
			s.offices++
		}
	}
	c.office = false
}

// Check looks for sessions that should be gone by now.
func (c *BoundedExpiry) Check(at int64) {
	if !c.office {
		return
	}
	for _, id := range slices.Sorted(maps.Keys(c.silent)) {
		c.checkOne(at, id, c.silent[id])
	}
}

func (c *BoundedExpiry) checkOne(at int64, id core.SessionID, s *silence) {
	if s.told {
		return
	}
	within := time.Duration(at - max(c.since, s.since))
	if whole := c.inTrueTime(c.epsilon.Stretch(s.ttl)) + c.slack; within > whole {
		s.told = true
		c.report.session(BoundedExpiryProperty, at, id, "session %d, silent for %v, was not expired within %v of one healthy office", id, time.Duration(at-s.since), whole)
		return
	}
	n := core.NoteAfter(s.ttl)
	need := (int64(c.epsilon.Stretch(s.ttl)) + int64(n) - 1) / int64(n)
	if total := s.noted + c.stretches(s, at); total >= need {
		s.told = true
		c.report.session(BoundedExpiryProperty, at, id, "session %d, silent for %v, was not expired after %d notes' worth of healthy offices (%d before this one); %d are enough",
			id, time.Duration(at-s.since), total, s.offices, need)
	}
}

// stretches is how many silences of N the current office must have noted.
func (c *BoundedExpiry) stretches(s *silence, at int64) int64 {
	within := time.Duration(at-max(c.since, s.since)) - c.slack
	if within <= 0 {
		return 0
	}
	return int64(within / c.inTrueTime(core.NoteAfter(s.ttl)))
}

// inTrueTime is how long a slow clock takes to count d: d/(1-ε).
func (c *BoundedExpiry) inTrueTime(d time.Duration) time.Duration {
	const precise = 1_000_000
	kept := int64(c.epsilon.Shrink(precise))
	return time.Duration((int64(d)/kept + 1) * precise)
}

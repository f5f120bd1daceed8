package check

import (
	"time"

	"github.com/omnirelay/leadership/core"
)

// Clock is the clock of one process: what it showed at an instant of true time.
type Clock interface {
	At(trueTime int64) core.Time
}

// NoResurrection: an acknowledged keepalive is never contradicted. Once a
// registrar gave out the acknowledgement of a keepalive sent at s, nobody applies
// an expiry of the session at an instant at which the member, by its own clock,
// may still believe in s + TTL(1-ε). It follows that an expired session never
// renews.
type NoResurrection struct {
	report   Report
	sent     map[keepaliveKey]promise
	promised map[core.SessionID]promise // the acknowledged one that lasts longest
	expired  map[core.SessionID]int64   // first seen applied, true time
}

type keepaliveKey struct {
	session core.SessionID
	number  uint64
}

type promise struct {
	number uint64
	clock  Clock
	until  core.Time
}

func (p promise) standsAt(at int64) bool { return p.clock.At(at) < p.until }

func NewNoResurrection(report Report) *NoResurrection {
	return &NoResurrection{report: report, sent: map[keepaliveKey]promise{}, promised: map[core.SessionID]promise{}, expired: map[core.SessionID]int64{}}
}

// Sent tells of a keepalive that its member sent when its clock showed s.
func (c *NoResurrection) Sent(id core.SessionID, number uint64, s core.Time, ttl time.Duration, epsilon core.Epsilon, clock Clock) {
	c.sent[keepaliveKey{id, number}] = promise{number: number, clock: clock, until: s.Add(epsilon.Shrink(ttl))}
}

// Acknowledged tells that a replica gave out an acknowledgement.
func (c *NoResurrection) Acknowledged(at int64, id core.SessionID, number uint64) {
	p, ok := c.sent[keepaliveKey{id, number}]
	if !ok {
		c.report.session(NoResurrectionProperty, at, id, "keepalive %d of session %d was acknowledged and never sent", number, id)
		return
	}
	if expired, gone := c.expired[id]; gone && p.standsAt(expired) {
		c.report.session(NoResurrectionProperty, at, id, "keepalive %d of session %d was acknowledged at %v, with the session expired at %v, before what it promises ends",
			number, id, time.Duration(at), time.Duration(expired))
		return
	}
	if had, ok := c.promised[id]; !ok || had.number < number {
		c.promised[id] = p
	}
}

// Expired tells that some replica applied an expiry of the session.
func (c *NoResurrection) Expired(at int64, id core.SessionID) {
	if _, ok := c.expired[id]; ok {
		return
	}
	c.expired[id] = at
	if p, ok := c.promised[id]; ok && p.standsAt(at) {
		left := p.until.Sub(p.clock.At(at))
		c.report.session(NoResurrectionProperty, at, id, "session %d expired %v before the end of what the acknowledgement of keepalive %d promised", id, left, p.number)
	}
}

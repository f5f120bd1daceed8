package core

import (
	"strings"

	"github.com/omnirelay/leadership/core/plant"
)

// ReasonLeaseLapsed: no acknowledgement came in time, so the member's own clock
// ended its belief.
const ReasonLeaseLapsed = "lease-lapsed"

// ReasonTaken: the registry no longer shows the grant, although this process did
// not give it up.
const ReasonTaken = "no-longer-granted"

// Step takes a message of the replica that the member is attached to.
func (m *Member) Step(now Time, msg ReplicaMessage) {
	m.now = now
	m.noticeLapse()
	switch {
	case msg.Ack != nil:
		m.acknowledged(msg.Ack)
	case msg.View != nil:
		m.view(msg.View)
	case msg.Reply != nil:
		m.replied(msg.Reply)
	}
}

// acknowledged extends the lease to TTL(1-ε) after the keepalive was sent.
func (m *Member) acknowledged(a *Ack) {
	if m.state != sessionOpen || a.Session != m.session {
		return
	}
	for i, s := range m.sent {
		if s.number != a.Number {
			continue
		}
		m.sent = m.sent[i+1:]
		m.extend(s.at)
		return
	}
}

func (m *Member) extend(sentAt Time) {
	lease := m.cfg.Epsilon.Shrink(m.cfg.TTL)
	if m.cfg.Plants.Has(plant.IgnoreDrift) {
		lease = m.cfg.TTL
	}
	if m.cfg.Plants.Has(plant.LeaseFromAck) {
		sentAt = m.now
	}
	until := sentAt.Add(lease)
	if until > m.leaseUntil {
		m.leaseUntil = until
	}
	if !m.leased && m.now < m.leaseUntil {
		m.leased = true
		for _, scope := range sortedKeys(m.grants) {
			m.changed(MemberChange{Kind: ChangeGained, Token: m.grants[scope].Token})
		}
	}
}

// view takes what a replica says the session leads. One that is behind what the
// member has seen says nothing.
func (m *Member) view(v *View) {
	if m.state != sessionOpen && m.state != sessionClosing || v.Session != m.session {
		return
	}
	if v.Revision < m.cursor && !m.cfg.Plants.Has(plant.BelieveGivenUp) {
		return
	}
	m.cursor = max(m.cursor, v.Revision)
	m.viewRevision = v.Revision
	if !v.Live {
		m.sessionEnded()
		return
	}
	if m.state == sessionClosing {
		return
	}
	shown := make(map[string]Grant, len(v.Grants))
	for _, g := range v.Grants {
		shown[g.Scope] = g
	}
	m.dropMissing(shown)
	for _, g := range v.Grants {
		m.take(g)
	}
}

// dropMissing forgets the grants that a view no longer shows, and stops telling of
// those given up.
func (m *Member) dropMissing(shown map[string]Grant) {
	for _, scope := range sortedKeys(m.grants) {
		if g, ok := shown[scope]; !ok || g.Fence != m.grants[scope].Fence {
			m.lost(m.grants[scope].Token, ReasonTaken)
			delete(m.grants, scope)
		}
	}
	for _, scope := range sortedKeys(m.givenUp) {
		// It stays given up as long as the session lives; only the telling ends.
		if g, ok := shown[scope]; !ok || g.Fence > m.givenUp[scope].fence {
			m.givenUp[scope].tellAt = Never
		}
	}
}

// take believes one shown grant unless it was given up.
func (m *Member) take(g Grant) {
	if s := m.givenUp[g.Scope]; s != nil && g.Fence <= s.fence && !m.cfg.Plants.Has(plant.BelieveGivenUp) {
		if s.tellAt == Never {
			s.tellAt = m.now
		}
		return
	}
	old, had := m.grants[g.Scope]
	if !had && g.Ask != nil && !m.cfg.Manual {
		m.GiveUp(g.Scope, g.Fence) // asked before it began: never acted on
		return
	}
	m.grants[g.Scope] = g
	if !had && m.believes(m.now) {
		m.changed(MemberChange{Kind: ChangeGained, Token: g.Token})
	}
	if g.Ask == nil || (had && old.Ask != nil && *old.Ask == *g.Ask) {
		return
	}
	if !m.cfg.Manual {
		m.GiveUp(g.Scope, g.Fence)
		return
	}
	m.changed(MemberChange{Kind: ChangeAsked, Token: g.Token, Ask: g.Ask})
}

// sessionEnded: the registry ended the session; everything on it is over.
func (m *Member) sessionEnded() {
	closing := m.state == sessionClosing
	m.dropGrants(ReasonExpired)
	m.changed(MemberChange{Kind: ChangeSessionLost, Reason: ReasonExpired})
	m.reset()
	m.state, m.dueAt = sessionNone, m.now.Add(m.cfg.Backoff)
	if closing {
		m.state, m.dueAt = sessionClosed, Never
	}
}

// reset forgets everything that belonged to the session. The cursor stays: a new
// session must not be told an older story either.
func (m *Member) reset() {
	m.session, m.viewRevision, m.number, m.sent = 0, 0, 0, nil
	m.leaseUntil, m.leased, m.keepaliveAt = 0, false, Never
	clear(m.grants)
	clear(m.givenUp)
	for _, s := range m.stands {
		s.done, s.tellAt = s.withdraw, m.now
	}
}

// replied takes the answer to a command.
func (m *Member) replied(r *Reply) {
	prefix := m.requestID("")
	what, mine := strings.CutPrefix(r.RequestID, prefix)
	if !mine {
		return
	}
	m.cursor = max(m.cursor, r.Result.Revision)
	code := Code(r.Result.Code)
	if code == CodeUnavailable || code == CodeOverloaded || code == CodeUnsupported {
		return // told again in time
	}
	switch {
	case what == "open":
		m.opened(r.Result)
	case what == "close":
		if m.state == sessionClosing && (code == CodeOK || code == CodeSessionEnded || code == CodeNotFound) {
			m.state, m.dueAt = sessionClosed, Never
		}
	case strings.HasPrefix(what, "stand-"):
		m.stood(what, r.Result)
	}
}

// opened takes the id of the new session. It gives no lease: the first keepalive does.
func (m *Member) opened(result *Result) {
	if m.state != sessionOpening {
		return
	}
	if Code(result.Code) != CodeOK {
		m.changed(MemberChange{Kind: ChangeRefused, Reason: result.Code + ": " + result.Message})
		m.state, m.dueAt = sessionNone, m.now.Add(m.cfg.Backoff)
		return
	}
	m.reset()
	m.state, m.session = sessionOpen, SessionID(result.Session)
	m.cfg.Replaces = 0
	for _, s := range m.stands {
		s.done = s.number <= m.openWish
	}
	m.keepaliveAt = m.now
	m.changed(MemberChange{Kind: ChangeSessionOpened})
}

// stood takes the answer to a stand or withdrawal. One refused as too old, since
// the member had seen nothing of the registry for long, is told again: with the
// base that the refusal named.
func (m *Member) stood(what string, result *Result) {
	if Code(result.Code) == CodeTooOld {
		return
	}
	for _, s := range m.stands {
		if what == standName(s) {
			s.done = true
			if code := Code(result.Code); code != CodeOK && code != CodeSessionEnded && code != CodeNotFound {
				m.changed(MemberChange{Kind: ChangeRefused, Reason: result.Code + ": " + result.Message})
			}
		}
	}
}

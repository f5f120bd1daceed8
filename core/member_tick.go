package core

import (
	"fmt"
	"time"

	"github.com/omnirelay/leadership/core/logpb"
)

// Tick sends what is due at now, which must have been read after the last message
// was given to Step, and before anything of the output is sent.
func (m *Member) Tick(now Time) {
	m.now = now
	m.noticeLapse()
	switch m.state {
	case sessionNone:
		if now >= m.dueAt {
			m.open()
		}
	case sessionOpening:
		if now >= m.dueAt {
			m.sendOpen()
		}
	case sessionOpen:
		m.tickOpen()
	case sessionClosing:
		if now >= m.dueAt {
			m.sendClose()
		}
	}
}

// Deadline is when Tick is due if nothing arrives before.
func (m *Member) Deadline() Time {
	switch m.state {
	case sessionNone, sessionOpening, sessionClosing:
		return m.dueAt
	case sessionClosed:
		return Never
	}
	d := m.keepaliveAt
	if m.leased {
		d = min(d, m.leaseUntil)
	}
	if s := m.untold(); s != nil {
		d = min(d, s.tellAt)
	}
	full := m.toldSurrenders() >= MaxResigns
	for _, scope := range sortedKeys(m.givenUp) {
		if at := m.givenUp[scope].tellAt; !full || at > m.now {
			d = min(d, at)
		}
	}
	return d
}

// retryAfter is how long an unanswered request waits before it is told again.
func (m *Member) retryAfter() time.Duration { return m.cfg.TTL / 5 }

func (m *Member) open() {
	m.attempt++
	m.openID, m.openBase = m.requestID("open"), m.cursor
	m.openStands, m.openWish = nil, m.wishes
	for _, s := range m.stands {
		if !s.withdraw {
			m.openStands = append(m.openStands, &logpb.Stand{Selector: s.selector, Priority: s.priority})
		}
	}
	m.state = sessionOpening
	m.sendOpen()
}

func (m *Member) sendOpen() {
	m.dueAt = m.now.Add(m.retryAfter())
	m.command(m.openID, &logpb.Command{Kind: &logpb.Command_OpenSession{OpenSession: &logpb.OpenSession{
		MemberId: m.cfg.MemberID, Labels: m.cfg.Labels, Weight: m.cfg.Weight, TtlNs: int64(m.cfg.TTL), Replaces: uint64(m.cfg.Replaces), Stands: m.openStands,
	}}})
}

func (m *Member) sendClose() {
	m.dueAt = m.now.Add(m.retryAfter())
	m.command(m.requestID("close"), &logpb.Command{Kind: &logpb.Command_CloseSession{
		CloseSession: &logpb.CloseSession{Session: uint64(m.session)},
	}})
}

func (m *Member) tickOpen() {
	if m.now >= m.keepaliveAt {
		m.sendKeepalive()
	}
	if s := m.untold(); s != nil && m.now >= s.tellAt {
		s.tellAt = m.now.Add(m.retryAfter())
		m.sendStand(s)
	}
	m.tellSurrenders()
}

// tellSurrenders tells of grants that were given up, MaxResigns at a time: thousands at
// once would crowd out the keepalives.
func (m *Member) tellSurrenders() {
	told := m.toldSurrenders()
	for _, scope := range sortedKeys(m.givenUp) {
		if told >= MaxResigns {
			return
		}
		if s := m.givenUp[scope]; m.now >= s.tellAt {
			s.tellAt = m.now.Add(m.retryAfter())
			m.sendResign(scope, s.fence)
			told++
		}
	}
}

// toldSurrenders counts those that were told and may yet take effect.
func (m *Member) toldSurrenders() (told int) {
	for _, scope := range sortedKeys(m.givenUp) {
		if at := m.givenUp[scope].tellAt; at != Never && at > m.now {
			told++
		}
	}
	return told
}

// sendKeepalive renews the session. Its sending time is read before it is sent, so
// the lease it will be good for starts no later than the registrar's receipt.
func (m *Member) sendKeepalive() {
	m.number++
	if len(m.sent) == MaxInFlight {
		m.sent = m.sent[1:]
	}
	m.sent = append(m.sent, sentKeepalive{number: m.number, at: m.now})
	m.keepaliveAt = m.now.Add(m.interval())
	m.out = append(m.out, MemberMessage{Keepalive: &Keepalive{
		Session: m.session, Number: m.number, Cursor: m.cursor, ViewRevision: m.viewRevision, Claims: m.claims(m.now, &m.claimFrom),
	}})
}

// interval is TTL/5, or less where the renewal lead time asks for it.
func (m *Member) interval() time.Duration {
	d := KeepaliveInterval(m.cfg.TTL)
	if lead := m.cfg.RenewalLead; lead > 0 {
		d = min(d, max(m.cfg.Epsilon.Shrink(m.cfg.TTL)-lead, time.Millisecond))
	}
	return d
}

func (m *Member) sendStand(s *standing) {
	id := m.requestID(standName(s))
	if s.withdraw {
		m.command(id, &logpb.Command{Kind: &logpb.Command_Withdraw{Withdraw: &logpb.Withdraw{Session: uint64(m.session), Selector: s.selector, Number: s.number}}})
		return
	}
	m.command(id, &logpb.Command{Kind: &logpb.Command_Stand{
		Stand: &logpb.Stand{Session: uint64(m.session), Selector: s.selector, Priority: s.priority, Number: s.number},
	}})
}

func (m *Member) sendResign(scope string, fence uint64) {
	m.command(m.requestID(fmt.Sprintf("resign-%d", fence)), &logpb.Command{Kind: &logpb.Command_Resign{
		Resign: &logpb.Resign{Session: uint64(m.session), Scope: scope, Fence: fence},
	}})
}

// requestID names a request of this session, the same at every repetition.
func (m *Member) requestID(what string) string {
	return fmt.Sprintf("%s/%d/%s", m.cfg.Instance, m.attempt, what)
}

func (m *Member) command(id string, c *logpb.Command) {
	c.RequestId, c.Base, c.Actor = id, m.cursor, m.cfg.MemberID
	if id == m.openID {
		c.Base = m.openBase
	}
	m.out = append(m.out, MemberMessage{Command: c})
}

// noticeLapse ends the session on the member's side when its lease has run out: what
// was lost stays lost, and is led again only under a higher fence. What the process
// still does under the old one can then be told from what it does under the new.
// The registry hears of it with the opening of the next session, which replaces
// this one: the member has stopped acting on it.
func (m *Member) noticeLapse() {
	if !m.leased || m.now < m.leaseUntil {
		return
	}
	m.dropGrants(ReasonLeaseLapsed)
	m.changed(MemberChange{Kind: ChangeSessionLost, Reason: ReasonLeaseLapsed})
	m.cfg.Replaces = m.session
	m.reset()
	m.state, m.dueAt = sessionNone, m.now.Add(m.cfg.Backoff)
}

func standName(s *standing) string {
	return fmt.Sprintf("stand-%d", s.number)
}

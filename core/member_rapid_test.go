package core

import (
	"fmt"
	"strings"
	"testing"
	"time"

	"pgregory.net/rapid"
)

// memberMachine plays a world that answers late, twice, out of order and with
// stories of the past, and judges what the member believes from a plain list of
// what it sent and was told.
type memberMachine struct {
	m      *Member
	now    Time
	ttl    time.Duration
	manual bool

	session  SessionID
	next     SessionID
	lapsed   SessionID // and not replaced yet
	openID   string
	asked    bool // an opening is under way
	sent     map[uint64]Time
	believes Time // until, by the rules
	leased   bool // the lease began; once it has run out, the session is over
	cursor   uint64
	view     map[string]Grant
	givenUp  map[string]uint64
	closed   bool
	fence    uint64
	gained   map[string]uint64 // by what the member told its application
	resigns  map[string]bool   // told since the last view
}

func TestMemberBelievesWhatItMay(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		m := &memberMachine{now: 1, ttl: time.Second, next: 1, gained: map[string]uint64{}, resigns: map[string]bool{}}
		m.forget()
		m.manual = rapid.Bool().Draw(t, "manual")
		var err error
		m.m, err = NewMember(MemberConfig{MemberID: "m", TTL: m.ttl, Instance: "i", Manual: m.manual}, m.now)
		if err != nil {
			t.Fatal(err)
		}
		t.Repeat(map[string]func(*rapid.T){
			"":      m.check,
			"tick":  m.tick,
			"sleep": m.sleep, "sleep more": m.sleep,
			"advance": func(t *rapid.T) {
				m.now = m.now.Add(time.Duration(rapid.IntRange(1, 300).Draw(t, "ms")) * time.Millisecond)
			},
			"answer": m.answer, "answer more": m.answer,
			"acknowledge": m.acknowledge, "acknowledge more": m.acknowledge,
			"show": m.show, "show more": m.show, "show most": m.show,
			"give up": m.giveUp,
			"attach":  func(t *rapid.T) { m.m.Attached(m.now); m.take(t) },
			"stand":   func(t *rapid.T) { _ = m.m.Stand(someSelector(t), 1); m.take(t) },
			"close":   m.close,
		})
	})
}

// forget: a session is over, or none has begun.
func (m *memberMachine) forget() {
	m.session, m.believes, m.leased, m.asked = 0, 0, false, false
	m.sent, m.view, m.givenUp = map[uint64]Time{}, map[string]Grant{}, map[string]uint64{}
}

// lapse: at the next step after its lease ran out, the member is done with the
// session, and the next one replaces it.
func (m *memberMachine) lapse() {
	if m.session != 0 && !m.closed && m.leased && m.now >= m.believes {
		m.lapsed = m.session
		m.forget()
	}
}

func (m *memberMachine) tick(t *rapid.T) {
	m.lapse()
	m.m.Tick(m.now)
	m.take(t)
	if d := m.m.Deadline(); d <= m.now {
		t.Fatalf("after a tick at %d the deadline is %d", m.now, d)
	}
}

// sleep until the member wants to be woken.
func (m *memberMachine) sleep(t *rapid.T) {
	if d := m.m.Deadline(); d != Never {
		m.now = max(m.now, d)
		m.tick(t)
	}
}

// take reads what the member gave out.
func (m *memberMachine) take(t *rapid.T) {
	out := m.m.TakeOutput()
	for _, msg := range out.Messages {
		if k := msg.Keepalive; k != nil {
			if m.closed || k.Session != m.session || m.sent[k.Number] != 0 || k.Number != uint64(len(m.sent))+1 || k.Cursor != m.cursor {
				t.Fatalf("keepalive %+v in session %d, cursor %d, closed %v", k, m.session, m.cursor, m.closed)
			}
			m.sent[k.Number] = m.now
			continue
		}
		if o := msg.Command.GetOpenSession(); o != nil {
			if m.session != 0 || (m.asked && m.openID != msg.Command.RequestId) {
				t.Fatalf("opens as %s; asked as %s, session %d", msg.Command.RequestId, m.openID, m.session)
			}
			if SessionID(o.Replaces) != m.lapsed {
				t.Fatalf("opens in the place of session %d, lapsed was %d", o.Replaces, m.lapsed)
			}
			m.asked, m.openID = true, msg.Command.RequestId
		}
		if r := msg.Command.GetResign(); r != nil {
			if m.givenUp[r.Scope] != r.Fence {
				t.Fatalf("resigns %s under fence %d, given up was %d", r.Scope, r.Fence, m.givenUp[r.Scope])
			}
			m.resigns[r.Scope] = true
		}
	}
	for _, c := range out.Changes {
		m.changed(t, c)
	}
}

// changed: what the application is told makes sense by itself.
func (m *memberMachine) changed(t *rapid.T, c MemberChange) {
	switch c.Kind {
	case ChangeGained:
		if m.gained[c.Token.Scope] != 0 {
			t.Fatalf("%s gained under fence %d while held under %d", c.Token.Scope, c.Token.Fence, m.gained[c.Token.Scope])
		}
		m.gained[c.Token.Scope] = c.Token.Fence
	case ChangeLost:
		if m.gained[c.Token.Scope] != c.Token.Fence {
			t.Fatalf("%s lost under fence %d, held was %d", c.Token.Scope, c.Token.Fence, m.gained[c.Token.Scope])
		}
		delete(m.gained, c.Token.Scope)
	}
}

func (m *memberMachine) answer(t *rapid.T) {
	m.lapse()
	if !m.asked || m.closed {
		return
	}
	m.cursor++
	r := &Result{Revision: m.cursor}
	if rapid.IntRange(0, 5).Draw(t, "refused") == 0 {
		r.Code = rapid.SampledFrom([]string{string(CodeLimit), string(CodeTooOld)}).Draw(t, "code")
		m.asked = false
	} else {
		m.session, r.Session, m.lapsed = m.next, uint64(m.next), 0
		m.next++
		m.sent, m.view, m.givenUp, m.believes, m.asked = map[uint64]Time{}, map[string]Grant{}, map[string]uint64{}, 0, false
		m.leased = false
	}
	m.m.Step(m.now, ReplicaMessage{Reply: &Reply{RequestID: m.openID, Result: r}})
	m.take(t)
}

// acknowledge any keepalive of any session, sent or not.
func (m *memberMachine) acknowledge(t *rapid.T) {
	m.lapse()
	a := &Ack{Session: m.someSession(t), Number: rapid.Uint64Range(1, uint64(len(m.sent))+2).Draw(t, "number")}
	m.m.Step(m.now, ReplicaMessage{Ack: a})
	if at, ok := m.sent[a.Number]; ok && a.Session == m.session && !m.closed && m.session != 0 {
		m.believes = max(m.believes, at.Add(DefaultEpsilon.Shrink(m.ttl)))
		m.leased = m.leased || m.now < m.believes
	}
	m.take(t)
}

func (m *memberMachine) someSession(t *rapid.T) SessionID {
	if m.session != 0 && rapid.IntRange(0, 5).Draw(t, "other session") != 0 {
		return m.session
	}
	return SessionID(rapid.Uint64Range(1, uint64(m.next)).Draw(t, "session"))
}

// show a view, of now or of the past, true or not.
func (m *memberMachine) show(t *rapid.T) {
	m.lapse()
	v := &View{Session: m.someSession(t), Live: rapid.IntRange(0, 15).Draw(t, "ended") != 15}
	v.Revision = m.cursor + rapid.Uint64Range(0, 3).Draw(t, "ahead")
	if back := rapid.Uint64Range(0, 6).Draw(t, "behind"); back < 3 {
		v.Revision -= min(back, v.Revision)
	}
	for _, scope := range []string{"s", "t", "u"} {
		if g, shown := m.someGrant(t, scope, v.Session); shown && v.Live {
			v.Grants = append(v.Grants, g)
		}
	}
	m.m.Step(m.now, ReplicaMessage{View: v})
	if v.Session == m.session && m.session != 0 && v.Revision >= m.cursor {
		m.seen(v)
	}
	m.take(t)
	if m.session == 0 {
		m.forget()
	}
}

func (m *memberMachine) seen(v *View) {
	m.cursor = v.Revision
	m.view = map[string]Grant{}
	for _, g := range v.Grants {
		m.view[g.Scope] = g
		if g.Ask != nil && !m.manual { // given up at once
			m.givenUp[g.Scope] = max(m.givenUp[g.Scope], g.Fence)
		}
	}
	if !v.Live {
		m.session = 0
		m.believes = 0
	}
}

func (m *memberMachine) someGrant(t *rapid.T, scope string, session SessionID) (g Grant, shown bool) {
	old, had := m.view[scope]
	switch rapid.SampledFrom([]string{"same", "same", "new", "none", "asked", "given up"}).Draw(t, scope) {
	case "same":
		return old, had
	case "new":
		m.fence++
		return Grant{Token: Token{Scope: scope, Session: session, Term: 1, Fence: m.fence}}, true
	case "asked":
		old.Ask = &Ask{Reason: AskDrain}
		return old, had
	case "given up":
		return Grant{Token: Token{Scope: scope, Session: session, Term: 1, Fence: max(1, m.givenUp[scope])}}, m.givenUp[scope] != 0
	}
	return Grant{}, false
}

// giveUp what is held, or what no view has shown yet.
func (m *memberMachine) giveUp(t *rapid.T) {
	if m.session == 0 || m.closed {
		return
	}
	scope := rapid.SampledFrom([]string{"s", "t", "u"}).Draw(t, "scope")
	fence := m.view[scope].Fence
	if fence == 0 || rapid.Bool().Draw(t, "unseen") {
		m.fence++
		fence = m.fence
	}
	m.givenUp[scope] = max(m.givenUp[scope], fence)
	m.resigns[scope] = false
	m.m.GiveUp(scope, fence)
	if _, held := m.m.Holds(scope, m.now); held {
		t.Fatalf("holds %s right after it was given up", scope)
	}
	m.take(t)
	m.tick(t)
	if s := m.m.givenUp[scope]; m.session != 0 && !m.resigns[scope] && s.tellAt <= m.now {
		t.Fatalf("the surrender of %s was not told", scope)
	}
}

func (m *memberMachine) close(t *rapid.T) {
	if rapid.IntRange(0, 9).Draw(t, "really") != 0 {
		return
	}
	m.m.Close()
	m.closed = true
	m.take(t)
	if len(m.gained) > 0 {
		t.Fatalf("closed, and never told as lost: %v", m.gained)
	}
}

// check holds what the member believes against the rules, both ways.
func (m *memberMachine) check(t *rapid.T) {
	if m.session == 0 {
		for scope := range m.view {
			delete(m.view, scope)
		}
	}
	for _, scope := range []string{"s", "t", "u"} {
		g, shown := m.view[scope]
		may := shown && m.session != 0 && !m.closed && m.now < m.believes && g.Fence > m.givenUp[scope]
		tok, holds := m.m.Holds(scope, m.now)
		if holds != may || (holds && tok.Fence != g.Fence) {
			t.Fatalf("%s: holds %v under %d; by the rules %v under %d (now %d, until %d, given up %d)", scope, holds, tok.Fence, may, g.Fence, m.now, m.believes, m.givenUp[scope])
		}
	}
	told := fmt.Sprint(m.m.Held(m.now))
	for scope, fence := range m.gained {
		if m.m.leased && m.now < m.believes && !strings.Contains(told, fmt.Sprintf("{%s ", scope)) {
			t.Fatalf("%s under fence %d was told as gained and is not held: %s", scope, fence, told)
		}
	}
	if len(m.m.Held(m.now)) > len(m.gained) {
		t.Fatalf("held %s, told as gained %v", told, m.gained)
	}
}

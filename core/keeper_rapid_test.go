package core

import (
	"slices"
	"testing"
	"time"

	"google.golang.org/protobuf/proto"
	"pgregory.net/rapid"

	"github.com/omnirelay/leadership/core/logpb"
	"github.com/omnirelay/leadership/core/plant"
)

// keeperMachine drives a keeper through random offices over a log of its own, and
// judges every acknowledgement, note and expiry by the rules as DESIGN words them,
// from a plain list of what happened.
type keeperMachine struct {
	k       *Keeper
	g       *Registry
	now     Time
	term    uint64
	office  bool
	open    bool
	notedAt map[SessionID]Time
	log     []loggedDecision // proposed or taken over, and not yet applied
	numbers map[SessionID]uint64

	// Of the office.
	seq      int // orders everything that happens
	begun    map[SessionID]silence
	receipts []receipt
	checks   []int // by number-1: when it was begun
	proofs   map[int]bool
	decided  uint64
	notes    map[SessionID]uint64 // the latest note proposed
	held     map[SessionID]bool
	expiring map[SessionID]bool
	acked    map[SessionID]uint64
	// What was said of members, and when a session was last noted for that.
	suspected []suspicion
	early     map[SessionID]Time
}

type loggedDecision struct {
	term uint64
	d    *logpb.KeeperDecision
}

type receipt struct {
	session SessionID
	number  uint64
	at      Time
	seq     int
}

// silence is what is known of a session when an office or the session begins.
type silence struct {
	since Time
	aged  time.Duration
}

const keeperTTL = time.Second

func TestKeeperKeepsTheRules(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		m := &keeperMachine{
			k: newKeeper(DefaultEpsilon, plant.Set{}), g: NewRegistry(0), now: 1, term: 1,
			notedAt: map[SessionID]Time{}, numbers: map[SessionID]uint64{},
		}
		for range 3 {
			m.openSession(t)
		}
		m.begin(t)
		m.firstEntry(t)
		t.Repeat(map[string]func(*rapid.T){
			"":        m.settled,
			"advance": m.advance, "advance more": m.advance,
			"receive": m.receive, "receive more": m.receive,
			"check":       func(t *rapid.T) { m.check() },
			"confirm":     m.confirm,
			"tick":        m.tick,
			"apply":       m.apply,
			"end":         m.end,
			"begin":       m.begin,
			"first entry": m.firstEntry,
			"elsewhere":   m.elsewhere,
			"suspect":     m.suspect,
			"open":        m.openSession,
		})
		m.finally(t)
	})
}

func (m *keeperMachine) advance(t *rapid.T) {
	m.now = m.now.Add(time.Duration(rapid.IntRange(1, 400).Draw(t, "ms")) * time.Millisecond)
}

func (m *keeperMachine) someSession(t *rapid.T) SessionID {
	return SessionID(rapid.Uint64Range(1, uint64(m.g.nextSession)).Draw(t, "session"))
}

func (m *keeperMachine) openSession(t *rapid.T) {
	if m.office && !m.open || len(m.g.sessions) >= 4 || len(m.log) > 0 {
		return
	}
	m.seq++
	m.entry(t, m.term, &logpb.Command{RequestId: m.g.endCursor().String(), Base: m.g.revision, Kind: &logpb.Command_OpenSession{
		OpenSession: &logpb.OpenSession{MemberId: "m", Weight: 1, TtlNs: int64(keeperTTL)},
	}})
	if m.open {
		m.begun[m.g.nextSession-1] = silence{since: m.now}
	}
}

// entry applies one entry as a replica does.
func (m *keeperMachine) entry(t *rapid.T, term uint64, c *logpb.Command) *Outcome {
	out, err := m.g.Apply(m.g.revision+1, term, must(proto.Marshal(&logpb.Entry{Commands: []*logpb.Command{c}})))
	if err != nil {
		t.Fatal(err)
	}
	for _, id := range out.Notes {
		m.notedAt[id] = m.now
	}
	for _, id := range out.Sessions {
		if s, live := m.g.Session(id); live {
			m.k.Opened(m.now, id, time.Duration(s.TTL))
		} else {
			m.k.Ended(id)
		}
	}
	for _, a := range out.Keeper {
		m.k.Applied(a)
		if d := a.Decision; m.office && d.Term == m.term && !a.Void && d.Kind == logpb.KeeperDecision_KIND_CANCEL && d.Number > m.notes[SessionID(d.Session)] {
			m.held[SessionID(d.Session)] = false
		}
	}
	m.takeAcks(t)
	return out
}

func (m *keeperMachine) begin(t *rapid.T) {
	if m.office {
		return
	}
	m.term++
	m.office, m.open, m.decided = true, false, 0
	m.receipts, m.checks, m.proofs = nil, nil, map[int]bool{}
	m.begun, m.notes = map[SessionID]silence{}, map[SessionID]uint64{}
	m.held, m.expiring, m.acked = map[SessionID]bool{}, map[SessionID]bool{}, map[SessionID]uint64{}
	m.suspected, m.early = nil, map[SessionID]Time{}
	m.k.Begin(m.term)
	if rapid.Bool().Draw(t, "what was proposed is lost") {
		m.log = nil
	}
}

func (m *keeperMachine) firstEntry(t *rapid.T) {
	if !m.office || m.open {
		return
	}
	m.applyAll(t)
	m.open = true
	m.receipts = slices.DeleteFunc(m.receipts, func(r receipt) bool {
		_, live := m.g.Session(r.session)
		return !live
	})
	for _, s := range m.g.Sessions() {
		b := silence{since: m.now}
		if s.Noted {
			b.aged = time.Duration(s.NotedAge) + m.now.Sub(m.notedAt[s.ID])
			m.held[s.ID] = true
		}
		m.begun[s.ID] = b
	}
	m.k.Open(m.now, m.g, m.notedAt)
	m.takeAcks(t)
}

func (m *keeperMachine) end(t *rapid.T) {
	m.k.End()
	m.office, m.open = false, false
	m.takeAcks(t)
}

// elsewhere: another registrar decides, in a term of its own.
func (m *keeperMachine) elsewhere(t *rapid.T) {
	if m.office {
		return
	}
	m.term++
	kind := logpb.KeeperDecision_Kind(rapid.SampledFrom([]int32{1, 1, 1, 2, 3}).Draw(t, "kind"))
	age := time.Duration(rapid.IntRange(400, 900).Draw(t, "age")) * time.Millisecond
	m.entry(t, m.term, &logpb.Command{Kind: &logpb.Command_Keeper{Keeper: &logpb.KeeperDecision{
		Term: m.term, Number: 1, Kind: kind, Session: uint64(m.someSession(t)), AgeNs: int64(age),
	}}})
}

func (m *keeperMachine) receive(t *rapid.T) {
	id := m.someSession(t)
	m.numbers[id]++
	number := m.numbers[id]
	if rapid.IntRange(0, 4).Draw(t, "old") == 0 {
		number = rapid.Uint64Range(1, number).Draw(t, "number")
	}
	m.seq++
	if _, live := m.g.Session(id); m.office && (live || !m.open) && !m.expiring[id] && number > m.latest(id).number {
		m.receipts = append(m.receipts, receipt{id, number, m.now, m.seq})
	}
	m.k.Receive(m.now, 1, &KeepaliveForward{Session: id, Number: number, Conn: 1})
	m.takeAcks(t)
}

// latest is the latest receipt that counts, zero when there is none.
func (m *keeperMachine) latest(id SessionID) (last receipt) {
	for _, r := range m.receipts {
		if r.session == id {
			last = r
		}
	}
	return last
}

func (m *keeperMachine) check() {
	if m.k.WantsCheck() {
		m.seq++
		m.k.BeginCheck()
		m.checks = append(m.checks, m.seq)
	}
}

func (m *keeperMachine) confirm(t *rapid.T) {
	if len(m.checks) == 0 || !m.office {
		return
	}
	n := rapid.IntRange(1, len(m.checks)).Draw(t, "check")
	m.proofs[n] = true
	m.k.Confirmed(uint64(n))
	m.takeAcks(t)
}

func (m *keeperMachine) tick(t *rapid.T) {
	for _, d := range m.k.Tick(m.now) {
		m.judge(t, d)
		if rapid.IntRange(0, 5).Draw(t, "dropped") == 0 {
			m.k.Dropped(m.now, d)
			if d.Kind == logpb.KeeperDecision_KIND_EXPIRE {
				m.expiring[SessionID(d.Session)] = false
			}
			continue
		}
		m.log = append(m.log, loggedDecision{m.term, d})
	}
	m.takeAcks(t)
}

// judge holds one decision against the rules.
func (m *keeperMachine) judge(t *rapid.T, d *logpb.KeeperDecision) {
	id := SessionID(d.Session)
	if !m.open || d.Term != m.term || d.Number != m.decided+1 {
		t.Fatalf("%s after number %d; open %v in term %d", storyKeeperDecision(d), m.decided, m.open, m.term)
	}
	m.decided = d.Number
	quiet, counted := m.silent(t, id)
	switch d.Kind {
	case logpb.KeeperDecision_KIND_EXPIRE:
		if counted < DefaultEpsilon.Stretch(keeperTTL) || m.expiring[id] {
			t.Fatalf("%s after %v of silence; pending already: %v", storyKeeperDecision(d), counted, m.expiring[id])
		}
		m.expiring[id] = true
	case logpb.KeeperDecision_KIND_NOTE:
		if quiet < NoteAfter(keeperTTL) && !m.mayNoteEarly(id, quiet) || time.Duration(d.AgeNs) != counted {
			t.Fatalf("%s: silent for %v, with what was noted before for %v", storyKeeperDecision(d), quiet, counted)
		}
		m.notes[id], m.held[id] = d.Number, true
	case logpb.KeeperDecision_KIND_CANCEL:
		if last := m.latest(id); !m.held[id] || last.number == 0 {
			t.Fatalf("%s: held %v, latest receipt %+v", storyKeeperDecision(d), m.held[id], last)
		}
	}
}

// suspect says that a member is gone, now or after a grace.
func (m *keeperMachine) suspect(t *rapid.T) {
	id, grace := m.someSession(t), time.Duration(rapid.IntRange(0, 100).Draw(t, "grace"))*time.Millisecond
	m.k.Suspect(m.now, id, grace)
	if m.open {
		m.suspected = append(m.suspected, suspicion{id, m.now, m.now.Add(grace)})
	}
}

// suspicion is that somebody said at a moment that a member is gone, and from when on that
// counts.
type suspicion struct {
	session SessionID
	at, due Time
}

// mayNoteEarly reports whether a note before its time follows a suspicion since which
// nothing was received, and is the only one in NoteAfter.
func (m *keeperMachine) mayNoteEarly(id SessionID, quiet time.Duration) bool {
	last, had := m.early[id]
	if had && m.now.Sub(last) < NoteAfter(keeperTTL) {
		return false
	}
	for _, s := range m.suspected {
		if s.session == id && s.due <= m.now && m.now.Sub(s.at) <= quiet {
			m.early[id] = m.now
			return true
		}
	}
	return false
}

// silent is how long nothing was received in this office, and how long in all.
func (m *keeperMachine) silent(t *rapid.T, id SessionID) (quiet, counted time.Duration) {
	if last := m.latest(id); last.number != 0 {
		return m.now.Sub(last.at), m.now.Sub(last.at)
	}
	b, known := m.begun[id]
	if !known {
		t.Fatalf("session %d is not known to the office", id)
	}
	return m.now.Sub(b.since), m.now.Sub(b.since) + b.aged
}

func (m *keeperMachine) apply(t *rapid.T) {
	if m.office && !m.open || len(m.log) == 0 {
		return
	}
	first := m.log[0]
	m.log = m.log[1:]
	m.entry(t, first.term, &logpb.Command{Kind: &logpb.Command_Keeper{Keeper: first.d}})
}

func (m *keeperMachine) applyAll(t *rapid.T) {
	for len(m.log) > 0 {
		first := m.log[0]
		m.log = m.log[1:]
		m.entry(t, first.term, &logpb.Command{Kind: &logpb.Command_Keeper{Keeper: first.d}})
	}
}

// takeAcks holds every acknowledgement against the rules.
func (m *keeperMachine) takeAcks(t *rapid.T) {
	for _, a := range m.k.TakeAcks() {
		if !m.open {
			t.Fatalf("keepalive %d of session %d is acknowledged without an open office", a.number, a.session)
		}
		if _, live := m.g.Session(a.session); !live || m.expiring[a.session] || m.held[a.session] {
			t.Fatalf("keepalive %d of session %d is acknowledged: live %v, expiring %v, held %v", a.number, a.session, live, m.expiring[a.session], m.held[a.session])
		}
		if a.number <= m.acked[a.session] || !m.proven(a) {
			t.Fatalf("keepalive %d of session %d is acknowledged after %d, or without a check begun after its receipt", a.number, a.session, m.acked[a.session])
		}
		m.acked[a.session] = a.number
	}
}

// proven: some check begun after the receipt was confirmed.
func (m *keeperMachine) proven(a keeperAck) bool {
	for _, r := range m.receipts {
		if r.session != a.session || r.number != a.number {
			continue
		}
		for n, begun := range m.checks {
			if begun <= r.seq {
				continue
			}
			for proof := range m.proofs {
				if proof >= n+1 {
					return true
				}
			}
		}
	}
	return false
}

// settled: a keeper that has decided sleeps. Three rounds, at most: a cancel that was
// due, a note of the silence since, the cancel for what is waiting.
func (m *keeperMachine) settled(t *rapid.T) {
	m.tick(t)
	m.tick(t)
	m.tick(t)
	if d := m.k.Deadline(m.now); d <= m.now {
		t.Fatalf("at %d the deadline is still %d", m.now, d)
	}
}

// finally: in an open office with a log that takes everything, one more keepalive of
// every live session is acknowledged.
func (m *keeperMachine) finally(t *rapid.T) {
	m.begin(t)
	m.firstEntry(t)
	m.applyAll(t)
	for _, s := range m.g.Sessions() {
		if m.expiring[s.ID] {
			continue
		}
		m.numbers[s.ID]++
		m.seq++
		m.receipts = append(m.receipts, receipt{s.ID, m.numbers[s.ID], m.now, m.seq})
		m.k.Receive(m.now, 1, &KeepaliveForward{Session: s.ID, Number: m.numbers[s.ID], Conn: 1})
	}
	for range 2 {
		m.k.Confirmed(uint64(len(m.checks)))
		m.proofs[len(m.checks)] = true
		m.check()
	}
	m.k.Confirmed(uint64(len(m.checks)))
	m.proofs[len(m.checks)] = true
	for range 4 {
		m.now = m.now.Add(10 * time.Millisecond)
		for _, d := range m.k.Tick(m.now) {
			m.judge(t, d)
			m.log = append(m.log, loggedDecision{m.term, d})
		}
		m.applyAll(t)
		m.now = m.now.Add(50 * time.Millisecond)
	}
	m.takeAcks(t)
	for _, s := range m.g.Sessions() {
		if m.acked[s.ID] != m.numbers[s.ID] && !m.expiring[s.ID] {
			t.Fatalf("keepalive %d of session %d is not acknowledged, the last was %d", m.numbers[s.ID], s.ID, m.acked[s.ID])
		}
	}
}

package core

import (
	"time"

	"github.com/omnirelay/leadership/core/logpb"
	"github.com/omnirelay/leadership/core/plant"
)

// Keeper is the registrar's keeping of time: from receipts of keepalives to
// acknowledgements, notes of silence and expiries.
//
// Its safety rests on three orders. A member counts its lease from the sending of
// a keepalive, the keeper from its receipt, which is later; the member gives up
// before TTL has passed in true time, the keeper waits until it surely has. An
// acknowledgement needs a confirmation of the office that was begun after the
// receipt, so no later registrar can have been silent about that keepalive for
// long. And what the keeper wrote or is about to write about a session (a note, an
// expiry) holds acknowledgements back until the log says otherwise.
//
// Everything it knows belongs to one office, one registrar's time in one term of
// the log, and dies with it.
type Keeper struct {
	epsilon Epsilon
	plants  plant.Set

	term     uint64 // of the office; 0: none
	open     bool   // the office's first entry is applied
	number   uint64 // of the latest decision
	sessions map[SessionID]*tended

	checks   uint64 // begun in this office
	inFlight bool   // the latest check is not confirmed yet

	acks  []keeperAck
	late  []*logpb.KeeperDecision // plant NoteAfterCancel
	dirty bool
	next  Time
	// pausedUntil: the log took nothing, so nothing is decided before.
	pausedUntil Time
}

// tended is one session in the light of one office.
type tended struct {
	id  SessionID
	ttl time.Duration

	// Silence is counted from base, the latest receipt, acknowledged or not; before
	// the first, from the office's first entry. agedBefore is the silence that the
	// log had noted before that.
	base       Time
	heard      bool // something was received in this office
	born       bool // it was opened in this office
	agedBefore time.Duration
	acked      Time // plant AgeFromAck
	counted    uint64
	nextNote   Time

	// suspectAt is when the session is noted for a suspicion unless it is heard of
	// before; suspectedAt when that was done last.
	suspectAt   Time
	suspectedAt Time
	suspected   bool // the latest note was for a suspicion; for a planted bug

	// waiting holds the keepalives that are not acknowledged yet, oldest first: at
	// most one that is confirmed but held back, one that a check under way will
	// confirm, and the latest. Were there place for the latest only, a check that
	// takes longer than the time between two keepalives would never acknowledge any.
	waiting []*waitingKeepalive

	// held: a note stands in the log or was proposed in this office, and no cancel
	// proposed after it was applied in this term.
	held          bool
	lastNote      uint64 // number of the latest note of this office, 0: none
	cancelPending uint64 // number of the proposed cancel, 0: none
	wantCancel    bool
	expirePending uint64 // number of the proposed expiry, 0: none
}

// waitingKeepalive is a received keepalive that is not acknowledged yet.
type waitingKeepalive struct {
	number     uint64
	home       NodeID
	conn       ConnID
	receivedAt Time
	check      uint64 // the check that must confirm it; 0: not begun
	confirmed  bool
}

// keeperAck is an acknowledgement on its way to the member's replica.
type keeperAck struct {
	home    NodeID
	session SessionID
	number  uint64
	conn    ConnID
}

func newKeeper(e Epsilon, p plant.Set) *Keeper {
	return &Keeper{epsilon: e, plants: p, sessions: map[SessionID]*tended{}, next: Never, pausedUntil: minTime}
}

// Begin starts an office. Its first entry is not applied yet: nothing is
// acknowledged and nothing expires.
func (k *Keeper) Begin(term uint64) {
	outlived := k.sessions
	*k = *newKeeper(k.epsilon, k.plants)
	k.term = term
	if k.plants.Has(plant.OfficeOutlived) {
		k.sessions = outlived
	}
}

// End ends the office. Deadlines and waiting keepalives die with it.
func (k *Keeper) End() {
	outlived := k.sessions
	*k = *newKeeper(k.epsilon, k.plants)
	if k.plants.Has(plant.OfficeOutlived) {
		k.sessions = outlived
	}
}

// InOffice reports whether an office has begun.
func (k *Keeper) InOffice() bool { return k.term != 0 }

// Open is called when the office's first entry is applied. notedAt holds when,
// on this replica's clock, it applied each note that stands.
func (k *Keeper) Open(now Time, g *Registry, notedAt map[SessionID]Time) {
	k.open, k.dirty = true, true
	for _, id := range sortedKeys(k.sessions) {
		if _, live := g.Session(id); !live {
			delete(k.sessions, id)
		}
	}
	for _, s := range g.Sessions() {
		t := k.tend(s.ID)
		t.ttl, t.held = time.Duration(s.TTL), s.Noted
		if !t.heard {
			t.base, t.acked = now, now
			if s.Noted {
				t.agedBefore = time.Duration(s.NotedAge) + now.Sub(notedAt[s.ID])
			}
			if k.plants.Has(plant.ExpireWithoutWait) {
				t.agedBefore = k.epsilon.Stretch(t.ttl)
			}
		}
		t.wantCancel = t.held && len(t.waiting) > 0
		t.nextNote = t.base.Add(NoteAfter(t.ttl))
		k.settle(t)
	}
}

func (k *Keeper) tend(id SessionID) *tended {
	t := k.sessions[id]
	if t == nil {
		t = &tended{id: id, suspectAt: Never, suspectedAt: minTime}
		k.sessions[id] = t
	}
	return t
}

// Opened tells of a session that was opened, at now as this registrar applied it.
func (k *Keeper) Opened(now Time, id SessionID, ttl time.Duration) {
	if !k.open || k.sessions[id] != nil {
		return
	}
	t := k.tend(id)
	t.ttl, t.base, t.acked, t.born = ttl, now, now, true
	t.nextNote = now.Add(NoteAfter(ttl))
	k.dirty = true
}

// Ended tells of a session that ended.
func (k *Keeper) Ended(id SessionID) {
	delete(k.sessions, id)
	k.dirty = true
}

// Receive takes a keepalive, stamped with a clock reading that is later than its
// arrival. A number not above the last counted does nothing. It reports whether the
// keepalive is overtaken: a later one of the session was counted.
func (k *Keeper) Receive(now Time, home NodeID, f *KeepaliveForward) (overtaken bool) {
	if k.term == 0 {
		return false
	}
	t := k.sessions[f.Session]
	if t == nil {
		if k.plants.Has(plant.RenewExpired) {
			k.acks = append(k.acks, keeperAck{home: home, session: f.Session, number: f.Number, conn: f.Conn})
			return false
		}
		if k.open || len(k.sessions) >= MaxSessions {
			return false // not a live session
		}
		t = k.tend(f.Session) // looked at again when the office opens
	}
	if f.Number <= t.counted || (t.expirePending != 0 && !k.plants.Has(plant.AckWhileExpiring)) {
		return f.Number <= t.counted
	}
	t.counted = f.Number
	t.base, t.agedBefore, t.heard = now, 0, true
	t.nextNote, t.suspectAt = now.Add(NoteAfter(t.ttl)), Never
	w := &waitingKeepalive{number: f.Number, home: home, conn: f.Conn, receivedAt: now}
	if k.inFlight && k.plants.Has(plant.OldCheckConfirms) {
		w.check = k.checks
	}
	if k.plants.Has(plant.AckBeforeQuorum) || (!k.open && k.plants.Has(plant.KeepalivesBeforeFirstEntry)) {
		w.confirmed = true
	}
	t.wait(w)
	// A cancel must be proposed after the note it cancels.
	t.wantCancel = t.held && t.cancelPending == 0 && !(t.suspected && k.plants.Has(plant.SuspicionNotCancelled))
	k.dirty = true
	k.settle(t)
	return false
}

// Suspect notes a session silent when grace has passed, with the age that its silence
// has by then, unless it is heard of before. It is for what is said of a member by
// others, which ends no lease: the note is like any other, and the next keepalive
// cancels it. Suspicions come to at most one note in NoteAfter.
func (k *Keeper) Suspect(now Time, id SessionID, grace time.Duration) {
	t := k.sessions[id]
	if !k.open || t == nil || t.expirePending != 0 || k.plants.Has(plant.NoNotes) {
		return
	}
	if t.held && !t.wantCancel && t.cancelPending == 0 {
		return // it is noted, and was not heard of since
	}
	at := now.Add(grace)
	if t.suspectedAt != minTime {
		at = max(at, t.suspectedAt.Add(NoteAfter(t.ttl)))
	}
	t.suspectAt = min(t.suspectAt, at)
	k.dirty = true
}

// HeardSince reports whether a session was heard of after a moment: a keepalive came, or
// it was opened. What was received before this office is not known: in its first
// NoteAfter it may have been.
func (k *Keeper) HeardSince(now Time, id SessionID, since Time) bool {
	t := k.sessions[id]
	switch {
	case t == nil:
		return false
	case t.heard || t.born:
		return t.base > since
	case t.agedBefore > 0:
		return false
	}
	return now < t.base.Add(NoteAfter(t.ttl))
}

// wait adds the latest keepalive. It takes the place of one for which no check was
// begun: that could be confirmed no earlier.
func (t *tended) wait(w *waitingKeepalive) {
	if n := len(t.waiting); n > 0 && t.waiting[n-1].check == 0 {
		t.waiting[n-1] = w
		return
	}
	t.waiting = append(t.waiting, w)
}

// latest is the keepalive received last, nil when none waits.
func (t *tended) latest() *waitingKeepalive {
	if len(t.waiting) == 0 {
		return nil
	}
	return t.waiting[len(t.waiting)-1]
}

// WantsCheck reports whether the office should be confirmed by a quorum now: some
// keepalive waits for a check begun after its receipt, and none is under way.
func (k *Keeper) WantsCheck() bool {
	if k.term == 0 || k.inFlight {
		return false
	}
	for _, id := range sortedKeys(k.sessions) {
		if w := k.sessions[id].latest(); w != nil && w.check == 0 && !w.confirmed {
			return true
		}
	}
	return false
}

// BeginCheck starts one check for every keepalive received so far and returns its
// number.
func (k *Keeper) BeginCheck() uint64 {
	k.checks++
	k.inFlight = true
	for _, id := range sortedKeys(k.sessions) {
		if w := k.sessions[id].latest(); w != nil && w.check == 0 {
			w.check = k.checks
		}
	}
	return k.checks
}

// Confirmed tells that a quorum confirmed the office after check was begun.
func (k *Keeper) Confirmed(check uint64) {
	if k.term == 0 || check > k.checks {
		return
	}
	if check == k.checks {
		k.inFlight = false
	}
	for _, id := range sortedKeys(k.sessions) {
		t := k.sessions[id]
		for _, w := range t.waiting {
			w.confirmed = w.confirmed || (w.check != 0 && w.check <= check)
		}
		k.settle(t)
	}
}

// settle acknowledges the latest confirmed keepalive if nothing holds it back at
// this very moment. Earlier ones are worth nothing beside it.
func (k *Keeper) settle(t *tended) {
	for len(t.waiting) > 1 && t.waiting[1].confirmed {
		t.waiting = t.waiting[1:]
	}
	switch {
	case len(t.waiting) == 0 || !t.waiting[0].confirmed:
		return
	case !k.open && !k.plants.Has(plant.KeepalivesBeforeFirstEntry):
		return
	case t.expirePending != 0 && !k.plants.Has(plant.AckWhileExpiring):
		return
	case t.held && !k.plants.Has(plant.AckAfterNote) && !(t.expirePending != 0 && k.plants.Has(plant.AckWhileExpiring)):
		return
	}
	w := t.waiting[0]
	k.acks = append(k.acks, keeperAck{home: w.home, session: t.id, number: w.number, conn: w.conn})
	t.acked = w.receivedAt
	t.waiting = t.waiting[1:]
}

// TakeAcks returns the acknowledgements that are due, and forgets them.
func (k *Keeper) TakeAcks() []keeperAck {
	acks := k.acks
	k.acks = nil
	return acks
}

// Tick decides what is due: expiries, notes and cancels, to be proposed in this
// order, in this term, and by nobody else.
func (k *Keeper) Tick(now Time) []*logpb.KeeperDecision {
	if !k.open || now < k.pausedUntil || (!k.dirty && now < k.next) {
		return nil
	}
	var due []*logpb.KeeperDecision
	k.next, k.dirty = Never, false
	for _, id := range sortedKeys(k.sessions) {
		t := k.sessions[id]
		if d := k.judge(now, t); d != nil {
			due = append(due, d)
		}
		k.next = min(k.next, k.deadlineOf(t))
	}
	return k.plantReorder(due)
}

// judge decides about one session: expired, silent, or heard again.
func (k *Keeper) judge(now Time, t *tended) *logpb.KeeperDecision {
	switch {
	case t.expirePending != 0:
		return nil
	case now >= k.expiryOf(t):
		d := k.decision(logpb.KeeperDecision_KIND_EXPIRE, t)
		t.expirePending = d.Number
		return d
	case t.wantCancel:
		d := k.decision(logpb.KeeperDecision_KIND_CANCEL, t)
		t.cancelPending, t.wantCancel = d.Number, false
		return d
	case now >= min(t.nextNote, t.suspectAt) && !k.plants.Has(plant.NoNotes):
		d := k.decision(logpb.KeeperDecision_KIND_NOTE, t)
		d.AgeNs = int64(now.Sub(t.base) + t.agedBefore)
		if k.plants.Has(plant.AgeFromAck) {
			d.AgeNs = int64(now.Sub(t.acked) + t.agedBefore)
		}
		t.lastNote, t.cancelPending = d.Number, 0
		t.suspected = t.suspectAt <= now
		if t.suspected {
			t.suspectAt, t.suspectedAt = Never, now
		}
		if !k.plants.Has(plant.NoteCountsWhenApplied) {
			t.held = true
		}
		for t.nextNote <= now {
			t.nextNote = t.nextNote.Add(NoteAfter(t.ttl))
		}
		// A keepalive received before this note and not acknowledged yet waits for a
		// cancel as well.
		t.wantCancel = len(t.waiting) > 0
		k.dirty = k.dirty || t.wantCancel
		return d
	}
	return nil
}

func (k *Keeper) decision(kind logpb.KeeperDecision_Kind, t *tended) *logpb.KeeperDecision {
	k.number++
	return &logpb.KeeperDecision{Term: k.term, Number: k.number, Kind: kind, Session: uint64(t.id)}
}

// expiryOf is when TTL has surely passed since the latest receipt.
func (k *Keeper) expiryOf(t *tended) Time {
	return t.base.Add(k.epsilon.Stretch(t.ttl) - t.agedBefore)
}

func (k *Keeper) deadlineOf(t *tended) Time {
	if t.expirePending != 0 {
		return Never
	}
	if k.plants.Has(plant.NoNotes) {
		return k.expiryOf(t)
	}
	return min(t.nextNote, t.suspectAt, k.expiryOf(t))
}

// Dropped tells that the log did not take a decision. It is void from now on; the
// keeper decides anew, after a pause: a log that takes nothing, while the office is
// handed over for instance, would be asked without end.
func (k *Keeper) Dropped(now Time, d *logpb.KeeperDecision) {
	t := k.sessions[SessionID(d.Session)]
	if t == nil || d.Term != k.term {
		return
	}
	k.pausedUntil = now.Add(KeepaliveInterval(t.ttl) / 4)
	k.dirty = true
	switch d.Number {
	case t.expirePending:
		t.expirePending = 0
	case t.cancelPending:
		t.cancelPending, t.wantCancel = 0, true
	}
}

// Applied tells that a decision came back from the log.
func (k *Keeper) Applied(a KeeperApplied) {
	d := a.Decision
	t := k.sessions[SessionID(d.Session)]
	if t == nil {
		return
	}
	k.dirty = true
	if k.plants.Has(plant.ForeignCancelCounts) && d.Kind == logpb.KeeperDecision_KIND_CANCEL {
		t.held, t.cancelPending = false, 0
		k.settle(t)
		return
	}
	if d.Term != k.term || a.Void {
		if d.Kind == logpb.KeeperDecision_KIND_NOTE && !a.Void {
			t.held = true // a note of an earlier office
		}
		return
	}
	switch d.Kind {
	case logpb.KeeperDecision_KIND_CANCEL:
		// A note proposed after this cancel still stands or will.
		if d.Number == t.cancelPending && d.Number > t.lastNote {
			t.held, t.cancelPending = false, 0
			k.settle(t)
		}
	case logpb.KeeperDecision_KIND_NOTE:
		t.held = true
	}
}

// Deadline is when Tick has something to decide.
func (k *Keeper) Deadline(now Time) Time {
	switch {
	case !k.open:
		return Never
	case k.dirty:
		return max(now, k.pausedUntil)
	}
	return max(k.next, k.pausedUntil)
}

// plantRevoke takes gossip's word for a death, and expires the session.
func (k *Keeper) plantRevoke(now Time, id SessionID) {
	if t := k.sessions[id]; k.open && t != nil {
		t.base = now.Add(-2 * t.ttl)
		k.dirty = true
	}
}

// plantReorder holds every note back until a cancel of the same session follows.
func (k *Keeper) plantReorder(due []*logpb.KeeperDecision) []*logpb.KeeperDecision {
	if !k.plants.Has(plant.NoteAfterCancel) {
		return due
	}
	var out []*logpb.KeeperDecision
	for _, d := range due {
		if d.Kind == logpb.KeeperDecision_KIND_NOTE {
			k.late = append(k.late, d)
			continue
		}
		out = append(out, d)
		if d.Kind != logpb.KeeperDecision_KIND_CANCEL {
			continue
		}
		for _, n := range k.late {
			if n.Session == d.Session {
				out = append(out, n)
			}
		}
	}
	return out
}

// plantAdopt tends, before the office is open, what a stale registry calls live.
func (k *Keeper) plantAdopt(now Time, g *Registry) {
	for _, s := range g.Sessions() {
		t := k.tend(s.ID)
		t.ttl = time.Duration(s.TTL)
		if !t.heard {
			t.base, t.acked = now, now
		}
	}
}

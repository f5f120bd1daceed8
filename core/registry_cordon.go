package core

import (
	"math"
	"slices"

	"github.com/omnirelay/leadership/core/logpb"
)

// cordonVersion is the protocol version from which on cordons make records and drains
// are remembered. Before, every replica must do what the older ones do.
const cordonVersion = 3

// cordon keeps a member from being elected, or lifts that. With a drain it is asked for
// all that it leads, now or as soon as somebody else can lead it, until the cordon is
// lifted. Lifting it also withdraws what the drain asked for and was not done yet: who
// lifts a cordon wants the member to work.
func (g *Registry) cordon(c *logpb.Cordon) *Error {
	if !c.Cordoned {
		g.uncordon(c.MemberId)
		return nil
	}
	if len(g.cordoned) >= MaxSessions && !g.cordoned[c.MemberId] {
		return &Error{Code: CodeLimit, Field: "cordoned", Message: "too many cordoned members; lift a cordon"}
	}
	if g.activeVersion < cordonVersion {
		g.cordoned[c.MemberId] = true
		if c.Drain {
			g.drain(c.MemberId, func(*scope) bool { return true })
		}
		return nil
	}
	news := !g.cordoned[c.MemberId] || c.Drain && !g.draining[c.MemberId]
	g.cordoned[c.MemberId] = true
	if news {
		g.recordMember(EventMemberCordoned, c.MemberId, cordonReason(c.Drain), "")
	}
	if c.Drain {
		g.draining[c.MemberId] = true
		for _, id := range g.members[c.MemberId] {
			g.drainNext(g.sessions[id], "")
		}
	}
	return nil
}

// drainSlice is for how many scopes a drain asks one session at a time. A scope is led
// until its turn has come: who is asked for thousands at once stops acting on all of them,
// and gives them up one after another.
const drainSlice = 64

// drainLooks bounds how many sessions one entry, or one look of the registrar, weighs for
// what a drain could move: where nobody can lead thousands of scopes, every look would find
// that out anew.
const drainLooks = 1 << 15

// drainNext asks for the next of what a draining session leads and others can lead, in the
// order of the ids behind after. What it does not get to, the registrar comes back to.
func (g *Registry) drainNext(s *session, after string) {
	if len(s.drained) >= drainSlice {
		return
	}
	order := sortedKeys(g.sessions)
	looks := drainLooks
	for _, id := range sortedKeysWhere(s.leads, func(sc *scope) bool { return sc.ask == nil && sc.spec.Id > after }) {
		if looks -= len(order); looks < 0 || len(s.drained) >= drainSlice {
			return
		}
		if sc := s.leads[id]; g.canMove(sc, order) {
			g.askHolder(sc, AskDrain, "")
		}
	}
}

// drainOnFrom is behind which scope a draining session that gave resigned up goes on:
// before that, all were looked at.
func (s *session) drainOnFrom(resigned string) string {
	for _, id := range sortedKeys(s.drained) {
		resigned = max(resigned, id)
	}
	return resigned
}

// countAsk follows what a drain asks s for.
func (s *session) countAsk(sc *scope) {
	if sc.ask != nil && sc.ask.reason == AskDrain {
		s.drained[sc.spec.Id] = sc
	} else {
		delete(s.drained, sc.spec.Id)
	}
}

func cordonReason(drain bool) string {
	if drain {
		return AskDrain
	}
	return ReasonCordon
}

func (g *Registry) uncordon(member string) {
	had := g.cordoned[member]
	delete(g.cordoned, member)
	if had && g.activeVersion >= cordonVersion {
		g.recordMember(EventMemberUncordoned, member, ReasonUncordon, "")
		g.endDrain(member)
	}
	g.fillVacancies()
}

// drain asks a member for what it leads, as far as it is wanted.
func (g *Registry) drain(member string, wanted func(*scope) bool) {
	for _, sc := range g.ledBy(member) {
		if wanted(sc) {
			g.askHolder(sc, AskDrain, "")
		}
	}
}

// endDrain withdraws what a drain asked for.
func (g *Registry) endDrain(member string) {
	delete(g.draining, member)
	for _, sc := range g.ledBy(member) {
		if sc.ask != nil && sc.ask.reason == AskDrain {
			g.withdrawAsk(sc)
		}
	}
}

// withdrawAsk lets the holder keep what it was asked for.
func (g *Registry) withdrawAsk(sc *scope) {
	g.touch(sc.leader)
	g.record(EventDrainCancelled, sc, sc.leader, sc.ask.reason)
	sc.ask = nil
	sc.leader.countAsk(sc)
}

// ledBy lists the scopes that a member leads, by session and then by id.
func (g *Registry) ledBy(member string) (led []*scope) {
	for _, id := range g.members[member] {
		s := g.sessions[id]
		for _, name := range sortedKeys(s.leads) {
			led = append(led, s.leads[name])
		}
	}
	return led
}

// canMove reports whether somebody beside its holder's member can lead a scope now. order
// lists the live sessions.
func (g *Registry) canMove(sc *scope, order []SessionID) bool {
	if g.forming {
		return false
	}
	for _, id := range order {
		s := g.sessions[id]
		if s.member != sc.leader.member && !s.noted && g.eligible(s, sc) {
			return true
		}
	}
	return false
}

// Draining lists the members that are asked for all they lead, sorted.
func (g *Registry) Draining() []string { return sortedKeys(g.draining) }

// PlanDrains returns at most limit moves for what draining members still lead and were
// not asked for: somebody can lead it now. To is empty: whoever the election rule finds.
func (g *Registry) PlanDrains(limit int) []Move {
	moves, _ := g.planDrains(limit, "", math.MaxInt)
	return moves
}

// planDrains is PlanDrains for the scopes behind after, as far as so many looks reach. on is
// where to go on from; empty: it has seen all.
func (g *Registry) planDrains(limit int, after string, looks int) (moves []Move, on string) {
	if g.forming || len(g.draining) == 0 {
		return nil, ""
	}
	order := sortedKeys(g.sessions)
	room := map[SessionID]int{}
	for _, id := range g.undrained(after) {
		sc := g.scopes[id]
		if looks -= len(order); looks < 0 || len(moves) >= limit {
			return moves, on
		}
		on = id
		s := sc.leader
		if len(s.drained)+room[s.id] < drainSlice && g.canMove(sc, order) {
			room[s.id]++
			moves = append(moves, Move{Scope: id, Fence: sc.fence})
		}
	}
	return moves, ""
}

// undrained lists what draining members lead and were not asked for, behind after.
func (g *Registry) undrained(after string) (ids []string) {
	for _, member := range sortedKeys(g.draining) {
		for _, id := range g.members[member] {
			s := g.sessions[id]
			ids = append(ids, sortedKeysWhere(s.leads, func(sc *scope) bool { return sc.ask == nil && sc.spec.Id > after })...)
		}
	}
	slices.Sort(ids)
	return ids
}

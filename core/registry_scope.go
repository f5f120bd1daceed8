package core

import (
	"maps"

	"github.com/omnirelay/leadership/core/logpb"
	"github.com/omnirelay/leadership/core/plant"
)

func (s *scope) retiring() bool { return s.ask != nil && s.ask.reason == AskRetire }

func (g *Registry) declareScopes(c *logpb.DeclareScopes) *Error {
	added := 0
	for _, spec := range c.Scopes {
		old := g.scopes[spec.Id]
		if old != nil && old.retiring() {
			if !g.plants.Has(plant.RetiredScopeElected) {
				// Its holder, perhaps cut off, still may act. Declaring it anew before the
				// holder gave it up would elect a second one.
				return refuse(CodeRetiring, "scope %q is being given up by its holder; declare it when it is gone", spec.Id)
			}
		}
		if old == nil {
			added++
		} else if old.spec.Kind != spec.Kind || !maps.Equal(old.spec.Labels, spec.Labels) {
			return refuse(CodeConflict, "scope %q is declared with another kind or other labels; retire it first", spec.Id)
		}
	}
	if len(g.scopes)+added > MaxScopes {
		return &Error{Code: CodeLimit, Field: "scopes", Message: "too many scopes; retire some"}
	}
	for _, spec := range c.Scopes {
		g.declare(spec)
	}
	g.fillVacancies()
	return nil
}

// declare adds a scope, or changes whom one prefers and how it fails over. A live
// leader stays; the change counts from the next election.
func (g *Registry) declare(spec *logpb.ScopeSpec) {
	if sc := g.scopes[spec.Id]; sc != nil {
		if sc.retiring() {
			g.plantForgetHolder(sc)
		}
		sc.spec = spec
		return
	}
	sc := &scope{spec: spec, vacantSince: g.entry.WallNs}
	g.scopes[spec.Id] = sc
	g.vacant[spec.Id] = sc
	g.record(EventScopeDeclared, sc, nil, ReasonScopeDeclared)
}

func (g *Registry) plantForgetHolder(sc *scope) {
	sc.ask = nil
	g.vacate(sc, EventLost, ReasonScopeRetired)
}

func (g *Registry) retireScopes(c *logpb.RetireScopes) *Error {
	for _, id := range c.Scopes {
		if g.scopes[id] == nil {
			return refuse(CodeNotFound, "scope %q is not declared", id)
		}
	}
	for _, id := range c.Scopes {
		sc := g.scopes[id]
		if sc == nil { // named twice
			continue
		}
		if sc.leader == nil {
			g.remove(sc)
		} else {
			g.askHolder(sc, AskRetire, "")
		}
	}
	return nil
}

func (g *Registry) remove(sc *scope) {
	delete(g.scopes, sc.spec.Id)
	delete(g.vacant, sc.spec.Id)
	g.record(EventScopeRetired, sc, nil, ReasonScopeRetired)
}

// askHolder asks the live holder to give the scope up. A retirement is never
// replaced by a lesser request.
func (g *Registry) askHolder(sc *scope, reason, to string) {
	if sc.retiring() || (sc.ask != nil && sc.ask.reason == reason && sc.ask.to == to) {
		return
	}
	sc.ask = &ask{reason: reason, to: to, correlationID: g.command.CorrelationId, actor: g.command.Actor, why: g.command.Why}
	sc.leader.countAsk(sc)
	g.touch(sc.leader)
	g.record(EventDrainRequested, sc, sc.leader, reason)
	if g.plants.Has(plant.SuccessorBeforeAck) && reason != AskRetire {
		g.vacate(sc, EventSteppedDown, reason)
		g.fillVacancies()
	}
}

// transfer asks the holder to hand over, or elects when the scope is vacant.
func (g *Registry) transfer(c *logpb.Transfer, result *Result) *Error {
	sc := g.scopes[c.Scope]
	if sc == nil {
		return refuse(CodeNotFound, "scope %q is not declared", c.Scope)
	}
	if sc.retiring() {
		return refuse(CodeRetiring, "scope %q is being retired", c.Scope)
	}
	if c.Fence != 0 && sc.fence != c.Fence {
		return refuse(CodeConflict, "scope %q is led under fence %d, not %d", c.Scope, sc.fence, c.Fence)
	}
	if c.ToMember != "" && !g.canLead(sc, c.ToMember) {
		return refuse(CodeConflict, "member %q does not stand for scope %q, is cordoned, or has no live session", c.ToMember, c.Scope)
	}
	result.Fence = sc.fence
	if sc.leader == nil {
		return refuse(CodeConflict, "scope %q has no leader to ask; it is elected as soon as a member stands", c.Scope)
	}
	if sc.leader.member == c.ToMember {
		return nil
	}
	if c.Reason == AskDrain && (!g.draining[sc.leader.member] || sc.ask != nil) {
		// The cordon was lifted, or somebody asked for it otherwise, while this was on its way.
		return refuse(CodeConflict, "scope %q is not to be drained, or is asked for already", c.Scope)
	}
	g.askHolder(sc, c.Reason, c.ToMember)
	return nil
}

func (g *Registry) canLead(sc *scope, member string) bool {
	return g.best(sc, g.sessionsOf(member)) != nil
}

func (g *Registry) cancelTransfer(c *logpb.CancelTransfer) *Error {
	sc := g.scopes[c.Scope]
	if sc == nil {
		return refuse(CodeNotFound, "scope %q is not declared", c.Scope)
	}
	if sc.retiring() {
		return refuse(CodeRetiring, "scope %q is being retired; that cannot be withdrawn", c.Scope)
	}
	if sc.ask == nil {
		return refuse(CodeConflict, "nobody asked for scope %q", c.Scope)
	}
	g.withdrawAsk(sc)
	return nil
}

// resign ends a leadership that its holder gave up, and elects the successor in
// the same entry. It is the acknowledgement of an ask as well, also of one that
// was withdrawn meanwhile.
func (g *Registry) resign(c *logpb.Resign, result *Result) *Error {
	sc := g.scopes[c.Scope]
	if sc == nil || sc.leader == nil || sc.leader.id != SessionID(c.Session) || sc.fence != c.Fence {
		return refuse(CodeNotLeader, "session %d does not lead scope %q under fence %d", c.Session, c.Scope, c.Fence)
	}
	asked := sc.ask
	if asked != nil && g.activeVersion >= whyVersion {
		g.command = asked.behalf(g.command)
	}
	holder := sc.leader
	sc.resignedBy = holder.id
	reason := ReasonResigned
	if asked != nil {
		reason = asked.reason
	}
	g.vacate(sc, EventSteppedDown, reason)
	switch {
	case asked != nil && asked.reason == AskRetire:
		g.remove(sc)
	case asked != nil && asked.to != "" && g.electNamed(sc, asked.to):
	default:
		g.fillVacancies()
	}
	if sc.leader != nil {
		result.Fence = sc.fence
		if asked != nil {
			sc.resignedBy = 0 // it did as it was asked, and may be asked back
		}
	}
	if asked != nil && asked.reason == AskDrain && g.draining[holder.member] && len(holder.drained) <= drainSlice/2 {
		g.drainNext(holder, holder.drainOnFrom(c.Scope))
	}
	return nil
}

// behalf is the command with which a holder did as it was asked, as one of who asked:
// that is whom the audit trail names.
func (a *ask) behalf(c *logpb.Command) *logpb.Command {
	return &logpb.Command{CorrelationId: c.CorrelationId, Actor: a.actor, Why: a.why}
}

// vacate ends a leadership.
func (g *Registry) vacate(sc *scope, kind EventKind, reason string) {
	holder := sc.leader
	if sc.retiring() {
		kind = EventLost
	}
	g.record(kind, sc, holder, reason)
	delete(holder.leads, sc.spec.Id)
	delete(holder.drained, sc.spec.Id)
	g.touch(holder)
	sc.leader = nil
	sc.vacantSince = g.entry.WallNs
	g.vacant[sc.spec.Id], g.vacated[sc.spec.Id] = sc, sc
	if !sc.retiring() {
		sc.ask = nil
	}
}

// install makes s the leader of a vacant scope: a new term, a new fence.
func (g *Registry) install(sc *scope, s *session) {
	same := sc.resignedBy == s.id
	sc.term++
	sc.leader = s
	if !(g.plants.Has(plant.FenceNotRaised) && same) {
		sc.fence = g.nextFence
		g.nextFence++
	}
	sc.issuedWall = g.entry.WallNs
	sc.failover = sc.spec.Failover
	if g.plants.Has(plant.ApplyReadsClock) {
		sc.issuedWall = g.plantWall
	}
	if same {
		sc.resignedBy = 0
	}
	delete(g.vacant, sc.spec.Id)
	s.leads[sc.spec.Id] = sc
	g.touch(s)
	g.record(EventElected, sc, s, ReasonElected)
}

package core

import (
	"time"

	"github.com/omnirelay/leadership/core/logpb"
)

// What a drain could not ask for at once, since nobody else could lead it, the registrar
// asks for as soon as somebody can: it looks every drainEvery, and asks for at most
// drainMoves scopes.
const (
	drainEvery = time.Second
	drainMoves = 64
)

// stirDrains has the drains looked at, when there are any.
func (r *Replica) stirDrains() {
	if r.officeOpen && len(r.registry.draining) > 0 && r.duties.drainAt == Never {
		r.duties.drainAt = r.now.Add(drainEvery)
	}
}

// drainOn goes on with the drains, on behalf of who asked for them. A hand-over that was
// cancelled is asked for again: what ends a drain is to lift the cordon. A look that found nothing is not repeated until the
// registry has changed.
func (r *Replica) drainOn() {
	d := &r.duties
	if r.now < d.drainAt {
		return
	}
	d.drainAt = Never
	if len(r.registry.draining) == 0 {
		return
	}
	moves, on := r.registry.planDrains(drainMoves, d.drainFrom, drainLooks)
	d.drainFrom = on
	switch {
	case on != "":
		d.drainAt = r.now.Add(drainEvery / 10)
	case len(moves) > 0:
		d.drainAt = r.now.Add(drainEvery)
	}
	for _, m := range moves {
		token, _ := r.registry.Token(m.Scope)
		c := r.own(&logpb.Command{Kind: &logpb.Command_Transfer{
			Transfer: &logpb.Transfer{Scope: m.Scope, Fence: m.Fence, Reason: AskDrain},
		}})
		if asked := r.registry.drainRecord(token.LeaderID); asked != nil {
			c.Actor, c.Why = asked.Actor, asked.Why
		}
		r.requests.enqueue(c)
	}
}

// drainRecord is the record of who asked for a member to be drained, nil when it is no
// longer kept.
func (g *Registry) drainRecord(member string) *Record {
	kept := g.history.records
	for i := len(kept) - 1; i >= 0; i-- {
		r := kept[i]
		if EventKind(r.Kind) == EventMemberCordoned && r.MemberId == member && r.Reason == AskDrain {
			return r
		}
	}
	return nil
}

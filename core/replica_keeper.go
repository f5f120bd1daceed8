package core

import (
	"github.com/omnirelay/leadership/core/logpb"
	"github.com/omnirelay/leadership/core/plant"
)

// tickKeeper proposes what the keeper decides. Nothing below the keeper repeats a
// decision: one that the log drops, or that a deposed registrar still holds, is
// gone, and the registrar of then decides anew.
func (r *Replica) tickKeeper() {
	for _, d := range r.keeper.Tick(r.now) {
		c := &logpb.Command{CorrelationId: r.mintID(), Actor: "registrar", Kind: &logpb.Command_Keeper{Keeper: d}}
		r.requests.queue = append(r.requests.queue, c)
		if r.cfg.Plants.Has(plant.DeposedExpiryCounts) && d.Kind == logpb.KeeperDecision_KIND_EXPIRE {
			r.plantDecisions = append(r.plantDecisions, c)
		}
	}
	if len(r.plantDecisions) > 0 && !r.leading && r.lead != 0 {
		r.out.Messages = append(r.out.Messages, Message{From: r.cfg.ID, To: r.lead, Proposal: &Proposal{Commands: r.plantDecisions}})
		r.plantDecisions = nil
	}
}

// ExpiryOf is when the registrar may expire a session unless it hears of it, on
// this replica's clock. ok is false on a replica that is not the registrar.
func (r *Replica) ExpiryOf(id SessionID) (at Time, ok bool) {
	t := r.keeper.sessions[id]
	if !r.officeOpen || t == nil {
		return 0, false
	}
	return r.keeper.expiryOf(t), true
}

package core

// record appends one transition of a scope to the history.
func (g *Registry) record(kind EventKind, sc *scope, s *session, reason string) {
	r := &Record{
		Kind: uint32(kind), Scope: sc.spec.Id, ScopeKind: sc.spec.Kind, Labels: sc.spec.Labels, Term: sc.term, Fence: sc.fence,
		Reason: reason, IssuedWallNs: sc.issuedWall,
	}
	if s != nil {
		r.MemberId, r.Session = s.member, uint64(s.id)
	}
	g.keep(r)
}

// recordMember appends what changed for a member, whatever it leads.
func (g *Registry) recordMember(kind EventKind, member, reason, subject string) {
	g.keep(&Record{Kind: uint32(kind), MemberId: member, Reason: reason, Subject: subject})
}

// keep completes a record with where, when, by whom and why, and appends it.
func (g *Registry) keep(r *Record) {
	g.ordinal++
	r.Revision, r.Ordinal, r.WallNs = g.revision, g.ordinal, g.entry.WallNs
	r.CorrelationId, r.Actor, r.Why = g.command.CorrelationId, g.command.Actor, g.command.Why
	g.history.append(r)
	g.outcome.Records = append(g.outcome.Records, r)
}

package core

import "github.com/omnirelay/leadership/core/logpb"

// Why a split-brain is reported.
const (
	// SplitBrainTwoClaimants: a member claims a scope beside the leader in the log, which
	// claims it as well.
	SplitBrainTwoClaimants = "two-claimants"
	// SplitBrainUnknownClaimant: a member claims a scope under a fence that the log does
	// not know or has superseded.
	SplitBrainUnknownClaimant = "unknown-claimant"
	// SplitBrainLeaderGone: gossip says that a leader is dead or has left while its lease
	// lives.
	SplitBrainLeaderGone = "leader-gone"
)

// incident tells one split-brain from another. Each is reported once, as long as its
// record is kept.
type incident struct {
	reason, scope, member string
	fence, session        uint64
}

func incidentOf(r *Record) incident {
	return incident{reason: r.Reason, scope: r.Scope, member: r.MemberId, fence: r.Fence, session: r.Session}
}

// reportSplitBrain records what members claim against the log. It changes nothing else.
func (g *Registry) reportSplitBrain(c *logpb.ReportSplitBrain) *Error {
	if len(c.Reports) == 0 || len(c.Reports) > MaxObservations {
		return invalid("reports", "%d; want 1 to %d", len(c.Reports), MaxObservations)
	}
	for _, p := range c.Reports {
		if err := checkReport(p); err != nil {
			return err
		}
	}
	for _, p := range c.Reports {
		if r := g.splitBrain(p); !g.history.reported(incidentOf(r)) {
			g.keep(r)
		}
	}
	return nil
}

func checkReport(p *logpb.SplitBrain) *Error {
	if err := CheckMemberID("memberId", p.MemberId); err != nil {
		return asRefusal(err)
	}
	gone := p.Reason == SplitBrainLeaderGone
	switch {
	case !gone && p.Reason != SplitBrainTwoClaimants && p.Reason != SplitBrainUnknownClaimant:
		return invalid("reason", "%q; want %s, %s or %s", p.Reason, SplitBrainTwoClaimants, SplitBrainUnknownClaimant, SplitBrainLeaderGone)
	case gone && (p.Scope != "" || p.Fence != 0):
		return invalid("scope", "a leader that is gone is gone from all that it leads: want no scope and no fence")
	case !gone && p.Fence == 0:
		return invalid("fence", "0 is no fence; name the one that is claimed")
	}
	if !gone {
		if err := ParseScopeID(p.Scope); err != nil {
			return asRefusal(err)
		}
	}
	return nil
}

// splitBrain is the record of a report. A leader that is gone is told by its session:
// it may be gone again in its next one.
func (g *Registry) splitBrain(p *logpb.SplitBrain) *Record {
	r := &Record{Kind: uint32(EventSplitBrain), Scope: p.Scope, MemberId: p.MemberId, Fence: p.Fence, Reason: p.Reason}
	if sc := g.scopes[p.Scope]; sc != nil {
		r.ScopeKind, r.Labels = sc.spec.Kind, sc.spec.Labels
	}
	if p.Reason == SplitBrainLeaderGone {
		id, _ := g.SessionOf(p.MemberId)
		r.Session = uint64(id)
	}
	return r
}

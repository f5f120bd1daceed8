package wire

import (
	"slices"
	"time"

	"github.com/omnirelay/leadership/core"
	"github.com/omnirelay/leadership/core/logpb"
	"github.com/omnirelay/leadership/wire/controlpb"
)

// Proto converts the answer for the gRPC API.
func (r LeadersResponse) Proto() *controlpb.ListLeadersResponse {
	p := &controlpb.ListLeadersResponse{GeneratedAt: timestamp(r.GeneratedAt), Revision: r.Revision, LastFence: r.LastFence}
	for i := range r.Tokens {
		p.Tokens = append(p.Tokens, r.Tokens[i].Proto())
	}
	return p
}

// Proto converts the answer for the gRPC API.
func (r AuditResponse) Proto() *controlpb.ReadAuditResponse {
	p := &controlpb.ReadAuditResponse{}
	for i := range r.Records {
		p.Records = append(p.Records, r.Records[i].Proto())
	}
	return p
}

// Proto converts a for the gRPC API.
func (a *AuditRecord) Proto() *controlpb.AuditRecord {
	return &controlpb.AuditRecord{
		Seq: a.Seq, Revision: a.Revision, Ordinal: a.Ordinal, Kind: a.Kind, Scope: a.Scope, ScopeKind: a.ScopeKind, Labels: a.Labels,
		MemberId: a.MemberID, Session: a.Session, Term: a.Term, FenceToken: a.FenceToken, Reason: a.Reason,
		CorrelationId: a.CorrelationID, Actor: a.Actor, OccurredAt: timestamp(a.OccurredAt), IssuedAt: timestamp(a.IssuedAt),
		PreviousHash: a.PreviousHash, Hash: a.Hash, Why: a.Why, Subject: a.Subject,
	}
}

// ScopeProto converts a declared scope. expires is the published bound of its leader's
// session, zero when it is not known.
func ScopeProto(s core.ScopeStatus, expires time.Time) *controlpb.Scope {
	p := &controlpb.Scope{
		Id: s.Spec.GetId(), Kind: s.Spec.GetKind(), Labels: labels(s.Spec.GetLabels()), PreferredMember: s.Spec.GetPreferredMember(),
		Failover: controlpb.Failover_FAILOVER_LEASE, HandOver: handOverProto(s.Ask), Retiring: s.Retiring,
	}
	if s.Spec.GetFailover() == logpb.ScopeSpec_FAILOVER_FAST {
		p.Failover = controlpb.Failover_FAILOVER_FAST
	}
	if s.Led {
		token := TokenOf(s.Leader, expires)
		p.Leader = token.Proto()
	}
	return p
}

// SessionProto converts a live session with what it stands for and the scopes it leads.
func SessionProto(s core.SessionStatus, stands []*logpb.Stand, leads []string) *controlpb.Session {
	p := &controlpb.Session{
		Id: uint64(s.ID), MemberId: s.MemberID, Labels: labels(s.Labels), Weight: s.Weight,
		TtlMs: uint64(time.Duration(s.TTL) / time.Millisecond), Leads: slices.Clone(leads), Silent: s.Noted,
	}
	for _, w := range stands {
		p.Stands = append(p.Stands, WishProto(w))
	}
	return p
}

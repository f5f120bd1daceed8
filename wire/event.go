package wire

import (
	"math"
	"time"

	"google.golang.org/protobuf/types/known/timestamppb"

	"github.com/omnirelay/leadership/core"
	"github.com/omnirelay/leadership/wire/controlpb"
)

const kindPrefix = "LEADERSHIP_EVENT_KIND_"

// Proto converts e for the gRPC API. A kind this build does not know becomes
// UNSPECIFIED.
func (e Event) Proto() *controlpb.LeadershipEvent {
	return &controlpb.LeadershipEvent{
		Kind:  controlpb.LeadershipEventKind(controlpb.LeadershipEventKind_value[kindPrefix+e.Kind]),
		Scope: e.Scope, LeaderId: e.LeaderID, Token: e.Token.Proto(), Reason: e.Reason,
		CorrelationId: e.CorrelationID, OccurredAt: timestamp(e.OccurredAt),
		Revision: e.Revision, Ordinal: e.Ordinal, Transport: e.Transport,
		Subject: e.Subject, Why: e.Why,
	}
}

// Proto converts t for the gRPC API; nil stays nil.
func (t *Token) Proto() *controlpb.LeadershipToken {
	if t == nil {
		return nil
	}
	return &controlpb.LeadershipToken{
		Scope: t.Scope, ScopeKind: t.ScopeKind, LeaderId: t.LeaderID,
		Term: int64(t.Term), FenceToken: int64(t.FenceToken),
		IssuedAt: timestamp(t.IssuedAt), ExpiresAt: timestamp(t.ExpiresAt), Labels: labels(t.Labels),
	}
}

// Known is false for a kind that only later versions know. Whoever reads a stream passes
// over such an event, and resumes behind it.
func (e Event) Known() bool { return controlpb.LeadershipEventKind_value[kindPrefix+e.Kind] != 0 }

// EventFromProto converts what a gRPC stream delivered, so that a client shows the
// same whichever API it used. A kind of a later version is named by its number. Its
// error is a *FieldError.
func EventFromProto(p *controlpb.LeadershipEvent) (Event, error) {
	if p.GetKind() <= 0 {
		return Event{}, malformed("kind", "is %d, want 1 or more", p.GetKind())
	}
	occurred, err := fromTimestamp("occurredAt", p.GetOccurredAt())
	if err != nil {
		return Event{}, err
	}
	token, err := tokenFromProto(p.GetToken())
	if err != nil {
		return Event{}, err
	}
	return Event{
		Kind: core.EventKind(p.GetKind()).String(), Scope: p.GetScope(), LeaderID: p.GetLeaderId(),
		Token: token, Reason: p.GetReason(), CorrelationID: p.GetCorrelationId(), OccurredAt: occurred,
		Revision: p.GetRevision(), Ordinal: p.GetOrdinal(), Transport: p.GetTransport(),
		Subject: p.GetSubject(), Why: p.GetWhy(),
	}, nil
}

func tokenFromProto(p *controlpb.LeadershipToken) (*Token, error) {
	if p == nil {
		return nil, nil
	}
	if p.GetTerm() < 0 {
		return nil, malformed("token.term", "is %d, want 0 to %d", p.GetTerm(), int64(math.MaxInt64))
	}
	if p.GetFenceToken() < 0 {
		return nil, malformed("token.fenceToken", "is %d, want 0 to %d", p.GetFenceToken(), int64(math.MaxInt64))
	}
	issued, err := fromTimestamp("token.issuedAt", p.GetIssuedAt())
	if err != nil {
		return nil, err
	}
	expires, err := fromTimestamp("token.expiresAt", p.GetExpiresAt())
	if err != nil {
		return nil, err
	}
	return &Token{
		Scope: p.GetScope(), ScopeKind: p.GetScopeKind(), LeaderID: p.GetLeaderId(),
		Term: uint64(p.GetTerm()), FenceToken: uint64(p.GetFenceToken()),
		IssuedAt: issued, ExpiresAt: expires, Labels: labels(p.GetLabels()),
	}, nil
}

func timestamp(t time.Time) *timestamppb.Timestamp {
	if t.IsZero() {
		return nil
	}
	return timestamppb.New(t)
}

func fromTimestamp(field string, p *timestamppb.Timestamp) (time.Time, error) {
	if p == nil {
		return time.Time{}, nil
	}
	if err := p.CheckValid(); err != nil {
		return time.Time{}, malformed(field, "%v", err)
	}
	return p.AsTime(), nil
}

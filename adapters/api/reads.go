package api

import (
	"context"
	"fmt"
	"time"

	"google.golang.org/protobuf/proto"

	"github.com/omnirelay/leadership/core"
	"github.com/omnirelay/leadership/wire"
	"github.com/omnirelay/leadership/wire/controlpb"
)

// Bounds of answers.
const (
	DefaultAuditRecords = 100
	MaxAuditRecords     = 1000
	// MaxAnswerBytes bounds the list of sessions, encoded: what members declare about
	// themselves could fill any memory.
	MaxAnswerBytes = 8 << 20
)

// Leaders tells who leads one scope, or all when it is empty. It asks nobody for a
// role: ListLeaders does.
func (s *Service) Leaders(ctx context.Context, scope string, linearizable bool) (wire.LeadersResponse, error) {
	if err := s.prepareRead(ctx, scope, linearizable); err != nil {
		return wire.LeadersResponse{}, err
	}
	var err error
	var revision, lastFence uint64
	var tokens []core.Token
	s.o.Source.View(func(g *core.Registry, st core.Status) {
		if err = vouch(&st); err != nil {
			return
		}
		revision, lastFence = g.Revision(), g.LastFence()
		if scope == "" {
			tokens = g.Tokens()
			return
		}
		status, known := g.Scope(scope)
		if !known {
			err = unknownScope(scope)
		} else if status.Led {
			tokens = []core.Token{status.Leader}
		}
	})
	if err != nil {
		return wire.LeadersResponse{}, err
	}
	answer := wire.LeadersOf(revision, tokens, time.Now(), s.expiry)
	answer.LastFence = lastFence
	return answer, nil
}

// prepareRead checks a scope, empty meaning all, and waits as long as the read has to.
func (s *Service) prepareRead(ctx context.Context, scope string, linearizable bool) error {
	if scope != "" {
		if err := core.ParseScopeID(scope); err != nil {
			return err
		}
	}
	if !linearizable {
		return nil
	}
	ctx, cancel := s.bounded(ctx)
	defer cancel()
	return s.barrier(ctx)
}

func unknownScope(scope string) error {
	return &core.Error{Code: core.CodeNotFound, Field: "scope", Message: "no scope " + scope + " is declared; GET /control/leaders lists those that are led"}
}

func (s *Service) expiry(t core.Token) time.Time {
	if wall, ok := s.o.Source.ExpiresAt(t.Session); ok {
		return time.Unix(0, wall)
	}
	return time.Time{}
}

// ListLeaders tells who leads.
func (s *Service) ListLeaders(ctx context.Context, r *controlpb.ListLeadersRequest) (*controlpb.ListLeadersResponse, error) {
	if err := callerOf(ctx).MayRead(); err != nil {
		return nil, err
	}
	leaders, err := s.Leaders(ctx, r.GetScope(), r.GetLinearizable())
	if err != nil {
		return nil, err
	}
	return leaders.Proto(), nil
}

// ListScopes tells which scopes there are.
func (s *Service) ListScopes(ctx context.Context, r *controlpb.ListScopesRequest) (*controlpb.ListScopesResponse, error) {
	err := callerOf(ctx).MayRead()
	if err == nil {
		err = s.prepareRead(ctx, r.GetScope(), r.GetLinearizable())
	}
	if err != nil {
		return nil, err
	}
	answer := &controlpb.ListScopesResponse{}
	var scopes []core.ScopeStatus
	s.o.Source.View(func(g *core.Registry, st core.Status) {
		if err = vouch(&st); err != nil {
			return
		}
		answer.Revision = g.Revision()
		if r.GetScope() == "" {
			scopes = g.Scopes()
			return
		}
		status, known := g.Scope(r.GetScope())
		if !known {
			err = unknownScope(r.GetScope())
		}
		scopes = []core.ScopeStatus{status}
	})
	if err != nil {
		return nil, err
	}
	for _, status := range scopes {
		var until time.Time
		if status.Led {
			until = s.expiry(status.Leader)
		}
		answer.Scopes = append(answer.Scopes, wire.ScopeProto(status, until))
	}
	return answer, nil
}

// ListSessions tells of live sessions.
func (s *Service) ListSessions(ctx context.Context, r *controlpb.ListSessionsRequest) (*controlpb.ListSessionsResponse, error) {
	err := callerOf(ctx).MayRead()
	if err == nil && r.GetMemberId() != "" {
		err = core.CheckMemberID("memberId", r.GetMemberId())
	}
	if err == nil {
		err = s.prepareRead(ctx, "", r.GetLinearizable())
	}
	if err != nil {
		return nil, err
	}
	answer := &controlpb.ListSessionsResponse{}
	s.o.Source.View(func(g *core.Registry, st core.Status) {
		if err = vouch(&st); err == nil {
			err = listSessions(g, r.GetMemberId(), answer)
		}
	})
	if err != nil {
		return nil, err
	}
	return answer, nil
}

// listSessions copies what is told: the registry moves on behind the lock.
func listSessions(g *core.Registry, member string, answer *controlpb.ListSessionsResponse) error {
	answer.Revision, answer.Cordoned = g.Revision(), g.Cordoned()
	size := 0
	for _, status := range g.Sessions() {
		if member != "" && status.MemberID != member {
			continue
		}
		session := wire.SessionProto(status, g.Stands(status.ID), g.Leads(status.ID))
		if size += proto.Size(session); size > MaxAnswerBytes {
			return &core.Error{Code: core.CodeLimit, Field: "memberId", Message: fmt.Sprintf("the answer has more than %d bytes; ask for one member at a time", MaxAnswerBytes)}
		}
		answer.Sessions = append(answer.Sessions, session)
	}
	return nil
}

// AuditQuery picks records of the audit trail.
type AuditQuery struct {
	Scope string // empty: of all
	// After picks the records with a higher number, the first of them; nil: the newest.
	After *uint64
	Limit int // 1 to MaxAuditRecords; 0: DefaultAuditRecords
}

// Audit tells records, oldest first. It asks nobody for a role: ReadAudit does.
func (s *Service) Audit(q AuditQuery) (wire.AuditResponse, error) {
	if q.Scope != "" {
		if err := core.ParseScopeID(q.Scope); err != nil {
			return wire.AuditResponse{}, err
		}
	}
	if q.Limit == 0 {
		q.Limit = DefaultAuditRecords
	}
	if q.Limit < 1 || q.Limit > MaxAuditRecords {
		return wire.AuditResponse{}, wrongLimit(q.Limit)
	}
	var err error
	var records []*core.Record
	s.o.Source.View(func(g *core.Registry, st core.Status) {
		switch err = vouch(&st); {
		case err != nil:
		case q.After != nil:
			records, err = following(g.History(), *q.After, q.Scope, q.Limit)
		default:
			records = newest(g.History(), q.Scope, q.Limit)
		}
	})
	if err != nil {
		return wire.AuditResponse{}, err
	}
	answer := wire.AuditResponse{Records: make([]wire.AuditRecord, 0, len(records))}
	for _, r := range records {
		answer.Records = append(answer.Records, wire.AuditRecordOf(r))
	}
	return answer, nil
}

func wrongLimit[N int | uint64](n N) error {
	return &core.Error{Code: core.CodeInvalid, Field: "limit", Message: fmt.Sprintf("%d; want 1 to %d", n, MaxAuditRecords)}
}

// following copies the records, since the history moves on behind the lock.
func following(h *core.History, after uint64, scope string, limit int) ([]*core.Record, error) {
	all, kept := h.AfterSeq(after, h.Len())
	if !kept {
		return nil, &core.Error{Code: core.CodeTooOld, Field: "after", Message: fmt.Sprintf(
			"records up to %d are no longer kept in memory; the oldest is %d", after, h.First().GetSeq())}
	}
	var records []*core.Record
	for _, r := range all {
		if len(records) == limit {
			break
		}
		if scope == "" || r.Scope == scope {
			records = append(records, r)
		}
	}
	return records, nil
}

// newest copies the last records, oldest of them first.
func newest(h *core.History, scope string, limit int) []*core.Record {
	first := h.First()
	if first == nil {
		return nil
	}
	all, _ := h.AfterSeq(first.Seq-1, h.Len())
	records := make([]*core.Record, limit)
	n := limit
	for i := len(all) - 1; i >= 0 && n > 0; i-- {
		if scope == "" || all[i].Scope == scope {
			n--
			records[n] = all[i]
		}
	}
	return records[n:]
}

// ReadAudit tells records of the audit trail.
func (s *Service) ReadAudit(ctx context.Context, r *controlpb.ReadAuditRequest) (*controlpb.ReadAuditResponse, error) {
	if err := callerOf(ctx).MayRead(); err != nil {
		return nil, err
	}
	if r.Limit != nil && (r.GetLimit() == 0 || r.GetLimit() > MaxAuditRecords) {
		return nil, wrongLimit(uint64(r.GetLimit()))
	}
	records, err := s.Audit(AuditQuery{Scope: r.GetScope(), After: r.After, Limit: int(r.GetLimit())})
	if err != nil {
		return nil, err
	}
	return records.Proto(), nil
}

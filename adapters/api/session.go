package api

import (
	"context"
	"fmt"
	"time"

	"google.golang.org/protobuf/types/known/durationpb"

	"github.com/omnirelay/leadership/adapters/access"
	"github.com/omnirelay/leadership/core"
	"github.com/omnirelay/leadership/core/logpb"
	"github.com/omnirelay/leadership/wire"
	"github.com/omnirelay/leadership/wire/controlpb"
)

// OpenSession opens a session of the caller's member.
func (s *Service) OpenSession(ctx context.Context, r *controlpb.OpenSessionRequest) (*controlpb.OpenSessionResponse, error) {
	ctx, cancel := s.bounded(ctx)
	defer cancel()
	caller, err := member(ctx)
	if err != nil {
		return nil, err
	}
	c, err := wire.OpenSessionCommand(r)
	if err != nil {
		return nil, asked(err)
	}
	if err := s.mayOpen(caller, c.GetOpenSession()); err != nil {
		return nil, err
	}
	if err := s.room(caller, c); err != nil {
		return nil, err
	}
	ttl := time.Duration(c.GetOpenSession().GetTtlNs())
	result, err := s.execute(ctx, caller, c)
	if err != nil {
		return nil, err
	}
	// A retry may ask for another TTL than the request that was executed.
	if st := s.session(core.SessionID(result.Session)); st.live {
		ttl = time.Duration(st.status.TTL)
	}
	return &controlpb.OpenSessionResponse{Session: result.Session, Revision: result.Revision, Ttl: durationpb.New(ttl),
		Lease: durationpb.New(s.o.Epsilon.Shrink(ttl)), KeepaliveInterval: durationpb.New(core.KeepaliveInterval(ttl))}, nil
}

// room refuses one live session too many of a member. A retry of one that was opened
// is let through. c has the caller's request id, without prefix.
func (s *Service) room(caller access.Caller, c *logpb.Command) error {
	open := c.GetOpenSession()
	var live int
	var answered bool
	s.o.Source.View(func(g *core.Registry, _ core.Status) {
		live = g.LiveSessions(open.MemberId)
		if old, ok := g.Session(core.SessionID(open.Replaces)); ok && old.MemberID == open.MemberId {
			live--
		}
		answered = c.RequestId != "" && g.Answered(logID(caller, c))
	})
	if live < s.o.SessionsPerMember || answered {
		return nil
	}
	return &core.Error{Code: core.CodeLimit, Field: "memberId", Message: fmt.Sprintf(
		"member %s has %d live sessions, and at most %d are allowed; close one, name it in replaces, or wait until one has expired", open.MemberId, live, s.o.SessionsPerMember)}
}

// ofSession executes a command about one session. check, unless nil, is asked too.
func (s *Service) ofSession(ctx context.Context, id uint64, convert func() (*logpb.Command, error), check func(access.Caller, *logpb.Command) error) (*core.Result, error) {
	ctx, cancel := s.bounded(ctx)
	defer cancel()
	caller, err := member(ctx)
	if err != nil {
		return nil, err
	}
	c, err := convert()
	if err != nil {
		return nil, asked(err)
	}
	if check != nil {
		if err := check(caller, c); err != nil {
			return nil, err
		}
	}
	if _, err := s.use(ctx, caller, core.SessionID(id)); err != nil {
		return nil, err
	}
	return s.execute(ctx, caller, c)
}

// CloseSession ends a session.
func (s *Service) CloseSession(ctx context.Context, r *controlpb.CloseSessionRequest) (*controlpb.CloseSessionResponse, error) {
	result, err := s.ofSession(ctx, r.GetSession(), func() (*logpb.Command, error) { return wire.CloseSessionCommand(r) }, nil)
	if err != nil {
		return nil, err
	}
	return &controlpb.CloseSessionResponse{Revision: result.Revision}, nil
}

// Stand declares scopes that the member may lead, as far as its grants cover them.
func (s *Service) Stand(ctx context.Context, r *controlpb.StandRequest) (*controlpb.StandResponse, error) {
	result, err := s.ofSession(ctx, r.GetSession(), func() (*logpb.Command, error) { return wire.StandCommand(r) },
		func(caller access.Caller, c *logpb.Command) error { return mayStand(caller, c.GetStand()) })
	if err != nil {
		return nil, err
	}
	return &controlpb.StandResponse{Revision: result.Revision}, nil
}

// Withdraw ends a stand.
func (s *Service) Withdraw(ctx context.Context, r *controlpb.WithdrawRequest) (*controlpb.WithdrawResponse, error) {
	result, err := s.ofSession(ctx, r.GetSession(), func() (*logpb.Command, error) { return wire.WithdrawCommand(r) }, nil)
	if err != nil {
		return nil, err
	}
	return &controlpb.WithdrawResponse{Revision: result.Revision}, nil
}

// Resign gives a scope up.
func (s *Service) Resign(ctx context.Context, r *controlpb.ResignRequest) (*controlpb.ResignResponse, error) {
	result, err := s.ofSession(ctx, r.GetSession(), func() (*logpb.Command, error) { return wire.ResignCommand(r) }, nil)
	if err != nil {
		return nil, err
	}
	return &controlpb.ResignResponse{Revision: result.Revision}, nil
}

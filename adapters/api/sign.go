package api

import (
	"context"
	"fmt"
	"time"

	"google.golang.org/protobuf/types/known/timestamppb"

	"github.com/omnirelay/leadership/adapters/signing"
	"github.com/omnirelay/leadership/core"
	"github.com/omnirelay/leadership/wire/controlpb"
)

// SignToken signs what the session leads at this moment, by a copy that is up to date.
func (s *Service) SignToken(ctx context.Context, r *controlpb.SignTokenRequest) (*controlpb.SignTokenResponse, error) {
	ctx, cancel := s.bounded(ctx)
	defer cancel()
	caller, err := member(ctx)
	if err != nil {
		return nil, err
	}
	if err := core.ParseScopeID(r.GetScope()); err != nil {
		return nil, err
	}
	if r.GetFenceToken() == 0 {
		return nil, &core.Error{Code: core.CodeInvalid, Field: "fenceToken", Message: "0 is no fence; name the one of the leadership to be signed"}
	}
	if s.o.Signer == nil {
		return nil, &core.Error{Code: core.CodeUnsupported, Message: "this node signs no tokens; name a file of keys in its setting tokens.keys"}
	}
	// Before anything is looked at: what was taken away elsewhere is not signed here.
	if err := s.barrier(ctx); err != nil {
		return nil, err
	}
	st, err := s.use(ctx, caller, core.SessionID(r.GetSession()))
	if err != nil {
		return nil, err
	}
	if !st.live {
		return nil, sessionEnded(core.SessionID(r.GetSession()))
	}
	var token core.Token
	var led bool
	s.o.Source.View(func(g *core.Registry, _ core.Status) { token, led = g.Token(r.GetScope()) })
	if !led || uint64(token.Session) != r.GetSession() || token.Fence != r.GetFenceToken() {
		return nil, &core.Error{Code: core.CodeNotLeader, Field: "scope", Message: fmt.Sprintf(
			"session %d does not lead scope %s under fence %d", r.GetSession(), r.GetScope(), r.GetFenceToken())}
	}
	// Read before the signer reads its clock: told too early, never too late.
	expires := time.Now().Truncate(time.Second).Add(s.o.Signer.Life())
	signed, err := s.o.Signer.Sign(signing.ClaimsOf(token))
	if err != nil {
		return nil, fmt.Errorf("signing a token: %w", err)
	}
	return &controlpb.SignTokenResponse{Token: signed, ExpiresAt: timestamppb.New(expires)}, nil
}

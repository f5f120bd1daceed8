package api

import (
	"context"

	"github.com/omnirelay/leadership/adapters/access"
	"github.com/omnirelay/leadership/core"
	"github.com/omnirelay/leadership/core/logpb"
	"github.com/omnirelay/leadership/wire"
	"github.com/omnirelay/leadership/wire/controlpb"
)

// change executes a command of an operator or administrator.
func change[R any](ctx context.Context, s *Service, may func(access.Caller) error, convert func(R) (*logpb.Command, error), r R) (*core.Result, error) {
	ctx, cancel := s.bounded(ctx)
	defer cancel()
	caller := callerOf(ctx)
	if err := may(caller); err != nil {
		return nil, err
	}
	c, err := convert(r)
	if err != nil {
		return nil, asked(err)
	}
	return s.execute(ctx, caller, c)
}

// DeclareScopes adds scopes, or changes them. For administrators.
func (s *Service) DeclareScopes(ctx context.Context, r *controlpb.DeclareScopesRequest) (*controlpb.DeclareScopesResponse, error) {
	result, err := change(ctx, s, access.Caller.MayAdmin, wire.DeclareScopesCommand, r)
	if err != nil {
		return nil, err
	}
	return &controlpb.DeclareScopesResponse{Revision: result.Revision}, nil
}

// RetireScopes removes scopes. For administrators.
func (s *Service) RetireScopes(ctx context.Context, r *controlpb.RetireScopesRequest) (*controlpb.RetireScopesResponse, error) {
	result, err := change(ctx, s, access.Caller.MayAdmin, wire.RetireScopesCommand, r)
	if err != nil {
		return nil, err
	}
	return &controlpb.RetireScopesResponse{Revision: result.Revision}, nil
}

// Transfer asks the holder of a scope to hand it over. For operators.
func (s *Service) Transfer(ctx context.Context, r *controlpb.TransferRequest) (*controlpb.TransferResponse, error) {
	result, err := change(ctx, s, access.Caller.MayOperate, wire.TransferCommand, r)
	if err != nil {
		return nil, err
	}
	return &controlpb.TransferResponse{Revision: result.Revision}, nil
}

// CancelTransfer withdraws a request to hand over. For operators.
func (s *Service) CancelTransfer(ctx context.Context, r *controlpb.CancelTransferRequest) (*controlpb.CancelTransferResponse, error) {
	result, err := change(ctx, s, access.Caller.MayOperate, wire.CancelTransferCommand, r)
	if err != nil {
		return nil, err
	}
	return &controlpb.CancelTransferResponse{Revision: result.Revision}, nil
}

// Cordon keeps a member from being elected. For operators.
func (s *Service) Cordon(ctx context.Context, r *controlpb.CordonRequest) (*controlpb.CordonResponse, error) {
	result, err := change(ctx, s, access.Caller.MayOperate, wire.CordonCommand, r)
	if err != nil {
		return nil, err
	}
	return &controlpb.CordonResponse{Revision: result.Revision}, nil
}

// Uncordon lifts a cordon. For operators.
func (s *Service) Uncordon(ctx context.Context, r *controlpb.UncordonRequest) (*controlpb.UncordonResponse, error) {
	result, err := change(ctx, s, access.Caller.MayOperate, wire.UncordonCommand, r)
	if err != nil {
		return nil, err
	}
	return &controlpb.UncordonResponse{Revision: result.Revision}, nil
}

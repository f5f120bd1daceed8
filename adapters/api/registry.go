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
func (s *Service) change(ctx context.Context, may func(access.Caller) error, c *logpb.Command, err error) (*core.Result, error) {
	ctx, cancel := s.bounded(ctx)
	defer cancel()
	caller := callerOf(ctx)
	if denied := may(caller); denied != nil {
		return nil, denied
	}
	if err != nil {
		return nil, asked(err)
	}
	return s.execute(ctx, caller, c)
}

// DeclareScopes adds scopes, or changes them. For administrators.
func (s *Service) DeclareScopes(ctx context.Context, r *controlpb.DeclareScopesRequest) (*controlpb.DeclareScopesResponse, error) {
	c, err := wire.DeclareScopesCommand(r)
	result, err := s.change(ctx, access.Caller.MayAdmin, c, err)
	if err != nil {
		return nil, err
	}
	return &controlpb.DeclareScopesResponse{Revision: result.Revision}, nil
}

// RetireScopes removes scopes. For administrators.
func (s *Service) RetireScopes(ctx context.Context, r *controlpb.RetireScopesRequest) (*controlpb.RetireScopesResponse, error) {
	c, err := wire.RetireScopesCommand(r)
	result, err := s.change(ctx, access.Caller.MayAdmin, c, err)
	if err != nil {
		return nil, err
	}
	return &controlpb.RetireScopesResponse{Revision: result.Revision}, nil
}

// Transfer asks the holder of a scope to hand it over. For operators.
func (s *Service) Transfer(ctx context.Context, r *controlpb.TransferRequest) (*controlpb.TransferResponse, error) {
	c, err := wire.TransferCommand(r)
	result, err := s.change(ctx, access.Caller.MayOperate, c, err)
	if err != nil {
		return nil, err
	}
	return &controlpb.TransferResponse{Revision: result.Revision}, nil
}

// CancelTransfer withdraws a request to hand over. For operators.
func (s *Service) CancelTransfer(ctx context.Context, r *controlpb.CancelTransferRequest) (*controlpb.CancelTransferResponse, error) {
	c, err := wire.CancelTransferCommand(r)
	result, err := s.change(ctx, access.Caller.MayOperate, c, err)
	if err != nil {
		return nil, err
	}
	return &controlpb.CancelTransferResponse{Revision: result.Revision}, nil
}

// Cordon keeps a member from being elected. For operators.
func (s *Service) Cordon(ctx context.Context, r *controlpb.CordonRequest) (*controlpb.CordonResponse, error) {
	c, err := wire.CordonCommand(r)
	result, err := s.change(ctx, access.Caller.MayOperate, c, err)
	if err != nil {
		return nil, err
	}
	return &controlpb.CordonResponse{Revision: result.Revision}, nil
}

// Uncordon lifts a cordon. For operators.
func (s *Service) Uncordon(ctx context.Context, r *controlpb.UncordonRequest) (*controlpb.UncordonResponse, error) {
	c, err := wire.UncordonCommand(r)
	result, err := s.change(ctx, access.Caller.MayOperate, c, err)
	if err != nil {
		return nil, err
	}
	return &controlpb.UncordonResponse{Revision: result.Revision}, nil
}

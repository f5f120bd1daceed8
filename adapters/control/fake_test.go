package control

import (
	"context"
	"sync"

	"google.golang.org/protobuf/proto"

	"github.com/omnirelay/leadership/adapters/access"
	"github.com/omnirelay/leadership/wire/controlpb"
)

// service answers every operation with what reply says, and keeps what it was asked.
type service struct {
	controlpb.UnimplementedLeadershipMemberServiceServer
	controlpb.UnimplementedLeadershipRegistryServiceServer
	controlpb.UnimplementedLeadershipMeshServiceServer
	reply func(ctx context.Context, request proto.Message) (proto.Message, error)

	mu      sync.Mutex
	request proto.Message
	caller  access.Caller
}

func ask[R proto.Message](s *service, ctx context.Context, request proto.Message) (answer R, err error) {
	s.mu.Lock()
	s.request = proto.Clone(request)
	s.caller, _ = access.CallerFrom(ctx)
	s.mu.Unlock()
	if s.reply == nil {
		return answer.ProtoReflect().New().Interface().(R), nil
	}
	m, err := s.reply(ctx, request)
	if err != nil {
		return answer, err
	}
	return m.(R), nil
}

// last is the last request and who made it.
func (s *service) last() (proto.Message, access.Caller) {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.request, s.caller
}

func (s *service) OpenSession(ctx context.Context, r *controlpb.OpenSessionRequest) (*controlpb.OpenSessionResponse, error) {
	return ask[*controlpb.OpenSessionResponse](s, ctx, r)
}

func (s *service) KeepAlive(ctx context.Context, r *controlpb.KeepAliveRequest) (*controlpb.KeepAliveResponse, error) {
	return ask[*controlpb.KeepAliveResponse](s, ctx, r)
}

func (s *service) CloseSession(ctx context.Context, r *controlpb.CloseSessionRequest) (*controlpb.CloseSessionResponse, error) {
	return ask[*controlpb.CloseSessionResponse](s, ctx, r)
}

func (s *service) Stand(ctx context.Context, r *controlpb.StandRequest) (*controlpb.StandResponse, error) {
	return ask[*controlpb.StandResponse](s, ctx, r)
}

func (s *service) Withdraw(ctx context.Context, r *controlpb.WithdrawRequest) (*controlpb.WithdrawResponse, error) {
	return ask[*controlpb.WithdrawResponse](s, ctx, r)
}

func (s *service) Resign(ctx context.Context, r *controlpb.ResignRequest) (*controlpb.ResignResponse, error) {
	return ask[*controlpb.ResignResponse](s, ctx, r)
}

func (s *service) SignToken(ctx context.Context, r *controlpb.SignTokenRequest) (*controlpb.SignTokenResponse, error) {
	return ask[*controlpb.SignTokenResponse](s, ctx, r)
}

func (s *service) ListLeaders(ctx context.Context, r *controlpb.ListLeadersRequest) (*controlpb.ListLeadersResponse, error) {
	return ask[*controlpb.ListLeadersResponse](s, ctx, r)
}

func (s *service) ListScopes(ctx context.Context, r *controlpb.ListScopesRequest) (*controlpb.ListScopesResponse, error) {
	return ask[*controlpb.ListScopesResponse](s, ctx, r)
}

func (s *service) ListSessions(ctx context.Context, r *controlpb.ListSessionsRequest) (*controlpb.ListSessionsResponse, error) {
	return ask[*controlpb.ListSessionsResponse](s, ctx, r)
}

func (s *service) ReadAudit(ctx context.Context, r *controlpb.ReadAuditRequest) (*controlpb.ReadAuditResponse, error) {
	return ask[*controlpb.ReadAuditResponse](s, ctx, r)
}

func (s *service) DeclareScopes(ctx context.Context, r *controlpb.DeclareScopesRequest) (*controlpb.DeclareScopesResponse, error) {
	return ask[*controlpb.DeclareScopesResponse](s, ctx, r)
}

func (s *service) RetireScopes(ctx context.Context, r *controlpb.RetireScopesRequest) (*controlpb.RetireScopesResponse, error) {
	return ask[*controlpb.RetireScopesResponse](s, ctx, r)
}

func (s *service) Transfer(ctx context.Context, r *controlpb.TransferRequest) (*controlpb.TransferResponse, error) {
	return ask[*controlpb.TransferResponse](s, ctx, r)
}

func (s *service) CancelTransfer(ctx context.Context, r *controlpb.CancelTransferRequest) (*controlpb.CancelTransferResponse, error) {
	return ask[*controlpb.CancelTransferResponse](s, ctx, r)
}

func (s *service) Cordon(ctx context.Context, r *controlpb.CordonRequest) (*controlpb.CordonResponse, error) {
	return ask[*controlpb.CordonResponse](s, ctx, r)
}

func (s *service) Uncordon(ctx context.Context, r *controlpb.UncordonRequest) (*controlpb.UncordonResponse, error) {
	return ask[*controlpb.UncordonResponse](s, ctx, r)
}

func (s *service) Rebalance(ctx context.Context, r *controlpb.RebalanceRequest) (*controlpb.RebalanceResponse, error) {
	return ask[*controlpb.RebalanceResponse](s, ctx, r)
}

func (s *service) ListPeers(ctx context.Context, r *controlpb.ListPeersRequest) (*controlpb.ListPeersResponse, error) {
	return ask[*controlpb.ListPeersResponse](s, ctx, r)
}

func (s *service) ListNodes(ctx context.Context, r *controlpb.ListNodesRequest) (*controlpb.ListNodesResponse, error) {
	return ask[*controlpb.ListNodesResponse](s, ctx, r)
}

func (s *service) AddNode(ctx context.Context, r *controlpb.AddNodeRequest) (*controlpb.AddNodeResponse, error) {
	return ask[*controlpb.AddNodeResponse](s, ctx, r)
}

func (s *service) RemoveNode(ctx context.Context, r *controlpb.RemoveNodeRequest) (*controlpb.RemoveNodeResponse, error) {
	return ask[*controlpb.RemoveNodeResponse](s, ctx, r)
}

func (s *service) ReplaceNode(ctx context.Context, r *controlpb.ReplaceNodeRequest) (*controlpb.ReplaceNodeResponse, error) {
	return ask[*controlpb.ReplaceNodeResponse](s, ctx, r)
}

func (s *service) MoveRegistrar(ctx context.Context, r *controlpb.MoveRegistrarRequest) (*controlpb.MoveRegistrarResponse, error) {
	return ask[*controlpb.MoveRegistrarResponse](s, ctx, r)
}

package rpc

import (
	"context"
	"runtime/debug"
	"strings"

	"google.golang.org/grpc"
	"google.golang.org/grpc/credentials"
	"google.golang.org/grpc/metadata"
	"google.golang.org/grpc/peer"

	"github.com/omnirelay/leadership/adapters/access"
	"github.com/omnirelay/leadership/adapters/telemetry"
	"github.com/omnirelay/leadership/adapters/transport"
	"github.com/omnirelay/leadership/core"
	"github.com/omnirelay/leadership/wire/controlpb"
)

// open are the services that ask for nobody: probes, and the schema, which is public.
// Their callers are counted all the same.
var open = []string{"/grpc.health.v1.Health/", "/grpc.reflection.v1.ServerReflection/", "/grpc.reflection.v1alpha.ServerReflection/"}

func isOpen(method string) bool {
	for _, prefix := range open {
		if strings.HasPrefix(method, prefix) {
			return true
		}
	}
	return false
}

// ServerOptions are what every grpc server with this API needs: it finds out who calls,
// bounds what each caller takes, and makes a status of every error.
func (s *Server) ServerOptions() []grpc.ServerOption {
	return []grpc.ServerOption{grpc.ChainStreamInterceptor(s.called), grpc.ForceServerCodecV2(newCodec())}
}

// called passes every call, since Register makes streams of all.

func (s *Server) called(srv any, stream grpc.ServerStream, info *grpc.StreamServerInfo, handler grpc.StreamHandler) (err error) {
	defer func() { err = s.statusOf(info.FullMethod, err) }()
	defer s.recovered(info.FullMethod, &err)
	ctx, err := s.admit(stream.Context(), info.FullMethod)
	if err != nil {
		return err
	}
	caller, _ := access.CallerFrom(ctx)
	call := &calling{ServerStream: stream, ctx: ctx}
	if s.single[info.FullMethod] {
		return handler(srv, call)
	}
	if isOpen(info.FullMethod) {
		call.limiter = s.options.Gate.Limiter
	}
	release, err := s.options.Gate.Limiter.Stream(caller)
	if err != nil {
		s.options.Metrics.StreamRefused(telemetry.APIGRPC)
		return err
	}
	defer release()
	if info.FullMethod == controlpb.LeadershipMemberService_Attach_FullMethodName {
		defer s.options.Metrics.StreamOpened(telemetry.APIGRPC, transport.Protocol(ctx))()
	}
	return handler(srv, call)
}

// calling is a stream whose context knows its caller.
type calling struct {
	grpc.ServerStream
	ctx     context.Context
	limiter *access.Limiter // counts each message as a request; nil: the handler counts
}

func (c *calling) Context() context.Context { return c.ctx }

// RecvMsg counts what it reads where the handler is not ours.
func (c *calling) RecvMsg(m any) error {
	err := c.ServerStream.RecvMsg(m)
	if err == nil && c.limiter != nil {
		caller, _ := access.CallerFrom(c.ctx)
		err = c.limiter.Request(caller)
	}
	return err
}

// admit says who calls, in the context.
func (s *Server) admit(ctx context.Context, method string) (context.Context, error) {
	e := evidence(ctx)
	if isOpen(method) {
		caller := access.Anonymous(e.Remote)
		return access.WithCaller(ctx, caller), s.options.Gate.Limiter.Request(caller)
	}
	caller, err := s.options.Gate.Admit(ctx, e)
	if err != nil {
		return nil, err
	}
	return access.WithCaller(ctx, caller), nil
}

// evidence is what a call shows of who makes it.
func evidence(ctx context.Context) (e access.Evidence) {
	if p, ok := peer.FromContext(ctx); ok {
		if p.Addr != nil {
			e.Remote = p.Addr.String()
		}
		if tls, ok := p.AuthInfo.(credentials.TLSInfo); ok {
			e.TLS = &tls.State
		}
	}
	if md, ok := metadata.FromIncomingContext(ctx); ok {
		e.Authorization = md.Get("authorization")
	}
	return e
}

// recovered turns a panic of one call into its failure. The loop that keeps the registry
// runs on no caller's goroutine, so none can leave it half changed.
func (s *Server) recovered(method string, err *error) {
	if what := recover(); what != nil {
		s.options.Logger.Error("a call panicked", "method", method, "panic", what, "stack", string(debug.Stack()))
		*err = errPanicked
	}
}

var errPanicked = &core.Error{Code: "internal", Message: "this node failed; its log says more"}

package fence

import (
	"context"

	"google.golang.org/grpc"
)

// StreamServerInterceptor makes each guarded stream one action, from its begin to the
// return of its handler: see Do. When the leader is overtaken, the stream is cut:
// its context ends, receiving and sending fail at once, and no message is
// handed over any more, also one that has arrived. With a Rule.Scope each message
// received must act on the authority's scope.
func (g *Guard) StreamServerInterceptor(rules Rules) grpc.StreamServerInterceptor {
	return func(srv any, stream grpc.ServerStream, info *grpc.StreamServerInfo, handle grpc.StreamHandler) error {
		rule := rules.of(info.FullMethod)
		if rule.Open {
			return handle(srv, stream)
		}
		authority, err := g.authenticated(stream.Context())
		if err != nil {
			return refused(err)
		}
		action, err := g.Begin(stream.Context(), authority.Scope, authority.Fence)
		if err != nil {
			return refused(err)
		}
		defer action.End()
		err = handle(srv, &guardedStream{ServerStream: stream, guard: g, action: action, rule: rule, authority: authority, ctx: With(action.Context(), authority)})
		return handled(action.outcome(err))
	}
}

type guardedStream struct {
	grpc.ServerStream
	guard     *Guard
	action    *Action
	rule      Rule
	authority Authority
	ctx       context.Context
}

func (s *guardedStream) Context() context.Context { return s.ctx }

func (s *guardedStream) RecvMsg(m any) error {
	if err := s.unlessCut(func() error { return s.ServerStream.RecvMsg(m) }); err != nil {
		return err
	}
	if err := s.rule.check(s.ctx, s.authority, m); err != nil {
		return refused(s.guard.count(err))
	}
	return nil
}

func (s *guardedStream) SendMsg(m any) error {
	return s.unlessCut(func() error { return s.ServerStream.SendMsg(m) })
}

// unlessCut makes a transfer, and waits for it no longer than the action may go on: a
// former leader that neither sends nor reads must not keep its successor waiting.
// What is left behind ends with the stream, when the handler returns.
func (s *guardedStream) unlessCut(transfer func() error) error {
	if stale := s.action.Stale(); stale != nil {
		return &refusal{stale}
	}
	done := make(chan error, 1)
	go func() { done <- transfer() }()
	var err error
	for over, ended := s.action.Context().Done(), false; !ended; over = nil {
		select {
		case err = <-done:
			ended = true
		case <-over: // also when the caller is gone: then the transfer fails by itself
		}
		if stale := s.action.Stale(); stale != nil {
			return &refusal{stale}
		}
	}
	return err
}

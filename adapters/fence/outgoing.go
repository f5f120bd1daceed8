package fence

import (
	"context"
	"fmt"
	"net/http"

	"google.golang.org/grpc"
	"google.golang.org/grpc/metadata"
)

// AuthorityFunc says whether the authority that ctx carries is still held, now: nil,
// or why not. The client SDK gives one that looks at the lease by the clock.
type AuthorityFunc func(ctx context.Context) error

// OutgoingOption settles how outgoing calls are stamped.
type OutgoingOption func(*outgoing)

type outgoing struct {
	held   AuthorityFunc
	needed bool
}

// HeldBy has f asked before each call, and before each message of a stream, that is
// made under an authority. What f refuses is not sent: the call ends in a *LostError.
// This spares the resource calls that it would refuse, and replaces no guard.
func HeldBy(f AuthorityFunc) OutgoingOption { return func(o *outgoing) { o.held = f } }

// Needed refuses calls whose context carries no authority with a *MissingError,
// instead of letting them pass unstamped.
func Needed() OutgoingOption { return func(o *outgoing) { o.needed = true } }

func outgoingOf(options []OutgoingOption) *outgoing {
	o := &outgoing{}
	for _, option := range options {
		option(o)
	}
	return o
}

// authority is under what ctx's call is made; false: it is sent as it is.
func (o *outgoing) authority(ctx context.Context) (Authority, bool, error) {
	a, ok := From(ctx)
	if !ok {
		if o.needed {
			return Authority{}, false, &refusal{&MissingError{Header: ScopeHeader}}
		}
		return Authority{}, false, nil
	}
	if a.Fence == 0 || a.Fence > MaxFence || a.Scope == "" {
		return Authority{}, false, &refusal{malformed(FenceHeader, "the context carries scope %q and fence %d; want a scope and 1 to %d", a.Scope, a.Fence, MaxFence)}
	}
	return a, true, o.lost(ctx, a)
}

func (o *outgoing) lost(ctx context.Context, a Authority) error {
	if o.held == nil {
		return nil
	}
	if err := o.held(ctx); err != nil {
		return &LostError{Authority: a, Why: err}
	}
	return nil
}

// stamp puts the authority into the call's metadata, in place of any that is there.
func (a Authority) stamp(ctx context.Context) context.Context {
	md, ok := metadata.FromOutgoingContext(ctx) // a copy
	if !ok {
		md = metadata.MD{}
	}
	for _, h := range headers {
		md.Delete(h)
	}
	for _, p := range a.pairs() {
		md.Set(p[0], p[1])
	}
	return metadata.NewOutgoingContext(ctx, md)
}

// UnaryClientInterceptor stamps unary calls with the authority of their context.
func UnaryClientInterceptor(options ...OutgoingOption) grpc.UnaryClientInterceptor {
	o := outgoingOf(options)
	return func(ctx context.Context, method string, req, reply any, cc *grpc.ClientConn, invoke grpc.UnaryInvoker, opts ...grpc.CallOption) error {
		a, ok, err := o.authority(ctx)
		if err != nil {
			return err
		}
		if ok {
			ctx = a.stamp(ctx)
		}
		return invoke(ctx, method, req, reply, cc, opts...)
	}
}

// StreamClientInterceptor stamps streams with the authority of their context. The
// authority is that of the stream's begin, and checked again before each message.
func StreamClientInterceptor(options ...OutgoingOption) grpc.StreamClientInterceptor {
	o := outgoingOf(options)
	return func(ctx context.Context, desc *grpc.StreamDesc, cc *grpc.ClientConn, method string, stream grpc.Streamer, opts ...grpc.CallOption) (grpc.ClientStream, error) {
		a, ok, err := o.authority(ctx)
		if err != nil {
			return nil, err
		}
		if !ok {
			return stream(ctx, desc, cc, method, opts...)
		}
		// A stream whose sender gives up must be ended, or it is kept for ever.
		ctx, cancel := context.WithCancelCause(ctx)
		s, err := stream(a.stamp(ctx), desc, cc, method, opts...)
		if err != nil {
			cancel(nil)
			return nil, err
		}
		context.AfterFunc(s.Context(), func() { cancel(nil) })
		return &stampedStream{ClientStream: s, o: o, a: a, ctx: ctx, cancel: cancel}, nil
	}
}

type stampedStream struct {
	grpc.ClientStream
	o      *outgoing
	a      Authority
	ctx    context.Context
	cancel context.CancelCauseFunc
}

func (s *stampedStream) SendMsg(m any) error {
	if err := s.o.lost(s.ctx, s.a); err != nil {
		s.cancel(err)
		return err
	}
	return s.ClientStream.SendMsg(m)
}

// Transport stamps HTTP requests with the authority of their context, and sends them
// by base; nil: http.DefaultTransport. What an http.Client sends to another host, since it
// was redirected there, is not stamped.
func Transport(base http.RoundTripper, options ...OutgoingOption) http.RoundTripper {
	if base == nil {
		base = http.DefaultTransport
	}
	return &stampedTransport{base: base, o: outgoingOf(options)}
}

type stampedTransport struct {
	base http.RoundTripper
	o    *outgoing
}

// RoundTrip sends a stamped copy of r.
func (t *stampedTransport) RoundTrip(r *http.Request) (*http.Response, error) {
	a, ok, err := t.o.authority(r.Context())
	if err != nil {
		if r.Body != nil {
			r.Body.Close() // as a RoundTripper must, whatever happens
		}
		return nil, fmt.Errorf("fence: %w", err)
	}
	if !ok || elsewhere(r) {
		return t.base.RoundTrip(r)
	}
	r = r.Clone(r.Context())
	if r.Header == nil {
		r.Header = http.Header{}
	}
	for _, h := range headers {
		r.Header.Del(h)
	}
	for _, p := range a.pairs() {
		r.Header.Set(p[0], p[1])
	}
	return t.base.RoundTrip(r)
}

// elsewhere reports whether a request follows a redirect away from the host that its
// caller named.
func elsewhere(r *http.Request) bool {
	for from := r.Response; from != nil && from.Request != nil; from = from.Request.Response {
		if from.Request.URL.Host != r.URL.Host {
			return true
		}
	}
	return false
}

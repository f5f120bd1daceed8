package transport

import (
	"context"

	"google.golang.org/grpc"
	"google.golang.org/grpc/metadata"
	"google.golang.org/grpc/status"
)

// The protocols a call can travel by, as net/http names them.
const (
	HTTP1 = "HTTP/1.1"
	HTTP2 = "HTTP/2.0"
	HTTP3 = "HTTP/3.0"
)

// ProtocolHeader is the header of every response, on both listeners, that tells
// what the server was reached by.
const ProtocolHeader = "leadership-transport"

type callKey struct{}

// Protocol tells what a grpc call came by, from the context of its handler: HTTP3
// or HTTP2.
func Protocol(ctx context.Context) string {
	if callOf(ctx) != nil {
		return HTTP3
	}
	return HTTP2
}

// callOf is the call over HTTP/3 that a handler's context belongs to, nil when it
// came by HTTP/2.
func callOf(ctx context.Context) *demand {
	d, _ := ctx.Value(callKey{}).(*demand)
	return d
}

// tellProtocol is the first thing a call is answered with. It fails only where the
// header is out already, and then there is nobody to tell.
func tellProtocol(ctx context.Context) {
	_ = grpc.SetHeader(ctx, metadata.Pairs(ProtocolHeader, Protocol(ctx)))
}

// enterUnary and enterStream are the first interceptors of a front.

func enterUnary(ctx context.Context, request any, _ *grpc.UnaryServerInfo, handler grpc.UnaryHandler) (any, error) {
	leave, err := keepPlace(ctx)
	if err != nil {
		return nil, err
	}
	defer leave()
	tellProtocol(ctx)
	return handler(ctx, request)
}

func enterStream(server any, stream grpc.ServerStream, _ *grpc.StreamServerInfo, handler grpc.StreamHandler) error {
	ctx := stream.Context()
	leave, err := keepPlace(ctx)
	if err != nil {
		return err
	}
	defer leave()
	tellProtocol(ctx)
	if d := callOf(ctx); d != nil {
		stream = &demanding{ServerStream: stream, demand: d}
	}
	return handler(server, stream)
}

// keepPlace holds a call's place among those of its connection while its handler
// runs. Over HTTP/2 grpc does that itself.
func keepPlace(ctx context.Context) (leave func(), err error) {
	p, ok := ctx.Value(placeKey{}).(*place)
	if !ok {
		return func() {}, nil
	}
	if !p.hold() {
		return nil, status.FromContextError(context.Canceled).Err()
	}
	return p.release, nil
}

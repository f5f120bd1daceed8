package transport

import (
	"context"

	"google.golang.org/grpc"
	"google.golang.org/grpc/metadata"
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

func protocolUnary(ctx context.Context, request any, _ *grpc.UnaryServerInfo, handler grpc.UnaryHandler) (any, error) {
	tellProtocol(ctx)
	return handler(ctx, request)
}

func protocolStream(server any, stream grpc.ServerStream, _ *grpc.StreamServerInfo, handler grpc.StreamHandler) error {
	tellProtocol(stream.Context())
	if d := callOf(stream.Context()); d != nil {
		stream = &demanding{ServerStream: stream, demand: d}
	}
	return handler(server, stream)
}

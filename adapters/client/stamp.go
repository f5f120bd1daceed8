package client

import (
	"net/http"

	"google.golang.org/grpc"

	"github.com/omnirelay/leadership/adapters/fence"
)

// StampCalls are for grpc.NewClient: calls made with a context of Run carry its scope,
// fence, term, leader and signed token, and none leaves once the leadership is over by
// the clock. Others pass as they are.
func StampCalls() []grpc.DialOption {
	return []grpc.DialOption{
		grpc.WithChainUnaryInterceptor(fence.UnaryClientInterceptor(fence.HeldBy(Leading))),
		grpc.WithChainStreamInterceptor(fence.StreamClientInterceptor(fence.HeldBy(Leading))),
	}
}

// StampRequests is StampCalls for net/http; base nil: http.DefaultTransport.
func StampRequests(base http.RoundTripper) http.RoundTripper {
	return fence.Transport(base, fence.HeldBy(Leading))
}

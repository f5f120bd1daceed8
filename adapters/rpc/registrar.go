package rpc

import (
	"fmt"
	"slices"
	"time"

	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/reflection"
	"google.golang.org/grpc/status"

	"github.com/omnirelay/leadership/adapters/access"
)

// requestTimeout is how long the request of a call may take to arrive.
const requestTimeout = 5 * time.Second

// registrar registers every method as a stream of replies, of which there is one: on the
// wire that is the same. grpc reads the request of a call before its interceptors run:
// callers that nobody has asked who they are, or that come too often, could have any number
// of requests kept that never end. Of a stream nothing is read before its handler asks.
type registrar struct {
	reflection.GRPCServer
	api *Server
}

// RegisterService registers desc with no methods but streams.
func (r *registrar) RegisterService(desc *grpc.ServiceDesc, impl any) {
	changed := *desc
	changed.Methods, changed.Streams = nil, slices.Clone(desc.Streams)
	for _, m := range desc.Methods {
		changed.Streams = append(changed.Streams, grpc.StreamDesc{StreamName: m.MethodName, Handler: r.answer(m), ServerStreams: true})
		r.api.single["/"+desc.ServiceName+"/"+m.MethodName] = true
	}
	r.GRPCServer.RegisterService(&changed, impl)
}

// answer answers one request by one reply.
func (r *registrar) answer(m grpc.MethodDesc) grpc.StreamHandler {
	return func(impl any, stream grpc.ServerStream) error {
		receive := func(request any) error { return r.receive(stream, request) }
		reply, err := m.Handler(impl, stream.Context(), receive, nil)
		if err != nil {
			return err
		}
		caller, _ := access.CallerFrom(stream.Context())
		encoded, err := answerOf(reply, caller, r.api.options.Gate.Limiter)
		if err != nil {
			return err
		}
		return stream.SendMsg(encoded)
	}
}

// receive reads the request in time. The end of the call frees what still waits for it.
func (r *registrar) receive(stream grpc.ServerStream, request any) error {
	received := make(chan error, 1)
	go func() {
		defer func() {
			if what := recover(); what != nil { // or one caller could end the node
				received <- fmt.Errorf("receiving panicked: %v", what)
			}
		}()
		received <- stream.RecvMsg(request)
	}()
	within := r.api.requestWithin
	late := time.NewTimer(within)
	defer late.Stop()
	select {
	case err := <-received:
		return err
	case <-late.C:
		return status.Errorf(codes.DeadlineExceeded, "the request did not arrive within %v", within)
	}
}

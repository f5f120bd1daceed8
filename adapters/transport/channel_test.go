package transport

import (
	"context"
	"errors"
	"io"
	"net"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/credentials"
	testpb "google.golang.org/grpc/interop/grpc_testing"
	"google.golang.org/grpc/metadata"
	"google.golang.org/grpc/status"
)

// soon is how quickly something must happen that nothing holds up. Generous: the
// machines of CI are slow, and what it tells apart takes seconds.
const soon = 2 * time.Second

func TestStreamsOfEitherKind(t *testing.T) {
	bothWays(t, func(t *testing.T, p Preference, _ string) {
		service := &testService{
			output: func(r *testpb.StreamingOutputCallRequest, stream testpb.TestService_StreamingOutputCallServer) error {
				for _, part := range r.GetResponseParameters() {
					if err := stream.Send(&testpb.StreamingOutputCallResponse{Payload: payload(int(part.GetSize()))}); err != nil {
						return err
					}
				}
				return status.Error(codes.Aborted, "after the last")
			},
			input: func(stream testpb.TestService_StreamingInputCallServer) error {
				var total int
				for {
					r, err := stream.Recv()
					if errors.Is(err, io.EOF) {
						return stream.SendAndClose(&testpb.StreamingInputCallResponse{AggregatedPayloadSize: int32(total)}) //nolint:gosec // small
					}
					if err != nil {
						return err
					}
					total += len(r.GetPayload().GetBody())
				}
			},
		}
		s := serveGRPC(t, service, Limits{})
		client := testpb.NewTestServiceClient(s.channel(only(p)))

		sizes := []int32{0, 1, 5000, 300_000}
		request := &testpb.StreamingOutputCallRequest{}
		for _, size := range sizes {
			request.ResponseParameters = append(request.ResponseParameters, &testpb.ResponseParameters{Size: size})
		}
		output, err := client.StreamingOutputCall(patient(t), request)
		if err != nil {
			t.Fatal(err)
		}
		for _, size := range sizes {
			if r, err := output.Recv(); err != nil || len(r.GetPayload().GetBody()) != int(size) {
				t.Fatalf("want %d bytes, have %d, %v", size, len(r.GetPayload().GetBody()), err)
			}
		}
		if _, err := output.Recv(); status.Code(err) != codes.Aborted {
			t.Fatalf("at the end: %v", err)
		}

		input, err := client.StreamingInputCall(patient(t))
		if err != nil {
			t.Fatal(err)
		}
		for range 500 { // far more than any window holds
			if err := input.Send(&testpb.StreamingInputCallRequest{Payload: payload(10_000)}); err != nil {
				t.Fatal(err)
			}
		}
		if r, err := input.CloseAndRecv(); err != nil || r.GetAggregatedPayloadSize() != 5_000_000 {
			t.Fatalf("have %v, %v", r, err)
		}
	})
}

func TestACancelledCallEndsAtOnceAtBothEnds(t *testing.T) {
	bothWays(t, func(t *testing.T, p Preference, _ string) {
		ended := make(chan struct{})
		s := serveGRPC(t, &testService{duplex: func(stream testpb.TestService_FullDuplexCallServer) error {
			if err := stream.SendHeader(metadata.MD{}); err != nil {
				return err
			}
			<-stream.Context().Done()
			close(ended)
			return stream.Context().Err()
		}}, Limits{})
		ctx, cancel := context.WithCancel(patient(t))
		stream, err := testpb.NewTestServiceClient(s.channel(only(p))).FullDuplexCall(ctx)
		if err != nil {
			t.Fatal(err)
		}
		if _, err := stream.Header(); err != nil {
			t.Fatal(err)
		}
		time.AfterFunc(10*time.Millisecond, cancel) // while Recv waits
		_, err = stream.Recv()
		if status.Code(err) != codes.Canceled {
			t.Fatalf("have %v", err)
		}
		if err := stream.Send(duplexRequest(1)); !errors.Is(err, io.EOF) {
			t.Errorf("sending after the end: %v", err)
		}
		select {
		case <-ended:
		case <-time.After(soon):
			t.Error("the handler was not told")
		}
	})
}

func TestADeadlineIsKnownAtBothEnds(t *testing.T) {
	bothWays(t, func(t *testing.T, p Preference, _ string) {
		left := make(chan time.Duration, 1)
		s := serveGRPC(t, &testService{unary: func(ctx context.Context, _ *testpb.SimpleRequest) (*testpb.SimpleResponse, error) {
			deadline, _ := ctx.Deadline()
			left <- time.Until(deadline)
			<-ctx.Done()
			return nil, status.FromContextError(ctx.Err()).Err()
		}}, Limits{})
		client := testpb.NewTestServiceClient(s.channel(only(p)))
		ctx, cancel := context.WithTimeout(t.Context(), 300*time.Millisecond)
		defer cancel()
		_, err := client.UnaryCall(ctx, &testpb.SimpleRequest{})
		if status.Code(err) != codes.DeadlineExceeded {
			t.Fatalf("have %v", err)
		}
		if d := receive(t, left); d <= 0 || d > 300*time.Millisecond {
			t.Errorf("the handler had %v", d)
		}
	})
}

func TestMessagesBeyondTheirLimitEndTheCall(t *testing.T) {
	bothWays(t, func(t *testing.T, p Preference, _ string) {
		s := serveGRPC(t, &testService{duplex: echo, unary: func(_ context.Context, r *testpb.SimpleRequest) (*testpb.SimpleResponse, error) {
			return &testpb.SimpleResponse{Payload: payload(int(r.GetResponseSize()))}, nil
		}}, Limits{MessageBytes: 10_000})
		client := testpb.NewTestServiceClient(s.channel(func(o *ChannelOptions) { o.Prefer, o.MessageBytes = p, 20_000 }))
		if _, err := client.UnaryCall(patient(t), &testpb.SimpleRequest{ResponseSize: 19_000}); err != nil {
			t.Fatal(err)
		}
		if _, err := client.UnaryCall(patient(t), &testpb.SimpleRequest{ResponseSize: 21_000}); status.Code(err) != codes.ResourceExhausted {
			t.Errorf("a large answer: %v", err)
		}
		if _, err := client.UnaryCall(patient(t), &testpb.SimpleRequest{Payload: payload(11_000)}); status.Code(err) != codes.ResourceExhausted {
			t.Errorf("a large request: %v", err)
		}
		stream, err := client.FullDuplexCall(patient(t))
		if err != nil {
			t.Fatal(err)
		}
		for _, size := range []int{9_000, 11_000} {
			if err := stream.Send(duplexRequest(size)); err != nil {
				t.Fatal(err)
			}
		}
		if _, err := stream.Recv(); err != nil {
			t.Fatal(err)
		}
		if _, err := stream.Recv(); status.Code(err) != codes.ResourceExhausted {
			t.Errorf("a large request within a stream: %v", err)
		}
	})
}

// TestAMethodNobodyServes: errors that grpc itself answers arrive too.
func TestAMethodNobodyServes(t *testing.T) {
	bothWays(t, func(t *testing.T, p Preference, _ string) {
		s := serveGRPC(t, &testService{}, Limits{})
		err := s.channel(only(p)).Invoke(patient(t), "/no.such/Method", &testpb.SimpleRequest{}, &testpb.SimpleResponse{})
		if status.Code(err) != codes.Unimplemented {
			t.Errorf("have %v", err)
		}
	})
}

type bearer string

func (b bearer) GetRequestMetadata(context.Context, ...string) (map[string]string, error) {
	return map[string]string{"authorization": "Bearer " + string(b)}, nil
}

func (bearer) RequireTransportSecurity() bool { return true }

var _ credentials.PerRPCCredentials = bearer("")

func TestCredentialsOfACall(t *testing.T) {
	bothWays(t, func(t *testing.T, p Preference, _ string) {
		s := serveGRPC(t, &testService{unary: func(ctx context.Context, _ *testpb.SimpleRequest) (*testpb.SimpleResponse, error) {
			md, _ := metadata.FromIncomingContext(ctx)
			return &testpb.SimpleResponse{Username: strings.Join(md.Get("authorization"), ",")}, nil
		}}, Limits{})
		c := s.channel(func(o *ChannelOptions) { o.Prefer, o.PerRPC = p, bearer("secret") })
		r, err := testpb.NewTestServiceClient(c).UnaryCall(patient(t), &testpb.SimpleRequest{})
		if err != nil || r.GetUsername() != "Bearer secret" {
			t.Errorf("have %v, %v", r, err)
		}
	})
}

// TestAPlainGRPCClient: nothing of ours on its side.
func TestAPlainGRPCClient(t *testing.T) {
	s := serveGRPC(t, &testService{duplex: echo}, Limits{})
	conn, err := grpc.NewClient(s.address, grpc.WithTransportCredentials(credentials.NewTLS(s.tls()())))
	if err != nil {
		t.Fatal(err)
	}
	defer func() { _ = conn.Close() }()
	stream, err := testpb.NewTestServiceClient(conn).FullDuplexCall(patient(t))
	if err != nil {
		t.Fatal(err)
	}
	if err := stream.Send(duplexRequest(7)); err != nil {
		t.Fatal(err)
	}
	if r, err := stream.Recv(); err != nil || len(r.GetPayload().GetBody()) != 7 {
		t.Fatalf("have %v, %v", r, err)
	}
	header, err := stream.Header()
	if err != nil || header.Get(ProtocolHeader)[0] != HTTP2 {
		t.Errorf("header %v, %v", header, err)
	}
}

// protocolOf makes a call and tells what it came by, as the server saw it.
func protocolOf(t *testing.T, c *Channel) (string, time.Duration) {
	t.Helper()
	began := time.Now()
	r, err := testpb.NewTestServiceClient(c).UnaryCall(patient(t), &testpb.SimpleRequest{})
	if err != nil {
		t.Fatal(err)
	}
	return r.GetOauthScope(), time.Since(began)
}

func tellsProtocol(ctx context.Context, _ *testpb.SimpleRequest) (*testpb.SimpleResponse, error) {
	return &testpb.SimpleResponse{OauthScope: Protocol(ctx)}, nil
}

// halfSite serves a gRPC front on TCP only, and holds the UDP port without an answer.
func halfSite(t *testing.T) (*site, *net.UDPConn) {
	t.Helper()
	s := newSite(t)
	var err error
	if s.grpc, err = NewGRPCFront(s.options(Limits{}), nil...); err != nil {
		t.Fatal(err)
	}
	testpb.RegisterTestServiceServer(s.grpc.Server(), &testService{unary: tellsProtocol, duplex: echo})
	d := s.listen()
	go func() { s.served <- unlessStopped(s.grpc.server.Serve(d.TCP)) }()
	t.Cleanup(func() {
		s.stop()
		_ = d.Close()
	})
	return s, d.UDP
}

// quickestOf a few: what each of them waits for is in it, what the machine was busy
// with is not.
func quickestOf(call func()) time.Duration {
	quickest := patience
	for range 5 {
		began := time.Now()
		call()
		quickest = min(quickest, time.Since(began))
	}
	return quickest
}

// TestSilenceOnUDP: the first call waits for the head start, later ones do not, and
// calls go over HTTP/3 some time after it began to work.
func TestSilenceOnUDP(t *testing.T) {
	s, udp := halfSite(t)
	const headStart = 200 * time.Millisecond
	c := s.channel(func(o *ChannelOptions) { o.FallbackAfter = headStart })
	protocol, first := protocolOf(t, c)
	if protocol != HTTP2 || first < headStart || first > headStart+soon {
		t.Errorf("the first call took %v over %s", first, protocol)
	}
	if quickest := quickestOf(func() { protocolOf(t, c) }); quickest > headStart/2 {
		t.Errorf("later calls took %v: they waited too", quickest)
	}
	t.Logf("fell back after %v", first)

	s.serveQUIC(udp)
	eventually(t, "HTTP/3 is used", func() bool {
		protocol, _ := protocolOf(t, c)
		return protocol == HTTP3
	})
}

// TestAServerWithoutHTTP3: nobody has the UDP port, and the machine says so. Not
// even the head start is lost, and calls do not wait for the retries either.
func TestAServerWithoutHTTP3(t *testing.T) {
	t.Parallel()
	s, udp := halfSite(t)
	if err := udp.Close(); err != nil {
		t.Fatal(err)
	}
	c := s.channel(func(o *ChannelOptions) { o.FallbackAfter = patience })
	protocol, took := protocolOf(t, c)
	if protocol != HTTP2 || took > soon {
		t.Errorf("took %v over %s", took, protocol)
	}
	t.Logf("fell back after %v", took)

	address, err := net.ResolveUDPAddr("udp", s.address)
	if err != nil {
		t.Fatal(err)
	}
	silent, err := net.ListenUDP("udp", address)
	if err != nil {
		t.Fatal(err)
	}
	tried := make(chan struct{})
	go func() {
		defer close(tried)
		_, _, _ = silent.ReadFrom(make([]byte, 2000))
	}()
	for waiting := true; waiting; {
		if protocol, took := protocolOf(t, c); protocol != HTTP2 || took > soon {
			t.Fatalf("took %v over %s", took, protocol)
		}
		select {
		case <-tried:
			waiting = false
		case <-time.After(5 * time.Millisecond):
		}
	}
	if _, took := protocolOf(t, c); took > soon {
		t.Errorf("a call took %v: it waited for the retry", took)
	}
	s.serveQUIC(silent)
	eventually(t, "HTTP/3 is used", func() bool {
		protocol, _ := protocolOf(t, c)
		return protocol == HTTP3
	})
}

// serveQUIC adds HTTP/3 to a site that has none.
func (s *site) serveQUIC(udp *net.UDPConn) {
	served := make(chan error, 1)
	go func() { served <- s.grpc.quic.serve(udp) }()
	s.t.Cleanup(func() {
		s.stop()
		s.served = nil
		if err := receive(s.t, served); err != nil {
			s.t.Error(err)
		}
	})
}

// TestAServerThatSendsItsCallersAway: a connection that takes no more calls is left
// for new ones, and kept for those it has.
func TestAServerThatSendsItsCallersAway(t *testing.T) {
	s := serveGRPC(t, &testService{duplex: echo, unary: tellsProtocol}, Limits{})
	c := s.channel(nil)
	if protocol, _ := protocolOf(t, c); protocol != HTTP3 {
		t.Fatalf("over %s", protocol)
	}
	stream, err := testpb.NewTestServiceClient(c).FullDuplexCall(patient(t))
	if err != nil {
		t.Fatal(err)
	}
	say := func() {
		t.Helper()
		if err := stream.Send(duplexRequest(3)); err != nil {
			t.Fatal(err)
		}
		if _, err := stream.Recv(); err != nil {
			t.Fatal(err)
		}
	}
	say()
	leaving := make(chan struct{})
	go func() {
		defer close(leaving)
		s.grpc.quic.shutdown(patient(t))
	}()
	for end := time.Now().Add(patience); ; {
		protocol, _ := protocolOf(t, c)
		if protocol == HTTP2 {
			break
		}
		if time.Now().After(end) {
			t.Fatal("calls still go over HTTP/3")
		}
	}
	say()
	if err := stream.CloseSend(); err != nil {
		t.Fatal(err)
	}
	if _, err := stream.Recv(); !errors.Is(err, io.EOF) {
		t.Fatal(err)
	}
	receive(t, leaving)
}

// TestCallsSideBySide: many at once, on one connection.
func TestCallsSideBySide(t *testing.T) {
	bothWays(t, func(t *testing.T, p Preference, _ string) {
		s := serveGRPC(t, &testService{duplex: echo}, Limits{Streams: 10}) // more calls than may be at once
		client := testpb.NewTestServiceClient(s.channel(only(p)))
		var good atomic.Int32
		const n = 40
		done := make(chan error, n)
		for range n {
			go func() { done <- oneEcho(patient(t), client, &good) }()
		}
		for range n {
			if err := receive(t, done); err != nil {
				t.Error(err)
			}
		}
		if good.Load() != n*10 {
			t.Errorf("%d echoes", good.Load())
		}
	})
}

func oneEcho(ctx context.Context, client testpb.TestServiceClient, good *atomic.Int32) error {
	stream, err := client.FullDuplexCall(ctx)
	if err != nil {
		return err
	}
	for range 10 {
		if err := stream.Send(duplexRequest(100)); err != nil {
			return err
		}
		if _, err := stream.Recv(); err != nil {
			return err
		}
		good.Add(1)
	}
	if err := stream.CloseSend(); err != nil {
		return err
	}
	if _, err := stream.Recv(); !errors.Is(err, io.EOF) {
		return err
	}
	return nil
}

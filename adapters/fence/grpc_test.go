package fence

import (
	"context"
	"errors"
	"io"
	"net"
	"strings"
	"testing"

	"google.golang.org/genproto/googleapis/rpc/errdetails"
	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/credentials/insecure"
	testpb "google.golang.org/grpc/interop/grpc_testing"
	"google.golang.org/grpc/metadata"
	"google.golang.org/grpc/status"
	"google.golang.org/grpc/test/bufconn"

	"github.com/omnirelay/leadership/core"
)

// resource is a service with a method of each kind.
type resource struct {
	testpb.UnimplementedTestServiceServer
	unary  func(ctx context.Context, r *testpb.SimpleRequest) (*testpb.SimpleResponse, error)
	upload func(s grpc.ClientStreamingServer[testpb.StreamingInputCallRequest, testpb.StreamingInputCallResponse]) error
	duplex func(s grpc.BidiStreamingServer[testpb.StreamingOutputCallRequest, testpb.StreamingOutputCallResponse]) error
	output func(s grpc.ServerStreamingServer[testpb.StreamingOutputCallResponse]) error
}

func (r *resource) EmptyCall(context.Context, *testpb.Empty) (*testpb.Empty, error) {
	return &testpb.Empty{}, nil
}

func (r *resource) UnaryCall(ctx context.Context, m *testpb.SimpleRequest) (*testpb.SimpleResponse, error) {
	return r.unary(ctx, m)
}

func (r *resource) StreamingInputCall(s grpc.ClientStreamingServer[testpb.StreamingInputCallRequest, testpb.StreamingInputCallResponse]) error {
	return r.upload(s)
}

func (r *resource) FullDuplexCall(s grpc.BidiStreamingServer[testpb.StreamingOutputCallRequest, testpb.StreamingOutputCallResponse]) error {
	return r.duplex(s)
}

func (r *resource) StreamingOutputCall(_ *testpb.StreamingOutputCallRequest, s grpc.ServerStreamingServer[testpb.StreamingOutputCallResponse]) error {
	return r.output(s)
}

// dial serves what register adds over a connection in memory, guarded, and returns a
// client's connection.
func dial(t testing.TB, server []grpc.ServerOption, client []grpc.DialOption, register func(*grpc.Server)) *grpc.ClientConn {
	t.Helper()
	listener := bufconn.Listen(1 << 20)
	s := grpc.NewServer(server...)
	register(s)
	served := make(chan error, 1)
	go func() { served <- s.Serve(listener) }()
	client = append(client, grpc.WithTransportCredentials(insecure.NewCredentials()),
		grpc.WithContextDialer(func(ctx context.Context, _ string) (net.Conn, error) { return listener.DialContext(ctx) }))
	cc, err := grpc.NewClient("passthrough:///resource", client...)
	ok(t, err)
	t.Cleanup(func() {
		_ = cc.Close()
		s.Stop()
		if err := <-served; err != nil {
			t.Error(err)
		}
	})
	return cc
}

const service = "/grpc.testing.TestService/"

func serve(t testing.TB, g *Guard, rules Rules, r *resource, out ...OutgoingOption) testpb.TestServiceClient {
	t.Helper()
	return testpb.NewTestServiceClient(dial(t,
		[]grpc.ServerOption{grpc.UnaryInterceptor(g.UnaryServerInterceptor(rules)), grpc.StreamInterceptor(g.StreamServerInterceptor(rules))},
		[]grpc.DialOption{grpc.WithUnaryInterceptor(UnaryClientInterceptor(out...)), grpc.WithStreamInterceptor(StreamClientInterceptor(out...))},
		func(s *grpc.Server) { testpb.RegisterTestServiceServer(s, r) }))
}

func leader(ctx context.Context, scope string, fence uint64) context.Context {
	return With(ctx, Authority{Scope: scope, Fence: fence, Term: 3, Leader: "m1"})
}

// reasonOf is code and ErrorInfo of a refusal.
func reasonOf(err error) (codes.Code, *errdetails.ErrorInfo) {
	st, _ := status.FromError(err)
	for _, d := range st.Details() {
		if info, ok := d.(*errdetails.ErrorInfo); ok {
			return st.Code(), info
		}
	}
	return st.Code(), &errdetails.ErrorInfo{}
}

func wantReason(t testing.TB, err error, code codes.Code, reason string) {
	t.Helper()
	if c, info := reasonOf(err); c != code || info.GetReason() != reason || info.GetDomain() != "leadership.omnirelay" {
		t.Errorf("%v (%v); want %s %s", err, info, code, reason)
	}
}

func echo(ctx context.Context, _ *testpb.SimpleRequest) (*testpb.SimpleResponse, error) {
	a, _ := From(ctx)
	return &testpb.SimpleResponse{Username: a.Leader, ServerId: a.Scope}, nil
}

func TestUnaryCalls(t *testing.T) {
	g := newGuard(t, Options{})
	scope := func(_ context.Context, req any) (string, error) {
		switch body := string(req.(*testpb.SimpleRequest).GetPayload().GetBody()); body {
		case "broken":
			return "", status.Error(codes.InvalidArgument, "broken payload")
		case "":
			return "s", nil
		default:
			return body, nil
		}
	}
	rules := Rules{Methods: map[string]Rule{service + "EmptyCall": {Open: true}, service + "UnaryCall": {Scope: scope}}}
	client := serve(t, g, rules, &resource{unary: echo})
	call := func(ctx context.Context, scope string) (*testpb.SimpleResponse, error) {
		return client.UnaryCall(ctx, &testpb.SimpleRequest{Payload: &testpb.Payload{Body: []byte(scope)}})
	}
	ctx := t.Context()

	r, err := call(leader(ctx, "s", 5), "")
	ok(t, err)
	if r.GetUsername() != "m1" || r.GetServerId() != "s" {
		t.Errorf("the handler saw %v", r)
	}
	_, err = call(leader(ctx, "s", 7), "")
	ok(t, err)

	_, err = call(leader(ctx, "s", 6), "")
	wantReason(t, err, codes.FailedPrecondition, "stale-token")
	if _, info := reasonOf(err); info.Metadata["scope"] != "s" || info.Metadata["fence"] != "6" || info.Metadata["required"] != "7" {
		t.Errorf("%v", info)
	}
	if s, found := StaleFrom(err); !found || *s != (core.StaleError{Scope: "s", Fence: 6, Required: 7}) {
		t.Errorf("%v, %t", s, found)
	}
	if s, found := StaleFrom(errors.Join(io.EOF, err)); !found || s.Required != 7 {
		t.Errorf("wrapped: %v, %t", s, found)
	}

	_, err = call(ctx, "")
	wantReason(t, err, codes.FailedPrecondition, "authority-missing")
	if _, found := StaleFrom(err); found {
		t.Error("a missing authority was taken for a stale one")
	}
	_, err = call(leader(ctx, "other", 9), "")
	wantReason(t, err, codes.PermissionDenied, "scope-mismatch")
	if g.Mark("other") != 0 {
		t.Error("a refused call raised a mark")
	}
	_, err = call(leader(ctx, "other", 9), "other")
	ok(t, err)
	if _, err = call(leader(ctx, "s", 9), "broken"); status.Code(err) != codes.InvalidArgument || !strings.Contains(err.Error(), "broken payload") {
		t.Errorf("%v", err)
	}
	_, err = call(metadata.AppendToOutgoingContext(ctx, ScopeHeader, "s", FenceHeader, "07"), "")
	wantReason(t, err, codes.InvalidArgument, "authority-invalid")
	_, err = call(metadata.AppendToOutgoingContext(ctx, ScopeHeader, "s", FenceHeader, "7", FenceHeader, "9"), "")
	wantReason(t, err, codes.InvalidArgument, "authority-invalid")

	_, err = client.EmptyCall(ctx, &testpb.Empty{})
	ok(t, err)
	_, err = client.UnimplementedCall(ctx, &testpb.Empty{}) // named by no rule: guarded
	wantReason(t, err, codes.FailedPrecondition, "authority-missing")
}

func TestRulesAreFoundByMethodThenService(t *testing.T) {
	r := Rules{Methods: map[string]Rule{"/a.B/": {Open: true}, "/a.B/Guarded": {}}}
	for method, open := range map[string]bool{"/a.B/C": true, "/a.B/Guarded": false, "/a.BB/C": false, "/x": false, "": false} {
		if r.of(method).Open != open {
			t.Errorf("%s: open %t", method, !open)
		}
	}
}

// A handler that heeds its context is cut by its leader's successor, which begins
// when it has returned.
func TestUnaryHandlerIsCut(t *testing.T) {
	g := newGuard(t, Options{})
	entered := make(chan struct{})
	client := serve(t, g, Rules{}, &resource{unary: func(ctx context.Context, r *testpb.SimpleRequest) (*testpb.SimpleResponse, error) {
		if a, _ := From(ctx); a.Fence == 5 {
			close(entered)
			<-ctx.Done()
			return nil, ctx.Err()
		}
		return echo(ctx, r)
	}})
	older := make(chan error)
	go func() {
		_, err := client.UnaryCall(leader(context.Background(), "s", 5), &testpb.SimpleRequest{})
		older <- err
	}()
	<-entered
	_, err := client.UnaryCall(leader(t.Context(), "s", 6), &testpb.SimpleRequest{})
	ok(t, err)
	wantReason(t, <-older, codes.FailedPrecondition, "stale-token")
	if c := g.Counts(); c != (Counts{Admitted: 2, Stale: 1}) {
		t.Errorf("%+v", c)
	}
}

func TestHandlersErrorsPass(t *testing.T) {
	g := newGuard(t, Options{})
	var fails error
	client := serve(t, g, Rules{}, &resource{unary: func(context.Context, *testpb.SimpleRequest) (*testpb.SimpleResponse, error) {
		return nil, fails
	}})
	call := func() error {
		_, err := client.UnaryCall(leader(t.Context(), "s", 5), &testpb.SimpleRequest{})
		return err
	}
	fails = status.Error(codes.DataLoss, "x")
	if err := call(); status.Code(err) != codes.DataLoss {
		t.Errorf("%v", err)
	}
	// A database that refused the fence in the transaction of the effect.
	fails = errors.Join(errors.New("no effect"), &core.StaleError{Scope: "s", Fence: 5, Required: 6})
	if s, found := StaleFrom(call()); !found || s.Required != 6 {
		t.Errorf("%v", s)
	}
}

// What a deposed leader has sent already is not handed over.
func TestUploadIsCut(t *testing.T) {
	g := newGuard(t, Options{})
	got := make(chan struct{}, 10)
	more := make(chan struct{})
	client := serve(t, g, Rules{}, &resource{upload: func(s grpc.ClientStreamingServer[testpb.StreamingInputCallRequest, testpb.StreamingInputCallResponse]) error {
		for {
			if _, err := s.Recv(); errors.Is(err, io.EOF) {
				return s.SendAndClose(&testpb.StreamingInputCallResponse{})
			} else if err != nil {
				return err
			}
			got <- struct{}{}
			<-more
		}
	}})
	s, err := client.StreamingInputCall(leader(t.Context(), "s", 5))
	ok(t, err)
	ok(t, s.Send(&testpb.StreamingInputCallRequest{}))
	ok(t, s.Send(&testpb.StreamingInputCallRequest{})) // on its way before the election
	<-got
	ok(t, g.Observe("s", 6))
	close(more)
	_, err = s.CloseAndRecv()
	wantReason(t, err, codes.FailedPrecondition, "stale-token")
	if len(got) != 0 {
		t.Error("a message was handed over after the leader was deposed")
	}
	_, err = (client.StreamingInputCall(leader(t.Context(), "s", 5)))
	ok(t, err)
}

// A message that arrives in the moment of the election is not handed over.
func TestMessageAtTheMoment(t *testing.T) {
	g := newGuard(t, Options{})
	for fence := range uint64(50) { // both have happened, and either may be seen first
		action, err := g.Begin(t.Context(), "s", fence+1)
		ok(t, err)
		s := &guardedStream{guard: g, action: action, ctx: action.Context()}
		stale(t, s.unlessCut(func() error { return g.Observe("s", fence+2) }), fence+1, fence+2)
		action.End()
	}
}

// A deposed leader that sends nothing, or reads nothing, keeps no successor waiting.
func TestIdleStreamsAreCut(t *testing.T) {
	g := newGuard(t, Options{})
	entered := make(chan struct{}, 2)
	client := serve(t, g, Rules{}, &resource{
		duplex: func(s grpc.BidiStreamingServer[testpb.StreamingOutputCallRequest, testpb.StreamingOutputCallResponse]) error {
			entered <- struct{}{}
			_, err := s.Recv()
			return err
		},
		output: func(s grpc.ServerStreamingServer[testpb.StreamingOutputCallResponse]) error {
			full := &testpb.StreamingOutputCallResponse{Payload: &testpb.Payload{Body: make([]byte, 60_000)}}
			for i := 0; ; i++ {
				if i == 1 {
					entered <- struct{}{} // the next does not fit the stream's window
				}
				if err := s.Send(full); err != nil {
					return err
				}
			}
		},
		unary: echo,
	})
	silent, err := client.FullDuplexCall(leader(t.Context(), "s", 5))
	ok(t, err)
	deaf, err := client.StreamingOutputCall(leader(t.Context(), "s", 5), &testpb.StreamingOutputCallRequest{})
	ok(t, err)
	<-entered
	<-entered
	_, err = client.UnaryCall(leader(t.Context(), "s", 6), &testpb.SimpleRequest{})
	ok(t, err)
	_, err = silent.Recv()
	wantReason(t, err, codes.FailedPrecondition, "stale-token")
	for err = nil; err == nil; {
		_, err = deaf.Recv()
	}
	wantReason(t, err, codes.FailedPrecondition, "stale-token")
}

func TestStreamsKeepToTheirScope(t *testing.T) {
	g := newGuard(t, Options{})
	scope := func(_ context.Context, req any) (string, error) {
		return string(req.(*testpb.StreamingInputCallRequest).GetPayload().GetBody()), nil
	}
	client := serve(t, g, Rules{Default: Rule{Scope: scope}}, &resource{upload: func(s grpc.ClientStreamingServer[testpb.StreamingInputCallRequest, testpb.StreamingInputCallResponse]) error {
		for n := int32(0); ; n++ {
			if _, err := s.Recv(); errors.Is(err, io.EOF) {
				return s.SendAndClose(&testpb.StreamingInputCallResponse{AggregatedPayloadSize: n})
			} else if err != nil {
				return err
			}
		}
	}})
	send := func(fence uint64, scopes ...string) (int32, error) {
		s, err := client.StreamingInputCall(leader(t.Context(), "s", fence))
		ok(t, err)
		for _, scope := range scopes {
			if err := s.Send(&testpb.StreamingInputCallRequest{Payload: &testpb.Payload{Body: []byte(scope)}}); err != nil && !errors.Is(err, io.EOF) {
				t.Fatal(err)
			}
		}
		r, err := s.CloseAndRecv()
		return r.GetAggregatedPayloadSize(), err
	}
	if n, err := send(5, "s", "s", "s"); n != 3 || err != nil {
		t.Errorf("%d, %v", n, err)
	}
	_, err := send(5, "s", "other")
	wantReason(t, err, codes.PermissionDenied, "scope-mismatch")
	ok(t, g.Observe("s", 6))
	_, err = send(5)
	wantReason(t, err, codes.FailedPrecondition, "stale-token")
}

// The caller's own word that it lost its lease stops calls before they are sent.
func TestLostAuthorityIsNotSent(t *testing.T) {
	g := newGuard(t, Options{})
	var lost error
	received := make(chan struct{})
	held := func(ctx context.Context) error {
		if a, ok := From(ctx); !ok || a.Scope != "s" {
			t.Errorf("asked about %v", a)
		}
		return lost
	}
	client := serve(t, g, Rules{Methods: map[string]Rule{service + "EmptyCall": {Open: true}}}, &resource{unary: echo,
		duplex: func(s grpc.BidiStreamingServer[testpb.StreamingOutputCallRequest, testpb.StreamingOutputCallResponse]) error {
			_, err := s.Recv()
			close(received)
			if err == nil {
				_, err = s.Recv()
			}
			return err
		}}, HeldBy(held))
	ctx := leader(t.Context(), "s", 5)
	stream, err := client.FullDuplexCall(ctx)
	ok(t, err)
	ok(t, stream.Send(&testpb.StreamingOutputCallRequest{}))
	<-received

	lost = errors.New("the lease has run out")
	_, err = client.UnaryCall(ctx, &testpb.SimpleRequest{})
	if !errors.Is(err, lost) || status.Code(err) != codes.FailedPrecondition {
		t.Errorf("%v", err)
	}
	refusedAs[*LostError](t, err)
	wantReason(t, err, codes.FailedPrecondition, "authority-lost")
	_, err = client.FullDuplexCall(ctx)
	refusedAs[*LostError](t, err)
	refusedAs[*LostError](t, stream.Send(&testpb.StreamingOutputCallRequest{}))
	if _, err := stream.Recv(); status.Code(err) != codes.Canceled {
		t.Errorf("the stream goes on: %v", err)
	}
	until(t, "no action under way", func() bool {
		g.mu.Lock()
		defer g.mu.Unlock()
		return len(g.gates) == 0
	})
	if c := g.Counts(); c != (Counts{Admitted: 1}) {
		t.Errorf("%+v", c)
	}
	_, err = client.EmptyCall(t.Context(), &testpb.Empty{}) // in nobody's name
	ok(t, err)
}

func TestNeededAuthority(t *testing.T) {
	client := serve(t, newGuard(t, Options{}), Rules{Default: Rule{Open: true}}, &resource{}, Needed())
	_, err := client.EmptyCall(t.Context(), &testpb.Empty{})
	refusedAs[*MissingError](t, err)
	_, err = client.EmptyCall(leader(t.Context(), "s", 0), &testpb.Empty{})
	refusedAs[*core.Error](t, err)
	_, err = client.EmptyCall(leader(t.Context(), "s", 1), &testpb.Empty{})
	ok(t, err)
}

// An application that forwards metadata cannot add a second authority.
func TestStampReplaces(t *testing.T) {
	ctx := metadata.AppendToOutgoingContext(t.Context(), FenceHeader, "99", TokenHeader, "old", "x", "y")
	md, _ := metadata.FromOutgoingContext(Authority{Scope: "s", Fence: 5}.stamp(ctx))
	if len(md.Get(FenceHeader)) != 1 || md.Get(FenceHeader)[0] != "5" || len(md.Get(TokenHeader)) != 0 || md.Get("x")[0] != "y" {
		t.Errorf("%v", md)
	}
}

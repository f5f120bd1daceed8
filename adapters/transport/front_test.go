package transport

import (
	"context"
	"crypto/tls"
	"errors"
	"io"
	"log/slog"
	"net/http"
	"testing"
	"time"

	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	testpb "google.golang.org/grpc/interop/grpc_testing"
	"google.golang.org/grpc/metadata"
	"google.golang.org/grpc/peer"
	"google.golang.org/grpc/status"
)

// testService is what the gRPC fronts of these tests serve. Nil functions answer
// Unimplemented.
type testService struct {
	testpb.UnimplementedTestServiceServer
	unary  func(context.Context, *testpb.SimpleRequest) (*testpb.SimpleResponse, error)
	duplex func(testpb.TestService_FullDuplexCallServer) error
	output func(*testpb.StreamingOutputCallRequest, testpb.TestService_StreamingOutputCallServer) error
	input  func(testpb.TestService_StreamingInputCallServer) error
}

func (s *testService) UnaryCall(ctx context.Context, r *testpb.SimpleRequest) (*testpb.SimpleResponse, error) {
	if s.unary == nil {
		return s.UnimplementedTestServiceServer.UnaryCall(ctx, r)
	}
	return s.unary(ctx, r)
}

func (s *testService) FullDuplexCall(stream testpb.TestService_FullDuplexCallServer) error {
	if s.duplex == nil {
		return s.UnimplementedTestServiceServer.FullDuplexCall(stream)
	}
	return s.duplex(stream)
}

func (s *testService) StreamingOutputCall(r *testpb.StreamingOutputCallRequest, stream testpb.TestService_StreamingOutputCallServer) error {
	if s.output == nil {
		return s.UnimplementedTestServiceServer.StreamingOutputCall(r, stream)
	}
	return s.output(r, stream)
}

func (s *testService) StreamingInputCall(stream testpb.TestService_StreamingInputCallServer) error {
	if s.input == nil {
		return s.UnimplementedTestServiceServer.StreamingInputCall(stream)
	}
	return s.input(stream)
}

// echo answers each message with its payload.
func echo(stream testpb.TestService_FullDuplexCallServer) error {
	for {
		r, err := stream.Recv()
		if errors.Is(err, io.EOF) {
			return nil
		}
		if err != nil {
			return err
		}
		if err := stream.Send(&testpb.StreamingOutputCallResponse{Payload: r.GetPayload()}); err != nil {
			return err
		}
	}
}

func payload(size int) *testpb.Payload { return &testpb.Payload{Body: make([]byte, size)} }

func duplexRequest(size int) *testpb.StreamingOutputCallRequest {
	return &testpb.StreamingOutputCallRequest{Payload: payload(size)}
}

// site is a front under test, with an authority of its own.
type site struct {
	t         *testing.T
	authority *Authority
	server    Files
	address   string
	grpc      *GRPCFront
	web       *WebFront
	served    chan error
}

func newSite(t *testing.T) *site {
	t.Helper()
	a := authority(t, testCluster)
	return &site{t: t, authority: a, server: nodeFiles(t, a, "server"), served: make(chan error, 1)}
}

func (s *site) options(l Limits) FrontOptions {
	return FrontOptions{TLS: load(s.t, s.server).Server(Optional, "h2", "http/1.1"), Limits: l,
		Logger: slog.New(slog.NewTextHandler(s.t.Output(), nil))}
}

// serveGRPC starts a gRPC front, which ends with the test.
func serveGRPC(t *testing.T, service *testService, l Limits, options ...grpc.ServerOption) *site {
	t.Helper()
	s := newSite(t)
	var err error
	if s.grpc, err = NewGRPCFront(s.options(l), options...); err != nil {
		t.Fatal(err)
	}
	testpb.RegisterTestServiceServer(s.grpc.Server(), service)
	d := s.listen()
	go func() { s.served <- s.grpc.Serve(d) }()
	t.Cleanup(s.stop)
	return s
}

// serveWeb starts a web front, which ends with the test.
func serveWeb(t *testing.T, h http.Handler, l Limits) *site {
	t.Helper()
	s := newSite(t)
	var err error
	if s.web, err = NewWebFront(&http.Server{Handler: h, ErrorLog: slog.NewLogLogger(slog.DiscardHandler, 0)}, s.options(l)); err != nil {
		t.Fatal(err)
	}
	d := s.listen()
	go func() { s.served <- s.web.Serve(d) }()
	t.Cleanup(s.stop)
	return s
}

func (s *site) listen() *Dual {
	s.t.Helper()
	d, err := ListenDual("127.0.0.1:0")
	if err != nil {
		s.t.Fatal(err)
	}
	s.address = d.Addr()
	return d
}

// stop cuts what is left. Tests of graceful ends shut down before.
func (s *site) stop() {
	ctx, cancel := context.WithCancel(context.Background())
	cancel()
	if s.grpc != nil {
		s.grpc.Shutdown(ctx)
	}
	if s.web != nil {
		_ = s.web.Shutdown(ctx)
	}
	if s.served == nil {
		return
	}
	select {
	case err := <-s.served:
		if err != nil {
			s.t.Errorf("Serve: %v", err)
		}
	case <-time.After(patience):
		s.t.Error("Serve did not return")
	}
}

// tls is what a client of the site uses.
func (s *site) tls() func() *tls.Config {
	s.t.Helper()
	pair, err := s.authority.IssueClient(RoleRead)
	c := load(s.t, save(s.t, s.authority, pair, err))
	return func() *tls.Config { return c.Client("server") }
}

func (s *site) channel(change func(*ChannelOptions)) *Channel {
	s.t.Helper()
	o := ChannelOptions{Address: s.address, TLS: s.tls(), Logger: slog.New(slog.NewTextHandler(s.t.Output(), nil))}
	if change != nil {
		change(&o)
	}
	c, err := NewChannel(o)
	if err != nil {
		s.t.Fatal(err)
	}
	s.t.Cleanup(func() { _ = c.Close() })
	return c
}

func only(p Preference) func(*ChannelOptions) { return func(o *ChannelOptions) { o.Prefer = p } }

func patient(t *testing.T) context.Context {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), patience)
	t.Cleanup(cancel)
	return ctx
}

// bothWays runs a test over each protocol: what holds on one holds on the other.
func bothWays(t *testing.T, f func(t *testing.T, p Preference, protocol string)) {
	t.Helper()
	t.Run("HTTP2", func(t *testing.T) { f(t, OnlyHTTP2, HTTP2) })
	t.Run("HTTP3", func(t *testing.T) { f(t, OnlyHTTP3, HTTP3) })
}

func TestAUnaryCall(t *testing.T) {
	bothWays(t, func(t *testing.T, p Preference, protocol string) {
		service := &testService{unary: func(ctx context.Context, r *testpb.SimpleRequest) (*testpb.SimpleResponse, error) {
			md, _ := metadata.FromIncomingContext(ctx)
			id, err := CallerIdentity(ctx)
			if err != nil {
				return nil, err
			}
			if err := grpc.SetTrailer(ctx, metadata.Pairs("seen-bin", "\x00\xff", "seen", md.Get("sent-bin")[0])); err != nil {
				return nil, err
			}
			return &testpb.SimpleResponse{Payload: r.GetPayload(), Username: id.String(), OauthScope: Protocol(ctx)}, nil
		}}
		s := serveGRPC(t, service, Limits{})
		c := s.channel(only(p))
		var header, trailer metadata.MD
		var at peer.Peer
		ctx := metadata.AppendToOutgoingContext(patient(t), "sent-bin", "abc")
		r, err := testpb.NewTestServiceClient(c).UnaryCall(ctx, &testpb.SimpleRequest{Payload: payload(3000)},
			grpc.Header(&header), grpc.Trailer(&trailer), grpc.Peer(&at))
		if err != nil {
			t.Fatal(err)
		}
		if len(r.GetPayload().GetBody()) != 3000 || r.GetUsername() != "client/read" || r.GetOauthScope() != protocol {
			t.Errorf("have %d bytes, %q, %q", len(r.GetPayload().GetBody()), r.GetUsername(), r.GetOauthScope())
		}
		if got := header.Get(ProtocolHeader); len(got) != 1 || got[0] != protocol {
			t.Errorf("header %v", header)
		}
		if c.Negotiated() != protocol {
			t.Errorf("negotiated %q", c.Negotiated())
		}
		if trailer.Get("seen")[0] != "abc" || trailer.Get("seen-bin")[0] != "\x00\xff" {
			t.Errorf("trailer %v", trailer)
		}
		if at.Addr == nil || at.AuthInfo == nil {
			t.Errorf("peer %v", at)
		}
	})
}

func TestMessagesFlowBothWaysWhileAStreamIsOpen(t *testing.T) {
	bothWays(t, func(t *testing.T, p Preference, _ string) {
		s := serveGRPC(t, &testService{duplex: echo}, Limits{})
		stream, err := testpb.NewTestServiceClient(s.channel(only(p))).FullDuplexCall(patient(t))
		if err != nil {
			t.Fatal(err)
		}
		for i := range 100 {
			if err := stream.Send(duplexRequest(i)); err != nil {
				t.Fatal(err)
			}
			r, err := stream.Recv()
			if err != nil || len(r.GetPayload().GetBody()) != i {
				t.Fatalf("message %d: %d bytes, %v", i, len(r.GetPayload().GetBody()), err)
			}
		}
		if err := stream.CloseSend(); err != nil {
			t.Fatal(err)
		}
		if _, err := stream.Recv(); !errors.Is(err, io.EOF) {
			t.Fatalf("at the end: %v", err)
		}
	})
}

func TestAnErrorHasItsDetails(t *testing.T) {
	bothWays(t, func(t *testing.T, p Preference, _ string) {
		s := serveGRPC(t, &testService{unary: func(context.Context, *testpb.SimpleRequest) (*testpb.SimpleResponse, error) {
			st, err := status.New(codes.FailedPrecondition, "100 % stale: größer").WithDetails(&testpb.SimpleRequest{ResponseSize: 7})
			if err != nil {
				return nil, err
			}
			return nil, st.Err()
		}}, Limits{})
		_, err := testpb.NewTestServiceClient(s.channel(only(p))).UnaryCall(patient(t), &testpb.SimpleRequest{})
		st := status.Convert(err)
		if st.Code() != codes.FailedPrecondition || st.Message() != "100 % stale: größer" || len(st.Details()) != 1 {
			t.Fatalf("have %v, details %v", err, st.Details())
		}
		if d, ok := st.Details()[0].(*testpb.SimpleRequest); !ok || d.GetResponseSize() != 7 {
			t.Errorf("details %v", st.Details())
		}
	})
}

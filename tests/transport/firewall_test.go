package transport_test

import (
	"context"
	"crypto/tls"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"google.golang.org/grpc/codes"
	testpb "google.golang.org/grpc/interop/grpc_testing"
	"google.golang.org/grpc/status"

	"github.com/omnirelay/leadership/adapters/transport"
)

const (
	// patience bounds waits that no test passes by waiting out.
	patience = 30 * time.Second
	// slack is what a loaded machine may add to a bound.
	slack = time.Second
)

// service answers with the protocol a call came by, and tells when a stream ends.
type service struct {
	testpb.UnimplementedTestServiceServer
	ended chan time.Time
}

func (s *service) UnaryCall(ctx context.Context, _ *testpb.SimpleRequest) (*testpb.SimpleResponse, error) {
	return &testpb.SimpleResponse{OauthScope: transport.Protocol(ctx)}, nil
}

func (s *service) FullDuplexCall(stream testpb.TestService_FullDuplexCallServer) error {
	defer func() {
		select {
		case s.ended <- time.Now():
		default:
		}
	}()
	for {
		if _, err := stream.Recv(); err != nil {
			return err
		}
		if err := stream.Send(&testpb.StreamingOutputCallResponse{}); err != nil {
			return err
		}
	}
}

// rig is a front and a client of it.
type rig struct {
	t       *testing.T
	service *service
	port    int
	channel *transport.Channel
	client  testpb.TestServiceClient
}

func newRig(t *testing.T, change func(*transport.ChannelOptions)) *rig {
	t.Helper()
	logger := slog.New(slog.NewTextHandler(t.Output(), nil))
	certificates := issue(t)
	r := &rig{t: t, service: &service{ended: make(chan time.Time, 1)}}
	front, err := transport.NewGRPCFront(transport.FrontOptions{TLS: certificates.Server(transport.Optional, "h2"), Logger: logger})
	must(t, err)
	testpb.RegisterTestServiceServer(front.Server(), r.service)
	dual, err := transport.ListenDual("127.0.0.1:0")
	must(t, err)
	r.port = dual.Port()
	served := make(chan error, 1)
	go func() { served <- front.Serve(dual) }()
	o := transport.ChannelOptions{Address: dual.Addr(), TLS: func() *tls.Config { return certificates.Client("server") }, Logger: logger}
	if change != nil {
		change(&o)
	}
	r.channel, err = transport.NewChannel(o)
	must(t, err)
	r.client = testpb.NewTestServiceClient(r.channel)
	t.Cleanup(func() {
		must(t, r.channel.Close())
		ctx, cancel := context.WithTimeout(context.Background(), slack)
		defer cancel()
		front.Shutdown(ctx)
		must(t, <-served)
	})
	return r
}

func issue(t *testing.T) *transport.Certificates {
	t.Helper()
	a, err := transport.NewAuthority("test")
	must(t, err)
	pair, err := a.IssueNode("server")
	must(t, err)
	dir := t.TempDir()
	f := transport.Files{CA: filepath.Join(dir, "ca.pem"), Cert: filepath.Join(dir, "cert.pem"), Key: filepath.Join(dir, "key.pem")}
	must(t, pair.Save(f.Cert, f.Key))
	must(t, transport.WriteFile(f.CA, a.CertPEM(), 0o600))
	c, err := transport.LoadCertificates(f, nil)
	must(t, err)
	return c
}

func must(t *testing.T, err error) {
	t.Helper()
	if err != nil {
		t.Fatal(err)
	}
}

// filter puts rules on what arrives from now on, %d standing for the rig's port.
func (r *rig) filter(rules ...string) {
	r.t.Helper()
	script := "add table inet test\ndelete table inet test\nadd table inet test\nadd chain inet test in { type filter hook input priority 0; }\n"
	for _, rule := range rules {
		script += "add rule inet test in " + strings.ReplaceAll(rule, "%d", fmt.Sprint(r.port)) + "\n"
	}
	r.nft(script)
	r.t.Cleanup(r.clear)
}

// clear lets everything pass.
func (r *rig) clear() { r.nft("add table inet test\ndelete table inet test\n") }

func (r *rig) nft(script string) {
	r.t.Helper()
	nft := exec.Command("nft", "-f", "-")
	nft.Stdin = strings.NewReader(script)
	if out, err := nft.CombinedOutput(); err != nil {
		r.t.Fatalf("nft: %v: %s", err, out)
	}
}

// call makes a call and tells how long it took and what it came by.
func (r *rig) call() (string, time.Duration) {
	r.t.Helper()
	ctx, cancel := context.WithTimeout(r.t.Context(), patience)
	defer cancel()
	began := time.Now()
	answer, err := r.client.UnaryCall(ctx, &testpb.SimpleRequest{})
	must(r.t, err)
	return answer.GetOauthScope(), time.Since(began)
}

// stream opens a stream on which a message has come and gone.
func (r *rig) stream() testpb.TestService_FullDuplexCallClient {
	r.t.Helper()
	ctx, cancel := context.WithTimeout(r.t.Context(), patience)
	r.t.Cleanup(cancel)
	stream, err := r.client.FullDuplexCall(ctx)
	must(r.t, err)
	must(r.t, stream.Send(&testpb.StreamingOutputCallRequest{}))
	_, err = stream.Recv()
	must(r.t, err)
	return stream
}

const dropUDP = "meta l4proto udp udp dport %d drop"

// TestUDPIsDropped: the head start is lost once, and HTTP/3 is used when it works.
func TestUDPIsDropped(t *testing.T) {
	r := newRig(t, nil)
	r.filter(dropUDP)
	protocol, first := r.call()
	if protocol != transport.HTTP2 || first < transport.DefaultFallbackAfter || first > transport.DefaultFallbackAfter+slack {
		t.Errorf("the first call took %v over %s, want %v over HTTP/2", first, protocol, transport.DefaultFallbackAfter)
	}
	later := patience
	for range 5 { // what each waits for is in the quickest, what the machine is busy with is not
		_, took := r.call()
		later = min(later, took)
	}
	if later > transport.DefaultFallbackAfter/2 {
		t.Errorf("later calls took %v", later)
	}
	t.Logf("UDP dropped: first call %v, later ones %v", first, later)

	r.clear()
	cleared := time.Now()
	for protocol != transport.HTTP3 {
		if time.Since(cleared) > patience {
			t.Fatal("HTTP/3 was not tried again")
		}
		protocol, _ = r.call()
		time.Sleep(10 * time.Millisecond)
	}
	t.Logf("HTTP/3 %v after it began to work", time.Since(cleared))
}

// TestUDPIsRejected: an answer of the machine is worth more than silence.
func TestUDPIsRejected(t *testing.T) {
	r := newRig(t, func(o *transport.ChannelOptions) { o.FallbackAfter = patience })
	r.filter("meta l4proto udp udp dport %d reject with icmp type port-unreachable")
	protocol, took := r.call()
	if protocol != transport.HTTP2 || took > slack {
		t.Errorf("took %v over %s", took, protocol)
	}
	t.Logf("UDP rejected: first call %v", took)
}

// TestUDPStopsUnderAStream: both ends notice, and the next call goes by TCP.
func TestUDPStopsUnderAStream(t *testing.T) {
	r := newRig(t, nil)
	stream := r.stream()
	if got := r.channel.Negotiated(); got != transport.HTTP3 {
		t.Fatalf("over %s", got)
	}
	r.filter(dropUDP, "meta l4proto udp udp sport %d drop")
	dropped := time.Now()
	_, err := stream.Recv()
	noticed := time.Since(dropped)
	if status.Code(err) != codes.Unavailable || noticed > transport.DefaultDeadAfter+slack {
		t.Errorf("the client noticed after %v: %v", noticed, err)
	}
	protocol, next := r.call()
	if protocol != transport.HTTP2 || next > transport.DefaultFallbackAfter+slack {
		t.Errorf("the next call took %v over %s", next, protocol)
	}
	select {
	case at := <-r.service.ended:
		if took := at.Sub(dropped); took > transport.DefaultDeadAfter+slack {
			t.Errorf("the server noticed after %v", took)
		} else {
			t.Logf("noticed: client %v, server %v; next call %v over %s", noticed, took, next, protocol)
		}
	case <-time.After(patience):
		t.Error("the server did not notice")
	}
}

// TestTCPStopsUnderAStream that is used, as a member's is: the kernel gives up what is
// not acknowledged.
func TestTCPStopsUnderAStream(t *testing.T) {
	r := newRig(t, func(o *transport.ChannelOptions) { o.Prefer = transport.OnlyHTTP2 })
	stream := r.stream()
	r.filter("tcp dport %d drop", "tcp sport %d drop")
	dropped := time.Now()
	stop := make(chan struct{})
	done := make(chan struct{})
	go func() {
		defer close(done)
		tick := time.NewTicker(400 * time.Millisecond) // a member's keepalives at the default TTL
		defer tick.Stop()
		for {
			select {
			case <-stop:
				return
			case <-tick.C:
				if err := stream.Send(&testpb.StreamingOutputCallRequest{}); errors.Is(err, io.EOF) {
					return
				}
			}
		}
	}()
	_, err := stream.Recv()
	noticed := time.Since(dropped)
	close(stop)
	<-done
	// The first keepalive is due within 0.4 s, and is then given DeadAfter.
	if status.Code(err) != codes.Unavailable || noticed > 2*transport.DefaultDeadAfter+slack {
		t.Errorf("noticed after %v: %v", noticed, err)
	}
	t.Logf("noticed after %v", noticed)
}

package fuzz_test

import (
	"context"
	"crypto/tls"
	"io"
	"log/slog"
	"net"
	"net/http"
	"os"
	"path/filepath"
	"testing"
	"time"

	"google.golang.org/grpc"
	"google.golang.org/grpc/credentials"
	"google.golang.org/grpc/credentials/insecure"
	"google.golang.org/grpc/metadata"
	"google.golang.org/grpc/test/bufconn"

	"github.com/omnirelay/leadership/adapters/access"
	"github.com/omnirelay/leadership/adapters/api"
	"github.com/omnirelay/leadership/adapters/control"
	"github.com/omnirelay/leadership/adapters/rpc"
	"github.com/omnirelay/leadership/adapters/telemetry"
)

// callers are the credentials that a call may show, as authorization headers.
func callers(k key) []string {
	claims := func(sub, more string) string {
		return "Bearer " + k.sign(`{"alg":"EdDSA","typ":"JWT","kid":"`+k.id+`"}`, `{"sub":"`+sub+`","aud":"demo","exp":4102444800,`+more+`}`)
	}
	return []string{
		claims("admin", `"roles":["mesh.admin"]`),
		claims("m", `"roles":["mesh.member"],"member":"m","grants":[{"id":"a","maxPriority":10},{"kind":"shard","namespace":"x"}]`),
		claims("operate", `"roles":["mesh.operate"]`),
		claims("read", `"roles":["mesh.read"]`),
		claims("stranger", `"roles":["other"]`),
		"Bearer nonsense",
		"",
	}
}

// site is the public API over two nodes of the same state: one is asked over gRPC, the
// other over HTTP.
type site struct {
	grpcNode, httpNode *node
	grpc               *grpc.ClientConn
	http               http.Handler
	callers            []string
}

func newSite(f testing.TB) *site {
	f.Helper()
	k := newKey(f)
	file := filepath.Join(f.TempDir(), "jwks.json")
	if err := os.WriteFile(file, k.public, 0o600); err != nil {
		f.Fatal(err)
	}
	s := &site{grpcNode: &node{}, httpNode: &node{}, callers: callers(k)}
	s.grpcNode.begin(f)
	s.httpNode.begin(f)
	s.serveHTTP(f, gate(f, file))
	s.serveGRPC(f, gate(f, file))
	return s
}

// gate lets everybody pass who shows a good token, as often as he likes.
func gate(f testing.TB, keys string) access.Gate {
	f.Helper()
	authenticator, err := access.New(access.Options{Cluster: "demo", Bearer: access.Bearer{JWKS: keys}})
	if err != nil {
		f.Fatal(err)
	}
	f.Cleanup(authenticator.Close)
	const plenty = 1 << 30
	limiter, err := access.NewLimiter(access.Limits{RequestsPerSecond: plenty, Burst: plenty, StreamsPerCaller: plenty, SessionsPerMember: plenty})
	if err != nil {
		f.Fatal(err)
	}
	return access.Gate{Authenticator: authenticator, Limiter: limiter}
}

func service(f testing.TB, n *node) *api.Service {
	f.Helper()
	s, err := api.New(api.Options{Source: n, Attach: n.attach, Signer: plainSigner{}, Reserved: []string{"node-1"}, SessionsPerMember: 4,
		Cluster: "demo", NodeID: "node-1", Peers: gossiping, Window: 10 * time.Second, WriteTimeout: 10 * time.Second, Logger: slog.New(slog.DiscardHandler)})
	if err != nil {
		f.Fatal(err)
	}
	return s
}

func metricsOf(n *node) *telemetry.Metrics {
	return telemetry.NewMetrics(telemetry.Options{Logger: slog.New(slog.DiscardHandler), View: n.View})
}

func (s *site) serveHTTP(f testing.TB, g access.Gate) {
	f.Helper()
	server, err := control.New(control.Options{Source: s.httpNode, Service: service(f, s.httpNode), Gate: g, Metrics: metricsOf(s.httpNode),
		Logger: slog.New(slog.DiscardHandler), Boottime: func() int64 { return 1 }, MaxStreams: 4, WriteTimeout: 10 * time.Second,
		Heartbeat: time.Second, ReadTimeout: 10 * time.Second, MaxBody: 1 << 20})
	if err != nil {
		f.Fatal(err)
	}
	s.http = server.Handler()
}

func (s *site) serveGRPC(f testing.TB, g access.Gate) {
	f.Helper()
	server, err := rpc.New(rpc.Options{Source: s.grpcNode, Service: service(f, s.grpcNode), Gate: g, Metrics: metricsOf(s.grpcNode),
		Logger: slog.New(slog.DiscardHandler), MaxStreams: 4, WriteTimeout: 10 * time.Second, RenewalInterval: time.Second})
	if err != nil {
		f.Fatal(err)
	}
	listener := bufconn.Listen(1 << 20)
	grpcServer := grpc.NewServer(append(server.ServerOptions(), grpc.Creds(asIfEncrypted{insecure.NewCredentials()}))...)
	server.Register(grpcServer)
	go func() { _ = grpcServer.Serve(listener) }()
	f.Cleanup(grpcServer.Stop)
	dial := func(ctx context.Context, _ string) (net.Conn, error) { return listener.DialContext(ctx) }
	if s.grpc, err = grpc.NewClient("passthrough:///node", grpc.WithContextDialer(dial), grpc.WithTransportCredentials(insecure.NewCredentials())); err != nil {
		f.Fatal(err)
	}
	f.Cleanup(func() { _ = s.grpc.Close() })
}

// asIfEncrypted lets a server believe that its pipe in memory is TLS, without which it
// takes no tokens.
type asIfEncrypted struct {
	credentials.TransportCredentials
}

func (asIfEncrypted) ServerHandshake(c net.Conn) (net.Conn, credentials.AuthInfo, error) {
	return c, credentials.TLSInfo{State: tls.ConnectionState{HandshakeComplete: true}}, nil
}

func (a asIfEncrypted) Clone() credentials.TransportCredentials { return a }

func as(ctx context.Context, authorization string) context.Context {
	if authorization == "" {
		return ctx
	}
	return metadata.AppendToOutgoingContext(ctx, "authorization", authorization)
}

// request is one over HTTP, as from a connection with TLS.
func (s *site) request(method, target, authorization string, body io.Reader) (*http.Request, error) {
	r, err := http.NewRequest(method, "https://node"+target, body)
	if err != nil {
		return nil, err
	}
	r.RemoteAddr = "192.0.2.1:1"
	r.TLS = &tls.ConnectionState{HandshakeComplete: true}
	if authorization != "" {
		r.Header.Set("Authorization", authorization)
	}
	return r, nil
}

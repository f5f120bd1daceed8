package main

import (
	"crypto/tls"
	"crypto/x509"
	"encoding/json"
	"errors"
	"fmt"
	"log/slog"
	"net"
	"net/http"
	"os"
	"path/filepath"
	"regexp"
	"strings"
	"testing"
	"time"

	"github.com/rogpeppe/go-internal/testscript"
	"google.golang.org/grpc"
	grpccreds "google.golang.org/grpc/credentials"

	"github.com/omnirelay/leadership/adapters/access"
	"github.com/omnirelay/leadership/adapters/api"
	"github.com/omnirelay/leadership/adapters/control"
	"github.com/omnirelay/leadership/adapters/control/controltest"
	"github.com/omnirelay/leadership/adapters/rpc"
	"github.com/omnirelay/leadership/adapters/telemetry"
	"github.com/omnirelay/leadership/adapters/transport"
	"github.com/omnirelay/leadership/core"
)

func TestMain(m *testing.M) {
	testscript.Main(m, map[string]func(){"omnirelay": main})
}

// TestScripts tells what the commands say and do, one story a file. Each has a node
// of its own, which it changes with `node` and whose APIs cluster.json names.
func TestScripts(t *testing.T) {
	testscript.Run(t, testscript.Params{
		Dir: "testdata",
		Setup: func(env *testscript.Env) error {
			s := newSite(env.T().(testing.TB), env.WorkDir)
			env.Values[siteKey{}] = s
			env.Setenv("HTTP", s.url())
			env.Setenv("GRPC", s.grpcAddress)
			env.Defer(s.stop)
			return nil
		},
		Cmds: map[string]func(*testscript.TestScript, bool, []string){"node": nodeCommand, "await": awaitCommand, "code": codeCommand},
	})
}

type siteKey struct{}

// site is a node that is served over TLS on loopback ports.
type site struct {
	tb          testing.TB
	node        *controltest.Node
	sessions    map[string]uint64
	authority   *transport.Authority
	address     string
	grpcAddress string
	server      *http.Server
	gate        access.Gate
	service     *api.Service
	control     *control.Server
	grpc        *grpc.Server
	done        chan struct{}
}

func newSite(tb testing.TB, folder string) *site {
	authority, err := transport.NewAuthority("demo")
	if err != nil {
		tb.Fatal(err)
	}
	s := &site{tb: tb, node: controltest.New(tb), sessions: map[string]uint64{}, authority: authority, address: "127.0.0.1:0"}
	s.serviceOf()
	s.start()
	s.startGRPC()
	s.save(folder)
	return s
}

// serviceOf makes what both APIs call, behind the gate that both pass.
func (s *site) serviceOf() {
	authenticator, err := access.New(access.Options{Cluster: "demo"})
	if err != nil {
		s.tb.Fatal(err)
	}
	limiter, err := access.NewLimiter(access.Limits{RequestsPerSecond: 1000, Burst: 1000, StreamsPerCaller: 8, SessionsPerMember: 4})
	if err != nil {
		s.tb.Fatal(err)
	}
	s.gate = access.Gate{Authenticator: authenticator, Limiter: limiter}
	s.service, err = api.New(api.Options{
		Source: s.node, SessionsPerMember: 4, Cluster: "demo", NodeID: "node-1", Window: time.Second, WriteTimeout: time.Second, Logger: slog.New(slog.DiscardHandler),
		Attach: func(func(core.ReplicaMessage)) (api.Attachment, error) {
			return nil, errors.New("this node has no loop that members could attach to")
		},
	})
	if err != nil {
		s.tb.Fatal(err)
	}
}

func (s *site) url() string { return "https://" + s.address }

func (s *site) tls() *tls.Config {
	pair, err := s.authority.IssueNode("node-1")
	if err != nil {
		s.tb.Fatal(err)
	}
	cert, err := tls.X509KeyPair(pair.Cert, pair.Key)
	if err != nil {
		s.tb.Fatal(err)
	}
	pool := x509.NewCertPool()
	pool.AppendCertsFromPEM(s.authority.CertPEM())
	return &tls.Config{Certificates: []tls.Certificate{cert}, ClientAuth: tls.VerifyClientCertIfGiven, ClientCAs: pool, NextProtos: []string{"h2", "http/1.1"}}
}

// start serves the HTTP API, after a stop at the address it had.
func (s *site) start() {
	logger := slog.New(slog.DiscardHandler)
	var err error
	s.control, err = control.New(control.Options{Source: s.node, Service: s.service, Gate: s.gate, Logger: logger, MaxBody: 64 << 10,
		Metrics: telemetry.NewMetrics(telemetry.Options{Logger: logger, View: s.node.View}), Boottime: func() int64 { return 1 },
		MaxStreams: 4, WriteTimeout: 5 * time.Second, Heartbeat: time.Second, ReadTimeout: time.Second})
	if err != nil {
		s.tb.Fatal(err)
	}
	s.server = s.control.HTTPServer()
	s.server.TLSConfig = s.tls()
	l, err := net.Listen("tcp", s.address)
	if err != nil {
		s.tb.Fatal(err)
	}
	s.address, s.done = l.Addr().String(), make(chan struct{})
	server, done := s.server, s.done
	go func() {
		defer close(done)
		_ = server.ServeTLS(l, "", "")
	}()
}

func (s *site) startGRPC() {
	logger := slog.New(slog.DiscardHandler)
	calls, err := rpc.New(rpc.Options{Source: s.node, Service: s.service, Gate: s.gate, Logger: logger,
		Metrics:    telemetry.NewMetrics(telemetry.Options{Logger: logger, View: s.node.View}),
		MaxStreams: 4, WriteTimeout: 5 * time.Second, RenewalInterval: time.Second})
	if err != nil {
		s.tb.Fatal(err)
	}
	s.grpc = grpc.NewServer(append(calls.ServerOptions(), grpc.Creds(grpccreds.NewTLS(s.tls())))...)
	calls.Register(s.grpc)
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		s.tb.Fatal(err)
	}
	s.grpcAddress = l.Addr().String()
	go func() { _ = s.grpc.Serve(l) }()
}

// cut ends the HTTP API and every connection to it.
func (s *site) cut() {
	_ = s.server.Close()
	<-s.done
}

func (s *site) stop() {
	s.cut()
	s.grpc.Stop()
}

// save writes cluster.json, and cluster-2.json whose first node is not there.
func (s *site) save(folder string) {
	clients := map[string]any{}
	for _, role := range []transport.Role{transport.RoleRead, transport.RoleAdmin} {
		pair, err := s.authority.IssueClient(role)
		if err != nil {
			s.tb.Fatal(err)
		}
		cert, key := string(role)+".pem", string(role)+"-key.pem"
		if err := pair.Save(filepath.Join(folder, cert), filepath.Join(folder, key)); err != nil {
			s.tb.Fatal(err)
		}
		clients[string(role)] = map[string]string{"cert": cert, "key": key}
	}
	s.write(folder, "ca.pem", s.authority.CertPEM())
	here := map[string]any{"id": "node-1", "http": s.url(), "grpc": s.grpcAddress}
	gone := map[string]any{"id": "node-0", "http": "https://" + freeAddress(s.tb), "grpc": "127.0.0.1:1"}
	s.writeJSON(folder, "cluster.json", map[string]any{"nodes": []any{here}, "ca": "ca.pem", "clients": clients})
	s.writeJSON(folder, "cluster-2.json", map[string]any{"nodes": []any{gone, here}, "ca": "ca.pem", "clients": clients})
	s.writeJSON(folder, "cluster-gone.json", map[string]any{"nodes": []any{gone}, "ca": "ca.pem", "clients": clients})
	s.writeJSON(folder, "cluster-read.json", map[string]any{"nodes": []any{here}, "ca": "ca.pem", "clients": map[string]any{"read": clients["read"]}})
	// A certificate that is named for more than it is.
	s.writeJSON(folder, "cluster-pretended.json", map[string]any{"nodes": []any{here}, "ca": "ca.pem", "clients": map[string]any{"operate": clients["read"]}})
	s.writeJSON(folder, "cluster-anonymous.json", map[string]any{"nodes": []any{here}, "ca": "ca.pem"})
}

func (s *site) writeJSON(folder, name string, v any) {
	data, err := json.Marshal(v)
	if err != nil {
		s.tb.Fatal(err)
	}
	s.write(folder, name, data)
}

func (s *site) write(folder, name string, data []byte) {
	if err := os.WriteFile(filepath.Join(folder, name), data, 0o600); err != nil {
		s.tb.Fatal(err)
	}
}

// freeAddress is one where nobody listens.
func freeAddress(tb testing.TB) string {
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		tb.Fatal(err)
	}
	defer func() { _ = l.Close() }()
	return l.Addr().String()
}

// nodeCommand changes the node: declare SCOPE..., join MEMBER, leave MEMBER, retire
// SCOPE..., ready [REASON WHY NOT], cut, restart.
func nodeCommand(ts *testscript.TestScript, _ bool, args []string) {
	s := ts.Value(siteKey{}).(*site)
	switch args[0] {
	case "declare":
		s.node.Declare(args[1:]...)
	case "retire":
		s.node.Retire(args[1:]...)
	case "join":
		s.sessions[args[1]] = s.node.Join(args[1])
	case "leave":
		s.node.Leave(s.sessions[args[1]])
	case "ready":
		s.node.SetReady(strings.Join(args[1:], " "))
	case "cut":
		s.cut()
	case "restart":
		s.start()
	default:
		ts.Fatalf("node %s: unknown", args[0])
	}
}

// awaitCommand waits until a file matches a pattern.
func awaitCommand(ts *testscript.TestScript, _ bool, args []string) {
	pattern := regexp.MustCompile("(?m)" + args[1])
	deadline := time.Now().Add(20 * time.Second)
	var last []byte
	for time.Now().Before(deadline) {
		last, _ = os.ReadFile(ts.MkAbs(args[0])) // it may not be there yet
		if pattern.Match(last) {
			return
		}
		time.Sleep(5 * time.Millisecond)
	}
	ts.Fatalf("%s never matched %s:\n%s", args[0], args[1], last)
}

// codeCommand runs a command and wants exactly this exit code.
func codeCommand(ts *testscript.TestScript, _ bool, args []string) {
	err := ts.Exec(args[1], args[2:]...)
	code := "0"
	if err != nil {
		code = strings.TrimPrefix(err.Error(), "exit status ")
	}
	if code != args[0] {
		ts.Fatalf("exit code %s, want %s", code, args[0])
	}
}

func TestEventsAreReadAsBrowsersDo(t *testing.T) {
	const text = ": hello\nretry: 10\n\nid: 4.2\nevent: ELECTED\ndata: {\"kind\":\"ELECTED\",\ndata: \"scope\":\"a\"}\n\n" +
		"id:5.1\nevent:LOST\ndata:{\"kind\":\"LOST\"}\n\nevent: SNAPSHOT\ndata: {\"kind\":\"SNAPSHOT\"}\n\ndata: {\"cut"
	var got []string
	err := readEvents(strings.NewReader(text), func() {}, func(it item) error {
		got = append(got, fmt.Sprint(it.event.Kind, it.event.Scope, it.cursor))
		return nil
	})
	if want := "[ELECTEDa4.2 LOST5.1 SNAPSHOT]"; err != nil || fmt.Sprint(got) != want {
		t.Errorf("%v, %v; want %s", got, err, want)
	}
	if err := readEvents(strings.NewReader("data: "+strings.Repeat("x", maxEventBytes)), func() {}, nil); err == nil {
		t.Error("an event beyond the limit was read")
	}
}

package control

import (
	"context"
	"crypto/tls"
	"crypto/x509"
	"encoding/json"
	"fmt"
	"io"
	"log/slog"
	"net"
	"net/http"
	"strings"
	"testing"
	"time"

	"github.com/quic-go/quic-go"
	quic3 "github.com/quic-go/quic-go/http3"
	"go.uber.org/goleak"

	"github.com/omnirelay/leadership/adapters/access"
	"github.com/omnirelay/leadership/adapters/control/controltest"
	"github.com/omnirelay/leadership/adapters/telemetry"
	"github.com/omnirelay/leadership/adapters/transport"
	"github.com/omnirelay/leadership/core"
	"github.com/omnirelay/leadership/wire"
)

// site is a node whose API is served over TLS on a loopback port.
type site struct {
	t         *testing.T
	node      *controltest.Node
	metrics   *telemetry.Metrics
	authority *transport.Authority
	service   *service
	url       string
	server    *Server
}

// newSite serves a node; change may adjust the options before.
func newSite(t *testing.T, change ...func(*Options)) *site {
	t.Helper()
	authority, err := transport.NewAuthority("demo")
	if err != nil {
		t.Fatal(err)
	}
	st := &site{t: t, node: controltest.New(t), authority: authority, service: &service{}}
	logger := slog.New(slog.DiscardHandler)
	st.metrics = telemetry.NewMetrics(telemetry.Options{Logger: logger, LeaderSeries: 10, View: st.node.View})
	o := Options{Source: st.node, Service: st.service, Gate: newGate(t, access.Options{}, plenty),
		Metrics: st.metrics, Logger: logger, Boottime: func() int64 { return 1_000_000 }, MaxBody: 64 << 10,
		MaxStreams: 8, WriteTimeout: 5 * time.Second, Heartbeat: time.Minute, ReadTimeout: time.Second}
	for _, f := range change {
		f(&o)
	}
	if st.server, err = New(o); err != nil {
		t.Fatal(err)
	}
	st.listen()
	return st
}

// hurried gives a body little time, before anything is served.
func hurried(o *Options) { o.bodyWithin = 50 * time.Millisecond }

// plenty is what no test reaches unmeant.
var plenty = access.Limits{RequestsPerSecond: 1e6, Burst: 1e6, StreamsPerCaller: 100, SessionsPerMember: 1}

func newGate(t *testing.T, o access.Options, l access.Limits) access.Gate {
	t.Helper()
	o.Cluster = "demo"
	authenticator, err := access.New(o)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(authenticator.Close)
	limiter, err := access.NewLimiter(l)
	if err != nil {
		t.Fatal(err)
	}
	return access.Gate{Authenticator: authenticator, Limiter: limiter}
}

func (st *site) listen() {
	st.t.Helper()
	port, err := transport.ListenDual("127.0.0.1:0")
	if err != nil {
		st.t.Fatal(err)
	}
	port.TCP = narrow{port.TCP}
	front, err := transport.NewWebFront(st.server.HTTPServer(), transport.FrontOptions{TLS: &tls.Config{
		MinVersion: tls.VersionTLS13, Certificates: []tls.Certificate{st.pair(st.authority.IssueNode("node-1"))},
		ClientAuth: tls.VerifyClientCertIfGiven, ClientCAs: st.roots(), NextProtos: []string{"h2", "http/1.1"}}})
	if err != nil {
		st.t.Fatal(err)
	}
	done := make(chan error, 1)
	go func() { done <- front.Serve(port) }()
	st.url = "https://" + port.Addr()
	st.t.Cleanup(func() {
		st.server.EndStreams()
		now, cancel := context.WithCancel(context.Background())
		cancel()
		_ = front.Shutdown(now) // it cuts what is left, which it reports
		if err := <-done; err != nil {
			st.t.Error(err)
		}
	})
}

// narrow keeps the kernel from taking megabytes for a reader that stopped.
type narrow struct{ net.Listener }

func (l narrow) Accept() (net.Conn, error) {
	c, err := l.Listener.Accept()
	if err == nil {
		err = c.(*net.TCPConn).SetWriteBuffer(16 << 10)
	}
	return c, err
}

func (st *site) pair(p transport.Pair, err error) tls.Certificate {
	st.t.Helper()
	if err != nil {
		st.t.Fatal(err)
	}
	cert, err := tls.X509KeyPair(p.Cert, p.Key)
	if err != nil {
		st.t.Fatal(err)
	}
	return cert
}

func (st *site) roots() *x509.CertPool {
	pool := x509.NewCertPool()
	pool.AppendCertsFromPEM(st.authority.CertPEM())
	return pool
}

// The protocols that are served.
const (
	http1 = "HTTP/1.1"
	http2 = "HTTP/2.0"
	http3 = "HTTP/3.0"
)

var protocols = []string{http1, http2, http3}

// client calls by one protocol, with the certificates given.
func (st *site) client(proto string, certs ...tls.Certificate) *http.Client {
	config := &tls.Config{MinVersion: tls.VersionTLS13, RootCAs: st.roots(), Certificates: certs}
	// Small windows are soon full when a reader stops.
	if proto == http3 {
		tr := &quic3.Transport{TLSClientConfig: config, QUICConfig: &quic.Config{KeepAlivePeriod: 200 * time.Millisecond,
			InitialStreamReceiveWindow: 64 << 10, MaxStreamReceiveWindow: 64 << 10, InitialConnectionReceiveWindow: 128 << 10, MaxConnectionReceiveWindow: 128 << 10}}
		st.t.Cleanup(func() { _ = tr.Close() })
		return &http.Client{Transport: tr}
	}
	var only http.Protocols
	only.SetHTTP1(proto == http1)
	only.SetHTTP2(proto == http2)
	dial := func(ctx context.Context, network, address string) (net.Conn, error) {
		c, err := (&net.Dialer{}).DialContext(ctx, network, address)
		if err == nil {
			err = c.(*net.TCPConn).SetReadBuffer(16 << 10)
		}
		return c, err
	}
	tr := &http.Transport{TLSClientConfig: config, Protocols: &only, DialContext: dial,
		HTTP2: &http.HTTP2Config{MaxReceiveBufferPerStream: 64 << 10, MaxReceiveBufferPerConnection: 128 << 10}}
	st.t.Cleanup(tr.CloseIdleConnections)
	return &http.Client{Transport: tr}
}

func (st *site) reader() *http.Client {
	return st.client(http2, st.pair(st.authority.IssueClient(transport.RoleRead)))
}

func (st *site) do(c *http.Client, method, path string, header map[string]string, body io.Reader) (answer, string) {
	st.t.Helper()
	req, err := http.NewRequestWithContext(st.t.Context(), method, st.url+path, body)
	if err != nil {
		st.t.Fatal(err)
	}
	for k, v := range header {
		req.Header.Set(k, v)
	}
	resp, err := c.Do(req)
	if err != nil {
		st.t.Fatal(err)
	}
	defer func() { _ = resp.Body.Close() }()
	text, err := io.ReadAll(io.LimitReader(resp.Body, 1<<20))
	if err != nil {
		st.t.Fatal(err)
	}
	return answer{resp.StatusCode, resp.Header}, string(text)
}

// answer is a response whose body was read.
type answer struct {
	StatusCode int
	Header     http.Header
}

func (st *site) get(path string) (answer, string) {
	st.t.Helper()
	return st.do(st.reader(), http.MethodGet, path, nil, nil)
}

func read[T any](t *testing.T, text string) T {
	t.Helper()
	var v T
	dec := json.NewDecoder(strings.NewReader(text))
	dec.DisallowUnknownFields()
	if err := dec.Decode(&v); err != nil {
		t.Fatalf("%v in %s", err, text)
	}
	return v
}

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

func TestHeldIsToldWithoutTheCluster(t *testing.T) {
	st := newSite(t)
	st.node.SetReady("no registrar")
	st.node.Now = 5_000
	st.node.Holds = []core.Holding{{Token: core.Token{Scope: "job", Term: 2, Fence: 7}, Until: 5_300}}
	resp, text := st.get("/control/held")
	held := read[wire.HeldResponse](t, text)
	if resp.StatusCode != http.StatusOK || held.MemberID != "node-1" || held.NowBoottimeNs != 1_000_000 || len(held.Held) != 1 ||
		held.Held[0] != (wire.Held{Scope: "job", Term: 2, FenceToken: 7, UntilBoottimeNs: 1_000_300}) {
		t.Errorf("%d %s", resp.StatusCode, text)
	}
}

func TestProblems(t *testing.T) {
	st := newSite(t)
	st.node.Declare("job")
	for name, tc := range map[string]struct {
		method, path string
		header       map[string]string
		body         string
		status       int
		field, says  string
	}{
		"unknown path":      {path: "/control/leader", status: 404, field: "path", says: "/control/leader is not served"},
		"unknown stream":    {path: "/control/events/leadership?scope=nope", status: 404, field: "scope"},
		"malformed scope":   {path: "/control/leaders?scope=a%20b", status: 400, field: "scope", says: "has a byte that is no letter"},
		"empty scope":       {path: "/control/leaders?scope=", status: 400, field: "scope"},
		"unknown parameter": {path: "/control/leaders?scop=a", status: 400, field: "scop", says: "known here: scope, linearizable"},
		"nameless":          {path: "/control/leaders?=l", status: 400, field: "query", says: "known here: scope, linearizable"},
		"no parameters":     {path: "/control/held?scope=job", status: 400, field: "scope", says: "takes none"},
		"twice":             {path: "/control/leaders?scope=job&scope=job", status: 400, field: "scope", says: "given 2 times"},
		"malformed query":   {path: "/control/leaders?scope=%zz", status: 400, field: "query"},
		"boolean":           {path: "/control/leaders?linearizable=1", status: 400, field: "linearizable", says: `"1" is neither true nor false`},
		"cursor":            {path: "/control/events/leadership", header: map[string]string{"Last-Event-ID": "12"}, status: 400, field: "Last-Event-ID", says: "like 1042.3"},
		"cursor overflow":   {path: "/control/events/leadership", header: map[string]string{"Last-Event-ID": "99999999999999999999.1"}, status: 400, field: "Last-Event-ID"},
		"method":            {method: "POST", path: "/control/leaders", status: 405, field: "method", says: "want GET"},
		"body":              {path: "/control/leaders", body: "x", status: 413, field: "body"},
		"long query":        {path: "/control/leaders?scope=" + strings.Repeat("a", 4000), status: 414, field: "query"},
		"negative after":    {path: "/control/audit?after=-1", status: 400, field: "after"},
	} {
		t.Run(name, func(t *testing.T) {
			if tc.method == "" {
				tc.method = "GET"
			}
			var body io.Reader
			if tc.body != "" {
				body = strings.NewReader(tc.body)
			}
			resp, text := st.do(st.reader(), tc.method, tc.path, tc.header, body)
			problem := read[wire.Problem](t, text)
			if resp.StatusCode != tc.status || problem.Status != tc.status || problem.Field != tc.field || !strings.Contains(problem.Detail, tc.says) ||
				resp.Header.Get("Content-Type") != wire.ProblemContentType {
				t.Errorf("%d %s; want %d, field %q, saying %q", resp.StatusCode, text, tc.status, tc.field, tc.says)
			}
		})
	}
	resp, _ := st.do(st.reader(), "DELETE", "/control/leaders", nil, nil)
	if resp.Header.Get("Allow") != "GET, HEAD" {
		t.Error("405 without Allow")
	}
}

func TestOversizeHeadersAreRefused(t *testing.T) {
	st := newSite(t)
	c := st.client(http1, st.pair(st.authority.IssueClient(transport.RoleRead)))
	resp, _ := st.do(c, "GET", "/control/leaders", map[string]string{"X-Large": strings.Repeat("x", 64<<10)}, nil)
	if resp.StatusCode != http.StatusRequestHeaderFieldsTooLarge {
		t.Errorf("%d, want 431", resp.StatusCode)
	}
}

func TestANodeThatCannotVouchSaysSo(t *testing.T) {
	st := newSite(t)
	st.node.Declare("job")
	const why = "no registrar: fewer than 2 of the 3 registry nodes can reach each other"
	st.node.SetReady(why)
	resp, text := st.get("/readyz")
	if p := read[wire.Problem](t, text); resp.StatusCode != http.StatusServiceUnavailable || p.Detail != why || resp.Header.Get("Retry-After") == "" {
		t.Errorf("%d %s", resp.StatusCode, text)
	}
	if resp, _ := st.get("/healthz"); resp.StatusCode != http.StatusOK {
		t.Errorf("healthz: %d; a node without the cluster is alive", resp.StatusCode)
	}
	st.node.SetReady("")
	if resp, text := st.get("/readyz"); resp.StatusCode != http.StatusOK {
		t.Errorf("readyz: %d %s", resp.StatusCode, text)
	}
}

func TestRoles(t *testing.T) {
	st := newSite(t, func(o *Options) { o.Open = []string{EndpointMetrics} })
	foreign, err := transport.NewAuthority("other")
	if err != nil {
		t.Fatal(err)
	}
	st.node.Declare("job")
	nobody := st.client(http2)
	for path, want := range map[string]int{"/control/leaders": 401, "/control/held": 401, "/control/audit": 401, "/control/events/leadership": 401,
		"/control/scopes": 401, "/control/sessions": 401, "/control/openapi.json": 401, "/control/keys": 404, "/healthz": 200, "/readyz": 200, "/metrics": 200, "/nope": 404} {
		if resp, text := st.do(nobody, "GET", path, nil, nil); resp.StatusCode != want {
			t.Errorf("without certificate, %s: %d %s, want %d", path, resp.StatusCode, text, want)
		}
	}
	for _, role := range []transport.Role{transport.RoleRead, transport.RoleOperate, transport.RoleAdmin} {
		c := st.client(http2, st.pair(st.authority.IssueClient(role)))
		if resp, text := st.do(c, "GET", "/control/leaders", nil, nil); resp.StatusCode != http.StatusOK {
			t.Errorf("%s: %d %s", role, resp.StatusCode, text)
		}
	}
	if resp, _ := st.do(st.client(http2, st.pair(st.authority.IssueNode("node-2"))), "GET", "/control/leaders", nil, nil); resp.StatusCode != http.StatusForbidden {
		t.Errorf("a node: %d", resp.StatusCode)
	}
	wrong := st.client(http2)
	pair := st.pair(foreign.IssueClient(transport.RoleAdmin))
	wrong.Transport.(*http.Transport).TLSClientConfig.GetClientCertificate = func(*tls.CertificateRequestInfo) (*tls.Certificate, error) { return &pair, nil }
	if resp, err := wrong.Get(st.url + "/control/leaders"); err == nil {
		_ = resp.Body.Close()
		t.Errorf("a certificate of another authority: %d, want no connection", resp.StatusCode)
	}
}

func TestMetricsCountRequests(t *testing.T) {
	st := newSite(t)
	st.get("/control/held")
	st.get("/control/held?x=1")
	st.do(st.client(http2), "GET", "/control/scopes", nil, nil)
	_, text := st.get("/metrics")
	for _, want := range []string{`mesh_leadership_http_requests_total{route="held",status="200"} 1`, `mesh_leadership_http_requests_total{route="held",status="400"} 1`,
		`mesh_leadership_requests_refused_total{api="http",reason="unauthenticated"} 1`, `mesh_leadership_requests_refused_total{api="http",reason="forbidden"} 0`} {
		if !strings.Contains(text, want) {
			t.Errorf("no %s", want)
		}
	}
}

func TestOptionsNameAllThatIsMissing(t *testing.T) {
	_, err := New(Options{Open: []string{"all"}})
	for _, want := range []string{"Source", "Service", "Gate", "Metrics", "Logger", "Boottime", "MaxStreams", "MaxBody", "WriteTimeout", "Heartbeat", "ReadTimeout", "Open names all"} {
		if err == nil || !strings.Contains(err.Error(), want) {
			t.Errorf("%v does not name %s", err, want)
		}
	}
}

// overrun writes more records than are kept.
func overrun(n *controltest.Node) {
	ids := make([]string, 1000)
	for i := range ids {
		ids[i] = fmt.Sprintf("filler/%d", i)
	}
	for range core.MaxHistory/(2*len(ids)) + 2 {
		n.Declare(ids...)
		n.Retire(ids...)
	}
}

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

	"go.uber.org/goleak"

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
	st := &site{t: t, node: controltest.New(t), authority: authority}
	logger := slog.New(slog.DiscardHandler)
	st.metrics = telemetry.NewMetrics(telemetry.Options{Logger: logger, LeaderSeries: 10, View: st.node.View})
	o := Options{Source: st.node, Metrics: st.metrics, Logger: logger, Cluster: "demo", Boottime: func() int64 { return 1_000_000 },
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

func (st *site) listen() {
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		st.t.Fatal(err)
	}
	pair := st.pair(st.authority.IssueNode("node-1"))
	h := st.server.HTTPServer()
	h.TLSConfig = &tls.Config{MinVersion: tls.VersionTLS13, Certificates: []tls.Certificate{pair}, ClientAuth: tls.VerifyClientCertIfGiven,
		ClientCAs: st.roots(), NextProtos: []string{"h2", "http/1.1"}}
	done := make(chan struct{})
	go func() {
		defer close(done)
		_ = h.ServeTLS(l, "", "")
	}()
	st.url = "https://" + l.Addr().String()
	st.t.Cleanup(func() {
		st.server.EndStreams()
		_ = h.Close()
		<-done
	})
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

// client calls with the certificates given.
func (st *site) client(h2 bool, certs ...tls.Certificate) *http.Client {
	var protocols http.Protocols
	protocols.SetHTTP1(!h2)
	protocols.SetHTTP2(h2)
	tr := &http.Transport{TLSClientConfig: &tls.Config{RootCAs: st.roots(), Certificates: certs}, Protocols: &protocols}
	st.t.Cleanup(tr.CloseIdleConnections)
	return &http.Client{Transport: tr}
}

func (st *site) reader() *http.Client {
	return st.client(true, st.pair(st.authority.IssueClient(transport.RoleRead)))
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

func decode[T any](t *testing.T, text string) T {
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

func TestLeaders(t *testing.T) {
	st := newSite(t)
	st.node.Declare("global-control", "shard/a/0", "job")
	st.node.Expires = st.node.Wall + int64(2*time.Second)
	st.node.Join("node-1")
	resp, text := st.get("/control/leaders")
	all := decode[wire.LeadersResponse](t, text)
	if resp.StatusCode != http.StatusOK || resp.Header.Get("Content-Type") != "application/json" || all.Revision != 4 || len(all.Tokens) != 3 {
		t.Fatalf("%d %s", resp.StatusCode, text)
	}
	first := all.Tokens[0]
	if first.Scope != "global-control" || first.LeaderID != "node-1" || first.Term != 1 || first.FenceToken == 0 ||
		first.ExpiresAt.UnixNano() != st.node.Expires || first.IssuedAt.UnixNano() != st.node.Wall {
		t.Errorf("token %+v", first)
	}
	_, text = st.get("/control/leaders?scope=shard/a/0&linearizable=true")
	if one := decode[wire.LeadersResponse](t, text); len(one.Tokens) != 1 || one.Tokens[0].Labels["shardId"] != "0" {
		t.Errorf("one scope: %s", text)
	}
	st.node.Leave(1)
	_, text = st.get("/control/leaders?scope=job")
	if none := decode[wire.LeadersResponse](t, text); none.Tokens == nil || len(none.Tokens) != 0 {
		t.Errorf("a vacant scope: %s", text)
	}
}

func TestHeldIsToldWithoutTheCluster(t *testing.T) {
	st := newSite(t)
	st.node.SetReady("no registrar")
	st.node.Now = 5_000
	st.node.Holds = []core.Holding{{Token: core.Token{Scope: "job", Term: 2, Fence: 7}, Until: 5_300}}
	resp, text := st.get("/control/held")
	held := decode[wire.HeldResponse](t, text)
	if resp.StatusCode != http.StatusOK || held.MemberID != "node-1" || held.NowBoottimeNs != 1_000_000 || len(held.Held) != 1 ||
		held.Held[0] != (wire.Held{Scope: "job", Term: 2, FenceToken: 7, UntilBoottimeNs: 1_000_300}) {
		t.Errorf("%d %s", resp.StatusCode, text)
	}
}

func TestAudit(t *testing.T) {
	st := newSite(t)
	st.node.Declare("a", "b")
	s1 := st.node.Join("node-1")
	st.node.Join("node-2")
	st.node.Leave(s1)
	seqs := func(path string) (out []uint64) {
		_, text := st.get(path)
		for _, r := range decode[wire.AuditResponse](t, text).Records {
			out = append(out, r.Seq)
		}
		return out
	}
	for path, want := range map[string]string{
		"/control/audit":                         "[1 2 3 4 5 6 7 8]",
		"/control/audit?limit=2":                 "[7 8]",
		"/control/audit?after=3&limit=2":         "[4 5]",
		"/control/audit?after=8":                 "[]",
		"/control/audit?scope=a":                 "[1 3 5 7]",
		"/control/audit?scope=a&limit=1":         "[7]",
		"/control/audit?scope=a&after=1&limit=1": "[3]",
	} {
		if got := fmt.Sprint(seqs(path)); got != want {
			t.Errorf("%s: %s, want %s", path, got, want)
		}
	}
	_, text := st.get("/control/audit")
	records := decode[wire.AuditResponse](t, text).Records
	for i := 1; i < len(records); i++ {
		if records[i].PreviousHash != records[i-1].Hash || records[i].Hash == "" {
			t.Errorf("record %d does not follow", records[i].Seq)
		}
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
		"unknown scope":     {path: "/control/leaders?scope=nope", status: 404, field: "scope", says: "no scope nope is declared"},
		"unknown stream":    {path: "/control/events/leadership?scope=nope", status: 404, field: "scope"},
		"malformed scope":   {path: "/control/leaders?scope=a%20b", status: 400, field: "scope", says: "has a byte that is no letter"},
		"empty scope":       {path: "/control/leaders?scope=", status: 400, field: "scope"},
		"unknown parameter": {path: "/control/leaders?scop=a", status: 400, field: "scop", says: "known here: scope, linearizable"},
		"no parameters":     {path: "/control/held?scope=job", status: 400, field: "scope", says: "takes none"},
		"twice":             {path: "/control/leaders?scope=job&scope=job", status: 400, field: "scope", says: "given 2 times"},
		"malformed query":   {path: "/control/leaders?scope=%zz", status: 400, field: "query"},
		"boolean":           {path: "/control/leaders?linearizable=1", status: 400, field: "linearizable", says: `"1" is neither true nor false`},
		"cursor":            {path: "/control/events/leadership", header: map[string]string{"Last-Event-ID": "12"}, status: 400, field: "Last-Event-ID", says: "like 1042.3"},
		"cursor overflow":   {path: "/control/events/leadership", header: map[string]string{"Last-Event-ID": "99999999999999999999.1"}, status: 400, field: "Last-Event-ID"},
		"method":            {method: "POST", path: "/control/leaders", status: 405, field: "method", says: "want GET"},
		"body":              {path: "/control/leaders", body: "x", status: 413, field: "body"},
		"long query":        {path: "/control/leaders?scope=" + strings.Repeat("a", 4000), status: 414, field: "query"},
		"limit":             {path: "/control/audit?limit=0", status: 400, field: "limit", says: "from 1 to 1000"},
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
			problem := decode[wire.Problem](t, text)
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
	c := st.client(false, st.pair(st.authority.IssueClient(transport.RoleRead)))
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
	for _, path := range []string{"/control/leaders", "/control/audit", "/readyz"} {
		resp, text := st.get(path)
		if p := decode[wire.Problem](t, text); resp.StatusCode != http.StatusServiceUnavailable || p.Detail != why || resp.Header.Get("Retry-After") == "" {
			t.Errorf("%s: %d %s", path, resp.StatusCode, text)
		}
	}
	if resp, _ := st.get("/healthz"); resp.StatusCode != http.StatusOK {
		t.Errorf("healthz: %d; a node without the cluster is alive", resp.StatusCode)
	}
	st.node.SetReady("")
	if resp, text := st.get("/readyz"); resp.StatusCode != http.StatusOK {
		t.Errorf("readyz: %d %s", resp.StatusCode, text)
	}
}

func TestLinearizableReadWaitsAndGivesUp(t *testing.T) {
	st := newSite(t, func(o *Options) { o.ReadTimeout = 20 * time.Millisecond })
	st.node.Barrier = func(ctx context.Context) error {
		<-ctx.Done()
		return ctx.Err()
	}
	resp, text := st.get("/control/leaders?linearizable=true")
	if p := decode[wire.Problem](t, text); resp.StatusCode != http.StatusServiceUnavailable || !strings.Contains(p.Detail, "within 20ms") || resp.Header.Get("Retry-After") != "1" {
		t.Errorf("%d %s", resp.StatusCode, text)
	}
	// What is acknowledged before the barrier returns is in the answer.
	st.node.Barrier = func(context.Context) error {
		st.node.Declare("late")
		st.node.Join("node-1")
		return nil
	}
	if _, text := st.get("/control/leaders?linearizable=true"); len(decode[wire.LeadersResponse](t, text).Tokens) != 1 {
		t.Errorf("read before the barrier: %s", text)
	}
}

func TestRoles(t *testing.T) {
	st := newSite(t, func(o *Options) { o.Open = []string{EndpointMetrics} })
	foreign, err := transport.NewAuthority("other")
	if err != nil {
		t.Fatal(err)
	}
	st.node.Declare("job")
	nobody := st.client(true)
	for path, want := range map[string]int{"/control/leaders": 401, "/control/held": 401, "/control/audit": 401, "/control/events/leadership": 401,
		"/healthz": 200, "/readyz": 200, "/metrics": 200, "/nope": 404} {
		if resp, text := st.do(nobody, "GET", path, nil, nil); resp.StatusCode != want {
			t.Errorf("without certificate, %s: %d %s, want %d", path, resp.StatusCode, text, want)
		}
	}
	for _, role := range []transport.Role{transport.RoleRead, transport.RoleOperate, transport.RoleAdmin} {
		c := st.client(true, st.pair(st.authority.IssueClient(role)))
		if resp, text := st.do(c, "GET", "/control/leaders", nil, nil); resp.StatusCode != http.StatusOK {
			t.Errorf("%s: %d %s", role, resp.StatusCode, text)
		}
	}
	if resp, _ := st.do(st.client(true, st.pair(st.authority.IssueNode("node-2"))), "GET", "/control/leaders", nil, nil); resp.StatusCode != http.StatusOK {
		t.Errorf("a node: %d", resp.StatusCode)
	}
	wrong := st.client(true)
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
	_, text := st.get("/metrics")
	for _, want := range []string{`mesh_leadership_http_requests_total{route="held",status="200"} 1`, `mesh_leadership_http_requests_total{route="held",status="400"} 1`} {
		if !strings.Contains(text, want) {
			t.Errorf("no %s", want)
		}
	}
}

func TestOptionsNameAllThatIsMissing(t *testing.T) {
	_, err := New(Options{Open: []string{"all"}})
	for _, want := range []string{"Source", "Metrics", "Logger", "Cluster", "Boottime", "MaxStreams", "WriteTimeout", "Heartbeat", "ReadTimeout", "Open names all"} {
		if err == nil || !strings.Contains(err.Error(), want) {
			t.Errorf("%v does not name %s", err, want)
		}
	}
}

func TestRetiredHistoryIsGone(t *testing.T) {
	st := newSite(t)
	st.node.Declare("job")
	overrun(st.node)
	resp, text := st.get("/control/audit?after=1")
	if p := decode[wire.Problem](t, text); resp.StatusCode != http.StatusGone || p.Field != "after" || !strings.Contains(p.Detail, "the oldest is ") {
		t.Errorf("%d %s", resp.StatusCode, text)
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

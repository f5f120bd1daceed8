package control

import (
	"bytes"
	"context"
	"crypto/tls"
	"crypto/x509"
	"errors"
	"fmt"
	"io"
	"net/http"
	"net/http/httptest"
	"strings"
	"testing"
	"time"

	"google.golang.org/grpc/status"
	"google.golang.org/protobuf/proto"
	"google.golang.org/protobuf/types/known/durationpb"

	"github.com/omnirelay/leadership/adapters/access"
	"github.com/omnirelay/leadership/adapters/transport"
	"github.com/omnirelay/leadership/core"
	"github.com/omnirelay/leadership/wire"
	"github.com/omnirelay/leadership/wire/controlpb"
)

func (st *site) admin() *http.Client {
	return st.client(http2, st.pair(st.authority.IssueClient(transport.RoleAdmin)))
}

// post sends JSON; more headers follow as name, value, name, value.
func (st *site) post(path, body string, header ...string) (answer, string) {
	st.t.Helper()
	h := map[string]string{"Content-Type": "application/json"}
	for i := 0; i < len(header); i += 2 {
		h[header[i]] = header[i+1]
	}
	return st.do(st.admin(), "POST", path, h, strings.NewReader(body))
}

// problem sends what must be refused.
func (st *site) problem(status int, path, body string, header ...string) (wire.Problem, answer) {
	st.t.Helper()
	resp, text := st.post(path, body, header...)
	p := read[wire.Problem](st.t, text)
	if resp.StatusCode != status || p.Status != status || resp.Header.Get("Content-Type") != wire.ProblemContentType {
		st.t.Errorf("%s: %d %s, want %d", path, resp.StatusCode, text, status)
	}
	return p, resp
}

func TestAnOperationIsCalledByItsCaller(t *testing.T) {
	st := newSite(t)
	st.service.reply = func(context.Context, proto.Message) (proto.Message, error) {
		return &controlpb.OpenSessionResponse{Session: 1 << 52, Revision: 7, Lease: durationpb.New(1_960_000_000)}, nil
	}
	resp, text := st.post("/control/sessions", `{"memberId":"billing","base":"12","ttl":"2s","stands":[{"selector":{"id":"job"},"priority":-3}],"weight":2}`)
	if resp.StatusCode != http.StatusOK || text != `{"session":4503599627370496,"revision":7,"lease":"1.96s"}`+"\n" || resp.Header.Get("Content-Type") != "application/json" {
		t.Errorf("%d %s %s", resp.StatusCode, text, resp.Header)
	}
	got, caller := st.service.last()
	want := &controlpb.OpenSessionRequest{MemberId: "billing", Base: 12, Ttl: durationpb.New(2 * time.Second), Weight: proto.Uint32(2),
		Stands: []*controlpb.Wish{{Selector: &controlpb.Selector{Id: "job"}, Priority: -3}}}
	if !proto.Equal(got, want) {
		t.Errorf("asked %v, want %v", got, want)
	}
	if caller.Role != access.RoleAdmin || caller.Anonymous {
		t.Errorf("as %+v", caller)
	}
}

func TestPathQueryAndHeadersFillTheRequest(t *testing.T) {
	st := newSite(t)
	for _, tc := range []struct {
		method, path, body string
		header             []string
		want               proto.Message
	}{
		{"POST", "/control/sessions/7/keepalive", `{"number":3,"cursor":9}`, nil, &controlpb.KeepAliveRequest{Session: 7, Number: 3, Cursor: 9}},
		{"POST", "/control/sessions/7/close", ``, []string{"Idempotency-Key", "r1", "X-Correlation-Id", "c1"}, &controlpb.CloseSessionRequest{Session: 7, RequestId: "r1", CorrelationId: "c1"}},
		{"POST", "/control/sessions/7/close", `{"requestId":"r1","session":7}`, []string{"Idempotency-Key", "r1"}, &controlpb.CloseSessionRequest{Session: 7, RequestId: "r1"}},
		{"POST", "/control/members/node-1/cordon", `{"drain":true}`, nil, &controlpb.CordonRequest{MemberId: "node-1", Drain: true}},
		{"POST", "/control/members/node%2D1/uncordon", `{}`, nil, &controlpb.UncordonRequest{MemberId: "node-1"}},
		{"POST", "/control/scopes/declare", `{"scopes":[{"id":"a","failover":"FAILOVER_FAST"}]}`, nil,
			&controlpb.DeclareScopesRequest{Scopes: []*controlpb.ScopeSpec{{Id: "a", Failover: controlpb.Failover_FAILOVER_FAST}}}},
		{"GET", "/control/leaders?scope=shard%2Fa%2F0&linearizable=true", "", nil, &controlpb.ListLeadersRequest{Scope: "shard/a/0", Linearizable: true}},
		{"GET", "/control/sessions?memberId=node-1", "", nil, &controlpb.ListSessionsRequest{MemberId: "node-1"}},
		{"GET", "/control/audit?limit=5", "", nil, &controlpb.ReadAuditRequest{Limit: proto.Uint32(5)}},
		{"HEAD", "/control/scopes?scope=a", "", nil, &controlpb.ListScopesRequest{Scope: "a"}},
	} {
		header := map[string]string{}
		var body io.Reader
		if tc.method == "POST" {
			header["Content-Type"], body = "application/json; charset=utf-8", strings.NewReader(tc.body)
		}
		for i := 0; i < len(tc.header); i += 2 {
			header[tc.header[i]] = tc.header[i+1]
		}
		resp, text := st.do(st.admin(), tc.method, tc.path, header, body)
		got, _ := st.service.last()
		if resp.StatusCode != http.StatusOK || !proto.Equal(got, tc.want) {
			t.Errorf("%s %s: %d %s; asked %v, want %v", tc.method, tc.path, resp.StatusCode, text, got, tc.want)
		}
		if tc.method == "HEAD" && text != "" {
			t.Errorf("HEAD has a body: %s", text)
		}
	}
}

func TestWrongOperationsNeverArrive(t *testing.T) {
	st := newSite(t)
	for name, tc := range map[string]struct {
		path, body  string
		header      []string
		status      int
		field, says string
	}{
		"unknown field":        {path: "/control/sessions", body: `{"membrId":"a"}`, status: 400, field: "membrId", says: "unknown field"},
		"unknown query":        {path: "/control/transfer?scope=a", body: `{}`, status: 400, field: "scope", says: "takes none"},
		"no number in path":    {path: "/control/sessions/x/close", status: 400, field: "session", says: `"x"; want a whole number`},
		"negative in path":     {path: "/control/sessions/-1/close", status: 400, field: "session"},
		"hexadecimal in path":  {path: "/control/sessions/0x7/close", status: 400, field: "session"},
		"member in path":       {path: "/control/members/a%20b/cordon", status: 400, field: "memberId"},
		"slash in path":        {path: "/control/members/a%2Fb/cordon", status: 400, field: "memberId"},
		"path and body differ": {path: "/control/sessions/7/close", body: `{"session":8}`, status: 400, field: "session", says: "8 in the body, 7 in the path"},
		"keys differ":          {path: "/control/sessions", body: `{"requestId":"a"}`, header: []string{"Idempotency-Key", "b"}, status: 400, field: "Idempotency-Key", says: `requestId is "a"`},
		"correlations differ":  {path: "/control/sessions", body: `{"correlationId":"a"}`, header: []string{"X-Correlation-Id", "b"}, status: 400, field: "X-Correlation-Id"},
		"a form":               {path: "/control/sessions", body: `{}`, header: []string{"Content-Type", "application/x-www-form-urlencoded"}, status: 415, field: "Content-Type", says: "want application/json"},
		"plain text":           {path: "/control/sessions", body: `{}`, header: []string{"Content-Type", "text/plain"}, status: 415, field: "Content-Type"},
		"no content type":      {path: "/control/sessions/7/close", header: []string{"Content-Type", ""}, status: 415, field: "Content-Type"},
		"another site":         {path: "/control/transfer", body: `{}`, header: []string{"Sec-Fetch-Site", "cross-site"}, status: 403, field: "Origin"},
		"a sibling site":       {path: "/control/transfer", body: `{}`, header: []string{"Sec-Fetch-Site", "same-site"}, status: 403, field: "Origin"},
		"another origin":       {path: "/control/transfer", body: `{}`, header: []string{"Origin", "https://evil.example"}, status: 403, field: "Origin"},
		"too large":            {path: "/control/sessions", body: `{"memberId":"` + strings.Repeat("a", 64<<10) + `"}`, status: 413, field: "body", says: "more than 65536 bytes"},
		"read by POST":         {path: "/control/leaders", body: `{}`, status: 405, field: "method"},
		"overridden method":    {path: "/control/leaders", body: `{}`, header: []string{"X-Http-Method-Override", "GET"}, status: 405, field: "method"},
		"no such operation":    {path: "/control/sessions/7/renew", body: `{}`, status: 404, field: "path"},
		"wrong deadline":       {path: "/control/transfer", body: `{}`, header: []string{"Grpc-Timeout", "soon"}, status: 400},
	} {
		t.Run(name, func(t *testing.T) {
			st.t = t
			p, _ := st.problem(tc.status, tc.path, tc.body, tc.header...)
			if p.Field != tc.field || !strings.Contains(p.Detail, tc.says) {
				t.Errorf("%+v, want field %q saying %q", p, tc.field, tc.says)
			}
			if m, _ := st.service.last(); m != nil {
				t.Errorf("the operation was called: %v", m)
			}
		})
	}
}

func TestMethodsOfOnePath(t *testing.T) {
	st := newSite(t)
	resp, text := st.do(st.admin(), "PUT", "/control/sessions", nil, nil)
	if resp.StatusCode != http.StatusMethodNotAllowed || resp.Header.Get("Allow") != "GET, HEAD, POST" || !strings.Contains(text, "want GET, HEAD, POST") {
		t.Errorf("%d %s %s", resp.StatusCode, resp.Header, text)
	}
	resp, _ = st.do(st.admin(), "GET", "/control/transfer", nil, nil)
	if resp.StatusCode != http.StatusMethodNotAllowed || resp.Header.Get("Allow") != "POST" {
		t.Errorf("%d %s", resp.StatusCode, resp.Header)
	}
}

// A page of this very node may call: it is where an operator's own page comes from.
func TestOwnPagesMayCall(t *testing.T) {
	st := newSite(t)
	for _, header := range [][]string{{"Sec-Fetch-Site", "same-origin"}, {"Origin", st.url}, {"Sec-Fetch-Site", "none"}} {
		if resp, text := st.post("/control/transfer", `{}`, header...); resp.StatusCode != http.StatusOK {
			t.Errorf("%v: %d %s", header, resp.StatusCode, text)
		}
	}
}

func TestRefusalsOfOperations(t *testing.T) {
	st := newSite(t)
	for name, tc := range map[string]struct {
		err                error
		status             int
		code, field, retry string
	}{
		"invalid":       {&core.Error{Code: core.CodeInvalid, Field: "scope", Message: "m"}, 400, "invalid", "scope", ""},
		"session ended": {&core.Error{Code: core.CodeSessionEnded, Message: "m"}, 410, "session-ended", "", ""},
		"too old":       {&core.Error{Code: core.CodeTooOld, Message: "m"}, 409, "too-old", "", ""},
		"unavailable":   {&core.Error{Code: core.CodeUnavailable, Message: "m"}, 503, "unavailable", "", "1"},
		"overloaded":    {&core.Error{Code: core.CodeOverloaded, Message: "m"}, 429, "overloaded", "", "1"},
		"denied":        {&access.Denied{Message: "m"}, 403, "denied", "", ""},
		"exceeded":      {&access.Exceeded{What: "sessions of member a", Limit: 2, RetryAfter: 1500 * time.Millisecond}, 429, "overloaded", "", "2"},
		"deadline":      {context.DeadlineExceeded, 503, "unavailable", "", "1"},
		"secret":        {errors.New("disk /dev/sda1"), 500, "internal", "", ""},
		"unimplemented": {status.Error(12, "method X not implemented"), 501, "unsupported", "", ""},
	} {
		st.service.reply = func(context.Context, proto.Message) (proto.Message, error) { return nil, tc.err }
		p, resp := st.problem(tc.status, "/control/transfer", `{}`)
		if p.Code != tc.code || p.Field != tc.field || resp.Header.Get("Retry-After") != tc.retry || p.Instance != "/control/transfer" ||
			p.Type != "urn:omnirelay:problem:"+tc.code || strings.Contains(p.Detail, "sda1") {
			t.Errorf("%s: %+v %s", name, p, resp.Header)
		}
	}
}

func TestANodeThatCannotServeNamesAnother(t *testing.T) {
	st := newSite(t, func(o *Options) {
		o.Hint = func() map[string]string { return map[string]string{"node": "node-2", "http": "b:1"} }
	})
	for err, want := range map[error]string{
		&core.Error{Code: core.CodeUnavailable, Message: "m"}:   "node-2",
		&core.Error{Code: core.CodeNotFound, Message: "m"}:      "",
		&access.Exceeded{What: "requests", RetryAfter: 1 << 30}: "",
	} {
		st.service.reply = func(context.Context, proto.Message) (proto.Message, error) { return nil, err }
		_, text := st.post("/control/transfer", `{}`)
		if p := read[hintedProblem](t, text); p.Elsewhere["node"] != want {
			t.Errorf("%v: %s", err, text)
		}
	}
}

func TestACallerMaySetADeadline(t *testing.T) {
	st := newSite(t)
	st.service.reply = func(ctx context.Context, _ proto.Message) (proto.Message, error) {
		<-ctx.Done()
		return nil, ctx.Err()
	}
	if p, _ := st.problem(503, "/control/transfer", `{}`, "Grpc-Timeout", "20m"); !strings.Contains(p.Detail, "the outcome is unknown") {
		t.Errorf("%+v", p)
	}
}

// A body that drips in does not hold a connection for ever.
func TestASlowBodyIsCut(t *testing.T) {
	for _, protocol := range protocols {
		st := newSite(t, hurried)
		body, stalled := io.Pipe()
		go func() { _, _ = stalled.Write([]byte(`{"member`)) }()
		c := st.client(protocol, st.pair(st.authority.IssueClient(transport.RoleAdmin)))
		resp, text := st.do(c, "POST", "/control/sessions", map[string]string{"Content-Type": "application/json"}, body)
		if p := read[wire.Problem](t, text); resp.StatusCode != http.StatusRequestTimeout || p.Field != "body" || !strings.Contains(p.Detail, "within 50ms") {
			t.Errorf("%s: %d %s", protocol, resp.StatusCode, text)
		}
		_ = stalled.Close()
	}
}

// Also a request that is refused is not waited for: HTTP/1.1 would read the rest of it
// before it answers, for as long as that takes.
func TestTheSlowBodyOfARefusedRequestIsCut(t *testing.T) {
	st := newSite(t, hurried)
	for _, begin := range []string{"POST /control/transfer", "GET /control/leaders", "POST /nowhere", "POST //control/transfer", "OPTIONS *"} {
		conn, err := tls.Dial("tcp", strings.TrimPrefix(st.url, "https://"), &tls.Config{RootCAs: st.roots(), NextProtos: []string{"http/1.1"}})
		if err != nil {
			t.Fatal(err)
		}
		_ = conn.SetDeadline(time.Now().Add(10 * time.Second))
		if _, err := fmt.Fprintf(conn, "%s HTTP/1.1\r\nHost: x\r\nContent-Type: application/json\r\nContent-Length: 100\r\n\r\n{", begin); err != nil {
			t.Fatal(err)
		}
		if answer, err := io.ReadAll(conn); err != nil || !bytes.HasPrefix(answer, []byte("HTTP/1.1 ")) {
			t.Errorf("%s: %q, %v; want an answer and the end of the connection", begin, answer, err)
		}
		_ = conn.Close()
	}
}

// Whoever asks on and reads nothing is refused in time.
func TestUnreadAnswersAreBounded(t *testing.T) {
	for _, protocol := range protocols {
		var limiter *access.Limiter
		st := newSite(t, func(o *Options) { limiter = o.Gate.Limiter })
		st.service.reply = func(context.Context, proto.Message) (proto.Message, error) {
			return &controlpb.ListSessionsResponse{Cordoned: []string{strings.Repeat("x", access.MinUnread)}}, nil
		}
		c := st.client(protocol, st.pair(st.authority.IssueClient(transport.RoleRead)))
		list := func(want int) string {
			resp, text := st.do(c, "GET", "/control/sessions", nil, nil)
			if resp.StatusCode != want {
				t.Errorf("%s: %d %.300s, want %d", protocol, resp.StatusCode, text, want)
			}
			return text
		}
		list(http.StatusOK)
		_, caller := st.service.last()
		unread, err := limiter.Answer(caller, access.MaxUnread)
		for deadline := time.Now().Add(10 * time.Second); err != nil; unread, err = limiter.Answer(caller, access.MaxUnread) {
			if time.Now().After(deadline) {
				t.Fatalf("%s: the first is read and still counted: %v", protocol, err)
			}
			time.Sleep(time.Millisecond)
		}
		if p := read[wire.Problem](t, list(http.StatusTooManyRequests)); p.Code != string(core.CodeOverloaded) {
			t.Errorf("%s: %+v", protocol, p)
		}
		unread()
		list(http.StatusOK)
	}
}

// The deadline of a body is over with it: an operation may take longer.
func TestAnOperationOutlastsTheDeadlineOfItsBody(t *testing.T) {
	for _, protocol := range protocols {
		st := newSite(t, hurried)
		st.service.reply = func(ctx context.Context, _ proto.Message) (proto.Message, error) {
			select {
			case <-ctx.Done():
				return nil, ctx.Err()
			case <-time.After(150 * time.Millisecond):
				return &controlpb.TransferResponse{Revision: 5}, nil
			}
		}
		c := st.client(protocol, st.pair(st.authority.IssueClient(transport.RoleAdmin)))
		resp, text := st.do(c, "POST", "/control/transfer", map[string]string{"Content-Type": "application/json"}, strings.NewReader(`{}`))
		if resp.StatusCode != http.StatusOK || resp.Header.Get("Leadership-Transport") != protocol {
			t.Errorf("%s: %d %s %s", protocol, resp.StatusCode, resp.Header, text)
		}
	}
}

// What was sent before the handshake was over may be a copy that somebody else made.
func TestEarlyDataChangesNothing(t *testing.T) {
	st := newSite(t)
	pair := st.pair(st.authority.IssueClient(transport.RoleAdmin))
	for complete, want := range map[bool]int{false: http.StatusTooEarly, true: http.StatusOK} {
		r := httptest.NewRequest(http.MethodPost, "/control/transfer", strings.NewReader(`{}`))
		r.Header.Set("Content-Type", "application/json")
		r.TLS = &tls.ConnectionState{HandshakeComplete: complete}
		r.TLS.PeerCertificates = []*x509.Certificate{pair.Leaf}
		r.TLS.VerifiedChains = [][]*x509.Certificate{{pair.Leaf}}
		w := httptest.NewRecorder()
		st.server.Handler().ServeHTTP(w, r)
		if w.Code != want {
			t.Errorf("handshake complete %v: %d %s", complete, w.Code, w.Body)
		}
	}
}

func TestKeys(t *testing.T) {
	st := newSite(t, func(o *Options) { o.Keys = func() []byte { return []byte(`{"keys":[]}`) } })
	resp, text := st.do(st.client(http2), "GET", "/control/keys", nil, nil)
	if resp.StatusCode != http.StatusOK || text != `{"keys":[]}` || resp.Header.Get("Cache-Control") != "max-age=60" || resp.Header.Get("Content-Type") != "application/jwk-set+json" {
		t.Errorf("%d %s %s", resp.StatusCode, resp.Header, text)
	}
	none := newSite(t)
	if resp, text := none.do(none.client(http2), "GET", "/control/keys", nil, nil); resp.StatusCode != http.StatusNotFound || !strings.Contains(text, "tokens.keys") {
		t.Errorf("%d %s", resp.StatusCode, text)
	}
}

func TestCallersAreLimited(t *testing.T) {
	few := access.Limits{RequestsPerSecond: 1, Burst: 3, StreamsPerCaller: 1, SessionsPerMember: 1}
	st := newSite(t, func(o *Options) { o.Gate, o.Open = newGate(t, access.Options{}, few), []string{EndpointMetrics} })
	stream := st.connect(http2, "", "")
	resp, text := st.get("/control/events/leadership")
	if p := read[wire.Problem](t, text); resp.StatusCode != http.StatusTooManyRequests || p.Code != "overloaded" || resp.Header.Get("Retry-After") == "" {
		t.Errorf("a second stream: %d %s", resp.StatusCode, text)
	}
	stream.close()
	statuses := map[int]int{}
	for range 4 {
		resp, _ := st.get("/control/held")
		statuses[resp.StatusCode]++
	}
	if statuses[http.StatusTooManyRequests] == 0 {
		t.Errorf("six requests at once: %v", statuses)
	}
	// Who is refused holds nobody else up; and whoever probes is never refused.
	if resp, text := st.post("/control/transfer", `{}`); resp.StatusCode != http.StatusOK {
		t.Errorf("another caller: %d %s", resp.StatusCode, text)
	}
	for range 10 {
		if resp, text := st.do(st.client(http2), "GET", "/readyz", nil, nil); resp.StatusCode != http.StatusOK {
			t.Fatalf("a probe: %d %s", resp.StatusCode, text)
		}
	}
	for range 4 {
		resp, _ = st.do(st.client(http2), "GET", "/metrics", nil, nil)
	}
	if resp.StatusCode != http.StatusTooManyRequests {
		t.Errorf("four requests at once without credential: %d", resp.StatusCode)
	}
}

func TestAnonymousRead(t *testing.T) {
	st := newSite(t, func(o *Options) { o.Gate = newGate(t, access.Options{AnonymousRead: true}, plenty) })
	if resp, text := st.do(st.client(http2), "GET", "/control/scopes", nil, nil); resp.StatusCode != http.StatusOK {
		t.Errorf("%d %s", resp.StatusCode, text)
	}
	if _, caller := st.service.last(); !caller.Anonymous || caller.Role != access.RoleRead {
		t.Errorf("as %+v", caller)
	}
}

func TestUnknownCallersAreToldHow(t *testing.T) {
	st := newSite(t)
	for name, authorization := range map[string]string{"nothing": "", "a token": "Bearer x.y.z", "another scheme": "Basic eDp5"} {
		resp, text := st.do(st.client(http2), "GET", "/control/scopes", map[string]string{"Authorization": authorization}, nil)
		if p := read[wire.Problem](t, text); resp.StatusCode != http.StatusUnauthorized || p.Code != "unauthenticated" || !strings.HasPrefix(resp.Header.Get("Www-Authenticate"), "Bearer") {
			t.Errorf("%s: %d %s %s", name, resp.StatusCode, resp.Header, text)
		}
	}
	resp, text := st.do(st.client(http2), "POST", "/control/transfer", map[string]string{"Content-Type": "application/json"}, strings.NewReader(`{}`))
	if m, _ := st.service.last(); resp.StatusCode != http.StatusUnauthorized || m != nil {
		t.Errorf("%d %s, asked %v", resp.StatusCode, text, m)
	}
}

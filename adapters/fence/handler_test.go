package fence

import (
	"bytes"
	"context"
	"crypto/tls"
	"encoding/json"
	"errors"
	"io"
	"maps"
	"net"
	"net/http"
	"net/http/httptest"
	"strings"
	"testing"
	"time"

	"github.com/quic-go/quic-go/http3"

	"github.com/omnirelay/leadership/core"
)

// protocols are what a handler is served over.
var protocols = []string{"HTTP/1.1", "HTTP/2.0", "HTTP/3.0"}

// serveHTTP serves next guarded, and returns its URL and a client.
func serveHTTP(t *testing.T, g *Guard, protocol string, scope func(*http.Request) (string, error), next http.HandlerFunc, out ...OutgoingOption) (string, *http.Client) {
	t.Helper()
	s := httptest.NewUnstartedServer(g.Handler(next, scope))
	s.EnableHTTP2 = protocol == "HTTP/2.0"
	if protocol == "HTTP/1.1" {
		s.Start()
	} else {
		s.StartTLS()
	}
	t.Cleanup(s.Close)
	client, url := s.Client(), s.URL
	base := client.Transport.(*http.Transport)
	t.Cleanup(base.CloseIdleConnections)
	client.Transport = Transport(base, out...)
	if protocol == "HTTP/3.0" {
		url, client = serveHTTP3(t, s.Config.Handler, s.TLS.Certificates, base.TLSClientConfig, out)
	}
	return url, client
}

func serveHTTP3(t *testing.T, h http.Handler, certificates []tls.Certificate, trust *tls.Config, out []OutgoingOption) (string, *http.Client) {
	t.Helper()
	socket, err := net.ListenPacket("udp", "127.0.0.1:0")
	ok(t, err)
	server := &http3.Server{Handler: h, TLSConfig: http3.ConfigureTLSConfig(&tls.Config{Certificates: certificates})}
	served := make(chan struct{})
	go func() {
		_ = server.Serve(socket) // it says that it was closed
		close(served)
	}()
	base := &http3.Transport{TLSClientConfig: &tls.Config{RootCAs: trust.RootCAs, ServerName: "example.com"}}
	t.Cleanup(func() {
		ok(t, base.Close())
		ok(t, server.Close())
		<-served
		_ = socket.Close() // the server may have done it
	})
	return "https://" + socket.LocalAddr().String(), &http.Client{Transport: Transport(base, out...)}
}

func post(ctx context.Context, client *http.Client, url string, body io.Reader) (*http.Response, error) {
	r, err := http.NewRequestWithContext(ctx, http.MethodPost, url, body)
	if err != nil {
		return nil, err
	}
	return client.Do(r)
}

// problem reads the problem document of a refusal.
func problem(t *testing.T, r *http.Response, err error) map[string]any {
	t.Helper()
	ok(t, err)
	defer r.Body.Close()
	var p map[string]any
	ok(t, json.NewDecoder(r.Body).Decode(&p))
	if r.Header.Get("Content-Type") != "application/problem+json" || p["status"] != float64(r.StatusCode) {
		t.Errorf("%s: %v", r.Status, p)
	}
	return p
}

func TestHandler(t *testing.T) {
	for _, protocol := range protocols {
		t.Run(protocol, func(t *testing.T) { testHandler(t, protocol) })
	}
}

func testHandler(t *testing.T, protocol string) {
	g := newGuard(t, Options{})
	scope := func(r *http.Request) (string, error) {
		if r.URL.Path == "/broken" {
			return "", errors.New("no such shard")
		}
		return strings.TrimPrefix(r.URL.Path, "/"), nil
	}
	url, client := serveHTTP(t, g, protocol, scope, func(w http.ResponseWriter, r *http.Request) {
		a, _ := From(r.Context())
		_, _ = io.Copy(w, r.Body)
		_, _ = io.WriteString(w, a.Leader)
	})
	ctx := t.Context()
	r, err := post(leader(ctx, "s", 7), client, url+"/s", strings.NewReader("hello "))
	ok(t, err)
	body, err := io.ReadAll(r.Body)
	ok(t, err)
	r.Body.Close()
	if string(body) != "hello m1" || r.Proto != protocol {
		t.Errorf("%s: %q", r.Proto, body)
	}

	r, err = post(leader(ctx, "s", 6), client, url+"/s", nil)
	ok(t, err)
	s, found := StaleResponse(r)
	if !found || *s != (core.StaleError{Scope: "s", Fence: 6, Required: 7}) {
		t.Errorf("%v %t", s, found)
	}
	p := problem(t, r, nil) // still readable
	if r.StatusCode != http.StatusConflict || p["type"] != "urn:omnirelay:problem:stale-token" || p["scope"] != "s" || p["fence"] != 6.0 || p["required"] != 7.0 || p["instance"] != "/s" {
		t.Errorf("%s %v", r.Status, p)
	}

	for want, call := range map[string]struct {
		ctx    context.Context
		path   string
		status int
	}{
		"authority-missing": {ctx, "/s", 428},
		"scope-mismatch":    {leader(ctx, "other", 9), "/s", 403},
		"authority-invalid": {leader(ctx, "s", 9), "/broken", 400},
	} {
		r, err := post(call.ctx, client, url+call.path, nil)
		ok(t, err)
		if _, found := StaleResponse(r); found {
			t.Errorf("%s was taken for a stale leader", want)
		}
		if p := problem(t, r, nil); r.StatusCode != call.status || p["code"] != want {
			t.Errorf("%s %v; want %s", r.Status, p, want)
		}
	}
	if g.Mark("other") != 0 {
		t.Error("a refused request raised a mark")
	}
}

// A deposed leader whose request is half sent is cut: its successor does not wait
// for the rest.
func TestUploadOverHTTPIsCut(t *testing.T) {
	for _, protocol := range protocols {
		t.Run(protocol, func(t *testing.T) {
			g := newGuard(t, Options{})
			entered := make(chan struct{})
			url, client := serveHTTP(t, g, protocol, nil, func(w http.ResponseWriter, r *http.Request) {
				if a, _ := From(r.Context()); a.Fence == 5 {
					close(entered)
					if _, err := io.ReadAll(r.Body); err == nil {
						t.Error("the body ended well")
					}
				}
			})
			body, rest := io.Pipe()
			defer func() { _ = rest.Close() }()
			older := make(chan *core.StaleError)
			go func() {
				defer close(older)
				r, err := post(leader(context.Background(), "s", 5), client, url, body)
				if err != nil {
					t.Error(err)
					return
				}
				defer r.Body.Close()
				if s, found := StaleResponse(r); found {
					older <- s
				}
			}()
			go func() { _, _ = rest.Write([]byte("half")) }()
			<-entered
			r, err := post(leader(t.Context(), "s", 6), client, url, nil)
			ok(t, err)
			r.Body.Close()
			if r.StatusCode != http.StatusOK {
				t.Errorf("the successor got %s", r.Status)
			}
			if s := <-older; s == nil || s.Required != 6 {
				t.Errorf("the deposed leader got %v", s)
			}
		})
	}
}

// A deposed leader that does not read the response is cut too.
func TestDeafClientOverHTTPIsCut(t *testing.T) {
	for _, protocol := range protocols {
		t.Run(protocol, func(t *testing.T) {
			g := newGuard(t, Options{Patience: 20 * time.Second})
			ended := make(chan error, 1)
			url, client := serveHTTP(t, g, protocol, nil, func(w http.ResponseWriter, r *http.Request) {
				a, _ := From(r.Context())
				if a.Fence != 5 {
					return
				}
				chunk := bytes.Repeat([]byte("x"), 1<<16)
				for {
					if _, err := w.Write(chunk); err != nil {
						ended <- err
						return
					}
					if err := http.NewResponseController(w).Flush(); err != nil {
						ended <- err
						return
					}
				}
			})
			r, err := post(leader(t.Context(), "s", 5), client, url, nil)
			ok(t, err)
			defer r.Body.Close()
			r2, err := post(leader(t.Context(), "s", 6), client, url, nil)
			ok(t, err)
			r2.Body.Close()
			if r2.StatusCode != http.StatusOK || <-ended == nil {
				t.Errorf("the successor got %s", r2.Status)
			}
		})
	}
}

// The answer of a handler that wrote before it was overtaken stays what it is.
func TestWrittenResponseStays(t *testing.T) {
	g := newGuard(t, Options{})
	w := httptest.NewRecorder() // knows no deadlines
	r := httptest.NewRequestWithContext(t.Context(), http.MethodPost, "/", strings.NewReader("body"))
	for _, p := range (Authority{Scope: "s", Fence: 5}).pairs() {
		r.Header.Set(p[0], p[1])
	}
	g.Handler(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		w.WriteHeader(http.StatusAccepted)
		_, _ = io.WriteString(w, "first")
		ok(t, g.Observe("s", 6))
		w.WriteHeader(http.StatusTeapot)
		if _, err := io.WriteString(w, "second"); err == nil {
			t.Error("written after the leader was deposed")
		}
		if _, err := io.ReadAll(r.Body); err == nil {
			t.Error("read after the leader was deposed")
		}
		w.(http.Flusher).Flush()
		stale(t, context.Cause(r.Context()), 5, 6)
	}), nil).ServeHTTP(w, r)
	if w.Code != http.StatusAccepted || w.Body.String() != "first" {
		t.Errorf("%d %q", w.Code, w.Body)
	}
}

func TestNotReadyOverHTTP(t *testing.T) {
	asked := make(chan struct{}, 8)
	g := newGuard(t, Options{Seeder: func(context.Context) (Leaders, error) {
		asked <- struct{}{}
		return Leaders{}, errors.New("no route")
	}})
	url, client := serveHTTP(t, g, "HTTP/1.1", nil, func(http.ResponseWriter, *http.Request) { t.Error("admitted") })
	r, err := post(leader(t.Context(), "s", 5), client, url, nil)
	if p := problem(t, r, err); r.StatusCode != http.StatusServiceUnavailable || p["code"] != "guard-not-ready" || r.Header.Get("Retry-After") != "1" {
		t.Errorf("%s %v", r.Status, p)
	}
	<-asked
}

func TestLostAuthorityIsNotSentOverHTTP(t *testing.T) {
	lost := errors.New("the lease has run out")
	url, client := serveHTTP(t, newGuard(t, Options{}), "HTTP/1.1", nil, func(http.ResponseWriter, *http.Request) { t.Error("sent") },
		HeldBy(func(context.Context) error { return lost }))
	body := &closing{Reader: strings.NewReader("x")}
	r, err := post(leader(t.Context(), "s", 5), client, url, body)
	if err == nil {
		r.Body.Close()
	}
	if !errors.Is(err, lost) || !body.closed {
		t.Errorf("%v, body closed %t", err, body.closed)
	}
}

type closing struct {
	io.Reader
	closed bool
}

func (c *closing) Close() error {
	c.closed = true
	return nil
}

func TestStaleResponseIsModest(t *testing.T) {
	const json, said = "application/problem+json", `{"code":"stale-token","scope":"s","fence":5,"required":6}`
	large := said[:len(said)-1] + `,"detail":"` + strings.Repeat("x", maxProblem) + `"}`
	for name, c := range map[string]struct {
		status     int
		kind, body string
		found      bool
	}{
		"stale":         {409, json + "; charset=utf-8", said, true},
		"other status":  {400, json, said, false},
		"other type":    {409, "application/json", said, false},
		"no type":       {409, "", said, false},
		"other problem": {409, json, `{"code":"conflict"}`, false},
		"no JSON":       {409, json, `<`, false},
		"no fence":      {409, json, `{"code":"stale-token","scope":"s","required":6}`, false},
		"bad scope":     {409, json, `{"code":"stale-token","scope":"a b","fence":5,"required":6}`, false},
		"too large":     {409, json, large, false},
	} {
		r := &http.Response{StatusCode: c.status, Header: http.Header{"Content-Type": {c.kind}}, Body: io.NopCloser(strings.NewReader(c.body))}
		if s, found := StaleResponse(r); found != c.found || found && *s != (core.StaleError{Scope: "s", Fence: 5, Required: 6}) {
			t.Errorf("%s: %v", name, s)
		}
		if body, err := io.ReadAll(r.Body); err != nil || string(body) != c.body {
			t.Errorf("%s: %d bytes are left of %d: %v", name, len(body), len(c.body), err)
		}
		r.Body.Close()
	}
	if _, found := StaleResponse(nil); found {
		t.Error("found in nothing")
	}
}

// Who is redirected to another host does not hand its token over there.
func TestAuthorityStaysWithTheHost(t *testing.T) {
	got := map[string]string{}
	note := func(r *http.Request) { got[r.URL.Path] = r.Header.Get(TokenHeader) }
	stranger := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		note(r)
		if r.URL.Path == "/there" {
			http.Redirect(w, r, "/there/again", http.StatusTemporaryRedirect)
		}
	}))
	defer stranger.Close()
	home := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		note(r)
		switch r.URL.Path {
		case "/near":
			http.Redirect(w, r, "/far", http.StatusTemporaryRedirect)
		case "/far":
			http.Redirect(w, r, stranger.URL+"/there", http.StatusTemporaryRedirect)
		}
	}))
	defer home.Close()
	base := &http.Transport{}
	defer base.CloseIdleConnections()
	client := &http.Client{Transport: Transport(base)}
	ctx := With(t.Context(), Authority{Scope: "s", Fence: 7, Token: "signed"})
	r, err := http.NewRequestWithContext(ctx, http.MethodPost, home.URL+"/near", nil)
	ok(t, err)
	response, err := client.Do(r)
	ok(t, err)
	ok(t, response.Body.Close())
	want := map[string]string{"/near": "signed", "/far": "signed", "/there": "", "/there/again": ""}
	if !maps.Equal(got, want) {
		t.Errorf("%v, want %v", got, want)
	}
}

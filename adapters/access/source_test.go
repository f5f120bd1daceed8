package access

import (
	"bytes"
	"context"
	"encoding/pem"
	"errors"
	"fmt"
	"io"
	"log"
	"log/slog"
	"net/http"
	"net/http/httptest"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/go-jose/go-jose/v4"
)

func TestARotatedFileCountsAtOnce(t *testing.T) {
	before, after := newSigner(t, "k1", jose.EdDSA), newSigner(t, "k2", jose.ES256)
	path := filepath.Join(t.TempDir(), "keys.json")
	writeKeys(t, path, keySetOf(t, before))
	var told bytes.Buffer
	a := newAuthenticator(t, Options{Bearer: Bearer{JWKS: path}, Logger: slog.New(slog.NewTextHandler(&told, nil))})
	shows := func(s signer) error {
		_, err := a.Authenticate(t.Context(), bearer(s.sign(t, good(nil), nil)))
		return err
	}
	if err := shows(before); err != nil {
		t.Fatal(err)
	}
	wantDenied(t, shows(after), true, "no known key has signed")
	writeKeys(t, path, keySetOf(t, before, after))
	if err := errors.Join(shows(before), shows(after)); err != nil {
		t.Fatal(err)
	}
	writeKeys(t, path, keySetOf(t, after))
	wantDenied(t, shows(before), true, "no known key has signed")

	// What cannot be used changes nothing, and is told once.
	writeKeys(t, path, []byte("{"))
	if err := errors.Join(shows(after), shows(after)); err != nil {
		t.Fatal(err)
	}
	if err := os.Remove(path); err != nil {
		t.Fatal(err)
	}
	if err := errors.Join(shows(after), shows(after)); err != nil {
		t.Fatal(err)
	}
	if n := strings.Count(told.String(), "the last good ones stay in force"); n != 2 {
		t.Errorf("told %d times:\n%s", n, told.String())
	}
	writeKeys(t, path, keySetOf(t, before))
	if err := shows(before); err != nil {
		t.Fatal(err)
	}
	wantDenied(t, shows(after), true, "no known key has signed")
}

func TestAFileMustBeGoodAtTheStart(t *testing.T) {
	ed := newSigner(t, "k", jose.EdDSA)
	private := filepath.Join(t.TempDir(), "private.json")
	data, err := jose.JSONWebKey{Key: ed.key, KeyID: "k"}.MarshalJSON()
	if err != nil {
		t.Fatal(err)
	}
	writeKeys(t, private, fmt.Appendf(nil, `{"keys":[%s]}`, data))
	for path, want := range map[string]string{missing(t): "no such file", private: "is a private or symmetric key"} {
		if _, err := New(Options{Cluster: testCluster, Bearer: Bearer{JWKS: path}}); err == nil || !strings.Contains(err.Error(), want) {
			t.Errorf("%v, want it to say %q", err, want)
		}
	}
}

// published is an https server with keys, and what its callers must trust.
type published struct {
	*httptest.Server
	ca      string
	fetches atomic.Int64

	mu     sync.Mutex
	answer func(w http.ResponseWriter, r *http.Request)
}

func publish(t *testing.T) *published {
	t.Helper()
	p := &published{}
	p.Server = httptest.NewUnstartedServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		p.fetches.Add(1)
		p.mu.Lock()
		answer := p.answer
		p.mu.Unlock()
		answer(w, r)
	}))
	p.Config.ErrorLog = log.New(io.Discard, "", 0) // of what these tests do to it
	p.StartTLS()
	t.Cleanup(p.Close)
	p.ca = filepath.Join(t.TempDir(), "ca.pem")
	writeKeys(t, p.ca, pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: p.Certificate().Raw}))
	return p
}

func (p *published) will(answer func(w http.ResponseWriter, r *http.Request)) {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.answer = answer
}

func (p *published) has(data []byte) {
	p.will(func(w http.ResponseWriter, _ *http.Request) { _, _ = w.Write(data) })
}

func (p *published) isDown() {
	p.will(func(w http.ResponseWriter, _ *http.Request) { w.WriteHeader(http.StatusBadGateway) })
}

// idle waits until no fetch is under way.
func idle(t *testing.T, a *Authenticator) {
	t.Helper()
	u := a.bearer.keys.(*keyURL)
	u.mu.Lock()
	running := u.running
	u.mu.Unlock()
	if running != nil {
		<-running
	}
}

func TestKeysAreFetchedAndRotated(t *testing.T) {
	before, after := newSigner(t, "k1", jose.EdDSA), newSigner(t, "k2", jose.EdDSA)
	p, c := publish(t), newClock()
	p.has(keySetOf(t, before))
	a := newAuthenticator(t, Options{now: c.now, Bearer: Bearer{JWKS: p.URL, CA: p.ca}})
	shows := func(s signer) error {
		_, err := a.Authenticate(t.Context(), bearer(s.sign(t, good(nil), nil)))
		return err
	}
	if err := shows(before); err != nil {
		t.Fatal(err) // the first call waits for the first fetch
	}
	p.has(keySetOf(t, before, after))
	// A name that is not known asks again, but not right away.
	wantDenied(t, shows(after), true, "no known key has signed")
	c.pass(fetchPause)
	if err := shows(after); err != nil {
		t.Fatal(err)
	}
	if n := p.fetches.Load(); n != 2 {
		t.Errorf("%d fetches, want 2", n)
	}
	// Made-up names cost one fetch each pause, however many there are.
	for range 200 {
		wantDenied(t, shows(signer{"made-up", before.algorithm, before.key}), true, "no known key has signed")
	}
	if n := p.fetches.Load(); n != 2 {
		t.Errorf("%d fetches, want 2", n)
	}
	// A key that is taken back is believed until the next fetch, no longer.
	p.has(keySetOf(t, after))
	if err := shows(before); err != nil {
		t.Fatal(err)
	}
	c.pass(fetchEvery)
	_ = shows(before) // begins the fetch, and is not held up by it
	idle(t, a)
	wantDenied(t, shows(before), true, "no known key has signed")
	if err := shows(after); err != nil {
		t.Fatal(err)
	}
}

func TestKeysSurviveTheirURL(t *testing.T) {
	s := newSigner(t, "k1", jose.EdDSA)
	p, c := publish(t), newClock()
	p.has(keySetOf(t, s))
	var told bytes.Buffer
	a := newAuthenticator(t, Options{now: c.now, Bearer: Bearer{JWKS: p.URL, CA: p.ca}, Logger: slog.New(slog.NewTextHandler(&told, nil))})
	shows := func() error {
		claims := good(map[string]any{"exp": c.now().Add(time.Hour).Unix()})
		_, err := a.Authenticate(t.Context(), bearer(s.sign(t, claims, nil)))
		return err
	}
	if err := shows(); err != nil {
		t.Fatal(err)
	}
	endless := func(w http.ResponseWriter, r *http.Request) {
		for r.Context().Err() == nil {
			if _, err := w.Write(bytes.Repeat([]byte(" "), 1<<16)); err != nil {
				return
			}
		}
	}
	elsewhere := func(w http.ResponseWriter, r *http.Request) { http.Redirect(w, r, p.URL+"/other", http.StatusFound) }
	secret, err := jose.JSONWebKey{Key: s.key}.MarshalJSON()
	if err != nil {
		t.Fatal(err)
	}
	for name, break_ := range map[string]func(){
		"refuses":       p.isDown,
		"never ends":    func() { p.will(endless) },
		"is nonsense":   func() { p.has([]byte("<html>")) },
		"is empty":      func() { p.has([]byte(`{"keys":[]}`)) },
		"is secret":     func() { p.has(fmt.Appendf(nil, `{"keys":[%s]}`, secret)) },
		"is elsewhere":  func() { p.will(elsewhere) },
		"breaks off":    func() { p.will(func(http.ResponseWriter, *http.Request) { panic(http.ErrAbortHandler) }) },
		"is gone again": p.isDown,
	} {
		break_()
		before := p.fetches.Load()
		c.pass(fetchEvery)
		if err := shows(); err != nil {
			t.Errorf("%s: %v", name, err)
		}
		idle(t, a)
		if err := shows(); err != nil {
			t.Errorf("%s: %v", name, err)
		}
		if p.fetches.Load() != before+1 {
			t.Errorf("%s: %d fetches, want one", name, p.fetches.Load()-before)
		}
	}
	if n := strings.Count(told.String(), "cannot be fetched"); n < 1 || n > 2 {
		t.Errorf("told %d times:\n%s", n, told.String())
	}
}

// TestAStartWithoutTheURL: elections do not depend on who signs tokens.
func TestAStartWithoutTheURL(t *testing.T) {
	s := newSigner(t, "k1", jose.EdDSA)
	p, c := publish(t), newClock()
	p.isDown()
	a := newAuthenticator(t, Options{now: c.now, Bearer: Bearer{JWKS: p.URL, CA: p.ca}})
	idle(t, a)
	_, err := a.Authenticate(t.Context(), bearer(s.sign(t, good(nil), nil)))
	wantDenied(t, err, true, "no known key has signed")
	p.has(keySetOf(t, s))
	c.pass(fetchPause)
	if _, err := a.Authenticate(t.Context(), bearer(s.sign(t, good(nil), nil))); err != nil {
		t.Fatal(err)
	}
}

// TestAStrangersKeysAreNotFetched: the URL's server must prove itself.
func TestAStrangersKeysAreNotFetched(t *testing.T) {
	s := newSigner(t, "k1", jose.EdDSA)
	p := publish(t)
	p.has(keySetOf(t, s))
	a := newAuthenticator(t, Options{Bearer: Bearer{JWKS: p.URL}}) // trusts the system's authorities
	_, err := a.Authenticate(t.Context(), bearer(s.sign(t, good(nil), nil)))
	wantDenied(t, err, true, "no known key has signed")
	if p.fetches.Load() != 0 {
		t.Error("the request was sent")
	}
}

// TestACallDoesNotWaitForEver: neither for a fetch that hangs, nor after a close.
func TestACallDoesNotWaitForEver(t *testing.T) {
	s := newSigner(t, "k1", jose.EdDSA)
	begun := make(chan struct{}, 1)
	hang := func(ctx context.Context) (*keySet, error) {
		begun <- struct{}{}
		<-ctx.Done()
		return nil, ctx.Err()
	}
	a := newAuthenticator(t, Options{fetch: hang, Bearer: Bearer{JWKS: "https://id.example/keys"}})
	<-begun
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	_, err := a.Authenticate(ctx, bearer(s.sign(t, good(nil), nil)))
	wantDenied(t, err, true, "no known key has signed")
	a.Close() // ends the fetch
	_, err = a.Authenticate(t.Context(), bearer(s.sign(t, good(nil), nil)))
	wantDenied(t, err, true, "no known key has signed")
}

func TestManyCallersShareOneFetch(t *testing.T) {
	s := newSigner(t, "k1", jose.EdDSA)
	set, err := parseKeySet(keySetOf(t, s))
	if err != nil {
		t.Fatal(err)
	}
	var fetches atomic.Int64
	release := make(chan struct{})
	fetch := func(context.Context) (*keySet, error) {
		fetches.Add(1)
		<-release
		return set, nil
	}
	a := newAuthenticator(t, Options{fetch: fetch, Bearer: Bearer{JWKS: "https://id.example/keys"}})
	token := s.sign(t, good(nil), nil)
	var all sync.WaitGroup
	for range 50 {
		all.Go(func() {
			if _, err := a.Authenticate(t.Context(), bearer(token)); err != nil {
				t.Error(err)
			}
		})
	}
	close(release)
	all.Wait()
	if n := fetches.Load(); n != 1 {
		t.Errorf("%d fetches, want 1", n)
	}
}

func TestBadURLsAreRefused(t *testing.T) {
	empty := filepath.Join(t.TempDir(), "empty.pem")
	writeKeys(t, empty, nil)
	for _, b := range []Bearer{
		{JWKS: "http://id.example/keys"}, {JWKS: "ftp://id.example/keys"}, {JWKS: "https:///keys"}, {JWKS: "https://u:p@id.example/keys"}, {JWKS: "://"},
		{JWKS: "https://id.example/keys", CA: missing(t)}, {JWKS: "https://id.example/keys", CA: empty},
	} {
		if a, err := New(Options{Cluster: testCluster, Bearer: b}); err == nil {
			a.Close()
			t.Errorf("%+v was taken", b)
		}
	}
}

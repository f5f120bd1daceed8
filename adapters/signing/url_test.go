package signing

import (
	"bytes"
	"context"
	"crypto/tls"
	"crypto/x509"
	"io"
	"log"
	"net/http"
	"net/http/httptest"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"
)

// endpoint publishes a site's keys over HTTPS.
type endpoint struct {
	*httptest.Server
	answer  atomic.Pointer[http.HandlerFunc] // nil: the site's keys
	fetches atomic.Int64
}

func newEndpoint(s *site) *endpoint {
	e := &endpoint{}
	e.Server = httptest.NewUnstartedServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		e.fetches.Add(1)
		if answer := e.answer.Load(); answer != nil {
			(*answer)(w, r)
			return
		}
		w.Header().Set("Content-Type", ContentType)
		_, _ = w.Write(s.signer.PublicJSON())
	}))
	e.EnableHTTP2 = true
	e.Config.ErrorLog = log.New(io.Discard, "", 0) // handshakes that a test cuts off
	e.StartTLS()
	s.t.Cleanup(e.Close)
	return e
}

func (e *endpoint) say(f http.HandlerFunc) { e.answer.Store(&f) }

func (e *endpoint) keys(s *site, change func(*URLOptions)) *URLKeys {
	s.t.Helper()
	pool := x509.NewCertPool()
	pool.AddCert(e.Certificate())
	o := URLOptions{URL: e.URL + "/control/keys", TLS: &tls.Config{RootCAs: pool}, Now: s.clock.now}
	if change != nil {
		change(&o)
	}
	keys, err := NewURLKeys(o)
	s.must(err)
	s.t.Cleanup(func() { _ = keys.Close() })
	return keys
}

func (s *site) verifierOf(keys Keys) *Verifier {
	v, err := NewVerifier(VerifierOptions{Cluster: "demo", Keys: keys, Now: s.clock.now})
	s.must(err)
	return v
}

func (s *site) wantFetches(e *endpoint, want int64) {
	s.t.Helper()
	if got := e.fetches.Load(); got != want {
		s.t.Errorf("%d fetches, want %d", got, want)
	}
}

func TestKeysAreFetchedOnceAndKept(t *testing.T) {
	s := newSite(t)
	e := newEndpoint(s)
	v := s.verifierOf(e.keys(s, nil))
	token := s.sign(lead())
	var all sync.WaitGroup
	for range 32 {
		all.Go(func() {
			for range 8 {
				if _, err := v.Verify(context.Background(), token); err != nil {
					t.Error(err)
				}
			}
		})
	}
	all.Wait()
	s.wantFetches(e, 1)
}

func TestANewKeyIsLearnedWhenATokenNamesIt(t *testing.T) {
	s := newSite(t)
	e := newEndpoint(s)
	v := s.verifierOf(e.keys(s, nil))
	_, err := v.Verify(context.Background(), s.sign(lead()))
	s.must(err)
	s.clock.advance(DefaultMinRefresh)
	s.must(ChangeKeyFile(s.file, func(k *KeySet) error {
		id, err := k.Add(s.clock.now())
		if err != nil {
			return err
		}
		return k.Promote(id, s.clock.now(), 0)
	}))
	token := s.sign(lead())
	_, err = v.Verify(context.Background(), token)
	s.must(err)
	s.wantFetches(e, 2)
}

func TestAFloodOfUnknownKeysFetchesSeldom(t *testing.T) {
	s := newSite(t)
	e := newEndpoint(s)
	keys := e.keys(s, nil)
	v := s.verifierOf(keys)
	_, err := v.Verify(context.Background(), s.sign(lead()))
	s.must(err)
	stranger := newSite(t)
	token := stranger.sign(lead())
	for range 100 {
		_, err := v.Verify(context.Background(), token)
		wantReason(t, err, UnknownKey)
	}
	s.wantFetches(e, 1)
	s.clock.advance(DefaultMinRefresh)
	for range 100 {
		_, err := v.Verify(context.Background(), token)
		wantReason(t, err, UnknownKey)
	}
	s.wantFetches(e, 2)
}

// Whatever the endpoint does wrong, keys fetched before stay in force, and the first
// ones are waited for with a reason.
func TestBadAnswersLeaveOldKeysInForce(t *testing.T) {
	private := func() []byte {
		set, err := NewKeySet(newClock().now())
		if err != nil {
			t.Fatal(err)
		}
		data, err := set.JSON()
		if err != nil {
			t.Fatal(err)
		}
		return data
	}()
	for want, answer := range map[string]http.HandlerFunc{
		"503 Service Unavailable": func(w http.ResponseWriter, _ *http.Request) { w.WriteHeader(http.StatusServiceUnavailable) },
		"302 Found": func(w http.ResponseWriter, r *http.Request) {
			http.Redirect(w, r, "https://example.com/", http.StatusFound)
		},
		"larger than the 65536": func(w http.ResponseWriter, _ *http.Request) {
			_, _ = w.Write(bytes.Repeat([]byte(" "), MaxKeySetBytes+1))
		},
		"not a JWK Set":   func(w http.ResponseWriter, _ *http.Request) { _, _ = w.Write([]byte("<html>")) },
		"holds a private": func(w http.ResponseWriter, _ *http.Request) { _, _ = w.Write(private) },
		"Client.Timeout or context cancellation|deadline exceeded": func(_ http.ResponseWriter, r *http.Request) { <-r.Context().Done() },
	} {
		t.Run(want, func(t *testing.T) {
			s := newSite(t)
			e := newEndpoint(s)
			keys := e.keys(s, func(o *URLOptions) { o.Timeout = 200 * time.Millisecond })
			if !strings.Contains(want, "deadline") {
				keys.o.Timeout = DefaultFetchTimeout // only the silent one is to run out of time
			}
			v, token := s.verifierOf(keys), s.sign(lead())
			e.say(answer)
			_, err := v.Verify(context.Background(), token)
			wantReason(t, err, NoKeys)
			if err != nil && !containsOne(err.Error(), want) {
				t.Errorf("%v, want %s", err, want)
			}
			e.answer.Store(nil)
			s.clock.advance(DefaultMinRefresh)
			_, err = v.Verify(context.Background(), token)
			s.must(err)

			e.say(answer)
			s.clock.advance(3 * DefaultMaxAge)
			_, err = v.Verify(context.Background(), token)
			s.must(err)
			s.wantFetches(e, 3)
			s.clock.advance(DefaultMinRefresh)
			_, err = v.Verify(context.Background(), token)
			s.must(err)
			s.must(keys.Close())
		})
	}
}

func containsOne(s, alternatives string) bool {
	for a := range strings.SplitSeq(alternatives, "|") {
		if strings.Contains(s, a) {
			return true
		}
	}
	return false
}

// A key that was dropped from the published set is refused after the next fetch,
// also by a resource that was idle for long.
func TestADroppedKeyIsForgotten(t *testing.T) {
	s := newSite(t)
	e := newEndpoint(s)
	v := s.verifierOf(e.keys(s, nil))
	s.signer.life = MaxLife
	token := s.sign(lead())
	_, err := v.Verify(context.Background(), token)
	s.must(err)
	s.must(ChangeKeyFile(s.file, func(k *KeySet) error {
		old := k.keys[0].ID
		if err := k.Promote(k.Next(), s.clock.now(), 0); err != nil {
			return err
		}
		return k.Drop(old)
	}))
	s.clock.advance(2 * DefaultMaxAge)
	_, err = v.Verify(context.Background(), token)
	wantReason(t, err, UnknownKey)
}

func TestTheWaitForKeysEndsWithItsContext(t *testing.T) {
	s := newSite(t)
	e := newEndpoint(s)
	e.say(func(_ http.ResponseWriter, r *http.Request) { <-r.Context().Done() })
	keys := e.keys(s, nil)
	ctx, cancel := context.WithCancel(context.Background())
	cancel()
	_, err := s.verifierOf(keys).Verify(ctx, s.sign(lead()))
	wantReason(t, err, NoKeys)
	s.must(keys.Close()) // and with it the fetch
	_, err = s.verifierOf(keys).Verify(context.Background(), s.sign(lead()))
	wantReason(t, err, NoKeys)
}

func TestAnEndpointNotTrustedIsNotBelieved(t *testing.T) {
	s := newSite(t)
	e := newEndpoint(s)
	keys := e.keys(s, func(o *URLOptions) { o.TLS = nil })
	_, err := s.verifierOf(keys).Verify(context.Background(), s.sign(lead()))
	wantReason(t, err, NoKeys)
	if !strings.Contains(err.Error(), "certificate") {
		t.Error(err)
	}
}

package transport

import (
	"bufio"
	"context"
	"errors"
	"io"
	"net/http"
	"strings"
	"sync/atomic"
	"testing"
	"time"
)

func (s *site) roundTripper(o RoundTripperOptions) *RoundTripper {
	s.t.Helper()
	o.TLS = s.tls()
	rt, err := NewRoundTripper(o)
	if err != nil {
		s.t.Fatal(err)
	}
	s.t.Cleanup(func() { _ = rt.Close() })
	return rt
}

func TestTheWebClientPrefersHTTP3(t *testing.T) {
	s := serveWeb(t, okHandler, Limits{})
	client := &http.Client{Transport: s.roundTripper(RoundTripperOptions{})}
	if _, body := get(t, client, "https://"+s.address); body != HTTP3 {
		t.Errorf("over %s", body)
	}
}

// TestTheWebClientWaitsForTheOffer where it is told to.
func TestTheWebClientWaitsForTheOffer(t *testing.T) {
	s := serveWeb(t, okHandler, Limits{})
	client := &http.Client{Transport: s.roundTripper(RoundTripperOptions{AfterAltSvc: true})}
	for _, want := range []string{HTTP2, HTTP3, HTTP3} {
		if _, body := get(t, client, "https://"+s.address); body != want {
			t.Errorf("over %s, want %s", body, want)
		}
	}
}

func TestOffersOfHTTP3(t *testing.T) {
	for value, want := range map[string]bool{
		"": false, `h3=":443"; ma=60`: true, `h2=":443", h3=":443"`: true, `h3=":444"`: false, `h3="other:443"`: false,
		`h3-29=":443"`: false, "clear": false,
	} {
		if got := offersHTTP3(http.Header{"Alt-Svc": {value}}, "host:443"); got != want {
			t.Errorf("%s: %v", value, got)
		}
	}
}

// TestTheWebClientFallsBack, at once the second time.
func TestTheWebClientFallsBack(t *testing.T) {
	s := newSite(t)
	var err error
	if s.web, err = NewWebFront(&http.Server{Handler: okHandler, ReadHeaderTimeout: patience}, s.options(Limits{})); err != nil {
		t.Fatal(err)
	}
	d := s.listen() // whose UDP port swallows all
	go func() { s.served <- s.web.Serve(&Dual{TCP: d.TCP}) }()
	t.Cleanup(func() {
		s.stop()
		_ = d.Close()
	})
	const headStart = 200 * time.Millisecond
	client := &http.Client{Transport: s.roundTripper(RoundTripperOptions{FallbackAfter: headStart})}
	began := time.Now()
	if header, body := get(t, client, "https://"+s.address); body != HTTP2 || header.Get("Alt-Svc") != "" {
		t.Errorf("over %s, Alt-Svc %q", body, header.Get("Alt-Svc"))
	}
	if took := time.Since(began); took < headStart || took > headStart+soon {
		t.Errorf("the first request took %v", took)
	}
	if quickest := quickestOf(func() { get(t, client, "https://"+s.address) }); quickest > headStart/2 {
		t.Errorf("later requests took %v: they waited too", quickest)
	}
}

// TestEventsArriveAsTheyAreSent, and a request with a body arrives once.
func TestEventsArriveAsTheyAreSent(t *testing.T) {
	for protocol, prefer := range map[string]Preference{HTTP2: OnlyHTTP2, HTTP3: OnlyHTTP3} {
		t.Run(protocol, func(t *testing.T) {
			next, gone := make(chan string), make(chan struct{})
			s := serveWeb(t, http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
				if r.Method == http.MethodPost {
					_, _ = io.Copy(w, r.Body)
					return
				}
				for {
					select {
					case line := <-next:
						_, _ = io.WriteString(w, line+"\n")
						_ = http.NewResponseController(w).Flush()
					case <-r.Context().Done():
						close(gone)
						return
					}
				}
			}), Limits{})
			client := &http.Client{Transport: s.roundTripper(RoundTripperOptions{Prefer: prefer})}
			text := strings.Repeat("what was asked ", 20_000)
			post, err := http.NewRequestWithContext(patient(t), http.MethodPost, "https://"+s.address, strings.NewReader(text))
			if err != nil {
				t.Fatal(err)
			}
			answer, err := client.Do(post)
			if err != nil {
				t.Fatal(err)
			}
			body, err := io.ReadAll(answer.Body)
			_ = answer.Body.Close()
			if err != nil || string(body) != text {
				t.Errorf("%d bytes came back of %d, %v", len(body), len(text), err)
			}

			ctx, cancel := context.WithCancel(patient(t))
			defer cancel()
			r, err := http.NewRequestWithContext(ctx, http.MethodGet, "https://"+s.address, nil)
			if err != nil {
				t.Fatal(err)
			}
			go func() { next <- "first" }()
			events, err := client.Do(r)
			if err != nil {
				t.Fatal(err)
			}
			defer func() { _ = events.Body.Close() }()
			lines := bufio.NewScanner(events.Body)
			for _, want := range []string{"first", "second", "third"} {
				if !lines.Scan() || lines.Text() != want {
					t.Fatalf("have %q, %v; want %q", lines.Text(), lines.Err(), want)
				}
				if want != "third" {
					next <- map[string]string{"first": "second", "second": "third"}[want]
				}
			}
			cancel()
			receive(t, gone)
		})
	}
}

// TestARequestIsNotSentTwice: what may have arrived is the caller's to repeat.
func TestARequestIsNotSentTwice(t *testing.T) {
	var arrived atomic.Int32
	s := serveWeb(t, http.HandlerFunc(func(http.ResponseWriter, *http.Request) {
		arrived.Add(1)
		panic(http.ErrAbortHandler)
	}), Limits{})
	rt := s.roundTripper(RoundTripperOptions{})
	r, err := http.NewRequestWithContext(patient(t), http.MethodPost, "https://"+s.address, strings.NewReader("once"))
	if err != nil {
		t.Fatal(err)
	}
	response, err := rt.RoundTrip(r)
	if err == nil {
		_ = response.Body.Close()
		t.Error("it went through")
	}
	if arrived.Load() != 1 {
		t.Errorf("it arrived %d times", arrived.Load())
	}
}

// TestOnlyHTTP3FailsWithoutIt, and closes the body it was given.
func TestOnlyHTTP3FailsWithoutIt(t *testing.T) {
	s := newSite(t)
	d := s.listen()
	s.served = nil
	if err := d.Close(); err != nil {
		t.Fatal(err)
	}
	rt := s.roundTripper(RoundTripperOptions{Prefer: OnlyHTTP3})
	body := &closing{Reader: strings.NewReader("x")}
	r, err := http.NewRequestWithContext(patient(t), http.MethodPost, "https://"+s.address, body)
	if err != nil {
		t.Fatal(err)
	}
	response, err := rt.RoundTrip(r)
	if err == nil {
		_ = response.Body.Close()
		t.Fatal("it went through")
	}
	if !strings.Contains(err.Error(), "no HTTP/3") || !body.closed.Load() {
		t.Errorf("have %v, body closed: %v", err, body.closed.Load())
	}
}

type closing struct {
	io.Reader
	closed atomic.Bool
}

func (c *closing) Close() error {
	if c.closed.Swap(true) {
		return errors.New("closed twice")
	}
	return nil
}

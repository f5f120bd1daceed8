package transport

import (
	"crypto/tls"
	"errors"
	"io"
	"log/slog"
	"net"
	"net/http"
	"net/http/httptrace"
	"strings"
	"sync"
	"sync/atomic"
	"time"
)

// maxOrigins is how many hosts a RoundTripper remembers; beyond it the one least
// lately used is forgotten, its connection with it.
const maxOrigins = 64

// RoundTripperOptions are the settings of a RoundTripper. TLS is required.
type RoundTripperOptions struct {
	// TLS is asked before each handshake; see ChannelOptions.
	TLS func() *tls.Config
	// Prefer says which protocols to use. With PreferHTTP3 the first request to a host
	// tries HTTP/3 at once; set AfterAltSvc to wait until the host advertised it.
	Prefer      Preference
	AfterAltSvc bool
	// FallbackAfter and DeadAfter are as in ChannelOptions.
	FallbackAfter, DeadAfter time.Duration
	Logger                   *slog.Logger // nil: discard
}

// RoundTripper is an http.RoundTripper for https that begins each request on HTTP/3
// where that works and on HTTP/2 or 1.1 where it does not, and remembers. It never
// sends a request twice once its header is out.
type RoundTripper struct {
	o   RoundTripperOptions
	tcp *http.Transport

	mu      sync.Mutex
	origins map[string]*origin
	closed  bool
}

// origin is what is known of one host and port.
type origin struct {
	path    *quicPath
	used    time.Time
	offered bool // HTTP/3, by Alt-Svc
}

// NewRoundTripper makes one. Close frees its connections.
func NewRoundTripper(o RoundTripperOptions) (*RoundTripper, error) {
	if o.TLS == nil {
		return nil, errors.New("TLS: missing")
	}
	base := ChannelOptions{FallbackAfter: o.FallbackAfter, DeadAfter: o.DeadAfter, Logger: o.Logger}
	base.withDefaults()
	if o.Prefer == OnlyHTTP3 {
		base.FallbackAfter = quicDialTimeout // there is nothing to fall back to
	}
	o.FallbackAfter, o.DeadAfter, o.Logger = base.FallbackAfter, base.DeadAfter, base.Logger
	rt := &RoundTripper{o: o, origins: map[string]*origin{}}
	dialer := &freshDialer{config: o.TLS}
	rt.tcp = &http.Transport{
		DialTLSContext: dialer.dial, ForceAttemptHTTP2: true, TLSHandshakeTimeout: connectTimeout,
		IdleConnTimeout: time.Minute, MaxIdleConnsPerHost: 4,
		HTTP2: &http.HTTP2Config{SendPingTimeout: o.DeadAfter, PingTimeout: o.DeadAfter},
	}
	return rt, nil
}

// RoundTrip sends one request.
func (rt *RoundTripper) RoundTrip(r *http.Request) (*http.Response, error) {
	address := r.URL.Host
	if r.URL.Port() == "" {
		address = net.JoinHostPort(r.URL.Hostname(), "443")
	}
	for range begins {
		conn, path := rt.conn(r, address)
		if conn == nil {
			break
		}
		response, sent, err := tryHTTP3(conn, r)
		if err == nil || sent || r.Context().Err() != nil {
			return response, err
		}
		path.drop(conn)
	}
	if rt.o.Prefer == OnlyHTTP3 {
		closeBody(r)
		return nil, errors.New(address + ": no HTTP/3")
	}
	response, err := rt.tcp.RoundTrip(r)
	if err == nil && rt.o.AfterAltSvc && offersHTTP3(response.Header, address) {
		rt.offered(address)
	}
	return response, err
}

// conn returns a connection to use, nil for TCP.
func (rt *RoundTripper) conn(r *http.Request, address string) (*quicConn, *quicPath) {
	if rt.o.Prefer == OnlyHTTP2 || r.URL.Scheme != "https" {
		return nil, nil
	}
	o := rt.origin(address)
	if o == nil {
		return nil, nil
	}
	return o.path.get(r.Context()), o.path
}

// origin returns what is known of a host, nil when HTTP/3 is not to be tried.
func (rt *RoundTripper) origin(address string) *origin {
	rt.mu.Lock()
	defer rt.mu.Unlock()
	o := rt.remember(address)
	if o == nil || (rt.o.AfterAltSvc && !o.offered) {
		return nil
	}
	return o
}

func (rt *RoundTripper) offered(address string) {
	rt.mu.Lock()
	defer rt.mu.Unlock()
	if o := rt.remember(address); o != nil {
		o.offered = true
	}
}

func (rt *RoundTripper) remember(address string) *origin {
	if rt.closed {
		return nil
	}
	o := rt.origins[address]
	if o == nil {
		if len(rt.origins) >= maxOrigins {
			rt.forget()
		}
		o = &origin{path: newQUICPath(address, rt.o.TLS, rt.o.FallbackAfter, rt.o.DeadAfter, rt.o.Logger)}
		rt.origins[address] = o
	}
	o.used = time.Now()
	return o
}

func (rt *RoundTripper) forget() {
	var oldest string
	for address, o := range rt.origins {
		if oldest == "" || o.used.Before(rt.origins[oldest].used) {
			oldest = address
		}
	}
	go rt.origins[oldest].path.close()
	delete(rt.origins, oldest)
}

// tryHTTP3 sends a request, and reports whether any of it may have arrived.
func tryHTTP3(conn *quicConn, r *http.Request) (_ *http.Response, sent bool, err error) {
	var wrote atomic.Bool
	ctx := httptrace.WithClientTrace(r.Context(), &httptrace.ClientTrace{
		WroteHeaderField: func(string, []string) { wrote.Store(true) },
	})
	response, err := conn.RoundTrip(r.WithContext(ctx))
	if err == nil {
		response.Request = r
	} else if wrote.Load() {
		closeBody(r)
	}
	return response, wrote.Load(), err
}

func closeBody(r *http.Request) {
	if r.Body != nil {
		_ = r.Body.Close()
	}
}

// offersHTTP3 reads Alt-Svc. Only an offer of the same host and port counts: a
// connection elsewhere is nothing the caller asked for.
func offersHTTP3(h http.Header, address string) bool {
	want := `h3=":` + address[strings.LastIndexByte(address, ':')+1:] + `"`
	for _, value := range h.Values("Alt-Svc") {
		for offer := range strings.SplitSeq(value, ",") {
			offer, _, _ = strings.Cut(offer, ";")
			if strings.TrimSpace(offer) == want {
				return true
			}
		}
	}
	return false
}

// CloseIdleConnections closes what carries no request on TCP.
func (rt *RoundTripper) CloseIdleConnections() { rt.tcp.CloseIdleConnections() }

// Close ends all requests over HTTP/3 and closes what is idle.
func (rt *RoundTripper) Close() error {
	rt.mu.Lock()
	rt.closed = true
	origins := rt.origins
	rt.origins = nil
	rt.mu.Unlock()
	for _, o := range origins {
		o.path.close()
	}
	rt.tcp.CloseIdleConnections()
	return nil
}

var _ io.Closer = (*RoundTripper)(nil)

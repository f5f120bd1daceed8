package transport

import (
	"context"
	"crypto/tls"
	"errors"
	"log/slog"
	"net"
	"net/http"
	"sync"
	"sync/atomic"
	"time"

	"github.com/quic-go/quic-go"
	"github.com/quic-go/quic-go/http3"
	"golang.org/x/time/rate"
)

// Flow control of a QUIC connection, bytes each way in.
const (
	streamWindow     = 64 << 10
	connectionWindow = 256 << 10
	// controlStreams are what HTTP/3 opens beside requests: three, and one that
	// means nothing.
	controlStreams = 4
)

// quicServer is the HTTP/3 half of a front.
type quicServer struct {
	limits    Limits
	admission *admission
	free      *rate.Limiter // handshakes without proof of address
	server    *http3.Server
	handler   http.Handler
	calls     *calls
}

func newQUICServer(l Limits, config *tls.Config, a *admission, logger *slog.Logger, handler http.Handler) *quicServer {
	s := &quicServer{
		limits: l, admission: a, free: rate.NewLimiter(rate.Limit(l.FreeHandshakes), l.FreeHandshakes),
		handler: handler, calls: newCalls(),
	}
	s.server = &http3.Server{
		Handler: s, TLSConfig: http3.ConfigureTLSConfig(config), MaxHeaderBytes: l.HeaderBytes, Logger: logger,
		ConnContext: func(ctx context.Context, conn *quic.Conn) context.Context {
			return context.WithValue(ctx, connectionKey{}, newConnection(conn, l))
		},
	}
	return s
}

// silence is QUIC's idle time-out for the bound on noticing a dead end. QUIC counts
// from the first packet sent after the last one received, which a live end sends, to
// keep the connection, after a quarter of the time-out.
func silence(bound time.Duration) time.Duration { return bound * 4 / 5 }

func (s *quicServer) config() *quic.Config {
	return &quic.Config{
		HandshakeIdleTimeout:           s.limits.HandshakeTimeout / 2, // twice that is the bound of the whole
		MaxIdleTimeout:                 silence(s.limits.IdleTimeout),
		KeepAlivePeriod:                silence(s.limits.IdleTimeout) / 4,
		InitialStreamReceiveWindow:     streamWindow,
		MaxStreamReceiveWindow:         streamWindow,
		InitialConnectionReceiveWindow: connectionWindow,
		MaxConnectionReceiveWindow:     connectionWindow,
		MaxIncomingStreams:             int64(s.limits.Streams),
		MaxIncomingUniStreams:          controlStreams,
		Allow0RTT:                      false, // what arrives early can be replayed
	}
}

// serve answers on conn until shutdown, and then returns nil. conn is closed.
func (s *quicServer) serve(conn net.PacketConn) error {
	t := &quic.Transport{
		Conn: conn,
		ConnContext: func(ctx context.Context, c *quic.ClientInfo) (context.Context, error) {
			leave, err := s.admission.enter(c.RemoteAddr)
			if err != nil {
				return nil, err
			}
			context.AfterFunc(ctx, leave)
			return ctx, nil
		},
		VerifySourceAddress: func(addr net.Addr) bool { return s.admission.crowded(addr) || !s.free.Allow() },
	}
	defer func() {
		_ = t.Close()
		_ = conn.Close()
	}()
	l, err := t.ListenEarly(s.server.TLSConfig, s.config())
	if err != nil {
		return err
	}
	err = s.server.ServeListener(l)
	_ = l.Close() // or callers would go on to connect, and wait for an answer
	if !errors.Is(err, http.ErrServerClosed) {
		return errors.Join(err, s.server.Close())
	}
	<-s.calls.ended // the socket is needed until the last answer is out
	return nil
}

// linger is how long the last answers may be on their way, after the calls are over.
// A caller that knows GOAWAY closes when it has them; others are not waited for.
const linger = 250 * time.Millisecond

// shutdown lets the calls under way finish until ctx ends, and refuses others.
func (s *quicServer) shutdown(ctx context.Context) {
	idle := s.calls.close()
	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	stopped := make(chan struct{})
	go func() {
		defer close(stopped)
		_ = s.server.Shutdown(ctx) // cuts what is left when ctx ends
	}()
	select {
	case <-idle:
		late := time.AfterFunc(linger, cancel)
		defer late.Stop()
	case <-ctx.Done():
	}
	<-stopped
	s.calls.end()
}

// ServeHTTP counts a call and serves it.
func (s *quicServer) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	c, ok := r.Context().Value(connectionKey{}).(*connection)
	if !ok || !s.calls.enter() {
		reject(w)
		return
	}
	defer s.calls.leave()
	p, ok := c.enter(r.Context())
	if !ok {
		return // its caller has gone
	}
	defer p.release()
	s.handler.ServeHTTP(w, r.WithContext(context.WithValue(r.Context(), placeKey{}, p)))
}

// reject tells a caller that nobody has looked at its request, which it may repeat
// elsewhere.
func reject(w http.ResponseWriter) {
	streamer, ok := w.(http3.HTTPStreamer)
	if !ok {
		panic(http.ErrAbortHandler)
	}
	stream, err := streamer.HTTPStream()
	if err != nil {
		panic(http.ErrAbortHandler)
	}
	stream.CancelRead(quic.StreamErrorCode(http3.ErrCodeRequestRejected))
	stream.CancelWrite(quic.StreamErrorCode(http3.ErrCodeRequestRejected))
}

// calls counts what a server has under way.
type calls struct {
	mu     sync.Mutex
	n      int
	closed bool
	idle   chan struct{} // closed when closed and none is under way
	ended  chan struct{} // closed when the server has nothing more to say
	once   sync.Once
}

func newCalls() *calls { return &calls{idle: make(chan struct{}), ended: make(chan struct{})} }

func (c *calls) enter() bool {
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.closed {
		return false
	}
	c.n++
	return true
}

func (c *calls) leave() {
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.n--; c.closed && c.n == 0 {
		close(c.idle)
	}
}

// close refuses further calls; the channel tells when the last one is over.
func (c *calls) close() <-chan struct{} {
	c.mu.Lock()
	defer c.mu.Unlock()
	if !c.closed {
		c.closed = true
		if c.n == 0 {
			close(c.idle)
		}
	}
	return c.idle
}

func (c *calls) end() { c.once.Do(func() { close(c.ended) }) }

type connectionKey struct{}

// connection is what is known of one QUIC connection with HTTP/3 on it.
type connection struct {
	places chan struct{} // one for each call
	unused time.Duration
	idle   *time.Timer
}

// newConnection starts to watch a connection: one without a call is closed after
// UnusedTimeout. http3's own IdleTimeout can be held off by a request whose header
// never ends.
func newConnection(conn *quic.Conn, l Limits) *connection {
	c := &connection{places: make(chan struct{}, l.Streams), unused: l.UnusedTimeout}
	c.idle = time.AfterFunc(c.unused, func() {
		if len(c.places) == 0 {
			_ = conn.CloseWithError(quic.ApplicationErrorCode(http3.ErrCodeNoError), "no call for "+c.unused.String())
		}
	})
	context.AfterFunc(conn.Context(), func() { c.idle.Stop() })
	return c
}

// enter waits until the connection may run one call more, or its caller goes. QUIC
// counts streams, and a stream that its caller reset is over while its handler still
// runs: this counts handlers. No more wait than QUIC lets through.
func (c *connection) enter(ctx context.Context) (*place, bool) {
	select {
	case c.places <- struct{}{}:
		p := &place{connection: c}
		p.holders.Store(1)
		return p, true
	case <-ctx.Done():
		return nil, false
	}
}

func (c *connection) leave() {
	if <-c.places; len(c.places) == 0 {
		c.idle.Reset(c.unused)
	}
}

type placeKey struct{}

// place is one call's among those of its connection. grpc's ServeHTTP returns when
// the caller goes, and leaves the handler to end by itself: the place is free when
// both are over.
type place struct {
	connection *connection
	holders    atomic.Int32
}

// hold keeps the place until release. It fails when the call is over.
func (p *place) hold() bool {
	for {
		n := p.holders.Load()
		if n == 0 {
			return false
		}
		if p.holders.CompareAndSwap(n, n+1) {
			return true
		}
	}
}

func (p *place) release() {
	if p.holders.Add(-1) == 0 {
		p.connection.leave()
	}
}

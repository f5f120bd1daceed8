package transport

import (
	"context"
	"crypto/tls"
	"errors"
	"fmt"
	"log/slog"
	"net"
	"net/netip"
	"sync"
	"time"

	"github.com/quic-go/quic-go"
	"github.com/quic-go/quic-go/http3"
	"google.golang.org/grpc/credentials"
)

// Dialing of QUIC by clients.
const (
	// DefaultFallbackAfter is the head start of HTTP/3. A handshake takes one round
	// trip: whoever is within a third of a second and answers on UDP at all is in time.
	DefaultFallbackAfter = 300 * time.Millisecond
	// DefaultDeadAfter is the silence after which a client gives up a connection: below
	// the default TTL, so that a member is at another node before its lease is over.
	DefaultDeadAfter = 1500 * time.Millisecond
	// quicDialTimeout bounds an attempt, which goes on after the head start is over.
	quicDialTimeout = 5 * time.Second
	// After a failed attempt HTTP/3 is left alone for minQUICRetry, after each further
	// one twice as long, up to maxQUICRetry.
	minQUICRetry = time.Second
	maxQUICRetry = time.Minute
	// maxAddresses of a host are dialed: one of each family.
	maxAddresses = 2
)

// quicPath is the way to one host and port by HTTP/3: at most one connection, and
// the memory of how the last attempts went.
type quicPath struct {
	address   string // host:port
	tls       func() *tls.Config
	headStart time.Duration
	deadAfter time.Duration
	logger    *slog.Logger
	transport *http3.Transport // makes connections, holds none

	ctx    context.Context
	cancel context.CancelFunc
	tasks  sync.WaitGroup

	mu       sync.Mutex
	conn     *quicConn
	attempt  *attempt
	failures int // in a row
	retry    time.Time
	closed   bool
}

// quicConn is a QUIC connection with HTTP/3 on it.
type quicConn struct {
	*http3.ClientConn
	quic *quic.Conn
}

// security is what grpc calls the state of TLS.
func (c *quicConn) security() credentials.AuthInfo {
	return credentials.TLSInfo{
		State:          c.quic.ConnectionState().TLS,
		CommonAuthInfo: credentials.CommonAuthInfo{SecurityLevel: credentials.PrivacyAndIntegrity},
	}
}

// attempt is one dial under way.
type attempt struct {
	began time.Time
	done  chan struct{} // closed at its end
}

func newQUICPath(address string, config func() *tls.Config, headStart, deadAfter time.Duration, logger *slog.Logger) *quicPath {
	p := &quicPath{address: address, tls: config, headStart: headStart, deadAfter: deadAfter, logger: logger,
		transport: &http3.Transport{DisableCompression: true, Logger: slog.New(slog.DiscardHandler)}}
	p.ctx, p.cancel = context.WithCancel(context.Background())
	return p
}

// get returns a live connection, or nil when HTTP/2 is to be used now. It waits for
// the rest of the head start, and only while HTTP/3 has not failed: a retry goes on
// behind the calls.
func (p *quicPath) get(ctx context.Context) *quicConn {
	conn, a, wait := p.look()
	if conn != nil || a == nil {
		return conn
	}
	late := time.NewTimer(wait)
	defer late.Stop()
	select {
	case <-a.done:
	case <-late.C:
	case <-ctx.Done():
	}
	conn, _, _ = p.look()
	return conn
}

// look returns the live connection or the attempt to wait for, and how long. It
// starts one when it is time.
func (p *quicPath) look() (*quicConn, *attempt, time.Duration) {
	p.mu.Lock()
	defer p.mu.Unlock()
	if p.conn != nil && p.conn.Context().Err() == nil {
		return p.conn, nil, 0
	}
	p.conn = nil
	now := time.Now()
	if p.attempt == nil {
		if p.closed || now.Before(p.retry) {
			return nil, nil, 0
		}
		p.attempt = &attempt{began: now, done: make(chan struct{})}
		p.tasks.Add(1)
		go p.try(p.attempt)
	}
	if p.failures > 0 {
		return nil, nil, 0
	}
	return nil, p.attempt, p.headStart - now.Sub(p.attempt.began)
}

// try dials once.
func (p *quicPath) try(a *attempt) {
	defer p.tasks.Done()
	defer close(a.done)
	ctx, cancel := context.WithTimeout(p.ctx, quicDialTimeout)
	defer cancel()
	conn, err := p.dial(ctx)

	p.mu.Lock()
	defer p.mu.Unlock()
	p.attempt = nil
	switch {
	case p.closed && conn != nil:
		_ = conn.CloseWithError(0, "")
	case err == nil:
		p.conn, p.failures = &quicConn{ClientConn: p.transport.NewClientConn(conn), quic: conn}, 0
	case !p.closed:
		pause := min(minQUICRetry<<min(p.failures, 16), maxQUICRetry)
		if p.failures == 0 {
			p.logger.Info("no HTTP/3; using HTTP/2", "addr", p.address, "error", err, "again", pause)
		}
		p.failures++
		p.retry = time.Now().Add(pause)
	}
}

func (p *quicPath) dial(ctx context.Context) (*quic.Conn, error) {
	host, port, err := net.SplitHostPort(p.address)
	if err != nil {
		return nil, err
	}
	targets, err := resolve(ctx, host)
	if err != nil {
		return nil, err
	}
	config := p.tls().Clone()
	config.NextProtos = []string{http3.NextProtoH3}
	config.MinVersion = max(config.MinVersion, tls.VersionTLS13)
	config.ClientSessionCache = nil // no resumption, so no early data
	if config.ServerName == "" {
		config.ServerName = host
	}
	return p.race(ctx, targets, port, config)
}

// resolve returns the first address of each family.
func resolve(ctx context.Context, host string) ([]netip.Addr, error) {
	all, err := net.DefaultResolver.LookupNetIP(ctx, "ip", host)
	if err != nil {
		return nil, err
	}
	var out []netip.Addr
	for _, a := range all {
		a = a.Unmap()
		if len(out) == 0 || (len(out) < maxAddresses && out[0].Is4() != a.Is4()) {
			out = append(out, a)
		}
	}
	return out, nil
}

// race dials the addresses side by side; the first that answers wins.
func (p *quicPath) race(ctx context.Context, targets []netip.Addr, port string, config *tls.Config) (*quic.Conn, error) {
	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	type result struct {
		conn *quic.Conn
		err  error
	}
	results := make(chan result, len(targets))
	for _, t := range targets {
		go func() {
			conn, err := p.dialOne(ctx, t, port, config)
			results <- result{conn, err}
		}()
	}
	var won *quic.Conn
	var errs []error
	for range targets {
		r := <-results
		switch {
		case r.err != nil:
			errs = append(errs, r.err)
		case won != nil:
			_ = r.conn.CloseWithError(0, "")
		default:
			won = r.conn
			cancel()
		}
	}
	if won != nil {
		return won, nil
	}
	return nil, fmt.Errorf("QUIC to %s: %w", p.address, errors.Join(errs...))
}

// dialOne dials one address from a socket of its own, which is closed with the
// connection.
func (p *quicPath) dialOne(ctx context.Context, to netip.Addr, port string, config *tls.Config) (_ *quic.Conn, err error) {
	number, err := net.DefaultResolver.LookupPort(ctx, "udp", port)
	if err != nil {
		return nil, err
	}
	network := "udp4"
	if to.Is6() {
		network = "udp6"
	}
	socket, err := net.ListenUDP(network, nil)
	if err != nil {
		return nil, err
	}
	t := &quic.Transport{Conn: socket}
	closeBoth := func() {
		_ = t.Close()
		_ = socket.Close()
	}
	hearRefusals(socket, to, true)
	conn, err := t.Dial(ctx, net.UDPAddrFromAddrPort(netip.AddrPortFrom(to, uint16(number))), config, p.config()) //nolint:gosec // a port
	if err != nil {
		closeBoth()
		return nil, err
	}
	hearRefusals(socket, to, false)
	context.AfterFunc(conn.Context(), closeBoth)
	return conn, nil
}

func (p *quicPath) config() *quic.Config {
	return &quic.Config{
		HandshakeIdleTimeout: quicDialTimeout,
		MaxIdleTimeout:       silence(p.deadAfter),
		KeepAlivePeriod:      silence(p.deadAfter) / 4,
		MaxIncomingStreams:   -1, // servers open none
		Versions:             []quic.Version{quic.Version1},
	}
}

// drop forgets a connection on which no call can be begun any more. Calls under way
// go on.
func (p *quicPath) drop(conn *quicConn) {
	p.mu.Lock()
	defer p.mu.Unlock()
	if p.conn == conn {
		p.conn = nil
	}
}

// close cuts the connection and waits for an attempt to end.
func (p *quicPath) close() {
	p.mu.Lock()
	p.closed = true
	conn := p.conn
	p.conn = nil
	p.mu.Unlock()
	p.cancel()
	if conn != nil {
		_ = conn.CloseWithError(quic.ApplicationErrorCode(http3.ErrCodeNoError), "")
	}
	p.tasks.Wait()
}

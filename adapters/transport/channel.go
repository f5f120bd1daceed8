package transport

import (
	"context"
	"crypto/tls"
	"errors"
	"fmt"
	"log/slog"
	"net"
	"sync/atomic"
	"time"

	"google.golang.org/grpc"
	"google.golang.org/grpc/backoff"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/credentials"
	"google.golang.org/grpc/keepalive"
	"google.golang.org/grpc/status"
)

// Preference says which protocols a client uses.
type Preference int

const (
	// PreferHTTP3 tries HTTP/3 and falls back to HTTP/2.
	PreferHTTP3 Preference = iota
	// OnlyHTTP2 never sends a UDP packet.
	OnlyHTTP2
	// OnlyHTTP3 fails where HTTP/3 does not work. For tests and diagnosis.
	OnlyHTTP3
)

// ChannelOptions are the settings of a Channel. Address and TLS are required.
type ChannelOptions struct {
	// Address is host:port of one gRPC listener, the same on TCP and UDP.
	Address string
	// TLS is asked before each handshake, so that replaced certificates count. A config
	// without ServerName expects the host of Address. Certificates.Client is such a
	// function, given a name.
	TLS func() *tls.Config
	// Prefer says which protocols to use.
	Prefer Preference
	// FallbackAfter is the head start of HTTP/3 over HTTP/2. Default
	// DefaultFallbackAfter.
	FallbackAfter time.Duration
	// DeadAfter is the silence after which the server counts as dead. Default
	// DefaultDeadAfter.
	DeadAfter time.Duration
	// MessageBytes bounds a message received. Default 4 MiB.
	MessageBytes int
	// PerRPC adds metadata to each call, such as a bearer token. nil: none.
	PerRPC credentials.PerRPCCredentials
	// UserAgent is told to the server before the library's own name.
	UserAgent string
	Logger    *slog.Logger // nil: discard
}

// Validate reports all problems together.
func (o *ChannelOptions) Validate() error {
	var errs []error
	if _, _, err := net.SplitHostPort(o.Address); err != nil {
		errs = append(errs, fmt.Errorf("Address: %w; want host:port", err))
	}
	if o.TLS == nil {
		errs = append(errs, errors.New("TLS: missing"))
	}
	if o.Prefer < PreferHTTP3 || o.Prefer > OnlyHTTP3 {
		errs = append(errs, fmt.Errorf("Prefer: %d is none of PreferHTTP3, OnlyHTTP2, OnlyHTTP3", o.Prefer))
	}
	if o.FallbackAfter < 0 || o.DeadAfter < 0 || o.MessageBytes < 0 {
		errs = append(errs, errors.New("FallbackAfter, DeadAfter, MessageBytes: want none below 0"))
	}
	return errors.Join(errs...)
}

func (o *ChannelOptions) withDefaults() {
	if o.FallbackAfter == 0 {
		o.FallbackAfter = DefaultFallbackAfter
	}
	if o.DeadAfter == 0 {
		o.DeadAfter = DefaultDeadAfter
	}
	if o.MessageBytes == 0 {
		o.MessageBytes = 4 << 20
	}
	if o.Logger == nil {
		o.Logger = slog.New(slog.DiscardHandler)
	}
}

// Channel is a grpc.ClientConnInterface to one address that begins each call on
// HTTP/3 where that works and on HTTP/2 where it does not. A call stays where it was
// begun. What works is remembered: while UDP is blocked only the first call waits
// for FallbackAfter, and HTTP/3 is tried again behind the calls.
//
// Of grpc's call options those of headers, trailers, peer, message sizes, end of
// call and per-call credentials count on both protocols; compressors and codecs are
// refused on HTTP/3; the others do nothing there.
type Channel struct {
	o    ChannelOptions
	quic *quicPath // nil: OnlyHTTP2
	tcp  *grpc.ClientConn
	last atomic.Pointer[string] // protocol of the latest call
}

var _ grpc.ClientConnInterface = (*Channel)(nil)

// NewChannel makes a channel. It connects with the first call.
func NewChannel(o ChannelOptions) (*Channel, error) {
	if err := o.Validate(); err != nil {
		return nil, err
	}
	o.withDefaults()
	c := &Channel{o: o}
	var err error
	if c.tcp, err = o.dialTCP(); err != nil {
		return nil, err
	}
	if o.Prefer == OnlyHTTP3 {
		o.FallbackAfter = quicDialTimeout // there is nothing to fall back to
	}
	if o.Prefer != OnlyHTTP2 {
		c.quic = newQUICPath(o.Address, o.TLS, o.FallbackAfter, o.DeadAfter, o.Logger)
	}
	return c, nil
}

func (o *ChannelOptions) dialTCP() (*grpc.ClientConn, error) {
	options := []grpc.DialOption{
		grpc.WithTransportCredentials(freshCredentials(o.TLS)),
		grpc.WithNoProxy(), // as HTTP/3 has none
		grpc.WithDisableServiceConfig(), grpc.WithDisableRetry(),
		grpc.WithDefaultCallOptions(grpc.MaxCallRecvMsgSize(o.MessageBytes)),
		grpc.WithConnectParams(grpc.ConnectParams{
			Backoff:           backoff.Config{BaseDelay: minReconnect, Multiplier: 1.6, Jitter: 0.2, MaxDelay: maxReconnect},
			MinConnectTimeout: connectTimeout,
		}),
		// The kernel gives up after Timeout what it cannot deliver; see deadAfter.
		grpc.WithKeepaliveParams(keepalive.ClientParameters{Time: pingInterval, Timeout: o.DeadAfter}),
	}
	if o.PerRPC != nil {
		options = append(options, grpc.WithPerRPCCredentials(o.PerRPC))
	}
	if o.UserAgent != "" {
		options = append(options, grpc.WithUserAgent(o.UserAgent))
	}
	return grpc.NewClient("passthrough:///"+o.Address, options...)
}

// Invoke makes a unary call.
func (c *Channel) Invoke(ctx context.Context, method string, args, reply any, options ...grpc.CallOption) error {
	for range begins {
		call, err := c.overHTTP3(ctx, &grpc.StreamDesc{}, method, options)
		if err != nil {
			return err
		}
		if call == nil {
			return c.tcp.Invoke(ctx, method, args, reply, options...)
		}
		if err = call.invoke(args, reply); !call.rejected {
			return err
		}
		c.quic.drop(call.conn)
	}
	return status.Errorf(codes.Unavailable, "%s: the server sends its callers away", c.o.Address)
}

// NewStream begins a call of any kind. As with grpc the stream must be read to its
// end, or ctx ended, for its resources to be freed.
func (c *Channel) NewStream(ctx context.Context, desc *grpc.StreamDesc, method string, options ...grpc.CallOption) (grpc.ClientStream, error) {
	if call, err := c.overHTTP3(ctx, desc, method, options); call != nil || err != nil {
		if err != nil {
			return nil, err
		}
		return call, nil
	}
	return c.tcp.NewStream(ctx, desc, method, options...)
}

// begins bounds how often a call is begun anew because its connection was found to
// take no more calls.
const begins = 3

// overHTTP3 begins a call on HTTP/3, or returns nil when HTTP/2 is to be used.
func (c *Channel) overHTTP3(ctx context.Context, desc *grpc.StreamDesc, method string, options []grpc.CallOption) (*quicCall, error) {
	for range begins {
		if c.quic == nil {
			break
		}
		conn := c.quic.get(ctx)
		if conn == nil {
			break
		}
		call, err := newQUICCall(ctx, &c.o, conn, desc, method, options)
		if err == nil {
			c.last.Store(new(HTTP3))
			return call, nil
		}
		if ctx.Err() != nil || !errors.Is(err, errNotBegun) {
			return nil, statusOf(ctx, err)
		}
		c.quic.drop(conn)
	}
	if c.o.Prefer == OnlyHTTP3 {
		return nil, statusOf(ctx, fmt.Errorf("%s: no HTTP/3", c.o.Address))
	}
	c.last.Store(new(HTTP2))
	return nil, nil
}

// Negotiated is what the latest call was begun on, HTTP3 or HTTP2; empty before the
// first.
func (c *Channel) Negotiated() string {
	if p := c.last.Load(); p != nil {
		return *p
	}
	return ""
}

// Close ends all calls.
func (c *Channel) Close() error {
	if c.quic != nil {
		c.quic.close()
	}
	return c.tcp.Close()
}

// freshCredentials ask for their settings before every handshake.
type freshCredentials func() *tls.Config

func (f freshCredentials) ClientHandshake(ctx context.Context, authority string, conn net.Conn) (net.Conn, credentials.AuthInfo, error) {
	config := f().Clone()
	config.MinVersion = max(config.MinVersion, tls.VersionTLS13)
	config.NextProtos = []string{"h2"}
	return credentials.NewTLS(config).ClientHandshake(ctx, authority, conn)
}

func (freshCredentials) ServerHandshake(net.Conn) (net.Conn, credentials.AuthInfo, error) {
	return nil, nil, errors.New("these credentials are for clients")
}

func (freshCredentials) Info() credentials.ProtocolInfo {
	return credentials.ProtocolInfo{SecurityProtocol: "tls"}
}

func (f freshCredentials) Clone() credentials.TransportCredentials { return f }

// OverrideServerName is not supported: the settings say who is expected.
func (freshCredentials) OverrideServerName(string) error {
	return errors.New("the settings say who is expected")
}

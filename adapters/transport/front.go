package transport

import (
	"context"
	"crypto/tls"
	"errors"
	"fmt"
	"log/slog"
	"net"
	"net/http"

	"google.golang.org/grpc"
	"google.golang.org/grpc/credentials"
	"google.golang.org/grpc/keepalive"
)

// FrontOptions are what both fronts need.
type FrontOptions struct {
	// TLS is how callers on TCP are met, such as Certificates.Server(Optional, "h2",
	// "http/1.1"). QUIC is given the same certificates. TLS 1.3 is the least.
	TLS    *tls.Config
	Limits Limits       // zero fields: defaults
	Logger *slog.Logger // nil: discard
}

// Validate reports all problems together.
func (o *FrontOptions) Validate() error {
	var errs []error
	if o.TLS == nil {
		errs = append(errs, errors.New("TLS: missing"))
	} else if o.TLS.MinVersion < tls.VersionTLS13 {
		errs = append(errs, errors.New("TLS.MinVersion: want tls.VersionTLS13"))
	}
	if err := o.Limits.Validate(); err != nil {
		errs = append(errs, fmt.Errorf("Limits.%w", err))
	}
	return errors.Join(errs...)
}

func (o *FrontOptions) prepare() error {
	if err := o.Validate(); err != nil {
		return err
	}
	o.Limits = o.Limits.withDefaults()
	if o.Logger == nil {
		o.Logger = slog.New(slog.DiscardHandler)
	}
	return nil
}

// FrontStats are figures of a front.
type FrontStats struct {
	Connections int    // open now, TCP and QUIC
	Refused     uint64 // attempts beyond the limits, ever; one over QUIC may count twice
}

// serveBoth runs both halves until both are over. When one fails the other is
// stopped.
func serveBoth(stop func(), halves ...func() error) error {
	ended := make(chan error, len(halves))
	for _, half := range halves {
		go func() { ended <- half() }()
	}
	var errs []error
	for range halves {
		if err := <-ended; err != nil {
			errs = append(errs, err)
			stop()
		}
	}
	return errors.Join(errs...)
}

// WebFront serves one http.Handler over HTTP/1.1, HTTP/2 and HTTP/3 on one port.
// Answers on TCP advertise HTTP/3 (Alt-Svc); all carry ProtocolHeader.
type WebFront struct {
	server    *http.Server
	quic      *quicServer
	admission *admission
	config    *tls.Config
}

// altSvcAge is for how long a client may rely on what Alt-Svc told it, in seconds.
const altSvcAge = 24 * 60 * 60

// NewWebFront takes the server over: its Handler and TLSConfig are replaced, and its
// time-outs, where zero, set.
func NewWebFront(server *http.Server, o FrontOptions) (*WebFront, error) {
	if err := o.prepare(); err != nil {
		return nil, err
	}
	f := &WebFront{server: server, admission: newAdmission(o.Limits), config: o.TLS}
	handler := server.Handler
	if handler == nil {
		return nil, errors.New("server.Handler: missing")
	}
	f.quic = newQUICServer(o.Limits, o.TLS, f.admission, o.Logger, named(handler))
	server.Handler = named(handler)
	server.TLSConfig = o.TLS
	if server.ReadHeaderTimeout == 0 { // which bounds the handshake too
		server.ReadHeaderTimeout = o.Limits.HandshakeTimeout
	}
	if server.IdleTimeout == 0 {
		server.IdleTimeout = o.Limits.UnusedTimeout
	}
	if server.MaxHeaderBytes == 0 {
		server.MaxHeaderBytes = o.Limits.HeaderBytes
	}
	return f, nil
}

// named tells every caller what it came by.
func named(h http.Handler) http.Handler {
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		w.Header().Set(ProtocolHeader, r.Proto)
		h.ServeHTTP(w, r)
	})
}

// Serve answers until Shutdown, and then returns nil. It closes d. To be called once.
func (f *WebFront) Serve(d *Dual) error {
	handler, offer := f.server.Handler, fmt.Sprintf(`h3=":%d"; ma=%d`, d.Port(), altSvcAge)
	overTCP := func() error {
		err := f.server.Serve(tls.NewListener(&admitting{Listener: d.TCP, admission: f.admission}, f.config))
		if errors.Is(err, http.ErrServerClosed) {
			return nil
		}
		return err
	}
	if d.UDP == nil {
		return overTCP()
	}
	f.server.Handler = http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		w.Header().Set("Alt-Svc", offer)
		handler.ServeHTTP(w, r)
	})
	return serveBoth(f.stop, overTCP, func() error { return f.quic.serve(d.UDP) })
}

func (f *WebFront) stop() {
	ctx, cancel := context.WithCancel(context.Background())
	cancel()
	_ = f.Shutdown(ctx)
}

// Shutdown lets requests under way finish until ctx ends, and then cuts the rest.
// Streams without an end are their owner's to end before.
func (f *WebFront) Shutdown(ctx context.Context) error {
	over := make(chan struct{})
	go func() {
		defer close(over)
		f.quic.shutdown(ctx)
	}()
	err := f.server.Shutdown(ctx)
	if err != nil {
		err = errors.Join(err, f.server.Close())
	}
	<-over
	return err
}

// Stats are the figures of now.
func (f *WebFront) Stats() FrontStats { return f.admission.stats() }

// GRPCFront serves one grpc.Server on one port: by grpc's own HTTP/2 on TCP, and
// through its ServeHTTP over HTTP/3. Answers carry ProtocolHeader.
type GRPCFront struct {
	server    *grpc.Server
	quic      *quicServer
	admission *admission
}

// NewGRPCFront makes the server; its services are registered on Server before Serve.
// The options must not set what Limits bound, and interceptors of theirs must be
// chained: they run after those that this adds.
func NewGRPCFront(o FrontOptions, options ...grpc.ServerOption) (*GRPCFront, error) {
	if err := o.prepare(); err != nil {
		return nil, err
	}
	l := o.Limits
	f := &GRPCFront{admission: newAdmission(l)}
	all := append([]grpc.ServerOption{
		grpc.Creds(&serverCredentials{TransportCredentials: credentials.NewTLS(o.TLS), logger: o.Logger}),
		grpc.MaxRecvMsgSize(l.MessageBytes), grpc.MaxConcurrentStreams(uint32(l.Streams)), //nolint:gosec // validated
		grpc.MaxHeaderListSize(uint32(l.HeaderBytes)), //nolint:gosec // validated
		grpc.StaticStreamWindowSize(streamWindow), grpc.StaticConnWindowSize(connectionWindow),
		grpc.ConnectionTimeout(l.HandshakeTimeout),
		grpc.KeepaliveParams(keepalive.ServerParameters{MaxConnectionIdle: l.UnusedTimeout, Time: serverPing, Timeout: serverPing}),
		grpc.KeepaliveEnforcementPolicy(keepalive.EnforcementPolicy{MinTime: pingInterval / 2, PermitWithoutStream: true}),
		grpc.ChainUnaryInterceptor(enterUnary), grpc.ChainStreamInterceptor(enterStream),
	}, options...)
	f.server = grpc.NewServer(all...)
	f.quic = newQUICServer(l, o.TLS, f.admission, o.Logger, f.overHTTP3(l))
	return f, nil
}

// overHTTP3 hands a call to grpc, with the bounds that ServeHTTP lacks.
func (f *GRPCFront) overHTTP3(l Limits) http.Handler {
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		ctx, end := context.WithCancelCause(r.Context())
		defer end(nil)
		body := newDemand(r.Body, l.MessageBytes)
		r = r.WithContext(context.WithValue(ctx, callKey{}, body))
		r.Body = body
		r.Proto, r.ProtoMajor, r.ProtoMinor = HTTP2, 2, 0 // grpc insists; the framing within is the same
		f.server.ServeHTTP(newPatientWriter(w, l.WriteTimeout, end), r)
	})
}

// Server is where services are registered.
func (f *GRPCFront) Server() *grpc.Server { return f.server }

// Serve answers until Shutdown, and then returns nil. It closes d. To be called once.
func (f *GRPCFront) Serve(d *Dual) error {
	overTCP := func() error {
		return unlessStopped(f.server.Serve(&admitting{Listener: d.TCP, admission: f.admission}))
	}
	if d.UDP == nil {
		return overTCP()
	}
	return serveBoth(f.stop, overTCP, func() error { return f.quic.serve(d.UDP) })
}

func unlessStopped(err error) error {
	if errors.Is(err, grpc.ErrServerStopped) || errors.Is(err, net.ErrClosed) {
		return nil
	}
	return err
}

func (f *GRPCFront) stop() {
	ctx, cancel := context.WithCancel(context.Background())
	cancel()
	f.Shutdown(ctx)
}

// Shutdown lets calls under way finish until ctx ends, and then cuts the rest. Calls
// without an end are their owner's to end before.
func (f *GRPCFront) Shutdown(ctx context.Context) {
	// In this order: GracefulStop cuts calls that came through ServeHTTP.
	f.quic.shutdown(ctx)
	graceful := make(chan struct{})
	go func() {
		defer close(graceful)
		f.server.GracefulStop()
	}()
	select {
	case <-graceful:
	case <-ctx.Done():
		f.server.Stop() // ends GracefulStop too
		<-graceful
	}
}

// Stats are the figures of now.
func (f *GRPCFront) Stats() FrontStats { return f.admission.stats() }

func (a *admission) stats() FrontStats {
	return FrontStats{Connections: a.open(), Refused: a.refused.Load()}
}

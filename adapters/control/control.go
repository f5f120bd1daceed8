// Package control serves the HTTP API: the operations of the schema as JSON, and beside
// them the event stream, what this process's member holds, probes, metrics and keys.
package control

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"log/slog"
	"net/http"
	"slices"
	"strings"
	"sync"
	"time"

	"github.com/grpc-ecosystem/grpc-gateway/v2/runtime"

	"github.com/omnirelay/leadership/adapters/access"
	"github.com/omnirelay/leadership/adapters/telemetry"
	"github.com/omnirelay/leadership/core"
)

// Source is the node that this API tells of.
type Source interface {
	// View calls f with the registry and the status of now, under a read lock; f is quick.
	View(f func(g *core.Registry, s core.Status))
	// Changed is closed at the next change of either.
	Changed() <-chan struct{}
	MemberID() string
	// Held is what this process's member believes at this moment.
	Held() (now core.Time, held []core.Holding)
	// CheckCursor starts a stream over whose cursor lies ahead of all that there is.
	CheckCursor(ctx context.Context, sub *core.Subscription)
	// ExpiresAt is the published bound of a session, Unix nanoseconds; false where unknown.
	ExpiresAt(session core.SessionID) (wall int64, ok bool)
}

// The endpoints that Options.Open may name.
const (
	EndpointHeld    = "held"
	EndpointLeaders = "leaders"
	EndpointEvents  = "events"
	EndpointAudit   = "audit"
	EndpointMetrics = "metrics"
)

var openable = []string{EndpointHeld, EndpointLeaders, EndpointEvents, EndpointAudit, EndpointMetrics}

// Options settle one Server. All fields are needed, save Open, Keys and Hint.
type Options struct {
	Source  Source
	Service Service
	// Gate is what every call passes, and Gate.Limiter every stream.
	Gate    access.Gate
	Metrics *telemetry.Metrics
	Logger  *slog.Logger
	// Open lists the endpoints that need no credential, beside healthz, readyz and keys.
	Open []string
	// Keys are the public keys of signed tokens, as a JSON Web Key Set; nil: no tokens
	// are signed.
	Keys func() []byte
	// Hint names another node that may serve, as node, grpc and http; nil: no hints.
	Hint func() map[string]string
	// Boottime reads CLOCK_BOOTTIME in nanoseconds.
	Boottime func() int64
	// MaxStreams bounds the event streams open at the same time.
	MaxStreams int
	// WriteTimeout is how long one write may take before its reader is cut.
	WriteTimeout time.Duration
	// Heartbeat is the pause after which a silent stream gets a comment.
	Heartbeat time.Duration
	// ReadTimeout is how long a call waits for a registrar.
	ReadTimeout time.Duration
	// MaxBody is the size of a request's body in bytes.
	MaxBody int64

	// bodyWithin is how long a body may take to arrive; 0: bodyTimeout.
	bodyWithin time.Duration
}

// Validate reports all that is missing.
func (o *Options) Validate() error {
	var all []error
	check := func(ok bool, problem string) {
		if !ok {
			all = append(all, errors.New("control: "+problem))
		}
	}
	check(o.Source != nil, "Source is missing")
	check(o.Service != nil, "Service is missing")
	check(o.Gate.Authenticator != nil && o.Gate.Limiter != nil, "Gate is missing")
	check(o.Metrics != nil, "Metrics is missing")
	check(o.Logger != nil, "Logger is missing")
	check(o.Boottime != nil, "Boottime is missing")
	check(o.MaxStreams > 0, "MaxStreams must be at least 1")
	check(o.WriteTimeout > 0, "WriteTimeout must be above 0")
	check(o.Heartbeat > 0, "Heartbeat must be above 0")
	check(o.ReadTimeout > 0, "ReadTimeout must be above 0")
	check(o.MaxBody > 0, "MaxBody must be above 0")
	for _, e := range o.Open {
		check(slices.Contains(openable, e), "Open names "+e+"; want one of "+strings.Join(openable, ", "))
	}
	return errors.Join(all...)
}

// Server is the HTTP API of one node.
type Server struct {
	options     Options
	mux         *http.ServeMux
	gateway     *runtime.ServeMux
	crossOrigin *http.CrossOriginProtection
	bodyWithin  time.Duration // how long a body may take to arrive
	slots       chan struct{} // one for each open stream
	closing     chan struct{}
	once        sync.Once
}

// New returns the API; Server.HTTPServer or any other server runs its Handler.
func New(o Options) (*Server, error) {
	if err := o.Validate(); err != nil {
		return nil, err
	}
	s := &Server{options: o, mux: http.NewServeMux(), crossOrigin: http.NewCrossOriginProtection(), bodyWithin: cmp.Or(o.bodyWithin, bodyTimeout),
		slots: make(chan struct{}, o.MaxStreams), closing: make(chan struct{})}
	var err error
	if s.gateway, err = s.newGateway(o.Service); err != nil {
		return nil, fmt.Errorf("control: %w", err)
	}
	s.handle(s.routes())
	return s, nil
}

// Handler serves the API.
func (s *Server) Handler() http.Handler {
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		// HTTP/1.1 reads the rest of a request that was refused before it answers, and has no
		// limit of its own on how long that takes. Whoever reads a body sets its own.
		if r.ProtoMajor == 1 && r.ContentLength != 0 {
			_ = http.NewResponseController(w).SetReadDeadline(time.Now().Add(s.bodyWithin))
		}
		s.mux.ServeHTTP(w, r)
	})
}

// EndStreams ends every event stream and refuses new ones, so that a graceful
// shutdown of the HTTP server does not wait for readers.
func (s *Server) EndStreams() { s.once.Do(func() { close(s.closing) }) }

// Limits of a request.
const (
	maxHeaderBytes = 16 << 10
	maxQueryBytes  = 2 << 10
	headerTimeout  = 5 * time.Second
	bodyTimeout    = 5 * time.Second
	idleTimeout    = time.Minute
	pingAfter      = 15 * time.Second // of silence on an HTTP/2 connection
	pingTimeout    = 10 * time.Second
	h2Streams      = 250 // requests at the same time on one HTTP/2 connection
)

// HTTPServer returns a server for the API with every limit set. It has no
// WriteTimeout: a stream has no end, so each write gets a deadline of its own.
func (s *Server) HTTPServer() *http.Server {
	return &http.Server{
		Handler: s.Handler(),
		// Or OPTIONS * would be answered past every limit.
		DisableGeneralOptionsHandler: true,

		ReadHeaderTimeout: headerTimeout,
		IdleTimeout:       idleTimeout,
		MaxHeaderBytes:    maxHeaderBytes,
		HTTP2:             &http.HTTP2Config{MaxConcurrentStreams: h2Streams, SendPingTimeout: pingAfter, PingTimeout: pingTimeout},
		ErrorLog:          slog.NewLogLogger(s.options.Logger.Handler(), slog.LevelDebug),
	}
}

// Package control serves the HTTP API: leaders, events, audit, probes and metrics,
// all from this node's own copy.
package control

import (
	"context"
	"errors"
	"log/slog"
	"net/http"
	"slices"
	"sync"
	"time"

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
	// ReadBarrier returns nil once the copy holds all that was acknowledged before the call.
	ReadBarrier(ctx context.Context) error
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

// Options settle one Server. All fields are needed, save Open.
type Options struct {
	Source  Source
	Metrics *telemetry.Metrics
	Logger  *slog.Logger
	// Cluster is whose certificates are admitted.
	Cluster string
	// Open lists the endpoints that need no certificate, beside healthz and readyz.
	Open []string
	// Boottime reads CLOCK_BOOTTIME in nanoseconds.
	Boottime func() int64
	// MaxStreams bounds the event streams open at the same time.
	MaxStreams int
	// WriteTimeout is how long one write may take before its reader is cut.
	WriteTimeout time.Duration
	// Heartbeat is the pause after which a silent stream gets a comment.
	Heartbeat time.Duration
	// ReadTimeout is how long a linearizable read waits for a registrar.
	ReadTimeout time.Duration
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
	check(o.Metrics != nil, "Metrics is missing")
	check(o.Logger != nil, "Logger is missing")
	check(o.Cluster != "", "Cluster is missing")
	check(o.Boottime != nil, "Boottime is missing")
	check(o.MaxStreams > 0, "MaxStreams must be at least 1")
	check(o.WriteTimeout > 0, "WriteTimeout must be above 0")
	check(o.Heartbeat > 0, "Heartbeat must be above 0")
	check(o.ReadTimeout > 0, "ReadTimeout must be above 0")
	for _, e := range o.Open {
		known := slices.Contains([]string{EndpointHeld, EndpointLeaders, EndpointEvents, EndpointAudit, EndpointMetrics}, e)
		check(known, "Open names "+e+"; want held, leaders, events, audit or metrics")
	}
	return errors.Join(all...)
}

// Server is the HTTP API of one node.
type Server struct {
	options Options
	mux     *http.ServeMux
	slots   chan struct{} // one for each open stream
	closing chan struct{}
	once    sync.Once
}

// New returns the API; Server.HTTPServer or any other server runs its Handler.
func New(o Options) (*Server, error) {
	if err := o.Validate(); err != nil {
		return nil, err
	}
	s := &Server{options: o, mux: http.NewServeMux(), slots: make(chan struct{}, o.MaxStreams), closing: make(chan struct{})}
	for _, r := range s.routes() {
		s.mux.Handle(r.path, s.serve(r))
	}
	return s, nil
}

// Handler serves the API.
func (s *Server) Handler() http.Handler { return s.mux }

// EndStreams ends every event stream and refuses new ones, so that a graceful
// shutdown of the HTTP server does not wait for readers.
func (s *Server) EndStreams() { s.once.Do(func() { close(s.closing) }) }

// Limits of a request.
const (
	maxHeaderBytes = 16 << 10
	maxQueryBytes  = 2 << 10
	headerTimeout  = 5 * time.Second
	idleTimeout    = time.Minute
	pingAfter      = 15 * time.Second // of silence on an HTTP/2 connection
	pingTimeout    = 10 * time.Second
	h2Streams      = 250 // requests at the same time on one HTTP/2 connection
)

// HTTPServer returns a server for the API with every limit set. It has no
// WriteTimeout: a stream has no end, so each write gets a deadline of its own.
func (s *Server) HTTPServer() *http.Server {
	return &http.Server{
		Handler:           s.mux,
		ReadHeaderTimeout: headerTimeout,
		IdleTimeout:       idleTimeout,
		MaxHeaderBytes:    maxHeaderBytes,
		HTTP2:             &http.HTTP2Config{MaxConcurrentStreams: h2Streams, SendPingTimeout: pingAfter, PingTimeout: pingTimeout},
		ErrorLog:          slog.NewLogLogger(s.options.Logger.Handler(), slog.LevelDebug),
	}
}

// Package rpc serves the gRPC API: Subscribe from this node's own copy, the operations of
// members and operators, health and reflection.
package rpc

import (
	"context"
	"errors"
	"log/slog"
	"sync"
	"time"

	"google.golang.org/grpc"
	"google.golang.org/grpc/health"
	healthpb "google.golang.org/grpc/health/grpc_health_v1"
	"google.golang.org/grpc/reflection"

	"github.com/omnirelay/leadership/adapters/access"
	"github.com/omnirelay/leadership/adapters/telemetry"
	"github.com/omnirelay/leadership/core"
	"github.com/omnirelay/leadership/wire/controlpb"
)

// Source is the node that this API tells of.
type Source interface {
	// View calls f with the registry and the status of now, under a read lock; f is quick.
	View(f func(g *core.Registry, s core.Status))
	// Changed is closed at the next change of either.
	Changed() <-chan struct{}
	// CheckCursor starts a stream over whose cursor lies ahead of all that there is.
	CheckCursor(ctx context.Context, sub *core.Subscription)
	// ExpiresAt is the published bound of a session, Unix nanoseconds; false where unknown.
	ExpiresAt(session core.SessionID) (wall int64, ok bool)
}

// Service is the operations, the same that JSON serves. It finds the caller in the
// context.
type Service interface {
	controlpb.LeadershipMemberServiceServer
	controlpb.LeadershipRegistryServiceServer
	controlpb.LeadershipMeshServiceServer
}

// Options settle one Server. All fields are needed, save where a comment says else.
type Options struct {
	Source  Source
	Service Service
	// Gate is what every call passes, and Gate.Limiter every stream.
	Gate    access.Gate
	Metrics *telemetry.Metrics
	Logger  *slog.Logger
	// Hint names another node for a caller that this one cannot serve, as metadata of the
	// refusal: node, grpc and http. nil: none.
	Hint func() map[string]string
	// MaxStreams bounds the event streams open at the same time.
	MaxStreams int
	// WriteTimeout is how long a reader may take for one batch before it is cut.
	WriteTimeout time.Duration
	// RenewalInterval is how often a stream that asked for renewals is told of them.
	RenewalInterval time.Duration
}

// Validate reports all that is missing.
func (o *Options) Validate() error {
	var all []error
	check := func(ok bool, problem string) {
		if !ok {
			all = append(all, errors.New("rpc: "+problem))
		}
	}
	check(o.Source != nil, "Source is missing")
	check(o.Service != nil, "Service is missing")
	check(o.Gate.Authenticator != nil && o.Gate.Limiter != nil, "Gate is missing")
	check(o.Metrics != nil, "Metrics is missing")
	check(o.Logger != nil, "Logger is missing")
	check(o.MaxStreams > 0, "MaxStreams must be at least 1")
	check(o.WriteTimeout > 0, "WriteTimeout must be above 0")
	check(o.RenewalInterval > 0, "RenewalInterval must be above 0")
	return errors.Join(all...)
}

// Server is the gRPC API of one node.
type Server struct {
	controlpb.UnimplementedLeadershipControlServiceServer
	options Options
	health  *health.Server
	slots   chan struct{} // one for each open stream
	closing chan struct{}
	once    sync.Once
	check   time.Duration // how often a stream asks whether the node can vouch for its copy

	single        map[string]bool // methods that are no streams, by their full names
	requestWithin time.Duration   // how long the request of a call may take to arrive
}

const checkInterval = 5 * time.Second

// New returns the API. Register makes a grpc server serve it that was made with
// ServerOptions.
func New(o Options) (*Server, error) {
	if err := o.Validate(); err != nil {
		return nil, err
	}
	s := &Server{options: o, health: health.NewServer(), slots: make(chan struct{}, o.MaxStreams), closing: make(chan struct{}), check: checkInterval, single: map[string]bool{}, requestWithin: requestTimeout}
	s.setHealth()
	return s, nil
}

// Register adds the API, health and reflection to server.
func (s *Server) Register(server *grpc.Server) {
	g := &registrar{GRPCServer: server, api: s}
	controlpb.RegisterLeadershipControlServiceServer(g, s)
	controlpb.RegisterLeadershipMemberServiceServer(g, s.options.Service)
	controlpb.RegisterLeadershipRegistryServiceServer(g, s.options.Service)
	controlpb.RegisterLeadershipMeshServiceServer(g, s.options.Service)
	healthpb.RegisterHealthServer(g, s.health)
	reflection.Register(g)
}

// EndStreams ends every event stream, refuses new ones and reports NOT_SERVING, so
// that a graceful stop of the grpc server does not wait for readers.
func (s *Server) EndStreams() {
	s.once.Do(func() {
		close(s.closing)
		s.health.Shutdown()
	})
}

// WatchHealth keeps the health service true until ctx ends: a node serves while it
// can vouch for its copy.
func (s *Server) WatchHealth(ctx context.Context) {
	for {
		changed := s.options.Source.Changed()
		s.setHealth()
		select {
		case <-changed:
		case <-ctx.Done():
			return
		}
	}
}

func (s *Server) setHealth() {
	serving := healthpb.HealthCheckResponse_NOT_SERVING
	s.options.Source.View(func(_ *core.Registry, st core.Status) {
		if st.Ready {
			serving = healthpb.HealthCheckResponse_SERVING
		}
	})
	s.health.SetServingStatus("", serving)
	for _, service := range []*grpc.ServiceDesc{&controlpb.LeadershipControlService_ServiceDesc,
		&controlpb.LeadershipMemberService_ServiceDesc, &controlpb.LeadershipRegistryService_ServiceDesc, &controlpb.LeadershipMeshService_ServiceDesc} {
		s.health.SetServingStatus(service.ServiceName, serving)
	}
}

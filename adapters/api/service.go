// Package api is what the public API does: members attach, open sessions, stand,
// renew and resign; operators read and change the registry. It is written once, and
// called by gRPC and by the JSON gateway alike, so that both give the same answers.
//
// Every call takes its caller from the context (access.WithCaller); without one it is
// refused. Errors are *core.Error, *access.Denied, *access.Exceeded, or those of a
// context.
package api

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"sync"
	"time"

	"github.com/omnirelay/leadership/adapters/access"
	"github.com/omnirelay/leadership/adapters/signing"
	"github.com/omnirelay/leadership/core"
	"github.com/omnirelay/leadership/core/logpb"
	"github.com/omnirelay/leadership/wire/controlpb"
)

// Source is the node that is asked.
type Source interface {
	// View calls f with the registry and the status of now, under a read lock; f is quick.
	View(f func(g *core.Registry, s core.Status))
	// Changed is closed at the next change of either.
	Changed() <-chan struct{}
	// Do executes a command through the log; a refusal is a *core.Error.
	Do(ctx context.Context, c *logpb.Command) (*core.Result, error)
	// ReadBarrier returns nil once the copy holds all that was acknowledged before the call.
	ReadBarrier(ctx context.Context) error
	// ExpiresAt is the published bound of a session, Unix nanoseconds; false where unknown.
	ExpiresAt(session core.SessionID) (wall int64, ok bool)
}

// Attachment is a member's connection to the node's replica.
type Attachment interface {
	// Send hands a message of the member on, or drops it and returns false.
	Send(m core.MemberMessage) bool
	// Break ends the attachment of a connection that broke off.
	Break()
	// Detach ends the attachment.
	Detach()
}

// Signer signs what a session leads.
type Signer interface {
	Sign(c signing.Claims) (token string, err error)
	// Life is how long a signed token is good for.
	Life() time.Duration
}

// Options settle one Service. All fields are needed, save where a comment says else.
type Options struct {
	Source Source
	// Attach connects a member to the replica. deliver is called on the node's loop.
	Attach func(deliver func(core.ReplicaMessage)) (Attachment, error)
	// Signer signs tokens; nil: none are signed.
	Signer Signer
	// Session counts a session that is attached to this node, until release is called;
	// nil: they are not counted.
	Session func(memberID string) (release func(), err error)
	// Allow counts a request on a stream as one of its caller, as single calls are counted
	// before they come here; nil: they are not counted.
	Allow func(c access.Caller) error
	// Protocol is what a stream came by, like HTTP/2.0; nil: HTTP/2.0.
	Protocol func(ctx context.Context) string
	// Others are the grpc addresses of other nodes, for members to go to; nil: none.
	Others func() []string
	// Reserved are the member ids of the cluster's own nodes, beside those of the registry's
	// table. No caller acts as one.
	Reserved []string
	// SessionsPerMember bounds the live sessions of one member in the registry, as far
	// as this node's copy knows them.
	SessionsPerMember int
	Cluster, NodeID   string
	// Peers are the members that this node's gossip sees, at this moment; nil: it does not
	// gossip.
	Peers func() []Peer
	// Store is where the registry is kept: raft, also when empty, etcd, postgres or redis.
	Store string
	// Epsilon is the error allowed to clocks; 0: the default.
	Epsilon core.Epsilon
	// Window is the longest that a call waits for a registrar.
	Window time.Duration
	// WriteTimeout is how long a member may take to read one batch before it is cut.
	WriteTimeout time.Duration
	Logger       *slog.Logger
}

// Validate reports all that is missing.
func (o *Options) Validate() error {
	var all []error
	check := func(ok bool, problem string) {
		if !ok {
			all = append(all, errors.New("api: "+problem))
		}
	}
	check(o.Source != nil, "Source is missing")
	check(o.Attach != nil, "Attach is missing")
	check(o.SessionsPerMember > 0, "SessionsPerMember must be at least 1")
	check(o.Cluster != "", "Cluster is missing")
	check(o.NodeID != "", "NodeID is missing")
	check(o.Epsilon >= 0 && o.Epsilon < 500, "Epsilon must be below 500 parts per thousand")
	check(o.Window > 0, "Window must be above 0")
	check(o.WriteTimeout > 0, "WriteTimeout must be above 0")
	check(o.Logger != nil, "Logger is missing")
	return errors.Join(all...)
}

// Service answers the public API. It is safe for concurrent use.
type Service struct {
	controlpb.UnimplementedLeadershipMemberServiceServer
	controlpb.UnimplementedLeadershipRegistryServiceServer
	controlpb.UnimplementedLeadershipMeshServiceServer
	o        Options
	reserved map[string]bool
	closing  chan struct{}
	once     sync.Once
	newID    func() string
	members  members
	weighing chan struct{} // holds one while a copy of the registry is looked at

	maxWeighed int
}

// members counts the streams of each.
type members struct {
	mu      sync.Mutex
	streams map[string]int
}

func (m *members) enter(id string) error {
	m.mu.Lock()
	defer m.mu.Unlock()
	if m.streams[id] >= MaxMemberStreams {
		return &core.Error{Code: core.CodeLimit, Field: "memberId", Message: fmt.Sprintf("member %s has %d streams to this node; end one", id, MaxMemberStreams)}
	}
	m.streams[id]++
	return nil
}

func (m *members) leave(id string) {
	m.mu.Lock()
	defer m.mu.Unlock()
	if m.streams[id]--; m.streams[id] == 0 {
		delete(m.streams, id)
	}
}

// New returns a service. It needs no closing beyond EndStreams.
func New(o Options) (*Service, error) {
	if err := o.Validate(); err != nil {
		return nil, err
	}
	if o.Epsilon == 0 {
		o.Epsilon = core.DefaultEpsilon
	}
	if o.Protocol == nil {
		o.Protocol = func(context.Context) string { return "HTTP/2.0" }
	}
	if o.Others == nil {
		o.Others = func() []string { return nil }
	}
	if o.Peers == nil {
		o.Peers = func() []Peer { return nil }
	}
	if o.Store == "" {
		o.Store = storeRaft
	}
	if o.Session == nil {
		o.Session = func(string) (func(), error) { return func() {}, nil }
	}
	if o.Allow == nil {
		o.Allow = func(access.Caller) error { return nil }
	}
	s := &Service{o: o, members: members{streams: map[string]int{}}, reserved: map[string]bool{}, closing: make(chan struct{}), newID: randomID,
		weighing: make(chan struct{}, 1), maxWeighed: maxWeighed}
	for _, id := range o.Reserved {
		s.reserved[id] = true
	}
	return s, nil
}

// EndStreams tells every attached member to go to another node, ends the streams and
// refuses new ones. Call it before the node hands over.
func (s *Service) EndStreams() { s.once.Do(func() { close(s.closing) }) }

var errClosing = &core.Error{Code: core.CodeUnavailable, Message: "this node is shutting down; go to another"}

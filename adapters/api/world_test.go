package api

import (
	"context"
	"crypto/tls"
	"crypto/x509"
	"fmt"
	"log/slog"
	"net"
	"sync"
	"testing"
	"time"

	"go.uber.org/goleak"
	"google.golang.org/genproto/googleapis/rpc/errdetails"
	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/credentials"
	"google.golang.org/grpc/status"
	"google.golang.org/protobuf/types/known/durationpb"

	"github.com/omnirelay/leadership/adapters/access"
	"github.com/omnirelay/leadership/adapters/host"
	"github.com/omnirelay/leadership/adapters/rpc"
	"github.com/omnirelay/leadership/adapters/signing"
	"github.com/omnirelay/leadership/adapters/telemetry"
	"github.com/omnirelay/leadership/adapters/transport"
	"github.com/omnirelay/leadership/core"
	"github.com/omnirelay/leadership/wire/controlpb"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

const cluster = "demo"

// forgetful is a log that keeps nothing: no host of these tests restarts.
type forgetful struct{}

func (forgetful) Persist(core.Batch) error { return nil }

// world is a cluster of one process whose nodes serve gRPC over TLS.
type world struct {
	t         *testing.T
	authority *transport.Authority
	nodes     []*node

	mu    sync.Mutex
	hosts map[core.NodeID]*host.Host
	down  map[core.NodeID]bool
}

type node struct {
	*host.Host
	world   *world
	id      core.NodeID
	service *Service
	gate    access.Gate
	server  *rpc.Server
	grpc    *grpc.Server
	address string
}

// settings are what a test may change before the nodes start.
type settings struct {
	options *Options
	access  *access.Options
	limits  *access.Limits
}

func newWorld(t *testing.T, n int, edit ...func(settings)) *world {
	t.Helper()
	authority, err := transport.NewAuthority(cluster)
	if err != nil {
		t.Fatal(err)
	}
	w := &world{t: t, authority: authority, hosts: map[core.NodeID]*host.Host{}, down: map[core.NodeID]bool{}}
	var voters []core.NodeID
	for i := range n {
		voters = append(voters, core.NodeID(i+1))
	}
	for _, id := range voters {
		w.start(id, voters, edit)
	}
	w.until("the nodes serve", func() bool {
		for _, n := range w.nodes {
			if !n.ready() {
				return false
			}
		}
		return true
	})
	return w
}

func (n *node) ready() (ready bool) {
	n.View(func(_ *core.Registry, s core.Status) { ready = s.Ready && s.Version == core.ProtocolVersion })
	return ready
}

func (w *world) send(messages []core.Message) {
	w.mu.Lock()
	defer w.mu.Unlock()
	for _, m := range messages {
		if h := w.hosts[m.To]; h != nil && !w.down[m.From] && !w.down[m.To] {
			h.Deliver(m)
		}
	}
}

// cut takes a node off the network of the nodes.
func (w *world) cut(id core.NodeID) {
	w.mu.Lock()
	defer w.mu.Unlock()
	w.down[id] = true
}

// heal undoes cut.
func (w *world) heal(id core.NodeID) {
	w.mu.Lock()
	defer w.mu.Unlock()
	delete(w.down, id)
}

func (w *world) start(id core.NodeID, voters []core.NodeID, edit []func(settings)) {
	t := w.t
	t.Helper()
	h, err := host.New(host.Options{Log: forgetful{}, Send: w.send, Core: core.Config{ID: id, Voters: voters, ClusterID: cluster,
		ElectionTimeout: 300 * time.Millisecond, HeartbeatInterval: 50 * time.Millisecond, RebalanceInterval: -1, MaxElectionWindow: 3 * time.Second}})
	if err != nil {
		t.Fatal(err)
	}
	w.mu.Lock()
	w.hosts[id] = h
	w.mu.Unlock()
	n := &node{Host: h, world: w, id: id}
	o := Options{Source: h, Attach: func(d func(core.ReplicaMessage)) (Attachment, error) { return h.Attach(d) },
		Cluster: cluster, NodeID: fmt.Sprintf("node-%d", id), Reserved: []string{"node-1", "node-2", "node-3"}, SessionsPerMember: 4,
		Window: 3 * time.Second, WriteTimeout: 5 * time.Second, Logger: slog.New(slog.DiscardHandler),
		Others: func() []string { return []string{"127.0.0.1:1"} }, Protocol: transport.Protocol}
	a := access.Options{Cluster: cluster, Entries: []access.Entry{
		{Match: "spiffe://demo/member/worker-*", Grants: []access.Grant{{Kind: "custom", MaxPriority: 10}, {Kind: "shard", Namespace: "ns", MaxPriority: 10}, {ID: "job", MaxPriority: 10}}},
		{Match: "spiffe://demo/member/all", Grants: []access.Grant{{ID: access.EveryScope, MaxPriority: core.MaxPriority}}},
	}}
	l := access.Limits{RequestsPerSecond: 1000, Burst: 2000, StreamsPerCaller: 100, SessionsPerMember: 100}
	for _, f := range edit {
		f(settings{&o, &a, &l})
	}
	limiter, err := access.NewLimiter(l)
	if err != nil {
		t.Fatal(err)
	}
	if o.Session == nil {
		o.Session, o.Allow = limiter.Session, limiter.Request
	}
	authenticator, err := access.New(a)
	if err != nil {
		t.Fatal(err)
	}
	if n.service, err = New(o); err != nil {
		t.Fatal(err)
	}
	n.gate = access.Gate{Authenticator: authenticator, Limiter: limiter}
	n.serve(n.gate)
	ctx, stop := context.WithCancel(context.Background())
	ran := make(chan struct{})
	go func() {
		defer close(ran)
		_ = h.Run(ctx)
	}()
	t.Cleanup(func() {
		n.grpc.Stop()
		stop()
		<-ran
		authenticator.Close()
	})
	w.nodes = append(w.nodes, n)
}

func (n *node) serve(gate access.Gate) {
	t := n.world.t
	logger := slog.New(slog.DiscardHandler)
	var err error
	n.server, err = rpc.New(rpc.Options{Source: n.Host, Service: n.service, Gate: gate, Logger: logger,
		Metrics:    telemetry.NewMetrics(telemetry.Options{Logger: logger, View: n.View}),
		MaxStreams: 100, WriteTimeout: 5 * time.Second, RenewalInterval: time.Second})
	if err != nil {
		t.Fatal(err)
	}
	pair := n.world.pair(n.world.authority.IssueNode(fmt.Sprintf("node-%d", n.id)))
	n.grpc = grpc.NewServer(append(n.server.ServerOptions(), grpc.Creds(credentials.NewTLS(&tls.Config{
		Certificates: []tls.Certificate{pair}, ClientAuth: tls.VerifyClientCertIfGiven, ClientCAs: n.world.roots(), MinVersion: tls.VersionTLS13})))...)
	n.server.Register(n.grpc)
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	n.address = l.Addr().String()
	go func() { _ = n.grpc.Serve(l) }()
}

func (w *world) pair(p transport.Pair, err error) tls.Certificate {
	w.t.Helper()
	if err != nil {
		w.t.Fatal(err)
	}
	cert, err := tls.X509KeyPair(p.Cert, p.Key)
	if err != nil {
		w.t.Fatal(err)
	}
	return cert
}

func (w *world) roots() *x509.CertPool {
	pool := x509.NewCertPool()
	pool.AppendCertsFromPEM(w.authority.CertPEM())
	return pool
}

// caller is a connection to one node with one certificate.
type caller struct {
	controlpb.LeadershipMemberServiceClient
	registry controlpb.LeadershipRegistryServiceClient
	mesh     controlpb.LeadershipMeshServiceClient
	conn     *grpc.ClientConn
	node     *node
}

func (n *node) dial(certs ...tls.Certificate) *caller {
	t := n.world.t
	t.Helper()
	conn, err := grpc.NewClient(n.address, grpc.WithTransportCredentials(credentials.NewTLS(&tls.Config{RootCAs: n.world.roots(), Certificates: certs})))
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = conn.Close() })
	return &caller{controlpb.NewLeadershipMemberServiceClient(conn), controlpb.NewLeadershipRegistryServiceClient(conn), controlpb.NewLeadershipMeshServiceClient(conn), conn, n}
}

func (n *node) member(id string) *caller {
	n.world.t.Helper()
	return n.dial(n.world.pair(n.world.authority.IssueMember(id)))
}

func (n *node) client(role transport.Role) *caller {
	n.world.t.Helper()
	return n.dial(n.world.pair(n.world.authority.IssueClient(role)))
}

// ctx ends what hangs.
func (w *world) ctx() context.Context {
	ctx, cancel := context.WithTimeout(context.Background(), 30*time.Second)
	w.t.Cleanup(cancel)
	return ctx
}

func (w *world) until(what string, cond func() bool) {
	w.t.Helper()
	deadline := time.After(30 * time.Second)
	for !cond() {
		select {
		case <-time.After(2 * time.Millisecond):
		case <-deadline:
			w.t.Fatalf("waited in vain for: %s", what)
		}
	}
}

func (w *world) declare(scopes ...string) {
	w.t.Helper()
	r := &controlpb.DeclareScopesRequest{}
	for _, id := range scopes {
		r.Scopes = append(r.Scopes, &controlpb.ScopeSpec{Id: id})
	}
	if _, err := w.nodes[0].client(transport.RoleAdmin).registry.DeclareScopes(w.ctx(), r); err != nil {
		w.t.Fatal(err)
	}
}

// open opens a session that stands for one scope, and lasts.
func (c *caller) open(member, scope string) uint64 {
	t := c.node.world.t
	t.Helper()
	r, err := c.OpenSession(c.node.world.ctx(), openRequest(member, scope))
	if err != nil {
		t.Fatal(err)
	}
	return r.Session
}

func openRequest(member, scope string) *controlpb.OpenSessionRequest {
	return &controlpb.OpenSessionRequest{MemberId: member, Ttl: durationpb.New(time.Minute),
		Stands: []*controlpb.Wish{{Selector: &controlpb.Selector{Id: scope}, Priority: 1}}}
}

// refused checks a status and the core code in it.
func refused(t *testing.T, label string, err error, code codes.Code, reason string) {
	t.Helper()
	st := status.Convert(err)
	have := ""
	for _, d := range st.Details() {
		if info, ok := d.(*errdetails.ErrorInfo); ok {
			have = info.Reason
		}
	}
	if st.Code() != code || have != reason {
		t.Errorf("%s: have %v (%s), want %v (%s)", label, err, have, code, reason)
	}
}

// fakeSigner writes claims down.
type fakeSigner struct{}

func (fakeSigner) Sign(c signing.Claims) (string, error) {
	return fmt.Sprintf("%s/%s/%d/%d/%d", c.Leader, c.Scope, c.Term, c.Fence, c.Session), nil
}

func (fakeSigner) Life() time.Duration { return time.Hour }

package rpc

import (
	"context"
	"crypto/tls"
	"crypto/x509"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"net"
	"strings"
	"sync"
	"testing"
	"time"

	"go.uber.org/goleak"
	"google.golang.org/genproto/googleapis/rpc/errdetails"
	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/credentials"
	healthpb "google.golang.org/grpc/health/grpc_health_v1"
	"google.golang.org/grpc/reflection/grpc_reflection_v1"
	"google.golang.org/grpc/status"
	"google.golang.org/protobuf/proto"

	"github.com/omnirelay/leadership/adapters/access"
	"github.com/omnirelay/leadership/adapters/telemetry"
	"github.com/omnirelay/leadership/adapters/transport"
	"github.com/omnirelay/leadership/core"
	"github.com/omnirelay/leadership/core/logpb"
	"github.com/omnirelay/leadership/wire/controlpb"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

// node is a registry that a test writes entries to.
type node struct {
	t        *testing.T
	mu       sync.RWMutex
	registry *core.Registry
	status   core.Status
	changed  chan struct{}
	index    uint64
	expires  int64 // 0: unknown
}

// CheckCursor: the only node holds everything.
func (n *node) CheckCursor(_ context.Context, sub *core.Subscription) {
	n.mu.RLock()
	defer n.mu.RUnlock()
	if sub.Ahead(n.registry) {
		sub.Resync()
	}
}

func newNode(t *testing.T) *node {
	n := &node{t: t, registry: core.NewRegistry(0), changed: make(chan struct{}), status: core.Status{Ready: true}}
	n.apply(&logpb.Command{Kind: &logpb.Command_Bootstrap{Bootstrap: &logpb.Bootstrap{ClusterId: "demo", Voters: []uint64{1}}}})
	return n
}

func (n *node) apply(commands ...*logpb.Command) []*core.Result {
	n.t.Helper()
	n.mu.Lock()
	defer n.mu.Unlock()
	n.index++
	for i, c := range commands {
		c.RequestId = fmt.Sprintf("r%d.%d", n.index, i)
		if err := core.CompleteCommand(c); err != nil {
			n.t.Fatal(err)
		}
	}
	payload, err := proto.Marshal(&logpb.Entry{WallNs: 1_790_000_000_000_000_000, Commands: commands})
	if err != nil {
		n.t.Fatal(err)
	}
	out, err := n.registry.Apply(n.index, 1, payload)
	if err != nil {
		n.t.Fatal(err)
	}
	n.announce()
	return out.Results
}

func (n *node) announce() {
	close(n.changed)
	n.changed = make(chan struct{})
}

func (n *node) declare(ids ...string) {
	d := &logpb.DeclareScopes{}
	for _, id := range ids {
		d.Scopes = append(d.Scopes, &logpb.ScopeSpec{Id: id})
	}
	n.apply(&logpb.Command{Kind: &logpb.Command_DeclareScopes{DeclareScopes: d}})
}

func (n *node) retire(ids ...string) {
	n.apply(&logpb.Command{Kind: &logpb.Command_RetireScopes{RetireScopes: &logpb.RetireScopes{Scopes: ids}}})
}

func (n *node) join(member string) uint64 {
	opened := n.apply(&logpb.Command{Kind: &logpb.Command_OpenSession{OpenSession: &logpb.OpenSession{MemberId: member, Weight: 1, TtlNs: int64(time.Second)}}})
	n.apply(&logpb.Command{Kind: &logpb.Command_Stand{Stand: &logpb.Stand{Session: opened[0].Session, Selector: &logpb.Selector{}}}})
	return opened[0].Session
}

func (n *node) leave(session uint64) {
	n.apply(&logpb.Command{Kind: &logpb.Command_CloseSession{CloseSession: &logpb.CloseSession{Session: session}}})
}

func (n *node) change(f func()) {
	n.mu.Lock()
	defer n.mu.Unlock()
	f()
	n.announce()
}

func (n *node) View(f func(*core.Registry, core.Status)) {
	n.mu.RLock()
	defer n.mu.RUnlock()
	f(n.registry, n.status)
}

func (n *node) Changed() <-chan struct{} {
	n.mu.RLock()
	defer n.mu.RUnlock()
	return n.changed
}

func (n *node) ExpiresAt(core.SessionID) (int64, bool) {
	n.mu.RLock()
	defer n.mu.RUnlock()
	return n.expires, n.expires != 0
}

// site is a node whose API is served over TLS on a loopback port.
type site struct {
	t         *testing.T
	node      *node
	authority *transport.Authority
	server    *Server
	address   string
	metrics   *telemetry.Metrics
}

func newSite(t *testing.T, change ...func(*Options)) *site {
	t.Helper()
	authority, err := transport.NewAuthority("demo")
	if err != nil {
		t.Fatal(err)
	}
	st := &site{t: t, node: newNode(t), authority: authority}
	logger := slog.New(slog.DiscardHandler)
	st.metrics = telemetry.NewMetrics(telemetry.Options{Logger: logger, View: st.node.View})
	o := Options{Source: st.node, Service: &service{}, Gate: newGate(t, access.Options{Cluster: "demo"}), Metrics: st.metrics, Logger: logger, MaxStreams: 8, WriteTimeout: 5 * time.Second, RenewalInterval: 5 * time.Millisecond}
	for _, f := range change {
		f(&o)
	}
	if st.server, err = New(o); err != nil {
		t.Fatal(err)
	}
	pair := st.pair(authority.IssueNode("node-1"))
	g := grpc.NewServer(append(st.server.ServerOptions(), grpc.Creds(credentials.NewTLS(&tls.Config{Certificates: []tls.Certificate{pair}, ClientAuth: tls.VerifyClientCertIfGiven, ClientCAs: st.roots()})))...)
	st.server.Register(g)
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	st.address = l.Addr().String()
	done := make(chan struct{})
	go func() {
		defer close(done)
		_ = g.Serve(l)
	}()
	ctx, stop := context.WithCancel(context.Background())
	watched := make(chan struct{})
	go func() {
		defer close(watched)
		st.server.WatchHealth(ctx)
	}()
	t.Cleanup(func() {
		stop()
		<-watched
		g.Stop()
		<-done
	})
	return st
}

// service is the operations, none of which are here.
type service struct {
	controlpb.UnimplementedLeadershipMemberServiceServer
	controlpb.UnimplementedLeadershipRegistryServiceServer
	controlpb.UnimplementedLeadershipMeshServiceServer
}

func newGate(t *testing.T, o access.Options) access.Gate {
	t.Helper()
	authenticator, err := access.New(o)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(authenticator.Close)
	limiter, err := access.NewLimiter(access.Limits{RequestsPerSecond: 1000, Burst: 1000, StreamsPerCaller: 100, SessionsPerMember: 4})
	if err != nil {
		t.Fatal(err)
	}
	return access.Gate{Authenticator: authenticator, Limiter: limiter}
}

func (st *site) pair(p transport.Pair, err error) tls.Certificate {
	st.t.Helper()
	if err != nil {
		st.t.Fatal(err)
	}
	cert, err := tls.X509KeyPair(p.Cert, p.Key)
	if err != nil {
		st.t.Fatal(err)
	}
	return cert
}

func (st *site) roots() *x509.CertPool {
	pool := x509.NewCertPool()
	pool.AppendCertsFromPEM(st.authority.CertPEM())
	return pool
}

func (st *site) dial(certs ...tls.Certificate) *grpc.ClientConn {
	st.t.Helper()
	conn, err := grpc.NewClient(st.address, grpc.WithTransportCredentials(credentials.NewTLS(&tls.Config{RootCAs: st.roots(), Certificates: certs})))
	if err != nil {
		st.t.Fatal(err)
	}
	st.t.Cleanup(func() { _ = conn.Close() })
	return conn
}

func (st *site) reader() tls.Certificate {
	return st.pair(st.authority.IssueClient(transport.RoleRead))
}

type events struct {
	t      *testing.T
	stream grpc.ServerStreamingClient[controlpb.LeadershipEvent]
	stop   context.CancelFunc
	last   *controlpb.LeadershipEvent
}

func (st *site) subscribe(req *controlpb.LeadershipSubscribeRequest, certs ...tls.Certificate) *events {
	st.t.Helper()
	if certs == nil {
		certs = []tls.Certificate{st.reader()}
	}
	ctx, stop := context.WithTimeout(st.t.Context(), time.Minute)
	st.t.Cleanup(stop)
	stream, err := controlpb.NewLeadershipControlServiceClient(st.dial(certs...)).Subscribe(ctx, req)
	if err != nil {
		st.t.Fatal(err)
	}
	return &events{t: st.t, stream: stream, stop: stop}
}

func (e *events) next() *controlpb.LeadershipEvent {
	e.t.Helper()
	got, err := e.stream.Recv()
	if err != nil {
		e.t.Fatal(err)
	}
	e.last = got
	return got
}

func name(e *controlpb.LeadershipEvent) string {
	return strings.TrimPrefix(e.Kind.String(), "LEADERSHIP_EVENT_KIND_") + " " + e.Scope
}

func (e *events) want(want ...string) {
	e.t.Helper()
	for _, w := range want {
		if got := e.next(); name(got) != w {
			e.t.Fatalf("%s at %d.%d, want %s", name(got), got.Revision, got.Ordinal, w)
		}
	}
}

func TestStreamIsSnapshotMarkEvents(t *testing.T) {
	st := newSite(t)
	st.node.declare("a", "b")
	st.node.change(func() { st.node.expires = 42 })
	session := st.node.join("node-1")
	e := st.subscribe(&controlpb.LeadershipSubscribeRequest{})
	first := e.next()
	if first.Kind != controlpb.LeadershipEventKind_LEADERSHIP_EVENT_KIND_SNAPSHOT || first.Transport != "HTTP/2.0" || first.Token.GetLeaderId() != "node-1" ||
		first.Token.GetExpiresAt().AsTime().UnixNano() != 42 {
		t.Errorf("first event %v", first)
	}
	e.want("SNAPSHOT b", "OBSERVED ")
	if e.last.Transport != "" || e.last.Reason != core.ReasonSnapshotEnd || e.last.Revision != 4 || e.last.Ordinal != 2 {
		t.Errorf("end of the snapshot %v", e.last)
	}
	st.node.leave(session)
	e.want("STEPPED_DOWN a", "STEPPED_DOWN b")
}

func TestResumingMissesNothingAndSeesNothingTwice(t *testing.T) {
	st := newSite(t)
	st.node.declare("a", "b", "c")
	steady := st.subscribe(&controlpb.LeadershipSubscribeRequest{})
	steady.want("OBSERVED ")
	flaky := st.subscribe(&controlpb.LeadershipSubscribeRequest{})
	flaky.want("OBSERVED ")
	const rounds = 20
	done := make(chan struct{})
	go func() {
		defer close(done)
		for i := range rounds {
			st.node.leave(st.node.join(fmt.Sprintf("node-%d", i)))
		}
	}()
	for i := range rounds * 6 {
		w, g := steady.next(), flaky.next()
		w.Transport, g.Transport = "", ""
		if !proto.Equal(w, g) {
			t.Fatalf("event %d: %v, want %v", i, g, w)
		}
		if i%7 == 0 {
			flaky.stop()
			flaky = st.subscribe(&controlpb.LeadershipSubscribeRequest{FromRevision: flaky.last.Revision, FromOrdinal: flaky.last.Ordinal})
		}
	}
	<-done
}

func TestRenewals(t *testing.T) {
	st := newSite(t)
	st.node.declare("a")
	st.node.change(func() { st.node.expires = 100 })
	st.node.join("node-1")
	e := st.subscribe(&controlpb.LeadershipSubscribeRequest{Scope: "a", IncludeRenewals: true})
	e.want("SNAPSHOT a", "OBSERVED ", "RENEWED a")
	if e.last.Revision != 0 || e.last.Token.GetExpiresAt().AsTime().UnixNano() != 100 {
		t.Errorf("renewal %v", e.last)
	}
	st.node.change(func() { st.node.expires = 200 })
	e.want("RENEWED a")
	if e.last.Token.GetExpiresAt().AsTime().UnixNano() != 200 {
		t.Errorf("renewal %v", e.last)
	}
}

func TestRefusals(t *testing.T) {
	st := newSite(t, func(o *Options) { o.MaxStreams = 1 })
	st.node.declare("a")
	for label, tc := range map[string]struct {
		req   *controlpb.LeadershipSubscribeRequest
		certs []tls.Certificate
		code  codes.Code
		field string
	}{
		"malformed scope": {&controlpb.LeadershipSubscribeRequest{Scope: "a b"}, nil, codes.InvalidArgument, "scope"},
		"oversize scope":  {&controlpb.LeadershipSubscribeRequest{Scope: strings.Repeat("a", 1<<16)}, nil, codes.InvalidArgument, "scope"},
		"unknown scope":   {&controlpb.LeadershipSubscribeRequest{Scope: "nope"}, nil, codes.NotFound, "scope"},
		"ordinal alone":   {&controlpb.LeadershipSubscribeRequest{FromOrdinal: 1}, nil, codes.InvalidArgument, "from_ordinal"},
		"no certificate":  {&controlpb.LeadershipSubscribeRequest{}, []tls.Certificate{}, codes.Unauthenticated, ""},
	} {
		t.Run(label, func(t *testing.T) {
			_, err := st.subscribe(tc.req, tc.certs...).stream.Recv()
			checkRefusal(t, err, tc.code, tc.field)
		})
	}
	open := st.subscribe(&controlpb.LeadershipSubscribeRequest{})
	open.want("OBSERVED ")
	_, err := st.subscribe(&controlpb.LeadershipSubscribeRequest{}).stream.Recv()
	checkRefusal(t, err, codes.ResourceExhausted, "")
	st.node.change(func() { st.node.status = core.Status{NotReadyReason: "no registrar"} })
	_, err = st.subscribe(&controlpb.LeadershipSubscribeRequest{}).stream.Recv()
	checkRefusal(t, err, codes.Unavailable, "")
	if status.Convert(err).Message() != "no registrar" {
		t.Errorf("%v does not say why", err)
	}
}

func checkRefusal(t *testing.T, err error, code codes.Code, field string) {
	t.Helper()
	st := status.Convert(err)
	named, info, retry := "", false, false
	for _, d := range st.Details() {
		switch d := d.(type) {
		case *errdetails.BadRequest:
			named = d.FieldViolations[0].Field
		case *errdetails.ErrorInfo:
			info = d.Reason != "" && d.Domain != ""
		case *errdetails.RetryInfo:
			retry = true
		}
	}
	wantRetry := code == codes.Unavailable || code == codes.ResourceExhausted
	if st.Code() != code || named != field || !info || retry != wantRetry {
		t.Errorf("%v, details %v; want %v, field %q", err, st.Details(), code, field)
	}
}

func TestGoneHistoryIsAResync(t *testing.T) {
	st := newSite(t)
	st.node.declare("job")
	ids := make([]string, 1000)
	for i := range ids {
		ids[i] = fmt.Sprintf("filler/%d", i)
	}
	for range core.MaxHistory/(2*len(ids)) + 2 {
		st.node.declare(ids...)
		st.node.retire(ids...)
	}
	st.node.join("node-1")
	e := st.subscribe(&controlpb.LeadershipSubscribeRequest{Scope: "job", FromRevision: 2, FromOrdinal: 1})
	if first := e.next(); first.Reason != core.ReasonResync || first.Transport != "HTTP/2.0" {
		t.Errorf("first event %v", first)
	}
	e.want("SNAPSHOT job", "OBSERVED ")
}

// A reader that keeps its connection and stops reading is cut, and costs no other
// reader anything.
func TestStoppedReaderIsCut(t *testing.T) {
	st := newSite(t, func(o *Options) { o.WriteTimeout = time.Second })
	stopped := st.subscribe(&controlpb.LeadershipSubscribeRequest{})
	stopped.want("OBSERVED ")
	live := st.subscribe(&controlpb.LeadershipSubscribeRequest{})
	live.want("OBSERVED ")
	ids := make([]string, 500)
	for i := range ids {
		ids[i] = fmt.Sprintf("filler/%d/%s", i, strings.Repeat("x", 60))
	}
	deadline := time.Now().Add(40 * time.Second)
	for len(st.server.slots) == 2 {
		if time.Now().After(deadline) {
			t.Fatal("a reader that stopped is still served")
		}
		st.node.declare(ids...)
		st.node.retire(ids...)
		for range 2 * len(ids) {
			live.next()
		}
	}
	var err error
	for err == nil { // what was under way before the cut
		_, err = stopped.stream.Recv()
	}
	if status.Code(err) != codes.DeadlineExceeded || !strings.Contains(err.Error(), "resume by the last one") {
		t.Errorf("cut with %v", err)
	}
}

func TestHealthFollowsReadiness(t *testing.T) {
	st := newSite(t)
	ctx, stop := context.WithTimeout(t.Context(), 10*time.Second)
	defer stop()
	watch, err := healthpb.NewHealthClient(st.dial()).Watch(ctx, &healthpb.HealthCheckRequest{Service: controlpb.LeadershipControlService_ServiceDesc.ServiceName})
	if err != nil {
		t.Fatal(err)
	}
	want := func(status healthpb.HealthCheckResponse_ServingStatus) {
		t.Helper()
		if r, err := watch.Recv(); err != nil || r.Status != status {
			t.Fatalf("%v %v, want %v", r, err, status)
		}
	}
	want(healthpb.HealthCheckResponse_SERVING)
	st.node.change(func() { st.node.status.Ready = false })
	want(healthpb.HealthCheckResponse_NOT_SERVING)
	st.node.change(func() { st.node.status.Ready = true })
	want(healthpb.HealthCheckResponse_SERVING)
	st.server.EndStreams()
	want(healthpb.HealthCheckResponse_NOT_SERVING)
}

func TestReflectionListsTheService(t *testing.T) {
	st := newSite(t)
	ctx, stop := context.WithTimeout(t.Context(), 10*time.Second)
	defer stop()
	c, err := grpc_reflection_v1.NewServerReflectionClient(st.dial()).ServerReflectionInfo(ctx)
	if err != nil {
		t.Fatal(err)
	}
	if err := c.Send(&grpc_reflection_v1.ServerReflectionRequest{MessageRequest: &grpc_reflection_v1.ServerReflectionRequest_ListServices{}}); err != nil {
		t.Fatal(err)
	}
	r, err := c.Recv()
	if err != nil {
		t.Fatal(err)
	}
	var all []string
	for _, s := range r.GetListServicesResponse().GetService() {
		all = append(all, s.Name)
	}
	if !strings.Contains(strings.Join(all, " "), "omnirelay.mesh.control.v1.LeadershipControlService") {
		t.Errorf("services %v", all)
	}
}

func TestStreamOfANodeWithoutTheClusterEnds(t *testing.T) {
	st := newSite(t)
	st.server.check = 5 * time.Millisecond
	e := st.subscribe(&controlpb.LeadershipSubscribeRequest{})
	e.want("OBSERVED ")
	st.node.change(func() { st.node.status = core.Status{NotReadyReason: "no registrar"} })
	_, err := e.stream.Recv()
	checkRefusal(t, err, codes.Unavailable, "")
}

func TestEndStreamsEndsThem(t *testing.T) {
	st := newSite(t)
	e := st.subscribe(&controlpb.LeadershipSubscribeRequest{})
	e.want("OBSERVED ")
	st.server.EndStreams()
	_, err := e.stream.Recv()
	checkRefusal(t, err, codes.Unavailable, "")
	if errors.Is(err, io.EOF) {
		t.Error("ended as if there were nothing more")
	}
}

// Over gRPC too a stream tells of members and nodes, and one of a scope of that scope only.
func TestStreamsTellOfMembersAndNodes(t *testing.T) {
	st := newSite(t)
	st.node.declare("a")
	all, one := st.subscribe(&controlpb.LeadershipSubscribeRequest{}), st.subscribe(&controlpb.LeadershipSubscribeRequest{Scope: "a"})
	const mark = controlpb.LeadershipEventKind_LEADERSHIP_EVENT_KIND_OBSERVED
	if a, b := all.next(), one.next(); a.Kind != mark || b.Kind != mark {
		t.Fatalf("the streams began with %v, %v", a, b)
	}
	st.node.apply(&logpb.Command{Kind: &logpb.Command_AnnounceVersion{AnnounceVersion: &logpb.AnnounceVersion{Replica: 1, MaxVersion: core.ProtocolVersion}}})
	st.node.apply(&logpb.Command{Kind: &logpb.Command_AnnounceVersion{AnnounceVersion: &logpb.AnnounceVersion{Replica: 1, MaxVersion: core.ProtocolVersion,
		Node: &logpb.Node{Name: "node-2", PeerAddress: "127.0.0.1:1"}}}})
	st.node.apply(&logpb.Command{Why: "kernel update", Kind: &logpb.Command_Cordon{Cordon: &logpb.Cordon{MemberId: "m", Cordoned: true}}})
	st.node.apply(&logpb.Command{Why: "more room", Kind: &logpb.Command_MoveRegistrar{MoveRegistrar: &logpb.MoveRegistrar{To: "node-2"}}})
	st.node.apply(&logpb.Command{Kind: &logpb.Command_ReportSplitBrain{ReportSplitBrain: &logpb.ReportSplitBrain{Reports: []*logpb.SplitBrain{
		{Scope: "a", MemberId: "m", Fence: 7, Reason: core.SplitBrainTwoClaimants}}}}})
	if e := all.next(); e.Kind != controlpb.LeadershipEventKind_LEADERSHIP_EVENT_KIND_MEMBER_CORDONED || e.LeaderId != "m" || e.Why != "kernel update" {
		t.Errorf("cordoned: %v", e)
	}
	if e := all.next(); e.Kind != controlpb.LeadershipEventKind_LEADERSHIP_EVENT_KIND_REGISTRAR_MOVED || e.Subject != "node-2" || e.Why != "more room" {
		t.Errorf("moved: %v", e)
	}
	for _, r := range []*events{all, one} {
		if e := r.next(); e.Kind != controlpb.LeadershipEventKind_LEADERSHIP_EVENT_KIND_SPLIT_BRAIN || e.Scope != "a" || e.LeaderId != "m" || e.Token != nil {
			t.Errorf("two claimants: %v", e)
		}
	}
}

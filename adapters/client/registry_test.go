package client

import (
	"context"
	"flag"
	"fmt"
	"log/slog"
	"net"
	"os"
	"sync"
	"testing"
	"time"

	"go.uber.org/goleak"
	"google.golang.org/grpc"
	"google.golang.org/grpc/credentials/insecure"
	"google.golang.org/protobuf/proto"
	"google.golang.org/protobuf/types/known/timestamppb"

	"github.com/omnirelay/leadership/core"
	"github.com/omnirelay/leadership/core/logpb"
	"github.com/omnirelay/leadership/wire"
	"github.com/omnirelay/leadership/wire/controlpb"
)

// TestMain lets tests run side by side whatever the machine: they wait for leases to
// end and need no processor for it.
func TestMain(m *testing.M) {
	flag.Parse()
	if err := flag.Set("test.parallel", "16"); err != nil {
		panic(err)
	}
	goleak.VerifyTestMain(m)
}

// registry is the real one of core, without the log, the keeper of time and the disk:
// every command is applied at once, every keepalive acknowledged, and sessions expire
// when the test says so.
type registry struct {
	t testing.TB

	mu      sync.Mutex
	g       *core.Registry
	index   uint64
	changed chan struct{}
}

func newRegistry(t testing.TB, scopes ...string) *registry {
	r := &registry{t: t, g: core.NewRegistry(0), changed: make(chan struct{})}
	r.apply(&logpb.Command{Kind: &logpb.Command_Bootstrap{Bootstrap: &logpb.Bootstrap{ClusterId: "test", Voters: []uint64{1}}}})
	r.declare(scopes...)
	return r
}

func (r *registry) declare(scopes ...string) {
	d := &logpb.DeclareScopes{}
	for _, id := range scopes {
		d.Scopes = append(d.Scopes, &logpb.ScopeSpec{Id: id})
	}
	r.apply(&logpb.Command{Kind: &logpb.Command_DeclareScopes{DeclareScopes: d}})
}

func (r *registry) apply(c *logpb.Command) *core.Result {
	r.mu.Lock()
	defer r.mu.Unlock()
	r.index++
	if c.RequestId == "" {
		c.RequestId = fmt.Sprintf("test-%d", r.index)
	}
	if err := core.CompleteCommand(c); err != nil {
		r.t.Error(err)
		return &core.Result{Code: string(core.CodeInvalid), Message: err.Error()}
	}
	payload, err := proto.Marshal(&logpb.Entry{WallNs: time.Now().UnixNano(), Commands: []*logpb.Command{c}})
	if err != nil {
		r.t.Error(err)
	}
	out, err := r.g.Apply(r.index, 1, payload)
	if err != nil {
		r.t.Error(err)
		return &core.Result{Code: string(core.CodeInvalid), Message: err.Error()}
	}
	close(r.changed)
	r.changed = make(chan struct{})
	return out.Results[0]
}

// transfer asks the holder of a scope to hand it over.
func (r *registry) transfer(scope, to string) {
	result := r.apply(&logpb.Command{Kind: &logpb.Command_Transfer{Transfer: &logpb.Transfer{Scope: scope, ToMember: to}}})
	if result.GetCode() != "" {
		r.t.Errorf("transfer: %s: %s", result.GetCode(), result.GetMessage())
	}
}

// expire ends a session, as the registrar does when it was silent.
func (r *registry) expire(session core.SessionID) {
	r.mu.Lock()
	number := r.index + 1
	r.mu.Unlock()
	r.apply(&logpb.Command{Kind: &logpb.Command_Keeper{Keeper: &logpb.KeeperDecision{Kind: logpb.KeeperDecision_KIND_EXPIRE, Session: uint64(session), Term: 1, Number: number}}})
}

// leader is who leads a scope.
func (r *registry) leader(scope string) (core.Token, bool) {
	r.mu.Lock()
	defer r.mu.Unlock()
	return r.g.Token(scope)
}

func (r *registry) view(id core.SessionID) (*core.View, bool, <-chan struct{}) {
	r.mu.Lock()
	defer r.mu.Unlock()
	v, ok := r.g.View(id)
	return v, ok, r.changed
}

// node is one server on the registry.
type node struct {
	controlpb.UnimplementedLeadershipMemberServiceServer
	controlpb.UnimplementedLeadershipControlServiceServer
	registry *registry
	address  string
	server   *grpc.Server

	mu      sync.Mutex
	welcome *controlpb.Welcome
	refusal error // of every call
	mute    bool  // it takes everything and says nothing
	code    core.Code
	called  int // calls of Attach and Subscribe
	streams map[*attachment]context.CancelFunc
	signed  int
	life    time.Duration // of signed tokens; 0: it signs none
}

// attachment is one stream of a member.
type attachment struct {
	node     *node
	mu       sync.Mutex // of Send
	stream   controlpb.LeadershipMemberService_AttachServer
	sessions map[core.SessionID]bool
}

func (r *registry) serve() *node { return r.serveAt("127.0.0.1:0") }

func (r *registry) serveAt(address string) *node {
	r.t.Helper()
	l, err := net.Listen("tcp", address)
	if err != nil {
		r.t.Fatal(err)
	}
	n := &node{registry: r, address: l.Addr().String(), server: grpc.NewServer(), streams: map[*attachment]context.CancelFunc{}}
	n.welcome = &controlpb.Welcome{NodeId: "node-" + n.address, ClusterId: "test", Transport: "HTTP/2.0", ClockDriftPermille: 10}
	controlpb.RegisterLeadershipMemberServiceServer(n.server, n)
	controlpb.RegisterLeadershipControlServiceServer(n.server, n)
	done := make(chan struct{})
	go func() {
		defer close(done)
		_ = n.server.Serve(l)
	}()
	r.t.Cleanup(func() {
		n.stop()
		<-done
	})
	return n
}

// stop is a node that is gone, with all its connections.
func (n *node) stop() { n.server.Stop() }

func (n *node) change(f func()) {
	n.mu.Lock()
	defer n.mu.Unlock()
	f()
}

func (n *node) muted() bool {
	n.mu.Lock()
	defer n.mu.Unlock()
	return n.mute
}

// calls is how many there have been of Attach and Subscribe.
func (n *node) calls() int {
	n.mu.Lock()
	defer n.mu.Unlock()
	return n.called
}

// farewell tells every member to go.
func (n *node) farewell(others ...string) {
	n.mu.Lock()
	defer n.mu.Unlock()
	for a := range n.streams {
		a.send(&controlpb.AttachResponse{Kind: &controlpb.AttachResponse_Farewell{Farewell: &controlpb.Farewell{Reason: "stopping", Others: others}}})
	}
}

func (n *node) Attach(stream controlpb.LeadershipMemberService_AttachServer) error {
	a := &attachment{node: n, stream: stream, sessions: map[core.SessionID]bool{}}
	ctx, cancel := context.WithCancel(stream.Context())
	defer cancel()
	n.mu.Lock()
	refusal, welcome := n.refusal, n.welcome
	n.called++
	if refusal == nil {
		n.streams[a] = cancel
	}
	n.mu.Unlock()
	if refusal != nil {
		return refusal
	}
	defer n.change(func() { delete(n.streams, a) })
	a.send(&controlpb.AttachResponse{Kind: &controlpb.AttachResponse_Welcome{Welcome: welcome}})
	received := make(chan *controlpb.AttachRequest)
	go func() {
		defer cancel()
		for {
			p, err := stream.Recv()
			if err != nil {
				return
			}
			select {
			case received <- p:
			case <-ctx.Done():
				return
			}
		}
	}()
	var views sync.WaitGroup
	defer views.Wait()
	defer cancel()
	for {
		var p *controlpb.AttachRequest
		select {
		case <-ctx.Done():
			return nil
		case p = <-received:
		}
		m, err := wire.MemberMessageOf(p)
		if err != nil {
			n.registry.t.Errorf("a member sent %v: %v", p, err)
			return err
		}
		if n.muted() {
			continue
		}
		if k := m.Keepalive; k != nil {
			a.keepalive(ctx, &views, k)
		} else {
			a.command(m.Command)
		}
	}
}

func (a *attachment) keepalive(ctx context.Context, views *sync.WaitGroup, k *core.Keepalive) {
	v, known, _ := a.node.registry.view(k.Session)
	if known && v.Live {
		a.send(wire.AttachResponseOf(core.ReplicaMessage{Ack: &core.Ack{Session: k.Session, Number: k.Number}}))
	}
	if !a.sessions[k.Session] {
		a.sessions[k.Session] = true
		views.Go(func() { a.follow(ctx, k.Session) })
	}
}

// follow tells what a session leads whenever anything changes.
func (a *attachment) follow(ctx context.Context, session core.SessionID) {
	for {
		v, known, changed := a.node.registry.view(session)
		if known && !a.node.muted() {
			a.send(wire.AttachResponseOf(core.ReplicaMessage{View: v}))
		}
		select {
		case <-changed:
		case <-ctx.Done():
			return
		}
	}
}

func (a *attachment) command(c *logpb.Command) {
	a.node.mu.Lock()
	code := a.node.code
	a.node.mu.Unlock()
	result := &core.Result{Code: string(code), Message: "as the test wants it"}
	if code == "" {
		result = a.node.registry.apply(c)
	}
	a.send(wire.AttachResponseOf(core.ReplicaMessage{Reply: &core.Reply{RequestID: c.GetRequestId(), Result: result}}))
}

func (a *attachment) send(p *controlpb.AttachResponse) {
	a.mu.Lock()
	defer a.mu.Unlock()
	_ = a.stream.Send(p) // a member that has gone misses nothing
}

func (n *node) SignToken(_ context.Context, r *controlpb.SignTokenRequest) (*controlpb.SignTokenResponse, error) {
	n.mu.Lock()
	defer n.mu.Unlock()
	if n.life == 0 {
		return n.UnimplementedLeadershipMemberServiceServer.SignToken(context.Background(), r)
	}
	n.signed++
	return &controlpb.SignTokenResponse{
		Token: fmt.Sprintf("%s/%d/%d", r.GetScope(), r.GetFenceToken(), n.signed), ExpiresAt: timestamppb.New(time.Now().Add(n.life)),
	}, nil
}

func (n *node) Subscribe(r *controlpb.LeadershipSubscribeRequest, out grpc.ServerStreamingServer[controlpb.LeadershipEvent]) error {
	n.mu.Lock()
	refusal := n.refusal
	n.called++
	n.mu.Unlock()
	if refusal != nil {
		return refusal
	}
	if err := out.SendHeader(nil); err != nil {
		return err
	}
	var resume *core.Cursor
	if r.GetFromRevision() > 0 {
		resume = &core.Cursor{Revision: r.GetFromRevision(), Ordinal: r.GetFromOrdinal()}
	}
	sub := core.NewSubscription(core.Filter{Scope: r.GetScope()}, resume)
	for {
		n.registry.mu.Lock()
		items, changed := sub.Poll(n.registry.g, 1), n.registry.changed
		n.registry.mu.Unlock()
		for _, item := range items {
			if err := out.Send(wire.EventOf(item).Proto()); err != nil {
				return err
			}
		}
		if len(items) > 0 {
			continue
		}
		select {
		case <-changed:
		case <-out.Context().Done():
			return nil
		}
	}
}

// testTTL is short enough for a test to wait for its end, and long enough for a machine
// that is busy with other tests.
const testTTL = 3 * time.Second

// newClient returns a client of the nodes; it is closed with the test.
func newClient(t testing.TB, member string, nodes []*node, change ...func(*Options)) *Client {
	t.Helper()
	o := Options{MemberID: member, TTL: testTTL, Dial: dialPlainly, Logger: loggerOf(t)}
	for _, n := range nodes {
		o.Endpoints = append(o.Endpoints, n.address)
	}
	for _, f := range change {
		f(&o)
	}
	c, err := New(o)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = c.Close() })
	return c
}

func dialPlainly(endpoint string) (Conn, error) {
	return grpc.NewClient("passthrough:///"+endpoint, grpc.WithTransportCredentials(insecure.NewCredentials()))
}

// loggerOf writes to the standard error with LEADERSHIP_TEST_LOG set.
func loggerOf(t testing.TB) *slog.Logger {
	if os.Getenv("LEADERSHIP_TEST_LOG") == "" {
		return nil
	}
	return slog.New(slog.NewTextHandler(os.Stderr, nil)).With("test", t.Name())
}

// await waits until cond is true.
func await(t testing.TB, within time.Duration, what string, cond func() bool) time.Duration {
	t.Helper()
	start := time.Now()
	for !cond() {
		if time.Since(start) > within {
			t.Fatalf("%s: not within %v", what, within)
		}
		time.Sleep(2 * time.Millisecond) // between two looks
	}
	return time.Since(start)
}

package api

import (
	"context"
	"errors"
	"fmt"
	"io"
	"strings"
	"testing"
	"time"

	"google.golang.org/grpc/codes"
	"google.golang.org/protobuf/types/known/durationpb"

	"github.com/omnirelay/leadership/adapters/access"
	"github.com/omnirelay/leadership/adapters/transport"
	"github.com/omnirelay/leadership/core"
	"github.com/omnirelay/leadership/wire/controlpb"
)

// raw is an Attach stream in a test's own hands.
type raw struct {
	t      *testing.T
	stream controlpb.LeadershipMemberService_AttachClient
	stop   context.CancelFunc
}

func (c *caller) attach() *raw {
	t := c.node.world.t
	t.Helper()
	ctx, cancel := context.WithTimeout(context.Background(), 30*time.Second)
	t.Cleanup(cancel)
	stream, err := c.Attach(ctx)
	if err != nil {
		t.Fatal(err)
	}
	return &raw{t, stream, cancel}
}

func (r *raw) keepalive(session, number uint64) error {
	return r.stream.Send(&controlpb.AttachRequest{Kind: &controlpb.AttachRequest_KeepAlive{KeepAlive: &controlpb.KeepAliveRequest{Session: session, Number: number}}})
}

// next returns the first message that is wanted, and passes over others.
func (r *raw) next(want func(*controlpb.AttachResponse) bool) *controlpb.AttachResponse {
	r.t.Helper()
	for {
		m, err := r.stream.Recv()
		if err != nil {
			r.t.Fatal(err)
		}
		if want(m) {
			return m
		}
	}
}

func (r *raw) ack(session, number uint64) {
	r.t.Helper()
	r.next(func(m *controlpb.AttachResponse) bool {
		return m.GetAcknowledgement().GetSession() == session && m.GetAcknowledgement().GetNumber() == number
	})
}

// ask sends a request and returns its reply.
func (r *raw) ask(p *controlpb.AttachRequest, id string) *controlpb.Reply {
	r.t.Helper()
	if err := r.stream.Send(p); err != nil {
		r.t.Fatal(err)
	}
	return r.next(func(m *controlpb.AttachResponse) bool { return m.GetReply().GetRequestId() == id }).GetReply()
}

// end reads until the stream ends, and returns with what.
func (r *raw) end() error {
	for {
		if _, err := r.stream.Recv(); err != nil {
			return err
		}
	}
}

func standing(id string, session uint64, scope string, priority int32) *controlpb.AttachRequest {
	return &controlpb.AttachRequest{Kind: &controlpb.AttachRequest_Stand{Stand: &controlpb.StandRequest{
		RequestId: id, Session: session, Selector: &controlpb.Selector{Id: scope}, Priority: priority}}}
}

func opening(id, member, scope string, priority int32) *controlpb.AttachRequest {
	r := openRequest(member, scope)
	r.RequestId, r.Stands[0].Priority = id, priority
	return &controlpb.AttachRequest{Kind: &controlpb.AttachRequest_OpenSession{OpenSession: r}}
}

// A member acts on a stream as itself and for what its grants cover, and on nothing else.
func TestAStreamIsOneMembers(t *testing.T) {
	t.Parallel()
	w := newWorld(t, 1)
	w.declare("job", "secret")
	mine, others := w.nodes[0].member("worker-1"), w.nodes[0].member("worker-2")
	session := others.open("worker-2", "job")
	r := mine.attach()
	for label, tc := range map[string]struct {
		p    *controlpb.AttachRequest
		code string
	}{
		"session of another":       {opening("r1", "worker-2", "job", 1), "denied"},
		"session of a node":        {opening("r2", "node-1", "job", 1), "denied"},
		"scope of no grant":        {opening("r3", "worker-1", "secret", 1), "denied"},
		"priority above the grant": {opening("r4", "worker-1", "job", 11), "denied"},
		"bad member id":            {opening("r5", "a b", "job", 1), "invalid"},
		"bad ttl": {&controlpb.AttachRequest{Kind: &controlpb.AttachRequest_OpenSession{OpenSession: &controlpb.OpenSessionRequest{
			RequestId: "r6", MemberId: "worker-1", Ttl: durationpb.New(time.Millisecond)}}}, "invalid"},
		"no selector": {&controlpb.AttachRequest{Kind: &controlpb.AttachRequest_Stand{Stand: &controlpb.StandRequest{
			RequestId: "r7", Session: session}}}, "invalid"},
		"stand of another's session": {standing("r8", session, "job", 1), "denied"},
		"close another's session": {&controlpb.AttachRequest{Kind: &controlpb.AttachRequest_CloseSession{CloseSession: &controlpb.CloseSessionRequest{
			RequestId: "r9", Session: session}}}, "denied"},
		"a session nobody knows":  {standing("r10", 999, "job", 1), "unavailable"},
		"no grant for no session": {standing("r11", 999, "secret", 1), "denied"},
	} {
		id := ""
		for _, k := range []interface{ GetRequestId() string }{tc.p.GetOpenSession(), tc.p.GetStand(), tc.p.GetCloseSession()} {
			id += k.GetRequestId()
		}
		if reply := r.ask(tc.p, id); reply.Code != tc.code || reply.Message == "" {
			t.Errorf("%s: have %v, want %s", label, reply, tc.code)
		}
	}
	own := r.ask(opening("r20", "worker-1", "job", 10), "r20")
	if own.Code != "" || own.Session == 0 {
		t.Fatalf("own session: %v", own)
	}
	if reply := r.ask(standing("r21", own.Session, "secret", 1), "r21"); reply.Code != "denied" {
		t.Errorf("stand beyond the grants: %v", reply)
	}
	if reply := r.ask(standing("r22", own.Session, "job", 5), "r22"); reply.Code != "" {
		t.Errorf("stand within the grants: %v", reply)
	}
	if err := r.keepalive(session, 1); err != nil {
		t.Fatal(err)
	}
	refused(t, "keepalive of another's session", r.end(), codes.PermissionDenied, "denied")
	st := w.nodes[0].service.session(core.SessionID(session))
	if !st.live {
		t.Error("the other's session has ended")
	}
}

func TestOnlyMembersAttach(t *testing.T) {
	t.Parallel()
	w := newWorld(t, 1)
	for _, role := range []transport.Role{transport.RoleRead, transport.RoleOperate, transport.RoleAdmin} {
		refused(t, string(role), w.nodes[0].client(role).attach().end(), codes.PermissionDenied, "denied")
	}
	refused(t, "nobody", w.nodes[0].dial().attach().end(), codes.Unauthenticated, "unauthenticated")
	node := w.pair(w.authority.IssueNode("node-2"))
	refused(t, "a node", w.nodes[0].dial(node).attach().end(), codes.PermissionDenied, "denied")
}

func TestMalformedMessagesEndAStream(t *testing.T) {
	t.Parallel()
	w := newWorld(t, 1)
	for label, p := range map[string]*controlpb.AttachRequest{
		"nothing":        {},
		"keepalive of 0": {Kind: &controlpb.AttachRequest_KeepAlive{KeepAlive: &controlpb.KeepAliveRequest{Number: 1}}},
		"no request id":  standing("", 1, "job", 1),
		"long id":        standing(strings.Repeat("x", 200), 1, "job", 1),
	} {
		r := w.nodes[0].member("worker-1").attach()
		if err := r.stream.Send(p); err != nil {
			t.Fatal(err)
		}
		refused(t, label, r.end(), codes.InvalidArgument, "invalid")
	}
}

func TestKeepalivesOfAnEndedSessionSaySo(t *testing.T) {
	t.Parallel()
	w := newWorld(t, 1)
	c := w.nodes[0].member("worker-1")
	session := c.open("worker-1", "job")
	r := c.attach()
	if err := r.keepalive(session, 1); err != nil {
		t.Fatal(err)
	}
	r.ack(session, 1)
	if _, err := c.CloseSession(w.ctx(), &controlpb.CloseSessionRequest{Session: session, RequestId: "close"}); err != nil {
		t.Fatal(err)
	}
	ended := func(m *controlpb.AttachResponse) bool {
		return m.GetView().GetSession() == session && !m.GetView().GetLive()
	}
	r.next(ended) // told without being asked
	fresh := c.attach()
	for _, stream := range []*raw{r, fresh} {
		if err := stream.keepalive(session, 2); err != nil {
			t.Fatal(err)
		}
		stream.next(ended)
	}
	var attached int
	w.nodes[0].View(func(_ *core.Registry, s core.Status) { attached = s.AttachedMembers })
	if attached > 1 { // the first stream's, until it detaches
		t.Errorf("%d places are taken for a session that has ended", attached)
	}
}

func TestFloodEndsItsStreamAndNoOther(t *testing.T) {
	t.Parallel()
	w := newWorld(t, 1)
	c, quiet := w.nodes[0].member("worker-1"), w.nodes[0].member("worker-2")
	flooding, session := c.attach(), c.open("worker-1", "job")
	calm, other := quiet.attach(), quiet.open("worker-2", "job")
	sent := make(chan error, 1)
	go func() {
		var err error
		for n := uint64(1); err == nil; n++ {
			err = flooding.keepalive(session, n)
		}
		sent <- err
	}()
	refused(t, "a flood", flooding.end(), codes.ResourceExhausted, "overloaded")
	if err := <-sent; !errors.Is(err, io.EOF) {
		t.Errorf("sending ended with %v", err)
	}
	if err := calm.keepalive(other, 1); err != nil {
		t.Fatal(err)
	}
	calm.ack(other, 1)
}

func TestSessionsOfOneStreamAreBounded(t *testing.T) {
	t.Parallel()
	w := newWorld(t, 1, func(s settings) { s.options.SessionsPerMember = 100 })
	c := w.nodes[0].member("worker-1")
	r := c.attach()
	var sessions []uint64
	for range MaxStreamSessions {
		session := c.open("worker-1", "job")
		if err := r.keepalive(session, 1); err != nil {
			t.Fatal(err)
		}
		r.ack(session, 1)
		sessions = append(sessions, session)
	}
	// One that has ended gives its place back.
	if _, err := c.CloseSession(w.ctx(), &controlpb.CloseSessionRequest{Session: sessions[0]}); err != nil {
		t.Fatal(err)
	}
	r.next(func(m *controlpb.AttachResponse) bool { return m.GetView() != nil && !m.GetView().GetLive() })
	next := c.open("worker-1", "job")
	if err := r.keepalive(next, 1); err != nil {
		t.Fatal(err)
	}
	r.ack(next, 1)
	if err := r.keepalive(c.open("worker-1", "job"), 1); err != nil {
		t.Fatal(err)
	}
	refused(t, "one too many", r.end(), codes.ResourceExhausted, "limit")
}

func TestSessionsOfOneMemberAreBounded(t *testing.T) {
	t.Parallel()
	w := newWorld(t, 1, func(s settings) { s.options.SessionsPerMember, s.limits.SessionsPerMember = 2, 1 })
	c := w.nodes[0].member("worker-1")
	ask := openRequest("worker-1", "job")
	ask.RequestId = "second"
	first := c.open("worker-1", "job")
	second, err := c.OpenSession(w.ctx(), ask)
	if err != nil {
		t.Fatal(err)
	}
	_, err = c.OpenSession(w.ctx(), openRequest("worker-1", "job"))
	refused(t, "a third", err, codes.ResourceExhausted, "limit")
	// A retry is no third, and one that replaces another is none either.
	if again, err := c.OpenSession(w.ctx(), ask); err != nil || again.Session != second.Session {
		t.Errorf("a retry: %v, %v", again, err)
	}
	replacing := openRequest("worker-1", "job")
	replacing.Replaces = first
	third, err := c.OpenSession(w.ctx(), replacing)
	if err != nil {
		t.Fatal(err)
	}
	// Of those only one may be attached here.
	r, other := c.attach(), c.attach()
	if err := r.keepalive(second.Session, 1); err != nil {
		t.Fatal(err)
	}
	r.ack(second.Session, 1)
	if err := other.keepalive(third.Session, 1); err != nil {
		t.Fatal(err)
	}
	refused(t, "a second attached", other.end(), codes.ResourceExhausted, "overloaded")
	// The place is given back with the stream.
	r.stop()
	_ = r.end()
	w.until("the place is free", func() bool {
		again := c.attach()
		if err := again.keepalive(third.Session, 2); err != nil {
			return false
		}
		for {
			m, err := again.stream.Recv()
			if err != nil {
				return false
			}
			if m.GetAcknowledgement() != nil {
				return true
			}
		}
	})
}

// Streams do not get a member around what single calls are held to.
func TestStreamsOfOneMemberAreBounded(t *testing.T) {
	t.Parallel()
	w := newWorld(t, 1, func(s settings) { s.limits.RequestsPerSecond, s.limits.Burst = 1, 20 })
	c := w.nodes[0].member("worker-1")
	welcome := func(m *controlpb.AttachResponse) bool { return m.GetWelcome() != nil }
	var streams []*raw
	for range MaxMemberStreams {
		r := c.attach()
		r.next(welcome)
		streams = append(streams, r)
	}
	refused(t, "one stream too many", c.attach().end(), codes.ResourceExhausted, "limit")
	code := ""
	for i := 0; code == "" && i < 30; i++ {
		id := fmt.Sprintf("r%d", i)
		reply := streams[i%len(streams)].ask(&controlpb.AttachRequest{Kind: &controlpb.AttachRequest_OpenSession{OpenSession: &controlpb.OpenSessionRequest{
			RequestId: id, MemberId: "worker-1", Replaces: uint64(i)}}}, id)
		code = reply.Code
	}
	if code != "overloaded" {
		t.Errorf("requests without end: %q", code)
	}
	streams[0].stop()
	_ = streams[0].end()
	w.until("the place is free", func() bool {
		w.nodes[0].service.members.mu.Lock()
		defer w.nodes[0].service.members.mu.Unlock()
		return w.nodes[0].service.members.streams["worker-1"] < MaxMemberStreams
	})
}

// A member that stops reading is cut. Meanwhile others are served.
func TestStoppedReaderIsCut(t *testing.T) {
	t.Parallel()
	gone := make(chan struct{}) // closed when the stream gave its places back
	w := newWorld(t, 1, func(s settings) {
		s.options.WriteTimeout = 300 * time.Millisecond
		s.options.Session = func(member string) (func(), error) {
			if member == "worker-1" {
				return func() { close(gone) }, nil
			}
			return func() {}, nil
		}
	})
	var scopes []string
	for i := range 300 {
		scopes = append(scopes, fmt.Sprintf("shard/ns/%s-%d", strings.Repeat("x", 50), i))
	}
	w.declare(scopes...)
	c, quiet := w.nodes[0].member("worker-1"), w.nodes[0].member("worker-2")
	opened, err := c.OpenSession(w.ctx(), &controlpb.OpenSessionRequest{MemberId: "worker-1", Ttl: durationpb.New(time.Minute),
		Stands: []*controlpb.Wish{{Selector: &controlpb.Selector{Kind: "shard", Namespace: "ns"}}}})
	if err != nil {
		t.Fatal(err)
	}
	stopped := c.attach()
	other := quiet.open("worker-2", "job")
	calm := quiet.attach()
	// Each keepalive asks for a whole view, and none is read.
	asking := make(chan struct{})
	go func() {
		defer close(asking)
		for n := uint64(1); stopped.keepalive(opened.Session, n) == nil; n++ {
			select {
			case <-time.After(5 * time.Millisecond):
			case <-gone:
				return
			}
		}
	}()
	defer func() { <-asking }()
	for n := uint64(1); ; n++ {
		if err := calm.keepalive(other, n); err != nil {
			t.Fatal(err)
		}
		began := time.Now()
		calm.ack(other, n)
		if d := time.Since(began); d > 2*time.Second {
			t.Errorf("another member waited %v", d)
		}
		select {
		case <-gone:
			refused(t, "the reader", stopped.end(), codes.Unavailable, "unavailable")
			return
		case <-time.After(10 * time.Millisecond):
		}
	}
}

func TestFarewellNamesOtherNodes(t *testing.T) {
	t.Parallel()
	w := newWorld(t, 1)
	r := w.nodes[0].member("worker-1").attach()
	r.next(func(m *controlpb.AttachResponse) bool { return m.GetWelcome() != nil })
	w.nodes[0].service.EndStreams()
	farewell := r.next(func(m *controlpb.AttachResponse) bool { return m.GetFarewell() != nil }).GetFarewell()
	if len(farewell.Others) != 1 || farewell.Reason == "" {
		t.Errorf("farewell %v", farewell)
	}
	refused(t, "after the farewell", r.end(), codes.Unavailable, "unavailable")
	refused(t, "a new stream", w.nodes[0].member("worker-1").attach().end(), codes.Unavailable, "unavailable")
}

// A node that has lost the others sends its members away.
func TestNodeThatLostTouchSendsMembersAway(t *testing.T) {
	t.Parallel()
	w := newWorld(t, 3)
	r := w.nodes[0].member("worker-1").attach()
	r.next(func(m *controlpb.AttachResponse) bool { return m.GetWelcome() != nil })
	w.cut(w.nodes[0].id)
	r.next(func(m *controlpb.AttachResponse) bool { return m.GetFarewell() != nil })
	refused(t, "after the farewell", r.end(), codes.Unavailable, "unavailable")
}

// Who sends no more is still answered.
func TestRepliesComeAfterTheLastRequest(t *testing.T) {
	t.Parallel()
	w := newWorld(t, 3)
	r := w.nodes[1].member("worker-1").attach()
	if err := r.stream.Send(opening("r1", "worker-1", "job", 1)); err != nil {
		t.Fatal(err)
	}
	if err := r.stream.CloseSend(); err != nil {
		t.Fatal(err)
	}
	if reply := r.next(func(m *controlpb.AttachResponse) bool { return m.GetReply() != nil }).GetReply(); reply.RequestId != "r1" || reply.Code != "" {
		t.Errorf("reply %v", reply)
	}
	if err := r.end(); !errors.Is(err, io.EOF) {
		t.Errorf("ended with %v", err)
	}
}

// quietStream is the server's end of a stream whose member says nothing.
type quietStream struct {
	controlpb.LeadershipMemberService_AttachServer
	ctx context.Context
}

func (q *quietStream) Context() context.Context             { return q.ctx }
func (q *quietStream) Send(*controlpb.AttachResponse) error { return nil }
func (q *quietStream) Recv() (*controlpb.AttachRequest, error) {
	<-q.ctx.Done()
	return nil, q.ctx.Err()
}

func TestStreamEndsWithItsCredential(t *testing.T) {
	t.Parallel()
	w := newWorld(t, 1)
	ctx, cancel := context.WithCancel(w.ctx())
	defer cancel()
	err := w.nodes[0].service.Attach(&quietStream{ctx: access.WithCaller(ctx, access.Caller{Name: "n", Member: "m", Expires: time.Now().Add(30 * time.Millisecond)})})
	var denied *access.Denied
	if !errors.As(err, &denied) || !denied.Unauthenticated {
		t.Errorf("ended with %v", err)
	}
}

// Requests without a reply are bounded, and a repeated one counts once.
func TestRequestsUnderWayAreBounded(t *testing.T) {
	o := newOutbox()
	for i := range MaxStreamCommands {
		for range 2 { // told again
			if !o.begin(fmt.Sprint(i)) {
				t.Fatalf("request %d was not let through", i)
			}
		}
	}
	if o.begin("more") {
		t.Error("one too many was let through")
	}
	o.end("0")
	if !o.begin("more") {
		t.Error("a place that is free was not given")
	}
	for range maxReplies {
		if err := o.reply(&core.Reply{RequestID: "r", Result: &core.Result{}}); err != nil {
			t.Fatal(err)
		}
	}
	if err := o.reply(&core.Reply{}); err == nil {
		t.Error("replies without end are kept")
	}
}

// Whatever comes while a member does not read, only the latest of each session is kept.
func TestOutboxKeepsTheLatest(t *testing.T) {
	o := newOutbox()
	if !o.add(1, func() {}) {
		t.Fatal("no place")
	}
	for n := uint64(1); n <= 1000; n++ {
		o.put(core.ReplicaMessage{Ack: &core.Ack{Session: 1, Number: n}})
		o.put(core.ReplicaMessage{Ack: &core.Ack{Session: 1, Number: n / 2}})
		o.put(core.ReplicaMessage{View: &core.View{Session: 1, Revision: n, Live: true}})
		o.put(core.ReplicaMessage{Ack: &core.Ack{Session: 2, Number: n}}) // another's
		o.put(core.ReplicaMessage{View: &core.View{Session: 2, Revision: n, Live: true}})
	}
	batch := o.take()
	if len(batch) != 2 || batch[0].GetView().GetRevision() != 1000 || batch[1].GetAcknowledgement().GetNumber() != 1000 {
		t.Errorf("took %v", batch)
	}
	if len(o.take()) != 0 {
		t.Error("something is told twice")
	}
}

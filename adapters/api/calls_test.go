package api

import (
	"context"
	"fmt"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"
	"google.golang.org/protobuf/types/known/durationpb"

	"github.com/omnirelay/leadership/adapters/access"
	"github.com/omnirelay/leadership/adapters/transport"
	"github.com/omnirelay/leadership/core"
	"github.com/omnirelay/leadership/core/logpb"
	"github.com/omnirelay/leadership/wire/controlpb"
)

// A shell script leads: it opens, renews, and is told what it leads.
func TestLeadingByUnaryCalls(t *testing.T) {
	t.Parallel()
	w := newWorld(t, 3, func(s settings) { s.options.Signer = fakeSigner{} })
	w.declare("job")
	c := w.nodes[0].member("worker-1")
	ask := openRequest("worker-1", "job")
	ask.Ttl, ask.CorrelationId = durationpb.New(10*time.Second), "cause-1"
	opened, err := c.OpenSession(w.ctx(), ask)
	if err != nil {
		t.Fatal(err)
	}
	if opened.Ttl.AsDuration() != 10*time.Second || opened.Lease.AsDuration() != 9900*time.Millisecond || opened.KeepaliveInterval.AsDuration() != 2*time.Second || opened.Revision == 0 {
		t.Errorf("opened %v", opened)
	}
	alive := &controlpb.KeepAliveRequest{Session: opened.Session, Number: 1, Cursor: opened.Revision}
	first, err := c.KeepAlive(w.ctx(), alive)
	if err != nil {
		t.Fatal(err)
	}
	if first.Lease.AsDuration() != 9900*time.Millisecond || first.Number != 1 || !first.View.GetLive() || len(first.View.GetGrants()) != 1 {
		t.Fatalf("first %v", first)
	}
	token := first.View.Grants[0].Token
	// Another node goes on with it. Nothing changed, so no view is told again.
	alive = &controlpb.KeepAliveRequest{Session: opened.Session, Number: 2, Cursor: first.View.Revision, ViewRevision: first.View.Revision}
	if again, err := w.nodes[1].member("worker-1").KeepAlive(w.ctx(), alive); err != nil || again.View != nil || again.Lease == nil {
		t.Fatalf("again %v, %v", again, err)
	}
	signed, err := w.nodes[2].member("worker-1").SignToken(w.ctx(), &controlpb.SignTokenRequest{Session: opened.Session, Scope: "job", FenceToken: uint64(token.FenceToken)})
	if err != nil || signed.Token != fmt.Sprintf("worker-1/job/%d/%d/%d", token.Term, token.FenceToken, opened.Session) || time.Until(signed.ExpiresAt.AsTime()) > time.Hour {
		t.Errorf("signed %v, %v", signed, err)
	}
	_, err = c.SignToken(w.ctx(), &controlpb.SignTokenRequest{Session: opened.Session, Scope: "job", FenceToken: uint64(token.FenceToken) + 1})
	refused(t, "a fence of somebody else", err, codes.FailedPrecondition, "not-leader")
	if _, err := c.Withdraw(w.ctx(), &controlpb.WithdrawRequest{Session: opened.Session, Selector: &controlpb.Selector{Id: "job"}}); err != nil {
		t.Error(err)
	}
	resign := &controlpb.ResignRequest{RequestId: "resign", Session: opened.Session, Scope: "job", FenceToken: uint64(token.FenceToken)}
	resigned, err := c.Resign(w.ctx(), resign)
	if err != nil {
		t.Fatal(err)
	}
	alive = &controlpb.KeepAliveRequest{Session: opened.Session, Number: 3, Cursor: resigned.Revision, ViewRevision: first.View.Revision}
	last, err := w.nodes[2].member("worker-1").KeepAlive(w.ctx(), alive)
	if err != nil || last.View == nil || len(last.View.Grants) != 0 || last.View.Revision < resigned.Revision {
		t.Errorf("after resigning: %v, %v", last, err)
	}
	closing := &controlpb.CloseSessionRequest{RequestId: "close", Session: opened.Session}
	closed, err := c.CloseSession(w.ctx(), closing)
	if err != nil {
		t.Fatal(err)
	}
	// Over, retries get the replies of before, and new requests that it is over.
	if again, err := w.nodes[1].member("worker-1").CloseSession(w.ctx(), closing); err != nil || again.Revision != closed.Revision {
		t.Errorf("closed again: %v, %v", again, err)
	}
	if again, err := w.nodes[1].member("worker-1").Resign(w.ctx(), resign); err != nil || again.Revision != resigned.Revision {
		t.Errorf("resigned again: %v, %v", again, err)
	}
	alive.Number++
	_, err = c.KeepAlive(w.ctx(), alive)
	refused(t, "keepalive", err, codes.FailedPrecondition, "session-ended")
	_, err = c.Stand(w.ctx(), &controlpb.StandRequest{Session: opened.Session, Selector: &controlpb.Selector{Id: "job"}})
	refused(t, "stand", err, codes.FailedPrecondition, "session-ended")
	_, err = c.SignToken(w.ctx(), &controlpb.SignTokenRequest{Session: opened.Session, Scope: "job", FenceToken: 1})
	refused(t, "sign", err, codes.FailedPrecondition, "session-ended")
	_, err = c.KeepAlive(w.ctx(), &controlpb.KeepAliveRequest{Session: 999, Number: 1})
	refused(t, "a session of nobody", err, codes.NotFound, "not-found")
	w.checkActor("worker-1", "cause-1")
}

// checkActor looks for an election in the audit trail that names who and why.
func (w *world) checkActor(member, correlation string) {
	w.t.Helper()
	audit, err := w.nodes[0].service.Audit(AuditQuery{})
	if err != nil {
		w.t.Fatal(err)
	}
	for _, r := range audit.Records {
		if r.Kind == "ELECTED" && r.CorrelationID == correlation && strings.Contains(r.Actor, member) {
			return
		}
	}
	w.t.Errorf("no election of %s because of %s in %+v", member, correlation, audit.Records)
}

// A keepalive that is not acknowledged says so in time for another try.
func TestKeepaliveThatIsNotAcknowledged(t *testing.T) {
	t.Parallel()
	w := newWorld(t, 1)
	c := w.nodes[0].member("worker-1")
	ask := openRequest("worker-1", "job")
	ask.Ttl = durationpb.New(2 * time.Second)
	opened, err := c.OpenSession(w.ctx(), ask)
	if err != nil {
		t.Fatal(err)
	}
	if _, err := c.KeepAlive(w.ctx(), &controlpb.KeepAliveRequest{Session: opened.Session, Number: 7}); err != nil {
		t.Fatal(err)
	}
	began := time.Now()
	_, err = c.KeepAlive(w.ctx(), &controlpb.KeepAliveRequest{Session: opened.Session, Number: 7})
	refused(t, "a number twice", err, codes.Unavailable, "unavailable")
	if d := time.Since(began); d > 1900*time.Millisecond {
		t.Errorf("it took %v to say so", d)
	}
	// A cursor that no node has reached yet is not passed over.
	_, err = c.KeepAlive(w.ctx(), &controlpb.KeepAliveRequest{Session: opened.Session, Number: 8, Cursor: 1 << 40})
	refused(t, "a cursor of the future", err, codes.Unavailable, "unavailable")
	short, cancel := context.WithTimeout(w.ctx(), 100*time.Millisecond)
	defer cancel()
	_, err = c.KeepAlive(short, &controlpb.KeepAliveRequest{Session: opened.Session, Number: 8})
	refused(t, "the caller's own time", err, codes.DeadlineExceeded, "")
}

// A stream and single calls renew one session side by side; each is told of its own.
func TestStreamAndCallsRenewOneSession(t *testing.T) {
	t.Parallel()
	w := newWorld(t, 3)
	w.declare("job")
	c := w.nodes[0].member("worker-1")
	session := c.open("worker-1", "job")
	r := c.attach()
	for n := uint64(1); n < 20; n += 2 {
		if err := r.keepalive(session, n); err != nil {
			t.Fatal(err)
		}
		r.ack(session, n)
		got, err := w.nodes[n%3].member("worker-1").KeepAlive(w.ctx(), &controlpb.KeepAliveRequest{Session: session, Number: n + 1})
		if err != nil || got.Number != n+1 || len(got.View.GetGrants()) != 1 {
			t.Fatalf("keepalive %d: %v, %v", n+1, got, err)
		}
	}
	if _, led := w.nodes[0].Token("job"); !led {
		t.Error("the session did not last")
	}
}

func TestDoors(t *testing.T) {
	t.Parallel()
	w := newWorld(t, 1)
	w.declare("job")
	n := w.nodes[0]
	session := n.member("worker-2").open("worker-2", "job")
	token, _ := n.Token("job")
	all := map[string]*caller{"nobody": n.dial(), "node": n.dial(w.pair(w.authority.IssueNode("node-2"))), "read": n.client(transport.RoleRead),
		"operate": n.client(transport.RoleOperate), "admin": n.client(transport.RoleAdmin), "member": n.member("worker-1"), "owner": n.member("worker-2")}
	ctx := w.ctx()
	const operator, admin, owner, anybody = "operate admin", "admin", "owner", "read operate admin member owner"
	for label, tc := range map[string]struct {
		call func(c *caller) error
		may  string // who may; the others are denied
	}{
		"leaders": {func(c *caller) error {
			_, err := c.registry.ListLeaders(ctx, &controlpb.ListLeadersRequest{})
			return err
		}, anybody},
		"scopes": {func(c *caller) error {
			_, err := c.registry.ListScopes(ctx, &controlpb.ListScopesRequest{})
			return err
		}, anybody},
		"sessions": {func(c *caller) error {
			_, err := c.registry.ListSessions(ctx, &controlpb.ListSessionsRequest{})
			return err
		}, anybody},
		"audit": {func(c *caller) error { _, err := c.registry.ReadAudit(ctx, &controlpb.ReadAuditRequest{}); return err }, anybody},
		"declare": {func(c *caller) error {
			_, err := c.registry.DeclareScopes(ctx, &controlpb.DeclareScopesRequest{Scopes: []*controlpb.ScopeSpec{{Id: "new"}}})
			return err
		}, admin},
		"retire": {func(c *caller) error {
			_, err := c.registry.RetireScopes(ctx, &controlpb.RetireScopesRequest{Scopes: []string{"nope"}})
			return err
		}, admin},
		"transfer": {func(c *caller) error {
			_, err := c.registry.Transfer(ctx, &controlpb.TransferRequest{Scope: "nope"})
			return err
		}, operator},
		"cancel": {func(c *caller) error {
			_, err := c.registry.CancelTransfer(ctx, &controlpb.CancelTransferRequest{Scope: "nope"})
			return err
		}, operator},
		"cordon": {func(c *caller) error {
			_, err := c.registry.Cordon(ctx, &controlpb.CordonRequest{MemberId: "x"})
			return err
		}, operator},
		"uncordon": {func(c *caller) error {
			_, err := c.registry.Uncordon(ctx, &controlpb.UncordonRequest{MemberId: "x"})
			return err
		}, operator},
		"rebalance": {func(c *caller) error {
			_, err := c.registry.Rebalance(ctx, &controlpb.RebalanceRequest{DryRun: true})
			return err
		}, operator},
		"peers": {func(c *caller) error { _, err := c.mesh.ListPeers(ctx, &controlpb.ListPeersRequest{}); return err }, anybody},
		"nodes": {func(c *caller) error { _, err := c.mesh.ListNodes(ctx, &controlpb.ListNodesRequest{}); return err }, anybody},
		"add node": {func(c *caller) error {
			_, err := c.mesh.AddNode(ctx, &controlpb.AddNodeRequest{})
			return err
		}, admin},
		"remove node": {func(c *caller) error {
			_, err := c.mesh.RemoveNode(ctx, &controlpb.RemoveNodeRequest{Name: "nope"})
			return err
		}, admin},
		"replace node": {func(c *caller) error {
			_, err := c.mesh.ReplaceNode(ctx, &controlpb.ReplaceNodeRequest{Name: "nope"})
			return err
		}, admin},
		"move registrar": {func(c *caller) error {
			_, err := c.mesh.MoveRegistrar(ctx, &controlpb.MoveRegistrarRequest{To: "nope"})
			return err
		}, operator},
		"keepalive": {func(c *caller) error {
			_, err := c.KeepAlive(ctx, &controlpb.KeepAliveRequest{Session: session, Number: 1})
			return err
		}, owner},
		"stand": {func(c *caller) error {
			_, err := c.Stand(ctx, &controlpb.StandRequest{Session: session, Selector: &controlpb.Selector{Id: "job"}})
			return err
		}, owner},
		"withdraw": {func(c *caller) error {
			_, err := c.Withdraw(ctx, &controlpb.WithdrawRequest{Session: session, Selector: &controlpb.Selector{Id: "nope"}})
			return err
		}, owner},
		"resign": {func(c *caller) error {
			_, err := c.Resign(ctx, &controlpb.ResignRequest{Session: session, Scope: "job", FenceToken: token.Fence + 1})
			return err
		}, owner},
		"sign": {func(c *caller) error {
			_, err := c.SignToken(ctx, &controlpb.SignTokenRequest{Session: session, Scope: "job", FenceToken: token.Fence})
			return err
		}, "owner member"}, // no keys here: a member is told that first
		"open": {func(c *caller) error {
			_, err := c.OpenSession(ctx, openRequest("worker-2", "job"))
			return err
		}, owner},
	} {
		for who, c := range all {
			err := tc.call(c)
			code := codes.OK
			if err != nil {
				code = status.Code(err)
			}
			denied := code == codes.PermissionDenied || code == codes.Unauthenticated
			if may := slices.Contains(strings.Fields(tc.may), who); denied == may {
				t.Errorf("%s by %s: %v", label, who, err)
			}
			if who == "nobody" && code != codes.Unauthenticated {
				t.Errorf("%s by nobody: %v", label, err)
			}
		}
	}
	if now, led := n.Token("job"); !led || now.Fence != token.Fence {
		t.Errorf("what was refused had an effect: %+v", now)
	}
	_, err := all["owner"].SignToken(ctx, &controlpb.SignTokenRequest{Session: session, Scope: "job", FenceToken: token.Fence})
	refused(t, "signing without keys", err, codes.Unimplemented, "unsupported")
	// A node's own name is nobody's, even for who may be everybody else.
	_, err = n.member("node-1").OpenSession(ctx, openRequest("node-1", "job"))
	refused(t, "a node's name", err, codes.PermissionDenied, "denied")
	greedy := openRequest("worker-1", "job")
	greedy.Stands[0].Priority = 11
	_, err = all["member"].OpenSession(ctx, greedy)
	refused(t, "a priority above the grant", err, codes.PermissionDenied, "denied")
	_, err = all["member"].OpenSession(ctx, openRequest("worker-1", core.GlobalControl))
	refused(t, "asking loudly for global control", err, codes.PermissionDenied, "denied")
}

// One request on many nodes at once has one effect and one reply.
func TestOneRequestManyTimes(t *testing.T) {
	t.Parallel()
	w := newWorld(t, 3)
	w.declare("job")
	ask := openRequest("worker-1", "job")
	ask.RequestId = "the-one"
	var mu sync.Mutex
	seen := map[string]bool{}
	var wait sync.WaitGroup
	for i := range 9 {
		c := w.nodes[i%3].member("worker-1")
		wait.Go(func() {
			got, err := c.OpenSession(w.ctx(), ask)
			if err != nil {
				t.Error(err)
				return
			}
			mu.Lock()
			defer mu.Unlock()
			seen[fmt.Sprint(got.Session, " at ", got.Revision)] = true
		})
	}
	wait.Wait()
	if len(seen) != 1 {
		t.Errorf("one request had the effects %v", seen)
	}
	sessions, err := w.nodes[2].client(transport.RoleRead).registry.ListSessions(w.ctx(), &controlpb.ListSessionsRequest{MemberId: "worker-1", Linearizable: true})
	if err != nil || len(sessions.Sessions) != 1 {
		t.Errorf("sessions %v, %v", sessions, err)
	}
	// The same id for something else is another request: it is executed.
	c := w.nodes[0].member("worker-1")
	token, _ := w.nodes[0].Token("job")
	resigned, err := c.Resign(w.ctx(), &controlpb.ResignRequest{RequestId: "the-one", Session: sessions.Sessions[0].Id, Scope: "job", FenceToken: token.Fence})
	if err != nil || resigned.Revision <= sessions.Revision {
		t.Errorf("resigned at %v, %v", resigned, err)
	}
	again := openRequest("worker-1", "job")
	again.RequestId, again.Ttl = "the-one", durationpb.New(time.Hour)
	if got, err := c.OpenSession(w.ctx(), again); err != nil || got.Session == sessions.Sessions[0].Id || got.Ttl.AsDuration() != time.Hour {
		t.Errorf("opened %v, %v", got, err)
	}
	// The same id of another caller is another request, even for the same.
	var revisions []uint64
	for _, role := range []transport.Role{transport.RoleOperate, transport.RoleAdmin} {
		cordoned, err := w.nodes[0].client(role).registry.Cordon(w.ctx(), &controlpb.CordonRequest{RequestId: "the-one", MemberId: "nobody"})
		if err != nil {
			t.Fatal(err)
		}
		revisions = append(revisions, cordoned.Revision)
	}
	if revisions[0] == revisions[1] {
		t.Error("two callers had one request between them")
	}
	other := openRequest("worker-2", "job")
	other.RequestId = "the-one"
	got, err := w.nodes[0].member("worker-2").OpenSession(w.ctx(), other)
	if err != nil || got.Session == sessions.Sessions[0].Id {
		t.Errorf("another caller's: %v, %v", got, err)
	}
}

// A node that has not heard of a session catches up before it says anything.
func TestANodeThatIsBehindCatchesUp(t *testing.T) {
	t.Parallel()
	w := newWorld(t, 3)
	w.declare("job")
	behind := w.nodes[2]
	w.cut(behind.id)
	var session uint64
	w.until("the others go on", func() bool {
		ask := openRequest("worker-1", "job")
		ask.RequestId = "open"
		opened, err := w.nodes[0].member("worker-1").OpenSession(w.ctx(), ask)
		session = opened.GetSession()
		return err == nil
	})
	c := behind.member("worker-1")
	answer := make(chan error, 1)
	go func() {
		var err error
		for range 10 { // each waits for the window at most
			if _, err = c.KeepAlive(w.ctx(), &controlpb.KeepAliveRequest{Session: session, Number: 1}); status.Code(err) != codes.Unavailable {
				break
			}
		}
		answer <- err
	}()
	select {
	case err := <-answer:
		t.Fatalf("it said of what it cannot know: %v", err)
	case <-time.After(100 * time.Millisecond):
	}
	if behind.service.session(core.SessionID(session)).known {
		t.Fatal("it is not behind")
	}
	w.heal(behind.id)
	if err := <-answer; err != nil {
		t.Error(err)
	}
}

// Without a registrar every call ends within the window, with a code that says retry.
func TestCallsAreBoundedWithoutARegistrar(t *testing.T) {
	t.Parallel()
	w := newWorld(t, 3, func(s settings) { s.options.Window = time.Second })
	session := w.nodes[0].member("worker-1").open("worker-1", "job")
	w.until("node 1 knows the session", func() bool { return w.nodes[0].service.session(core.SessionID(session)).live })
	w.cut(1)
	w.cut(2)
	w.cut(3)
	c := w.nodes[0].member("worker-1")
	ctx := w.ctx()
	var wait sync.WaitGroup
	for label, call := range map[string]func() error{
		"open": func() error { _, err := c.OpenSession(ctx, openRequest("worker-1", "job")); return err },
		"keepalive": func() error {
			_, err := c.KeepAlive(ctx, &controlpb.KeepAliveRequest{Session: session, Number: 1})
			return err
		},
		"unknown": func() error {
			_, err := c.KeepAlive(ctx, &controlpb.KeepAliveRequest{Session: 99, Number: 1})
			return err
		},
		"close": func() error {
			_, err := c.CloseSession(ctx, &controlpb.CloseSessionRequest{Session: session})
			return err
		},
		"read": func() error {
			_, err := c.registry.ListLeaders(ctx, &controlpb.ListLeadersRequest{Linearizable: true})
			return err
		},
	} {
		wait.Go(func() {
			began := time.Now()
			refused(t, label, call(), codes.Unavailable, "unavailable")
			if d := time.Since(began); d > 2500*time.Millisecond {
				t.Errorf("%s took %v", label, d)
			}
		})
	}
	wait.Wait()
}

func TestReads(t *testing.T) {
	t.Parallel()
	w := newWorld(t, 3)
	w.declare("a", "job")
	n := w.nodes[1]
	session := n.member("worker-1").open("worker-1", "job")
	c := n.client(transport.RoleOperate).registry
	ctx := w.ctx()
	leaders, err := c.ListLeaders(ctx, &controlpb.ListLeadersRequest{Linearizable: true})
	if err != nil || len(leaders.Tokens) != 1 || leaders.Tokens[0].LeaderId != "worker-1" || leaders.LastFence != 1 || leaders.GeneratedAt == nil {
		t.Errorf("leaders %v, %v", leaders, err)
	}
	scopes, err := c.ListScopes(ctx, &controlpb.ListScopesRequest{})
	if err != nil || len(scopes.Scopes) != 2 || scopes.Scopes[0].Leader != nil || scopes.Scopes[1].Leader.GetLeaderId() != "worker-1" || scopes.Revision == 0 {
		t.Errorf("scopes %v, %v", scopes, err)
	}
	if scopes, err = c.ListScopes(ctx, &controlpb.ListScopesRequest{Scope: "a"}); err != nil || len(scopes.Scopes) != 1 {
		t.Errorf("one scope %v, %v", scopes, err)
	}
	if _, err = c.Cordon(ctx, &controlpb.CordonRequest{MemberId: "worker-1", Drain: true}); err != nil {
		t.Error(err)
	}
	sessions, err := c.ListSessions(ctx, &controlpb.ListSessionsRequest{Linearizable: true})
	if err != nil || len(sessions.Sessions) != 1 || !slices.Equal(sessions.Cordoned, []string{"worker-1"}) {
		t.Fatalf("sessions %v, %v", sessions, err)
	}
	if s := sessions.Sessions[0]; s.Id != session || s.TtlMs != 60_000 || !slices.Equal(s.Leads, []string{"job"}) || s.Stands[0].Selector.Id != "job" || s.Stands[0].Priority != 1 {
		t.Errorf("session %v", s)
	}
	if none, err := c.ListSessions(ctx, &controlpb.ListSessionsRequest{MemberId: "worker-9"}); err != nil || len(none.Sessions) != 0 {
		t.Errorf("sessions of another: %v, %v", none, err)
	}
	for label, tc := range map[string]struct {
		r    *controlpb.ReadAuditRequest
		seqs []uint64
		code codes.Code
	}{
		"all":      {&controlpb.ReadAuditRequest{}, []uint64{1, 2, 3, 4}, codes.OK},
		"newest":   {&controlpb.ReadAuditRequest{Limit: ptr(uint32(2))}, []uint64{3, 4}, codes.OK},
		"oldest":   {&controlpb.ReadAuditRequest{After: ptr(uint64(0)), Limit: ptr(uint32(1))}, []uint64{1}, codes.OK},
		"after":    {&controlpb.ReadAuditRequest{After: ptr(uint64(2))}, []uint64{3, 4}, codes.OK},
		"scope":    {&controlpb.ReadAuditRequest{Scope: "a"}, []uint64{1}, codes.OK},
		"limit 0":  {&controlpb.ReadAuditRequest{Limit: ptr(uint32(0))}, nil, codes.InvalidArgument},
		"limit":    {&controlpb.ReadAuditRequest{Limit: ptr(uint32(1001))}, nil, codes.InvalidArgument},
		"no scope": {&controlpb.ReadAuditRequest{Scope: "a b"}, nil, codes.InvalidArgument},
	} {
		audit, err := c.ReadAudit(ctx, tc.r)
		var seqs []uint64
		for _, r := range audit.GetRecords() {
			seqs = append(seqs, r.Seq)
		}
		if status.Code(err) != tc.code || !slices.Equal(seqs, tc.seqs) {
			t.Errorf("audit, %s: %v, %v", label, seqs, err)
		}
	}
	_, err = c.ListScopes(ctx, &controlpb.ListScopesRequest{Scope: "nope"})
	refused(t, "no such scope", err, codes.NotFound, "not-found")
	_, err = c.ListLeaders(ctx, &controlpb.ListLeadersRequest{Scope: "a b"})
	refused(t, "no scope at all", err, codes.InvalidArgument, "invalid")
}

func ptr[V any](v V) *V { return &v }

func TestOperators(t *testing.T) {
	t.Parallel()
	w := newWorld(t, 1)
	w.declare("job")
	n := w.nodes[0]
	first, second := n.member("worker-1"), n.member("worker-2")
	session := first.open("worker-1", "job")
	second.open("worker-2", "job")
	c := n.client(transport.RoleAdmin).registry
	ctx := w.ctx()
	view := func() *controlpb.Grant {
		t.Helper()
		scopes, err := c.ListScopes(ctx, &controlpb.ListScopesRequest{Scope: "job"})
		if err != nil {
			t.Fatal(err)
		}
		return &controlpb.Grant{Token: scopes.Scopes[0].Leader, HandOver: scopes.Scopes[0].HandOver}
	}
	if _, err := c.Transfer(ctx, &controlpb.TransferRequest{Scope: "job", ToMember: "worker-2", CorrelationId: "why"}); err != nil {
		t.Fatal(err)
	}
	asked := view()
	if asked.HandOver.GetToMember() != "worker-2" || asked.HandOver.GetReason() != core.AskTransfer || asked.HandOver.GetCorrelationId() != "why" {
		t.Errorf("asked %v", asked)
	}
	if _, err := c.CancelTransfer(ctx, &controlpb.CancelTransferRequest{Scope: "job"}); err != nil || view().HandOver != nil {
		t.Errorf("cancelled: %v, %v", view(), err)
	}
	if _, err := c.Transfer(ctx, &controlpb.TransferRequest{Scope: "job", ToMember: "worker-2"}); err != nil {
		t.Fatal(err)
	}
	fence := uint64(view().Token.FenceToken)
	if _, err := first.Resign(ctx, &controlpb.ResignRequest{Session: session, Scope: "job", FenceToken: fence}); err != nil {
		t.Fatal(err)
	}
	if now := view(); now.Token.GetLeaderId() != "worker-2" || uint64(now.Token.GetFenceToken()) <= fence {
		t.Errorf("handed over to %v", now)
	}
	_, err := c.Transfer(ctx, &controlpb.TransferRequest{Scope: "job", FenceToken: fence})
	refused(t, "a transfer of before", err, codes.FailedPrecondition, "conflict")
	if _, err := c.RetireScopes(ctx, &controlpb.RetireScopesRequest{Scopes: []string{"job"}}); err != nil {
		t.Error(err)
	}
	_, err = c.DeclareScopes(ctx, &controlpb.DeclareScopesRequest{Scopes: []*controlpb.ScopeSpec{{Id: "job"}}})
	refused(t, "declared while it is retired", err, codes.FailedPrecondition, "retiring")
	_, err = c.Uncordon(ctx, &controlpb.UncordonRequest{MemberId: "a b"})
	refused(t, "no member", err, codes.InvalidArgument, "invalid")
	_, err = c.DeclareScopes(ctx, &controlpb.DeclareScopesRequest{RequestId: "a b"})
	refused(t, "no request id", err, codes.InvalidArgument, "invalid")
}

// A retry that comes too late to be recognized is refused, and told what to do.
func TestTooOldSaysWhichBaseIsGood(t *testing.T) {
	s := &Service{o: Options{Source: forgotten{}}, newID: randomID}
	_, err := s.execute(context.Background(), access.Caller{Name: "n"}, &logpb.Command{RequestId: "r", Base: 3})
	if err == nil || !strings.Contains(err.Error(), ": 77") {
		t.Errorf("got %v", err)
	}
}

// forgotten is a node that no longer keeps what it answered.
type forgotten struct{ Source }

func (forgotten) Do(context.Context, *logpb.Command) (*core.Result, error) {
	return &core.Result{Code: string(core.CodeTooOld), Revision: 77}, &core.Error{Code: core.CodeTooOld, Field: "base", Message: "ask anew with a base at or above"}
}

func TestOptions(t *testing.T) {
	_, err := New(Options{Epsilon: 500})
	for _, field := range []string{"Source", "Attach", "SessionsPerMember", "Cluster", "NodeID", "Epsilon", "Window", "WriteTimeout", "Logger"} {
		if err == nil || !strings.Contains(err.Error(), field) {
			t.Errorf("%s is not named by %v", field, err)
		}
	}
}

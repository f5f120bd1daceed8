package client

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"strings"
	"testing"
	"time"

	"google.golang.org/genproto/googleapis/rpc/errdetails"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"
	"google.golang.org/protobuf/types/known/durationpb"

	"github.com/omnirelay/leadership/adapters/fence"
	"github.com/omnirelay/leadership/core"
	"github.com/omnirelay/leadership/wire/controlpb"
)

// attachedTo is the node that the client is attached to, nil when to none of these.
func attachedTo(c *Client, nodes ...*node) *node {
	c.mu.Lock()
	defer c.mu.Unlock()
	for _, n := range nodes {
		if c.link != nil && c.link.address == n.address {
			return n
		}
	}
	return nil
}

// renewed reports whether the node has answered and the lease is as long as a fresh one.
func renewed(c *Client) bool {
	held := c.Held()
	c.mu.Lock()
	defer c.mu.Unlock()
	return c.link != nil && c.link.answered && len(held) > 0 && held[0].Remaining > c.o.TTL*9/10
}

func other(n *node, nodes []*node) *node {
	return nodes[slices.IndexFunc(nodes, func(m *node) bool { return m != n })]
}

// unbroken fails when the leadership ended, or was renewed as another.
func unbroken(t *testing.T, r *registry, begun call) {
	t.Helper()
	if err := begun.ctx.Err(); err != nil {
		t.Errorf("the context ended: %v", context.Cause(begun.ctx))
	}
	if now, _ := r.leader(begun.token.Scope); now.Session != begun.token.Session || now.Fence != begun.token.Fence {
		t.Errorf("it led with %+v, the registry has %+v", begun.token, now)
	}
}

// However a node is lost, the session goes on from another.
func TestTheSessionGoesOnFromAnotherNode(t *testing.T) {
	t.Parallel()
	for name, lose := range map[string]func(n *node, others []*node){
		"it is gone":           func(n *node, _ []*node) { n.stop() },
		"it says farewell":     func(n *node, _ []*node) { n.farewell() },
		"it answers no more":   func(n *node, _ []*node) { n.change(func() { n.mute = true }) },
		"it ends the stream":   func(n *node, _ []*node) { n.endStreams() },
		"it names one that is": func(n *node, o []*node) { n.farewell("not an address", o[0].address) },
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			r := newRegistry(t, "a")
			nodes := []*node{r.serve(), r.serve()}
			c := newClient(t, "alice", nodes, func(o *Options) { o.TTL = 2 * testTTL })
			lead := stand(t, c, "a")
			begun := next(t, "a call", lead.begun)
			first := attachedTo(c, nodes...)
			second := other(first, nodes)
			first.change(func() { first.refusal = status.Error(codes.Unavailable, "lost") })
			lose(first, []*node{second})
			await(t, within, "renewed by the other", func() bool { return attachedTo(c, nodes...) == second && renewed(c) })
			unbroken(t, r, begun)
		})
	}
}

// endStreams breaks every attachment.
func (n *node) endStreams() {
	n.mu.Lock()
	defer n.mu.Unlock()
	for _, end := range n.streams {
		end()
	}
}

func TestANodeOutsideOfTheOptionsIsTriedWhenItWasNamed(t *testing.T) {
	t.Parallel()
	r := newRegistry(t, "a")
	known, named := r.serve(), r.serve()
	c := newClient(t, "alice", []*node{known})
	begun := next(t, "a call", stand(t, c, "a").begun)
	known.farewell(named.address)
	await(t, within, "attached to the node that was named", func() bool { return attachedTo(c, named) != nil })
	named.farewell()
	await(t, within, "attached to the known one again", func() bool { return attachedTo(c, known) != nil })
	unbroken(t, r, begun)
}

// A node that says when to come back is not asked before.
func TestARetryHintIsHeeded(t *testing.T) {
	t.Parallel()
	r := newRegistry(t, "a")
	n := r.serve()
	st, err := status.New(codes.Unavailable, "no quorum").WithDetails(&errdetails.RetryInfo{RetryDelay: durationpb.New(700 * time.Millisecond)})
	if err != nil {
		t.Fatal(err)
	}
	n.change(func() { n.refusal = st.Err() })
	c := newClient(t, "alice", []*node{n})
	lead := stand(t, c, "a")
	await(t, within, "a refusal", func() bool { return n.calls() > 0 })
	first, calls := time.Now(), n.calls()
	n.change(func() { n.refusal = nil })
	next(t, "a call", lead.begun)
	if took := time.Since(first); took < 650*time.Millisecond || calls != 1 {
		t.Errorf("it was asked again after %v, and %d times before; want it to wait 700ms", took, calls)
	}
}

// A node that cannot serve is left for one that can.
func TestANodeThatCannotServeIsLeft(t *testing.T) {
	t.Parallel()
	r := newRegistry(t, "a")
	nodes := []*node{r.serve(), r.serve()}
	c := newClient(t, "alice", nodes)
	c.endpoints.known = []string{nodes[0].address, nodes[1].address} // not shuffled
	nodes[0].change(func() { nodes[0].code = core.CodeUnavailable })
	next(t, "a call", stand(t, c, "a").begun)
	if attachedTo(c, nodes...) != nodes[1] {
		t.Error("it leads from the node that cannot serve")
	}
}

func TestAnotherClusterIsRefused(t *testing.T) {
	t.Parallel()
	r := newRegistry(t, "a")
	stranger, friend := r.serve(), r.serve()
	stranger.change(func() { stranger.welcome.ClusterId = "another" })
	for name, change := range map[string]func(*Options, *Client){
		"one that the options name":      func(o *Options, _ *Client) { o.Cluster = "test" },
		"than the first one that is met": func(o *Options, _ *Client) {},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			c := newClient(t, "alice", []*node{friend, stranger}, func(o *Options) { change(o, nil) })
			c.endpoints.known = []string{friend.address, stranger.address}
			lead := stand(t, c, "a")
			begun := next(t, "a call", lead.begun)
			before := stranger.calls()
			attachedTo(c, friend).endStreams()
			await(t, within, "the stranger called", func() bool { return stranger.calls() > before })
			await(t, within, "attached to the friend again", func() bool { return attachedTo(c, friend) != nil })
			unbroken(t, r, begun)
			lead.stop()
			if err := next(t, "the end", lead.result); err != nil {
				t.Error(err)
			}
			if err := c.Close(); err != nil {
				t.Error(err)
			}
		})
	}
}

// The larger drift counts: the cluster's or the own.
func TestTheLargerDriftCounts(t *testing.T) {
	t.Parallel()
	for _, test := range []struct {
		own  core.Epsilon
		node uint32
		want core.Epsilon
	}{{0, 0, 10}, {0, 50, 50}, {100, 50, 100}} {
		r := newRegistry(t, "a")
		n := r.serve()
		n.change(func() { n.welcome.ClockDriftPermille = test.node })
		c := newClient(t, "alice", []*node{n}, func(o *Options) { o.ClockDrift = test.own })
		next(t, "a call", stand(t, c, "a").begun)
		c.mu.Lock()
		got := c.member.Drift()
		c.mu.Unlock()
		if got != test.want {
			t.Errorf("own %d, node's %d: it reckons with %d, want %d", test.own, test.node, got, test.want)
		}
		if held := c.Held(); len(held) != 1 || held[0].Remaining > test.want.Shrink(testTTL) {
			t.Errorf("own %d, node's %d: it holds %+v", test.own, test.node, held)
		}
	}
}

func TestANodeWithSenselessDriftIsRefused(t *testing.T) {
	t.Parallel()
	r := newRegistry(t, "a")
	n := r.serve()
	n.change(func() { n.welcome.ClockDriftPermille = 500 })
	c := newClient(t, "alice", []*node{n})
	stand(t, c, "a")
	await(t, within, "two tries", func() bool { return n.calls() > 1 })
	if c.session() != 0 {
		t.Error("it opened a session there")
	}
}

func TestSignedTokensAreFetchedAndRefreshed(t *testing.T) {
	t.Parallel()
	r := newRegistry(t, "a")
	n := r.serve()
	n.change(func() { n.life = 2 * time.Second })
	c := newClient(t, "alice", []*node{n})
	begun := next(t, "a call", stand(t, c, "a").begun)
	first, _ := fence.From(begun.ctx)
	if !strings.HasPrefix(first.Token, "a/") {
		t.Errorf("the first call carries the token %q", first.Token)
	}
	child, cancel := context.WithCancel(begun.ctx)
	defer cancel()
	took := await(t, within, "a fresh token", func() bool { a, _ := fence.From(child); return a.Token != first.Token })
	if took < 500*time.Millisecond {
		t.Errorf("it was refreshed after %v, want half its life", took)
	}
	if a, _ := fence.From(fence.With(child, fence.Authority{Scope: "b", Fence: 1})); a.Scope != "b" || a.Token != "" {
		t.Errorf("an authority put over it is %+v", a)
	}
}

func TestWithoutSignedTokensItLeadsAllTheSame(t *testing.T) {
	t.Parallel()
	for name, unsigned := range map[string]bool{"the cluster signs none": false, "none are wanted": true} {
		r := newRegistry(t, "a")
		n := r.serve()
		n.change(func() {
			if unsigned {
				n.life = time.Hour
			}
		})
		c := newClient(t, "alice", []*node{n}, func(o *Options) { o.UnsignedTokens = unsigned })
		begun := next(t, "a call", stand(t, c, "a").begun)
		if a, _ := fence.From(begun.ctx); a.Token != "" || a.Fence != begun.token.Fence {
			t.Errorf("%s: the context carries %+v", name, a)
		}
	}
}

// Close ends the session, so that others are elected at once.
func TestCloseEndsTheSession(t *testing.T) {
	t.Parallel()
	r := newRegistry(t, "a")
	n := r.serve()
	c := newClient(t, "alice", []*node{n})
	lead := stand(t, c, "a")
	next(t, "a call", lead.begun)
	session := c.session()
	if err := c.Close(); err != nil {
		t.Error(err)
	}
	if err := next(t, "Run", lead.result); !errors.Is(err, ErrClosed) {
		t.Errorf("Run: %v", err)
	}
	if v, known, _ := r.view(session); known && v.Live {
		t.Error("the session lives")
	}
	if err := c.Close(); err != nil {
		t.Errorf("again: %v", err)
	}
}

func TestCloseDoesNotWaitForARegistryThatIsGone(t *testing.T) {
	t.Parallel()
	r := newRegistry(t, "a")
	n := r.serve()
	c := newClient(t, "alice", []*node{n})
	next(t, "a call", stand(t, c, "a").begun)
	n.stop()
	start := time.Now()
	if err := c.Close(); err == nil {
		t.Error("it says that the session was closed")
	}
	if took := time.Since(start); took > testTTL+within/2 {
		t.Errorf("it took %v", took)
	}
}

// A member that stands by hand is told, asks, and gives up.
func TestStandingByHand(t *testing.T) {
	t.Parallel()
	r := newRegistry(t, "a", "b")
	n := r.serve()
	c := newClient(t, "alice", []*node{n})
	ctx, stop := context.WithCancel(t.Context())
	changes, ended := make(chan Change, 64), make(chan struct{})
	listening := make(chan struct{})
	go func() {
		defer close(ended)
		close(listening)
		for change := range c.Changes(ctx) {
			changes <- change
		}
	}()
	<-listening
	await(t, within, "a reader", func() bool { c.mu.Lock(); defer c.mu.Unlock(); return len(c.readers) == 1 })
	if err := c.Stand(Scope{ID: "a"}); err != nil {
		t.Fatal(err)
	}
	wanted(t, changes, core.ChangeSessionOpened)
	gained := wanted(t, changes, core.ChangeGained)
	if token, ok := c.Holds("a"); !ok || token.Fence != gained.Token.Fence {
		t.Errorf("told of %+v it holds %+v, %t", gained.Token, token, ok)
	}
	r.transfer("a", "")
	if asked := wanted(t, changes, core.ChangeAsked); asked.Token.Fence != gained.Token.Fence || asked.Ask.Reason != core.AskTransfer {
		t.Errorf("asked: %+v", asked)
	}
	if _, ok := c.Holds("a"); !ok {
		t.Error("asked to hand over it holds no more, though it has not given up")
	}
	if err := c.Withdraw(Scope{ID: "a"}); err != nil {
		t.Fatal(err)
	}
	c.GiveUp(gained.Token)
	if lost := wanted(t, changes, core.ChangeLost); lost.Reason != core.ReasonResigned {
		t.Errorf("lost: %+v", lost)
	}
	if _, ok := c.Holds("a"); ok {
		t.Error("it holds what it gave up")
	}
	await(t, within, "nobody leading", func() bool { _, led := r.leader("a"); return !led })
	stop()
	<-ended
}

func wanted(t *testing.T, changes <-chan Change, kind core.ChangeKind) Change {
	t.Helper()
	got := next(t, "a change", changes)
	if got.Kind != kind {
		t.Fatalf("told of %+v, want kind %d", got, kind)
	}
	return got
}

// One that reads too slowly is cut off rather than waited for.
func TestAReaderOfChangesThatFallsBehindIsEnded(t *testing.T) {
	t.Parallel()
	c := newClient(t, "alice", []*node{{address: "127.0.0.1:1"}})
	readers := func() int { c.mu.Lock(); defer c.mu.Unlock(); return len(c.readers) }
	go func() {
		for readers() == 0 {
			time.Sleep(time.Millisecond) // between two looks
		}
		c.mu.Lock()
		defer c.mu.Unlock()
		c.tell(Change{Kind: core.ChangeGained})
	}()
	read := 0
	for range c.Changes(t.Context()) {
		if read++; read == 1 {
			c.mu.Lock()
			for range maxUnread + 1 {
				c.tell(Change{Kind: core.ChangeGained})
			}
			left := len(c.readers)
			c.mu.Unlock()
			if left != 0 {
				t.Error("it is still told")
			}
		}
		if read > 2*maxUnread {
			t.Fatal("it goes on for ever")
		}
	}
}

func TestOptionsAreChecked(t *testing.T) {
	t.Parallel()
	good := Options{Endpoints: []string{"127.0.0.1:7412"}, MemberID: "alice", Dial: dialPlainly}
	if c, err := New(good); err != nil {
		t.Errorf("good ones: %v", err)
	} else if err := c.Close(); err != nil {
		t.Error(err)
	}
	for name, change := range map[string]func(*Options){
		"no endpoint":        func(o *Options) { o.Endpoints = nil },
		"too many endpoints": func(o *Options) { o.Endpoints = slices.Repeat(o.Endpoints, MaxEndpoints+1) },
		"a bad endpoint":     func(o *Options) { o.Endpoints = []string{"127.0.0.1"} },
		"a bad member id":    func(o *Options) { o.MemberID = "a b" },
		"a short TTL":        func(o *Options) { o.TTL = core.MinTTL - 1 },
		"a long TTL":         func(o *Options) { o.TTL = core.MaxTTL + 1 },
		"a negative margin":  func(o *Options) { o.Margin = -1 },
		"a wide margin":      func(o *Options) { o.Margin = core.DefaultTTL / 2 },
		"a senseless drift":  func(o *Options) { o.ClockDrift = 500 },
		"no authority":       func(o *Options) { o.Dial = nil },
	} {
		o := good
		change(&o)
		if c, err := New(o); err == nil {
			t.Errorf("%s: accepted", name)
			_ = c.Close()
		}
	}
}

func TestAClientWithoutAMemberIDOnlyWatches(t *testing.T) {
	t.Parallel()
	c := newClient(t, "", []*node{{address: "127.0.0.1:1"}})
	if err := c.Stand(Scope{ID: "a"}); err == nil {
		t.Error("it stands")
	}
	if err := c.Run(t.Context(), []Scope{{ID: "a"}}, nil); err == nil {
		t.Error("it runs")
	}
}

// A welcome that is none, as from a server of another kind.
func TestANodeThatDoesNotWelcomeIsLeft(t *testing.T) {
	t.Parallel()
	c := newClient(t, "alice", []*node{{address: "127.0.0.1:1"}})
	if err := c.welcomed(&link{}, (*controlpb.Welcome)(nil)); err == nil {
		t.Error("no welcome is taken for one")
	}
}

// Close waits for every Run, in whatever order they end.
func TestCloseWaitsForManyRuns(t *testing.T) {
	t.Parallel()
	for range 5 {
		c := newClient(t, "alice", []*node{{address: "127.0.0.1:1"}}, func(o *Options) { o.TTL = core.MinTTL })
		const runs = 50
		results := make(chan error, runs)
		for i := range runs {
			go func() {
				results <- c.Run(t.Context(), []Scope{{ID: fmt.Sprint("s", i)}}, func(context.Context, Token) error { return nil })
			}()
		}
		await(t, within, "all running", func() bool { c.mu.Lock(); defer c.mu.Unlock(); return len(c.runs) == runs })
		_ = c.Close() // no node answers
		if left := len(results); left != runs {
			t.Errorf("Close returned with %d of %d", left, runs)
		}
	}
}

// A leadership of a Stand is given up by hand also when it is asked for after Withdraw.
func TestAskedAfterWithdraw(t *testing.T) {
	t.Parallel()
	r := newRegistry(t, "a")
	c := newClient(t, "alice", []*node{r.serve()})
	if err := c.Stand(Scope{ID: "a"}); err != nil {
		t.Fatal(err)
	}
	await(t, within, "leading", func() bool { _, ok := c.Holds("a"); return ok })
	led, _ := c.Holds("a")
	if err := c.Withdraw(Scope{ID: "a"}); err != nil {
		t.Fatal(err)
	}
	r.transfer("a", "")
	for end := time.Now().Add(2 * testTTL); time.Now().Before(end); time.Sleep(5 * time.Millisecond) {
		if now, ok := c.Holds("a"); !ok || now.Fence != led.Fence {
			t.Fatal("it was given up though the application has not stopped")
		}
	}
	c.GiveUp(led)
	await(t, within, "nobody leading", func() bool { _, is := r.leader("a"); return !is })
}

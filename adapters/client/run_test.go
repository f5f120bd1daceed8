package client

import (
	"context"
	"errors"
	"fmt"
	"sync/atomic"
	"testing"
	"time"

	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"

	"github.com/omnirelay/leadership/adapters/fence"
	"github.com/omnirelay/leadership/core"
)

// within is how long anything but the end of a lease may take on a busy machine.
const within = 10 * time.Second

// running is a Run under way whose function waits for the end of its context.
type running struct {
	t      testing.TB
	stop   context.CancelFunc
	begun  chan call // one for every call of the function
	ended  chan call
	result chan error
}

type call struct {
	ctx   context.Context
	token Token
}

// run leads scopes until the test ends.
func stand(t testing.TB, c *Client, scopes ...string) *running {
	t.Helper()
	ctx, stop := context.WithCancel(t.Context())
	r := &running{t: t, stop: stop, begun: make(chan call, 64), ended: make(chan call, 64), result: make(chan error, 1)}
	var all []Scope
	for _, s := range scopes {
		all = append(all, Scope{ID: s})
	}
	go func() {
		r.result <- c.Run(ctx, all, func(ctx context.Context, token Token) error {
			r.begun <- call{ctx, token}
			<-ctx.Done()
			r.ended <- call{ctx, token}
			return ctx.Err()
		})
	}()
	t.Cleanup(stop)
	return r
}

func next[T any](t testing.TB, what string, from <-chan T) (got T) {
	t.Helper()
	select {
	case got = <-from:
	case <-time.After(within):
		t.Fatalf("%s: not within %v", what, within)
	}
	return got
}

func TestRunLeadsUntilItsContextEnds(t *testing.T) {
	t.Parallel()
	r := newRegistry(t, "a", "b")
	c := newClient(t, "alice", []*node{r.serve()})
	lead := stand(t, c, "a", "b")
	led := map[string]call{}
	for range 2 {
		begun := next(t, "a call", lead.begun)
		led[begun.token.Scope] = begun
	}
	for _, scope := range []string{"a", "b"} {
		want, _ := r.leader(scope)
		got := led[scope]
		if got.token.Fence != want.Fence || want.LeaderID != "alice" || got.token.LeaderID != "alice" {
			t.Errorf("%s: called with %+v, the registry says %+v", scope, got.token, want)
		}
		if holds, ok := c.Holds(scope); !ok || holds.Fence != want.Fence {
			t.Errorf("%s: holds %+v, %t", scope, holds, ok)
		}
		if a, ok := fence.From(got.ctx); !ok || a != (fence.Authority{Scope: scope, Fence: want.Fence, Term: 1, Leader: "alice"}) {
			t.Errorf("%s: the context carries %+v, %t", scope, a, ok)
		}
		if err := Leading(got.ctx); err != nil {
			t.Errorf("%s: %v", scope, err)
		}
	}
	if held := c.Held(); len(held) != 2 || held[0].Remaining <= 0 || held[0].Remaining > testTTL {
		t.Errorf("held: %+v", held)
	}
	lead.stop()
	if err := next(t, "the end", lead.result); err != nil {
		t.Errorf("Run: %v", err)
	}
	if err := Leading(led["a"].ctx); !errors.Is(err, ErrNotLeading) {
		t.Errorf("after the end: Leading says %v", err)
	}
	await(t, within, "both given up", func() bool {
		_, a := r.leader("a")
		_, b := r.leader("b")
		return !a && !b
	})
}

// A lease is lost by the own clock when no node can be reached, before it is over.
func TestALeaseEndsByTheClockWhileAllNodesAreGone(t *testing.T) {
	t.Parallel()
	r := newRegistry(t, "a")
	nodes := []*node{r.serve(), r.serve()}
	c := newClient(t, "alice", nodes)
	lead := stand(t, c, "a")
	begun := next(t, "a call", lead.begun)
	for _, n := range nodes {
		n.stop()
	}
	gone := time.Now()
	ended := next(t, "the end of the context", lead.ended)
	if took := time.Since(gone); took > testTTL {
		t.Errorf("the context ended %v after the nodes were gone; the lease is shorter than %v", took, testTTL)
	}
	if cause := context.Cause(ended.ctx); !errors.Is(cause, ErrLeaseLapsed) {
		t.Errorf("it ended since %v", cause)
	}
	await(t, testTTL, "the end of Holds", func() bool { _, holds := c.Holds("a"); return !holds })
	if err := Leading(begun.ctx); !errors.Is(err, ErrNotLeading) {
		t.Errorf("Leading says %v", err)
	}
}

// The context ends before the lease does.
func TestTheContextEndsAMarginBeforeTheLease(t *testing.T) {
	t.Parallel()
	const margin = 1200 * time.Millisecond
	r := newRegistry(t, "a")
	n := r.serve()
	c := newClient(t, "alice", []*node{n}, func(o *Options) { o.Margin = margin })
	begun, left := make(chan struct{}), make(chan time.Duration, 1)
	go func() {
		_ = c.Run(t.Context(), []Scope{{ID: "a"}}, func(ctx context.Context, _ Token) error {
			close(begun)
			<-ctx.Done()
			var remaining time.Duration
			for _, h := range c.Held() {
				remaining = h.Remaining
			}
			left <- remaining
			return nil
		})
	}()
	next(t, "a call", begun)
	n.change(func() { n.mute = true })
	if got := next(t, "the end of the context", left); got > margin || got < margin/4 {
		t.Errorf("at the end of the context %v of the lease were left, want %v", got, margin)
	}
}

// Err reads the clock itself: here nothing else does, as in a process whose timers are
// late.
func TestErrReadsTheClock(t *testing.T) {
	t.Parallel()
	c := newClient(t, "alice", []*node{{address: "127.0.0.1:1"}})
	c.until.Store(int64(c.clock.Now().Add(50 * time.Millisecond)))
	ctx := newLeaseContext(t.Context(), c, Token{Scope: "a", Fence: 7})
	if err := ctx.Err(); err != nil {
		t.Fatalf("before the end: %v", err)
	}
	child, cancel := context.WithTimeout(ctx, time.Hour)
	defer cancel()
	await(t, within, "the end", func() bool { return ctx.Err() != nil })
	if c.clock.Now() < core.Time(c.until.Load()) {
		t.Error("it ended too early")
	}
	if err := ctx.Err(); !errors.Is(err, context.Canceled) {
		t.Errorf("Err says %v", err)
	}
	next(t, "the child's end", child.Done())
	if cause := context.Cause(child); !errors.Is(cause, ErrLeaseLapsed) {
		t.Errorf("the child ended since %v", cause)
	}
	c.until.Store(int64(core.Never))
	if ctx.Err() == nil {
		t.Error("it came back to life")
	}
}

// A deadline would be wrong after the next renewal, and would swallow those of callers.
func TestTheContextHasNoDeadlineOfTheLease(t *testing.T) {
	t.Parallel()
	c := newClient(t, "alice", []*node{{address: "127.0.0.1:1"}})
	if at, ok := newLeaseContext(t.Context(), c, Token{}).Deadline(); ok {
		want, has := t.Context().Deadline()
		if !has || !at.Equal(want) {
			t.Errorf("its deadline is %v, the parent's %v, %t", at, want, has)
		}
	}
}

func TestAHandOverWaitsForTheFunction(t *testing.T) {
	t.Parallel()
	r := newRegistry(t, "a")
	n := r.serve()
	alice, bob := newClient(t, "alice", []*node{n}), newClient(t, "bob", []*node{n})
	asked, release := make(chan call, 1), make(chan struct{})
	go func() {
		_ = alice.Run(t.Context(), []Scope{{ID: "a"}}, func(ctx context.Context, token Token) error {
			<-ctx.Done()
			asked <- call{ctx, token}
			<-release
			return nil
		})
	}()
	await(t, within, "alice leading", func() bool { _, ok := alice.Holds("a"); return ok })
	second := stand(t, bob, "a")
	await(t, within, "bob standing", func() bool { return bob.session() != 0 })
	r.transfer("a", "bob")
	got := next(t, "the request", asked)
	var why *HandOver
	if cause := context.Cause(got.ctx); !errors.Is(cause, ErrHandOver) || !errors.As(cause, &why) || why.To != "bob" || why.Reason != core.AskTransfer {
		t.Errorf("the context ended since %v", cause)
	}
	if err := Leading(got.ctx); err != nil {
		t.Errorf("while the function has not returned: %v", err)
	}
	if led, _ := r.leader("a"); led.LeaderID != "alice" {
		t.Errorf("%s leads before the function has returned", led.LeaderID)
	}
	close(release)
	if begun := next(t, "bob's call", second.begun); begun.token.Fence <= got.token.Fence || begun.token.Term != 2 {
		t.Errorf("after %+v bob leads with %+v", got.token, begun.token)
	}
}

func (c *Client) session() core.SessionID {
	c.mu.Lock()
	defer c.mu.Unlock()
	return c.member.Session()
}

// A function that returns is called again, when nobody else stands, under a higher
// fence and not at once.
func TestAFunctionThatReturnsIsCalledAgainAfterARest(t *testing.T) {
	t.Parallel()
	for name, result := range map[string]error{"nil": nil, "an error": errors.New("no luck")} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			r := newRegistry(t, "a")
			c := newClient(t, "alice", []*node{r.serve()})
			type begun struct {
				at    time.Time
				fence uint64
			}
			calls := make(chan begun, 16)
			go func() {
				_ = c.Run(t.Context(), []Scope{{ID: "a"}}, func(_ context.Context, token Token) error {
					calls <- begun{time.Now(), token.Fence}
					return result
				})
			}()
			last := next(t, "the first call", calls)
			for range 2 {
				now := next(t, "a further call", calls)
				if now.fence <= last.fence {
					t.Errorf("fence %d came after %d", now.fence, last.fence)
				}
				if rested := now.at.Sub(last.at); rested < restAfter-5*time.Millisecond {
					t.Errorf("it rested for %v, want %v at least", rested, restAfter)
				}
				last = now
			}
		})
	}
}

// Another one that stands gets the scope of a function that failed.
func TestAFunctionThatFailsGivesWayToAnotherMember(t *testing.T) {
	t.Parallel()
	r := newRegistry(t, "a")
	n := r.serve()
	alice, bob := newClient(t, "alice", []*node{n}), newClient(t, "bob", []*node{n})
	fail := make(chan struct{})
	go func() {
		_ = alice.Run(t.Context(), []Scope{{ID: "a"}}, func(context.Context, Token) error {
			<-fail
			return errors.New("no luck")
		})
	}()
	await(t, within, "alice leading", func() bool { _, ok := alice.Holds("a"); return ok })
	second := stand(t, bob, "a")
	await(t, within, "bob standing", func() bool { return bob.session() != 0 })
	close(fail)
	next(t, "bob's call", second.begun)
}

// A leadership that the registry ends is over at once, and the next one is another.
func TestAnExpiredSessionEndsTheContext(t *testing.T) {
	t.Parallel()
	r := newRegistry(t, "a")
	c := newClient(t, "alice", []*node{r.serve()})
	lead := stand(t, c, "a")
	first := next(t, "a call", lead.begun)
	r.expire(first.token.Session)
	ended := next(t, "the end of the context", lead.ended)
	if cause := context.Cause(ended.ctx); !errors.Is(cause, ErrTaken) {
		t.Errorf("it ended since %v", cause)
	}
	second := next(t, "another call", lead.begun)
	if second.token.Session == first.token.Session || second.token.Fence <= first.token.Fence {
		t.Errorf("after %+v it leads with %+v", first.token, second.token)
	}
	if err := Leading(first.ctx); !errors.Is(err, ErrNotLeading) {
		t.Errorf("under the first fence: %v", err)
	}
}

// A function that does not return keeps its scope from being served twice, and what is
// gained meanwhile is given up again.
func TestAFunctionIsNeverCalledTwiceAtOnceForAScope(t *testing.T) {
	t.Parallel()
	r := newRegistry(t, "a")
	c := newClient(t, "alice", []*node{r.serve()})
	var inside, most atomic.Int32
	release, calls := make(chan struct{}), make(chan call, 16)
	go func() {
		_ = c.Run(t.Context(), []Scope{{ID: "a"}}, func(ctx context.Context, token Token) error {
			most.Store(max(most.Load(), inside.Add(1)))
			defer inside.Add(-1)
			calls <- call{ctx, token}
			<-release
			return nil
		})
	}()
	first := next(t, "a call", calls)
	r.expire(first.token.Session)
	var again Token
	await(t, within, "the scope gained again", func() (ok bool) { again, ok = c.Holds("a"); return ok && again.Fence > first.token.Fence })
	await(t, within, "it given up again", func() bool { led, ok := r.leader("a"); return !ok || led.Fence > again.Fence })
	close(release)
	next(t, "a further call", calls)
	if n := most.Load(); n != 1 {
		t.Errorf("%d calls at once", n)
	}
}

// What the registry refuses for good ends Run with the reason.
func TestRunReturnsARefusal(t *testing.T) {
	t.Parallel()
	r := newRegistry(t, "a")
	n := r.serve()
	n.change(func() { n.code = "forbidden" })
	c := newClient(t, "alice", []*node{n})
	var refusal *core.Error
	if err := next(t, "the refusal", stand(t, c, "a").result); !errors.As(err, &refusal) || refusal.Code != "forbidden" {
		t.Errorf("Run: %v", err)
	}
}

func TestRunReturnsWhenEveryNodeDeniesTheCaller(t *testing.T) {
	t.Parallel()
	r := newRegistry(t, "a")
	nodes := []*node{r.serve(), r.serve()}
	for _, n := range nodes {
		n.change(func() { n.refusal = status.Error(codes.PermissionDenied, "this certificate may not") })
	}
	c := newClient(t, "alice", nodes)
	if err := next(t, "the refusal", stand(t, c, "a").result); status.Code(err) != codes.PermissionDenied {
		t.Errorf("Run: %v", err)
	}
}

func TestRunRefusesWhatItCannotStandFor(t *testing.T) {
	t.Parallel()
	c := newClient(t, "alice", []*node{{address: "127.0.0.1:1"}})
	lead := func(context.Context, Token) error { return nil }
	if err := c.Stand(Scope{ID: "taken"}); err != nil {
		t.Fatal(err)
	}
	for name, scopes := range map[string][]Scope{
		"none": nil, "everything": {{}}, "a malformed id": {{ID: "a b"}}, "one twice": {{ID: "a"}, {ID: "a"}},
		"one stood for": {{ID: "taken"}}, "a priority beyond the limit": {{ID: "a", Priority: core.MaxPriority + 1}},
	} {
		if err := c.Run(t.Context(), scopes, lead); err == nil {
			t.Errorf("%s: it ran", name)
		}
	}
	if err := c.Close(); err != nil {
		t.Error(err)
	}
	if err := c.Run(t.Context(), []Scope{{ID: "a"}}, lead); !errors.Is(err, ErrClosed) {
		t.Errorf("after Close: %v", err)
	}
}

// Many scopes of one namespace by one selector.
func TestRunLeadsWhatASelectorPicks(t *testing.T) {
	t.Parallel()
	var shards []string
	for i := range 20 {
		shards = append(shards, fmt.Sprintf("shard/orders/%02d", i))
	}
	r := newRegistry(t, append(shards, "shard/other/00")...)
	c := newClient(t, "alice", []*node{r.serve()})
	led := make(chan Token, 64)
	ctx, stop := context.WithCancel(t.Context())
	result := make(chan error, 1)
	go func() {
		result <- c.Run(ctx, []Scope{{Kind: core.KindShard, Namespace: "orders"}}, func(ctx context.Context, token Token) error {
			led <- token
			<-ctx.Done()
			return nil
		})
	}()
	for range shards {
		next(t, "a shard", led)
	}
	stop()
	if err := next(t, "the end", result); err != nil {
		t.Error(err)
	}
	await(t, within, "all given up", func() bool {
		for _, s := range shards {
			if _, ok := r.leader(s); ok {
				return false
			}
		}
		return true
	})
	if _, ok := r.leader("shard/other/00"); ok {
		t.Error("it led another namespace")
	}
}

// A function of a Run that is over keeps that of another from being called beside it.
func TestRunsShareAScopeNever(t *testing.T) {
	t.Parallel()
	r := newRegistry(t, "a")
	c := newClient(t, "alice", []*node{r.serve()})
	ctx, stop := context.WithCancel(t.Context())
	begun, release, first := make(chan Token, 1), make(chan struct{}), make(chan error, 1)
	go func() {
		first <- c.Run(ctx, []Scope{{ID: "a"}}, func(_ context.Context, token Token) error {
			begun <- token
			<-release
			return nil
		})
	}()
	next(t, "a call", begun)
	stop()
	await(t, within, "the end begun", func() bool { c.mu.Lock(); defer c.mu.Unlock(); return c.runs[0].ended })
	second := stand(t, c, "a")
	await(t, within, "standing", func() bool { c.mu.Lock(); defer c.mu.Unlock(); return len(c.runs) == 2 })
	r.expire(c.session())
	select {
	case got := <-second.begun:
		t.Errorf("called under %d while the function of before has not returned", got.token.Fence)
	case <-time.After(2 * testTTL):
	}
	close(release)
	if err := next(t, "the end", first); err != nil {
		t.Error(err)
	}
	next(t, "a call of the other", second.begun)
}

package client

import (
	"context"
	"slices"
	"testing"
	"time"

	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"

	"github.com/omnirelay/leadership/core"
	"github.com/omnirelay/leadership/wire/controlpb"
)

// watching reads events until the test ends.
func watching(t *testing.T, c *Client, w Watch) <-chan Event {
	t.Helper()
	ctx, stop := context.WithCancel(t.Context())
	events, ended := make(chan Event, 256), make(chan struct{})
	go func() {
		defer close(ended)
		for e, err := range c.Events(ctx, w) {
			if err != nil {
				t.Errorf("the stream of events ended: %v", err)
				return
			}
			events <- e
		}
	}()
	t.Cleanup(func() {
		stop()
		<-ended
	})
	return events
}

// A stream goes on from another node where it stopped: no event is missed or repeated.
func TestEventsGoOnFromAnotherNode(t *testing.T) {
	t.Parallel()
	r := newRegistry(t, "a")
	nodes := []*node{r.serve(), r.serve(), r.serve()}
	c := newClient(t, "alice", nodes)
	events := watching(t, c, Watch{})
	if e := next(t, "the end of the snapshot", events); e.Kind != core.EventObserved.String() || e.Reason != core.ReasonSnapshotEnd {
		t.Fatalf("the stream began with %+v", e)
	}
	var last core.Cursor
	for i, n := range nodes {
		scope := string(rune('b' + i))
		r.declare(scope)
		e := next(t, "an event", events)
		if e.Kind != core.EventScopeDeclared.String() || e.Scope != scope {
			t.Fatalf("of %s it told %+v", scope, e)
		}
		at := core.Cursor{Revision: e.Revision, Ordinal: e.Ordinal}
		if at.Compare(last) <= 0 {
			t.Errorf("%v came after %v", at, last)
		}
		last = at
		if i < len(nodes)-1 {
			n.stop()
			r.declare(scope + "-while-it-is-lost")
			if e := next(t, "an event", events); e.Scope != scope+"-while-it-is-lost" {
				t.Fatalf("it told %+v", e)
			}
		}
	}
}

// A snapshot that breaks off is announced to begin anew.
func TestASnapshotThatBreaksOffBeginsAnew(t *testing.T) {
	t.Parallel()
	r := newRegistry(t, "a", "b")
	n := r.serve()
	c := newClient(t, "alice", []*node{n})
	lead := stand(t, c, "a", "b")
	next(t, "a call", lead.begun)
	next(t, "a call", lead.begun)
	f := &follower{client: c, endpoints: newEndpoints([]string{n.address}, time.Millisecond, time.Millisecond)}
	var told []string
	f.yield = func(e Event, _ error) bool {
		told = append(told, e.Kind+" "+e.Reason)
		return len(told) != 1 && e.Reason != core.ReasonSnapshotEnd
	}
	for len(told) < 5 {
		if err := f.follow(t.Context(), n.address); err == nil {
			t.Fatal("a reader that has enough is served on")
		}
	}
	want := []string{"SNAPSHOT ", "OBSERVED resync", "SNAPSHOT ", "SNAPSHOT ", "OBSERVED snapshot-end"}
	for i := range want {
		if told[i] != want[i] {
			t.Fatalf("it told %q, want %q", told, want)
		}
	}
	if f.watch.From == nil {
		t.Error("it has no place to go on from")
	}
}

func TestAStreamOfEventsThatIsRefusedEndsWithTheReason(t *testing.T) {
	t.Parallel()
	r := newRegistry(t, "a")
	n := r.serve()
	n.change(func() { n.refusal = status.Error(codes.PermissionDenied, "no") })
	c := newClient(t, "alice", []*node{n, r.refusing(codes.NotFound)})
	var last error
	for e, err := range c.Events(t.Context(), Watch{Scope: "a"}) {
		if err == nil {
			t.Errorf("it told %+v", e)
		}
		last = err
	}
	if last == nil {
		t.Error("it ended without a reason")
	}
}

// refusing is a node that refuses every call.
func (r *registry) refusing(code codes.Code) *node {
	n := r.serve()
	n.change(func() { n.refusal = status.Error(code, "no") })
	return n
}

func TestCloseEndsEvents(t *testing.T) {
	t.Parallel()
	r := newRegistry(t, "a")
	c := newClient(t, "alice", []*node{r.serve()})
	first, ended := make(chan struct{}), make(chan struct{})
	go func() {
		defer close(ended)
		for _, err := range c.Events(t.Context(), Watch{}) {
			if err != nil {
				t.Error(err)
			}
			close(first)
		}
	}()
	next(t, "an event", first)
	if err := c.Close(); err != nil {
		t.Error(err)
	}
	next(t, "the end", ended)
}

// What only a later version knows is passed over, and not asked for again.
func TestEventsOfLaterVersionsArePassedOver(t *testing.T) {
	t.Parallel()
	f := &follower{endpoints: newEndpoints([]string{"a:1"}, time.Millisecond, time.Millisecond)}
	var told []string
	f.yield = func(e Event, _ error) bool {
		told = append(told, e.Kind)
		return true
	}
	for _, e := range []*controlpb.LeadershipEvent{
		{Kind: controlpb.LeadershipEventKind(core.EventElected), Revision: 7, Ordinal: 1}, {Kind: 999, Revision: 7, Ordinal: 2}, {Kind: 999},
	} {
		if err := f.show(e); err != nil {
			t.Fatal(err)
		}
	}
	if !slices.Equal(told, []string{"ELECTED"}) || f.watch.From == nil || *f.watch.From != (core.Cursor{Revision: 7, Ordinal: 2}) {
		t.Errorf("it told %v, and would resume behind %v", told, f.watch.From)
	}
}

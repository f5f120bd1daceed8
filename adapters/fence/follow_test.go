package fence

import (
	"context"
	"errors"
	"io"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"google.golang.org/grpc"

	"github.com/omnirelay/leadership/wire/controlpb"
)

const (
	snapshot = controlpb.LeadershipEventKind_LEADERSHIP_EVENT_KIND_SNAPSHOT
	observed = controlpb.LeadershipEventKind_LEADERSHIP_EVENT_KIND_OBSERVED
	elected  = controlpb.LeadershipEventKind_LEADERSHIP_EVENT_KIND_ELECTED
	expired  = controlpb.LeadershipEventKind_LEADERSHIP_EVENT_KIND_EXPIRED
	stepped  = controlpb.LeadershipEventKind_LEADERSHIP_EVENT_KIND_STEPPED_DOWN
	lost     = controlpb.LeadershipEventKind_LEADERSHIP_EVENT_KIND_LOST
	drain    = controlpb.LeadershipEventKind_LEADERSHIP_EVENT_KIND_DRAIN_REQUESTED
)

func event(kind controlpb.LeadershipEventKind, scope string, fence int64, revision uint64) *controlpb.LeadershipEvent {
	return &controlpb.LeadershipEvent{Kind: kind, Scope: scope, Revision: revision, Ordinal: uint32(revision % 7), Token: &controlpb.LeadershipToken{Scope: scope, FenceToken: fence}}
}

// broadcast is a registry that a test tells what to stream.
type broadcast struct {
	mu     sync.Mutex
	opened []*controlpb.LeadershipSubscribeRequest
	fails  error
	events chan *controlpb.LeadershipEvent // nil as an event ends the stream
}

func (b *broadcast) Subscribe(ctx context.Context, r *controlpb.LeadershipSubscribeRequest, _ ...grpc.CallOption) (grpc.ServerStreamingClient[controlpb.LeadershipEvent], error) {
	b.mu.Lock()
	defer b.mu.Unlock()
	b.opened = append(b.opened, r)
	if b.fails != nil {
		return nil, b.fails
	}
	return &listening{ctx: ctx, events: b.events}, nil
}

type listening struct {
	grpc.ClientStream
	ctx    context.Context
	events chan *controlpb.LeadershipEvent
}

func (s *listening) Recv() (*controlpb.LeadershipEvent, error) {
	select {
	case e := <-s.events:
		if e == nil {
			return nil, io.EOF
		}
		return e, nil
	case <-s.ctx.Done():
		return nil, s.ctx.Err()
	}
}

var _ Subscriber = controlpb.LeadershipControlServiceClient(nil)

func TestFollow(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		g := newGuard(t, Options{})
		b := &broadcast{events: make(chan *controlpb.LeadershipEvent), fails: errors.New("no route")}
		ctx, cancel := context.WithCancel(t.Context())
		followed := make(chan error, 1)
		go func() { followed <- g.Follow(ctx, b) }()
		time.Sleep(time.Minute)
		synctest.Wait()
		if n := len(b.opened); n < 5 || n > 40 {
			t.Errorf("subscribed %d times in a minute without a connection", n)
		}
		b.mu.Lock()
		b.fails, b.opened = nil, nil
		b.mu.Unlock()

		// A leader is refused before its successor's first call.
		action, err := g.Begin(t.Context(), "s", 5)
		ok(t, err)
		for _, e := range []*controlpb.LeadershipEvent{
			event(snapshot, "s", 5, 0), event(snapshot, "other", 3, 0), {Kind: observed, Revision: 20, Ordinal: 6},
			event(drain, "s", 5, 21), event(elected, "other", 6, 22),
		} {
			b.events <- e
		}
		synctest.Wait()
		if action.Stale() != nil || g.Mark("s") != 5 || g.Mark("other") != 6 {
			t.Errorf("%v, marks %d and %d", action.Stale(), g.Mark("s"), g.Mark("other"))
		}
		b.events <- event(elected, "s", 8, 23)
		synctest.Wait()
		stale(t, action.Stale(), 5, 8)
		action.End()

		// Also when nobody has followed it yet.
		for i, kind := range []controlpb.LeadershipEventKind{expired, stepped, lost} {
			fence := int64(10 + 2*i)
			b.events <- event(elected, "s", fence, uint64(30+i))
			synctest.Wait()
			ok(t, g.Admit(t.Context(), "s", uint64(fence)))
			b.events <- event(kind, "s", fence, uint64(30+i))
			synctest.Wait()
			stale(t, g.Admit(t.Context(), "s", uint64(fence)), uint64(fence), uint64(fence)+1)
		}

		// What cannot be is passed over, and the next event counts.
		b.events <- event(elected, "s", -3, 40)
		b.events <- event(elected, "a b", 3, 41)
		b.events <- event(elected, "s", 20, 42)
		b.events <- nil
		time.Sleep(time.Second)
		if g.Mark("s") != 20 {
			t.Errorf("mark %d", g.Mark("s"))
		}
		b.mu.Lock()
		if len(b.opened) != 2 || b.opened[0].GetFromRevision() != 0 || b.opened[1].GetFromRevision() != 42 || b.opened[1].GetFromOrdinal() != 0 {
			t.Errorf("subscribed as %v", b.opened)
		}
		b.mu.Unlock()
		cancel()
		if err := <-followed; !errors.Is(err, context.Canceled) {
			t.Errorf("%v", err)
		}
	})
}

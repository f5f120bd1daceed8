package fence

import (
	"context"
	"errors"
	"time"

	"google.golang.org/grpc"

	"github.com/omnirelay/leadership/wire/controlpb"
)

// Subscriber opens event streams of the registry. It is a part of
// controlpb.LeadershipControlServiceClient.
type Subscriber interface {
	Subscribe(ctx context.Context, in *controlpb.LeadershipSubscribeRequest, opts ...grpc.CallOption) (grpc.ServerStreamingClient[controlpb.LeadershipEvent], error)
}

const (
	followRetry    = 100 * time.Millisecond // the pause after a stream that told nothing
	maxFollowRetry = 5 * time.Second
)

// Follow observes every event of the registry until ctx ends, whose error it returns:
// a leader is refused as soon as its end is known here, before its successor's first
// call. It subscribes again when the stream breaks, and goes on where it was. A
// stream may lag: it raises marks, and never makes the guard ready.
func (g *Guard) Follow(ctx context.Context, from Subscriber) error {
	var cursor controlpb.LeadershipSubscribeRequest
	pause := followRetry
	for {
		told, err := g.followOnce(ctx, from, &cursor)
		if ctx.Err() != nil {
			return ctx.Err()
		}
		if told {
			pause = followRetry
		}
		g.o.Logger.Info("the leadership stream of the fence guard ended; subscribing again", "error", err, "pause", pause)
		select {
		case <-ctx.Done():
			return ctx.Err()
		case <-time.After(jitter(pause)):
		}
		pause = min(2*pause, maxFollowRetry)
	}
}

// followOnce observes one stream to its end, and moves the cursor.
func (g *Guard) followOnce(ctx context.Context, from Subscriber, cursor *controlpb.LeadershipSubscribeRequest) (told bool, err error) {
	ctx, cancel := context.WithCancel(ctx) // ends the stream
	defer cancel()
	stream, err := from.Subscribe(ctx, &controlpb.LeadershipSubscribeRequest{FromRevision: cursor.FromRevision, FromOrdinal: cursor.FromOrdinal})
	if err != nil {
		return false, err
	}
	for {
		e, err := stream.Recv()
		if err != nil {
			return told, err
		}
		told = true
		if err := g.observeEvent(e); err != nil {
			g.o.Logger.Warn("an event could not be observed", "scope", e.GetScope(), "error", err)
		}
		if e.GetRevision() != 0 {
			cursor.FromRevision, cursor.FromOrdinal = e.GetRevision(), e.GetOrdinal()
		}
	}
}

// observeEvent raises the mark to what the event says of a leadership. After the end
// of one its fence is over, although nobody was elected yet.
func (g *Guard) observeEvent(e *controlpb.LeadershipEvent) error {
	t := e.GetToken()
	if t == nil {
		return nil
	}
	if t.GetFenceToken() <= 0 {
		return errors.New("the event's token has no fence")
	}
	fence := uint64(t.GetFenceToken())
	switch e.GetKind() {
	case controlpb.LeadershipEventKind_LEADERSHIP_EVENT_KIND_LOST,
		controlpb.LeadershipEventKind_LEADERSHIP_EVENT_KIND_EXPIRED,
		controlpb.LeadershipEventKind_LEADERSHIP_EVENT_KIND_STEPPED_DOWN:
		fence++
	}
	return g.Observe(t.GetScope(), fence)
}

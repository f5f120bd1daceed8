package client

import (
	"context"
	"errors"
	"fmt"
	"io"
	"iter"
	"time"

	"github.com/omnirelay/leadership/core"
	"github.com/omnirelay/leadership/wire"
	"github.com/omnirelay/leadership/wire/controlpb"
)

// Event is one event of a stream of leadership.
type Event = wire.Event

// Watch settles a stream of Events.
type Watch struct {
	Scope string // only its events; empty: all
	// From resumes behind a place; nil: from a snapshot of who leads now.
	From *core.Cursor
	// Renewals are told too; they carry no cursor.
	Renewals bool
}

// Events yields what happens to leadership, in order and without a gap, until ctx or
// the client ends. Without a place to resume from it begins with a SNAPSHOT event for
// each led scope and an OBSERVED one with core.ReasonSnapshotEnd. When a node is lost
// the stream goes on from another. Where that cannot be done, since the events in
// between are no longer kept or the snapshot was not whole, an OBSERVED event with
// core.ReasonResync says so and a new snapshot follows. Kinds that only later versions know
// are passed over.
//
// An error is the last thing that is yielded: every node refused the request itself.
func (c *Client) Events(ctx context.Context, w Watch) iter.Seq2[Event, error] {
	return func(yield func(Event, error) bool) {
		ctx, cancel := context.WithCancel(ctx)
		defer cancel()
		defer context.AfterFunc(c.ctx, cancel)()
		f := &follower{client: c, watch: w, endpoints: newEndpoints(c.o.Endpoints, 50*time.Millisecond, maxIdlePause), yield: yield}
		for ctx.Err() == nil {
			address, pause := f.endpoints.pick(time.Now())
			select {
			case <-ctx.Done():
				return
			case <-time.After(pause):
			}
			if !f.left(ctx, address, f.follow(ctx, address)) {
				return
			}
		}
	}
}

// errEnough: whoever ranges over the events wants no more.
var errEnough = errors.New("enough")

// follower is one reader of events.
type follower struct {
	client    *Client
	watch     Watch
	endpoints *endpoints
	yield     func(Event, error) bool
	first     bool // no event of this stream was shown
	partial   bool // a snapshot was begun, and its end not seen
}

// left reports whether to go on after a stream has ended.
func (f *follower) left(ctx context.Context, address string, err error) bool {
	if errors.Is(err, errEnough) || ctx.Err() != nil {
		return false
	}
	after, other := advice(err)
	f.endpoints.hint(other)
	f.client.logger.Warn("a stream of events ended", "endpoint", address, "error", err)
	if all := f.endpoints.refused(time.Now(), address, after); all && denied(err) {
		f.yield(Event{}, fmt.Errorf("client: the stream of events was refused: %w", err))
		return false
	}
	return true
}

func (f *follower) follow(ctx context.Context, address string) error {
	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	conn, release, err := f.client.conns.to(address)
	if err != nil {
		return err
	}
	defer release()
	late := time.AfterFunc(connectWithin, cancel)
	defer late.Stop()
	req := &controlpb.LeadershipSubscribeRequest{Scope: f.watch.Scope, IncludeRenewals: f.watch.Renewals}
	if from := f.watch.From; from != nil {
		req.FromRevision, req.FromOrdinal = from.Revision, from.Ordinal
	}
	stream, err := controlpb.NewLeadershipControlServiceClient(conn).Subscribe(ctx, req)
	if err != nil {
		return err
	}
	if _, err := stream.Header(); err != nil { // at once, though there may be nothing to tell
		return err
	}
	late.Stop()
	f.first = true
	for {
		p, err := stream.Recv()
		if errors.Is(err, io.EOF) {
			return errors.New("the node ended the stream")
		}
		if err != nil {
			return err
		}
		if err := f.show(p); err != nil {
			return err
		}
	}
}

// show yields one event, and a resync before it when a snapshot begins again in the
// middle of another.
func (f *follower) show(p *controlpb.LeadershipEvent) error {
	e, err := wire.EventFromProto(p)
	if err != nil {
		return fmt.Errorf("an event cannot be understood: %w", err)
	}
	f.endpoints.served()
	if !e.Known() {
		if e.Revision != 0 {
			f.watch.From = &core.Cursor{Revision: e.Revision, Ordinal: e.Ordinal}
		}
		return nil
	}
	again := f.first && f.partial
	f.first, f.partial = false, e.Kind == core.EventSnapshot.String()
	if again && !f.yield(Event{Kind: core.EventObserved.String(), Reason: core.ReasonResync}, nil) {
		return errEnough
	}
	if f.partial {
		f.watch.From = nil // there is no place within a snapshot
	}
	if e.Revision != 0 {
		f.watch.From = &core.Cursor{Revision: e.Revision, Ordinal: e.Ordinal}
	}
	if !f.yield(e, nil) {
		return errEnough
	}
	return nil
}

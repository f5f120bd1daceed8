package api

import (
	"fmt"
	"maps"
	"slices"
	"sync"

	"github.com/omnirelay/leadership/core"
	"github.com/omnirelay/leadership/wire"
	"github.com/omnirelay/leadership/wire/controlpb"
)

// maxReplies bounds the replies that wait for a member to read.
const maxReplies = 4 * MaxStreamCommands

// outbox is what waits to be sent to an attached member, and what of it is under way. Of
// acknowledgements and views only the latest of each session waits, so that it is
// bounded however slowly the member reads. Nothing here blocks.
type outbox struct {
	wake chan struct{} // holds one token while there is something to take

	mu       sync.Mutex
	replies  []*core.Reply
	views    map[core.SessionID]*core.View
	acks     map[core.SessionID]uint64
	underWay map[string]bool           // requests without a reply
	sessions map[core.SessionID]func() // of the caller, with what gives their place back
	closed   bool
}

func newOutbox() outbox {
	return outbox{wake: make(chan struct{}, 1), views: map[core.SessionID]*core.View{}, acks: map[core.SessionID]uint64{},
		underWay: map[string]bool{}, sessions: map[core.SessionID]func(){}}
}

func (o *outbox) poke() {
	select {
	case o.wake <- struct{}{}:
	default:
	}
}

// put takes an acknowledgement or a view. Those of sessions that are not this stream's
// are dropped, save the news that one has ended.
func (o *outbox) put(m core.ReplicaMessage) {
	o.mu.Lock()
	defer o.mu.Unlock()
	switch {
	case m.Ack != nil && o.sessions[m.Ack.Session] != nil:
		o.acks[m.Ack.Session] = max(o.acks[m.Ack.Session], m.Ack.Number)
	case m.View != nil && m.View.Live && o.sessions[m.View.Session] != nil:
		o.views[m.View.Session] = m.View
	case m.View != nil && !m.View.Live && len(o.views) < maxReplies:
		o.views[m.View.Session] = m.View
		o.drop(m.View.Session)
	}
	o.poke()
}

// drop gives the place of a session back. The caller holds the lock.
func (o *outbox) drop(id core.SessionID) {
	if release := o.sessions[id]; release != nil {
		release()
		delete(o.sessions, id)
	}
}

// reply takes a reply. The error ends the stream of a member that asks on and on and
// reads nothing.
func (o *outbox) reply(r *core.Reply) error {
	o.mu.Lock()
	defer o.mu.Unlock()
	if len(o.replies) >= maxReplies {
		return &core.Error{Code: core.CodeOverloaded, Message: fmt.Sprintf("%d replies were not read", maxReplies)}
	}
	o.replies = append(o.replies, r)
	o.poke()
	return nil
}

// take returns all that waits, and forgets it.
func (o *outbox) take() []*controlpb.AttachResponse {
	o.mu.Lock()
	defer o.mu.Unlock()
	batch := make([]*controlpb.AttachResponse, 0, len(o.replies)+len(o.views)+len(o.acks))
	for _, r := range o.replies {
		batch = append(batch, wire.AttachResponseOf(core.ReplicaMessage{Reply: r}))
	}
	for _, id := range slices.Sorted(maps.Keys(o.views)) {
		batch = append(batch, wire.AttachResponseOf(core.ReplicaMessage{View: o.views[id]}))
	}
	for _, id := range slices.Sorted(maps.Keys(o.acks)) {
		batch = append(batch, wire.AttachResponseOf(core.ReplicaMessage{Ack: &core.Ack{Session: id, Number: o.acks[id]}}))
	}
	o.replies = nil
	clear(o.views)
	clear(o.acks)
	return batch
}

// begin notes a request as under way; false when too many are.
func (o *outbox) begin(id string) bool {
	o.mu.Lock()
	defer o.mu.Unlock()
	if !o.underWay[id] && len(o.underWay) >= MaxStreamCommands {
		return false
	}
	o.underWay[id] = true
	return true
}

func (o *outbox) end(id string) {
	o.mu.Lock()
	defer o.mu.Unlock()
	delete(o.underWay, id)
}

func (o *outbox) underWayCount() int {
	o.mu.Lock()
	defer o.mu.Unlock()
	return len(o.underWay)
}

func (o *outbox) has(id core.SessionID) bool {
	o.mu.Lock()
	defer o.mu.Unlock()
	return o.sessions[id] != nil
}

// add makes a session one of this stream's. False when all places are taken, or the
// stream has ended.
func (o *outbox) add(id core.SessionID, release func()) bool {
	o.mu.Lock()
	defer o.mu.Unlock()
	if o.closed || len(o.sessions) >= MaxStreamSessions {
		return false
	}
	o.sessions[id] = release
	return true
}

// close gives all places back.
func (o *outbox) close() {
	o.mu.Lock()
	defer o.mu.Unlock()
	o.closed = true
	for id := range o.sessions {
		o.drop(id)
	}
}

package host

import (
	"context"
	"sync"
	"time"

	"github.com/omnirelay/leadership/core"
)

// Store is the external store that holds the log; see core.StoreCall.
type Store interface {
	// Do makes one call and answers it, never with nil: at the latest at c.Timeout or
	// when ctx ends, with core.StoreFailed then. It is safe for concurrent use.
	Do(ctx context.Context, c *core.StoreCall) *core.StoreReply
}

// maxStoreCalls bounds the calls under way at the same time. A replica makes one of
// each kind; what is beyond is answered with core.StoreFailed at once.
const maxStoreCalls = 16

// storeCalls runs calls on the store beside the loop.
type storeCalls struct {
	h       *Host
	ctx     context.Context // of Run
	slots   chan struct{}
	running sync.WaitGroup
}

func newStoreCalls(ctx context.Context, h *Host) *storeCalls {
	return &storeCalls{h: h, ctx: ctx, slots: make(chan struct{}, maxStoreCalls)}
}

// start makes a call; its reply comes through the inbox. It does not block.
func (s *storeCalls) start(c *core.StoreCall) {
	select {
	case s.slots <- struct{}{}:
	default:
		s.h.inbox.force(core.Input{Store: &core.StoreReply{ID: c.ID, Status: core.StoreFailed, Text: "too many calls are under way"}})
		return
	}
	s.running.Go(func() {
		begun := time.Now()
		reply := s.h.o.Store.Do(s.ctx, c)
		<-s.slots
		// One that was cut off by our own end says nothing about the store.
		if s.h.o.OnStoreCall != nil && s.ctx.Err() == nil {
			s.h.o.OnStoreCall(c, reply, time.Since(begun))
		}
		s.h.inbox.force(core.Input{Store: reply})
	})
}

// wait returns when no call is under way. Run's context must have ended.
func (s *storeCalls) wait() { s.running.Wait() }

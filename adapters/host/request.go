package host

import (
	"context"
	"sync"

	"github.com/omnirelay/leadership/core"
	"github.com/omnirelay/leadership/core/logpb"
)

// calls are the callers that wait for an answer of the loop.
type calls struct {
	mu       sync.Mutex
	next     uint64
	requests map[uint64]chan *core.Result
	reads    map[uint64]chan error
	stopped  bool
}

func (c *calls) init() {
	c.requests, c.reads = map[uint64]chan *core.Result{}, map[uint64]chan error{}
}

// failAll ends every wait: the loop has stopped and will not answer.
func (c *calls) failAll() {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.stopped = true
	for tag, ch := range c.requests {
		close(ch)
		delete(c.requests, tag)
	}
	for tag, ch := range c.reads {
		ch <- errStopped
		delete(c.reads, tag)
	}
}

func (c *calls) openRequest() (uint64, chan *core.Result, bool) {
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.stopped {
		return 0, nil, false
	}
	c.next++
	ch := make(chan *core.Result, 1)
	c.requests[c.next] = ch
	return c.next, ch, true
}

func (c *calls) openRead() (uint64, chan error, bool) {
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.stopped {
		return 0, nil, false
	}
	c.next++
	ch := make(chan error, 1)
	c.reads[c.next] = ch
	return c.next, ch, true
}

func (c *calls) forget(tag uint64) {
	c.mu.Lock()
	defer c.mu.Unlock()
	delete(c.requests, tag)
	delete(c.reads, tag)
}

func (c *calls) finishRequest(d core.RequestDone) {
	c.mu.Lock()
	defer c.mu.Unlock()
	if ch := c.requests[d.Tag]; ch != nil {
		ch <- d.Result
		delete(c.requests, d.Tag)
	}
}

func (c *calls) finishRead(d core.ReadDone) {
	c.mu.Lock()
	defer c.mu.Unlock()
	if ch := c.reads[d.Tag]; ch != nil {
		if d.Err != nil {
			ch <- d.Err
		} else {
			ch <- nil
		}
		delete(c.reads, d.Tag)
	}
}

// Do executes a command through the log and returns its result. A refusal is an
// *core.Error. When ctx ends first the outcome is unknown: do it again with the
// same request id.
func (h *Host) Do(ctx context.Context, c *logpb.Command) (*core.Result, error) {
	tag, answer, ok := h.calls.openRequest()
	if !ok {
		return nil, errStopped
	}
	defer h.calls.forget(tag)
	if !h.inbox.offer(core.Input{Request: &core.RequestInput{Tag: tag, Command: c}}) {
		return nil, &core.Error{Code: core.CodeOverloaded, Message: "too much is waiting on this node; nothing was done, retry later"}
	}
	select {
	case result, ok := <-answer:
		if !ok {
			return nil, errStopped
		}
		if result.Code != "" {
			return result, &core.Error{Code: core.Code(result.Code), Field: result.Field, Message: result.Message}
		}
		return result, nil
	case <-ctx.Done():
		return nil, ctx.Err()
	}
}

// ReadBarrier returns nil once the local copy holds everything that was
// acknowledged anywhere before the call.
func (h *Host) ReadBarrier(ctx context.Context) error {
	tag, answer, ok := h.calls.openRead()
	if !ok {
		return errStopped
	}
	defer h.calls.forget(tag)
	if !h.inbox.offer(core.Input{Read: &core.ReadInput{Tag: tag}}) {
		return &core.Error{Code: core.CodeOverloaded, Message: "too much is waiting on this node; retry later"}
	}
	select {
	case err := <-answer:
		return err
	case <-ctx.Done():
		return ctx.Err()
	}
}

package client

import (
	"context"
	"iter"

	"github.com/omnirelay/leadership/core"
)

// Change tells what happened to this member. Authority is never carried by it: Holds
// decides, at the moment of acting. Its kinds are core.ChangeGained and the others.
type Change = core.MemberChange

// maxUnread is how many changes a reader may be behind.
const maxUnread = 1024

// reader is one reader of Changes.
type reader struct{ changes chan Change }

// Changes yields what happens to this member from the moment it is ranged over, until
// ctx or the client ends. It also ends when its reader is more than 1,024 changes
// behind: then ask Held, and range over a new one.
func (c *Client) Changes(ctx context.Context) iter.Seq[Change] {
	return func(yield func(Change) bool) {
		r := c.addReader()
		if r == nil {
			return
		}
		defer c.removeReader(r)
		for {
			select {
			case <-ctx.Done():
				return
			case change, open := <-r.changes:
				if !open || !yield(change) {
					return
				}
			}
		}
	}
}

// addReader is nil once the client has ended.
func (c *Client) addReader() *reader {
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.ctx.Err() != nil {
		return nil
	}
	r := &reader{changes: make(chan Change, maxUnread)}
	c.readers[r] = struct{}{}
	return r
}

func (c *Client) removeReader(r *reader) {
	c.mu.Lock()
	defer c.mu.Unlock()
	delete(c.readers, r)
}

// tell passes a change on. mu is held.
func (c *Client) tell(change Change) {
	for r := range c.readers {
		select {
		case r.changes <- change:
		default:
			delete(c.readers, r)
			close(r.changes)
		}
	}
}

// endReaders ends every Changes once all is told.
func (c *Client) endReaders() {
	c.mu.Lock()
	defer c.mu.Unlock()
	for r := range c.readers {
		delete(c.readers, r)
		close(r.changes)
	}
}

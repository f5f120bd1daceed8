package host

import (
	"context"
	"iter"

	"github.com/omnirelay/leadership/core"
)

// Snapshot returns the tokens of all led scopes, sorted by scope, at one revision
// of the local copy.
func (h *Host) Snapshot() (revision uint64, tokens []core.Token) {
	h.View(func(g *core.Registry, _ core.Status) { revision, tokens = g.Revision(), g.Tokens() })
	return revision, tokens
}

// Token returns the token of the scope's leader by the local copy.
func (h *Host) Token(scope string) (t core.Token, led bool) {
	h.View(func(g *core.Registry, _ core.Status) { t, led = g.Token(scope) })
	return t, led
}

// CheckCursor starts a stream over when its reader's cursor lies ahead of all that was
// ever acknowledged: it is of another history, and waiting would be silence. It asks
// the quorum, no longer than ctx allows; without an answer the stream waits.
func (h *Host) CheckCursor(ctx context.Context, sub *core.Subscription) {
	ahead := func() (is bool) {
		h.View(func(g *core.Registry, _ core.Status) { is = sub.Ahead(g) })
		return is
	}
	if ahead() && h.ReadBarrier(ctx) == nil && ahead() {
		sub.Resync()
	}
}

// streamBatch is how many items one look at the registry takes.
const streamBatch = 256

// Subscribe yields the event stream from the cursor on, or, when it is nil, from
// a snapshot, until ctx or the host ends. A consumer that is too slow for the
// retained history meets an OBSERVED item with core.ReasonResync.
func (h *Host) Subscribe(ctx context.Context, filter core.Filter, resume *core.Cursor) iter.Seq[core.StreamItem] {
	return func(yield func(core.StreamItem) bool) {
		sub := core.NewSubscription(filter, resume)
		h.CheckCursor(ctx, sub)
		for {
			changed := h.Changed()
			var items []core.StreamItem
			h.View(func(g *core.Registry, _ core.Status) { items = sub.Poll(g, streamBatch) })
			for _, item := range items {
				if ctx.Err() != nil || !yield(item) {
					return
				}
			}
			if len(items) > 0 {
				continue
			}
			select {
			case <-changed:
			case <-ctx.Done():
				return
			case <-h.done:
				return
			}
		}
	}
}

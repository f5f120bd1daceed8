package client

import (
	"context"
	"fmt"
	"sync/atomic"

	"github.com/omnirelay/leadership/adapters/fence"
)

// leaseContext is the context of one leadership. Its end is told by a timer, which may
// fire late, so Err looks at the clock as well. It has no deadline: renewals would move
// it, and a caller's own time-out is not to be swallowed by one that is nearer now.
type leaseContext struct {
	context.Context // ends by end, and carries the authority
	end             context.CancelCauseFunc
	client          *Client
	token           Token
	signed          atomic.Pointer[string] // the latest signed token; nil: none
}

func newLeaseContext(parent context.Context, c *Client, t Token) *leaseContext {
	ctx, end := context.WithCancelCause(parent)
	return &leaseContext{
		Context: fence.With(ctx, fence.Authority{Scope: t.Scope, Fence: t.Fence, Term: t.Term, Leader: t.LeaderID}),
		end:     end, client: c, token: t,
	}
}

// Err is nil while this process may act: it reads the clock.
func (l *leaseContext) Err() error {
	if err := l.Context.Err(); err != nil {
		return err
	}
	if l.client.lapsed() {
		l.end(ErrLeaseLapsed)
	}
	return l.Context.Err()
}

type leaseKey struct{}

// Value finds the authority with the token that is signed latest.
func (l *leaseContext) Value(key any) any {
	if key == (leaseKey{}) {
		return l
	}
	v := l.Context.Value(key)
	if a, ok := v.(fence.Authority); ok && a.Scope == l.token.Scope && a.Fence == l.token.Fence {
		if signed := l.signed.Load(); signed != nil {
			a.Token = *signed
		}
		return a
	}
	return v
}

// Leading is nil while the leadership that Run made ctx for is held, by the clock, and
// else an error that wraps ErrNotLeading. It may be asked of every context derived from
// Run's, also of one that has ended: a function that was asked to hand over still leads
// until it returns. Ask it before an action, and act at once.
func Leading(ctx context.Context) error {
	l, ok := ctx.Value(leaseKey{}).(*leaseContext)
	if !ok {
		return fmt.Errorf("%w: the context is not one of Run", ErrNotLeading)
	}
	if t, holds := l.client.Holds(l.token.Scope); !holds || t.Fence != l.token.Fence {
		return fmt.Errorf("%w: %s under fence %d", ErrNotLeading, l.token.Scope, l.token.Fence)
	}
	return nil
}

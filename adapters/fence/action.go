package fence

import (
	"context"
	"errors"
	"fmt"
	"sync"
	"sync/atomic"
	"time"

	"github.com/omnirelay/leadership/core"
)

// Action is one action of a leader under way: as long as it lasts, none under a
// higher fence begins in its scope.
type Action struct {
	guard  *Guard
	scope  string
	fence  uint64
	ctx    context.Context
	cancel context.CancelCauseFunc
	stale  atomic.Pointer[core.StaleError] // set when it is overtaken
	end    sync.Once
}

// Context ends when the action was overtaken, with a *core.StaleError as its cause,
// when its caller's context ends, and with the action.
func (a *Action) Context() context.Context { return a.ctx }

// End says that nothing of the action goes on. It may be called more than once.
func (a *Action) End() {
	a.end.Do(func() {
		a.cancel(nil)
		a.guard.leave(a)
	})
}

// Stale is nil, or the *core.StaleError by which the action was overtaken, also when its
// caller had gone by then.
func (a *Action) Stale() error {
	if stale := a.stale.Load(); stale != nil {
		return stale
	}
	var stale *core.StaleError
	if errors.As(context.Cause(a.ctx), &stale) {
		return stale
	}
	return nil
}

// outcome is what an effect's error means: what failed after the action was
// overtaken failed for that. What succeeded is done: successors wait for it.
func (a *Action) outcome(err error) error {
	if stale := a.Stale(); err != nil && stale != nil {
		return a.guard.count(stale)
	}
	return err
}

// gate is where the actions of one scope are under way, all under one fence.
type gate struct {
	fence   uint64
	actions map[*Action]struct{}
	idle    chan struct{} // closed when the last has ended
}

// overtake tells all actions to stop: fence is what the scope requires by now.
func (gt *gate) overtake(scope string, fence uint64) {
	if gt.fence >= fence {
		return
	}
	for a := range gt.actions {
		stale := &core.StaleError{Scope: scope, Fence: gt.fence, Required: fence}
		a.stale.CompareAndSwap(nil, stale)
		a.cancel(stale)
	}
}

// Begin admits an action of the scope's leader under fence. It raises the mark, makes
// it durable, and waits for the actions of overtaken leaders to end. The action must
// be ended. Errors: a *core.StaleError when the fence was overtaken; a
// *NotReadyError when that cannot be told yet, or an overtaken action does not end;
// a *core.Error when scope or fence are malformed or too many scopes are known; that
// of ctx.
func (g *Guard) Begin(ctx context.Context, scope string, fence uint64) (*Action, error) {
	a := &Action{guard: g, scope: scope, fence: fence}
	if err := g.admit(ctx, scope, fence, func() { g.enter(ctx, a) }); err != nil {
		return nil, err
	}
	return a, nil
}

// admit waits until the fence is admitted, and calls enter while no other can be.
func (g *Guard) admit(ctx context.Context, scope string, fence uint64, enter func()) error {
	err := g.acceptable(scope, fence)
	if err == nil {
		err = g.await(ctx, scope, fence, enter)
	}
	if err != nil {
		return g.count(err)
	}
	g.admitted.Add(1)
	return nil
}

func (g *Guard) await(ctx context.Context, scope string, fence uint64, enter func()) error {
	var patience *time.Timer
	for {
		wait, err := g.try(scope, fence, enter)
		if wait == nil {
			return err
		}
		if patience == nil {
			patience = time.NewTimer(g.o.Patience)
			defer patience.Stop()
		}
		select {
		case <-wait.over:
		case <-ctx.Done():
			return fmt.Errorf("waiting for admission to %q: %w", scope, ctx.Err())
		case <-patience.C:
			return &NotReadyError{Reason: fmt.Sprintf("%s took more than %s", wait.what, g.o.Patience), RetryAfter: comeBack}
		}
	}
}

func (g *Guard) acceptable(scope string, fence uint64) error {
	if fence == 0 || fence > MaxFence {
		return malformed("fence", "%d; want 1 to %d", fence, MaxFence)
	}
	if g.o.Scopes != nil && !g.o.Scopes(scope) {
		if err := core.ParseScopeID(scope); err != nil {
			return err
		}
		return &ScopeError{Scope: scope, Want: "this resource"}
	}
	return nil
}

// delay is what an action has to wait for.
type delay struct {
	over <-chan struct{}
	what string
}

// try admits, or says why not, or what to wait for before the next try.
func (g *Guard) try(scope string, fence uint64, enter func()) (*delay, error) {
	g.mu.Lock()
	defer g.mu.Unlock()
	if err := g.seeded(scope); err != nil {
		return nil, err
	}
	if err := g.judge(scope, fence); err != nil {
		return nil, err
	}
	if g.saved != nil && g.saved[scope] < fence {
		saved, err := g.save(scope, fence)
		if err != nil {
			return nil, err
		}
		return &delay{saved, fmt.Sprintf("saving the mark of %q", scope)}, nil
	}
	if gt := g.gates[scope]; gt != nil && gt.fence < fence {
		return &delay{gt.idle, fmt.Sprintf("ending an action of a former leader of %q", scope)}, nil
	}
	enter()
	return nil, nil
}

// enter puts the action under way.
func (g *Guard) enter(ctx context.Context, a *Action) {
	gt := g.gates[a.scope]
	if gt == nil {
		gt = &gate{fence: a.fence, actions: map[*Action]struct{}{}, idle: make(chan struct{})}
		g.gates[a.scope] = gt
	}
	a.ctx, a.cancel = context.WithCancelCause(ctx)
	gt.actions[a] = struct{}{}
}

// judge raises the mark to fence, or refuses it.
func (g *Guard) judge(scope string, fence uint64) error {
	if required := g.required(scope); fence < required {
		if err := core.ParseScopeID(scope); err != nil {
			return err
		}
		return &core.StaleError{Scope: scope, Fence: fence, Required: required}
	}
	return g.raise(scope, fence)
}

func (g *Guard) leave(a *Action) {
	g.mu.Lock()
	defer g.mu.Unlock()
	gt := g.gates[a.scope]
	delete(gt.actions, a)
	if len(gt.actions) == 0 {
		close(gt.idle)
		delete(g.gates, a.scope)
	}
}

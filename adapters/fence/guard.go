package fence

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"sync"
	"sync/atomic"
	"time"

	"github.com/omnirelay/leadership/core"
)

// Marks keeps the highest admitted fence of each scope where it outlives the
// process. It belongs to one Guard: who shares it among processes must check the
// fence in the transaction of the effect instead, see sqlfence and redisfence.
type Marks interface {
	// Load returns all marks kept, at most core.MaxGuardScopes.
	Load(ctx context.Context) (map[string]uint64, error)
	// Save returns when all of marks are durable. It lowers none that is kept.
	Save(ctx context.Context, marks map[string]uint64) error
}

// Claims are what the registry signed.
type Claims struct {
	Scope  string
	Fence  uint64
	Term   uint64
	Leader string // member id
}

// Verifier says what a signed token claims, or why it is not what the registry
// signed. A *NotReadyError says that it cannot tell now; any other error that the
// token is refused. Safe for concurrent use.
type Verifier interface {
	Verify(ctx context.Context, token string) (Claims, error)
}

// VerifierFunc is a function as a Verifier.
type VerifierFunc func(ctx context.Context, token string) (Claims, error)

// Verify calls f.
func (f VerifierFunc) Verify(ctx context.Context, token string) (Claims, error) { return f(ctx, token) }

// Options settle a Guard. At least one of Marks and Seeder is needed: without both
// the resource would forget with its process whom it must refuse.
type Options struct {
	// Marks keeps the marks: each is durable before the first action under it begins.
	Marks Marks
	// Seeder asks the registry for the marks; until it has answered everything is
	// refused with a *NotReadyError.
	Seeder Seeder
	// Verifier makes signed tokens the only authority of calls that arrive through
	// interceptors and Handler. Without one whoever may call this resource can
	// name a huge fence and so lock out every leader that comes.
	Verifier Verifier
	// Scopes says which scopes this resource acts for; nil: all. Those of others
	// are refused and take no memory.
	Scopes func(scope string) bool
	// Patience is how long an action waits for those of overtaken leaders to end,
	// once they were told to. 0: 5 s.
	Patience time.Duration
	// SaveTimeout bounds one Save, SeedTimeout one call of the Seeder. 0: 5 s.
	SaveTimeout, SeedTimeout time.Duration
	// Logger is told of what goes on without a caller: seeding, following. nil: nobody.
	Logger *slog.Logger
}

const (
	defaultPatience = 5 * time.Second
	defaultTimeout  = 5 * time.Second
	comeBack        = time.Second // the hint of a NotReadyError
)

func (o *Options) complete() error {
	if o.Marks == nil && o.Seeder == nil {
		return errors.New("fence: Marks and Seeder are both missing: name where the marks are kept, or who can be asked for them")
	}
	for _, d := range []struct {
		name  string
		value *time.Duration
		or    time.Duration
	}{{"Patience", &o.Patience, defaultPatience}, {"SaveTimeout", &o.SaveTimeout, defaultTimeout}, {"SeedTimeout", &o.SeedTimeout, defaultTimeout}} {
		if *d.value < 0 {
			return fmt.Errorf("fence: %s is %s; want more than 0, or 0 for %s", d.name, *d.value, d.or)
		}
		if *d.value == 0 {
			*d.value = d.or
		}
	}
	if o.Logger == nil {
		o.Logger = slog.New(slog.DiscardHandler)
	}
	return nil
}

// Counts are what a Guard decided since it was made.
type Counts struct {
	Admitted uint64 // actions
	Stale    uint64 // refused for their fence, those cut in the middle included
	Other    uint64 // refused for another reason
}

// Guard admits the actions of a scope's leaders in the order of their fences: one
// under a higher fence begins only when those under lower ones have ended, and
// after that none under a lower one begins. Safe for concurrent use.
type Guard struct {
	o Options

	mu    sync.Mutex
	marks *core.Guard
	gates map[string]*gate // scopes with actions under way
	// saved are the marks that are durable; nil without Marks.
	saved  map[string]uint64
	saving saving
	seed   seeding

	admitted, stale, other atomic.Uint64
}

// New returns a guard that starts from the marks kept, which it loads within ctx.
func New(ctx context.Context, o Options) (*Guard, error) {
	if err := o.complete(); err != nil {
		return nil, err
	}
	g := &Guard{o: o, gates: map[string]*gate{}}
	if o.Marks != nil {
		marks, err := load(ctx, o.Marks)
		if err != nil {
			return nil, fmt.Errorf("fence: the marks cannot be loaded: %w", err)
		}
		g.saved = marks
	}
	g.marks = core.NewGuard(g.saved)
	g.seed = seeding{from: o.Seeder, named: map[string]struct{}{}}
	return g, nil
}

// load returns a copy of what is kept, once it was found sound.
func load(ctx context.Context, from Marks) (map[string]uint64, error) {
	kept, err := from.Load(ctx)
	if err != nil {
		return nil, err
	}
	if len(kept) > core.MaxGuardScopes {
		return nil, fmt.Errorf("there are %d; a guard takes at most %d", len(kept), core.MaxGuardScopes)
	}
	marks := make(map[string]uint64, len(kept))
	for scope, fence := range kept {
		if err := core.ParseScopeID(scope); err != nil {
			return nil, err
		}
		if fence == 0 || fence > MaxFence {
			return nil, fmt.Errorf("that of %q is %d; want 1 to %d", scope, fence, MaxFence)
		}
		marks[scope] = fence
	}
	return marks, nil
}

// Admit is an action that takes no time: it says whether the fence is in force now.
// What is done after it returned may come after an action of a higher fence; for that
// see Do. The errors are those of Begin.
func (g *Guard) Admit(ctx context.Context, scope string, fence uint64) error {
	return g.admit(ctx, scope, fence, func() {})
}

// Do runs effect as an action of the scope's leader under fence. Its context ends
// as soon as the leader is overtaken, with a *core.StaleError as its cause, and the
// successor waits until effect has returned: so effect must heed its context, and
// nothing that it began may go on when it returns. An effect that failed after it was
// overtaken is reported as a *core.StaleError. Other errors are those of Begin.
func (g *Guard) Do(ctx context.Context, scope string, fence uint64, effect func(ctx context.Context) error) error {
	a, err := g.Begin(ctx, scope, fence)
	if err != nil {
		return err
	}
	defer a.End()
	return a.outcome(effect(a.Context()))
}

// Observe raises the mark of a scope: the registry gave it this fence, or ended the
// leadership under the one below. Actions under lower fences are told to stop. It
// waits for nothing, and takes only what lies within the limits of Admit.
func (g *Guard) Observe(scope string, fence uint64) error {
	if fence > MaxFence {
		return malformed("fence", "%d; want 1 to %d", fence, MaxFence)
	}
	if g.o.Scopes != nil && !g.o.Scopes(scope) {
		return nil
	}
	g.mu.Lock()
	defer g.mu.Unlock()
	return g.raise(scope, fence)
}

// raise lifts the mark in memory, and tells who is overtaken by it. A lower fence
// than what is required changes nothing.
func (g *Guard) raise(scope string, fence uint64) error {
	before := g.marks.Mark(scope)
	if before == 0 {
		fence = max(fence, g.seed.floor)
	}
	if err := g.marks.Admit(scope, fence); err != nil {
		if errors.As(err, new(*core.StaleError)) {
			return nil
		}
		return err
	}
	if gate := g.gates[scope]; gate != nil && fence > before {
		gate.overtake(scope, fence)
	}
	return nil
}

// Mark is the lowest fence that would be admitted for the scope, 0 for any.
func (g *Guard) Mark(scope string) uint64 {
	g.mu.Lock()
	defer g.mu.Unlock()
	return g.required(scope)
}

func (g *Guard) required(scope string) uint64 {
	if mark := g.marks.Mark(scope); mark != 0 {
		return mark
	}
	return g.seed.floor
}

// Counts tells what was decided so far.
func (g *Guard) Counts() Counts {
	return Counts{Admitted: g.admitted.Load(), Stale: g.stale.Load(), Other: g.other.Load()}
}

// count counts a refusal and passes it on.
func (g *Guard) count(err error) error {
	if errors.As(err, new(*core.StaleError)) {
		g.stale.Add(1)
	} else {
		g.other.Add(1)
	}
	return err
}

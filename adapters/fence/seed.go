package fence

import (
	"context"
	"errors"
	"fmt"
	"math/rand/v2"
	"time"

	"github.com/omnirelay/leadership/core"
)

// Leaders are who leads, as the registry knows it at one revision.
type Leaders struct {
	// Fences are those of all led scopes.
	Fences map[string]uint64
	// Last is the highest fence the registry ever gave, in any scope: whoever comes
	// to lead a scope that is vacant now gets a higher one. 0: not told; then scopes
	// that are vacant now are refused until a later answer finds them led.
	Last uint64
	// Revision is for the log.
	Revision uint64
}

// Seeder reads who leads from the registry: linearizably, by a read that begins
// after it was called. A copy that lags behind would let stale leaders pass.
type Seeder func(ctx context.Context) (Leaders, error)

const (
	seedRetry    = 200 * time.Millisecond // the pause after the first failed seeding
	maxSeedRetry = 5 * time.Second
)

// seeding is what is known from the Seeder.
type seeding struct {
	from   Seeder              // nil: everything is known from Marks
	done   bool                // it answered once
	floor  uint64              // what a scope without a mark requires; 0: unknown
	named  map[string]struct{} // scopes that an answer named
	under  bool                // it is being asked
	failed error               // why the last one failed
	next   time.Time           // when it may be asked again
	pause  time.Duration
}

// Seed asks the registry until it has answered, or ctx ends. Without it the first
// calls to be judged have it asked, and are refused meanwhile.
func (g *Guard) Seed(ctx context.Context) error {
	if g.o.Seeder == nil {
		return errors.New("fence: Options.Seeder is missing: name who can be asked who leads")
	}
	for pause := seedRetry; ; pause = min(2*pause, maxSeedRetry) {
		err := g.seedOnce(ctx)
		if err == nil {
			return nil
		}
		select {
		case <-ctx.Done():
			return fmt.Errorf("fence: not seeded: %w: %w", ctx.Err(), err)
		case <-time.After(jitter(pause)):
		}
	}
}

func jitter(d time.Duration) time.Duration { return d/2 + rand.N(d/2+1) }

func (g *Guard) seedOnce(ctx context.Context) error {
	ctx, cancel := context.WithTimeout(ctx, g.o.SeedTimeout)
	defer cancel()
	leaders, err := g.o.Seeder(ctx)
	if err == nil {
		err = g.learn(leaders)
	}
	if err != nil {
		g.o.Logger.Warn("the fence guard could not be seeded", "error", err)
		return err
	}
	g.o.Logger.Info("the fence guard is seeded", "revision", leaders.Revision, "scopes", len(leaders.Fences), "last", leaders.Last)
	return nil
}

// learn raises the marks to what the registry says. Of a scope that nobody leads,
// every fence given so far is over.
func (g *Guard) learn(l Leaders) error {
	if err := l.check(); err != nil {
		return err
	}
	g.mu.Lock()
	defer g.mu.Unlock()
	s := &g.seed
	for scope, fence := range l.Fences {
		if g.o.Scopes != nil && !g.o.Scopes(scope) {
			continue
		}
		if err := g.raise(scope, fence); err != nil {
			return fmt.Errorf("the mark of %q: %w", scope, err)
		}
		s.named[scope] = struct{}{}
	}
	s.done = true
	if l.Last == 0 {
		return nil
	}
	for scope := range g.marks.Marks() {
		if _, led := l.Fences[scope]; !led {
			if err := g.raise(scope, l.Last+1); err != nil {
				return err
			}
		}
	}
	s.floor = max(s.floor, l.Last+1)
	return nil
}

func (l Leaders) check() error {
	if l.Last >= MaxFence {
		return fmt.Errorf("the highest fence is said to be %d; want less than %d", l.Last, MaxFence)
	}
	if len(l.Fences) > core.MaxGuardScopes {
		return fmt.Errorf("%d scopes are said to be led; at most %d are taken", len(l.Fences), core.MaxGuardScopes)
	}
	for scope, fence := range l.Fences {
		if err := core.ParseScopeID(scope); err != nil {
			return err
		}
		if fence == 0 || fence > MaxFence || l.Last != 0 && fence > l.Last {
			return fmt.Errorf("the fence of %q is said to be %d, the highest of all %d", scope, fence, l.Last)
		}
	}
	return nil
}

// seeded is nil when enough is known to judge the scope. Otherwise it has the registry
// asked, and says to come back.
func (g *Guard) seeded(scope string) error {
	s := &g.seed
	if s.from == nil || s.done && (g.saved != nil || s.knows(scope)) {
		return nil
	}
	if !s.under && !time.Now().Before(s.next) {
		s.under = true
		go g.seedAside()
	}
	reason := "the registry has not yet been asked who leads"
	if s.done {
		reason = fmt.Sprintf("nobody led %q when the registry was asked last", scope)
	}
	return &NotReadyError{Reason: reason, RetryAfter: max(comeBack, time.Until(s.next)), Why: s.failed}
}

func (s *seeding) knows(scope string) bool {
	_, named := s.named[scope]
	return named || s.floor != 0
}

// seedAside asks once, and belongs to no caller.
func (g *Guard) seedAside() {
	err := g.seedOnce(context.Background())
	g.mu.Lock()
	defer g.mu.Unlock()
	s := &g.seed
	s.under, s.failed = false, err
	if err == nil {
		s.pause = 0
	}
	s.pause = min(max(2*s.pause, seedRetry), maxSeedRetry)
	s.next = time.Now().Add(jitter(s.pause))
}

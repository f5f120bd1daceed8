package fence

import (
	"context"
	"errors"
	"fmt"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"github.com/omnirelay/leadership/core"
)

func TestOptionsAreChecked(t *testing.T) {
	for want, o := range map[string]Options{
		"both missing": {},
		"Patience":     {Marks: &shelf{}, Patience: -1},
		"at most":      {Marks: &shelf{marks: tooMany()}},
		"want 1 to":    {Marks: &shelf{marks: map[string]uint64{"s": MaxFence + 1}}},
		"no letter":    {Marks: &shelf{marks: map[string]uint64{"a b": 1}}},
	} {
		if _, err := New(t.Context(), o); err == nil || !strings.Contains(err.Error(), want) {
			t.Errorf("%v; want it to say %q", err, want)
		}
	}
}

func tooMany() map[string]uint64 {
	marks := map[string]uint64{}
	for i := range core.MaxGuardScopes + 1 {
		marks[fmt.Sprintf("s%d", i)] = 1
	}
	return marks
}

func TestFencesGoUp(t *testing.T) {
	g := newGuard(t, Options{Scopes: func(s string) bool { return s != "foreign" }})
	ctx := t.Context()
	ok(t, g.Admit(ctx, "s", 5))
	ok(t, g.Admit(ctx, "s", 5))
	ok(t, g.Admit(ctx, "s", 7))
	stale(t, g.Admit(ctx, "s", 6), 6, 7)
	ok(t, g.Admit(ctx, "other", 1))
	for _, wrong := range []struct {
		scope string
		fence uint64
	}{{"s", 0}, {"s", MaxFence + 1}, {"", 1}, {"a b", 1}, {strings.Repeat("x", 300), 1}} {
		refusedAs[*core.Error](t, g.Admit(ctx, wrong.scope, wrong.fence))
	}
	refusedAs[*ScopeError](t, g.Admit(ctx, "foreign", 1))
	ok(t, g.Observe("foreign", 1))
	if g.Mark("foreign") != 0 || g.Mark("s") != 7 {
		t.Errorf("marks %d and %d", g.Mark("foreign"), g.Mark("s"))
	}
	if c := g.Counts(); c != (Counts{Admitted: 4, Stale: 1, Other: 6}) {
		t.Errorf("%+v", c)
	}
}

func TestScopesAreLimited(t *testing.T) {
	marks := tooMany()
	delete(marks, "s0")
	g := newGuard(t, Options{Marks: &shelf{marks: marks}})
	var e *core.Error
	if err := g.Admit(t.Context(), "s0", 1); !errors.As(err, &e) || e.Code != core.CodeLimit {
		t.Errorf("%v", err)
	}
	ok(t, g.Admit(t.Context(), "s1", 2))
	refusedAs[*core.Error](t, g.Observe("s0", 1))
}

// A mark is durable before the action begins, and a restart goes on from it.
func TestMarksComeBeforeEffects(t *testing.T) {
	disk := &shelf{slow: make(chan struct{})}
	g := newGuard(t, Options{Marks: disk})
	var began atomic.Bool
	done := make(chan error)
	go func() {
		done <- g.Do(context.Background(), "s", 5, func(context.Context) error {
			began.Store(true)
			return nil
		})
	}()
	until(t, "a mark on its way to the disk", func() bool { return g.Mark("s") == 5 })
	if began.Load() {
		t.Error("the action began before its mark was durable")
	}
	stale(t, g.Admit(t.Context(), "s", 4), 4, 5) // known in memory already
	close(disk.slow)
	ok(t, <-done)
	disk.slow = nil
	stale(t, newGuard(t, Options{Marks: disk}).Admit(t.Context(), "s", 4), 4, 5)
}

func TestNothingIsAdmittedThatCannotBeKept(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		disk := &shelf{fails: errors.New("disk full")}
		g := newGuard(t, Options{Marks: disk, SaveTimeout: time.Second, Patience: 3 * time.Second})
		var e *NotReadyError
		if err := g.Admit(t.Context(), "s", 5); !errors.As(err, &e) || e.RetryAfter <= 0 || !errors.Is(err, disk.fails) {
			t.Fatalf("%v", err)
		}
		disk.fails = nil
		refusedAs[*NotReadyError](t, g.Admit(t.Context(), "s", 5)) // the pause after a failure
		time.Sleep(e.RetryAfter)
		ok(t, g.Admit(t.Context(), "s", 5))

		// A disk that hangs is given up at the time-out, and not asked by every call.
		disk.slow = make(chan struct{})
		begin := time.Now()
		refusedAs[*NotReadyError](t, g.Admit(t.Context(), "s", 6))
		if took := time.Since(begin); took != time.Second {
			t.Errorf("refused after %s", took)
		}
		// What is durable already needs no disk, but 5 was overtaken.
		stale(t, g.Admit(t.Context(), "s", 5), 5, 6)
		close(disk.slow)
		synctest.Wait()
	})
}

// Marks that are raised at the same time are saved together.
func TestMarksAreSavedTogether(t *testing.T) {
	disk := &shelf{slow: make(chan struct{})}
	g := newGuard(t, Options{Marks: disk})
	var wait sync.WaitGroup
	admit := func(scope string) {
		wait.Go(func() {
			if err := g.Admit(context.Background(), scope, 9); err != nil {
				t.Error(err)
			}
		})
	}
	admit("first")
	until(t, "the first on its way", func() bool { return g.Mark("first") == 9 })
	for i := range 100 {
		admit(fmt.Sprintf("s%d", i))
	}
	until(t, "all others waiting", func() bool {
		g.mu.Lock()
		defer g.mu.Unlock()
		return len(g.saving.marks) == 100
	})
	close(disk.slow)
	wait.Wait()
	if disk.saves != 2 {
		t.Errorf("%d saves, want 2", disk.saves)
	}
}

// An action of a successor waits for those of its predecessor, which are told to end.
func TestSuccessorsWait(t *testing.T) {
	g := newGuard(t, Options{})
	older, err := g.Begin(t.Context(), "s", 5)
	ok(t, err)
	beside, err := g.Begin(t.Context(), "s", 5)
	ok(t, err)
	other, err := g.Begin(t.Context(), "other", 1)
	ok(t, err)
	defer other.End()
	begun := make(chan *Action)
	go func() {
		a, err := g.Begin(context.Background(), "s", 6)
		if err != nil {
			t.Error(err)
		}
		begun <- a
	}()
	<-older.Context().Done()
	<-beside.Context().Done()
	stale(t, older.Stale(), 5, 6)
	stale(t, context.Cause(beside.Context()), 5, 6)
	stale(t, g.Admit(t.Context(), "s", 5), 5, 6)
	older.End()
	older.End() // once more changes nothing
	select {
	case <-begun:
		t.Fatal("the successor began beside its predecessor")
	default:
	}
	beside.End()
	newer := <-begun
	if newer.Context().Err() != nil || other.Context().Err() != nil {
		t.Error("an action was told to end that was not overtaken")
	}
	newer.End()
	if len(g.gates) != 1 {
		t.Errorf("%d gates are kept, want that of the action under way", len(g.gates))
	}
}

func TestPatienceIsBounded(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		g := newGuard(t, Options{Patience: 3 * time.Second})
		deaf, err := g.Begin(t.Context(), "s", 5)
		ok(t, err)
		begin := time.Now()
		err = g.Admit(t.Context(), "s", 6)
		refusedAs[*NotReadyError](t, err)
		if took := time.Since(begin); took != 3*time.Second || !strings.Contains(err.Error(), "former leader") {
			t.Errorf("after %s: %v", took, err)
		}
		ctx, cancel := context.WithTimeout(t.Context(), time.Second)
		defer cancel()
		if err := g.Admit(ctx, "s", 6); !errors.Is(err, context.DeadlineExceeded) {
			t.Errorf("%v", err)
		}
		deaf.End()
		ok(t, g.Admit(t.Context(), "s", 6))
	})
}

// The registry's word alone ends the actions of a deposed leader.
func TestObserve(t *testing.T) {
	g := newGuard(t, Options{})
	err := g.Do(t.Context(), "s", 5, func(ctx context.Context) error {
		ok(t, g.Observe("s", 4))
		ok(t, g.Observe("s", 5))
		if ctx.Err() != nil {
			t.Error("ended although not overtaken")
		}
		ok(t, g.Observe("s", 8))
		return ctx.Err()
	})
	stale(t, err, 5, 8)
	stale(t, g.Admit(t.Context(), "s", 7), 7, 8)
	refusedAs[*core.Error](t, g.Observe("s", MaxFence+1))
	refusedAs[*core.Error](t, g.Observe("s", 0))
	// What was done before it was overtaken is done.
	ok(t, g.Do(t.Context(), "s", 8, func(context.Context) error { return g.Observe("s", 9) }))
}

// Many leaders, each with its own idea who leads: no effect comes after one with a
// higher fence, through restarts.
func TestNoStaleEffectUnderRaces(t *testing.T) {
	disk := &shelf{}
	var highest uint64 // the resource: only actions that are in order may touch it
	var won, late int
	for range 4 {
		g := newGuard(t, Options{Marks: disk})
		var mu sync.Mutex
		var wait sync.WaitGroup
		base := g.Mark("s")
		for worker := range 8 {
			wait.Go(func() {
				for i := range 200 {
					fence := base + uint64(i/4) + uint64(worker%3) + 1
					err := g.Do(context.Background(), "s", fence, func(context.Context) error {
						mu.Lock()
						defer mu.Unlock()
						if fence < highest {
							t.Errorf("fence %d after %d", fence, highest)
						}
						highest = max(highest, fence)
						won++
						return nil
					})
					if errors.As(err, new(*core.StaleError)) {
						mu.Lock()
						late++
						mu.Unlock()
					} else if err != nil {
						t.Error(err)
					}
				}
			})
		}
		wait.Wait()
	}
	t.Logf("%d admitted, %d stale, %d saves", won, late, disk.saves)
	if won == 0 || late == 0 {
		t.Error("there was no race")
	}
}

// An action is told that it was overtaken also when its caller has gone before.
func TestOvertakenAfterTheCallerHasGone(t *testing.T) {
	g := newGuard(t, Options{})
	ctx, leave := context.WithCancel(t.Context())
	err := g.Do(ctx, "s", 5, func(ctx context.Context) error {
		leave()
		ok(t, g.Observe("s", 6))
		return ctx.Err()
	})
	stale(t, err, 5, 6)
}

package fence

import (
	"context"
	"errors"
	"maps"
	"sync"
	"testing"
	"time"

	"go.uber.org/goleak"

	"github.com/omnirelay/leadership/core"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

// shelf keeps marks in memory, as a disk that outlives guards.
type shelf struct {
	mu    sync.Mutex
	marks map[string]uint64
	saves int
	fails error         // of the next Save
	slow  chan struct{} // a Save waits until it is closed; nil: not
}

func (s *shelf) Load(context.Context) (map[string]uint64, error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	return maps.Clone(s.marks), nil
}

func (s *shelf) Save(ctx context.Context, marks map[string]uint64) error {
	s.mu.Lock()
	slow, fails := s.slow, s.fails
	s.mu.Unlock()
	if slow != nil {
		select {
		case <-slow:
		case <-ctx.Done():
			return ctx.Err()
		}
	}
	if fails != nil {
		return fails
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	s.saves++
	if s.marks == nil {
		s.marks = map[string]uint64{}
	}
	for scope, fence := range marks {
		s.marks[scope] = max(s.marks[scope], fence)
	}
	return nil
}

// newGuard starts a guard over a shelf of its own, unless o says otherwise.
func newGuard(t testing.TB, o Options) *Guard {
	t.Helper()
	if o.Marks == nil && o.Seeder == nil {
		o.Marks = &shelf{}
	}
	g, err := New(t.Context(), o)
	if err != nil {
		t.Fatal(err)
	}
	return g
}

func ok(t testing.TB, err error) {
	t.Helper()
	if err != nil {
		t.Fatal(err)
	}
}

// stale fails unless err refuses the fence for lack of required.
func stale(t testing.TB, err error, fence, required uint64) {
	t.Helper()
	var s *core.StaleError
	if !errors.As(err, &s) || s.Fence != fence || s.Required != required {
		t.Fatalf("%v; want fence %d refused, %d required", err, fence, required)
	}
}

// refusedAs fails unless err is a T.
func refusedAs[T error](t testing.TB, err error) {
	t.Helper()
	if want := new(T); !errors.As(err, want) {
		t.Fatalf("%v; want a %T", err, *want)
	}
}

// until waits for a condition that another goroutine brings about.
func until(t testing.TB, what string, holds func() bool) {
	t.Helper()
	end := time.Now().Add(10 * time.Second)
	for !holds() {
		if time.Now().After(end) {
			t.Fatalf("not in time: %s", what)
		}
		time.Sleep(time.Millisecond)
	}
}

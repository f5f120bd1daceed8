package fence

import (
	"context"
	"errors"
	"maps"
	"testing"

	"pgregory.net/rapid"

	"github.com/omnirelay/leadership/core"
)

// world is a registry, a resource with its guard, and the naive twin of the guard: a
// list of all it was told since its start, searched for every question.
type world struct {
	// The registry.
	next  uint64            // fence
	led   map[string]uint64 // by scope
	given map[string][]uint64
	past  []Leaders // its answers at each moment since the resource's start

	// The resource.
	disk    *shelf // nil: it keeps nothing
	guard   *Guard
	applied map[string]uint64 // the highest fence of an effect, for ever
	tells   bool              // the registry tells the highest fence

	told []fact
}

// fact is what a guard was told: an admission or an event, or what a seeder said.
type fact struct {
	scope string
	fence uint64
	seed  *Leaders
}

func (w *world) snapshot() Leaders {
	l := Leaders{Fences: maps.Clone(w.led)}
	if w.tells {
		l.Last = w.next - 1
	}
	return l
}

// required is the twin's answer; known is false when the guard cannot judge.
func (w *world) required(scope string) (fence uint64, known bool) {
	known = w.disk != nil
	for _, f := range w.told {
		switch {
		case f.seed == nil:
			if f.scope == scope {
				fence = max(fence, f.fence)
			}
		case f.seed.Fences[scope] != 0:
			fence, known = max(fence, f.seed.Fences[scope]), true
		case f.seed.Last != 0:
			fence, known = max(fence, f.seed.Last+1), true
		}
	}
	return fence, known
}

func (w *world) start(t *rapid.T) {
	w.told, w.past = nil, []Leaders{w.snapshot()}
	o := Options{}
	if w.disk != nil {
		o.Marks = w.disk
		for scope, fence := range w.disk.marks {
			w.told = append(w.told, fact{scope: scope, fence: fence})
		}
	} else {
		// Asked in the test's own time, by the action that says so.
		o.Seeder = func(context.Context) (Leaders, error) { return Leaders{}, errors.New("not now") }
	}
	var err error
	if w.guard, err = New(context.Background(), o); err != nil {
		t.Fatal(err)
	}
}

// attempt lets a leader of some time act, and compares the guard with its twin.
func (w *world) attempt(t *rapid.T, scope string, fence uint64) {
	required, known := w.required(scope)
	err := w.guard.Do(context.Background(), scope, fence, func(context.Context) error { return nil })
	var stale *core.StaleError
	switch {
	case !known:
		if !errors.As(err, new(*NotReadyError)) {
			t.Fatalf("fence %d of %q: %v, want not ready", fence, scope, err)
		}
	case fence < required:
		if !errors.As(err, &stale) || *stale != (core.StaleError{Scope: scope, Fence: fence, Required: required}) {
			t.Fatalf("fence %d of %q: %v, want %d required", fence, scope, err, required)
		}
	case err != nil:
		t.Fatalf("fence %d of %q: %v, %d is required", fence, scope, err, required)
	default:
		w.told = append(w.told, fact{scope: scope, fence: fence})
	}
	if err != nil {
		return
	}
	if fence < w.applied[scope] {
		t.Fatalf("an effect under fence %d of %q after one under %d", fence, scope, w.applied[scope])
	}
	w.applied[scope] = fence
}

// The guard decides as its twin does, and no effect comes after one with a higher
// fence, through restarts, whatever lags behind.
func TestGuardAgainstItsTwin(t *testing.T) {
	names := []string{"a", "b", "shard/m/00"}
	for name, keeps := range map[string]bool{"marks": true, "seeds": false} {
		t.Run(name, func(t *testing.T) {
			rapid.Check(t, func(t *rapid.T) {
				w := &world{next: 1, led: map[string]uint64{}, given: map[string][]uint64{}, applied: map[string]uint64{}, tells: rapid.Bool().Draw(t, "tells")}
				if keeps {
					w.disk = &shelf{marks: map[string]uint64{}}
				}
				w.start(t)
				some := rapid.SampledFrom(names)
				t.Repeat(map[string]func(*rapid.T){
					"elect": func(t *rapid.T) {
						scope := some.Draw(t, "scope")
						w.led[scope] = w.next
						w.given[scope] = append(w.given[scope], w.next)
						w.next++
						w.past = append(w.past, w.snapshot())
					},
					"end": func(t *rapid.T) {
						delete(w.led, some.Draw(t, "scope"))
						w.past = append(w.past, w.snapshot())
					},
					"jump": func(t *rapid.T) { w.next += rapid.Uint64Range(1, 1<<33).Draw(t, "by") },
					"leader acts": func(t *rapid.T) {
						if scope := some.Draw(t, "scope"); w.led[scope] != 0 {
							w.attempt(t, scope, w.led[scope])
						}
					},
					"somebody acts": func(t *rapid.T) {
						scope := some.Draw(t, "scope")
						if len(w.given[scope]) > 0 {
							w.attempt(t, scope, rapid.SampledFrom(w.given[scope]).Draw(t, "fence"))
						}
					},
					"event": func(t *rapid.T) { // perhaps of long ago
						scope := some.Draw(t, "scope")
						if len(w.given[scope]) == 0 {
							return
						}
						fence := rapid.SampledFrom(w.given[scope]).Draw(t, "fence")
						if err := w.guard.Observe(scope, fence); err != nil {
							t.Fatal(err)
						}
						w.told = append(w.told, fact{scope: scope, fence: fence})
					},
					"seed": func(t *rapid.T) {
						l := w.snapshot()
						if err := w.guard.learn(l); err != nil {
							t.Fatal(err)
						}
						w.told = append(w.told, fact{seed: &l})
					},
					// An answer may be overtaken by a later one.
					"late seed": func(t *rapid.T) {
						l := rapid.SampledFrom(w.past).Draw(t, "answer")
						if err := w.guard.learn(l); err != nil {
							t.Fatal(err)
						}
						w.told = append(w.told, fact{seed: &l})
					},
					"restart": func(t *rapid.T) { w.start(t) },
				})
			})
		})
	}
}

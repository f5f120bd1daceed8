package core

import (
	"fmt"

	"github.com/omnirelay/leadership/core/plant"
)

// Guard is what a resource asks before it applies a leader's action. It admits a
// fence at or above the highest it admitted for the scope and refuses every lower
// one, whatever clocks, networks or leaders believe (Kleppmann 2016, "How to do
// distributed locking").
//
// The mark must outlive the resource's process: persist it with the effect, in
// one atomic step, and give it back to NewGuard. A Guard is not safe for
// concurrent use.
type Guard struct {
	marks  map[string]uint64
	plants plant.Set
}

// StaleError refuses an action under a fence that has been overtaken.
type StaleError struct {
	Scope    string
	Fence    uint64 // of the action
	Required uint64 // the lowest fence that would be admitted
}

func (e *StaleError) Error() string {
	return fmt.Sprintf("stale leader of %q: fence %d, at least %d is required", e.Scope, e.Fence, e.Required)
}

// NewGuard returns a guard that starts from the marks kept before, nil for none.
func NewGuard(marks map[string]uint64) *Guard {
	g := &Guard{marks: make(map[string]uint64, len(marks))}
	for _, s := range sortedKeys(marks) {
		g.marks[s] = marks[s]
	}
	return g
}

// Admit lets an action of the scope's leader under fence pass, or returns a
// *StaleError, or an *Error when the scope id or fence is malformed or
// MaxGuardScopes is reached. A refused fence leaves the mark as it was.
func (g *Guard) Admit(scope string, fence uint64) error {
	if err := g.Check(scope, fence); err != nil {
		if g.plants.Has(plant.GuardRecordsRefused) && g.marks[scope] > fence {
			g.marks[scope] = fence
		}
		return err
	}
	g.marks[scope] = fence
	return nil
}

// Check is Admit without raising the mark: for a resource that raises it in the
// transaction of the effect.
func (g *Guard) Check(scope string, fence uint64) error {
	if fence == 0 {
		return invalid("fence", "0 is no fence")
	}
	if mark := g.marks[scope]; fence < mark {
		return &StaleError{Scope: scope, Fence: fence, Required: mark}
	}
	if _, known := g.marks[scope]; known {
		return nil
	}
	if err := ParseScopeID(scope); err != nil {
		return err
	}
	if len(g.marks) >= MaxGuardScopes {
		return &Error{Code: CodeLimit, Field: "scope", Message: fmt.Sprintf("the guard keeps marks for %d scopes already", len(g.marks))}
	}
	return nil
}

// Mark is the highest fence admitted for the scope, 0 before the first.
func (g *Guard) Mark(scope string) uint64 { return g.marks[scope] }

// Marks returns a copy of all marks, to be kept.
func (g *Guard) Marks() map[string]uint64 {
	marks := make(map[string]uint64, len(g.marks))
	for _, s := range sortedKeys(g.marks) {
		marks[s] = g.marks[s]
	}
	return marks
}

// WithPlants is for the simulator.
func (g *Guard) WithPlants(p plant.Set) *Guard {
	g.plants = p
	return g
}

package fence

import (
	"context"
	"time"
)

// saving is what is on its way to Marks. Marks that are raised while one Save is
// under way go together in the next.
type saving struct {
	under  *round            // under way; nil: none
	marks  map[string]uint64 // of the next
	next   *round
	failed *NotReadyError // of the last round; nil: it succeeded
	retry  time.Time      // when the next may begin after a failure
}

// round is one Save.
type round struct {
	done chan struct{} // closed when it ended
}

// save takes the mark for the next round and returns what to wait for. After a failure
// it refuses for a moment, so that a broken store is not asked by every call.
func (g *Guard) save(scope string, fence uint64) (<-chan struct{}, error) {
	s := &g.saving
	if s.failed != nil && s.under == nil && time.Now().Before(s.retry) {
		return nil, s.failed
	}
	if s.next == nil {
		s.next, s.marks = &round{done: make(chan struct{})}, map[string]uint64{}
	}
	s.marks[scope] = fence // at least what is there: a lower one was refused
	wait := s.next.done
	if s.under == nil {
		g.startRound()
	}
	return wait, nil
}

func (g *Guard) startRound() {
	s := &g.saving
	marks := s.marks
	s.under, s.next, s.marks = s.next, nil, nil
	go g.saveRound(s.under, marks)
}

// saveRound belongs to no caller: who gives up takes nobody's mark with it.
func (g *Guard) saveRound(r *round, marks map[string]uint64) {
	ctx, cancel := context.WithTimeout(context.Background(), g.o.SaveTimeout)
	err := g.o.Marks.Save(ctx, marks)
	cancel()

	g.mu.Lock()
	defer g.mu.Unlock()
	s := &g.saving
	s.failed = nil
	if err != nil {
		g.o.Logger.Warn("the marks of the fence guard could not be saved", "error", err)
		s.failed = &NotReadyError{Reason: "the mark could not be made durable", RetryAfter: saveRetry, Why: err}
		s.retry = time.Now().Add(saveRetry)
	} else {
		for scope, fence := range marks {
			g.saved[scope] = max(g.saved[scope], fence)
		}
	}
	close(r.done)
	s.under = nil
	if s.next != nil {
		g.startRound()
	}
}

// saveRetry is the pause after a failed Save.
const saveRetry = 250 * time.Millisecond

package sim

import (
	"sync"
	"time"
)

// Swarm runs many seeds of one scenario, side by side.
type Swarm struct {
	Options Options // of every run; the seed is the run's own
	// From and To bound the seeds, both included. With a Budget, seeds from From on
	// are run until it is spent.
	From, To uint64
	Budget   time.Duration
	Jobs     int
	// Done is called after each run, one at a time, in no certain order.
	Done func(Report)
}

// Total is what came out of a swarm.
type Total struct {
	Runs      int
	Failed    []Report
	Simulated time.Duration
	Wall      time.Duration
	Stats     Stats
}

// maxFailed is how many failed runs a swarm keeps; one is enough to work on.
const maxFailed = 16

// Run runs the swarm.
func (s *Swarm) Run() Total {
	started := time.Now()
	var (
		mu    sync.Mutex
		total Total
		next  = s.From
		wait  sync.WaitGroup
	)
	take := func() (uint64, bool) {
		mu.Lock()
		defer mu.Unlock()
		if s.Budget > 0 && time.Since(started) >= s.Budget || s.Budget == 0 && next > s.To || len(total.Failed) >= maxFailed {
			return 0, false
		}
		next++
		return next - 1, true
	}
	for range max(s.Jobs, 1) {
		wait.Go(func() {
			for seed, ok := take(); ok; seed, ok = take() {
				o := s.Options
				o.Seed = seed
				r := Run(o)
				mu.Lock()
				total.add(&r)
				if s.Done != nil {
					s.Done(r)
				}
				mu.Unlock()
			}
		})
	}
	wait.Wait()
	total.Wall = time.Since(started)
	return total
}

func (t *Total) add(r *Report) {
	t.Runs++
	t.Simulated += r.Simulated
	t.Stats.Add(&r.Stats)
	if len(r.Violations) > 0 {
		t.Failed = append(t.Failed, *r)
	}
}

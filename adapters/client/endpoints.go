package client

import (
	"math/rand/v2"
	"slices"
	"sync"
	"time"
)

// endpoints decides which node is called next and after what pause. All clients that
// lose a node start anew at random, or they would all fall on the next one.
type endpoints struct {
	mu     sync.Mutex
	known  []string
	later  map[string]time.Time // nodes that said when to come back
	hints  []string             // nodes that others named, to be tried first
	next   int
	failed int // attempts in a row that came to nothing
	base   time.Duration
	limit  time.Duration
}

const (
	maxHints      = 8
	maxRetryAfter = 30 * time.Second
)

// newEndpoints pauses at least base after a round in which no node served, and at most
// limit.
func newEndpoints(known []string, base, limit time.Duration) *endpoints {
	known = slices.Clone(known)
	rand.Shuffle(len(known), func(i, j int) { known[i], known[j] = known[j], known[i] })
	return &endpoints{known: known, later: map[string]time.Time{}, base: base, limit: limit}
}

// pick returns the node to call and how long to wait before.
func (e *endpoints) pick(now time.Time) (address string, pause time.Duration) {
	e.mu.Lock()
	defer e.mu.Unlock()
	if e.failed > 0 && e.failed%len(e.known) == 0 {
		pause = jitter(backoff(e.base, e.limit, e.failed/len(e.known)))
	}
	if len(e.hints) > 0 {
		address, e.hints = e.hints[0], e.hints[1:]
		return address, pause
	}
	address = e.soonest(now.Add(pause))
	if until, ok := e.later[address]; ok {
		pause = max(pause, until.Sub(now))
		delete(e.later, address)
	}
	return address, pause
}

// soonest is the next node in turn that may be called at a time, else the one that may
// be called first.
func (e *endpoints) soonest(at time.Time) string {
	best := ""
	for i := range e.known {
		a := e.known[(e.next+i)%len(e.known)]
		if !e.later[a].After(at) {
			e.next = (e.next + i + 1) % len(e.known)
			return a
		}
		if best == "" || e.later[a].Before(e.later[best]) {
			best = a
		}
	}
	return best
}

// served tells that a node did what was asked.
func (e *endpoints) served() {
	e.mu.Lock()
	defer e.mu.Unlock()
	e.failed = 0
}

// refused tells that an attempt came to nothing, and after how long the node wants to
// be asked again; 0: it did not say. It returns whether every node has failed since
// one served.
func (e *endpoints) refused(now time.Time, address string, after time.Duration) (all bool) {
	e.mu.Lock()
	defer e.mu.Unlock()
	e.failed++
	if after > 0 && slices.Contains(e.known, address) {
		e.later[address] = now.Add(min(after, maxRetryAfter))
	}
	return e.failed >= len(e.known)
}

// hint names nodes to try first. What is malformed or too much is ignored.
func (e *endpoints) hint(addresses ...string) {
	e.mu.Lock()
	defer e.mu.Unlock()
	for _, a := range addresses {
		if checkEndpoint(a) == nil && len(e.hints) < maxHints && !slices.Contains(e.hints, a) {
			e.hints = append(e.hints, a)
		}
	}
}

// backoff is base, doubled with every further attempt, at most limit.
func backoff(base, limit time.Duration, attempt int) time.Duration {
	return min(base<<min(attempt-1, 16), limit)
}

// jitter is between half of d and d.
func jitter(d time.Duration) time.Duration { return d/2 + rand.N(d/2+1) }

package harness

import (
	"fmt"
	"sync"
	"testing"
	"time"

	"github.com/omnirelay/leadership/core"
)

// heldEvery is the pause between two readings of one node's /control/held.
const heldEvery = 20 * time.Millisecond

// Watch asks every node all the time what it holds, and keeps for each leadership
// from when to when its holder is known to have believed in it, on the boot clock
// that all processes of the machine share.
type Watch struct {
	t       testing.TB
	stop    chan struct{}
	readers sync.WaitGroup

	mu       sync.Mutex
	beliefs  map[string]map[uint64]*belief // by scope and fence
	readings int
	clash    error // the first fence that two nodes held
}

// belief is what was seen of one leadership. Between first and last its holder
// believed all the time: a fence given up does not come back.
type belief struct {
	node        string
	first, last int64 // readings of the boot clock at which it was held
	until       int64 // how long the holder would have believed without another word
	expired     bool  // it ended because its holder fell silent
}

// WatchHeld watches until Stop, at the latest until the test ends. It returns when
// every scope has been seen held.
func (c *Cluster) WatchHeld() *Watch {
	w := &Watch{t: c.t, stop: make(chan struct{}), beliefs: map[string]map[uint64]*belief{}}
	for _, n := range c.Nodes {
		w.readers.Go(func() { w.follow(n) })
	}
	c.t.Cleanup(w.end)
	Await(c.t, 5*time.Second, "every scope held by somebody", func() error {
		w.mu.Lock()
		defer w.mu.Unlock()
		if len(w.beliefs) < ScopeCount {
			return fmt.Errorf("%d of %d are", len(w.beliefs), ScopeCount)
		}
		return nil
	})
	return w
}

// Follow watches a node that came later, too.
func (w *Watch) Follow(n *Node) { w.readers.Go(func() { w.follow(n) }) }

func (w *Watch) follow(n *Node) {
	tick := time.NewTicker(heldEvery)
	defer tick.Stop()
	for {
		select {
		case <-w.stop:
			return
		case <-tick.C:
			w.read(n)
		}
	}
}

func (w *Watch) read(n *Node) {
	held, err := n.Held()
	if err != nil {
		return // it is down, or starting
	}
	w.mu.Lock()
	defer w.mu.Unlock()
	w.readings++
	for _, h := range held.Held {
		byFence := w.beliefs[h.Scope]
		if byFence == nil {
			byFence = map[uint64]*belief{}
			w.beliefs[h.Scope] = byFence
		}
		b := byFence[h.FenceToken]
		if b == nil {
			b = &belief{node: held.MemberID, first: held.NowBoottimeNs, last: held.NowBoottimeNs}
			byFence[h.FenceToken] = b
		}
		if b.node != held.MemberID && w.clash == nil {
			w.clash = fmt.Errorf("%s: fence %d is held by %s and %s", h.Scope, h.FenceToken, b.node, held.MemberID)
		}
		b.last, b.until = max(b.last, held.NowBoottimeNs), max(b.until, h.UntilBoottimeNs)
	}
}

// Expired takes from the audit trail which leaderships ended by silence. Nobody
// else may have led before such a lease was over: had the holder only been cut off
// and not been dead, it would have gone on believing until then.
func (w *Watch) Expired(trail Trail) (marked int) {
	w.mu.Lock()
	defer w.mu.Unlock()
	for _, r := range trail {
		b := w.beliefs[r.Scope][r.FenceToken]
		if r.Kind == core.EventExpired.String() && r.Reason == core.ReasonExpired && b != nil {
			b.expired = true
			marked++
		}
	}
	return marked
}

// Handover is the time a scope was believed by nobody, from the last reading of
// one holder to the first of the next: the true time and what polling adds.
func (w *Watch) Handover(scope string, from, to uint64) (time.Duration, error) {
	w.mu.Lock()
	defer w.mu.Unlock()
	a, b := w.beliefs[scope][from], w.beliefs[scope][to]
	if a == nil || b == nil {
		return 0, fmt.Errorf("%s: fence %d seen: %t, fence %d seen: %t", scope, from, a != nil, to, b != nil)
	}
	return time.Duration(b.first - a.last), nil
}

func (w *Watch) end() {
	select {
	case <-w.stop:
	default:
		close(w.stop)
	}
	w.readers.Wait()
}

// Stop ends the watch and fails the test when two nodes ever held the same scope
// at the same instant.
func (w *Watch) Stop() {
	w.t.Helper()
	w.end()
	if err := w.verify(); err != nil {
		w.t.Errorf("exclusivity: %v", err)
	}
	w.t.Logf("exclusivity: %d readings of /control/held", w.readings)
}

func (w *Watch) verify() error {
	if w.clash != nil {
		return w.clash
	}
	if len(w.beliefs) != ScopeCount {
		return fmt.Errorf("%d scopes were held, want %d", len(w.beliefs), ScopeCount)
	}
	for scope, byFence := range w.beliefs {
		if err := exclusive(scope, byFence); err != nil {
			return err
		}
	}
	return nil
}

// exclusive checks that of any two leaderships of a scope the one with the lower
// fence had ended when the other began.
func exclusive(scope string, byFence map[uint64]*belief) error {
	for low, a := range byFence {
		end := a.last
		if a.expired {
			end = max(end, a.until)
		}
		for high, b := range byFence {
			if low < high && end >= b.first {
				return fmt.Errorf("%s: %s believed in fence %d until %d, %s in fence %d from %d: %v too early",
					scope, a.node, low, end, b.node, high, b.first, time.Duration(end-b.first))
			}
		}
	}
	return nil
}

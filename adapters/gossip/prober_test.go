package gossip

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"sync"
	"testing"
	"time"

	"github.com/omnirelay/leadership/core"
)

// A member that is watched and killed is suspect after a few probes, long before
// memberlist gives it up, and is told so once; when it comes back that is told too.
func TestWatchedMemberIsSuspectedFast(t *testing.T) {
	m := newMesh(t)
	options := func(id string, seeds ...string) Options {
		o := m.options(id, seeds...)
		// memberlist itself is slow here: what is seen, the prober has found.
		o.ProbeInterval, o.ProbeTimeout, o.WatchPeriod = 30*time.Second, time.Second, 50*time.Millisecond
		return o
	}
	a := m.start(options("a"))
	b := m.start(options("b", a.Address()))
	a.mu.Lock()
	a.watch = []string{"a", "b", "nobody"}
	a.mu.Unlock()
	a.sees("b", StatusAlive)
	until(t, "b is probed", func() bool { return a.Stats().ProbesAnswered > 3 })
	if s := a.Stats(); s.Watched != 1 {
		t.Errorf("%d are watched: itself and those who are not there are not to be", s.Watched)
	}
	address := b.Address()
	killed := time.Now()
	b.stop()
	a.sees("b", StatusSuspect)
	t.Logf("suspect %v after its end", time.Since(killed))
	until(t, "a is told", func() bool { return slices.Contains(a.healths("b"), core.HealthSuspect) })
	if s := a.Stats(); s.Suspicions == 0 || s.ProbesMissed < DefaultWatchMisses {
		t.Errorf("%+v", s)
	}
	// It stays watched though nobody asks for it any more: it no longer leads, after all.
	a.mu.Lock()
	a.watch = nil
	a.mu.Unlock()
	o := options("b")
	o.Listen = address
	m.start(o)
	a.sees("b", StatusAlive)
	until(t, "a is told", func() bool {
		h := a.healths("b")
		return h[len(h)-1] == core.HealthAlive
	})
}

// bench is a prober of which the test says who answers and when a round is over.
type bench struct {
	*prober
	*register
	mu     sync.Mutex
	silent map[string]bool
	pings  map[string]int
}

func newBench(t *testing.T, members ...string) *bench {
	b := &bench{register: newRegister(t), silent: map[string]bool{}, pings: map[string]int{}}
	for _, id := range append(members, "me") {
		b.joined(id, "h:1", metadataOf(1), nil)
	}
	b.told()
	b.prober = &prober{
		period: time.Second, misses: 3, self: target{"me", "h:1"}, roster: b.register.roster, counts: &counters{}, probed: map[string]*probed{},
		report: func(string, bool, int) {},
		ping: func(x target) error {
			b.mu.Lock()
			defer b.mu.Unlock()
			b.pings[x.id]++
			if b.silent[x.id] {
				return errors.New("nothing")
			}
			return nil
		},
	}
	return b
}

// round asks everybody and judges the answers as if it had taken so long.
func (b *bench) round(took time.Duration) {
	targets, suspects := b.targets([]string{"a", "b"})
	if len(suspects) != 0 {
		b.t.Errorf("%v are watched and suspect at once", suspects)
	}
	b.forget(targets)
	begun := time.Now()
	b.ask(append(targets, b.self))
	b.running.Wait()
	b.judge(begun, begun.Add(took))
}

func TestSomeMissesInARowMakeASuspect(t *testing.T) {
	b := newBench(t, "a", "b")
	b.round(time.Second)
	b.silent["a"] = true
	b.round(time.Second)
	b.round(time.Second)
	b.silent["a"] = false
	b.round(time.Second) // an answer in between starts anew
	b.silent["a"] = true
	b.round(time.Second)
	b.round(time.Second)
	b.expect("")
	b.round(time.Second)
	b.expect("a:suspect ")
	b.round(time.Second)
	b.expect("")
	b.silent["a"] = false
	b.round(time.Second)
	b.expect("a:alive ")
	if missed := b.prober.counts.probesMissed.Load(); missed != 6 {
		t.Errorf("%d misses, want 6", missed)
	}
}

// A round in which this process was late, or did not hear itself, counts for nobody.
func TestOwnTroublesAreNotHeldAgainstOthers(t *testing.T) {
	b := newBench(t, "a", "b")
	b.round(time.Second)
	b.silent["a"] = true
	for range 10 {
		b.round(1600 * time.Millisecond)
	}
	b.expect("")
	b.silent["me"] = true
	for range 10 {
		b.round(time.Second)
	}
	b.expect("")
	if unsure := b.prober.counts.probesUnsure.Load(); unsure != 20 {
		t.Errorf("%d unsure, want 20", unsure)
	}
	b.silent["me"] = false
	for range 3 {
		b.round(time.Second)
	}
	b.expect("a:suspect ")
}

// Where a node's own address does not lead back to it, others are judged all the same.
func TestOwnAnswersThatNeverCame(t *testing.T) {
	b := newBench(t, "a", "b")
	b.silent["me"], b.silent["a"] = true, true
	for range 3 {
		b.round(time.Second)
	}
	b.expect("a:suspect ")
}

func TestMembersThatLeftAreNotProbed(t *testing.T) {
	b := newBench(t, "a", "b")
	b.round(time.Second)
	b.leaves("a")
	b.gone("b")
	b.told()
	before := b.pings["a"]
	for range 5 {
		b.round(time.Second)
	}
	b.expect("")
	if b.pings["a"] != before || len(b.probed) != 1 {
		t.Errorf("%d probes, %d remembered", b.pings["a"]-before, len(b.probed))
	}
}

// Where everything is slow all seem suspect: they are asked in turn, and not in haste.
func TestManySuspectsAreAskedInTurn(t *testing.T) {
	b := newBench(t)
	for i := range 100 {
		id := fmt.Sprintf("m%02d", i)
		b.joined(id, "h:1", metadataOf(1), nil)
		b.suspect(id)
	}
	now := time.Now()
	for range 10 {
		_, suspects := b.targets(nil)
		due := b.due(suspects, now)
		if len(due) != maxSuspects {
			t.Fatalf("%d are asked at once", len(due))
		}
		b.ask(due)
		b.running.Wait()
	}
	if len(b.pings) != 10*maxSuspects {
		t.Errorf("%d of %d were asked: the same ones again", len(b.pings), 10*maxSuspects)
	}
}

// However many are to be watched, one period probes no more than a bounded number, and
// all have their turn.
func TestProbesAreBounded(t *testing.T) {
	r := newRegister(t)
	var all []string
	for i := range 3 * MaxWatched {
		id := fmt.Sprintf("m%03d", i)
		all = append(all, id)
		r.joined(id, "h:1", metadataOf(1), nil)
	}
	var mu sync.Mutex
	seen, rounds := map[string]int{}, 0
	ctx, cancel := context.WithCancel(context.Background())
	p := &prober{
		period: 20 * time.Millisecond, misses: 3, self: target{"me", "h:1"}, roster: r.roster, counts: &counters{},
		watch: func() []string { return all }, report: func(string, bool, int) {},
		ping: func(x target) error {
			mu.Lock()
			defer mu.Unlock()
			if x.id == "me" {
				rounds++
			}
			if seen[x.id]++; len(seen) > 3*MaxWatched {
				cancel()
			}
			return nil
		},
	}
	p.run(ctx)
	total := 0
	for id, n := range seen {
		if id != "me" {
			total += n
		}
	}
	if total > rounds*MaxWatched+MaxWatched {
		t.Errorf("%d probes in %d rounds", total, rounds)
	}
}

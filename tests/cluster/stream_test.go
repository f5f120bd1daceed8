package cluster_test

import (
	"math/rand/v2"
	"testing"
	"time"

	"github.com/omnirelay/leadership/tests/cluster/harness"
)

// TestStreamsMissNothing follows the stream as browsers do, by HTTP/2 and HTTP/1.1,
// while connections break at random and leaders are killed, reconnecting to the
// same node and to others: every event comes once and in order.
func TestStreamsMissNothing(t *testing.T) {
	kills := 5 // each node at least once
	if testing.Short() {
		kills = 3
	}
	random := rand.New(rand.NewPCG(seed(t), 0))
	c := harness.New(t, harness.Options{})
	sources := map[string]*harness.EventSource{
		"of the first node by HTTP/2":  c.OpenEventSource(harness.SourceOptions{Pick: harness.Always(c.Nodes[0])}),
		"of the second node by HTTP/1": c.OpenEventSource(harness.SourceOptions{Pick: harness.Always(c.Nodes[1]), HTTP1: true}),
		"of nodes in turn by HTTP/2":   c.OpenEventSource(harness.SourceOptions{Pick: c.InTurn()}),
		"of nodes in turn by HTTP/1":   c.OpenEventSource(harness.SourceOptions{Pick: c.InTurn(), HTTP1: true}),
		"of the first node, cut short": c.OpenEventSource(harness.SourceOptions{Pick: harness.Always(c.Nodes[0]), BreakAfter: cutShort(random.Uint64())}),
		"of nodes in turn, cut short":  c.OpenEventSource(harness.SourceOptions{Pick: c.InTurn(), BreakAfter: cutShort(random.Uint64())}),
	}
	unbroken := c.OpenEventSource(harness.SourceOptions{Pick: harness.Always(c.Nodes[2])})
	watchers := map[string]*harness.Watcher{
		"of nodes in turn, to the CLI":          c.StartWatcher(),
		"of the third node by gRPC, to the CLI": c.StartWatcher("--grpc-url", c.Nodes[2].GRPC),
	}
	for _, s := range sources {
		harness.Await(t, 5*time.Second, "the stream's snapshot", func() error { return snapshotEnded(s) })
	}
	breakAtRandom(t, random, sources)
	for i := range kills {
		before := c.AwaitSettled(20 * time.Second)
		victim := c.Nodes[i%len(c.Nodes)]
		victim.Kill()
		harness.Await(t, failoverWithin, victim.ID+" succeeded in all its scopes", func() error {
			return succeeded(c.Others(victim), victim.ID, before)
		})
		victim.Start()
	}
	c.AwaitSettled(20 * time.Second)
	end := c.AwaitTrail(10 * time.Second).End()
	followsTrail(t, c, "the stream of the third node, not broken", unbroken, end)
	for name, w := range watchers {
		followsTrail(t, c, "the stream "+name, w, end)
		if w.Reconnected() == 0 {
			t.Errorf("the stream %s was never broken: nothing was seen of it", name)
		}
	}
	for name, s := range sources {
		awaitResumed(t, "the stream "+name, s)
		followsTrail(t, c, "the stream "+name, s, end)
	}
}

// cutShort lets a connection live for a few events: one log entry brings about many.
// Only a snapshot has to be whole, before its end there is no place to resume from.
func cutShort(seed uint64) func(resumed bool) int {
	random := rand.New(rand.NewPCG(seed, 1))
	return func(resumed bool) int {
		if !resumed {
			return harness.ScopeCount + 1
		}
		return 20 + random.IntN(40)
	}
}

// breakAtRandom breaks connections of the sources until the test ends.
func breakAtRandom(t *testing.T, random *rand.Rand, sources map[string]*harness.EventSource) {
	stop, stopped := make(chan struct{}), make(chan struct{})
	go func() {
		defer close(stopped)
		for {
			select {
			case <-stop:
				return
			case <-time.After(time.Duration(50+random.IntN(400)) * time.Millisecond): // networks break when they like
			}
			for _, s := range sources {
				if random.IntN(3) == 0 {
					s.Break()
				}
			}
		}
	}()
	t.Cleanup(func() { close(stop); <-stopped })
}

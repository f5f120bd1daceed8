package cluster_test

import (
	"errors"
	"fmt"
	"net/http"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/omnirelay/leadership/tests/cluster/harness"
)

const (
	// noticedWithin is how long a node may take to say that its store does not answer.
	noticedWithin = 5 * time.Second
	// recoveredWithin is how long everything may take to be led again after its store
	// answers again.
	recoveredWithin = 20 * time.Second
	// outage is longer than any lease: nobody believes anything at its end.
	outage = harness.TTL + 2*time.Second
)

// TestStoriesOnEveryStore tells the stories of a cluster on each external store; raft
// has tests of its own for them. LEADERSHIP_CHAOS=1 tells long versions.
func TestStoriesOnEveryStore(t *testing.T) {
	for _, store := range harness.ExternalStores {
		t.Run(store, func(t *testing.T) {
			c := harness.New(t, harness.Options{Store: store, Settings: "snapshotEntries: 100\n"})
			watch := c.WatchHeld()
			s := &stories{c: c, watch: watch, kills: 2, rounds: 1}
			if long() {
				s.kills, s.rounds = 20, 5
			}
			t.Run("a hand-over", s.handOver)
			t.Run("kills", s.kill)
			t.Run("a pause of the registrar", func(t *testing.T) { pauseLeader(t, c, true) })
			t.Run("a pause of another", func(t *testing.T) { pauseLeader(t, c, false) })
			t.Run("the store restarts", s.restart)
			t.Run("the store is away", s.away)
			t.Run("the store hangs", s.hang)
			verifyTrail(t, c, watch)
			s.report(t, store)
		})
	}
}

// stories are what happens to one cluster on an external store, and its figures.
type stories struct {
	c             *harness.Cluster
	watch         *harness.Watch
	kills, rounds int

	handovers handovers
	failovers failovers
	// From when the store answers until every node serves linearizable reads again.
	restarted, returned, resumed []time.Duration
	// From when the store hangs until nobody believes anything.
	disbelieved []time.Duration
}

func (s *stories) report(t *testing.T, store string) {
	s.handovers.report(t, store)
	s.failovers.report(t, store)
	t.Logf("FIGURE %s: store killed and restarted at once, led again after: %s", store, distribution(s.restarted))
	t.Logf("FIGURE %s: store away for %v, all elected anew after:           %s", store, outage, distribution(s.returned))
	t.Logf("FIGURE %s: store paused, nothing believed any more after:       %s", store, distribution(s.disbelieved))
	t.Logf("FIGURE %s: store paused for %v and resumed, elected anew after: %s", store, outage, distribution(s.resumed))
}

func (s *stories) handOver(t *testing.T) {
	for range s.rounds {
		f := handOverEach(t, s.c, s.watch)
		s.handovers.recorded = slices.Concat(s.handovers.recorded, f.recorded)
		s.handovers.arrived = slices.Concat(s.handovers.arrived, f.arrived)
		s.handovers.believed = slices.Concat(s.handovers.believed, f.believed)
		s.handovers.elected = slices.Concat(s.handovers.elected, f.elected)
		s.handovers.exits = slices.Concat(s.handovers.exits, f.exits)
	}
}

func (s *stories) kill(t *testing.T) {
	s.failovers = killInTurn(t, s.c, s.kills)
	if len(s.failovers.registrar) == 0 || len(s.failovers.other) == 0 {
		t.Errorf("%d kills of the registrar and %d of others: want both", len(s.failovers.registrar), len(s.failovers.other))
	}
}

// restart kills the server and starts it again: the service comes back by itself, and
// no fence is smaller.
func (s *stories) restart(t *testing.T) {
	for range s.rounds {
		before := s.c.AwaitSettled(20 * time.Second)
		s.c.Store.Kill()
		s.c.Store.Restart()
		took := harness.Await(t, recoveredWithin, "everything served again", func() error { return s.serves(before, 0) })
		s.restarted = append(s.restarted, took)
	}
}

// away keeps the server down for longer than any lease lasts.
func (s *stories) away(t *testing.T) {
	for range s.rounds {
		before := s.c.AwaitBelieved(20 * time.Second)
		sizes := logSizes(s.c)
		down := time.Now()
		s.c.Store.Kill()
		s.unbelieved(t, down)
		for i, n := range s.c.Nodes {
			if !n.LoggedSince(sizes[i], "the store does not answer") {
				t.Errorf("%s did not log that its store does not answer", n.ID)
			}
		}
		s.c.Store.Restart()
		took := harness.Await(t, recoveredWithin, "everything elected anew", func() error { return s.serves(before, 1) })
		s.returned = append(s.returned, took)
		for i, n := range s.c.Nodes {
			if !n.LoggedSince(sizes[i], "the store answers again") {
				t.Errorf("%s did not log that its store answers again", n.ID)
			}
		}
	}
}

// hang stops the server where it is, connections open, and lets it go on later.
func (s *stories) hang(t *testing.T) {
	for range s.rounds {
		before := s.c.AwaitBelieved(20 * time.Second)
		paused := time.Now()
		s.c.Store.Pause()
		s.disbelieved = append(s.disbelieved, s.unbelieved(t, paused))
		s.c.Store.Resume()
		took := harness.Await(t, recoveredWithin, "everything elected anew", func() error { return s.serves(before, 1) })
		s.resumed = append(s.resumed, took)
	}
}

// unbelieved waits until no member believes anything, in time, and every node says
// why; and then, until the outage is over, that nobody begins to. It returns how long
// the beliefs lasted.
func (s *stories) unbelieved(t *testing.T, down time.Time) (lasted time.Duration) {
	t.Helper()
	nobody := func() error {
		for _, n := range s.c.Nodes {
			if err := holdsNothing(n); err != nil {
				return err
			}
		}
		return nil
	}
	harness.Await(t, harness.TTL+500*time.Millisecond, "every member giving up its belief", nobody)
	lasted = time.Since(down)
	for _, n := range s.c.Nodes {
		harness.Await(t, noticedWithin, n.ID+" saying that the store does not answer", func() error {
			return errors.Join(unready(n, "/readyz", "the store does not answer"), measures(n, "mesh_leadership_store_up 0"))
		})
	}
	harness.Await(t, outage, "the end of the outage", func() error {
		if err := nobody(); err != nil {
			t.Fatal(err)
		}
		if time.Since(down) < outage {
			return fmt.Errorf("not over")
		}
		return nil
	})
	return lasted
}

// serves returns nil when every node serves a linearizable read again, all tell the
// same, and each fence is higher than before by at least raised.
func (s *stories) serves(before harness.Leaders, raised uint64) error {
	now, err := s.c.Settled()
	if err != nil {
		return err
	}
	for scope, old := range before.ByScope {
		if token := now.ByScope[scope]; token.FenceToken < old.FenceToken+raised {
			return fmt.Errorf("%s is led by %s with fence %d, before by %s with %d", scope, token.LeaderID, token.FenceToken, old.LeaderID, old.FenceToken)
		}
	}
	for _, n := range s.c.Nodes {
		a, err := n.Get("/control/leaders?linearizable=true")
		if err != nil {
			return err
		}
		if a.Status != http.StatusOK {
			return fmt.Errorf("%s: a linearizable read is answered with %d: %s", n.ID, a.Status, a.Body)
		}
		if err := measures(n, "mesh_leadership_store_up 1"); err != nil {
			return err
		}
	}
	return nil
}

// measures returns nil when /metrics has the line.
func measures(n *harness.Node, line string) error {
	a, err := n.Get("/metrics")
	if err == nil && !strings.Contains("\n"+string(a.Body), "\n"+line+"\n") {
		err = fmt.Errorf("%s: /metrics (status %d) lacks the line %s", n.ID, a.Status, line)
	}
	return err
}

func logSizes(c *harness.Cluster) (sizes []int64) {
	for _, n := range c.Nodes {
		sizes = append(sizes, n.LogSize())
	}
	return sizes
}

// TestStoreComesUpLater starts nodes, two this time, whose store is not there: they
// say so, and go on when it is. One with another cluster's id is refused at once.
func TestStoreComesUpLater(t *testing.T) {
	for _, store := range harness.ExternalStores {
		t.Run(store, func(t *testing.T) {
			c := harness.New(t, harness.Options{Store: store, Nodes: 2})
			before := c.AwaitSettled(20 * time.Second)
			for _, n := range c.Nodes {
				n.Kill()
			}
			c.Store.Kill()
			for _, n := range c.Nodes {
				n.Start()
			}
			for _, n := range c.Nodes {
				harness.Await(t, 10*time.Second, n.ID+" saying that the store is not reachable", func() error {
					return unready(n, "/readyz", "the store does not answer: it could not be reached since this node started: ")
				})
			}
			c.Store.Restart()
			up := time.Now()
			awaitElectedAnew(t, c, before)
			t.Logf("FIGURE %s: store up after its nodes, all led after %v", store, time.Since(up).Round(time.Millisecond))

			n := c.Nodes[0]
			stranger := n.Rewrite("clusterId: cluster-test", "clusterId: stranger", n.DataDir, t.TempDir())
			said := refusesToServe(t, "another cluster's data", stranger, "stranger", "cluster-test")
			if strings.Contains(said, `"started"`) {
				t.Errorf("it served for a while: %s", said)
			}
		})
	}
}

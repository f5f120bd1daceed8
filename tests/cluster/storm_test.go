package cluster_test

import (
	"fmt"
	"math/rand/v2"
	"testing"
	"time"

	"github.com/omnirelay/leadership/core"
	"github.com/omnirelay/leadership/tests/cluster/harness"
)

// killEvery is the pause between two kills of the storm.
const killEvery = 3 * time.Second

// TestStormOfKills kills and restarts a random process every three seconds for a
// quarter of a minute. The audit trail stays whole on every node, no fence comes twice, nobody
// shares a scope, and the streams tell what the trail tells. The long version takes
// a minute on every store, and kills the store's server too.
func TestStormOfKills(t *testing.T) {
	stores, kills := []string{harness.Raft}, int(15*time.Second/killEvery)
	if long() {
		stores, kills = harness.Stores, int(time.Minute/killEvery)
	}
	if testing.Short() {
		kills = 3
	}
	for _, store := range stores {
		t.Run(store, func(t *testing.T) { storm(t, store, kills) })
	}
}

func storm(t *testing.T, store string, kills int) {
	random := rand.New(rand.NewPCG(seed(t), 0))
	// Snapshots in the midst of it: a restarted node may need one to catch up.
	c := harness.New(t, harness.Options{Store: store, Settings: "snapshotEntries: 100\n"})
	watch := c.WatchHeld()
	sources := map[string]*harness.EventSource{
		"of the first node": c.OpenEventSource(harness.SourceOptions{Pick: harness.Always(c.Nodes[0])}),
		"of nodes in turn":  c.OpenEventSource(harness.SourceOptions{Pick: c.InTurn()}),
	}
	victims := victimsOf(c)
	tick := time.NewTicker(killEvery)
	defer tick.Stop()
	for range kills {
		<-tick.C
		victims[random.IntN(len(victims))]()
	}
	c.AwaitSettled(20 * time.Second)
	trail := verifyTrail(t, c, watch)
	for name, s := range sources {
		awaitResumed(t, "the stream "+name, s)
		followsTrail(t, c, "the stream "+name, s, trail.End())
	}
}

// victimsOf are the kills, each with the start that follows, of every process of a cluster.
func victimsOf(c *harness.Cluster) (victims []func()) {
	for _, n := range c.Nodes {
		victims = append(victims, func() { n.Kill(); n.Start() })
	}
	if c.Store != nil {
		victims = append(victims, func() { c.Store.Kill(); c.Store.Restart() })
	}
	return victims
}

// awaitResumed sees to it that a source is resumed at least once: before, nothing was
// seen of it. A browser gives up at an answer that is no stream: there must be none.
func awaitResumed(t *testing.T, name string, s *harness.EventSource) {
	t.Helper()
	harness.Await(t, 20*time.Second, name+" to be resumed", func() error {
		if _, resumed, _, _ := s.Connections(); resumed == 0 {
			s.Break()
			return fmt.Errorf("not yet")
		}
		return nil
	})
	opened, resumed, refused, refusal := s.Connections()
	t.Logf("%s: %d connections, %d of them resumed", name, opened, resumed)
	if refused > 0 {
		t.Errorf("%s: %d answers at which a browser gives up for good, the first: %s", name, refused, refusal)
	}
}

// reader is anybody who follows the event stream.
type reader interface {
	Told() (harness.Told, error)
	Close()
}

// followsTrail waits until a reader has come to a place, and compares all that it
// was told with the audit trail.
func followsTrail(t *testing.T, c *harness.Cluster, name string, r reader, end core.Cursor) {
	t.Helper()
	harness.Await(t, 15*time.Second, name+" to reach the end", func() error {
		told, err := r.Told()
		if err == nil && told.Cursor().Compare(end) < 0 {
			err = fmt.Errorf("%d events, the last at %v, and not yet at %v", len(told), told.Cursor(), end)
		}
		return err
	})
	r.Close()
	told, err := r.Told()
	if err == nil {
		err = told.Verify(c.AwaitTrail(10 * time.Second).UpTo(told.Cursor()))
	}
	if err != nil {
		t.Errorf("%s: %v", name, err)
		return
	}
	t.Logf("%s: %d events, each once and in order", name, len(told))
}

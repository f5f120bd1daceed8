package cluster_test

import (
	"fmt"
	"testing"
	"time"

	"github.com/omnirelay/leadership/core"
	"github.com/omnirelay/leadership/tests/cluster/harness"
)

// unledAtMost is how long a scope may be led by nobody when its leader stops in order.
const unledAtMost = 500 * time.Millisecond

// TestTerminatedNodesHandOver ends each node in turn by SIGTERM and measures, for
// every scope it led, how long nobody led it: by the events, and by what the
// members themselves believed.
func TestTerminatedNodesHandOver(t *testing.T) {
	c := harness.New(t, harness.Options{})
	watch := c.WatchHeld()
	f := handOverEach(t, c, watch)
	c.AwaitSettled(20 * time.Second)
	verifyTrail(t, c, watch)
	f.report(t, harness.Raft)
}

// handovers are the times scopes were led by nobody while nodes stopped in order:
// recorded by the events, arrived by their arrival, and believed by the members. elected is
// from the signal to the arrival of an election, exits from the signal to the exit.
type handovers struct{ recorded, arrived, believed, elected, exits []time.Duration }

func (f handovers) report(t *testing.T, store string) {
	t.Logf("FIGURE %s: hand-over on SIGTERM, unled by occurredAt of the events: %s", store, distribution(f.recorded))
	t.Logf("FIGURE %s: hand-over on SIGTERM, unled by arrival of the events:    %s", store, distribution(f.arrived))
	t.Logf("FIGURE %s: hand-over on SIGTERM, believed by nobody (20 ms polls):  %s", store, distribution(f.believed))
	t.Logf("FIGURE %s: SIGTERM to the elections, seen on another node:          %s", store, distribution(f.elected))
	t.Logf("FIGURE %s: SIGTERM to exit:                                         %s", store, distribution(f.exits))
}

// handOverEach ends each node by SIGTERM, and starts it again.
func handOverEach(t *testing.T, c *harness.Cluster, watch *harness.Watch) (f handovers) {
	for _, n := range c.Nodes {
		f.add(t, c, n, watch)
		n.Start()
	}
	return f
}

// add ends one node that leads.
func (f *handovers) add(t *testing.T, c *harness.Cluster, n *harness.Node, watch *harness.Watch) {
	// A member that has just come back has no lease until its first keepalive is
	// acknowledged, and one that is under way when the registrar leaves never is: what
	// it is elected for then it believes a keepalive's interval later.
	harness.Await(t, 10*time.Second, "every member leading something", func() error { return holdSomething(c) })
	before := c.AwaitSettled(20 * time.Second)
	if len(before.LedBy(n.ID)) == 0 {
		t.Fatalf("%s leads nothing: its end would show nothing", n.ID)
	}
	survivors := c.Others(n)
	source := c.OpenEventSource(harness.SourceOptions{Pick: harness.Always(survivors[0])})
	defer source.Close()
	harness.Await(t, 5*time.Second, "the stream's snapshot", func() error { return snapshotEnded(source) })
	registrar := n.IsRegistrar()

	start := time.Now()
	n.Terminate()
	if code := n.AwaitExit(15 * time.Second); code != 0 {
		t.Errorf("%s ended with code %d", n.ID, code)
	}
	f.exits = append(f.exits, time.Since(start))
	harness.Await(t, 5*time.Second, n.ID+" succeeded in all its scopes", func() error { return succeeded(survivors, n.ID, before) })

	var gaps []handover
	var longest time.Duration
	harness.Await(t, 5*time.Second, "every successor seen acting", func() (err error) {
		gaps, err = handoversOf(watch, source.Events(), n.ID)
		return err
	})
	for _, g := range gaps {
		longest = max(longest, g.believed)
		f.recorded, f.arrived, f.believed = append(f.recorded, g.recorded), append(f.arrived, g.arrived), append(f.believed, g.believed)
		f.elected = append(f.elected, g.elected.Sub(start))
		if max(g.recorded, g.arrived, g.believed) > unledAtMost {
			t.Errorf("%s: unled for %v by its events, %v by their arrival, %v by belief", g.scope, g.recorded, g.arrived, g.believed)
		}
	}
	if len(gaps) < len(before.LedBy(n.ID)) {
		t.Errorf("%d hand-overs of %d scopes of %s", len(gaps), len(before.LedBy(n.ID)), n.ID)
	}
	t.Logf("%s handed over %d scopes, registrar: %t, believed by nobody for %v at most, and ended after %v",
		n.ID, len(gaps), registrar, longest.Round(time.Millisecond), f.exits[len(f.exits)-1].Round(time.Millisecond))
}

func holdSomething(c *harness.Cluster) error {
	for _, n := range c.Nodes {
		held, err := n.Held()
		if err == nil && len(held.Held) == 0 {
			err = fmt.Errorf("%s holds nothing", n.ID)
		}
		if err != nil {
			return err
		}
	}
	return nil
}

func snapshotEnded(s *harness.EventSource) error {
	for _, a := range s.Events() {
		if a.Event.Kind == core.EventObserved.String() {
			return nil
		}
	}
	return fmt.Errorf("%d events and no end of the snapshot", len(s.Events()))
}

// handover is one scope's change from a node that stopped to its successor.
type handover struct {
	scope                       string
	recorded, arrived, believed time.Duration
	elected                     time.Time // when the election arrived
}

// handoversOf pairs each end of a leadership of the node that stopped with the
// election after it.
func handoversOf(watch *harness.Watch, events []harness.Arrival, gone string) (gaps []handover, err error) {
	ends := map[string]harness.Arrival{}
	for _, a := range events {
		e := a.Event
		switch end, ended := ends[e.Scope]; {
		case e.Token == nil || e.Kind == core.EventSnapshot.String():
		case e.LeaderID == gone && harness.EndsLeadership(e.Kind):
			ends[e.Scope] = a
		case ended && e.Kind == core.EventElected.String():
			g := handover{scope: e.Scope, recorded: e.OccurredAt.Sub(end.Event.OccurredAt), arrived: a.At.Sub(end.At), elected: a.At}
			if g.believed, err = watch.Handover(e.Scope, end.Event.Token.FenceToken, e.Token.FenceToken); err != nil {
				return nil, err
			}
			gaps = append(gaps, g)
			delete(ends, e.Scope)
		}
	}
	if len(ends) > 0 {
		return nil, fmt.Errorf("%d scopes ended and were not elected", len(ends))
	}
	return gaps, nil
}

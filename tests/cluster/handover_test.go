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
	var recorded, arrived, believed []time.Duration
	var exits []time.Duration
	for _, n := range c.Nodes {
		before := c.AwaitSettled(20 * time.Second)
		if len(before.LedBy(n.ID)) == 0 {
			t.Fatalf("%s leads nothing: its end would show nothing", n.ID)
		}
		survivors := c.Others(n)
		source := c.OpenEventSource(harness.SourceOptions{Pick: harness.Always(survivors[0])})
		harness.Await(t, 5*time.Second, "the stream's snapshot", func() error { return snapshotEnded(source) })
		registrar := n.IsRegistrar()

		start := time.Now()
		n.Terminate()
		if code := n.AwaitExit(15 * time.Second); code != 0 {
			t.Errorf("%s ended with code %d", n.ID, code)
		}
		exits = append(exits, time.Since(start))
		harness.Await(t, 5*time.Second, n.ID+" succeeded in all its scopes", func() error { return succeeded(survivors, n.ID, before) })

		var gaps []handover
		harness.Await(t, 5*time.Second, "every successor seen acting", func() (err error) {
			gaps, err = handovers(watch, source.Events(), n.ID)
			return err
		})
		for _, g := range gaps {
			recorded, arrived, believed = append(recorded, g.recorded), append(arrived, g.arrived), append(believed, g.believed)
			if max(g.recorded, g.arrived, g.believed) > unledAtMost {
				t.Errorf("%s: unled for %v by its events, %v by their arrival, %v by belief", g.scope, g.recorded, g.arrived, g.believed)
			}
		}
		if len(gaps) < len(before.LedBy(n.ID)) {
			t.Errorf("%d hand-overs of %d scopes of %s", len(gaps), len(before.LedBy(n.ID)), n.ID)
		}
		t.Logf("%s handed over %d scopes, registrar: %t, and ended after %v", n.ID, len(gaps), registrar, exits[len(exits)-1].Round(time.Millisecond))
		source.Close()
		n.Start()
	}
	c.AwaitSettled(20 * time.Second)
	verifyTrail(t, c, watch)
	t.Logf("FIGURE hand-over on SIGTERM, unled by occurredAt of the events: %s", distribution(recorded))
	t.Logf("FIGURE hand-over on SIGTERM, unled by arrival of the events:    %s", distribution(arrived))
	t.Logf("FIGURE hand-over on SIGTERM, believed by nobody (20 ms polls):  %s", distribution(believed))
	t.Logf("FIGURE SIGTERM to exit:                                         %s", distribution(exits))
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
}

// handovers pairs each end of a leadership of the node that stopped with the
// election after it.
func handovers(watch *harness.Watch, events []harness.Arrival, gone string) (gaps []handover, err error) {
	ends := map[string]harness.Arrival{}
	for _, a := range events {
		e := a.Event
		switch end, ended := ends[e.Scope]; {
		case e.Token == nil || e.Kind == core.EventSnapshot.String():
		case e.LeaderID == gone && harness.EndsLeadership(e.Kind):
			ends[e.Scope] = a
		case ended && e.Kind == core.EventElected.String():
			g := handover{scope: e.Scope, recorded: e.OccurredAt.Sub(end.Event.OccurredAt), arrived: a.At.Sub(end.At)}
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

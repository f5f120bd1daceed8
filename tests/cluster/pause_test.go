package cluster_test

import (
	"fmt"
	"strings"
	"testing"
	"time"

	"github.com/omnirelay/leadership/tests/cluster/harness"
	"github.com/omnirelay/leadership/wire"
)

// TestPausedLeaderIsFencedOff pauses a leader for two TTLs. When it wakes it
// refuses itself before its successor has acted; afterwards the resource refuses it.
func TestPausedLeaderIsFencedOff(t *testing.T) {
	c := harness.New(t, harness.Options{})
	watch := c.WatchHeld()
	t.Run("the registrar", func(t *testing.T) { pauseLeader(t, c, true) })
	t.Run("another", func(t *testing.T) { pauseLeader(t, c, false) })
	verifyTrail(t, c, watch)
}

func pauseLeader(t *testing.T, c *harness.Cluster, registrar bool) {
	before := c.AwaitSettled(20 * time.Second)
	leader, scope := leaderToPause(t, c, before, registrar)
	resource := harness.StartResource(t)
	old := heldBy(t, leader, scope)
	if refused := resource.Act(harness.Effect{Scope: scope, Fence: old, What: "by the leader"}); refused != "" {
		t.Fatalf("the leader was refused: %s", refused)
	}

	paused := time.Now()
	leader.Pause()
	harness.Await(t, failoverWithin, leader.ID+" succeeded in all its scopes", func() error {
		return succeeded(c.Others(leader), leader.ID, before)
	})
	t.Logf("paused %s was succeeded in %d scopes after %v", leader.ID, len(before.LedBy(leader.ID)), time.Since(paused).Round(time.Millisecond))
	<-time.After(time.Until(paused.Add(2 * harness.TTL))) // the length of the pause is what is tested

	held, err := leader.HeldUponWaking()
	if err != nil {
		t.Fatal(err)
	}
	if len(held.Held) > 0 {
		t.Errorf("upon waking %s believes that it holds %d scopes, like %+v", leader.ID, len(held.Held), held.Held[0])
	}

	successor, fence := successorOf(t, c, scope, old)
	if refused := resource.Act(harness.Effect{Scope: scope, Fence: fence, What: "by the successor"}); refused != "" {
		t.Errorf("the successor was refused: %s", refused)
	}
	refuseStale(t, resource, harness.Effect{Scope: scope, Fence: old, What: "by the woken one, unchecked"}, fence)
	resource.Restart()
	refuseStale(t, resource, harness.Effect{Scope: scope, Fence: old, What: "by the woken one, after the restart"}, fence)
	if refused := resource.Act(harness.Effect{Scope: scope, Fence: fence, What: "by the successor again"}); refused != "" {
		t.Errorf("the successor was refused after the restart: %s", refused)
	}
	t.Logf("%s: %s acted with fence %d, %s was refused with %d", scope, successor, fence, leader.ID, old)
	want := []harness.Effect{{Scope: scope, Fence: old, What: "by the leader"}, {Scope: scope, Fence: fence, What: "by the successor"},
		{Scope: scope, Fence: fence, What: "by the successor again"}}
	if got := resource.Log(); fmt.Sprint(got) != fmt.Sprint(want) {
		t.Errorf("the resource accepted %v, want %v", got, want)
	}
	c.AwaitSettled(20 * time.Second)
}

// leaderToPause picks a node that leads, the registrar or not, and one of its scopes.
func leaderToPause(t *testing.T, c *harness.Cluster, l harness.Leaders, registrar bool) (*harness.Node, string) {
	t.Helper()
	for scope, token := range l.ByScope {
		if n := c.Node(token.LeaderID); n.IsRegistrar() == registrar {
			return n, scope
		}
	}
	t.Fatalf("nothing is led by a node whose being the registrar is %t", registrar)
	return nil, ""
}

// heldBy is the fence with which the node itself believes it leads the scope.
func heldBy(t *testing.T, n *harness.Node, scope string) (fence uint64) {
	t.Helper()
	harness.Await(t, 5*time.Second, n.ID+" holding "+scope, func() error {
		held, err := n.Held()
		if err != nil {
			return err
		}
		if h, ok := find(held, scope); ok {
			fence = h.FenceToken
			return nil
		}
		return fmt.Errorf("it holds %d others", len(held.Held))
	})
	return fence
}

func find(held wire.HeldResponse, scope string) (wire.Held, bool) {
	for _, h := range held.Held {
		if h.Scope == scope {
			return h, true
		}
	}
	return wire.Held{}, false
}

// successorOf asks the members for the one that now holds the scope.
func successorOf(t *testing.T, c *harness.Cluster, scope string, old uint64) (member string, fence uint64) {
	t.Helper()
	harness.Await(t, 5*time.Second, "a successor holding "+scope, func() error {
		for _, n := range c.Nodes {
			held, err := n.Held()
			if err != nil {
				return err
			}
			if h, ok := find(held, scope); ok && h.FenceToken > old {
				member, fence = n.ID, h.FenceToken
				return nil
			}
		}
		return fmt.Errorf("nobody holds it")
	})
	return member, fence
}

func refuseStale(t *testing.T, r *harness.Resource, e harness.Effect, required uint64) {
	t.Helper()
	if refused := r.Act(e); !strings.Contains(refused, fmt.Sprintf("at least %d is required", required)) {
		t.Errorf("%q with fence %d was answered %q, want a refusal that requires %d", e.What, e.Fence, refused, required)
	}
}

package cluster_test

import (
	"fmt"
	"net/http"
	"strings"
	"testing"
	"time"

	"github.com/omnirelay/leadership/tests/cluster/harness"
)

// TestLostMajority kills two of three nodes: after the TTL the third believes
// nothing and says why it is not ready. When they are back everything is led again,
// and so it is when all three are killed at once.
func TestLostMajority(t *testing.T) {
	c := harness.New(t, harness.Options{})
	watch := c.WatchHeld()
	before := c.AwaitSettled(20 * time.Second)
	survivor := leadsMost(c.Nodes, before)
	down := time.Now()
	for _, n := range c.Others(survivor) {
		n.Kill()
	}
	harness.Await(t, harness.TTL+500*time.Millisecond, "the survivor giving up its belief", func() error { return holdsNothing(survivor) })
	t.Logf("%s led %d, and believed nothing %v after the others were killed", survivor.ID, len(before.LedBy(survivor.ID)), time.Since(down).Round(time.Millisecond))
	harness.Await(t, 5*time.Second, "/readyz with 503 and the reason", func() error { return unready(survivor, "/readyz", "registrar") })
	if err := unready(survivor, "/control/leaders", "registrar"); err != nil {
		t.Error(err)
	}
	// Nothing may change by itself: more than a TTL later it is the same.
	stays := time.Now()
	harness.Await(t, 2*harness.TTL, "a TTL without a majority", func() error {
		if err := holdsNothing(survivor); err != nil {
			t.Fatal(err)
		}
		if time.Since(stays) < harness.TTL {
			return fmt.Errorf("not over")
		}
		return nil
	})

	up := time.Now()
	for _, n := range c.Others(survivor) {
		n.Start()
	}
	after := awaitElectedAnew(t, c, before)
	t.Logf("FIGURE majority back: all led anew after %v", time.Since(up).Round(time.Millisecond))

	for _, n := range c.Nodes {
		n.Kill()
	}
	up = time.Now()
	for _, n := range c.Nodes {
		n.Start()
	}
	awaitElectedAnew(t, c, after)
	t.Logf("FIGURE whole cluster killed and back: all led anew after %v", time.Since(up).Round(time.Millisecond))
	verifyTrail(t, c, watch)
}

func holdsNothing(n *harness.Node) error {
	held, err := n.Held()
	if err == nil && len(held.Held) > 0 {
		err = fmt.Errorf("%s still holds %d scopes", n.ID, len(held.Held))
	}
	return err
}

// unready returns nil when the path answers 503 with a reason that names what lacks.
func unready(n *harness.Node, path, lacks string) error {
	a, err := n.Get(path)
	if err != nil {
		return err
	}
	if a.Status != http.StatusServiceUnavailable || a.Header.Get("Retry-After") == "" {
		return fmt.Errorf("%s %s: status %d, Retry-After %q", n.ID, path, a.Status, a.Header.Get("Retry-After"))
	}
	problem, err := a.Problem()
	if err != nil {
		return err
	}
	if !strings.Contains(problem.Detail, lacks) {
		return fmt.Errorf("%s %s does not say why: %s", n.ID, path, a.Body)
	}
	return nil
}

// awaitElectedAnew waits until every scope has been elected again: until the sessions
// of before have ended the registry still counts on them.
func awaitElectedAnew(t *testing.T, c *harness.Cluster, before harness.Leaders) (after harness.Leaders) {
	t.Helper()
	harness.Await(t, 20*time.Second, "every scope elected again", func() error {
		after = c.AwaitSettled(20 * time.Second)
		for scope, old := range before.ByScope {
			if now := after.ByScope[scope]; now.FenceToken <= old.FenceToken {
				return fmt.Errorf("%s is led by %s with fence %d, before by %s with %d", scope, now.LeaderID, now.FenceToken, old.LeaderID, old.FenceToken)
			}
		}
		return nil
	})
	return after
}

package cluster_test

import (
	"errors"
	"net/http"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/omnirelay/leadership/tests/cluster/harness"
)

// exitRemoved is the exit code of a node that was removed, as docs/runbooks says.
const exitRemoved = 3

// TestNodesComeAndGo adds a node to a running cluster, replaces one that was killed,
// removes one alive and moves the registrar, while everybody's beliefs are watched.
func TestNodesComeAndGo(t *testing.T) {
	c := harness.New(t, harness.Options{})
	watch := c.WatchHeld()
	first, second, third := c.Nodes[0], c.Nodes[1], c.Nodes[2]
	c.AwaitVoters(10*time.Second, "node-1", "node-2", "node-3")

	fourth := c.Join("node-4", first)
	watch.Follow(fourth)
	began := time.Now()
	first.MustChange("/control/nodes", map[string]any{"requestId": "add-4", "node": fourth.Described(), "why": "capacity"})
	second.MustChange("/control/nodes", map[string]any{"requestId": "add-4-again", "node": fourth.Described()})
	c.AwaitVoters(15*time.Second, "node-1", "node-2", "node-3", "node-4")
	t.Logf("FIGURE raft: a node added, from the command to its vote: %v", time.Since(began).Round(time.Millisecond))
	before := c.AwaitBelieved(20 * time.Second)

	second.Kill()
	c.Leave(second)
	harness.Await(t, failoverWithin, "node-2 succeeded in all its scopes", func() error { return succeeded(c.Nodes, second.ID, before) })
	fifth := c.Join("node-5", fourth)
	watch.Follow(fifth)
	began = time.Now()
	fourth.MustChange("/control/nodes/node-2/replace", map[string]any{"requestId": "replace-2", "by": fifth.Described(), "why": "its disk broke"})
	c.AwaitVoters(15*time.Second, "node-1", "node-3", "node-4", "node-5")
	t.Logf("FIGURE raft: a dead node replaced, from the command to the last step: %v", time.Since(began).Round(time.Millisecond))
	c.AwaitBelieved(20 * time.Second)

	comesBack(t, second)
	refusedAgain(t, c, second)
	moveTo(t, c, fifth)

	first.MustChange("/control/nodes/node-3/remove", map[string]any{"requestId": "remove-3", "why": "too many"})
	c.Leave(third)
	c.AwaitVoters(15*time.Second, "node-1", "node-4", "node-5")
	if code := third.AwaitExit(10 * time.Second); code != exitRemoved {
		t.Errorf("the node that was removed ended with code %d, want %d", code, exitRemoved)
	}

	// A node comes back on a configuration that names the nodes of long ago.
	first.Terminate()
	if code := first.AwaitExit(15 * time.Second); code != 0 {
		t.Errorf("%s ended with code %d", first.ID, code)
	}
	first.Start()
	c.AwaitSettled(20 * time.Second)
	verifyTrail(t, c, watch)
}

// comesBack starts a node that was removed while it was dead: its peers tell it.
func comesBack(t *testing.T, n *harness.Node) {
	t.Helper()
	size := n.LogSize()
	n.Start()
	if code := n.AwaitExit(10 * time.Second); code != exitRemoved {
		t.Errorf("%s, which was replaced, ended with code %d, want %d", n.ID, code, exitRemoved)
	}
	if !n.LoggedSince(size, "was removed from the cluster") {
		t.Errorf("%s does not say that it was removed: %s", n.ID, n.LogTail(5))
	}
}

// refusedAgain: the name of a node that was removed is never used again.
func refusedAgain(t *testing.T, c *harness.Cluster, n *harness.Node) {
	t.Helper()
	a, err := c.Nodes[0].Change("/control/nodes", map[string]any{"requestId": "again", "node": n.Described()})
	if err != nil {
		t.Fatal(err)
	}
	if a.Status != http.StatusConflict || !strings.Contains(string(a.Body), "never used again") {
		t.Errorf("adding %s again: status %d: %s", n.ID, a.Status, a.Body)
	}
	_, removed, err := c.Nodes[0].Table()
	if err != nil || !slices.Equal(removed, []string{n.ID}) {
		t.Errorf("removed are %v (%v)", removed, err)
	}
}

// moveTo moves the registrar, which takes no scope from anybody.
func moveTo(t *testing.T, c *harness.Cluster, to *harness.Node) {
	t.Helper()
	for _, target := range []*harness.Node{c.Others(to)[0], to} {
		began := time.Now()
		to.MustChange("/control/registrar/move", map[string]any{"requestId": "move-to-" + target.ID, "to": target.ID, "why": "maintenance"})
		harness.Await(t, 5*time.Second, target.ID+" being registrar", func() error {
			if !target.IsRegistrar() {
				return errors.New("it is not yet")
			}
			return nil
		})
		t.Logf("FIGURE raft: the registrar moved to %s within %v", target.ID, time.Since(began).Round(time.Millisecond))
	}
}

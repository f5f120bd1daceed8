package cluster_test

import (
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"os/exec"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/omnirelay/leadership/tests/cluster/harness"
)

// operator types commands of omnirelay at a cluster.
type operator struct {
	t *testing.T
	c *harness.Cluster
}

// types runs a command line, wants this exit code, and returns what it printed.
func (o *operator) types(code int, line ...string) string {
	o.t.Helper()
	cmd := harness.Omnirelay(append(line, "--cluster", o.c.ManifestPath())...)
	var out, notes bytes.Buffer
	cmd.Stdout, cmd.Stderr = &out, &notes
	err := cmd.Run()
	var ended *exec.ExitError
	if err != nil && !errors.As(err, &ended) {
		o.t.Fatal(err)
	}
	if got := cmd.ProcessState.ExitCode(); got != code {
		o.t.Fatalf("omnirelay %s: exit code %d, want %d:\n%s%s", strings.Join(line, " "), got, code, out.String(), notes.String())
	}
	return out.String() + notes.String()
}

// reads runs a command for its JSON.
func (o *operator) reads(into any, line ...string) {
	o.t.Helper()
	text := o.types(0, append(line, "-o", "json")...)
	if err := json.Unmarshal([]byte(text), into); err != nil {
		o.t.Fatalf("omnirelay %s: %v: %s", strings.Join(line, " "), err, text)
	}
}

func (o *operator) says(text string, line ...string) {
	o.t.Helper()
	if said := o.types(0, line...); !strings.Contains(said, text) {
		o.t.Errorf("omnirelay %s said %q, want %q in it", strings.Join(line, " "), said, text)
	}
}

func (o *operator) leader(scope string) string {
	o.t.Helper()
	var answer struct{ Tokens []struct{ LeaderID string } }
	o.reads(&answer, "mesh", "leaders", "status", "--scope", scope)
	if len(answer.Tokens) != 1 {
		o.t.Fatalf("%s: %+v", scope, answer)
	}
	return answer.Tokens[0].LeaderID
}

type peerRow struct {
	ID, Status string
	Leads      int
	Draining   bool
}

func (o *operator) peers() (all []peerRow) {
	o.t.Helper()
	var answer struct{ Peers []peerRow }
	o.reads(&answer, "mesh", "peers", "list")
	return answer.Peers
}

// TestWhatOperatorsType: every verb of omnirelay mesh does what it says on a real
// cluster, and says that it is done only then.
func TestWhatOperatorsType(t *testing.T) {
	c := harness.New(t, harness.Options{Gossip: true})
	o := &operator{t, c}
	harness.Await(t, 15*time.Second, "everybody hears everybody", func() error {
		for _, p := range o.peers() {
			if p.Status != "alive" {
				return fmt.Errorf("%s is %s", p.ID, p.Status)
			}
		}
		return nil
	})
	t.Run("leaders", func(t *testing.T) { o.t = t; moveLeaders(o) })
	t.Run("peers", func(t *testing.T) { o.t = t; drainPeers(o) })
	t.Run("nodes", func(t *testing.T) { o.t = t; changeNodes(o) })
	t.Run("audit", func(t *testing.T) {
		o.t = t
		o.says("none was changed, none is missing", "mesh", "leaders", "audit", "--after", "0", "--limit", "100000", "--verify")
		o.says("kernel update", "mesh", "leaders", "audit", "--limit", "1000")
		o.says("client/operate", "mesh", "leaders", "audit", "--scope", "global-control")
	})
}

func moveLeaders(o *operator) {
	const scope = "global-control"
	before := o.leader(scope)
	to := "node-1"
	if before == to {
		to = "node-2"
	}
	o.says(fmt.Sprintf("%s went from %s to %s", scope, before, to), "mesh", "leaders", "transfer", "--scope", scope, "--to", to, "--why", "a test")
	if now := o.leader(scope); now != to {
		o.t.Errorf("%s leads after the transfer to %s", now, to)
	}
	o.says("leads "+scope+" already", "mesh", "leaders", "transfer", "--scope", scope, "--to", to)
	o.says(scope+" went from "+to, "mesh", "leaders", "resign", "--scope", scope)
	if now := o.leader(scope); now == to {
		o.t.Errorf("%s leads after it resigned", now)
	}
	if said := o.types(1, "mesh", "leaders", "transfer", "--scope", "globl", "--to", to); !strings.Contains(said, "did you mean global-control?") {
		o.t.Error(said)
	}
	if said := o.types(1, "mesh", "leaders", "transfer", "--scope", scope, "--to", "nobody"); !strings.Contains(said, "does not stand") {
		o.t.Error(said)
	}
}

func drainPeers(o *operator) {
	o.says("node-2 leads nothing any more", "mesh", "peers", "drain", "node-2", "--why", "kernel update")
	i := slices.IndexFunc(o.peers(), func(p peerRow) bool { return p.ID == "node-2" })
	if p := o.peers()[i]; p.Leads != 0 || !p.Draining {
		o.t.Errorf("drained: %+v", p)
	}
	o.says("node-2 leads nothing; it stays cordoned", "mesh", "peers", "drain", "node-2")
	o.says("drained", "mesh", "peers", "status", "node-2")
	o.says("may be elected again", "mesh", "peers", "uncordon", "node-2")
	o.types(0, "mesh", "leaders", "rebalance", "--dry-run")
	o.says("balanced: ", "mesh", "leaders", "rebalance", "--rate", "64/s")
	least, most := harness.ScopeCount, 0
	for _, p := range o.peers() {
		least, most = min(least, p.Leads), max(most, p.Leads)
	}
	if most-least > 2 {
		o.t.Errorf("balanced: %+v", o.peers())
	}
	o.says("is cordoned", "mesh", "peers", "cordon", "node-3")
	o.says("may be elected again", "mesh", "peers", "uncordon", "node-3")
	// Everybody else is cordoned: nobody can take anything, which is said.
	o.types(0, "mesh", "peers", "cordon", "node-2")
	o.types(0, "mesh", "peers", "cordon", "node-3")
	if said := o.types(1, "mesh", "peers", "drain", "node-1", "--timeout", "2s"); !strings.Contains(said, "stuck: nobody else can lead ") {
		o.t.Error(said)
	}
	o.types(0, "mesh", "peers", "uncordon", "node-2")
	o.says("node-1 leads nothing", "mesh", "peers", "drain", "node-1") // it stood all the time
	for _, member := range []string{"node-1", "node-3"} {
		o.types(0, "mesh", "peers", "uncordon", member)
	}
}

func changeNodes(o *operator) {
	fourth := o.c.Join("node-4", o.c.Nodes[0])
	add := []string{"mesh", "nodes", "add", "node-4", "--peer", fourth.Peer, "--http", fourth.HTTP, "--grpc", fourth.GRPC, "--why", "more room"}
	o.says("node-4 is a voter", add...)
	o.says("node-4 is a voter", add...) // repeated
	o.says("node-4", "mesh", "nodes", "list", "-o", "wide")
	o.says("node-4 is registrar", "mesh", "nodes", "move-registrar", "--to", "node-4")
	o.says("node-4 is registrar already", "mesh", "nodes", "move-registrar", "--to", "node-4")
	o.says(" is registrar", "mesh", "nodes", "move-registrar")

	fifth := o.c.Join("node-5", o.c.Nodes[0])
	o.says("node-4 is removed", "mesh", "nodes", "replace", "node-4", "--by", "node-5", "--peer", fifth.Peer, "--http", fifth.HTTP, "--grpc", fifth.GRPC)
	o.c.Leave(fourth)
	if code := fourth.AwaitExit(10 * time.Second); code != exitRemoved {
		o.t.Errorf("the node that was replaced ended with code %d, want %d", code, exitRemoved)
	}
	o.says("node-5 is removed", "mesh", "nodes", "remove", "node-5")
	o.says("node-5 is removed already", "mesh", "nodes", "remove", "node-5")
	o.c.Leave(fifth)
	if said := o.types(1, add...); !strings.Contains(said, "never used again") {
		o.t.Error(said)
	}
}

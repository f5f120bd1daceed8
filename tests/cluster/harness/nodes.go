package harness

import (
	"bytes"
	"encoding/json"
	"fmt"
	"net/http"
	"os"
	"slices"
	"time"

	"github.com/omnirelay/leadership/adapters/transport"
)

// Join lays out a node that is to join the cluster and starts it. Its configuration names
// itself and one node that is there already.
func (c *Cluster) Join(id string, through *Node) *Node {
	c.t.Helper()
	n := c.layNode(id, "")
	all := c.Nodes
	c.Nodes = []*Node{through, n}
	text := c.configOf(n, Options{Settings: "join: true\n"})
	c.Nodes = all
	must(c.t, os.WriteFile(n.Config, []byte(text), 0o600))
	n.Start()
	return n
}

// Leave takes a node out of those that are asked; its process is not touched.
func (c *Cluster) Leave(n *Node) {
	c.Nodes = slices.DeleteFunc(slices.Clone(c.Nodes), func(o *Node) bool { return o == n })
	c.t.Cleanup(n.Kill)
}

// NodeRow is one row of /control/nodes.
type NodeRow struct {
	Name, Stage, Replaces string
	Registrar             bool
}

// Table reads /control/nodes: the rows, and the names that are never used again.
func (n *Node) Table() (rows []NodeRow, removed []string, err error) {
	var answer struct {
		Nodes   []NodeRow
		Removed []string
	}
	err = n.read("/control/nodes", &answer)
	return answer.Nodes, answer.Removed, err
}

// Change sends a POST to a path of the node with the certificate of an administrator.
func (n *Node) Change(path string, body map[string]any) (*Answer, error) {
	n.cluster.t.Helper()
	pair, err := n.cluster.Authority.IssueClient(transport.RoleAdmin)
	must(n.cluster.t, err)
	data, err := json.Marshal(body)
	must(n.cluster.t, err)
	header := http.Header{"Content-Type": {"application/json"}}
	return Ask(n.cluster.ClientOf(pair), 10*time.Second, http.MethodPost, n.URL+path, bytes.NewReader(data), header)
}

// MustChange is Change that fails the test unless it is done.
func (n *Node) MustChange(path string, body map[string]any) {
	n.cluster.t.Helper()
	a, err := n.Change(path, body)
	must(n.cluster.t, err)
	if a.Status != http.StatusOK {
		n.cluster.t.Fatalf("%s on %s: status %d: %s", path, n.ID, a.Status, a.Body)
	}
}

// Described is a node as the requests that add it describe it.
func (n *Node) Described() map[string]any {
	return map[string]any{"name": n.ID, "peerAddress": n.Peer, "httpAddress": n.HTTP, "grpcAddress": n.GRPC}
}

// AwaitVoters waits until every node of the cluster says that exactly these vote, and
// that nothing is under way.
func (c *Cluster) AwaitVoters(within time.Duration, want ...string) {
	c.t.Helper()
	slices.Sort(want)
	Await(c.t, within, fmt.Sprintf("the voters %v on every node", want), func() error {
		for _, n := range c.Nodes {
			rows, _, err := n.Table()
			if err != nil {
				return err
			}
			var have []string
			for _, r := range rows {
				if r.Stage != "voter" || r.Replaces != "" {
					return fmt.Errorf("%s says that %+v", n.ID, r)
				}
				have = append(have, r.Name)
			}
			slices.Sort(have)
			if !slices.Equal(have, want) {
				return fmt.Errorf("%s tells of %v", n.ID, have)
			}
		}
		return nil
	})
}

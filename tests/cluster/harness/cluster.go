package harness

import (
	"crypto/x509"
	"fmt"
	"net/http"
	"os"
	"strings"
	"testing"
	"time"

	"github.com/omnirelay/leadership/adapters/transport"
)

// TTL is the session TTL of every cluster: the default of the configuration.
const TTL = 2 * time.Second

// ScopeCount is how many scopes every cluster declares.
const ScopeCount = 65

// StartWithin is how long a cluster may take until everything is led.
const StartWithin = 30 * time.Second

// Options settle a cluster.
type Options struct {
	Nodes    int    // 0: 3
	Store    string // one of Stores; empty: raft
	Settings string // further lines under mesh.leadership, on every node

	Gossip         bool   // the nodes gossip
	GossipSettings string // further lines under mesh.gossip, on every node

	// Hosts are the addresses of the nodes; empty: one on the loopback for all. A node
	// that is to live in another network namespace has an address there.
	Hosts []string
	// Namespaces are the paths of the network namespaces that the nodes live in, an empty
	// one that of the test.
	Namespaces []string
}

// Cluster is a set of node processes on this machine.
type Cluster struct {
	Nodes     []*Node
	Authority *transport.Authority
	Store     *Store // nil: raft

	t      testing.TB
	dir    string
	host   string          // the address of all nodes
	given  map[string]bool // addresses, by FreeAddress
	client *http.Client    // with a certificate of role read
}

// New starts a cluster and waits until every node is ready and everything is led.
// Afterwards nothing of it is left; the logs are shown when the test failed.
func New(t testing.TB, o Options) *Cluster {
	t.Helper()
	if o.Nodes == 0 {
		o.Nodes = 3
	}
	dir := t.TempDir()
	store := startStore(t, dir, o.Store)
	o.Settings += store.settings()
	c := layOut(t, dir, o)
	c.Store = store
	c.client = c.newClient()
	t.Cleanup(c.showLogs)
	t.Cleanup(c.killAll)
	for i, n := range c.Nodes {
		if i < len(o.Namespaces) {
			n.namespace = o.Namespaces[i]
		}
		n.Start()
	}
	c.AwaitSettled(StartWithin)
	return c
}

// Open returns a cluster that leaderd dev runs; its nodes can be asked, not controlled.
func Open(t testing.TB, m *Manifest) *Cluster {
	t.Helper()
	c := &Cluster{t: t}
	ca, err := os.ReadFile(m.CA)
	must(t, err)
	config, err := clientTLS(ca, readPair(t, m.Clients["read"]))
	must(t, err)
	c.client = newHTTPClient(t, config)
	for _, n := range m.Nodes {
		c.Nodes = append(c.Nodes, &Node{
			ID: n.ID, URL: n.HTTP, HTTP: strings.TrimPrefix(n.HTTP, "https://"), GRPC: n.GRPC, Config: n.Config, DataDir: n.DataDir, Log: n.Log, cluster: c,
		})
	}
	t.Cleanup(c.showLogs)
	return c
}

func readPair(t testing.TB, files ManifestClient) transport.Pair {
	t.Helper()
	cert, err := os.ReadFile(files.Cert)
	must(t, err)
	key, err := os.ReadFile(files.Key)
	must(t, err)
	return transport.Pair{Cert: cert, Key: key}
}

func poolOf(pem []byte) *x509.CertPool {
	pool := x509.NewCertPool()
	if !pool.AppendCertsFromPEM(pem) {
		return nil
	}
	return pool
}

func (c *Cluster) newClient() *http.Client {
	c.t.Helper()
	pair, err := c.Authority.IssueClient(transport.RoleRead)
	must(c.t, err)
	return c.ClientOf(pair)
}

// ClientOf calls with the certificate of the pair, a zero one with none.
func (c *Cluster) ClientOf(pair transport.Pair) *http.Client {
	c.t.Helper()
	return newHTTPClient(c.t, c.ClientTLS(pair))
}

func (c *Cluster) killAll() {
	for _, n := range c.Nodes {
		n.Kill()
	}
	// What was killed needs a moment to die.
	left := LeftBehind()
	for end := time.Now().Add(5 * time.Second); len(left) > 0 && time.Now().Before(end); left = LeftBehind() {
		time.Sleep(20 * time.Millisecond)
	}
	if len(left) > 0 {
		c.t.Errorf("processes were left behind: %v", left)
	}
}

// logTail is how many lines of each node's log a failed test shows.
const logTail = 30

func (c *Cluster) showLogs() {
	if !c.t.Failed() {
		return
	}
	for _, n := range c.Nodes {
		c.t.Logf("the last lines of %s:\n%s", n.ID, n.LogTail(logTail))
	}
}

// Node finds a node by its id.
func (c *Cluster) Node(id string) *Node {
	c.t.Helper()
	for _, n := range c.Nodes {
		if n.ID == id {
			return n
		}
	}
	c.t.Fatalf("there is no node %q", id)
	return nil
}

// Others are all nodes but these.
func (c *Cluster) Others(not ...*Node) (others []*Node) {
	for _, n := range c.Nodes {
		if !contains(not, n) {
			others = append(others, n)
		}
	}
	return others
}

func contains(nodes []*Node, n *Node) bool {
	for _, other := range nodes {
		if other == n {
			return true
		}
	}
	return false
}

// AwaitSettled waits until all nodes are ready, tell the same at the same revision,
// and every scope is led. It returns what they tell.
func (c *Cluster) AwaitSettled(within time.Duration) (all Leaders) {
	c.t.Helper()
	Await(c.t, within, "every node ready, every scope led, all telling the same", func() (err error) {
		all, err = c.Settled()
		return err
	})
	return all
}

// Settled returns what all nodes tell alike, when all are ready and every scope is led.
func (c *Cluster) Settled() (Leaders, error) {
	var first Leaders
	for i, n := range c.Nodes {
		if err := n.Ready(); err != nil {
			return first, err
		}
		here, err := n.Leaders()
		if err != nil {
			return first, err
		}
		if len(here.ByScope) != ScopeCount {
			return first, fmt.Errorf("%s tells of %d led scopes, want %d", n.ID, len(here.ByScope), ScopeCount)
		}
		if i == 0 {
			first = here
		} else if err := here.sameAs(first); err != nil {
			return first, fmt.Errorf("%s and %s: %w", n.ID, c.Nodes[0].ID, err)
		}
	}
	return first, nil
}

// AwaitBelieved waits until every scope is led, and by a member that believes it. Who is
// elected and not told yet has nothing to lose in an outage: it goes on under its fence.
func (c *Cluster) AwaitBelieved(within time.Duration) (all Leaders) {
	c.t.Helper()
	Await(c.t, within, "every scope led, and every leader believing it", func() (err error) {
		if all, err = c.Settled(); err != nil {
			return err
		}
		return c.believed(all)
	})
	return all
}

// believed returns nil when every leader of all holds what it leads.
func (c *Cluster) believed(all Leaders) error {
	holds := make(map[string]uint64, len(all.ByScope))
	for _, n := range c.Nodes {
		here, err := n.Held()
		if err != nil {
			return err
		}
		for _, h := range here.Held {
			holds[h.Scope] = h.FenceToken
		}
	}
	for scope, token := range all.ByScope {
		if holds[scope] != token.FenceToken {
			return fmt.Errorf("%s is led by %s under fence %d, and nobody believes that yet", scope, token.LeaderID, token.FenceToken)
		}
	}
	return nil
}

// AwaitTrail waits until every node has the same audit trail, and returns it.
func (c *Cluster) AwaitTrail(within time.Duration) (trail Trail) {
	c.t.Helper()
	Await(c.t, within, "the same audit trail on every node", func() error {
		for i, n := range c.Nodes {
			here, err := n.Audit()
			if err != nil {
				return err
			}
			if i > 0 && !trail.same(here) {
				return fmt.Errorf("%s has %d records, %s another %d", n.ID, len(here), c.Nodes[0].ID, len(trail))
			}
			trail = here
		}
		return nil
	})
	return trail
}

// Registrar is the node that keeps the registry now; nil when none says so.
func (c *Cluster) Registrar() *Node {
	for _, n := range c.Nodes {
		if n.Running() && n.IsRegistrar() {
			return n
		}
	}
	return nil
}

package partition_test

import (
	"context"
	"fmt"
	"net"
	"slices"
	"strings"
	"testing"
	"time"

	"google.golang.org/grpc"
	"google.golang.org/grpc/credentials"

	"github.com/omnirelay/leadership/adapters/transport"
	"github.com/omnirelay/leadership/core"
	"github.com/omnirelay/leadership/tests/cluster/harness"
	"github.com/omnirelay/leadership/wire"
	"github.com/omnirelay/leadership/wire/controlpb"
)

// ttl is long enough for what happens while the lease of the node apart still lives.
const ttl = 20 * time.Second

const settings = `leaseDuration: 20s
maxElectionWindow: 30s
`

// TestAHolderThatWasReplacedAndBelievesIsReported: the node apart leads a scope that
// fails over fast. Its registry connections are cut; its gossip is not. Another is
// elected while it goes on believing, and what it claims by gossip is reported: once
// while it runs on, and once when it had been paused and wakes.
func TestAHolderThatWasReplacedAndBelievesIsReported(t *testing.T) {
	namespace := neighbour(t)
	c := harness.New(t, harness.Options{
		Settings: settings, Gossip: true,
		Hosts: []string{together, together, apart}, Namespaces: []string{"", "", namespace},
	})
	awaitAdvice(t, c)
	holder := c.Nodes[2]
	declareFast(t, c, holder)
	t.Run("cut off", func(t *testing.T) { replace(t, c, holder, false) })
	t.Run("paused", func(t *testing.T) { replace(t, c, holder, true) })
	if err := c.AwaitTrail(20 * time.Second).Verify(); err != nil {
		t.Errorf("audit: %v", err)
	}
}

// replace cuts the holder off until another leads, and waits for the report. A paused one
// wakes when it was replaced: what would tell it so did not reach it.
func replace(t *testing.T, c *harness.Cluster, holder *harness.Node, paused bool) {
	fence := awaitHolding(t, holder)
	cutOff(t, c, holder)
	cut := time.Now()
	if paused {
		holder.Pause()
	}
	harness.Await(t, ttl, "a successor in "+scope, func() error {
		now, err := c.Nodes[0].Leaders()
		if err == nil && now.ByScope[scope].LeaderID == holder.ID {
			err = fmt.Errorf("%s still leads", holder.ID)
		}
		return err
	})
	t.Logf("succeeded %v after the cut", time.Since(cut).Round(time.Millisecond))
	holder.Resume()
	for _, n := range c.Others(holder) {
		harness.Await(t, ttl, n.ID+" telling of two claimants", func() error { return reported(n, holder.ID, fence) })
	}
	told := time.Since(cut)
	held, err := holder.Held()
	if err != nil {
		t.Fatal(err)
	}
	if !slices.ContainsFunc(held.Held, func(h wire.Held) bool { return h.Scope == scope && h.FenceToken == fence }) {
		t.Errorf("%s no longer believes in %s: there were no two claimants", holder.ID, scope)
	}
	t.Logf("reported %v after the cut, while %s held %d scopes", told.Round(time.Millisecond), holder.ID, len(held.Held))
	nft(t, "delete table inet test\n")
	harness.Await(t, 30*time.Second, holder.ID+" telling of it as well", func() error { return reported(holder, holder.ID, fence) })
}

// awaitAdvice waits until every node's gossip sees all, and the registry goes by it: that
// needs a version of the log that each node was heard to understand.
func awaitAdvice(t *testing.T, c *harness.Cluster) {
	t.Helper()
	for _, n := range c.Nodes {
		harness.Await(t, 20*time.Second, n.ID+" going by gossip", func() error {
			a, err := n.Get("/metrics")
			if err != nil {
				return err
			}
			for _, line := range []string{"mesh_gossip_members{status=\"alive\"} 3\n", "mesh_leadership_protocol_version 3\n"} {
				if !strings.Contains(string(a.Body), "\n"+line) {
					return fmt.Errorf("its metrics lack %q", line)
				}
			}
			return nil
		})
	}
}

// cutOff drops all that goes between the node's peer listener and those of the others.
func cutOff(t *testing.T, c *harness.Cluster, n *harness.Node) {
	t.Helper()
	script := "add table inet test\nadd chain inet test in { type filter hook input priority 0; }\nadd chain inet test out { type filter hook output priority 0; }\n"
	ports := []string{}
	for _, other := range c.Others(n) {
		ports = append(ports, portOf(t, other.Peer))
	}
	theirs := "{ " + strings.Join(ports, ", ") + " }"
	script += "add rule inet test in ip saddr " + apart + " tcp dport " + theirs + " drop\n"
	script += "add rule inet test in ip saddr " + apart + " tcp sport " + portOf(t, n.Peer) + " drop\n"
	script += "add rule inet test out ip daddr " + apart + " tcp dport " + portOf(t, n.Peer) + " drop\n"
	script += "add rule inet test out ip daddr " + apart + " tcp sport " + theirs + " drop\n"
	nft(t, script)
}

func portOf(t *testing.T, address string) string {
	t.Helper()
	_, port, err := net.SplitHostPort(address)
	if err != nil {
		t.Fatal(err)
	}
	return port
}

// scope fails over fast, and goes back to the node apart when that is there.
const scope = "shard/mesh.demo/fast"

// declareFast declares the scope. The node must not be the registrar: what it says is
// what the registrar is to hear.
func declareFast(t *testing.T, c *harness.Cluster, n *harness.Node) {
	t.Helper()
	pair, err := c.Authority.IssueClient(transport.RoleAdmin)
	if err != nil {
		t.Fatal(err)
	}
	conn, err := grpc.NewClient(c.Nodes[0].GRPC, grpc.WithTransportCredentials(credentials.NewTLS(c.ClientTLS(pair))))
	if err != nil {
		t.Fatal(err)
	}
	defer func() { _ = conn.Close() }()
	ctx, cancel := context.WithTimeout(t.Context(), 20*time.Second)
	defer cancel()
	moveRegistrar(ctx, t, c, conn, n)
	_, err = controlpb.NewLeadershipRegistryServiceClient(conn).DeclareScopes(ctx, &controlpb.DeclareScopesRequest{
		RequestId: "fast", Scopes: []*controlpb.ScopeSpec{{Id: scope, Failover: controlpb.Failover_FAILOVER_FAST, PreferredMember: n.ID}},
	})
	if err != nil {
		t.Fatal(err)
	}
}

// awaitHolding waits until the node believes that it leads the scope, and all are ready.
func awaitHolding(t *testing.T, n *harness.Node) (fence uint64) {
	t.Helper()
	harness.Await(t, 30*time.Second, n.ID+" holding "+scope, func() error {
		if err := n.Ready(); err != nil {
			return err
		}
		now, err := n.Leaders()
		if err != nil {
			return err
		}
		held, err := n.Held()
		if err != nil {
			return err
		}
		for _, h := range held.Held {
			if h.Scope == scope && h.FenceToken == now.ByScope[scope].FenceToken {
				fence = h.FenceToken
				return nil
			}
		}
		return fmt.Errorf("it holds %d others", len(held.Held))
	})
	return fence
}

// moveRegistrar sees to it that another node than n is registrar.
func moveRegistrar(ctx context.Context, t *testing.T, c *harness.Cluster, conn *grpc.ClientConn, n *harness.Node) {
	t.Helper()
	harness.Await(t, 20*time.Second, "a registrar that is not "+n.ID, func() error {
		registrar := c.Registrar()
		if registrar == n {
			_, _ = controlpb.NewLeadershipMeshServiceClient(conn).MoveRegistrar(ctx, &controlpb.MoveRegistrarRequest{To: c.Nodes[0].ID}) // asked again until it has moved
		}
		if registrar == nil || registrar == n {
			return fmt.Errorf("it is %v", registrar)
		}
		return nil
	})
}

// reported is nil when the node has it on record that the member claims the scope under
// that fence beside another.
func reported(n *harness.Node, member string, fence uint64) error {
	trail, err := n.Audit()
	if err != nil {
		return err
	}
	if slices.ContainsFunc(trail, func(r wire.AuditRecord) bool {
		return r.Kind == core.EventSplitBrain.String() && r.Reason == core.SplitBrainTwoClaimants && r.MemberID == member && r.Scope == scope && r.FenceToken == fence
	}) {
		return nil
	}
	return fmt.Errorf("not among %d records", len(trail))
}

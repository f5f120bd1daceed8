package cluster_test

import (
	"bytes"
	"context"
	"encoding/json"
	"fmt"
	"os"
	"os/exec"
	"os/signal"
	"path/filepath"
	"slices"
	"syscall"
	"testing"
	"time"

	"github.com/omnirelay/leadership/adapters/client"
	"github.com/omnirelay/leadership/adapters/transport"
	"github.com/omnirelay/leadership/core"
	"github.com/omnirelay/leadership/tests/cluster/harness"
	"github.com/omnirelay/leadership/wire/controlpb"
)

// memberEnv makes this test binary a member instead, as its JSON says.
const memberEnv = "LEADERSHIP_TEST_MEMBER"

// memberOptions settle such a member.
type memberOptions struct {
	ID, Cluster string
	Endpoints   []string
	TLS         transport.Files
	Prefer      transport.Preference
	Scopes      []string
}

// serveMember leads until it is told to end, and returns the exit code.
func serveMember(text string) int {
	var o memberOptions
	if err := json.Unmarshal([]byte(text), &o); err != nil {
		fmt.Fprintln(os.Stderr, err)
		return 1
	}
	m, err := client.New(client.Options{MemberID: o.ID, Cluster: o.Cluster, Endpoints: o.Endpoints, TLS: o.TLS, Prefer: o.Prefer})
	if err != nil {
		fmt.Fprintln(os.Stderr, err)
		return 1
	}
	ctx, stop := signal.NotifyContext(context.Background(), syscall.SIGTERM)
	defer stop()
	var scopes []client.Scope
	for _, s := range o.Scopes {
		scopes = append(scopes, client.Scope{ID: s})
	}
	err = m.Run(ctx, scopes, func(ctx context.Context, _ client.Token) error {
		<-ctx.Done()
		return nil
	})
	if err != nil {
		fmt.Fprintln(os.Stderr, err)
		return 1
	}
	return 0
}

// pair are two members that stand for the same two scopes: one that fails over on
// suspicion, and one that waits for the lease.
type pair struct {
	name        string
	fast, lease string
	options     map[string]memberOptions
	processes   map[string]*harness.Process
	took        failoverTimes
}

// failoverTimes are from a kill to the successor's election, as another node tells it.
type failoverTimes struct{ fast, lease []time.Duration }

// TestFastScopesDoNotWaitForTheLease kills holders by SIGKILL: members attached over TCP
// and over QUIC, and a node. A fast scope has a successor long before the lease of the
// dead is over, a lease scope not before.
func TestFastScopesDoNotWaitForTheLease(t *testing.T) {
	kills := 3
	if long() {
		kills = 20
	}
	c := harness.New(t, harness.Options{Gossip: true, Settings: `access:
  grants:
    - {match: "spiffe://cluster-test/member/*", scopes: [job/fast-http2, job/lease-http2, job/fast-http3, job/lease-http3]}
`})
	awaitGossip(t, c)
	admin := newAdmin(t, c)
	tcp := newPair(t, c, admin, "http2", transport.OnlyHTTP2)
	quic := newPair(t, c, admin, "http3", transport.OnlyHTTP3)
	for range kills {
		killLeaders(t, c, admin, tcp, quic)
	}
	node := killNodes(t, c, admin, kills)

	// A connection that ends is noted after TTL/20. QUIC tells nothing of a killed peer: what
	// notices is the silence, noted after 0.4 TTL. Nodes are probed every 100 ms.
	judge(t, "member over TCP", tcp.took, harness.TTL/4)
	judge(t, "member over QUIC", quic.took, harness.TTL*6/10)
	judge(t, "node", node, harness.TTL/2)
	if broke := brokenOff(t, c, tcp); broke < kills {
		t.Errorf("%d broken connections were noticed of %d members killed", broke, kills)
	}
	if err := c.AwaitTrail(10 * time.Second).Verify(); err != nil {
		t.Errorf("audit: %v", err)
	}
}

// judge reports the times and holds them to their bounds. The quickest is judged: what is
// waited for is in that too, and what the machine is busy with is not.
func judge(t *testing.T, who string, took failoverTimes, within time.Duration) {
	t.Helper()
	t.Logf("FIGURE failover after SIGKILL of a %s: fast  %s", who, distribution(took.fast))
	t.Logf("FIGURE failover after SIGKILL of a %s: lease %s", who, distribution(took.lease))
	if fast := slices.Min(took.fast); fast > within {
		t.Errorf("a %s is succeeded in a fast scope after %v, want within %v", who, fast, within)
	}
	// Its latest keepalive was counted at most an interval before it died, or was under way.
	if earliest := slices.Min(took.lease); earliest < harness.TTL-2*core.KeepaliveInterval(harness.TTL) {
		t.Errorf("a %s was succeeded in a lease scope after %v: its lease lived", who, earliest)
	}
}

// newPair declares the scopes, and starts two members of which one leads both.
func newPair(t *testing.T, c *harness.Cluster, admin admin, name string, prefer transport.Preference) *pair {
	t.Helper()
	p := &pair{name: name, fast: "job/fast-" + name, lease: "job/lease-" + name, options: map[string]memberOptions{}, processes: map[string]*harness.Process{}}
	ctx, cancel := context.WithTimeout(t.Context(), 10*time.Second)
	defer cancel()
	_, err := admin.DeclareScopes(ctx, &controlpb.DeclareScopesRequest{RequestId: "pair-" + name, Scopes: []*controlpb.ScopeSpec{
		{Id: p.fast, Failover: controlpb.Failover_FAILOVER_FAST}, {Id: p.lease},
	}})
	if err != nil {
		t.Fatal(err)
	}
	for _, id := range []string{name + "-1", name + "-2"} {
		p.options[id] = memberOptions{
			ID: id, Cluster: c.Authority.Cluster(), TLS: memberFiles(t, c, id), Prefer: prefer, Scopes: []string{p.fast, p.lease},
		}
		p.start(t, c, id)
		p.awaitReady(t, c, admin)
	}
	return p
}

func memberFiles(t *testing.T, c *harness.Cluster, id string) transport.Files {
	t.Helper()
	dir := t.TempDir()
	issued, err := c.Authority.IssueMember(id)
	if err != nil {
		t.Fatal(err)
	}
	f := transport.Files{CA: filepath.Join(dir, "ca.pem"), Cert: filepath.Join(dir, "cert.pem"), Key: filepath.Join(dir, "key.pem")}
	if err := transport.WriteFile(f.CA, c.Authority.CertPEM(), 0o600); err != nil {
		t.Fatal(err)
	}
	if err := issued.Save(f.Cert, f.Key); err != nil {
		t.Fatal(err)
	}
	return f
}

func (p *pair) start(t *testing.T, c *harness.Cluster, id string) {
	t.Helper()
	o := p.options[id]
	for _, n := range c.Nodes {
		o.Endpoints = append(o.Endpoints, n.GRPC)
	}
	text, err := json.Marshal(o)
	if err != nil {
		t.Fatal(err)
	}
	self, err := os.Executable()
	if err != nil {
		t.Fatal(err)
	}
	cmd := exec.Command(self)
	cmd.Env = append(os.Environ(), memberEnv+"="+string(text))
	cmd.Stdout, cmd.Stderr = os.Stdout, os.Stderr
	p.processes[id] = harness.Start(t, cmd)
}

// awaitReady waits until one member leads both scopes, and every one that runs stands
// for them, in one session.
func (p *pair) awaitReady(t *testing.T, c *harness.Cluster, admin admin) (leader string) {
	t.Helper()
	harness.Await(t, 20*time.Second, "the members of "+p.name+" standing", func() error {
		ctx, cancel := context.WithTimeout(t.Context(), 5*time.Second)
		defer cancel()
		answer, err := admin.ListSessions(ctx, &controlpb.ListSessionsRequest{})
		if err != nil {
			return err
		}
		for id := range p.processes {
			sessions, standing := 0, 0
			for _, s := range answer.GetSessions() {
				if s.GetMemberId() == id {
					sessions++
					standing += min(1, len(s.GetStands()))
				}
			}
			if sessions != 1 || standing != 1 {
				return fmt.Errorf("%s has %d sessions, %d of which stand", id, sessions, standing)
			}
		}
		all, err := c.Nodes[0].Leaders()
		if err != nil {
			return err
		}
		leader = all.ByScope[p.fast].LeaderID
		if leader == "" || all.ByScope[p.lease].LeaderID != leader {
			return fmt.Errorf("%s is led by %q, %s by %q", p.fast, leader, p.lease, all.ByScope[p.lease].LeaderID)
		}
		return nil
	})
	return leader
}

// killLeaders kills the leader of each pair at the same time, and starts it again.
func killLeaders(t *testing.T, c *harness.Cluster, admin admin, pairs ...*pair) {
	t.Helper()
	dead := map[*pair]string{}
	var wait []*succession
	for _, p := range pairs {
		dead[p] = p.awaitReady(t, c, admin)
		wait = append(wait, &succession{scope: p.fast, of: dead[p], took: &p.took.fast}, &succession{scope: p.lease, of: dead[p], took: &p.took.lease})
	}
	start := time.Now()
	for p, id := range dead {
		p.processes[id].Kill()
	}
	awaitSuccessors(t, c.Nodes[0], start, wait)
	for p, id := range dead {
		p.start(t, c, id)
	}
}

// succession is a scope whose leader was killed.
type succession struct {
	scope, of string
	took      *[]time.Duration
	done      bool
}

// awaitSuccessors notes for each scope when the node tells of another leader.
func awaitSuccessors(t *testing.T, n *harness.Node, start time.Time, wait []*succession) {
	t.Helper()
	harness.Await(t, failoverWithin, "successors of the killed", func() error {
		all, err := n.Leaders()
		if err != nil {
			return err
		}
		left := ""
		for _, s := range wait {
			now := all.ByScope[s.scope].LeaderID
			switch {
			case s.done:
			case now != "" && now != s.of:
				*s.took, s.done = append(*s.took, time.Since(start)), true
			default:
				left = s.scope
			}
		}
		if left != "" {
			return fmt.Errorf("%s has none", left)
		}
		return nil
	})
}

// killNodes kills a node that leads scopes of both kinds and is not the registrar, again
// and again.
func killNodes(t *testing.T, c *harness.Cluster, admin admin, kills int) (took failoverTimes) {
	t.Helper()
	scopes := admin.declareFast(t, c)
	for range kills {
		harness.Await(t, 20*time.Second, "all nodes ready", func() error { return allReady(c) })
		var victim *harness.Node
		var fast, lease string
		harness.Await(t, 20*time.Second, "a node that leads both kinds and is not the registrar", func() (err error) {
			if err := admin.balanced(t, c.Nodes[0]); err != nil {
				return err // what moves of itself would look like a failover
			}
			victim, fast, lease, err = nodeToKill(c, scopes)
			return err
		})
		wait := []*succession{{scope: fast, of: victim.ID, took: &took.fast}, {scope: lease, of: victim.ID, took: &took.lease}}
		start := time.Now()
		victim.Kill()
		awaitSuccessors(t, c.Others(victim)[0], start, wait)
		victim.Start()
	}
	return took
}

// balanced is nil when no scope is on its way from one live member to another, or will be.
func (a admin) balanced(t *testing.T, n *harness.Node) error {
	ctx, cancel := context.WithTimeout(t.Context(), 5*time.Second)
	defer cancel()
	plan, err := a.Rebalance(ctx, &controlpb.RebalanceRequest{DryRun: true})
	if err != nil {
		return err
	}
	if asked := metricOf(t, n, `mesh_leadership_handovers{state="asked"}`); len(plan.GetMoves()) > 0 || asked != 0 {
		return fmt.Errorf("%d moves are due, %v under way", len(plan.GetMoves()), asked)
	}
	return nil
}

// nodeToKill picks a node, and of what it leads a scope of each kind.
func nodeToKill(c *harness.Cluster, fastScopes []string) (victim *harness.Node, fast, lease string, err error) {
	all, err := c.Nodes[0].Leaders()
	if err != nil {
		return nil, "", "", err
	}
	registrar := c.Registrar()
	if registrar == nil {
		return nil, "", "", fmt.Errorf("there is no registrar")
	}
	for _, n := range c.Others(registrar) {
		fast, lease = "", ""
		for scope := range all.LedBy(n.ID) {
			if slices.Contains(fastScopes, scope) {
				fast = scope
			} else {
				lease = scope
			}
		}
		if fast != "" && lease != "" {
			return n, fast, lease, nil
		}
	}
	return nil, "", "", fmt.Errorf("none does")
}

// brokenOff counts the connections of the pair's members that nodes saw break.
func brokenOff(t *testing.T, c *harness.Cluster, p *pair) (n int) {
	t.Helper()
	for _, node := range c.Nodes {
		data, err := os.ReadFile(node.Log)
		if err != nil {
			t.Fatal(err)
		}
		for line := range bytes.Lines(data) {
			if bytes.Contains(line, []byte(`"msg":"member broke off"`)) && bytes.Contains(line, []byte(`"member":"`+p.name+`-`)) {
				n++
			}
		}
	}
	return n
}

package api

import (
	"fmt"
	"slices"
	"strings"
	"testing"
	"time"

	"google.golang.org/grpc/codes"
	"google.golang.org/protobuf/types/known/durationpb"

	"github.com/omnirelay/leadership/adapters/transport"
	"github.com/omnirelay/leadership/core"
	"github.com/omnirelay/leadership/wire/controlpb"
)

// What gossip sees and what the registry says are told together, and either alone.
func TestPeers(t *testing.T) {
	t.Parallel()
	seen := time.Date(2026, 9, 21, 15, 0, 0, 0, time.UTC)
	gossip := []Peer{
		{ID: "worker-2", Status: "suspect", Role: "node", ClusterID: cluster, Region: "north", MeshVersion: "1", HTTP3: true,
			Labels: map[string]string{"zone": "a"}, Address: "127.0.0.1:7", LastSeen: seen},
		{ID: "stranger", Status: "left"},
	}
	w := newWorld(t, 1, func(s settings) { s.options.Peers = func() []Peer { return gossip } })
	w.declare("job", "shard/ns/1")
	n := w.nodes[0]
	open := openRequest("worker-1", "job")
	open.Labels = map[string]string{"zone": "b"}
	if _, err := n.member("worker-1").OpenSession(w.ctx(), open); err != nil {
		t.Fatal(err)
	}
	n.member("worker-2").open("worker-2", "shard/ns/1")
	c := n.client(transport.RoleOperate)
	ctx := w.ctx()
	for _, r := range []*controlpb.CordonRequest{{MemberId: "worker-1", Drain: true}, {MemberId: "absent"}} {
		if _, err := c.registry.Cordon(ctx, r); err != nil {
			t.Fatal(err)
		}
	}
	got, err := c.mesh.ListPeers(ctx, &controlpb.ListPeersRequest{})
	if err != nil {
		t.Fatal(err)
	}
	if got.Self != "node-1" || got.Revision == 0 || len(got.Peers) != 4 {
		t.Fatalf("have %v", got)
	}
	for i, want := range []string{
		"absent unknown cordoned=true draining=false sessions=0 leads=0 asked=0 stuck=0 map[] never",
		"stranger left cordoned=false draining=false sessions=0 leads=0 asked=0 stuck=0 map[] never",
		// Nobody else stands for its scope: the drain leaves it there until somebody does.
		"worker-1 unknown cordoned=true draining=true sessions=1 leads=1 asked=0 stuck=1 map[zone:b] never",
		"worker-2 suspect cordoned=false draining=false sessions=1 leads=1 asked=0 stuck=1 map[zone:a] 2026-09-21 15:00:00 +0000 UTC",
	} {
		p := got.Peers[i]
		last := "never"
		if p.LastSeen != nil {
			last = p.LastSeen.AsTime().String()
		}
		have := fmt.Sprintf("%s %s cordoned=%t draining=%t sessions=%d leads=%d asked=%d stuck=%d %v %s", p.Id, p.Status, p.Cordoned, p.Draining, p.Sessions, p.Leads, p.HandingOver, p.Stuck, p.Labels, last)
		if have != want {
			t.Errorf("have %s, want %s", have, want)
		}
	}
	if p := got.Peers[3]; p.Role != "node" || p.ClusterId != cluster || p.Region != "north" || p.MeshVersion != "1" || !p.Http3Support || p.Address != "127.0.0.1:7" {
		t.Errorf("have %v", p)
	}
	// As soon as somebody stands for it, it is asked of who drains.
	n.member("worker-3").open("worker-3", "job")
	w.until("worker-1 is asked", func() bool {
		one, err := c.mesh.ListPeers(ctx, &controlpb.ListPeersRequest{MemberId: "worker-1"})
		return err == nil && len(one.Peers) == 1 && one.Peers[0].HandingOver == 1 && one.Peers[0].Stuck == 0
	})
	for member, want := range map[string]string{"nobody-knows": "not-found", "a b": "invalid"} {
		_, err := c.mesh.ListPeers(ctx, &controlpb.ListPeersRequest{MemberId: member})
		refused(t, member, err, map[string]codes.Code{"not-found": codes.NotFound, "invalid": codes.InvalidArgument}[want], want)
	}
}

// However many members gossip sees, and whatever they say of themselves, an answer ends.
func TestPeersAreBounded(t *testing.T) {
	t.Parallel()
	label := map[string]string{"x": strings.Repeat("y", 5000)}
	gossip := make([]Peer, 2048)
	for i := range gossip {
		gossip[i] = Peer{ID: fmt.Sprint("m", i), Status: "alive", Labels: label}
	}
	w := newWorld(t, 1, func(s settings) { s.options.Peers = func() []Peer { return gossip } })
	c := w.nodes[0].client(transport.RoleRead)
	_, err := c.mesh.ListPeers(w.ctx(), &controlpb.ListPeersRequest{})
	refused(t, "all", err, codes.ResourceExhausted, "limit")
	if one, err := c.mesh.ListPeers(w.ctx(), &controlpb.ListPeersRequest{MemberId: "m7"}); err != nil || len(one.Peers) != 1 {
		t.Errorf("one: %v, %v", one, err)
	}
}

// crowded is a world in which worker-1 leads twelve shards that worker-2 could lead too.
func crowded(t *testing.T, nodes int, edit ...func(settings)) *world {
	t.Helper()
	w := newWorld(t, nodes, edit...)
	var shards []string
	for i := range 12 {
		shards = append(shards, fmt.Sprintf("shard/ns/%02d", i))
	}
	w.declare(shards...)
	for _, member := range []string{"worker-1", "worker-2"} {
		if _, err := w.nodes[0].member(member).OpenSession(w.ctx(), &controlpb.OpenSessionRequest{MemberId: member, Ttl: durationpb.New(time.Minute),
			Stands: []*controlpb.Wish{{Selector: &controlpb.Selector{Kind: "shard", Namespace: "ns"}, Priority: 1}}}); err != nil {
			t.Fatal(err)
		}
	}
	return w
}

// asked counts the scopes that were asked for to restore balance, and checks who asked.
func (w *world) asked(actor, why string) (n int) {
	w.t.Helper()
	audit, err := w.nodes[0].service.Audit(AuditQuery{Limit: MaxAuditRecords})
	if err != nil {
		w.t.Fatal(err)
	}
	for _, r := range audit.Records {
		if r.Kind == "DRAIN_REQUESTED" && r.Reason == core.AskRebalance {
			if n++; !strings.HasPrefix(r.Actor, actor) || r.Why != why {
				w.t.Errorf("%s was asked for by %q because of %q", r.Scope, r.Actor, r.Why)
			}
		}
	}
	return n
}

// A rebalance moves what it says, once however often it is told.
func TestRebalance(t *testing.T) {
	t.Parallel()
	for name, most := range map[string]int{"as it is": maxWeighed, "as a copy": 0} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			w := crowded(t, 1)
			w.nodes[0].service.maxWeighed = most
			c := w.nodes[0].client(transport.RoleOperate).registry
			ctx := w.ctx()
			plan, err := c.Rebalance(ctx, &controlpb.RebalanceRequest{DryRun: true, Limit: ptr(uint32(2))})
			if err != nil || len(plan.Moves) != 2 || plan.Remaining == 0 || w.asked("", "") != 0 {
				t.Fatalf("planned %v, %v", plan, err)
			}
			all := uint32(len(plan.Moves)) + plan.Remaining
			r := &controlpb.RebalanceRequest{RequestId: "r", Limit: ptr(uint32(2)), Why: "a new worker"}
			first, err := c.Rebalance(ctx, r)
			if err != nil || first.Remaining != plan.Remaining || first.Revision <= plan.Revision || w.asked("client/operate", "a new worker") != 2 {
				t.Fatalf("moved %v, %v", first, err)
			}
			for i, m := range first.Moves {
				token, _ := w.nodes[0].Token(m.Scope)
				if m.Scope != plan.Moves[i].Scope || m.FromMember != "worker-1" || m.ToMember != "worker-2" || m.FenceToken != token.Fence || m.Code != "" {
					t.Errorf("move %v, planned %v", m, plan.Moves[i])
				}
			}
			again, err := c.Rebalance(ctx, r)
			if err != nil || fmt.Sprint(again.Moves) != fmt.Sprint(first.Moves) || again.Remaining != first.Remaining || w.asked("", "a new worker") != 2 {
				t.Errorf("moved again %v, %v", again, err)
			}
			rest, err := c.Rebalance(ctx, &controlpb.RebalanceRequest{RequestId: "rest", Why: "a new worker"})
			if err != nil || rest.Remaining != 0 || uint32(len(rest.Moves)) != first.Remaining || w.asked("", "a new worker") != int(all) {
				t.Errorf("the rest %v, %v", rest, err)
			}
			// Handed over meanwhile, it is told from where to where it went.
			m := first.Moves[0]
			token, _ := w.nodes[0].Token(m.Scope)
			if _, err := w.nodes[0].member("worker-1").Resign(ctx, &controlpb.ResignRequest{Session: uint64(token.Session), Scope: m.Scope, FenceToken: m.FenceToken}); err != nil {
				t.Fatal(err)
			}
			if again, err = c.Rebalance(ctx, r); err != nil || fmt.Sprint(again.Moves) != fmt.Sprint(first.Moves) || again.Remaining != 0 {
				t.Errorf("moved after all %v, %v", again, err)
			}
			_, err = c.Rebalance(ctx, &controlpb.RebalanceRequest{Limit: ptr(uint32(257))})
			refused(t, "too many", err, codes.InvalidArgument, "invalid")
		})
	}
}

// One rebalance told to all nodes at once moves no more than one.
func TestOneRebalanceManyTimes(t *testing.T) {
	t.Parallel()
	w := crowded(t, 3)
	const limit = 3
	failed := make(chan error, 9)
	for i := range 9 {
		c := w.nodes[i%3].client(transport.RoleOperate).registry
		go func() {
			_, err := c.Rebalance(w.ctx(), &controlpb.RebalanceRequest{RequestId: "the-one", Limit: ptr(uint32(limit))})
			failed <- err
		}()
	}
	for range 9 {
		if err := <-failed; err != nil {
			t.Error(err)
		}
	}
	if n := w.asked("client/operate", ""); n != limit {
		t.Errorf("%d scopes were asked for, want %d", n, limit)
	}
}

// Why and by whom are in the audit trail, beside what came of it.
func TestWhyIsAudited(t *testing.T) {
	t.Parallel()
	w := newWorld(t, 1)
	w.declare("job")
	n := w.nodes[0]
	n.member("worker-1").open("worker-1", "job")
	n.member("worker-2").open("worker-2", "job")
	c := n.client(transport.RoleOperate).registry
	if _, err := c.Cordon(w.ctx(), &controlpb.CordonRequest{MemberId: "worker-1", Drain: true, Why: "kernel update", CorrelationId: "cause"}); err != nil {
		t.Fatal(err)
	}
	audit, err := c.ReadAudit(w.ctx(), &controlpb.ReadAuditRequest{})
	if err != nil {
		t.Fatal(err)
	}
	var kinds []string
	for _, r := range audit.Records {
		if r.CorrelationId == "cause" {
			if kinds = append(kinds, r.Kind); r.Why != "kernel update" || !strings.HasPrefix(r.Actor, "client/operate") || r.MemberId != "worker-1" {
				t.Errorf("record %v", r)
			}
		}
	}
	if !slices.Equal(kinds, []string{"MEMBER_CORDONED", "DRAIN_REQUESTED"}) {
		t.Errorf("records of %v", kinds)
	}
	_, err = c.Cordon(w.ctx(), &controlpb.CordonRequest{MemberId: "worker-1", Why: "two\nlines"})
	refused(t, "two lines", err, codes.InvalidArgument, "invalid")
}

// Nodes of a registry in an external store are those of the configuration files.
func TestNodesOfAnExternalStore(t *testing.T) {
	t.Parallel()
	w := newWorld(t, 1, func(s settings) { s.options.Store = "etcd" })
	c := w.nodes[0].client(transport.RoleAdmin).mesh
	node := &controlpb.NewNode{Name: "node-4", PeerAddress: "127.0.0.1:1"}
	for label, call := range map[string]func() error{
		"add": func() error { _, err := c.AddNode(w.ctx(), &controlpb.AddNodeRequest{Node: node}); return err },
		"remove": func() error {
			_, err := c.RemoveNode(w.ctx(), &controlpb.RemoveNodeRequest{Name: "node-1"})
			return err
		},
		"replace": func() error {
			_, err := c.ReplaceNode(w.ctx(), &controlpb.ReplaceNodeRequest{Name: "node-1", By: node})
			return err
		},
	} {
		err := call()
		refused(t, label, err, codes.Unimplemented, "unsupported")
		if err == nil || !strings.Contains(err.Error(), "kept in etcd") {
			t.Errorf("%s does not say why: %v", label, err)
		}
	}
	if got, err := c.ListNodes(w.ctx(), &controlpb.ListNodesRequest{}); err != nil || got.Store != "etcd" {
		t.Errorf("nodes %v, %v", got, err)
	}
}

// A node is added as a learner, and stays one until it has caught up.
func TestNodes(t *testing.T) {
	t.Parallel()
	w := newWorld(t, 3)
	c := w.nodes[0].client(transport.RoleAdmin).mesh
	ctx := w.ctx()
	if got, err := c.ListNodes(ctx, &controlpb.ListNodesRequest{}); err != nil || got.Store != "raft" || len(got.Nodes) != 3 || got.Nodes[0].Stage != "voter" {
		t.Fatalf("nodes %v, %v", got, err)
	}
	r := &controlpb.AddNodeRequest{RequestId: "add", Node: &controlpb.NewNode{Name: "node-4", PeerAddress: "127.0.0.1:1", GrpcAddress: "127.0.0.1:2"}, Why: "more room"}
	added, err := c.AddNode(ctx, r)
	if err != nil {
		t.Fatal(err)
	}
	if again, err := c.AddNode(ctx, r); err != nil || again.Revision != added.Revision {
		t.Errorf("added again %v, %v", again, err)
	}
	registrars := 0
	w.until("the registrar tells how far it is", func() bool {
		registrars = 0
		for _, n := range w.nodes {
			got, err := n.client(transport.RoleRead).mesh.ListNodes(ctx, &controlpb.ListNodesRequest{})
			if err != nil || len(got.Nodes) != 4 {
				return false
			}
			for _, node := range got.Nodes {
				if node.Name == "node-4" && (node.Stage != "learner" || node.PeerAddress != "127.0.0.1:1" || node.GrpcAddress != "127.0.0.1:2") {
					t.Fatalf("node %v", node)
				}
				if node.Registrar && node.Match != nil && node.GetReachable() {
					registrars++
				}
			}
		}
		return registrars == 1
	})
	// Its name is nobody's member from now on, whoever shows a certificate for it.
	_, err = w.nodes[0].member("node-4").OpenSession(ctx, openRequest("node-4", "job"))
	refused(t, "the new node's name", err, codes.PermissionDenied, "denied")
	_, err = c.AddNode(ctx, &controlpb.AddNodeRequest{Node: &controlpb.NewNode{Name: "node-5"}})
	refused(t, "without an address", err, codes.InvalidArgument, "invalid")
	_, err = c.RemoveNode(ctx, &controlpb.RemoveNodeRequest{Name: "node-9"})
	refused(t, "a node of nobody", err, codes.NotFound, "not-found")
}

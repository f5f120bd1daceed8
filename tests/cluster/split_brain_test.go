package cluster_test

import (
	"bufio"
	"bytes"
	"context"
	"encoding/json"
	"fmt"
	"net/http"
	"os"
	"slices"
	"strconv"
	"strings"
	"testing"
	"time"

	"google.golang.org/grpc"
	"google.golang.org/grpc/credentials"
	"google.golang.org/protobuf/types/known/durationpb"

	"github.com/omnirelay/leadership/adapters/transport"
	"github.com/omnirelay/leadership/core"
	"github.com/omnirelay/leadership/tests/cluster/harness"
	"github.com/omnirelay/leadership/wire"
	"github.com/omnirelay/leadership/wire/controlpb"
)

// runbook is what log lines of a split-brain point to.
const runbook = "docs/runbooks/split-brain.md"

// longLease leaves time to see what happens while a lease lives.
const longLease = `leaseDuration: 20s
maxElectionWindow: 30s
`

// TestSplitBrainsAreSeen provokes every reason with real processes; each is told by
// every node in its metric, its log, its events and its audit trail, under one
// correlation id. Holders that were replaced and go on believing are in tests/partition.
func TestSplitBrainsAreSeen(t *testing.T) {
	c := harness.New(t, harness.Options{Settings: longLease, Gossip: true, GossipSettings: soonDead})
	awaitGossip(t, c)
	streams := map[*harness.Node]*harness.EventSource{}
	for _, n := range c.Nodes {
		streams[n] = c.OpenEventSource(harness.SourceOptions{Pick: harness.Always(n)})
	}
	leaders := c.AwaitSettled(20 * time.Second)
	seen := func(reason, member, scope string) { seenEverywhere(t, c, streams, reason, member, scope) }

	t.Run("a member claims what nobody else does", func(t *testing.T) {
		r := newRogue(t, c, "rogue-1")
		defer r.claim(t, "job/of-nobody", 4711)()
		seen(core.SplitBrainUnknownClaimant, "rogue-1", "job/of-nobody")
	})
	t.Run("a member claims what another leads", func(t *testing.T) {
		r := newRogue(t, c, "rogue-2")
		defer r.claim(t, "global-control", leaders.ByScope["global-control"].FenceToken+1000)()
		seen(core.SplitBrainTwoClaimants, "rogue-2", "global-control")
	})
	t.Run("a leader is gone while its lease lives", func(t *testing.T) {
		var registrar *harness.Node
		harness.Await(t, 10*time.Second, "a registrar and all nodes ready", func() error {
			if registrar = c.Registrar(); registrar == nil {
				return fmt.Errorf("there is none")
			}
			return allReady(c)
		})
		holder := c.Others(registrar)[0]
		all, err := registrar.Leaders()
		if err != nil || len(all.LedBy(holder.ID)) == 0 {
			t.Fatalf("%s leads nothing: %v", holder.ID, err)
		}
		holder.Pause()
		seenBy(t, c.Others(holder), streams, core.SplitBrainLeaderGone, holder.ID, "")
		holder.Resume()
		seen(core.SplitBrainLeaderGone, holder.ID, "")
	})
	harness.Await(t, 10*time.Second, "all nodes ready", func() error { return allReady(c) })
	if err := c.AwaitTrail(10 * time.Second).Verify(); err != nil {
		t.Errorf("audit: %v", err)
	}
}

// adviceVersion is the version of the log since which it takes advice from gossip.
const adviceVersion = 3

// soonDead lets gossip declare a member dead after a second or two.
const soonDead = `probeInterval: 300ms
probeTimeout: 150ms
suspicion: 2
`

func allReady(c *harness.Cluster) error {
	for _, n := range c.Nodes {
		if err := n.Ready(); err != nil {
			return err
		}
	}
	return nil
}

// awaitGossip waits until every node's gossip sees all alive, and the registry goes by
// it: that needs a version of the log that each node was heard to understand.
func awaitGossip(t *testing.T, c *harness.Cluster) {
	t.Helper()
	harness.Await(t, 10*time.Second, "all nodes alive in everybody's gossip", func() error {
		for _, n := range c.Nodes {
			if alive := metricOf(t, n, `mesh_gossip_members{status="alive"}`); alive != float64(len(c.Nodes)) {
				return fmt.Errorf("%s sees %v alive", n.ID, alive)
			}
			if version := metricOf(t, n, "mesh_leadership_protocol_version"); version < adviceVersion {
				return fmt.Errorf("%s has the log in version %v", n.ID, version)
			}
		}
		return nil
	})
}

// metricOf reads one series of a node, -1 when it is not there.
func metricOf(t *testing.T, n *harness.Node, series string) float64 {
	t.Helper()
	a, err := n.Get("/metrics")
	if err != nil || a.Status != http.StatusOK {
		return -1
	}
	for line := range strings.Lines(string(a.Body)) {
		if value, found := strings.CutPrefix(line, series+" "); found {
			v, err := strconv.ParseFloat(strings.TrimSpace(value), 64)
			if err != nil {
				t.Fatalf("%s: %v", line, err)
			}
			return v
		}
	}
	return -1
}

// admin calls a cluster as its administrator.
type admin struct {
	controlpb.LeadershipRegistryServiceClient
}

func newAdmin(t testing.TB, c *harness.Cluster) admin {
	t.Helper()
	pair, err := c.Authority.IssueClient(transport.RoleAdmin)
	if err != nil {
		t.Fatal(err)
	}
	return admin{controlpb.NewLeadershipRegistryServiceClient(dial(t, c.Nodes[0].GRPC, c, pair))}
}

func dial(t testing.TB, address string, c *harness.Cluster, pair transport.Pair) *grpc.ClientConn {
	t.Helper()
	conn, err := grpc.NewClient(address, grpc.WithTransportCredentials(credentials.NewTLS(c.ClientTLS(pair))))
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = conn.Close() })
	return conn
}

// declareFast declares a shard for each node that fails over on suspicion, and goes back
// to its node when that comes back.
func (a admin) declareFast(t testing.TB, c *harness.Cluster) (scopes []string) {
	t.Helper()
	request := &controlpb.DeclareScopesRequest{RequestId: "fast"}
	for _, n := range c.Nodes {
		scope := "shard/mesh.demo/fast-" + n.ID
		scopes = append(scopes, scope)
		request.Scopes = append(request.Scopes, &controlpb.ScopeSpec{Id: scope, Failover: controlpb.Failover_FAILOVER_FAST, PreferredMember: n.ID})
	}
	ctx, cancel := context.WithTimeout(t.Context(), 10*time.Second)
	defer cancel()
	if _, err := a.DeclareScopes(ctx, request); err != nil {
		t.Fatal(err)
	}
	return scopes
}

// rogue is a member that says what it likes. It leads nothing.
type rogue struct {
	members controlpb.LeadershipMemberServiceClient
	session uint64
}

func newRogue(t *testing.T, c *harness.Cluster, id string) *rogue {
	t.Helper()
	pair, err := c.Authority.IssueMember(id)
	if err != nil {
		t.Fatal(err)
	}
	r := &rogue{members: controlpb.NewLeadershipMemberServiceClient(dial(t, c.Nodes[0].GRPC, c, pair))}
	ctx, cancel := context.WithTimeout(t.Context(), 10*time.Second)
	defer cancel()
	opened, err := r.members.OpenSession(ctx, &controlpb.OpenSessionRequest{RequestId: "open", MemberId: id, Ttl: durationpb.New(2 * time.Second)})
	if err != nil {
		t.Fatal(err)
	}
	r.session = opened.GetSession()
	return r
}

// claim tells a claim with every keepalive, until the function that it returns is called.
func (r *rogue) claim(t *testing.T, scope string, fence uint64) (stop func()) {
	t.Helper()
	ctx, cancel := context.WithCancel(context.Background())
	done := make(chan struct{})
	go func() {
		defer close(done)
		tick := time.NewTicker(200 * time.Millisecond)
		defer tick.Stop()
		for number := uint64(1); ; number++ {
			_, err := r.members.KeepAlive(ctx, &controlpb.KeepAliveRequest{Session: r.session, Number: number, Claims: []*controlpb.Claim{{Scope: scope, FenceToken: fence}}})
			if err != nil && ctx.Err() == nil {
				t.Errorf("a keepalive with a claim: %v", err)
				return
			}
			select {
			case <-ctx.Done():
				return
			case <-tick.C:
			}
		}
	}()
	return func() {
		cancel()
		<-done
	}
}

// report is a split-brain as something tells of it.
type report struct{ reason, member, scope, correlationID string }

// seenEverywhere waits until every node tells of the split-brain in every way.
func seenEverywhere(t *testing.T, c *harness.Cluster, streams map[*harness.Node]*harness.EventSource, reason, member, scope string) {
	t.Helper()
	seenBy(t, c.Nodes, streams, reason, member, scope)
}

func seenBy(t *testing.T, nodes []*harness.Node, streams map[*harness.Node]*harness.EventSource, reason, member, scope string) {
	t.Helper()
	var told wire.AuditRecord
	took := harness.Await(t, 20*time.Second, "a record of "+reason, func() (err error) {
		told, err = recordOf(nodes[0], reason, member, scope)
		return err
	})
	if told.CorrelationID == "" || told.Hash == "" {
		t.Errorf("the record lacks a correlation id or a hash: %+v", told)
	}
	want := report{reason, member, scope, told.CorrelationID}
	for _, n := range nodes {
		harness.Await(t, 5*time.Second, n.ID+" telling of "+reason, func() error {
			if here, err := recordOf(n, reason, member, scope); err != nil || here.Hash != told.Hash {
				return fmt.Errorf("in its trail: %w, %+v", err, here)
			}
			if err := inEvents(streams[n], want); err != nil {
				return err
			}
			if err := inLog(t, n, want); err != nil {
				return err
			}
			if count := metricOf(t, n, `mesh_leadership_split_brain_total{reason="`+reason+`"}`); count < 1 {
				return fmt.Errorf("its metric is %v", count)
			}
			return nil
		})
	}
	t.Logf("%s of %s in %q, fence %d: in metric, log, events and trail of %d nodes; on record %v after it was looked for", reason, member, scope, told.FenceToken, len(nodes), took.Round(time.Millisecond))
}

// recordOf finds the record of a split-brain in a node's trail.
func recordOf(n *harness.Node, reason, member, scope string) (wire.AuditRecord, error) {
	trail, err := n.Audit()
	if err != nil {
		return wire.AuditRecord{}, err
	}
	i := slices.IndexFunc(trail, func(r wire.AuditRecord) bool {
		return r.Kind == core.EventSplitBrain.String() && r.Reason == reason && r.MemberID == member && r.Scope == scope
	})
	if i < 0 {
		return wire.AuditRecord{}, fmt.Errorf("none among %d records; split-brains: %v", len(trail), splitBrains(trail))
	}
	return trail[i], nil
}

// splitBrains are the reports in a trail.
func splitBrains(trail harness.Trail) (found []string) {
	for _, r := range trail {
		if r.Kind == core.EventSplitBrain.String() {
			found = append(found, fmt.Sprintf("%s of %s in %q, fence %d", r.Reason, r.MemberID, r.Scope, r.FenceToken))
		}
	}
	return found
}

func inEvents(s *harness.EventSource, want report) error {
	told, err := s.Told()
	if err != nil {
		return err
	}
	if slices.ContainsFunc(told, func(e wire.Event) bool {
		return e.Kind == core.EventSplitBrain.String() && report{e.Reason, e.LeaderID, e.Scope, e.CorrelationID} == want
	}) {
		return nil
	}
	return fmt.Errorf("no such event among %d", len(told))
}

// inLog finds the warning, with what to do.
func inLog(t *testing.T, n *harness.Node, want report) error {
	t.Helper()
	data, err := os.ReadFile(n.Log)
	if err != nil {
		return err
	}
	lines := bufio.NewScanner(bytes.NewReader(data))
	lines.Buffer(nil, 1<<20)
	for lines.Scan() {
		var l struct{ Level, Msg, Alarm, Scope, Leader, CorrelationID, Runbook string }
		if json.Unmarshal(lines.Bytes(), &l) != nil || l.Msg != "split brain" {
			continue
		}
		if (report{l.Alarm, l.Leader, l.Scope, l.CorrelationID}) == want {
			if l.Level != "WARN" || l.Runbook != runbook {
				t.Errorf("%s warns by %s", n.ID, lines.Text())
			}
			return nil
		}
	}
	return fmt.Errorf("no such line in its log")
}

// TestHealthyChangesRaiseNoSplitBrain: hand-overs, drains, transfers, a rebalance, a
// rolling restart and a kill are none.
func TestHealthyChangesRaiseNoSplitBrain(t *testing.T) {
	c := harness.New(t, harness.Options{Gossip: true})
	awaitGossip(t, c)
	admin := newAdmin(t, c)
	ctx, cancel := context.WithTimeout(t.Context(), time.Minute)
	defer cancel()
	leaders := c.AwaitSettled(20 * time.Second)
	drained := c.Nodes[1].ID
	do(t, "transfer", func() error {
		token := leaders.ByScope["global-control"]
		to := c.Others(c.Node(token.LeaderID))[0].ID
		_, err := admin.Transfer(ctx, &controlpb.TransferRequest{RequestId: "transfer", Scope: token.Scope, ToMember: to, FenceToken: token.FenceToken, Why: "a healthy one"})
		return err
	})
	do(t, "drain", func() error {
		_, err := admin.Cordon(ctx, &controlpb.CordonRequest{RequestId: "drain", MemberId: drained, Drain: true})
		return err
	})
	harness.Await(t, 10*time.Second, drained+" drained", func() error {
		now, err := c.Nodes[0].Leaders()
		if err == nil && len(now.LedBy(drained)) > 0 {
			err = fmt.Errorf("it leads %d", len(now.LedBy(drained)))
		}
		return err
	})
	do(t, "uncordon", func() error {
		_, err := admin.Uncordon(ctx, &controlpb.UncordonRequest{RequestId: "back", MemberId: drained})
		return err
	})
	do(t, "rebalance", func() error {
		_, err := admin.Rebalance(ctx, &controlpb.RebalanceRequest{RequestId: "rebalance"})
		return err
	})
	for _, n := range c.Nodes {
		c.AwaitSettled(20 * time.Second)
		n.Terminate()
		if code := n.AwaitExit(15 * time.Second); code != 0 {
			t.Errorf("%s ended with code %d", n.ID, code)
		}
		n.Start()
	}
	victim := leadsMost(c.Nodes, c.AwaitSettled(20*time.Second))
	victim.Kill()
	victim.Start()
	c.AwaitSettled(20 * time.Second)
	// A claim that is repeated for longer than it can live is reported: nothing is.
	<-time.After(2 * harness.TTL)
	trail := c.AwaitTrail(10 * time.Second)
	if err := trail.Verify(); err != nil {
		t.Errorf("audit: %v", err)
	}
	if found := splitBrains(trail); len(found) > 0 {
		t.Errorf("%d records, among them %q", len(trail), found)
	}
	for _, n := range c.Nodes {
		for _, reason := range []string{core.SplitBrainTwoClaimants, core.SplitBrainUnknownClaimant, core.SplitBrainLeaderGone} {
			if count := metricOf(t, n, `mesh_leadership_split_brain_total{reason="`+reason+`"}`); count != 0 {
				t.Errorf("%s counts %v of %s", n.ID, count, reason)
			}
		}
	}
	t.Logf("%d records and no split-brain", len(trail))
}

func do(t *testing.T, what string, f func() error) {
	t.Helper()
	if err := f(); err != nil {
		t.Fatalf("%s: %v", what, err)
	}
}

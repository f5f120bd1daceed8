// Package controltest has a node for tests: a real registry that a test writes
// entries to, without log, clock or network.
package controltest

import (
	"context"
	"fmt"
	"sync"
	"testing"
	"time"

	"google.golang.org/protobuf/proto"

	"github.com/omnirelay/leadership/core"
	"github.com/omnirelay/leadership/core/logpb"
)

// Node satisfies control.Source. It is ready from the start.
type Node struct {
	tb       testing.TB
	mu       sync.RWMutex
	registry *core.Registry
	status   core.Status
	changed  chan struct{}
	index    uint64

	// Wall is stamped on the next entries, Unix nanoseconds.
	Wall int64
	// Holds is what Held tells, at the time Now.
	Holds []core.Holding
	Now   core.Time
	// Expires is what ExpiresAt tells; 0: unknown.
	Expires int64
	// Barrier answers ReadBarrier; nil: at once.
	Barrier func(ctx context.Context) error
}

// New returns a node whose registry has its first entry.
func New(tb testing.TB) *Node {
	n := &Node{tb: tb, registry: core.NewRegistry(0), changed: make(chan struct{}), Wall: 1_790_000_000_000_000_000}
	n.status.Ready = true
	n.Apply(&logpb.Command{Kind: &logpb.Command_Bootstrap{Bootstrap: &logpb.Bootstrap{ClusterId: "demo", Voters: []uint64{1}}}})
	return n
}

// Apply writes one entry of commands, none of which may be refused.
func (n *Node) Apply(commands ...*logpb.Command) []*core.Result {
	n.tb.Helper()
	n.mu.Lock()
	defer n.mu.Unlock()
	n.index++
	for i, c := range commands {
		c.RequestId = fmt.Sprintf("r%d.%d", n.index, i)
		c.CorrelationId = "c-" + c.RequestId
		if err := core.CompleteCommand(c); err != nil {
			n.tb.Fatal(err)
		}
	}
	payload, err := proto.Marshal(&logpb.Entry{Proposer: 1, WallNs: n.Wall, Commands: commands})
	if err != nil {
		n.tb.Fatal(err)
	}
	out, err := n.registry.Apply(n.index, 1, payload)
	if err != nil {
		n.tb.Fatal(err)
	}
	for _, r := range out.Results {
		if r.Code != "" {
			n.tb.Fatalf("refused: %v", r)
		}
	}
	n.status.Applied, n.status.Committed = n.index, n.index
	n.announce()
	return out.Results
}

func (n *Node) announce() {
	close(n.changed)
	n.changed = make(chan struct{})
}

// Declare declares scopes.
func (n *Node) Declare(ids ...string) {
	n.tb.Helper()
	d := &logpb.DeclareScopes{}
	for _, id := range ids {
		d.Scopes = append(d.Scopes, &logpb.ScopeSpec{Id: id})
	}
	n.Apply(&logpb.Command{Kind: &logpb.Command_DeclareScopes{DeclareScopes: d}})
}

// Retire retires scopes.
func (n *Node) Retire(ids ...string) {
	n.tb.Helper()
	n.Apply(&logpb.Command{Kind: &logpb.Command_RetireScopes{RetireScopes: &logpb.RetireScopes{Scopes: ids}}})
}

// Join opens a session for a member that stands for every scope.
func (n *Node) Join(member string) (session uint64) {
	n.tb.Helper()
	opened := n.Apply(&logpb.Command{Kind: &logpb.Command_OpenSession{OpenSession: &logpb.OpenSession{MemberId: member, Weight: 1, TtlNs: int64(2 * time.Second)}}})
	session = opened[0].Session
	n.Apply(&logpb.Command{Kind: &logpb.Command_Stand{Stand: &logpb.Stand{Session: session, Selector: &logpb.Selector{}}}})
	return session
}

// Leave closes a session.
func (n *Node) Leave(session uint64) {
	n.tb.Helper()
	n.Apply(&logpb.Command{Kind: &logpb.Command_CloseSession{CloseSession: &logpb.CloseSession{Session: session}}})
}

// SetReady changes whether the node can vouch for its copy; empty: it can.
func (n *Node) SetReady(notReadyReason string) {
	n.mu.Lock()
	defer n.mu.Unlock()
	n.status.Ready, n.status.NotReadyReason = notReadyReason == "", notReadyReason
	n.announce()
}

func (n *Node) View(f func(g *core.Registry, s core.Status)) {
	n.mu.RLock()
	defer n.mu.RUnlock()
	f(n.registry, n.status)
}

func (n *Node) Changed() <-chan struct{} {
	n.mu.RLock()
	defer n.mu.RUnlock()
	return n.changed
}

func (n *Node) MemberID() string { return "node-1" }

func (n *Node) Held() (core.Time, []core.Holding) { return n.Now, n.Holds }

func (n *Node) ReadBarrier(ctx context.Context) error {
	if n.Barrier == nil {
		return nil
	}
	return n.Barrier(ctx)
}

// Do writes c as an entry of its own.
func (n *Node) Do(_ context.Context, c *logpb.Command) (*core.Result, error) {
	return n.Apply(c)[0], nil
}

func (n *Node) ExpiresAt(core.SessionID) (int64, bool) { return n.Expires, n.Expires != 0 }

// CheckCursor starts a stream over that is ahead of this node, which holds everything.
func (n *Node) CheckCursor(ctx context.Context, sub *core.Subscription) {
	if n.ReadBarrier(ctx) != nil {
		return
	}
	n.View(func(g *core.Registry, _ core.Status) {
		if sub.Ahead(g) {
			sub.Resync()
		}
	})
}

package fuzz_test

import (
	"context"
	"sync"
	"testing"
	"time"

	"google.golang.org/protobuf/proto"

	"github.com/omnirelay/leadership/adapters/api"
	"github.com/omnirelay/leadership/adapters/signing"
	"github.com/omnirelay/leadership/core"
	"github.com/omnirelay/leadership/core/logpb"
)

// node is a replica that commits alone and at once: a registry without log, clock or
// network. Two that were asked the same are in the same state.
type node struct {
	mu       sync.Mutex
	registry *core.Registry
	index    uint64
	changed  chan struct{}
}

// begin puts n into its first state: member m leads a and shard/x/1 with session 1,
// session 2 has ended, session 3 is of member other, and b is asked of its holder.
func (n *node) begin(t testing.TB) {
	t.Helper()
	n.mu.Lock()
	n.registry, n.index, n.changed = core.NewRegistry(0), 0, make(chan struct{})
	n.mu.Unlock()
	everything := []*logpb.Stand{{Selector: &logpb.Selector{}}}
	for _, c := range []*logpb.Command{
		{Kind: &logpb.Command_Bootstrap{Bootstrap: &logpb.Bootstrap{ClusterId: "demo", Voters: []uint64{1}}}},
		{Kind: &logpb.Command_AnnounceVersion{AnnounceVersion: &logpb.AnnounceVersion{Replica: 1, MaxVersion: core.ProtocolVersion}}},
		{Kind: &logpb.Command_DeclareScopes{DeclareScopes: &logpb.DeclareScopes{Scopes: []*logpb.ScopeSpec{{Id: "a"}, {Id: "b"}, {Id: "shard/x/1"}}}}},
		{Kind: &logpb.Command_OpenSession{OpenSession: &logpb.OpenSession{MemberId: "m", TtlNs: 2e9, Labels: map[string]string{"zone": "z"}, Stands: everything}}},
		{Kind: &logpb.Command_OpenSession{OpenSession: &logpb.OpenSession{MemberId: "m", TtlNs: 2e9}}},
		{Kind: &logpb.Command_CloseSession{CloseSession: &logpb.CloseSession{Session: 2}}},
		{Kind: &logpb.Command_OpenSession{OpenSession: &logpb.OpenSession{MemberId: "other", TtlNs: 3e9, Stands: everything}}},
		{Kind: &logpb.Command_Transfer{Transfer: &logpb.Transfer{Scope: "b", ToMember: "other"}}},
	} {
		c.RequestId, c.CorrelationId = "begin-"+string(rune('a'+n.index)), "begin"
		if err := core.CompleteCommand(c); err != nil {
			t.Fatal(err)
		}
		if _, err := n.write(c); err != nil {
			t.Fatal(err)
		}
	}
}

// Do is what a replica does with a request.
func (n *node) Do(_ context.Context, c *logpb.Command) (*core.Result, error) {
	c = proto.Clone(c).(*logpb.Command)
	if err := core.CompleteCommand(c); err != nil {
		return nil, err
	}
	if err := core.ValidateCommand(c); err != nil {
		return nil, err
	}
	return n.write(c)
}

// write puts c into the log and applies it.
func (n *node) write(c *logpb.Command) (*core.Result, error) {
	entry, err := proto.MarshalOptions{Deterministic: true}.Marshal(&logpb.Entry{Proposer: 1, WallNs: 1_800_000_000_000_000_000, Commands: []*logpb.Command{c}})
	if err != nil {
		return nil, err
	}
	n.mu.Lock()
	defer n.mu.Unlock()
	n.index++
	out, err := n.registry.Apply(n.index, 1, entry)
	if err != nil {
		return nil, err
	}
	close(n.changed)
	n.changed = make(chan struct{})
	result := out.Results[0]
	if result.Code != "" {
		return result, &core.Error{Code: core.Code(result.Code), Field: result.Field, Message: result.Message}
	}
	return result, nil
}

func (n *node) View(f func(g *core.Registry, s core.Status)) {
	n.mu.Lock()
	defer n.mu.Unlock()
	f(n.registry, core.Status{ID: 1, Registrar: 1, IsRegistrar: true, OfficeOpen: true, Ready: true, Applied: n.index, Committed: n.index})
}

func (n *node) Changed() <-chan struct{} {
	n.mu.Lock()
	defer n.mu.Unlock()
	return n.changed
}

func (n *node) hash() (h [32]byte) {
	n.View(func(g *core.Registry, _ core.Status) { h = g.Hash() })
	return h
}

func (n *node) MemberID() string { return "node-1" }

func (n *node) Held() (core.Time, []core.Holding) { return 1, nil }

func (n *node) ReadBarrier(context.Context) error { return nil }

func (n *node) CheckCursor(_ context.Context, sub *core.Subscription) {
	n.View(func(g *core.Registry, _ core.Status) {
		if sub.Ahead(g) {
			sub.Resync()
		}
	})
}

func (n *node) ExpiresAt(core.SessionID) (int64, bool) { return 1_800_000_002_000_000_000, true }

// gossiping is what gossip sees.
func gossiping() []api.Peer {
	return []api.Peer{{ID: "gossiping", Status: "alive", Role: "node", Labels: map[string]string{"zone": "z"}, LastSeen: time.Unix(1_800_000_000, 0)}, {ID: "m", Status: "suspect"}}
}

// attach acknowledges every keepalive of a live session, at once.
func (n *node) attach(deliver func(core.ReplicaMessage)) (api.Attachment, error) {
	return &attachment{n, deliver}, nil
}

type attachment struct {
	node    *node
	deliver func(core.ReplicaMessage)
}

func (a *attachment) Send(m core.MemberMessage) bool {
	var live bool
	if k := m.Keepalive; k != nil {
		a.node.View(func(g *core.Registry, _ core.Status) { _, live = g.Session(k.Session) })
		if live {
			a.deliver(core.ReplicaMessage{Ack: &core.Ack{Session: k.Session, Number: k.Number}})
		}
	}
	return true
}

func (*attachment) Break()  {}
func (*attachment) Detach() {}

// plainSigner signs nothing: its tokens say the same at any time.
type plainSigner struct{}

func (plainSigner) Sign(c signing.Claims) (string, error) {
	return c.Scope + "/" + c.Leader, nil
}

func (plainSigner) Life() time.Duration { return time.Hour }

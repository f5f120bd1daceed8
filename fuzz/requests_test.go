package fuzz_test

import (
	"testing"
	"time"

	"google.golang.org/protobuf/proto"
	"google.golang.org/protobuf/types/known/durationpb"

	"github.com/omnirelay/leadership/core"
	"github.com/omnirelay/leadership/core/logpb"
	"github.com/omnirelay/leadership/wire"
	"github.com/omnirelay/leadership/wire/controlpb"
)

// requestKind is one request of the public API that becomes a command.
type requestKind struct {
	example proto.Message
	command func(proto.Message) (*logpb.Command, error)
}

func kindOf[M proto.Message](example M, command func(M) (*logpb.Command, error)) requestKind {
	return requestKind{example, func(m proto.Message) (*logpb.Command, error) { return command(m.(M)) }}
}

func requestKinds() []requestKind {
	selector := &controlpb.Selector{Kind: "shard", Namespace: "mesh.demo", Labels: map[string]string{"a": "b"}}
	weight := uint32(3)
	return []requestKind{
		kindOf(&controlpb.OpenSessionRequest{RequestId: "o", CorrelationId: "c", Base: 7, MemberId: "m", Labels: map[string]string{"zone": "a"},
			Weight: &weight, Ttl: durationpb.New(time.Second), Stands: []*controlpb.Wish{{Selector: selector, Priority: -5}}, Replaces: 2}, wire.OpenSessionCommand),
		kindOf(&controlpb.CloseSessionRequest{RequestId: "c", Session: 1}, wire.CloseSessionCommand),
		kindOf(&controlpb.StandRequest{RequestId: "s", Session: 1, Selector: selector, Priority: 4, Number: 2}, wire.StandCommand),
		kindOf(&controlpb.WithdrawRequest{RequestId: "w", Session: 1, Selector: selector, Number: 3}, wire.WithdrawCommand),
		kindOf(&controlpb.ResignRequest{RequestId: "r", Session: 1, Scope: "global-control", FenceToken: 9}, wire.ResignCommand),
		kindOf(&controlpb.DeclareScopesRequest{RequestId: "d", Scopes: []*controlpb.ScopeSpec{{Id: "shard/x/1", Kind: "shard",
			Labels: map[string]string{"a": "b"}, PreferredMember: "m", Failover: controlpb.Failover_FAILOVER_FAST}}}, wire.DeclareScopesCommand),
		kindOf(&controlpb.RetireScopesRequest{RequestId: "x", Scopes: []string{"a", "b"}}, wire.RetireScopesCommand),
		kindOf(&controlpb.TransferRequest{RequestId: "t", Scope: "a", ToMember: "m", FenceToken: 3}, wire.TransferCommand),
		kindOf(&controlpb.CancelTransferRequest{RequestId: "t", Scope: "a"}, wire.CancelTransferCommand),
		kindOf(&controlpb.CordonRequest{RequestId: "k", MemberId: "m", Drain: true}, wire.CordonCommand),
		kindOf(&controlpb.UncordonRequest{RequestId: "u", MemberId: "m", Why: "it is back"}, wire.UncordonCommand),
		kindOf(&controlpb.AddNodeRequest{RequestId: "a", Node: &controlpb.NewNode{Name: "node-2", PeerAddress: "h:1", HttpAddress: "h:2", GrpcAddress: "h:3"}, Why: "w"}, wire.AddNodeCommand),
		kindOf(&controlpb.RemoveNodeRequest{RequestId: "a", Name: "node-2"}, wire.RemoveNodeCommand),
		kindOf(&controlpb.ReplaceNodeRequest{RequestId: "a", Name: "node-2", By: &controlpb.NewNode{Name: "node-3", PeerAddress: "h:1"}}, wire.ReplaceNodeCommand),
		kindOf(&controlpb.MoveRegistrarRequest{RequestId: "a", To: "node-2"}, wire.MoveRegistrarCommand),
	}
}

// A request that is accepted is a command that the log can carry and every replica can
// apply.
func FuzzRequestToCommand(f *testing.F) {
	kinds := requestKinds()
	for i, k := range kinds {
		f.Add(uint8(i), marshal(f, k.example))
	}
	f.Add(uint8(0), marshal(f, &controlpb.OpenSessionRequest{Ttl: &durationpb.Duration{Seconds: -1, Nanos: 1}}))
	f.Add(uint8(5), marshal(f, &controlpb.DeclareScopesRequest{Scopes: []*controlpb.ScopeSpec{{}, {Failover: 99}}}))
	f.Fuzz(func(t *testing.T, which uint8, data []byte) {
		kind := kinds[int(which)%len(kinds)]
		request := kind.example.ProtoReflect().New().Interface()
		if proto.Unmarshal(data, request) != nil {
			return
		}
		before := proto.Clone(request)
		var c *logpb.Command
		var err error
		frugal(t, len(data), func() { c, err = kind.command(request) })
		if !proto.Equal(request, before) {
			t.Fatal("the conversion changed the request")
		}
		if err != nil {
			wantField(t, err)
			return
		}
		if c.RequestId == "" {
			c.RequestId = "made" // as a node does
		}
		c.Actor = "fuzz"
		wantCarried(t, c)
	})
}

// wantCarried fails unless c is refused with a reason, or goes through the log and is
// applied.
func wantCarried(t *testing.T, c *logpb.Command) {
	t.Helper()
	if err := core.CompleteCommand(c); err != nil {
		wantField(t, err)
		return
	}
	if err := core.ValidateCommand(c); err != nil {
		wantField(t, err)
		return
	}
	if size := proto.Size(c); size > core.MaxCommandBytes {
		t.Fatalf("a command of %d bytes was accepted", size)
	}
	whole := proto.Clone(c)
	if err := core.CompleteCommand(c); err != nil || !proto.Equal(c, whole) {
		t.Fatalf("completed twice it is another command: %v", err)
	}
	again := &logpb.Command{}
	if err := proto.Unmarshal(marshal(t, c), again); err != nil || !proto.Equal(again, c) {
		t.Fatalf("it did not survive its encoding: %v", err)
	}
	entry := marshal(t, &logpb.Entry{Commands: []*logpb.Command{c}})
	hash := func() [32]byte {
		g := core.NewRegistry(0)
		if _, err := g.Apply(1, 1, entry); err != nil {
			t.Fatalf("accepted, yet no replica can apply it: %v", err)
		}
		restored, err := core.Restore(g.Snapshot(), 0)
		if err != nil {
			t.Fatalf("accepted and applied, yet its snapshot is refused: %v", err)
		}
		if restored.Hash() != g.Hash() {
			t.Fatal("the state is another one after a snapshot")
		}
		return g.Hash()
	}
	if one, other := hash(), hash(); one != other {
		t.Fatal("two replicas differ after it")
	}
}

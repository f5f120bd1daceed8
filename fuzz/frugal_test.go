package fuzz_test

import (
	"testing"

	"go.etcd.io/raft/v3/raftpb"
	"google.golang.org/protobuf/proto"

	"github.com/omnirelay/leadership/core"
	"github.com/omnirelay/leadership/core/logpb"
	"github.com/omnirelay/leadership/wire"
	"github.com/omnirelay/leadership/wire/nodepb"
)

// What the decoders of the replicas do right is held by targets in their packages; here
// they are held to their memory.

func FuzzNodeMessageIsFrugal(f *testing.F) {
	app := &raftpb.Message{Type: raftpb.MsgApp.Enum(), From: proto.Uint64(1), To: proto.Uint64(2), Term: proto.Uint64(1),
		Entries: []*raftpb.Entry{{Index: proto.Uint64(1), Term: proto.Uint64(1), Data: []byte("e")}}}
	message, err := wire.EncodeMessage(&core.Message{From: 1, To: 2, Raft: app})
	if err != nil {
		f.Fatal(err)
	}
	f.Add(marshal(f, message))
	f.Add(marshal(f, &nodepb.Message{From: 1, To: 2, Kind: &nodepb.Message_Proposal{Proposal: &nodepb.Proposal{Commands: [][]byte{{8, 1}, {}}}}}))
	f.Fuzz(func(t *testing.T, data []byte) {
		var err error
		frugal(t, len(data), func() { _, err = wire.DecodeMessageBytes(data) })
		if err != nil {
			wantField(t, err)
		}
	})
}

func FuzzLogEntryIsFrugal(f *testing.F) {
	declare := &logpb.Command{RequestId: "d", Kind: &logpb.Command_DeclareScopes{DeclareScopes: &logpb.DeclareScopes{Scopes: []*logpb.ScopeSpec{{Id: "a", Kind: "custom"}}}}}
	open := &logpb.Command{RequestId: "o", Kind: &logpb.Command_OpenSession{OpenSession: &logpb.OpenSession{MemberId: "m", TtlNs: 1e9, Weight: 1,
		Stands: []*logpb.Stand{{Selector: &logpb.Selector{}}}}}}
	f.Add(marshal(f, &logpb.Entry{Commands: []*logpb.Command{declare, open}}))
	f.Fuzz(func(t *testing.T, data []byte) {
		g := core.NewRegistry(0)
		frugal(t, len(data), func() { _, _ = g.Apply(1, 1, data) })
	})
}

func FuzzSnapshotIsFrugal(f *testing.F) {
	g := core.NewRegistry(0)
	declare := &logpb.Command{RequestId: "d", Kind: &logpb.Command_DeclareScopes{DeclareScopes: &logpb.DeclareScopes{Scopes: []*logpb.ScopeSpec{{Id: "a", Kind: "custom"}}}}}
	if _, err := g.Apply(1, 1, marshal(f, &logpb.Entry{Commands: []*logpb.Command{declare}})); err != nil {
		f.Fatal(err)
	}
	f.Add(marshal(f, g.Snapshot()))
	f.Fuzz(func(t *testing.T, data []byte) {
		s := &logpb.Snapshot{}
		if proto.Unmarshal(data, s) != nil {
			return
		}
		frugal(t, len(data), func() { _, _ = core.Restore(s, 0) })
	})
}

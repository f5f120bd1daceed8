package wire

import (
	"errors"
	"reflect"
	"strings"
	"testing"

	"google.golang.org/protobuf/proto"
	"pgregory.net/rapid"

	"go.etcd.io/raft/v3/raftpb"

	"github.com/omnirelay/leadership/core"
	"github.com/omnirelay/leadership/core/logpb"
	"github.com/omnirelay/leadership/wire/nodepb"
)

func TestMessageRoundTrip(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		want := drawMessage(t)
		encoded, err := EncodeMessage(&want)
		if err != nil {
			t.Fatal(err)
		}
		data, err := proto.Marshal(encoded)
		if err != nil {
			t.Fatal(err)
		}
		got, err := DecodeMessageBytes(data)
		if err != nil {
			t.Fatal(err)
		}
		if diff := difference(want, got); diff != "" {
			t.Fatal(diff)
		}
	})
}

// difference names the first part in which two messages differ.
func difference(a, b core.Message) string {
	switch {
	case a.From != b.From || a.To != b.To:
		return "ends"
	case !proto.Equal(a.Raft, b.Raft):
		return "raft"
	case (a.Proposal == nil) != (b.Proposal == nil):
		return "proposal"
	case !reflect.DeepEqual(a.Keepalive, b.Keepalive):
		return "keepalive"
	case (a.Ack == nil) != (b.Ack == nil) || a.Ack != nil && *a.Ack != *b.Ack:
		return "ack"
	case !reflect.DeepEqual(a.Suspicion, b.Suspicion):
		return "suspicion"
	}
	if a.Proposal == nil {
		return ""
	}
	if len(a.Proposal.Commands) != len(b.Proposal.Commands) {
		return "proposal.commands"
	}
	for i := range a.Proposal.Commands {
		if !proto.Equal(a.Proposal.Commands[i], b.Proposal.Commands[i]) {
			return command(i)
		}
	}
	return ""
}

func drawMessage(t *rapid.T) core.Message {
	m := core.Message{From: core.NodeID(rapid.Uint64Range(1, 9).Draw(t, "from"))}
	m.To = m.From + core.NodeID(rapid.Uint64Range(1, 9).Draw(t, "to"))
	session := core.SessionID(rapid.Uint64Min(1).Draw(t, "session"))
	number, conn := rapid.Uint64Min(1).Draw(t, "number"), core.ConnID(rapid.Uint64().Draw(t, "conn"))
	switch rapid.IntRange(0, 4).Draw(t, "kind") {
	case 0:
		m.Raft = drawRaft(t, m.From, m.To)
	case 1:
		n := rapid.IntRange(1, 8).Draw(t, "commands")
		m.Proposal = &core.Proposal{}
		for i := range n {
			m.Proposal.Commands = append(m.Proposal.Commands, &logpb.Command{
				RequestId: rapid.StringN(1, 20, core.MaxRequestID).Draw(t, "request"), Base: uint64(i),
				Kind: &logpb.Command_Resign{Resign: &logpb.Resign{Session: uint64(session), Scope: "global-control", Fence: number}},
			})
		}
	case 2:
		m.Keepalive = &core.KeepaliveForward{Session: session, Number: number, Conn: conn, Claims: drawClaims(t)}
	case 3:
		m.Suspicion = &core.Suspicion{Session: session}
	default:
		m.Ack = &core.AckReturn{Session: session, Number: number, Conn: conn}
	}
	return m
}

// drawClaims draws what a member claims; none is nil, as it is decoded.
func drawClaims(t *rapid.T) (claims []core.Claim) {
	for range rapid.SampledFrom([]int{0, 1, 3, core.MaxClaims}).Draw(t, "claims") {
		claims = append(claims, core.Claim{Scope: rapid.StringMatching("shard/[a-z]{1,3}/[0-9]{1,3}").Draw(t, "scope"), Fence: drawNumber(t, "fence")})
	}
	return claims
}

func drawRaft(t *rapid.T, from, to core.NodeID) *raftpb.Message {
	kinds := make([]raftpb.MessageType, 0, len(travels))
	for k := raftpb.MessageType(0); k < 24; k++ {
		if travels[k] {
			kinds = append(kinds, k)
		}
	}
	kind := rapid.SampledFrom(kinds).Draw(t, "raft")
	term := rapid.Uint64Range(1, 1<<40).Draw(t, "term")
	m := &raftpb.Message{Type: &kind, From: new(uint64(from)), To: new(uint64(to)), Term: &term}
	switch kind {
	case raftpb.MsgApp:
		m.Index, m.LogTerm = new(rapid.Uint64Range(0, 1<<40).Draw(t, "index")), new(term/2)
		m.Entries = consecutive(m, rapid.IntRange(0, 5).Draw(t, "entries"))
	case raftpb.MsgReadIndex:
		m.Term = nil
		m.Entries = []*raftpb.Entry{{Data: []byte("ctx")}}
	case raftpb.MsgReadIndexResp:
		m.Entries = []*raftpb.Entry{{Data: []byte("ctx")}}
	case raftpb.MsgHeartbeat, raftpb.MsgHeartbeatResp:
		m.Context = rapid.SampledFrom([][]byte{nil, make([]byte, 8)}).Draw(t, "context")
	case raftpb.MsgSnap:
		m.Snapshot = snapshot(7, term, rapid.SliceOfN(rapid.Byte(), 0, 100).Draw(t, "data"))
	}
	return m
}

func consecutive(m *raftpb.Message, n int) []*raftpb.Entry {
	var out []*raftpb.Entry
	for i := range n {
		out = append(out, &raftpb.Entry{Index: new(m.GetIndex() + uint64(i) + 1), Term: m.Term, Data: []byte{byte(i)}})
	}
	return out
}

func snapshot(index, term uint64, data []byte) *raftpb.Snapshot {
	return &raftpb.Snapshot{Data: data, Metadata: &raftpb.SnapshotMetadata{
		Index: &index, Term: &term, ConfState: &raftpb.ConfState{Voters: []uint64{1, 2, 3}}}}
}

// raftMessage is a well-formed raft message from 1 to 2 that each case spoils.
func raftMessage(kind raftpb.MessageType, spoil func(m *raftpb.Message)) *nodepb.Message {
	m := &raftpb.Message{Type: &kind, From: new(uint64(1)), To: new(uint64(2)), Term: new(uint64(3))}
	spoil(m)
	data, err := proto.Marshal(m)
	if err != nil {
		panic(err)
	}
	return &nodepb.Message{From: 1, To: 2, Kind: &nodepb.Message_Raft{Raft: data}}
}

func TestDecodeMessageNamesTheField(t *testing.T) {
	conf := func(spoil func(c *raftpb.ConfState)) *nodepb.Message {
		return raftMessage(raftpb.MsgSnap, func(m *raftpb.Message) {
			m.Snapshot = snapshot(1, 1, nil)
			spoil(m.Snapshot.Metadata.ConfState)
		})
	}
	bytes := func(n int) []byte { return make([]byte, n) }
	proposal := func(commands ...[]byte) *nodepb.Message {
		return &nodepb.Message{From: 1, To: 2, Kind: &nodepb.Message_Proposal{Proposal: &nodepb.Proposal{Commands: commands}}}
	}
	many := make([][]byte, core.MaxBatch+1)
	for i := range many {
		many[i] = []byte{8, 1}
	}
	cases := []struct {
		field string
		m     *nodepb.Message
	}{
		{"from", nil},
		{"from", &nodepb.Message{To: 1}},
		{"to", &nodepb.Message{From: 1}},
		{"to", &nodepb.Message{From: 1, To: 1}},
		{"kind", &nodepb.Message{From: 1, To: 2}},
		{"keepalive.session", &nodepb.Message{From: 1, To: 2, Kind: &nodepb.Message_Keepalive{}}},
		{"keepalive.number", &nodepb.Message{From: 1, To: 2, Kind: &nodepb.Message_Keepalive{Keepalive: &nodepb.Keepalive{Session: 1}}}},
		{"keepalive.claims", &nodepb.Message{From: 1, To: 2, Kind: &nodepb.Message_Keepalive{Keepalive: &nodepb.Keepalive{
			Session: 1, Number: 1, Claims: make([]*nodepb.Claim, core.MaxClaims+1)}}}},
		{"keepalive.claims[1].scope", &nodepb.Message{From: 1, To: 2, Kind: &nodepb.Message_Keepalive{Keepalive: &nodepb.Keepalive{
			Session: 1, Number: 1, Claims: []*nodepb.Claim{{Scope: "a", Fence: 1}, {Scope: "a//b", Fence: 1}}}}}},
		{"keepalive.claims[0].fence", &nodepb.Message{From: 1, To: 2, Kind: &nodepb.Message_Keepalive{Keepalive: &nodepb.Keepalive{
			Session: 1, Number: 1, Claims: []*nodepb.Claim{{Scope: "a"}}}}}},
		{"suspicion.session", &nodepb.Message{From: 1, To: 2, Kind: &nodepb.Message_Suspicion{}}},
		{"ack.session", &nodepb.Message{From: 1, To: 2, Kind: &nodepb.Message_Ack{Ack: &nodepb.Ack{Number: 1}}}},
		{"ack.number", &nodepb.Message{From: 1, To: 2, Kind: &nodepb.Message_Ack{Ack: &nodepb.Ack{Session: 1}}}},
		{"proposal.commands", &nodepb.Message{From: 1, To: 2, Kind: &nodepb.Message_Proposal{}}},
		{"proposal.commands", proposal()},
		{"proposal.commands", proposal(many...)},
		{"proposal.commands", proposal(bytes(core.MaxCommandBytes), bytes(core.MaxCommandBytes), bytes(1))},
		{"proposal.commands[1]", proposal([]byte{8, 1}, nil)},
		{"proposal.commands[0]", proposal(bytes(core.MaxCommandBytes + 1))},
		{"proposal.commands[0]", proposal([]byte{0xff})},
		{"raft", &nodepb.Message{From: 1, To: 2, Kind: &nodepb.Message_Raft{Raft: []byte{0xff}}}},
		{"raft.type", &nodepb.Message{From: 1, To: 2, Kind: &nodepb.Message_Raft{}}}, // MsgHup
		{"raft.type", raftMessage(raftpb.MsgProp, func(*raftpb.Message) {})},
		{"raft.type", raftMessage(raftpb.MsgStorageAppendResp, func(*raftpb.Message) {})},
		{"raft.type", raftMessage(raftpb.MessageType(99), func(*raftpb.Message) {})},
		{"raft.from", raftMessage(raftpb.MsgVote, func(m *raftpb.Message) { m.From = new(uint64(3)) })},
		{"raft.to", raftMessage(raftpb.MsgVote, func(m *raftpb.Message) { m.To = nil })},
		{"raft.term", raftMessage(raftpb.MsgVote, func(m *raftpb.Message) { m.Term = nil })},
		{"raft.term", raftMessage(raftpb.MsgReadIndex, func(m *raftpb.Message) {})},
		{"raft.responses", raftMessage(raftpb.MsgApp, func(m *raftpb.Message) { m.Responses = []*raftpb.Message{{}} })},
		{"raft.context", raftMessage(raftpb.MsgHeartbeatResp, func(m *raftpb.Message) { m.Context = bytes(3) })},
		{"raft.context", raftMessage(raftpb.MsgVote, func(m *raftpb.Message) { m.Context = bytes(MaxRaftContext + 1) })},
		{"raft.entries", raftMessage(raftpb.MsgVote, func(m *raftpb.Message) { m.Entries = []*raftpb.Entry{{}} })},
		{"raft.entries", raftMessage(raftpb.MsgReadIndex, func(m *raftpb.Message) { m.Term = nil })},
		{"raft.entries", raftMessage(raftpb.MsgApp, func(m *raftpb.Message) {
			m.Entries = make([]*raftpb.Entry, MaxRaftEntries+1)
			for i := range m.Entries {
				m.Entries[i] = &raftpb.Entry{}
			}
		})},
		{"raft.entries[0].index", raftMessage(raftpb.MsgApp, func(m *raftpb.Message) { m.Entries = []*raftpb.Entry{{Term: new(uint64(1))}} })},
		{"raft.entries[0].index", raftMessage(raftpb.MsgApp, func(m *raftpb.Message) {
			m.Index, m.Entries = new(^uint64(0)), []*raftpb.Entry{{Term: new(uint64(1))}}
		})},
		{"raft.entries[1].term", raftMessage(raftpb.MsgApp, func(m *raftpb.Message) {
			m.Entries = consecutive(m, 2)
			m.Entries[1].Term = new(uint64(4))
		})},
		{"raft.entries[0].term", raftMessage(raftpb.MsgApp, func(m *raftpb.Message) {
			m.Entries = consecutive(m, 1)
			m.Entries[0].Term = nil
		})},
		{"raft", raftMessage(raftpb.MsgApp, func(m *raftpb.Message) {
			m.Entries = consecutive(m, 1)
			m.Entries[0].Data = bytes(MaxRaftMessageBytes)
		})},
		{"raft.snapshot", raftMessage(raftpb.MsgApp, func(m *raftpb.Message) { m.Snapshot = snapshot(1, 1, nil) })},
		{"raft.snapshot.metadata.index", raftMessage(raftpb.MsgSnap, func(*raftpb.Message) {})},
		{"raft.snapshot.metadata.term", raftMessage(raftpb.MsgSnap, func(m *raftpb.Message) { m.Snapshot = snapshot(1, 4, nil) })},
		{"raft.snapshot.data", raftMessage(raftpb.MsgSnap, func(m *raftpb.Message) { m.Snapshot = snapshot(1, 1, bytes(core.MaxSnapshotBytes+1)) })},
		{"raft.snapshot.metadata.conf_state.voters", raftMessage(raftpb.MsgSnap, func(m *raftpb.Message) {
			m.Snapshot = snapshot(1, 1, nil)
			m.Snapshot.Metadata.ConfState = nil
		})},
		{"raft.snapshot.metadata.conf_state.voters[1]", raftMessage(raftpb.MsgSnap, func(m *raftpb.Message) {
			m.Snapshot = snapshot(1, 1, nil)
			m.Snapshot.Metadata.ConfState.Voters = []uint64{1, 1}
		})},
		{"raft.snapshot.metadata.conf_state.learners[3]", conf(func(c *raftpb.ConfState) { c.Learners = []uint64{3} })},
		{"raft.snapshot.metadata.conf_state.voters_outgoing[1]", conf(func(c *raftpb.ConfState) { c.VotersOutgoing = []uint64{4, 4} })},
		{"raft.snapshot.metadata.conf_state.auto_leave", conf(func(c *raftpb.ConfState) { c.AutoLeave = new(true) })},
		{"raft.snapshot.metadata.conf_state.learners_next[0]", conf(func(c *raftpb.ConfState) { c.LearnersNext = []uint64{4} })},
		{"raft.snapshot.metadata.conf_state.learners[0]", conf(func(c *raftpb.ConfState) { c.VotersOutgoing, c.Learners = []uint64{4}, []uint64{4} })},
		{"raft.snapshot.metadata.conf_state.voters_outgoing", conf(func(c *raftpb.ConfState) { c.VotersOutgoing = make([]uint64, core.MaxReplicas+1) })},
		{"raft.snapshot.metadata.conf_state.learners", conf(func(c *raftpb.ConfState) { c.Learners = make([]uint64, core.MaxNodes+1) })},
	}
	for _, c := range cases {
		_, err := DecodeMessage(c.m)
		var field *FieldError
		if !errors.As(err, &field) || field.Field != c.field {
			t.Errorf("want an error of field %s, have %v", c.field, err)
		}
	}
}

func TestEncodeMessageRefusesWhatDecodeWould(t *testing.T) {
	cases := map[string]core.Message{
		"from":                      {To: 1, Ack: &core.AckReturn{Session: 1, Number: 1}},
		"kind":                      {From: 1, To: 2},
		"raft.type":                 {From: 1, To: 2, Raft: &raftpb.Message{}},
		"proposal.commands":         {From: 1, To: 2, Proposal: &core.Proposal{}},
		"proposal.commands[0]":      {From: 1, To: 2, Proposal: &core.Proposal{Commands: []*logpb.Command{nil}}},
		"keepalive.claims[0].scope": {From: 1, To: 2, Keepalive: &core.KeepaliveForward{Session: 1, Number: 1, Claims: []core.Claim{{Fence: 1}}}},
		"suspicion.session":         {From: 1, To: 2, Suspicion: &core.Suspicion{}},
		"ack.number":                {From: 1, To: 2, Ack: &core.AckReturn{Session: 1}},
	}
	for want, m := range cases {
		if _, err := EncodeMessage(&m); err == nil || !strings.HasPrefix(err.Error(), want+": ") {
			t.Errorf("want an error of field %s, have %v", want, err)
		}
	}
	two := core.Message{From: 1, To: 2, Ack: &core.AckReturn{}, Keepalive: &core.KeepaliveForward{}}
	if _, err := EncodeMessage(&two); err == nil || !strings.HasPrefix(err.Error(), "kind: 2 kinds") {
		t.Errorf("two kinds at once gave %v", err)
	}
}

func TestTheLargestSnapshotFits(t *testing.T) {
	kind := raftpb.MsgSnap
	m := core.Message{From: 1, To: 2, Raft: &raftpb.Message{Type: &kind, From: new(uint64(1)), To: new(uint64(2)),
		Term: new(^uint64(0)), Snapshot: snapshot(^uint64(0), ^uint64(0), make([]byte, core.MaxSnapshotBytes))}}
	encoded, err := EncodeMessage(&m)
	if err != nil {
		t.Fatal(err)
	}
	if size := proto.Size(encoded); size > MaxMessageBytes {
		t.Fatalf("%d bytes, limit %d", size, MaxMessageBytes)
	}
}

// FuzzDecodeMessage: whatever arrives is refused with a field or survives a round
// trip; nothing panics.
func FuzzDecodeMessage(f *testing.F) {
	for _, m := range []*nodepb.Message{
		{From: 1, To: 2, Kind: &nodepb.Message_Keepalive{Keepalive: &nodepb.Keepalive{Session: 1, Number: 2, Conn: 3}}},
		{From: 1, To: 2, Kind: &nodepb.Message_Keepalive{Keepalive: &nodepb.Keepalive{Session: 1, Number: 2, Claims: []*nodepb.Claim{{Scope: "a", Fence: 1}}}}},
		{From: 1, To: 2, Kind: &nodepb.Message_Suspicion{Suspicion: &nodepb.Suspicion{Session: 1}}},
		{From: 1, To: 2, Kind: &nodepb.Message_Ack{Ack: &nodepb.Ack{Session: 1, Number: 2, Conn: 3}}},
		{From: 1, To: 2, Kind: &nodepb.Message_Proposal{Proposal: &nodepb.Proposal{Commands: [][]byte{{8, 1}}}}},
		raftMessage(raftpb.MsgApp, func(m *raftpb.Message) { m.Entries = consecutive(m, 2) }),
		raftMessage(raftpb.MsgSnap, func(m *raftpb.Message) { m.Snapshot = snapshot(5, 2, []byte("state")) }),
		raftMessage(raftpb.MsgHeartbeatResp, func(m *raftpb.Message) { m.Context = make([]byte, 8) }),
	} {
		data, err := proto.Marshal(m)
		if err != nil {
			f.Fatal(err)
		}
		f.Add(data)
	}
	f.Fuzz(func(t *testing.T, data []byte) {
		m, err := DecodeMessageBytes(data)
		if err != nil {
			var field *FieldError
			if !errors.As(err, &field) || field.Field == "" {
				t.Fatalf("error without a field: %v", err)
			}
			return
		}
		encoded, err := EncodeMessage(&m)
		if err != nil {
			t.Fatalf("decoded, yet refused on the way out: %v", err)
		}
		again, err := DecodeMessage(encoded)
		if err != nil {
			t.Fatal(err)
		}
		if diff := difference(m, again); diff != "" {
			t.Fatal(diff)
		}
	})
}

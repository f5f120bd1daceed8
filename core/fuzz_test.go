package core

import (
	"testing"

	"google.golang.org/protobuf/proto"

	"github.com/omnirelay/leadership/core/logpb"
)

// Whatever bytes a log, a peer or a client hands in: an error or an effect, never a
// panic, and what had an effect leaves a state that can be kept and restored.

func FuzzApply(f *testing.F) {
	for _, what := range []string{"kind-of-command", "field-of-entry", "field-of-selector", "failover-mode", "kind-of-decision"} {
		f.Add(newerPayload(f, what))
	}
	f.Add([]byte{})
	f.Add([]byte{0xff, 0x01})
	for _, c := range []*logpb.Command{
		declare("d", "s", "s"),
		{RequestId: "o", Kind: &logpb.Command_OpenSession{OpenSession: &logpb.OpenSession{MemberId: "m", Replaces: 1, Stands: []*logpb.Stand{{Priority: -1}}}}},
		{Kind: &logpb.Command_Keeper{Keeper: &logpb.KeeperDecision{Term: 1, Number: 1, Kind: logpb.KeeperDecision_KIND_EXPIRE, Session: 1}}},
		{Kind: &logpb.Command_Keeper{Keeper: &logpb.KeeperDecision{Term: 1, Number: ^uint64(0), Kind: logpb.KeeperDecision_KIND_NOTE, Session: 1, AgeNs: -1}}},
		{RequestId: "r", Kind: &logpb.Command_Resign{Resign: &logpb.Resign{Session: 1, Scope: "s", Fence: 1}}},
		{RequestId: "t", Kind: &logpb.Command_Transfer{Transfer: &logpb.Transfer{Scope: "s", ToMember: "b", Reason: "retire"}}},
		{RequestId: "x", Kind: &logpb.Command_RetireScopes{RetireScopes: &logpb.RetireScopes{Scopes: []string{"s", "s"}}}},
		{RequestId: "c", Kind: &logpb.Command_Cordon{Cordon: &logpb.Cordon{MemberId: "a", Cordoned: true, Drain: true}}},
		{RequestId: "b", Kind: &logpb.Command_Bootstrap{Bootstrap: &logpb.Bootstrap{ClusterId: "c", Voters: []uint64{0, 0, 7}, FormationMembers: 9}}},
	} {
		f.Add(mustMarshal(f, &logpb.Entry{Commands: []*logpb.Command{c, c}}))
	}
	f.Fuzz(func(t *testing.T, payload []byte) {
		g := NewRegistry(0)
		apply(t, g, declare("declared", "s", "t"))
		for _, line := range []string{"open a stands=custom", "open b stands=custom", "transfer s to=b"} {
			l := parseStoryLine(t, line)
			c := storyCommands[l.verb](l)
			c.RequestId = line
			apply(t, g, c)
		}
		before := g.Hash()
		if _, err := g.Apply(g.revision+1, 1, payload); err != nil {
			if g.Hash() != before {
				t.Fatal("an entry that was refused changed the state")
			}
			return
		}
		reincarnate(t, g)
	})
}

func FuzzRestore(f *testing.F) {
	g := NewRegistry(0)
	apply(f, g, declare("d", "s", "shard/x/1"))
	f.Add(mustMarshal(f, g.Snapshot()))
	f.Add(mustMarshal(f, NewRegistry(0).Snapshot()))
	f.Add(mustMarshal(f, &logpb.Snapshot{Format: snapshotFormat, Scopes: []*logpb.Snapshot_Scope{{}}, Replies: []*logpb.Snapshot_Reply{{}}}))
	f.Add([]byte("noise"))
	f.Fuzz(func(t *testing.T, data []byte) {
		s := &logpb.Snapshot{}
		if proto.Unmarshal(data, s) != nil {
			return
		}
		// With the right hash, so that what lies behind that check is reached too.
		if unchecked, err := restore(s, 0); err == nil {
			hash := unchecked.Hash()
			s.Hash = hash[:]
		}
		restored, err := Restore(s, 0)
		if err != nil {
			return
		}
		apply(t, restored, declare("after", "after"))
		restored.Tokens()
		restored.PlanMoves(1)
		if _, err := marshalSnapshot(restored.Snapshot()); err != nil {
			t.Fatal(err)
		}
	})
}

func FuzzParseCursor(f *testing.F) {
	for _, s := range []string{"1.0", "18446744073709551615.4294967295", "01.1", "+1.1", "1.", ".1", "1.4294967296", "", "1.1.1", "-0.0"} {
		f.Add(s)
	}
	f.Fuzz(func(t *testing.T, s string) {
		c, err := ParseCursor(s)
		if err == nil && c.String() != s {
			t.Fatalf("%q was read as %v", s, c)
		}
	})
}

func FuzzParseScopeID(f *testing.F) {
	for _, s := range []string{GlobalControl, "shard/x/1", "shard/x", "a//b", "/", "", "ä", "a b", "shard"} {
		f.Add(s)
	}
	f.Fuzz(func(t *testing.T, s string) {
		if ParseScopeID(s) != nil {
			return
		}
		spec, err := NewScopeSpec(s)
		if err != nil || spec.Kind == "" || len(s) > MaxScopeID {
			t.Fatalf("%q is a scope id, but %v of kind %q", s, err, spec.GetKind())
		}
		if !selects(&logpb.Selector{Id: s}, spec) {
			t.Fatalf("a selector for %q does not select it", s)
		}
	})
}

package core

import (
	"fmt"
	"testing"
	"time"

	"github.com/omnirelay/leadership/core/logpb"
)

// registryBench is a registry whose commands are applied one by one.
type registryBench struct {
	t *testing.T
	g *Registry
	n int
}

func newRegistryBench(t *testing.T) *registryBench {
	b := &registryBench{t: t, g: NewRegistry(0)}
	b.do(&logpb.Command{Kind: &logpb.Command_Bootstrap{Bootstrap: &logpb.Bootstrap{ClusterId: "c", Voters: []uint64{1}}}})
	b.do(&logpb.Command{Kind: &logpb.Command_AnnounceVersion{AnnounceVersion: &logpb.AnnounceVersion{Replica: 1, MaxVersion: ProtocolVersion}}})
	return b
}

func (b *registryBench) do(c *logpb.Command) *Result {
	b.t.Helper()
	b.n++
	c.RequestId, c.Base = fmt.Sprint("r", b.n), b.g.Revision()
	out, err := b.g.Apply(b.g.Revision()+1, 1, mustMarshal(b.t, &logpb.Entry{Commands: []*logpb.Command{c}}))
	if err != nil {
		b.t.Fatal(err)
	}
	return out.Results[0]
}

func (b *registryBench) open(member string) SessionID {
	return SessionID(b.do(&logpb.Command{Kind: &logpb.Command_OpenSession{OpenSession: &logpb.OpenSession{
		MemberId: member, Weight: 1, TtlNs: int64(time.Second), Stands: []*logpb.Stand{{Selector: &logpb.Selector{}}},
	}}}).Session)
}

func (b *registryBench) declare(ids ...string) {
	d := &logpb.DeclareScopes{}
	for _, id := range ids {
		d.Scopes = append(d.Scopes, &logpb.ScopeSpec{Id: id})
	}
	c := &logpb.Command{Kind: &logpb.Command_DeclareScopes{DeclareScopes: d}}
	if err := CompleteCommand(c); err != nil {
		b.t.Fatal(err)
	}
	b.do(c)
}

func (b *registryBench) cordon(member string, on bool) {
	b.do(&logpb.Command{Kind: &logpb.Command_Cordon{Cordon: &logpb.Cordon{MemberId: member, Cordoned: on, Drain: on}}})
}

func (b *registryBench) transfer(t *logpb.Transfer) *Result {
	return b.do(&logpb.Command{Kind: &logpb.Command_Transfer{Transfer: t}})
}

// resign lets the holder give a scope up.
func (b *registryBench) resign(scope string) {
	token, _ := b.g.Token(scope)
	b.do(&logpb.Command{Kind: &logpb.Command_Resign{Resign: &logpb.Resign{Session: uint64(token.Session), Scope: scope, Fence: token.Fence}}})
}

func (b *registryBench) asked() (scopes []string) {
	for _, s := range b.g.Scopes() {
		if s.Ask != nil {
			scopes = append(scopes, s.Spec.Id)
		}
	}
	return scopes
}

// A drain of thousands asks for a slice at a time, and for the next as the earlier ones
// are given up, in the same entry; also after a restart from a snapshot.
func TestADrainAsksInSlices(t *testing.T) {
	b := newRegistryBench(t)
	b.open("a")
	var ids []string
	for i := range 300 {
		ids = append(ids, fmt.Sprintf("s%03d", i))
	}
	b.declare(ids...)
	b.open("b")
	b.cordon("a", true)
	for round := 0; b.g.Member("a").Leads > 0; round++ {
		asked := b.asked()
		if len(asked) == 0 || len(asked) > drainSlice {
			t.Fatalf("after %d hand-overs %d scopes are asked for, want 1 to %d; a leads %d", round, len(asked), drainSlice, b.g.Member("a").Leads)
		}
		if round == 100 {
			g, err := Restore(b.g.Snapshot(), 0)
			if err != nil {
				t.Fatal(err)
			}
			b.g = g
		}
		b.resign(asked[len(asked)/2])
	}
	if asked := b.asked(); len(asked) > 0 || b.g.Member("b").Leads != 300 {
		t.Errorf("b leads %d of 300, asked for are %v", b.g.Member("b").Leads, asked)
	}
}

// Who resigned a scope once, and still stands for it, can lead it again.
func TestADrainMovesToWhoResignedBefore(t *testing.T) {
	b := newRegistryBench(t)
	b.open("b")
	b.declare("s")
	b.open("a")
	b.resign("s")
	b.cordon("a", true)
	if m := b.g.Member("a"); m.Stuck != 0 || len(b.asked()) != 1 {
		t.Errorf("a drain of a: %+v, asked for %v", m, b.asked())
	}
}

// What a drain asks for late counts neither after the cordon was lifted, nor over what an
// operator has asked for meanwhile.
func TestALateDrainIsRefused(t *testing.T) {
	for _, lifted := range []bool{true, false} {
		b := newRegistryBench(t)
		b.open("a")
		b.declare("s")
		b.cordon("a", true) // alone: not asked for yet
		b.open("b")
		late := b.g.PlanDrains(1)[0]
		if lifted {
			b.cordon("a", false)
		} else {
			b.transfer(&logpb.Transfer{Scope: "s", ToMember: "b", Reason: AskTransfer})
		}
		r := b.transfer(&logpb.Transfer{Scope: "s", Fence: late.Fence, Reason: AskDrain})
		if Code(r.Code) != CodeConflict {
			t.Errorf("lifted %v: %+v", lifted, r)
		}
		if s, _ := b.g.Scope("s"); lifted != (s.Ask == nil) || (s.Ask != nil && s.Ask.Reason != AskTransfer) {
			t.Errorf("lifted %v: asked %+v", lifted, s.Ask)
		}
	}
}

// Where thousands of scopes can be led by nobody else, one look weighs a part of them, and
// the looks together find the one that can be moved.
func TestADrainFindsWhatCanMoveBehindWhatCannot(t *testing.T) {
	b := newRegistryBench(t)
	b.open("a")
	var ids []string
	for i := range 1000 {
		ids = append(ids, fmt.Sprintf("s%04d", i))
	}
	b.declare(ids...)
	for i := range 99 {
		member := fmt.Sprintf("m%02d", i)
		b.do(&logpb.Command{Kind: &logpb.Command_OpenSession{OpenSession: &logpb.OpenSession{
			MemberId: member, Weight: 1, TtlNs: int64(time.Second), Stands: []*logpb.Stand{{Selector: &logpb.Selector{Id: "s0999"}}},
		}}})
	}
	b.cordon("a", true)
	if asked := b.asked(); len(asked) != 0 {
		t.Fatalf("the first look, at %d of 1000 scopes, asked for %v", drainLooks/100, asked)
	}
	looks := 1
	for after := ""; ; looks++ {
		moves, on := b.g.planDrains(drainMoves, after, drainLooks)
		if len(moves) == 1 && moves[0].Scope == "s0999" {
			break
		}
		if on == "" || len(moves) > 0 {
			t.Fatalf("look %d, behind %q: moves %v, goes on from %q", looks, after, moves, on)
		}
		after = on
	}
	if want := 1000*100/drainLooks + 1; looks != want {
		t.Errorf("%d looks, want %d", looks, want)
	}
}

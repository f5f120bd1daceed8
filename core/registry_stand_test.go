package core

import (
	"fmt"
	"strings"
	"testing"
	"time"

	"github.com/omnirelay/leadership/core/logpb"
)

// What the selectors of one session take is bounded, however they come: or a few members
// fill a snapshot.
func TestSelectorsOfASessionAreBounded(t *testing.T) {
	g := NewRegistry(0)
	apply(t, g, &logpb.Command{RequestId: "b", Kind: &logpb.Command_Bootstrap{Bootstrap: &logpb.Bootstrap{ClusterId: "c", Voters: []uint64{1}}}})
	large := func(i int) *logpb.Selector {
		sel := &logpb.Selector{Labels: map[string]string{}}
		for l := range MaxLabels {
			sel.Labels[fmt.Sprintf("%02d%02d", i, l)] = strings.Repeat("x", MaxLabelValue)
		}
		return sel
	}
	open := &logpb.OpenSession{MemberId: "m", Weight: 1, TtlNs: int64(time.Second)}
	for i := range 4 {
		open.Stands = append(open.Stands, &logpb.Stand{Selector: large(i)})
	}
	if err := validateOpen(open); err == nil || !strings.Contains(err.Error(), "stands") {
		t.Errorf("opened with too much: %v", err)
	}
	open.Stands = open.Stands[:3]
	if err := validateOpen(open); err != nil {
		t.Fatal(err)
	}
	session := apply(t, g, &logpb.Command{RequestId: "o", Kind: &logpb.Command_OpenSession{OpenSession: open}}).Results[0].Session
	r := apply(t, g, &logpb.Command{RequestId: "s", Kind: &logpb.Command_Stand{Stand: &logpb.Stand{Session: session, Selector: large(9)}}}).Results[0]
	if Code(r.Code) != CodeLimit || r.Field != "stands" {
		t.Errorf("stood for too much: %v", r)
	}
	if n := standBytes(g.sessions[SessionID(session)].stands); n > MaxStandBytes {
		t.Errorf("%d bytes are kept", n)
	}
}

// A vacancy that nobody could fill is filled by whatever lets somebody.
func TestVacanciesAreFilledByWhateverChanges(t *testing.T) {
	shard := &logpb.Selector{Kind: KindShard}
	for name, change := range map[string][]*logpb.Command{
		"a stand":        {{Kind: &logpb.Command_Stand{Stand: &logpb.Stand{Session: 1, Selector: shard}}}},
		"a session":      {{Kind: &logpb.Command_OpenSession{OpenSession: &logpb.OpenSession{MemberId: "n", Weight: 1, TtlNs: int64(time.Second), Stands: []*logpb.Stand{{Selector: shard}}}}}},
		"an uncordoning": {{Kind: &logpb.Command_Cordon{Cordon: &logpb.Cordon{MemberId: "m", Cordoned: true}}}, {Kind: &logpb.Command_Stand{Stand: &logpb.Stand{Session: 1, Selector: shard}}}, {Kind: &logpb.Command_Cordon{Cordon: &logpb.Cordon{MemberId: "m"}}}},
	} {
		t.Run(name, func(t *testing.T) {
			g := NewRegistry(0)
			apply(t, g, &logpb.Command{RequestId: "b", Kind: &logpb.Command_Bootstrap{Bootstrap: &logpb.Bootstrap{ClusterId: "c", Voters: []uint64{1}}}})
			apply(t, g, &logpb.Command{RequestId: "o", Kind: &logpb.Command_OpenSession{OpenSession: &logpb.OpenSession{MemberId: "m", Weight: 1, TtlNs: int64(time.Second), Stands: []*logpb.Stand{{Selector: &logpb.Selector{Kind: "none"}}}}}})
			spec, err := NewScopeSpec("shard/a/1")
			if err != nil {
				t.Fatal(err)
			}
			apply(t, g, &logpb.Command{RequestId: "d", Kind: &logpb.Command_DeclareScopes{DeclareScopes: &logpb.DeclareScopes{Scopes: []*logpb.ScopeSpec{spec}}}})
			for i, c := range change {
				if _, led := g.Token("shard/a/1"); led {
					t.Fatalf("led before step %d", i)
				}
				c.RequestId = fmt.Sprint("c", i)
				apply(t, g, c)
			}
			if _, led := g.Token("shard/a/1"); !led {
				t.Error("it stays vacant")
			}
		})
	}
}

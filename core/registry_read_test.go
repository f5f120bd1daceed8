package core

import (
	"slices"
	"testing"

	"google.golang.org/protobuf/proto"

	"github.com/omnirelay/leadership/core/logpb"
)

func TestReadsOfASession(t *testing.T) {
	g := NewRegistry(0)
	apply := func(index uint64, id string, c *logpb.Command) *Result {
		t.Helper()
		c.RequestId = id
		if err := CompleteCommand(c); err != nil {
			t.Fatal(err)
		}
		payload, err := proto.Marshal(&logpb.Entry{Commands: []*logpb.Command{c}})
		if err != nil {
			t.Fatal(err)
		}
		out, err := g.Apply(index, 1, payload)
		if err != nil || out.Results[0].Code != "" {
			t.Fatal(out, err)
		}
		return out.Results[0]
	}
	apply(1, "b", &logpb.Command{Kind: &logpb.Command_Bootstrap{Bootstrap: &logpb.Bootstrap{ClusterId: "c", Voters: []uint64{1}}}})
	apply(2, "d", &logpb.Command{Kind: &logpb.Command_DeclareScopes{DeclareScopes: &logpb.DeclareScopes{Scopes: []*logpb.ScopeSpec{{Id: "z"}, {Id: "a"}}}}})
	if g.Answered("o") || !g.Answered("d") {
		t.Error("what was answered is told wrong")
	}
	id := SessionID(apply(3, "o", &logpb.Command{Kind: &logpb.Command_OpenSession{OpenSession: &logpb.OpenSession{MemberId: "m", TtlNs: int64(DefaultTTL),
		Stands: []*logpb.Stand{{Selector: &logpb.Selector{}, Priority: 7}}}}}).Session)
	if !g.Answered("o") || g.LiveSessions("m") != 1 || g.LiveSessions("n") != 0 {
		t.Error("the session is not counted")
	}
	if stands := g.Stands(id); len(stands) != 1 || stands[0].Priority != 7 {
		t.Errorf("stands %v", stands)
	}
	if leads := g.Leads(id); !slices.Equal(leads, []string{"a", "z"}) {
		t.Errorf("leads %v", leads)
	}
	apply(4, "x", &logpb.Command{Kind: &logpb.Command_CloseSession{CloseSession: &logpb.CloseSession{Session: uint64(id)}}})
	if g.Stands(id) != nil || g.Leads(id) != nil || g.LiveSessions("m") != 0 {
		t.Error("an ended session still stands for or leads something")
	}
}

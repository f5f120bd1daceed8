package fuzz_test

import (
	"testing"
	"time"

	"google.golang.org/protobuf/proto"
	"google.golang.org/protobuf/types/known/timestamppb"

	"github.com/omnirelay/leadership/core"
	"github.com/omnirelay/leadership/core/logpb"
	"github.com/omnirelay/leadership/wire"
	"github.com/omnirelay/leadership/wire/controlpb"
)

// Whatever a node says, a member survives it: it never believes in a scope that no
// view gave it, and what it took means the same when a node writes it again.
func FuzzAttachResponse(f *testing.F) {
	token := &controlpb.LeadershipToken{Scope: "a", ScopeKind: "custom", LeaderId: "m", Term: 1, FenceToken: 2, IssuedAt: timestamppb.New(time.Unix(1_800_000_000, 5))}
	view := &controlpb.SessionView{Session: 1, Revision: 4, Live: true, Grants: []*controlpb.Grant{
		{Token: token, HandOver: &controlpb.HandOver{Reason: "transfer", ToMember: "n", CorrelationId: "c"}, FastFailover: true}}}
	opened := marshal(f, &controlpb.AttachResponse{Kind: &controlpb.AttachResponse_Reply{Reply: &controlpb.Reply{RequestId: "x", Session: 1, Revision: 3}}})
	ack := marshal(f, &controlpb.AttachResponse{Kind: &controlpb.AttachResponse_Acknowledgement{Acknowledgement: &controlpb.Acknowledgement{Session: 1, Number: 1}}})
	seen := marshal(f, &controlpb.AttachResponse{Kind: &controlpb.AttachResponse_View{View: view}})
	f.Add(opened, ack, seen)
	f.Add(seen, opened, ack)
	f.Add(marshal(f, &controlpb.AttachResponse{Kind: &controlpb.AttachResponse_Farewell{Farewell: &controlpb.Farewell{Reason: "r"}}}), []byte{}, seen)
	f.Fuzz(func(t *testing.T, first, second, third []byte) {
		member, err := core.NewMember(core.MemberConfig{MemberID: "m", TTL: time.Second, Epsilon: core.DefaultEpsilon, Seed: 1, Instance: "i"}, 1)
		if err != nil {
			t.Fatal(err)
		}
		if err := member.Stand(&logpb.Selector{}, 0); err != nil {
			t.Fatal(err)
		}
		granted := map[string]bool{}
		now := core.Time(1)
		for _, data := range [][]byte{first, second, third} {
			response := &controlpb.AttachResponse{}
			if proto.Unmarshal(data, response) != nil {
				continue
			}
			var m core.ReplicaMessage
			frugal(t, len(data), func() { m, err = wire.ReplicaMessageFrom(response) })
			if err != nil {
				wantField(t, err)
				continue
			}
			wantSameResponse(t, m)
			if m.Reply != nil { // it answers what the member asked, if that is what it asked
				for _, out := range member.TakeOutput().Messages {
					if out.Command != nil {
						m.Reply.RequestID = out.Command.RequestId
					}
				}
			}
			if m.View != nil {
				for _, g := range m.View.Grants {
					granted[g.Scope] = true
				}
			}
			member.Step(now, m)
			now += core.Time(time.Millisecond)
			member.Tick(now)
			for _, h := range member.Held(now) {
				if !granted[h.Scope] {
					t.Fatalf("it holds %s, which nobody gave it", h.Scope)
				}
			}
			if next := member.Deadline(); next <= now-core.Time(time.Second) {
				t.Fatalf("its deadline %d stays behind %d", next, now)
			}
		}
	})
}

func wantSameResponse(t *testing.T, m core.ReplicaMessage) {
	t.Helper()
	written := marshal(t, wire.AttachResponseOf(m))
	response := &controlpb.AttachResponse{}
	if err := proto.Unmarshal(written, response); err != nil {
		t.Fatal(err)
	}
	again, err := wire.ReplicaMessageFrom(response)
	if err != nil {
		t.Fatalf("accepted, yet refused when a node says it again: %v", err)
	}
	if string(marshal(t, wire.AttachResponseOf(again))) != string(written) {
		t.Fatalf("%+v became %+v", m, again)
	}
}

// An event means the same whichever way it came.
func FuzzEvent(f *testing.F) {
	at := timestamppb.New(time.Unix(1_800_000_000, 7))
	f.Add(marshal(f, &controlpb.LeadershipEvent{Kind: controlpb.LeadershipEventKind_LEADERSHIP_EVENT_KIND_ELECTED, Scope: "a", LeaderId: "m",
		Token:  &controlpb.LeadershipToken{Scope: "a", Term: 1, FenceToken: 2, IssuedAt: at, ExpiresAt: at, Labels: map[string]string{"a": "b"}},
		Reason: "r", CorrelationId: "c", OccurredAt: at, Revision: 3, Ordinal: 4, Transport: "HTTP/3.0"}))
	f.Add(marshal(f, &controlpb.LeadershipEvent{Kind: 99}))
	f.Add(marshal(f, &controlpb.LeadershipEvent{Kind: controlpb.LeadershipEventKind_LEADERSHIP_EVENT_KIND_MEMBER_CORDONED, LeaderId: "m", Subject: "s", Why: "w"}))
	f.Add(marshal(f, &controlpb.LeadershipEvent{Kind: 2, Token: &controlpb.LeadershipToken{Term: -1}}))
	f.Fuzz(func(t *testing.T, data []byte) {
		p := &controlpb.LeadershipEvent{}
		if proto.Unmarshal(data, p) != nil {
			return
		}
		var e wire.Event
		var err error
		frugal(t, len(data), func() { e, err = wire.EventFromProto(p) })
		if err != nil {
			wantField(t, err)
			return
		}
		if !e.Known() { // of a later version: passed over, and never sent on
			if p.Kind == 0 || p.GetRevision() != e.Revision || p.GetOrdinal() != e.Ordinal {
				t.Fatalf("%v became %+v", p, e)
			}
			return
		}
		again, err := wire.EventFromProto(e.Proto())
		if err != nil || string(marshal(t, again.Proto())) != string(marshal(t, e.Proto())) {
			t.Fatalf("%+v became %+v: %v", e, again, err)
		}
	})
}

package wire

import (
	"errors"
	"fmt"
	"reflect"
	"strings"
	"testing"
	"time"

	"google.golang.org/protobuf/proto"
	"google.golang.org/protobuf/types/known/durationpb"
	"google.golang.org/protobuf/types/known/timestamppb"
	"pgregory.net/rapid"

	"github.com/omnirelay/leadership/core"
	"github.com/omnirelay/leadership/core/logpb"
	"github.com/omnirelay/leadership/wire/controlpb"
)

// travelled marshals p and reads it back, as the other end would.
func travelled[M proto.Message](t *rapid.T, p M, into M) M {
	data, err := proto.Marshal(p)
	if err != nil {
		t.Fatal(err)
	}
	if err := proto.Unmarshal(data, into); err != nil {
		t.Fatal(err)
	}
	return into
}

func TestMemberMessageRoundTrip(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		want := drawMemberMessage(t)
		p, err := AttachRequestOf(want)
		if err != nil {
			t.Fatal(err)
		}
		got, err := MemberMessageOf(travelled(t, p, &controlpb.AttachRequest{}))
		if err != nil {
			t.Fatal(err)
		}
		if want.Keepalive != nil {
			if got.Command != nil || !reflect.DeepEqual(got.Keepalive, want.Keepalive) {
				t.Fatalf("have %+v, want %+v", got, want)
			}
			return
		}
		if RequestIDOf(p) != want.Command.RequestId {
			t.Errorf("request id %q", RequestIDOf(p))
		}
		if !proto.Equal(got.Command, want.Command) {
			t.Fatalf("have %v\nwant %v", got.Command, want.Command)
		}
	})
}

func drawNumber(t *rapid.T, name string) uint64 {
	return rapid.Uint64Range(1, MaxNumber).Draw(t, name)
}

func drawSelector(t *rapid.T) *logpb.Selector {
	text := rapid.StringMatching("[a-z]{0,5}")
	return &logpb.Selector{Kind: text.Draw(t, "kind"), Namespace: text.Draw(t, "namespace"), Id: text.Draw(t, "id"),
		Labels: rapid.MapOf(text, text).Draw(t, "labels")}
}

func drawMemberMessage(t *rapid.T) core.MemberMessage {
	session := drawNumber(t, "session")
	kind := rapid.IntRange(0, 5).Draw(t, "message")
	if kind == 0 {
		return core.MemberMessage{Keepalive: &core.Keepalive{Session: core.SessionID(session), Number: drawNumber(t, "number"),
			Cursor: drawNumber(t, "cursor"), ViewRevision: drawNumber(t, "view"), Claims: drawClaims(t)}}
	}
	c := &logpb.Command{RequestId: rapid.StringMatching("[!-~]{1,100}").Draw(t, "request"),
		CorrelationId: rapid.String().Draw(t, "correlation"), Base: drawNumber(t, "base")}
	priority := rapid.Int32().Draw(t, "priority")
	switch kind {
	case 1:
		open := &logpb.OpenSession{MemberId: "m", Weight: rapid.Uint32Range(0, 1000).Draw(t, "weight"), Replaces: session,
			TtlNs: rapid.Int64Range(1, int64(time.Hour)).Draw(t, "ttl"), Labels: map[string]string{"zone": "a"}}
		for range rapid.IntRange(0, 3).Draw(t, "stands") {
			open.Stands = append(open.Stands, &logpb.Stand{Selector: drawSelector(t), Priority: priority})
		}
		c.Kind = &logpb.Command_OpenSession{OpenSession: open}
	case 2:
		c.Kind = &logpb.Command_CloseSession{CloseSession: &logpb.CloseSession{Session: session}}
	case 3:
		c.Kind = &logpb.Command_Stand{Stand: &logpb.Stand{Session: session, Selector: drawSelector(t), Priority: priority, Number: drawNumber(t, "wish")}}
	case 4:
		c.Kind = &logpb.Command_Withdraw{Withdraw: &logpb.Withdraw{Session: session, Selector: drawSelector(t), Number: drawNumber(t, "wish")}}
	default:
		c.Kind = &logpb.Command_Resign{Resign: &logpb.Resign{Session: session, Scope: "a/b", Fence: drawNumber(t, "fence")}}
	}
	return core.MemberMessage{Command: c}
}

func TestReplicaMessageRoundTrip(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		want := drawReplicaMessage(t)
		got, err := ReplicaMessageFrom(travelled(t, AttachResponseOf(want), &controlpb.AttachResponse{}))
		if err != nil {
			t.Fatal(err)
		}
		if want.Reply != nil {
			if got.Reply == nil || got.Reply.RequestID != want.Reply.RequestID || !proto.Equal(got.Reply.Result, want.Reply.Result) {
				t.Fatalf("have %+v, want %+v", got.Reply, want.Reply)
			}
			return
		}
		if !reflect.DeepEqual(got, want) {
			t.Fatalf("have %+v\nwant %+v", got, want)
		}
	})
}

func drawReplicaMessage(t *rapid.T) core.ReplicaMessage {
	session := core.SessionID(drawNumber(t, "session"))
	switch rapid.IntRange(0, 2).Draw(t, "message") {
	case 0:
		return core.ReplicaMessage{Ack: &core.Ack{Session: session, Number: drawNumber(t, "number")}}
	case 1:
		return core.ReplicaMessage{Reply: &core.Reply{RequestID: "r-1", Result: &core.Result{
			Code: rapid.SampledFrom([]string{"", "invalid", "unavailable"}).Draw(t, "code"), Message: rapid.String().Draw(t, "message text"),
			Field: "field", Revision: drawNumber(t, "revision"), Session: uint64(session)}}}
	}
	v := &core.View{Session: session, Revision: drawNumber(t, "revision"), Live: rapid.Bool().Draw(t, "live")}
	for i := range rapid.IntRange(0, 3).Draw(t, "grants") {
		if !v.Live {
			break
		}
		g := core.Grant{Token: core.Token{Scope: fmt.Sprintf("s/%d", i), ScopeKind: "custom", LeaderID: "m", Session: session,
			Term: drawNumber(t, "term"), Fence: drawNumber(t, "fence"), IssuedAtWall: rapid.Int64Range(1, 1<<60).Draw(t, "issued"),
			Labels: map[string]string{"k": "v"}}}
		if rapid.Bool().Draw(t, "fast") {
			g.Failover = core.FailoverFast
		}
		if rapid.Bool().Draw(t, "asked") {
			g.Ask = &core.Ask{Reason: core.AskTransfer, To: "other", CorrelationID: "c"}
		}
		v.Grants = append(v.Grants, g)
	}
	return core.ReplicaMessage{View: v}
}

func TestRepliesThatPassSayWhenToComeBack(t *testing.T) {
	for code, want := range map[core.Code]bool{core.CodeUnavailable: true, core.CodeOverloaded: true, core.CodeHalted: true, core.CodeRetiring: true,
		core.CodeOK: false, core.CodeInvalid: false, core.CodeSessionEnded: false, core.CodeLimit: false} {
		p := ReplyProto(&core.Reply{RequestID: "r", Result: &core.Result{Code: string(code)}})
		if (p.GetRetryAfter() != nil) != want {
			t.Errorf("%q: retry after %v", code, p.GetRetryAfter())
		}
	}
}

// wantField checks that err is about field.
func wantField(t *testing.T, label string, err error, field string) {
	t.Helper()
	var e *FieldError
	if !errors.As(err, &e) || e.Field != field || e.Message == "" {
		t.Errorf("%s: want an error of field %s, have %v", label, field, err)
	}
}

func TestRequestsNameTheField(t *testing.T) {
	sel := &controlpb.Selector{}
	weight := uint32(0)
	open := func(edit func(*controlpb.OpenSessionRequest)) *controlpb.AttachRequest {
		r := &controlpb.OpenSessionRequest{RequestId: "r", MemberId: "m"}
		edit(r)
		return &controlpb.AttachRequest{Kind: &controlpb.AttachRequest_OpenSession{OpenSession: r}}
	}
	stand := func(edit func(*controlpb.StandRequest)) *controlpb.AttachRequest {
		r := &controlpb.StandRequest{RequestId: "r", Session: 1, Selector: sel}
		edit(r)
		return &controlpb.AttachRequest{Kind: &controlpb.AttachRequest_Stand{Stand: r}}
	}
	keepalive := func(edit func(*controlpb.KeepAliveRequest)) *controlpb.AttachRequest {
		r := &controlpb.KeepAliveRequest{Session: 1, Number: 1}
		edit(r)
		return &controlpb.AttachRequest{Kind: &controlpb.AttachRequest_KeepAlive{KeepAlive: r}}
	}
	for label, tc := range map[string]struct {
		p     *controlpb.AttachRequest
		field string
	}{
		"nothing":              {&controlpb.AttachRequest{}, "kind"},
		"no request id":        {stand(func(r *controlpb.StandRequest) { r.RequestId = "" }), "requestId"},
		"long request id":      {stand(func(r *controlpb.StandRequest) { r.RequestId = strings.Repeat("r", 101) }), "requestId"},
		"request id of spaces": {stand(func(r *controlpb.StandRequest) { r.RequestId = "a b" }), "requestId"},
		"request id in Greek":  {stand(func(r *controlpb.StandRequest) { r.RequestId = "λ" }), "requestId"},
		"huge base":            {stand(func(r *controlpb.StandRequest) { r.Base = 1 << 53 }), "base"},
		"no session":           {stand(func(r *controlpb.StandRequest) { r.Session = 0 }), "session"},
		"huge session":         {stand(func(r *controlpb.StandRequest) { r.Session = 1 << 53 }), "session"},
		"no selector":          {stand(func(r *controlpb.StandRequest) { r.Selector = nil }), "selector"},
		"huge number":          {stand(func(r *controlpb.StandRequest) { r.Number = 1 << 53 }), "number"},
		"zero weight":          {open(func(r *controlpb.OpenSessionRequest) { r.Weight = &weight }), "weight"},
		"broken ttl":           {open(func(r *controlpb.OpenSessionRequest) { r.Ttl = &durationpb.Duration{Nanos: -1, Seconds: 1} }), "ttl"},
		"wish of nothing":      {open(func(r *controlpb.OpenSessionRequest) { r.Stands = []*controlpb.Wish{{Selector: sel}, {}} }), "stands[1].selector"},
		"too many wishes":      {open(func(r *controlpb.OpenSessionRequest) { r.Stands = make([]*controlpb.Wish, core.MaxStands+1) }), "stands"},
		"huge replaces":        {open(func(r *controlpb.OpenSessionRequest) { r.Replaces = 1 << 53 }), "replaces"},
		"keepalive 0":          {keepalive(func(r *controlpb.KeepAliveRequest) { r.Number = 0 }), "number"},
		"claim of no scope":    {keepalive(func(r *controlpb.KeepAliveRequest) { r.Claims = []*controlpb.Claim{{FenceToken: 1}} }), "claims[0].scope"},
		"claim without fence":  {keepalive(func(r *controlpb.KeepAliveRequest) { r.Claims = []*controlpb.Claim{{Scope: "a"}} }), "claims[0].fenceToken"},
		"too many claims": {keepalive(func(r *controlpb.KeepAliveRequest) {
			for range core.MaxClaims + 1 {
				r.Claims = append(r.Claims, &controlpb.Claim{Scope: "a", FenceToken: 1})
			}
		}), "claims"},
		"keepalive of none":    {keepalive(func(r *controlpb.KeepAliveRequest) { r.Session = 0 }), "session"},
		"huge cursor":          {keepalive(func(r *controlpb.KeepAliveRequest) { r.Cursor = 1 << 53 }), "cursor"},
		"huge view":            {keepalive(func(r *controlpb.KeepAliveRequest) { r.ViewRevision = 1 << 53 }), "viewRevision"},
		"resign without fence": {&controlpb.AttachRequest{Kind: &controlpb.AttachRequest_Resign{Resign: &controlpb.ResignRequest{RequestId: "r", Session: 1, Scope: "a"}}}, "fenceToken"},
	} {
		_, err := MemberMessageOf(tc.p)
		wantField(t, label, err, tc.field)
	}
}

func TestAbsentTTLIsTheDefault(t *testing.T) {
	c, err := OpenSessionCommand(&controlpb.OpenSessionRequest{MemberId: "m"})
	if err != nil || time.Duration(c.GetOpenSession().TtlNs) != core.DefaultTTL {
		t.Errorf("have %v, %v", c, err)
	}
}

func TestResponsesNameTheField(t *testing.T) {
	token := func(edit func(*controlpb.LeadershipToken)) *controlpb.SessionView {
		tok := &controlpb.LeadershipToken{Scope: "a", Term: 1, FenceToken: 1}
		edit(tok)
		return &controlpb.SessionView{Session: 1, Live: true, Grants: []*controlpb.Grant{{Token: tok}}}
	}
	for label, tc := range map[string]struct {
		view  *controlpb.SessionView
		field string
	}{
		"no session":    {&controlpb.SessionView{}, "view.session"},
		"dead with all": {&controlpb.SessionView{Session: 1, Grants: []*controlpb.Grant{{}}}, "view.grants"},
		"no scope":      {token(func(t *controlpb.LeadershipToken) { t.Scope = "" }), "view.grants[0].token.scope"},
		"no term":       {token(func(t *controlpb.LeadershipToken) { t.Term = 0 }), "view.grants[0].token.term"},
		"no fence":      {token(func(t *controlpb.LeadershipToken) { t.FenceToken = -1 }), "view.grants[0].token.fenceToken"},
		"broken time":   {token(func(t *controlpb.LeadershipToken) { t.IssuedAt = &timestamppb.Timestamp{Nanos: -1} }), "view.grants[0].token.issuedAt"},
		"one twice": {&controlpb.SessionView{Session: 1, Live: true, Grants: []*controlpb.Grant{
			{Token: &controlpb.LeadershipToken{Scope: "a", Term: 1, FenceToken: 1}}, {Token: &controlpb.LeadershipToken{Scope: "a", Term: 1, FenceToken: 2}}}}, "view.grants[1].token.scope"},
	} {
		_, err := ReplicaMessageFrom(&controlpb.AttachResponse{Kind: &controlpb.AttachResponse_View{View: tc.view}})
		wantField(t, label, err, tc.field)
	}
	for _, p := range []*controlpb.AttachResponse{{}, {Kind: &controlpb.AttachResponse_Welcome{}}, {Kind: &controlpb.AttachResponse_Farewell{}}} {
		_, err := ReplicaMessageFrom(p)
		wantField(t, "about the stream", err, "kind")
	}
	_, err := ReplicaMessageFrom(&controlpb.AttachResponse{Kind: &controlpb.AttachResponse_Acknowledgement{Acknowledgement: &controlpb.Acknowledgement{Session: 1}}})
	wantField(t, "ack of nothing", err, "acknowledgement.number")
	_, err = ReplicaMessageFrom(&controlpb.AttachResponse{Kind: &controlpb.AttachResponse_Reply{}})
	wantField(t, "reply to nothing", err, "reply.requestId")
}

func TestRegistryCommands(t *testing.T) {
	for label, tc := range map[string]struct {
		have func() (*logpb.Command, error)
		want *logpb.Command
	}{
		"declare": {func() (*logpb.Command, error) {
			return DeclareScopesCommand(&controlpb.DeclareScopesRequest{RequestId: "r", Base: 7, CorrelationId: "c", Scopes: []*controlpb.ScopeSpec{
				{Id: "a", Kind: "k", Labels: map[string]string{"x": "y"}, PreferredMember: "m", Failover: controlpb.Failover_FAILOVER_FAST}}})
		}, &logpb.Command{Kind: &logpb.Command_DeclareScopes{DeclareScopes: &logpb.DeclareScopes{Scopes: []*logpb.ScopeSpec{
			{Id: "a", Kind: "k", Labels: map[string]string{"x": "y"}, PreferredMember: "m", Failover: logpb.ScopeSpec_FAILOVER_FAST}}}}}},
		"retire": {func() (*logpb.Command, error) {
			return RetireScopesCommand(&controlpb.RetireScopesRequest{RequestId: "r", Base: 7, CorrelationId: "c", Scopes: []string{"a"}})
		}, &logpb.Command{Kind: &logpb.Command_RetireScopes{RetireScopes: &logpb.RetireScopes{Scopes: []string{"a"}}}}},
		"transfer": {func() (*logpb.Command, error) {
			return TransferCommand(&controlpb.TransferRequest{RequestId: "r", Base: 7, CorrelationId: "c", Scope: "a", ToMember: "m", FenceToken: 3})
		}, &logpb.Command{Kind: &logpb.Command_Transfer{Transfer: &logpb.Transfer{Scope: "a", ToMember: "m", Fence: 3}}}},
		"cancel": {func() (*logpb.Command, error) {
			return CancelTransferCommand(&controlpb.CancelTransferRequest{RequestId: "r", Base: 7, CorrelationId: "c", Scope: "a"})
		}, &logpb.Command{Kind: &logpb.Command_CancelTransfer{CancelTransfer: &logpb.CancelTransfer{Scope: "a"}}}},
		"cordon": {func() (*logpb.Command, error) {
			return CordonCommand(&controlpb.CordonRequest{RequestId: "r", Base: 7, CorrelationId: "c", MemberId: "m", Drain: true})
		}, &logpb.Command{Kind: &logpb.Command_Cordon{Cordon: &logpb.Cordon{MemberId: "m", Cordoned: true, Drain: true}}}},
		"uncordon": {func() (*logpb.Command, error) {
			return UncordonCommand(&controlpb.UncordonRequest{RequestId: "r", Base: 7, CorrelationId: "c", MemberId: "m"})
		}, &logpb.Command{Kind: &logpb.Command_Cordon{Cordon: &logpb.Cordon{MemberId: "m"}}}},
	} {
		tc.want.RequestId, tc.want.Base, tc.want.CorrelationId = "r", 7, "c"
		got, err := tc.have()
		if err != nil || !proto.Equal(got, tc.want) {
			t.Errorf("%s: have %v, %v", label, got, err)
		}
	}
	_, err := TransferCommand(&controlpb.TransferRequest{FenceToken: 1 << 53})
	wantField(t, "transfer", err, "fenceToken")
	_, err = DeclareScopesCommand(&controlpb.DeclareScopesRequest{Scopes: make([]*controlpb.ScopeSpec, core.MaxScopesPerCmd+1)})
	wantField(t, "declare", err, "scopes")
	_, err = RetireScopesCommand(&controlpb.RetireScopesRequest{})
	wantField(t, "retire", err, "scopes")
	_, err = CordonCommand(&controlpb.CordonRequest{RequestId: "\n", MemberId: "m"})
	wantField(t, "cordon", err, "requestId")
	_, err = CordonCommand(&controlpb.CordonRequest{RequestId: "\n"})
	wantField(t, "cordon", err, "memberId")
}

func TestRegistryProto(t *testing.T) {
	spec := &logpb.ScopeSpec{Id: "a", Kind: "custom", PreferredMember: "m", Failover: logpb.ScopeSpec_FAILOVER_FAST}
	s := ScopeProto(core.ScopeStatus{Spec: spec, Led: true, Leader: token(), Ask: &core.Ask{Reason: core.AskRetire}, Retiring: true}, time.Unix(9, 0))
	if s.Id != "a" || s.Failover != controlpb.Failover_FAILOVER_FAST || s.Leader.GetFenceToken() != 42 || s.Leader.GetExpiresAt().GetSeconds() != 9 ||
		s.HandOver.GetReason() != core.AskRetire || !s.Retiring || s.Labels == nil || s.PreferredMember != "m" {
		t.Errorf("scope %v", s)
	}
	if s = ScopeProto(core.ScopeStatus{Spec: &logpb.ScopeSpec{Id: "a"}}, time.Time{}); s.Leader != nil || s.HandOver != nil || s.Failover != controlpb.Failover_FAILOVER_LEASE {
		t.Errorf("vacant scope %v", s)
	}
	x := SessionProto(core.SessionStatus{ID: 4, MemberID: "m", TTL: int64(1500 * time.Millisecond), Weight: 2, Noted: true},
		[]*logpb.Stand{{Selector: &logpb.Selector{Id: "a"}, Priority: -3}}, []string{"a", "b"})
	if x.Id != 4 || x.TtlMs != 1500 || !x.Silent || x.Stands[0].Priority != -3 || x.Stands[0].Selector.Id != "a" || len(x.Leads) != 2 || x.Labels == nil || x.Weight != 2 {
		t.Errorf("session %v", x)
	}
	r := AuditRecordOf(record())
	p := r.Proto()
	if p.Seq != 9 || p.Kind != "ELECTED" || p.PreviousHash != "ab01" || p.Hash != "cd02" || p.OccurredAt.AsTime().UnixNano() != loggedAt || p.IssuedAt.AsTime().UnixNano() != electedAt {
		t.Errorf("record %v", p)
	}
}

// FuzzAttachRequest: whatever arrives is converted or refused by field, and what was
// converted and travels again is the same.
func FuzzAttachRequest(f *testing.F) {
	for _, p := range []*controlpb.AttachRequest{
		{},
		{Kind: &controlpb.AttachRequest_KeepAlive{KeepAlive: &controlpb.KeepAliveRequest{Session: 1, Number: 2, Cursor: 3, ViewRevision: 4}}},
		{Kind: &controlpb.AttachRequest_OpenSession{OpenSession: &controlpb.OpenSessionRequest{RequestId: "r", MemberId: "m", Ttl: durationpb.New(time.Second),
			Stands: []*controlpb.Wish{{Selector: &controlpb.Selector{Kind: "shard", Labels: map[string]string{"a": "b"}}, Priority: 5}}}}},
		{Kind: &controlpb.AttachRequest_CloseSession{CloseSession: &controlpb.CloseSessionRequest{RequestId: "r", Session: 1}}},
		{Kind: &controlpb.AttachRequest_Stand{Stand: &controlpb.StandRequest{RequestId: "r", Session: 1, Selector: &controlpb.Selector{Id: "a/b"}, Number: 1}}},
		{Kind: &controlpb.AttachRequest_Withdraw{Withdraw: &controlpb.WithdrawRequest{RequestId: "r", Session: 1, Selector: &controlpb.Selector{}}}},
		{Kind: &controlpb.AttachRequest_Resign{Resign: &controlpb.ResignRequest{RequestId: "r", Session: 1, Scope: "a", FenceToken: 1}}},
	} {
		data, err := proto.Marshal(p)
		if err != nil {
			f.Fatal(err)
		}
		f.Add(data)
	}
	f.Fuzz(func(t *testing.T, data []byte) {
		p := &controlpb.AttachRequest{}
		if proto.Unmarshal(data, p) != nil {
			return
		}
		m, err := MemberMessageOf(p)
		if err != nil {
			var e *FieldError
			if !errors.As(err, &e) || e.Field == "" {
				t.Fatalf("error without a field: %v", err)
			}
			return
		}
		again, err := AttachRequestOf(m)
		if err != nil {
			t.Fatal(err)
		}
		back, err := MemberMessageOf(again)
		if err != nil {
			t.Fatalf("taken once, then refused: %v", err)
		}
		if m.Keepalive != nil && !reflect.DeepEqual(m, back) || !proto.Equal(m.Command, back.Command) {
			t.Fatalf("have %v\nwant %v", back, m)
		}
		if m.Command != nil {
			if err := core.CompleteCommand(m.Command); err == nil {
				_ = core.ValidateCommand(m.Command) // must not panic
			}
		}
	})
}

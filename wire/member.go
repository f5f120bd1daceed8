package wire

import (
	"fmt"
	"time"

	"google.golang.org/protobuf/types/known/durationpb"

	"github.com/omnirelay/leadership/core"
	"github.com/omnirelay/leadership/core/logpb"
	"github.com/omnirelay/leadership/wire/controlpb"
)

// The messages of an Attach stream, both ways and for both ends. Every error is a
// *FieldError.

// MemberMessageOf converts what a member sent. A command has an id, but no actor yet.
func MemberMessageOf(p *controlpb.AttachRequest) (core.MemberMessage, error) {
	if k := p.GetKeepAlive(); k != nil {
		keepalive, err := KeepaliveOf(k)
		return core.MemberMessage{Keepalive: keepalive}, err
	}
	var c *logpb.Command
	var err error
	switch k := p.GetKind().(type) {
	case *controlpb.AttachRequest_OpenSession:
		c, err = OpenSessionCommand(k.OpenSession)
	case *controlpb.AttachRequest_CloseSession:
		c, err = CloseSessionCommand(k.CloseSession)
	case *controlpb.AttachRequest_Stand:
		c, err = StandCommand(k.Stand)
	case *controlpb.AttachRequest_Withdraw:
		c, err = WithdrawCommand(k.Withdraw)
	case *controlpb.AttachRequest_Resign:
		c, err = ResignCommand(k.Resign)
	default:
		err = malformed("kind", "is unset or of a newer version, want keepAlive, openSession, closeSession, stand, withdraw or resign")
	}
	if err != nil {
		return core.MemberMessage{}, err
	}
	if c.RequestId == "" {
		return core.MemberMessage{}, malformed("requestId", "is empty; its reply could not be told from others")
	}
	return core.MemberMessage{Command: c}, nil
}

// RequestIDOf is the id of the request in p, empty for keepalives.
func RequestIDOf(p *controlpb.AttachRequest) string {
	for _, r := range []request{p.GetOpenSession(), p.GetCloseSession(), p.GetStand(), p.GetWithdraw(), p.GetResign()} {
		if id := r.GetRequestId(); id != "" {
			return id
		}
	}
	return ""
}

// KeepaliveOf converts a keepalive.
func KeepaliveOf(k *controlpb.KeepAliveRequest) (*core.Keepalive, error) {
	for _, err := range []error{
		checkPositive("session", k.GetSession()), checkPositive("number", k.GetNumber()),
		checkNumber("cursor", k.GetCursor()), checkNumber("viewRevision", k.GetViewRevision()),
	} {
		if err != nil {
			return nil, err
		}
	}
	claims, err := claimsOf(k.GetClaims())
	if err != nil {
		return nil, err
	}
	return &core.Keepalive{Session: core.SessionID(k.GetSession()), Number: k.GetNumber(), Cursor: k.GetCursor(),
		ViewRevision: k.GetViewRevision(), Claims: claims}, nil
}

// KeepAliveProto converts a keepalive for the public API.
func KeepAliveProto(k *core.Keepalive) *controlpb.KeepAliveRequest {
	return &controlpb.KeepAliveRequest{Session: uint64(k.Session), Number: k.Number, Cursor: k.Cursor,
		ViewRevision: k.ViewRevision, Claims: claimsProto(k.Claims)}
}

// AttachRequestOf converts what core's member says, for the member's end. The actor of
// a command does not travel: the node knows the caller.
func AttachRequestOf(m core.MemberMessage) (*controlpb.AttachRequest, error) {
	if m.Keepalive != nil {
		return &controlpb.AttachRequest{Kind: &controlpb.AttachRequest_KeepAlive{KeepAlive: KeepAliveProto(m.Keepalive)}}, nil
	}
	c := m.Command
	switch k := c.GetKind().(type) {
	case *logpb.Command_OpenSession:
		return &controlpb.AttachRequest{Kind: &controlpb.AttachRequest_OpenSession{OpenSession: openSessionProto(c, k.OpenSession)}}, nil
	case *logpb.Command_CloseSession:
		return &controlpb.AttachRequest{Kind: &controlpb.AttachRequest_CloseSession{CloseSession: &controlpb.CloseSessionRequest{
			RequestId: c.RequestId, CorrelationId: c.CorrelationId, Base: c.Base, Session: k.CloseSession.GetSession()}}}, nil
	case *logpb.Command_Stand:
		s := k.Stand
		return &controlpb.AttachRequest{Kind: &controlpb.AttachRequest_Stand{Stand: &controlpb.StandRequest{
			RequestId: c.RequestId, CorrelationId: c.CorrelationId, Base: c.Base, Session: s.GetSession(),
			Selector: SelectorProto(s.GetSelector()), Priority: s.GetPriority(), Number: s.GetNumber()}}}, nil
	case *logpb.Command_Withdraw:
		w := k.Withdraw
		return &controlpb.AttachRequest{Kind: &controlpb.AttachRequest_Withdraw{Withdraw: &controlpb.WithdrawRequest{
			RequestId: c.RequestId, CorrelationId: c.CorrelationId, Base: c.Base, Session: w.GetSession(),
			Selector: SelectorProto(w.GetSelector()), Number: w.GetNumber()}}}, nil
	case *logpb.Command_Resign:
		r := k.Resign
		return &controlpb.AttachRequest{Kind: &controlpb.AttachRequest_Resign{Resign: &controlpb.ResignRequest{
			RequestId: c.RequestId, CorrelationId: c.CorrelationId, Base: c.Base, Session: r.GetSession(),
			Scope: r.GetScope(), FenceToken: r.GetFence()}}}, nil
	}
	return nil, malformed("kind", "%T is not what members send", c.GetKind())
}

func openSessionProto(c *logpb.Command, o *logpb.OpenSession) *controlpb.OpenSessionRequest {
	p := &controlpb.OpenSessionRequest{RequestId: c.RequestId, CorrelationId: c.CorrelationId, Base: c.Base, MemberId: o.GetMemberId(),
		Labels: o.GetLabels(), Ttl: durationpb.New(time.Duration(o.GetTtlNs())), Replaces: o.GetReplaces()}
	if o.GetWeight() > 0 {
		p.Weight = &o.Weight
	}
	for _, s := range o.GetStands() {
		p.Stands = append(p.Stands, WishProto(s))
	}
	return p
}

// AttachResponseOf converts what a replica tells a member.
func AttachResponseOf(m core.ReplicaMessage) *controlpb.AttachResponse {
	switch {
	case m.Ack != nil:
		return &controlpb.AttachResponse{Kind: &controlpb.AttachResponse_Acknowledgement{
			Acknowledgement: &controlpb.Acknowledgement{Session: uint64(m.Ack.Session), Number: m.Ack.Number}}}
	case m.View != nil:
		return &controlpb.AttachResponse{Kind: &controlpb.AttachResponse_View{View: SessionViewProto(m.View)}}
	case m.Reply != nil:
		return &controlpb.AttachResponse{Kind: &controlpb.AttachResponse_Reply{Reply: ReplyProto(m.Reply)}}
	}
	return &controlpb.AttachResponse{}
}

// ReplyProto converts an answer, with a hint when to come back where that helps.
func ReplyProto(r *core.Reply) *controlpb.Reply {
	result := r.Result
	p := &controlpb.Reply{RequestId: r.RequestID, Code: result.GetCode(), Message: result.GetMessage(), Field: result.GetField(),
		Revision: result.GetRevision(), Session: result.GetSession()}
	if after, passes := RetryAfter(core.Code(result.GetCode())); passes {
		p.RetryAfter = durationpb.New(after)
	}
	return p
}

// SessionViewProto converts what a session leads.
func SessionViewProto(v *core.View) *controlpb.SessionView {
	p := &controlpb.SessionView{Session: uint64(v.Session), Revision: v.Revision, Live: v.Live}
	for _, g := range v.Grants {
		token := TokenOf(g.Token, time.Time{})
		p.Grants = append(p.Grants, &controlpb.Grant{Token: token.Proto(), HandOver: handOverProto(g.Ask), FastFailover: g.Failover == core.FailoverFast})
	}
	return p
}

func handOverProto(a *core.Ask) *controlpb.HandOver {
	if a == nil {
		return nil
	}
	return &controlpb.HandOver{Reason: a.Reason, ToMember: a.To, CorrelationId: a.CorrelationID}
}

// ReplicaMessageFrom converts what a node sent, for the member's end. A Welcome and a
// Farewell are about the stream and have no counterpart in core: look for them first.
func ReplicaMessageFrom(p *controlpb.AttachResponse) (core.ReplicaMessage, error) {
	switch k := p.GetKind().(type) {
	case *controlpb.AttachResponse_Acknowledgement:
		a := k.Acknowledgement
		if err := checkKeepalive("acknowledgement", core.SessionID(a.GetSession()), a.GetNumber()); err != nil {
			return core.ReplicaMessage{}, err
		}
		return core.ReplicaMessage{Ack: &core.Ack{Session: core.SessionID(a.GetSession()), Number: a.GetNumber()}}, nil
	case *controlpb.AttachResponse_View:
		v, err := SessionViewFrom(k.View)
		return core.ReplicaMessage{View: v}, err
	case *controlpb.AttachResponse_Reply:
		r := k.Reply
		if r.GetRequestId() == "" {
			return core.ReplicaMessage{}, malformed("reply.requestId", "is empty")
		}
		return core.ReplicaMessage{Reply: &core.Reply{RequestID: r.GetRequestId(), Result: &core.Result{
			Code: r.GetCode(), Message: r.GetMessage(), Field: r.GetField(), Revision: r.GetRevision(), Session: r.GetSession()}}}, nil
	}
	return core.ReplicaMessage{}, malformed("kind", "is unset or of a newer version, want acknowledgement, view or reply")
}

// SessionViewFrom converts what a node says that a session leads.
func SessionViewFrom(p *controlpb.SessionView) (*core.View, error) {
	if err := checkPositive("view.session", p.GetSession()); err != nil {
		return nil, err
	}
	v := &core.View{Session: core.SessionID(p.GetSession()), Revision: p.GetRevision(), Live: p.GetLive()}
	if !v.Live && len(p.GetGrants()) > 0 {
		return nil, malformed("view.grants", "are %d of a session that has ended", len(p.GetGrants()))
	}
	for i, g := range p.GetGrants() {
		grant, err := grantFrom(fmt.Sprintf("view.grants[%d]", i), g, v.Session)
		if err != nil {
			return nil, err
		}
		if n := len(v.Grants); n > 0 && v.Grants[n-1].Scope >= grant.Scope {
			return nil, malformed(fmt.Sprintf("view.grants[%d].token.scope", i), "%q is not behind the one before it", grant.Scope)
		}
		v.Grants = append(v.Grants, grant)
	}
	return v, nil
}

func grantFrom(field string, p *controlpb.Grant, session core.SessionID) (core.Grant, error) {
	t := p.GetToken()
	if err := core.ParseScopeID(t.GetScope()); err != nil {
		return core.Grant{}, malformed(field+".token.scope", "%v", err)
	}
	if t.GetTerm() < 1 {
		return core.Grant{}, malformed(field+".token.term", "is %d, want 1 or more", t.GetTerm())
	}
	if t.GetFenceToken() < 1 {
		return core.Grant{}, malformed(field+".token.fenceToken", "is %d, want 1 or more", t.GetFenceToken())
	}
	issued, err := fromTimestamp(field+".token.issuedAt", t.GetIssuedAt())
	if err != nil {
		return core.Grant{}, err
	}
	g := core.Grant{Token: core.Token{Scope: t.GetScope(), ScopeKind: t.GetScopeKind(), LeaderID: t.GetLeaderId(), Session: session,
		Term: uint64(t.GetTerm()), Fence: uint64(t.GetFenceToken()), Labels: t.GetLabels()}}
	if !issued.IsZero() {
		g.IssuedAtWall = issued.UnixNano()
	}
	if p.GetFastFailover() {
		g.Failover = core.FailoverFast
	}
	if h := p.GetHandOver(); h != nil {
		g.Ask = &core.Ask{Reason: h.GetReason(), To: h.GetToMember(), CorrelationID: h.GetCorrelationId()}
	}
	return g, nil
}

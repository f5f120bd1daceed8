package api

import (
	"context"
	"errors"
	"fmt"
	"io"
	"time"

	"golang.org/x/time/rate"
	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"

	"github.com/omnirelay/leadership/adapters/access"
	"github.com/omnirelay/leadership/core"
	"github.com/omnirelay/leadership/core/logpb"
	"github.com/omnirelay/leadership/wire"
	"github.com/omnirelay/leadership/wire/controlpb"
)

// Limits of one Attach stream.
const (
	// MaxStreamSessions bounds the live sessions of one stream.
	MaxStreamSessions = 8
	// MaxStreamCommands bounds the requests of one stream that have no reply yet.
	MaxStreamCommands = 64
	// MaxStreamMessages bounds the messages of one stream in a second: what eight
	// sessions of the shortest TTL send, with some room for requests.
	MaxStreamMessages = 500
	// MaxMemberStreams bounds the streams of one member to this node. More than one is
	// of use while a member moves, or runs as several processes.
	MaxMemberStreams = 8
)

type memberStream = grpc.BidiStreamingServer[controlpb.AttachRequest, controlpb.AttachResponse]

// attached is one Attach stream. One goroutine receives, one sends, and the call's own
// watches over both.
type attached struct {
	service *Service
	stream  memberStream
	caller  access.Caller
	at      Attachment
	allowed *rate.Limiter
	outbox
}

// Attach serves a member until it leaves, stops reading, breaks a limit, or the node
// stops.
func (s *Service) Attach(stream memberStream) error {
	caller, err := member(stream.Context())
	if err != nil {
		return err
	}
	select {
	case <-s.closing:
		return errClosing
	default:
	}
	a := &attached{service: s, stream: stream, caller: caller, outbox: newOutbox(),
		allowed: rate.NewLimiter(MaxStreamMessages, MaxStreamMessages)}
	if err := s.members.enter(caller.Member); err != nil {
		return err
	}
	defer s.members.leave(caller.Member)
	if a.at, err = s.o.Attach(a.deliver); err != nil {
		return err
	}
	defer a.close()
	defer a.at.Detach()
	logger := s.o.Logger.With("caller", caller.Name, "member", caller.Member, "protocol", s.o.Protocol(stream.Context()))
	logger.Info("member attached")
	err = a.run()
	var broken *brokenOff
	if errors.As(err, &broken) {
		a.at.Break() // before Detach, which then does nothing
		logger.Info("member broke off", "cause", err)
		return broken.cause
	}
	logger.Info("member detached", "cause", err)
	return err
}

// brokenOff ends a stream that neither side wished to end: the member may be gone. One that
// goes elsewhere without a word looks the same, and is heard of from there at once.
type brokenOff struct{ cause error }

func (b *brokenOff) Error() string { return b.cause.Error() }

// endedBy is how a stream ended on the member's side or on the way there.
func (a *attached) endedBy(err error) error {
	select {
	case <-a.service.closing:
		return err // by this node's server
	default:
	}
	var cut *core.Error // by this node, since the member does not read
	if errors.As(err, &cut) || errors.Is(err, io.EOF) || errors.Is(err, context.DeadlineExceeded) || status.Code(err) == codes.DeadlineExceeded {
		return err
	}
	return &brokenOff{err}
}

// run sends what there is and waits for more.
func (a *attached) run() error {
	s, ctx := a.service, a.stream.Context()
	sender := newSender(a.stream)
	defer sender.stop()
	if err := sender.send(a.welcome(ctx), s.o.WriteTimeout); err != nil {
		return a.endedBy(err)
	}
	received := make(chan error, 1)
	go func() {
		defer func() {
			if what := recover(); what != nil { // or one caller could end the node
				received <- fmt.Errorf("receiving panicked: %v", what)
			}
		}()
		received <- a.receive()
	}()
	check := time.NewTicker(s.o.Window / 4)
	defer check.Stop()
	expiry, stop := expiryOf(a.caller)
	defer stop()
	var last <-chan time.Time // set when the member will send no more
	silent := 0               // checks in a row at which the node could not vouch for its copy
	for {
		if until := a.caller.Expires; !until.IsZero() && !time.Now().Before(until) {
			return errExpired
		}
		if batch := a.take(); len(batch) > 0 {
			if err := sender.send(batch, s.o.WriteTimeout); err != nil {
				return a.endedBy(err)
			}
			continue
		}
		if last != nil && a.underWayCount() == 0 {
			return nil
		}
		select {
		case <-a.wake:
		case err := <-received:
			if !errors.Is(err, io.EOF) {
				_ = sender.send(a.take(), s.o.WriteTimeout) // what led to it, as far as it is read
				return err
			}
			timer := time.NewTimer(s.o.Window)
			defer timer.Stop()
			last = timer.C
		case <-last:
			return nil
		case <-check.C:
			if silent++; a.vouched() {
				silent = 0
			}
			if silent == 2 {
				return a.farewell(sender, "this node has lost touch with the others")
			}
		case <-expiry:
			return errExpired
		case <-s.closing:
			return a.farewell(sender, "this node is shutting down")
		case <-ctx.Done():
			return a.endedBy(ctx.Err())
		}
	}
}

// errExpired ends what rests on a credential that has ended.
var errExpired = &access.Denied{Unauthenticated: true, Want: "a credential that is still good", Have: "an expired one",
	Message: "the credential of this stream has expired; attach again with a new one"}

// expiryOf fires when the caller's credential ends.
func expiryOf(c access.Caller) (<-chan time.Time, func()) {
	if c.Expires.IsZero() {
		return nil, func() {}
	}
	timer := time.NewTimer(time.Until(c.Expires))
	return timer.C, func() { timer.Stop() }
}

func (a *attached) vouched() (ready bool) {
	a.service.o.Source.View(func(_ *core.Registry, st core.Status) { ready = st.Ready })
	return ready
}

func (a *attached) welcome(ctx context.Context) []*controlpb.AttachResponse {
	o := &a.service.o
	w := &controlpb.Welcome{NodeId: o.NodeID, ClusterId: o.Cluster, Transport: o.Protocol(ctx), ClockDriftPermille: uint32(o.Epsilon)}
	o.Source.View(func(g *core.Registry, _ core.Status) { w.Revision = g.Revision() })
	return []*controlpb.AttachResponse{{Kind: &controlpb.AttachResponse_Welcome{Welcome: w}}}
}

// farewell tells where else to go, with what was still to be told, and ends the stream.
func (a *attached) farewell(sender *sender, reason string) error {
	batch := append(a.take(), &controlpb.AttachResponse{Kind: &controlpb.AttachResponse_Farewell{
		Farewell: &controlpb.Farewell{Reason: reason, Others: a.service.o.Others()}}})
	if err := sender.send(batch, a.service.o.WriteTimeout); err != nil {
		return err
	}
	return &core.Error{Code: core.CodeUnavailable, Message: reason + "; attach to another"}
}

// receive takes what the member sends until the stream ends or breaks a rule.
func (a *attached) receive() error {
	for {
		p, err := a.stream.Recv()
		if err != nil {
			return a.endedBy(err)
		}
		if !a.allowed.Allow() {
			return &core.Error{Code: core.CodeOverloaded, Message: fmt.Sprintf("more than %d messages in a second; a keepalive is due every fifth of a TTL", MaxStreamMessages)}
		}
		if err := a.message(p); err != nil {
			return err
		}
	}
}

// message takes one message. An error ends the stream; a request that is refused is
// answered instead.
func (a *attached) message(p *controlpb.AttachRequest) error {
	m, err := wire.MemberMessageOf(p)
	id := wire.RequestIDOf(p)
	switch {
	case err != nil && (id == "" || len(id) > wire.MaxRequestID):
		return asked(err)
	case err != nil:
		return a.refuse(id, asked(err))
	case m.Keepalive != nil:
		return a.keepalive(m.Keepalive)
	}
	if err := a.allow(m.Command); err != nil {
		return a.refuse(id, err)
	}
	if err := a.mayAsk(m.Command); err != nil {
		return a.refuse(id, err)
	}
	return a.command(id, m.Command)
}

// allow counts a request as one of its caller. Who gives up what it was asked for is not
// held up: nobody leads the scope until it has been heard, and there are no more such
// requests than the registry made.
func (a *attached) allow(c *logpb.Command) error {
	if r := c.GetResign(); r != nil && a.askedFor(r) {
		return nil
	}
	return a.service.o.Allow(a.caller)
}

// askedFor reports whether the registry has asked the holder for what r gives up.
func (a *attached) askedFor(r *logpb.Resign) (asked bool) {
	a.service.o.Source.View(func(g *core.Registry, _ core.Status) {
		sc, there := g.Scope(r.Scope)
		asked = there && sc.Led && sc.Ask != nil && uint64(sc.Leader.Session) == r.Session && sc.Leader.Fence == r.Fence
	})
	return asked
}

// keepalive passes one on, for a session of the caller's.
func (a *attached) keepalive(k *core.Keepalive) error {
	if !a.has(k.Session) {
		passed, err := a.admit(k)
		if !passed {
			return err
		}
	}
	a.at.Send(core.MemberMessage{Keepalive: k}) // what is dropped comes again
	return nil
}

// admit looks at a session that is new to this stream. passed is false when its
// keepalive is not to be passed on; with an error the stream ends.
func (a *attached) admit(k *core.Keepalive) (passed bool, err error) {
	st := a.service.session(k.Session)
	switch {
	case !st.known:
		return false, nil // this copy is behind; the member tells it again
	case st.ended() && st.revision >= k.Cursor:
		// Told from here: to the replica every attachment is a place taken.
		a.deliver(core.ReplicaMessage{View: &core.View{Session: k.Session, Revision: st.revision}})
		return false, nil
	case !st.live:
		return false, nil
	}
	if err := a.service.actAs(a.caller, st.status.MemberID); err != nil {
		return false, err
	}
	release, err := a.service.o.Session(st.status.MemberID)
	if err != nil {
		return false, err
	}
	if !a.add(k.Session, release) {
		release()
		return false, &core.Error{Code: core.CodeLimit, Field: "session", Message: fmt.Sprintf("more than %d sessions on one stream; open another", MaxStreamSessions)}
	}
	return true, nil
}

// mayAsk holds a request against the caller, as the unary calls do. Only here nothing
// waits for a copy that is behind: other messages would wait behind it.
func (a *attached) mayAsk(c *logpb.Command) error {
	s := a.service
	if open := c.GetOpenSession(); open != nil {
		if err := s.mayOpen(a.caller, open); err != nil {
			return err
		}
		return s.room(a.caller, c)
	}
	if stand := c.GetStand(); stand != nil {
		if err := mayStand(a.caller, stand); err != nil {
			return err
		}
	}
	id := sessionOf(c)
	st := s.session(id)
	if !st.known {
		return &core.Error{Code: core.CodeUnavailable, Field: "session", Message: fmt.Sprintf("this node has not heard of session %d yet; ask again, or another node", id)}
	}
	if !st.live {
		return st.doubt // if there is none, nothing can come of it but the reply to a retry
	}
	return s.actAs(a.caller, st.status.MemberID)
}

func sessionOf(c *logpb.Command) core.SessionID {
	for _, k := range []interface{ GetSession() uint64 }{c.GetCloseSession(), c.GetStand(), c.GetWithdraw(), c.GetResign()} {
		if id := k.GetSession(); id != 0 {
			return core.SessionID(id)
		}
	}
	return 0
}

// command passes a request on, once while it is under way.
func (a *attached) command(id string, c *logpb.Command) error {
	if !a.begin(id) {
		return a.refuse(id, &core.Error{Code: core.CodeOverloaded, Message: fmt.Sprintf("%d requests of this stream have no reply yet; nothing was done, retry later", MaxStreamCommands)})
	}
	a.service.complete(c, a.caller)
	if a.at.Send(core.MemberMessage{Command: c}) {
		return nil
	}
	a.end(id)
	return a.refuse(id, &core.Error{Code: core.CodeOverloaded, Message: "too much is waiting on this node; nothing was done, retry later"})
}

// refuse answers a request from here.
func (a *attached) refuse(id string, err error) error {
	result := &core.Result{Code: string(core.CodeUnavailable), Message: err.Error()}
	var denied *access.Denied
	var exceeded *access.Exceeded
	var refused *core.Error
	switch {
	case errors.As(err, &refused):
		result.Code, result.Field, result.Message = string(refused.Code), refused.Field, refused.Message
	case errors.As(err, &denied):
		result.Code, result.Message = denied.Reason(), denied.Message
	case errors.As(err, &exceeded):
		result.Code = string(core.CodeOverloaded)
	}
	a.service.o.Source.View(func(g *core.Registry, _ core.Status) { result.Revision = g.Revision() })
	return a.reply(&core.Reply{RequestID: id, Result: result})
}

// deliver takes what the replica says. It is called on the node's loop.
func (a *attached) deliver(m core.ReplicaMessage) {
	if m.Reply != nil {
		id := ownID(m.Reply.RequestID)
		a.end(id)
		_ = a.reply(&core.Reply{RequestID: id, Result: m.Reply.Result}) // as many as were let through
		return
	}
	a.put(m)
}

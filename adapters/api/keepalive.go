package api

import (
	"context"
	"fmt"
	"time"

	"google.golang.org/protobuf/types/known/durationpb"

	"github.com/omnirelay/leadership/core"
	"github.com/omnirelay/leadership/wire"
	"github.com/omnirelay/leadership/wire/controlpb"
)

// minRepeat is the shortest pause between two tellings of one keepalive.
const minRepeat = 20 * time.Millisecond

// KeepAlive renews a session once, over an attachment that lives for this call. It may
// be mixed with a stream of the same session: each gets the acknowledgements of what it
// sent itself, and their numbers are counted together.
func (s *Service) KeepAlive(ctx context.Context, r *controlpb.KeepAliveRequest) (*controlpb.KeepAliveResponse, error) {
	ctx, cancel := s.bounded(ctx)
	defer cancel()
	caller, err := member(ctx)
	if err != nil {
		return nil, err
	}
	k, err := wire.KeepaliveOf(r)
	if err != nil {
		return nil, asked(err)
	}
	st, err := s.use(ctx, caller, k.Session)
	if err != nil {
		return nil, err
	}
	if !st.live {
		return nil, sessionEnded(k.Session)
	}
	ttl := time.Duration(st.status.TTL)
	// Half the TTL: whoever waited in vain has time for another try. And less than the
	// window, so that this is the reason that is told.
	ctx, stop := context.WithTimeoutCause(ctx, min(ttl/2, s.o.Window*9/10), &core.Error{Code: core.CodeUnavailable, Message: fmt.Sprintf(
		"keepalive %d was not acknowledged in time: no registrar can be reached, this node is behind, or a number as high was counted before; try again with a higher one", k.Number)})
	defer stop()
	if err := s.renew(ctx, k, ttl); err != nil {
		return nil, outcome(ctx, err)
	}
	view, err := s.viewFor(ctx, k)
	if err != nil {
		return nil, outcome(ctx, err)
	}
	return &controlpb.KeepAliveResponse{Session: r.GetSession(), Number: k.Number, Lease: durationpb.New(s.o.Epsilon.Shrink(ttl)), View: view}, nil
}

// renew tells the keepalive until it is acknowledged. To tell it again does no harm: it
// counts once, and the member counts its lease from before it called.
func (s *Service) renew(ctx context.Context, k *core.Keepalive, ttl time.Duration) error {
	acked := make(chan struct{}, 1)
	at, err := s.o.Attach(func(m core.ReplicaMessage) {
		if m.Ack != nil && m.Ack.Session == k.Session && m.Ack.Number == k.Number {
			select {
			case acked <- struct{}{}:
			default:
			}
		}
	})
	if err != nil {
		return err
	}
	defer at.Detach()
	again := time.NewTicker(max(minRepeat, ttl/10))
	defer again.Stop()
	at.Send(core.MemberMessage{Keepalive: k}) // if it is dropped, it is told again below
	for {
		changed := s.o.Source.Changed()
		if st := s.session(k.Session); st.ended() {
			return sessionEnded(k.Session)
		}
		select {
		case <-acked:
			return nil
		case <-changed:
		case <-again.C:
			at.Send(core.MemberMessage{Keepalive: k})
		case <-s.closing:
			return errClosing
		case <-ctx.Done():
			return ctx.Err()
		}
	}
}

// viewFor is what the session leads, once this copy holds all that the member has seen;
// nil when nothing changed since the view that the member has.
func (s *Service) viewFor(ctx context.Context, k *core.Keepalive) (*controlpb.SessionView, error) {
	for {
		changed := s.o.Source.Changed()
		view, current := s.look(k)
		switch {
		case current && view == nil:
			return nil, nil
		case current && !view.Live:
			return nil, sessionEnded(k.Session)
		case current:
			return wire.SessionViewProto(view), nil
		}
		select {
		case <-changed:
		case <-ctx.Done():
			return nil, ctx.Err()
		}
	}
}

// look reads the session's view if it is news; current is false while the copy is behind
// the member, or cannot be vouched for.
func (s *Service) look(k *core.Keepalive) (view *core.View, current bool) {
	s.o.Source.View(func(g *core.Registry, st core.Status) {
		if current = st.Ready && g.Revision() >= k.Cursor; !current {
			return
		}
		if session, live := g.Session(k.Session); !live || session.ChangedAt > k.ViewRevision {
			view, _ = g.View(k.Session)
		}
	})
	return view, current
}

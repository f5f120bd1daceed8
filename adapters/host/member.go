package host

import (
	"context"
	"fmt"
	"time"

	"github.com/omnirelay/leadership/core"
)

// tickMember lets the own member say what is due, to the own replica.
func (h *Host) tickMember() {
	h.memberMu.Lock()
	defer h.memberMu.Unlock()
	if h.member == nil {
		return
	}
	h.member.Tick(h.clock.Now())
	h.flushMember()
}

// followMember passes on what the replica's answers made the member say.
func (h *Host) followMember() {
	h.memberMu.Lock()
	defer h.memberMu.Unlock()
	if h.member != nil {
		h.flushMember()
	}
}

func (h *Host) flushMember() {
	out := h.member.TakeOutput()
	for _, m := range out.Messages {
		if m.Keepalive != nil && h.o.OnKeepalive != nil {
			h.o.OnKeepalive(false)
		}
		h.inbox.offer(core.Input{Member: &core.MemberInput{Conn: ownConn, Message: m}})
	}
	for _, c := range out.Changes {
		h.logChange(c)
		if h.o.OnMember != nil {
			h.o.OnMember(c)
		}
	}
}

func (h *Host) logChange(c core.MemberChange) {
	switch c.Kind {
	case core.ChangeSessionOpened:
		h.logger.Info("session opened", "session", uint64(c.Session))
	case core.ChangeSessionLost:
		h.logger.Warn("session lost", "session", uint64(c.Session), "reason", c.Reason)
	case core.ChangeRefused:
		h.logger.Warn("the registry refused this member", "reason", c.Reason)
	default:
		h.logger.Debug("grant changed", "kind", int(c.Kind), "scope", c.Token.Scope, "fence", c.Token.Fence, "reason", c.Reason)
	}
}

func (h *Host) stepMember(msg core.ReplicaMessage) {
	h.memberMu.Lock()
	defer h.memberMu.Unlock()
	if msg.Ack != nil && h.o.OnKeepalive != nil {
		h.o.OnKeepalive(true)
	}
	if h.member != nil {
		h.member.Step(h.clock.Now(), msg)
	}
}

// closeMember stops acting, closes the session and waits until that is in the log. It
// does not wait for a registry that cannot be reached longer than the leases last:
// afterwards nobody waits for this member.
func (h *Host) closeMember(ctx context.Context) error {
	worth := h.worthWaiting()
	h.memberMu.Lock()
	if h.member != nil {
		h.member.Close()
	}
	h.memberMu.Unlock()
	h.inbox.poke()
	for {
		changed := h.Changed()
		h.memberMu.Lock()
		closed := h.member == nil || h.member.Closed()
		h.memberMu.Unlock()
		if closed {
			return nil
		}
		if reason := h.notReady(); reason != "" && h.clock.Now() >= worth {
			return fmt.Errorf("closing the session: %s", reason)
		}
		select {
		case <-changed:
		case <-time.After(h.o.Evaluation):
		case <-h.done:
			return errStopped
		case <-ctx.Done():
			return fmt.Errorf("closing the session: %w; its scopes are led anew when it expires", ctx.Err())
		}
	}
}

// worthWaiting is until when a hand-over is of use: while the member's lease lasts, and
// as long as a registrar may take to be replaced.
func (h *Host) worthWaiting() core.Time {
	now, held := h.Held()
	until := now.Add(2 * h.o.Core.ElectionTimeout)
	for _, x := range held {
		until = max(until, x.Until)
	}
	return until
}

// notReady is why the replica cannot vouch for its copy, empty when it can.
func (h *Host) notReady() (reason string) {
	h.View(func(_ *core.Registry, s core.Status) { reason = s.NotReadyReason })
	return reason
}

// MemberID is the id of the process's own member, empty when it has none.
func (h *Host) MemberID() string {
	if h.o.Member == nil {
		return ""
	}
	return h.o.Member.MemberID
}

// Holds returns the token under which this process's member leads the scope at
// this moment. It reads the clock: ask it before every action, and act at once.
func (h *Host) Holds(scope string) (core.Token, bool) {
	h.memberMu.Lock()
	defer h.memberMu.Unlock()
	if h.member == nil {
		return core.Token{}, false
	}
	return h.member.Holds(scope, h.clock.Now())
}

// Held lists what the member believes it leads at this moment, and the reading of
// this process's clock that it was asked with.
func (h *Host) Held() (now core.Time, held []core.Holding) {
	h.memberMu.Lock()
	defer h.memberMu.Unlock()
	now = h.clock.Now()
	if h.member == nil {
		return now, nil
	}
	return now, h.member.Held(now)
}

// GiveUp ends a grant of the own member; see core.Member.GiveUp.
func (h *Host) GiveUp(scope string, fence uint64) {
	h.memberMu.Lock()
	if h.member != nil {
		h.member.GiveUp(scope, fence)
	}
	h.memberMu.Unlock()
	h.inbox.poke()
}

package client

import (
	"slices"
	"time"

	"google.golang.org/protobuf/proto"

	"github.com/omnirelay/leadership/core"
	"github.com/omnirelay/leadership/core/logpb"
	"github.com/omnirelay/leadership/wire"
)

// evaluation bounds how long the loop sleeps, and so how late it notices that the
// machine was suspended.
const evaluation = 250 * time.Millisecond

// loop owns the passing of time for the member, until the client stops.
func (c *Client) loop() {
	timer := time.NewTimer(0)
	defer timer.Stop()
	for {
		select {
		case <-c.ctx.Done():
			return
		case <-c.wake:
		case <-timer.C:
		}
		timer.Reset(c.turn())
	}
}

// turn does what is due, and returns how long nothing will be.
func (c *Client) turn() time.Duration {
	c.mu.Lock()
	defer c.mu.Unlock()
	now := c.clock.Now()
	c.member.Tick(now)
	c.flush(now)
	next := min(c.member.Deadline(), c.endLapsed(now), c.tendPosts(now), c.watchLink(now))
	if c.closing && c.member.Closed() {
		select {
		case <-c.closed:
		default:
			close(c.closed)
		}
	}
	return max(0, min(next.Sub(now), evaluation))
}

// flush hands out what the member said, and tells what changed. mu is held.
func (c *Client) flush(now core.Time) {
	out := c.member.TakeOutput()
	if held := c.member.Held(now); len(held) > 0 {
		c.until.Store(int64(held[0].Until) - int64(c.o.Margin))
	}
	for _, m := range out.Messages {
		c.send(now, m)
	}
	for _, change := range out.Changes {
		c.changed(now, change)
	}
}

// send gives a message to the node that the client is attached to. Without one it is
// dropped: what matters is said again.
func (c *Client) send(now core.Time, m core.MemberMessage) {
	if c.link == nil {
		return
	}
	if s := m.Command.GetStand(); s != nil {
		c.asked[m.Command.GetRequestId()] = s.GetSelector()
	}
	p, err := wire.AttachRequestOf(m)
	if err != nil {
		panic(err) // the member says nothing else
	}
	c.link.send(p, now.Add(c.urgent(c.link.patience, answerWithin)))
}

// receive takes what a node said.
func (c *Client) receive(l *link, m core.ReplicaMessage) {
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.link != l {
		return
	}
	now := c.clock.Now()
	if m.Ack != nil || m.Reply != nil {
		l.heard()
	}
	if m.Reply != nil {
		c.replied(l, m.Reply)
	}
	c.member.Step(now, m)
	c.flush(now)
	c.poke()
}

// replied looks for refusals that no repetition changes, and for nodes that cannot
// serve.
func (c *Client) replied(l *link, r *core.Reply) {
	sel := c.asked[r.RequestID]
	delete(c.asked, r.RequestID)
	switch code := core.Code(r.Result.GetCode()); code {
	case core.CodeUnavailable, core.CodeOverloaded, core.CodeHalted:
		l.leave(&core.Error{Code: code, Message: r.Result.GetMessage()})
		return
	}
	refusal := refusalIn(r)
	if refusal == nil {
		return
	}
	for _, r := range c.runs {
		if sel == nil || r.standsFor(sel) {
			r.fail(refusal)
		}
	}
}

// changed acts on what happened to the member, and tells the readers of Changes.
func (c *Client) changed(now core.Time, change core.MemberChange) {
	c.log(change)
	switch change.Kind {
	case core.ChangeSessionLost:
		clear(c.asked)
	case core.ChangeGained:
		if r := c.runOf(change.Token); r != nil {
			r.gained(now, change.Token)
		} else if c.manually(change.Token) {
			c.byHand[change.Token.Scope] = change.Token.Fence
		} else {
			c.member.GiveUp(change.Token.Scope, change.Token.Fence) // of a Run that is over
		}
	case core.ChangeLost:
		c.lost(change)
		if c.byHand[change.Token.Scope] == change.Token.Fence {
			delete(c.byHand, change.Token.Scope)
		}
	case core.ChangeAsked:
		if !c.handOver(change) && !c.manually(change.Token) {
			c.member.GiveUp(change.Token.Scope, change.Token.Fence)
		}
	}
	c.tell(change)
}

func (c *Client) log(change core.MemberChange) {
	switch t := change.Token; change.Kind {
	case core.ChangeSessionOpened:
		c.logger.Info("session opened", "session", uint64(change.Session))
	case core.ChangeSessionLost:
		c.logger.Warn("session lost", "session", uint64(change.Session), "reason", change.Reason)
	case core.ChangeGained:
		c.logger.Info("leading", "scope", t.Scope, "term", t.Term, "fence", t.Fence)
	case core.ChangeLost:
		c.logger.Info("no longer leading", "scope", t.Scope, "fence", t.Fence, "reason", change.Reason)
	case core.ChangeAsked:
		c.logger.Info("asked to hand over", "scope", t.Scope, "fence", t.Fence, "reason", change.Ask.Reason, "to", change.Ask.To)
	case core.ChangeRefused:
		c.logger.Warn("refused by the registry", "reason", change.Reason)
	}
}

// manually reports whether a leadership is one of Stand's. One that is left from before
// its Withdraw is given up by hand, too: only the application knows when it has stopped.
func (c *Client) manually(t Token) bool {
	if fence, led := c.byHand[t.Scope]; led && fence == t.Fence {
		return true
	}
	for _, sel := range c.manual {
		if covers(sel, t) {
			return true
		}
	}
	return false
}

func contains(all []*logpb.Selector, sel *logpb.Selector) bool {
	for _, s := range all {
		if proto.Equal(s, sel) {
			return true
		}
	}
	return false
}

func without(all []*logpb.Selector, sel *logpb.Selector) []*logpb.Selector {
	return slices.DeleteFunc(all, func(s *logpb.Selector) bool { return proto.Equal(s, sel) })
}

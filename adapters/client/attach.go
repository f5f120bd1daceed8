package client

import (
	"context"
	"errors"
	"fmt"
	"sync"
	"time"

	"github.com/omnirelay/leadership/core"
	"github.com/omnirelay/leadership/wire"
	"github.com/omnirelay/leadership/wire/controlpb"
)

const (
	// maxMessageBytes bounds what a node may send at once: a view of all scopes.
	maxMessageBytes = 16 << 20
	// maxUnsent bounds what waits to be sent to a node; what is more is dropped, and
	// said again by the member.
	maxUnsent = 256
	// connectWithin bounds an attempt to attach while nothing is led, answerWithin how
	// long a node may be silent then. With something to lose it is a third of the TTL.
	connectWithin = 3 * time.Second
	answerWithin  = time.Second
)

// Reasons to leave a node.
var (
	errSilent   = errors.New("it did not answer in time")
	errFarewell = errors.New("it said farewell")
	errLate     = errors.New("it did not welcome this member in time")
)

// link is the attachment to one node. Its fields are guarded by the client's mu, as far
// as they change.
type link struct {
	address string
	node    string // its id
	conn    Conn
	out     chan *controlpb.AttachRequest
	// silentAt is when a message that nothing was heard since counts as unanswered;
	// core.Never: all are answered.
	silentAt core.Time
	patience time.Duration
	since    core.Time // when it welcomed this member
	answered bool
	leave    context.CancelCauseFunc
}

// attach keeps the member attached to some node until the client stops.
func (c *Client) attach() {
	for {
		address, pause := c.endpoints.pick(time.Now())
		select {
		case <-c.ctx.Done():
			return
		case <-time.After(pause):
		}
		served, err := c.attachTo(address)
		if c.ctx.Err() != nil {
			return
		}
		c.left(address, served, err)
	}
}

// left draws conclusions from the end of an attachment.
func (c *Client) left(address string, served bool, err error) {
	after, other := advice(err)
	c.endpoints.hint(other)
	c.logger.Warn("left a node", "endpoint", address, "served", served, "error", err)
	if served {
		c.endpoints.served()
	}
	if all := c.endpoints.refused(time.Now(), address, after); all && denied(err) {
		c.mu.Lock()
		defer c.mu.Unlock()
		for _, r := range c.runs {
			r.fail(err)
		}
	}
}

// attachTo attaches to one node and stays until it or the connection fails. served
// tells whether the node did its part for a while.
func (c *Client) attachTo(address string) (served bool, err error) {
	ctx, leave := context.WithCancelCause(c.ctx)
	defer leave(nil)
	late := time.AfterFunc(c.urgent(c.o.TTL/3, connectWithin), func() { leave(errLate) })
	defer late.Stop()
	conn, release, err := c.conns.to(address)
	if err != nil {
		return false, because(ctx, err)
	}
	defer release()
	stream, err := controlpb.NewLeadershipMemberServiceClient(conn).Attach(ctx)
	if err != nil {
		return false, because(ctx, err)
	}
	first, err := stream.Recv()
	if err != nil {
		return false, because(ctx, err)
	}
	late.Stop()
	l := &link{
		address: address, conn: conn, out: make(chan *controlpb.AttachRequest, maxUnsent), leave: leave,
		silentAt: core.Never, patience: c.o.TTL/5 + jitter(c.o.TTL/10),
	}
	if err := c.welcomed(l, first.GetWelcome()); err != nil {
		return false, err
	}
	defer c.detached(l)
	var writer sync.WaitGroup
	defer writer.Wait()
	defer leave(nil)
	writer.Go(func() { write(ctx, stream, l) })
	err = c.read(ctx, stream, l)
	c.mu.Lock()
	defer c.mu.Unlock()
	// One that answers and then always fails is to be called no more often than others.
	return l.answered && c.clock.Now().Sub(l.since) > c.o.TTL/2, err
}

// urgent is the time to wait where every moment counts, since something is led that
// may be lost, and else relaxed.
func (c *Client) urgent(urgent, relaxed time.Duration) time.Duration {
	if c.lapsed() {
		return max(urgent, relaxed)
	}
	return urgent
}

// because is why a call failed: when it was ended from here, for that reason.
func because(ctx context.Context, err error) error {
	if cause := context.Cause(ctx); cause != nil {
		return cause
	}
	return err
}

// welcomed looks at who answered, and makes it the node to talk to.
func (c *Client) welcomed(l *link, w *controlpb.Welcome) error {
	if w == nil {
		return errors.New("it did not begin with a welcome, as nodes of this service do")
	}
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.cluster == "" {
		c.cluster = w.GetClusterId()
	}
	if w.GetClusterId() != c.cluster {
		return fmt.Errorf("it is of cluster %q, want %q", w.GetClusterId(), c.cluster)
	}
	now := c.clock.Now()
	if err := c.member.Widen(now, core.Epsilon(w.GetClockDriftPermille())); err != nil {
		return fmt.Errorf("the drift of clocks that it reckons with: %w", err)
	}
	l.node, l.since = w.GetNodeId(), now
	c.link = l
	c.member.Attached(now)
	c.flush(now)
	c.poke()
	c.logger.Info("attached", "endpoint", l.address, "node", l.node, "transport", w.GetTransport())
	return nil
}

func (c *Client) detached(l *link) {
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.link == l {
		c.link = nil
	}
}

// write sends what the member says.
func write(ctx context.Context, stream controlpb.LeadershipMemberService_AttachClient, l *link) {
	for {
		select {
		case <-ctx.Done():
			return
		case m := <-l.out:
			if err := stream.Send(m); err != nil {
				return // the reader is told why
			}
		}
	}
}

// read takes what the node says until it says no more.
func (c *Client) read(ctx context.Context, stream controlpb.LeadershipMemberService_AttachClient, l *link) error {
	for {
		p, err := stream.Recv()
		if err != nil {
			return because(ctx, err)
		}
		if f := p.GetFarewell(); f != nil {
			c.endpoints.hint(f.GetOthers()...)
			return fmt.Errorf("%w: %s", errFarewell, f.GetReason())
		}
		m, err := wire.ReplicaMessageFrom(p)
		if err != nil {
			return fmt.Errorf("what it says cannot be understood: %w", err)
		}
		c.receive(l, m)
	}
}

// send queues a message that will be unanswered at some time. mu is held.
func (l *link) send(p *controlpb.AttachRequest, silentAt core.Time) {
	select {
	case l.out <- p:
	default:
	}
	l.silentAt = min(l.silentAt, silentAt)
}

// heard tells that the node answered. mu is held.
func (l *link) heard() { l.silentAt, l.answered = core.Never, true }

// watchLink leaves a node that is silent for too long, while there is time to attach to
// another before the lease ends. It returns when to look again. mu is held.
func (c *Client) watchLink(now core.Time) core.Time {
	l := c.link
	if l == nil {
		return core.Never
	}
	if now >= l.silentAt {
		l.leave(errSilent)
		return core.Never
	}
	return l.silentAt
}

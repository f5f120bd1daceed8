package api

import (
	"context"
	"sync"
	"testing"
	"time"

	"google.golang.org/grpc"

	"github.com/omnirelay/leadership/adapters/clock"
	"github.com/omnirelay/leadership/core"
	"github.com/omnirelay/leadership/core/logpb"
	"github.com/omnirelay/leadership/wire"
	"github.com/omnirelay/leadership/wire/controlpb"
)

// driven is core's member on the other end of Attach streams.
type driven struct {
	t     *testing.T
	clock clock.Clock

	mu      sync.Mutex
	member  *core.Member
	changes []core.MemberChange
	welcome *controlpb.Welcome
	acks    int
}

func newDriven(t *testing.T, id, instance string, ttl time.Duration, scope string) *driven {
	t.Helper()
	d := &driven{t: t}
	var err error
	d.member, err = core.NewMember(core.MemberConfig{MemberID: id, TTL: ttl, Instance: instance, Seed: 1}, d.clock.Now())
	if err != nil {
		t.Fatal(err)
	}
	if err := d.member.Stand(&logpb.Selector{Id: scope}, 1); err != nil {
		t.Fatal(err)
	}
	return d
}

// attach drives the member over a stream until the stream ends, on which it returns.
func (d *driven) attach(ctx context.Context, c *caller) error {
	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	stream, err := c.Attach(ctx)
	if err != nil {
		return err
	}
	received := make(chan *controlpb.AttachResponse)
	ended := make(chan error, 1)
	over := make(chan struct{})
	go func() {
		defer close(over)
		for {
			m, err := stream.Recv()
			if err != nil {
				ended <- err
				return
			}
			select {
			case received <- m:
			case <-ctx.Done():
			}
		}
	}()
	defer func() { cancel(); <-over }()
	d.mu.Lock()
	d.member.Attached(d.clock.Now())
	d.mu.Unlock()
	for {
		wait, err := d.turn(stream)
		if err != nil {
			return err
		}
		select {
		case m := <-received:
			d.take(m)
		case <-time.After(wait):
		case err := <-ended:
			return err
		case <-ctx.Done():
			return ctx.Err()
		}
	}
}

// turn lets the member say what is due.
func (d *driven) turn(stream grpc.BidiStreamingClient[controlpb.AttachRequest, controlpb.AttachResponse]) (time.Duration, error) {
	d.mu.Lock()
	defer d.mu.Unlock()
	d.member.Tick(d.clock.Now())
	out := d.member.TakeOutput()
	d.changes = append(d.changes, out.Changes...)
	for _, m := range out.Messages {
		p, err := wire.AttachRequestOf(m)
		if err != nil {
			return 0, err
		}
		if err := stream.Send(p); err != nil {
			return 0, err
		}
	}
	return max(0, d.member.Deadline().Sub(d.clock.Now())), nil
}

func (d *driven) take(p *controlpb.AttachResponse) {
	d.mu.Lock()
	defer d.mu.Unlock()
	if w := p.GetWelcome(); w != nil {
		d.welcome = w
		return
	}
	if p.GetFarewell() != nil {
		return
	}
	if p.GetAcknowledgement() != nil {
		d.acks++
	}
	m, err := wire.ReplicaMessageFrom(p)
	if err != nil {
		d.t.Errorf("a node sent what the member's end refuses: %v", err)
		return
	}
	d.member.Step(d.clock.Now(), m)
}

func (d *driven) holds(scope string) (core.Token, bool) {
	d.mu.Lock()
	defer d.mu.Unlock()
	return d.member.Holds(scope, d.clock.Now())
}

func (d *driven) session() core.SessionID {
	d.mu.Lock()
	defer d.mu.Unlock()
	return d.member.Session()
}

// run attaches in the background; the returned function cuts the stream and waits.
func (d *driven) run(c *caller) (cut func() error) {
	ctx, cancel := context.WithCancel(context.Background())
	done := make(chan error, 1)
	go func() { done <- d.attach(ctx, c) }()
	var once sync.Once
	var err error
	cut = func() error {
		once.Do(func() { cancel(); err = <-done })
		return err
	}
	d.t.Cleanup(func() { _ = cut() })
	return cut
}

func TestMemberLeadsOverAStream(t *testing.T) {
	t.Parallel()
	w := newWorld(t, 3)
	w.declare("job", "other")
	d := newDriven(t, "worker-1", "life-1", 2*time.Second, "job")
	cut := d.run(w.nodes[0].member("worker-1"))
	w.until("the member leads", func() bool { _, held := d.holds("job"); return held })
	if _, held := d.holds("other"); held {
		t.Error("it leads what it does not stand for")
	}
	if d.welcome.GetNodeId() != "node-1" || d.welcome.GetClusterId() != cluster || d.welcome.GetTransport() != "HTTP/2.0" || d.welcome.GetClockDriftPermille() != 10 {
		t.Errorf("welcome %v", d.welcome)
	}
	token, session := mustHold(t, d, "job"), d.session()
	// Cut, and on to each of the others: the session and what it leads stay.
	for _, n := range []*node{w.nodes[1], w.nodes[2], w.nodes[0]} {
		_ = cut()
		before := d.acked()
		cut = d.run(n.member("worker-1"))
		w.until("it is acknowledged by way of another node", func() bool { return d.acked() > before+2 })
		if now, held := d.holds("job"); !held || now.Fence != token.Fence || now.Term != token.Term || d.session() != session {
			t.Errorf("after moving to node %d: session %d, %+v, held %v", n.id, d.session(), now, held)
		}
	}
	// Given up, it comes back under a higher fence, alone as the member is.
	d.mu.Lock()
	d.member.GiveUp("job", token.Fence)
	d.mu.Unlock()
	w.until("it leads again", func() bool { now, held := d.holds("job"); return held && now.Fence > token.Fence })
	// Closed in order, nothing is led.
	d.mu.Lock()
	d.member.Close()
	d.mu.Unlock()
	w.until("the session is closed", func() bool { d.mu.Lock(); defer d.mu.Unlock(); return d.member.Closed() })
	w.until("nobody leads", func() bool { _, led := w.nodes[2].Token("job"); return !led })
	d.mu.Lock()
	defer d.mu.Unlock()
	for _, c := range d.changes {
		if c.Kind == core.ChangeRefused || c.Kind == core.ChangeSessionLost {
			t.Errorf("change %+v", c)
		}
	}
}

func mustHold(t *testing.T, d *driven, scope string) core.Token {
	t.Helper()
	token, held := d.holds(scope)
	if !held {
		t.Fatalf("%s is not held", scope)
	}
	return token
}

func (d *driven) acked() int {
	d.mu.Lock()
	defer d.mu.Unlock()
	return d.acks
}

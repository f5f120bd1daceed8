package client

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"slices"
	"sync"
	"sync/atomic"
	"time"

	"github.com/omnirelay/leadership/adapters/clock"
	"github.com/omnirelay/leadership/core"
	"github.com/omnirelay/leadership/core/logpb"
)

// Token is the proof of one leadership.
type Token = core.Token

// Client is one member of a cluster. All methods are safe for concurrent use.
type Client struct {
	o         Options
	clock     clock.Clock
	logger    *slog.Logger
	endpoints *endpoints
	conns     *connections

	mu      sync.Mutex
	member  *core.Member
	cluster string // the only one to talk to; empty: not known yet
	link    *link  // nil: attached to no node
	runs    []*run
	manual  []*logpb.Selector          // stood for by Stand
	byHand  map[string]uint64          // what Stand led to, until it is lost: fences by scope
	asked   map[string]*logpb.Selector // stands under way, by request id
	readers map[*reader]struct{}
	started bool
	closing bool

	// until is when contexts of Run end, on the clock: the end of the lease less the
	// margin.
	until atomic.Int64

	signing chan struct{} // one for each request for a signed token

	wake   chan struct{}
	closed chan struct{}   // closed when the session is
	ctx    context.Context // of everything that runs for this client
	stop   context.CancelFunc
	tasks  sync.WaitGroup
}

// New returns a client that calls nobody before it is asked to stand or watch. Its
// error tells all options that are wrong.
func New(o Options) (*Client, error) {
	o = o.complete()
	c := &Client{
		o: o, logger: o.Logger, cluster: o.Cluster, wake: make(chan struct{}, 1), closed: make(chan struct{}), signing: make(chan struct{}, maxSigning),
		byHand: map[string]uint64{}, asked: map[string]*logpb.Selector{}, readers: map[*reader]struct{}{},
	}
	var memberErr, dialErr error
	c.member, memberErr = o.newMember(c.clock.Now())
	dial := o.Dial
	if dial == nil {
		dial, dialErr = newDialer(&o)
	}
	if err := errors.Join(o.validate(), memberErr, dialErr); err != nil {
		return nil, fmt.Errorf("client: %w", err)
	}
	c.conns = &connections{dial: dial, keep: o.Endpoints, kept: map[string]Conn{}}
	c.endpoints = newEndpoints(o.Endpoints, o.TTL/20, max(o.TTL/4, maxIdlePause))
	c.ctx, c.stop = context.WithCancel(context.Background())
	return c, nil
}

// maxIdlePause is the longest pause between rounds of calls to nodes that all fail,
// where the TTL asks for no longer one.
const maxIdlePause = time.Second

// start runs the member, once there is something to stand for. mu is held.
func (c *Client) start() {
	if !c.started {
		c.started = true
		c.tasks.Go(c.loop)
		c.tasks.Go(c.attach)
	}
	c.poke()
}

// MemberID is who this process is.
func (c *Client) MemberID() string { return c.o.MemberID }

// Holds returns the token under which this process leads the scope at this moment. It
// reads the clock: ask it before every action, and act at once.
func (c *Client) Holds(scope string) (Token, bool) {
	c.mu.Lock()
	defer c.mu.Unlock()
	return c.member.Holds(scope, c.clock.Now())
}

// Holding is a scope that is led at the moment of asking.
type Holding struct {
	Token
	// Remaining is how long it would be led without a further word from the registry.
	Remaining time.Duration
}

// Held lists what this process leads at this moment, sorted by scope.
func (c *Client) Held() []Holding {
	c.mu.Lock()
	defer c.mu.Unlock()
	now := c.clock.Now()
	var all []Holding
	for _, h := range c.member.Held(now) {
		all = append(all, Holding{Token: h.Token, Remaining: h.Until.Sub(now)})
	}
	return all
}

// Stand stands for scopes without Run: what is led then is told by Changes, asked of
// Holds, and given up by GiveUp, also as the answer to a core.ChangeAsked. A later call
// for the same scopes changes the priority.
func (c *Client) Stand(s Scope) error {
	sel, err := s.selector()
	if err != nil {
		return err
	}
	c.mu.Lock()
	defer c.mu.Unlock()
	if err := c.mayStand(); err != nil {
		return err
	}
	if c.runFor(sel) != nil {
		return fmt.Errorf("scope: %v is stood for by a Run already", s)
	}
	if err := c.member.Stand(sel, s.Priority); err != nil {
		return err
	}
	if !contains(c.manual, sel) {
		c.manual = append(c.manual, sel)
	}
	c.start()
	return nil
}

// mayStand is nil unless the client is closed, or made to watch only. mu is held.
func (c *Client) mayStand() error {
	switch {
	case c.closing:
		return ErrClosed
	case c.o.MemberID == "":
		return errors.New("memberId: missing; a client without one can only watch")
	}
	return nil
}

// Withdraw ends a Stand for the same scopes. What is led of them stays led until it is
// given up.
func (c *Client) Withdraw(s Scope) error {
	sel, err := s.selector()
	if err != nil {
		return err
	}
	c.mu.Lock()
	defer c.mu.Unlock()
	if contains(c.manual, sel) {
		c.manual = without(c.manual, sel)
		c.member.Withdraw(sel)
		c.poke()
	}
	return nil
}

// GiveUp ends a leadership: the process has stopped acting on it before it calls this.
// Holds is false from here on.
func (c *Client) GiveUp(t Token) {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.member.GiveUp(t.Scope, t.Fence)
	c.poke()
}

// Close ends every Run as the end of its context would, waits for their functions,
// closes the session so that others are elected at once, and returns when nothing of
// the client runs any more. A registry that does not answer is waited for no longer
// than the lease lasts. It is not to be called from a function of Run.
func (c *Client) Close() error {
	c.mu.Lock()
	if c.closing {
		c.mu.Unlock()
		c.tasks.Wait()
		return nil
	}
	c.closing = true
	runs, started := slices.Clone(c.runs), c.started // each leaves c.runs when it is over
	for _, r := range runs {
		r.fail(ErrClosed)
	}
	c.mu.Unlock()
	for _, r := range runs {
		<-r.over
	}
	var err error
	if started {
		err = c.closeSession()
	}
	c.stop()
	c.tasks.Wait()
	c.endReaders()
	return errors.Join(err, c.conns.close())
}

// closeWithin bounds how long Close waits for the registry.
const closeWithin = 5 * time.Second

// closeSession ends the session while that is of use to anybody.
func (c *Client) closeSession() error {
	c.mu.Lock()
	c.member.Close()
	c.mu.Unlock()
	c.poke()
	patience := time.NewTimer(min(c.o.TTL, closeWithin))
	defer patience.Stop()
	select {
	case <-c.closed:
		return nil
	case <-patience.C:
		return errors.New("client: the session was not closed, no node answered in time; its scopes are led anew when it expires")
	}
}

func (c *Client) lapsed() bool { return int64(c.clock.Now()) >= c.until.Load() }

func (c *Client) poke() {
	select {
	case c.wake <- struct{}{}:
	default:
	}
}

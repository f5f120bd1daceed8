package client

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"sync"
	"time"

	"github.com/omnirelay/leadership/core"
	"github.com/omnirelay/leadership/core/logpb"
)

const (
	// restAfter is the pause before the function runs again for a scope that it returned
	// from and that nobody else wanted; doubled with every error in a row.
	restAfter = 100 * time.Millisecond
	maxRest   = 30 * time.Second
)

// Run leads: it stands for the scopes and calls f, in a goroutine of its own, for each
// scope that is gained, at most once at a time for a scope. It returns when ctx ends and
// every call of f has returned: nil then, ErrClosed after Close, and else the refusal
// of the registry that makes it useless to go on, such as a missing grant.
//
// The context of f ends Options.Margin before the lease can, by the clock, whether a
// node can be reached or not; its Err reads the clock at every call. Renewals move that
// end. context.Cause tells why it ended: ErrLeaseLapsed, ErrTaken, a *HandOver, or the
// end of Run. It carries the leader's authority, see StampCalls.
//
// When f returns the scope is given up, so f has stopped acting by then. This process
// goes on standing for it, and is elected again only when no other can be; then f is
// called again after a pause: a short one after nil, a growing one after an error.
// Errors are logged. After a hand-over was asked for the scope is led until f returns.
func (c *Client) Run(ctx context.Context, scopes []Scope, f func(ctx context.Context, t Token) error) error {
	if len(scopes) == 0 {
		return errors.New("client: Run: no scope is named; name at least one")
	}
	r := &run{client: c, ctx: ctx, f: f, posts: map[string]*post{}, failed: make(chan struct{}), over: make(chan struct{})}
	if err := r.begin(scopes); err != nil {
		return fmt.Errorf("client: Run: %w", err)
	}
	defer close(r.over)
	select {
	case <-ctx.Done():
	case <-r.failed:
	}
	err := r.end()
	r.serving.Wait()
	r.forget()
	if err != nil {
		return fmt.Errorf("client: Run: %w", err)
	}
	return nil
}

// run is one call of Run. The client's mu guards what changes.
type run struct {
	client    *Client
	ctx       context.Context
	f         func(ctx context.Context, t Token) error
	selectors []*logpb.Selector
	posts     map[string]*post // by scope
	ended     bool             // it stands for nothing, and waits for calls of f to return
	err       error            // why it ends, unless by its context
	failed    chan struct{}    // closed when err is set
	serving   sync.WaitGroup
	over      chan struct{} // closed when Run returns
}

// post is one scope that a run leads, or led and still answers for.
type post struct {
	run      *run
	granted  *Token    // in force, and f is not running under it
	since    core.Time // of granted
	lead     *lead     // f has not returned
	notUntil core.Time // f is not called again before
	errors   int       // of f in a row
}

// lead is one call of f.
type lead struct {
	token Token
	ctx   *leaseContext
	began core.Time
	held  bool // to be given up when f returns
}

func (r *run) begin(scopes []Scope) error {
	c := r.client
	c.mu.Lock()
	defer c.mu.Unlock()
	if err := c.mayStand(); err != nil {
		return err
	}
	for _, s := range scopes {
		sel, err := s.selector()
		if err == nil && (contains(r.selectors, sel) || contains(c.manual, sel) || c.runFor(sel) != nil) {
			err = fmt.Errorf("scope: %+v is stood for already", s)
		}
		if err == nil {
			err = c.member.Stand(sel, s.Priority)
		}
		if err != nil {
			r.withdraw()
			return err
		}
		r.selectors = append(r.selectors, sel)
	}
	c.runs = append(c.runs, r)
	c.start()
	return nil
}

// withdraw stands for nothing any more. mu is held.
func (r *run) withdraw() {
	for _, sel := range r.selectors {
		r.client.member.Withdraw(sel)
	}
}

// end stops standing, tells every f to return, and says why.
func (r *run) end() error {
	c := r.client
	c.mu.Lock()
	defer c.mu.Unlock()
	r.ended = true
	r.withdraw()
	for _, p := range r.posts {
		if p.granted != nil {
			c.member.GiveUp(p.granted.Scope, p.granted.Fence)
			p.granted = nil
		}
		if p.lead != nil {
			p.lead.ctx.end(r.err) // nil: as its parent ended
		}
	}
	c.poke()
	return r.err
}

// forget is the last of a run.
func (r *run) forget() {
	c := r.client
	c.mu.Lock()
	defer c.mu.Unlock()
	c.runs = slices.DeleteFunc(c.runs, func(other *run) bool { return other == r })
}

// fail ends the run for a reason. mu is held.
func (r *run) fail(err error) {
	if r.err == nil && !r.ended {
		r.err = err
		close(r.failed)
	}
}

func (r *run) standsFor(sel *logpb.Selector) bool { return !r.ended && contains(r.selectors, sel) }

// runFor is the run that stands for exactly what sel picks.
func (c *Client) runFor(sel *logpb.Selector) *run {
	for _, r := range c.runs {
		if r.standsFor(sel) {
			return r
		}
	}
	return nil
}

// runOf is the run that a leadership belongs to: the first that stands for it.
func (c *Client) runOf(t Token) *run {
	for _, r := range c.runs {
		for _, sel := range r.selectors {
			if !r.ended && covers(sel, t) {
				return r
			}
		}
	}
	return nil
}

// postOf is the post that knows of a leadership, running or waiting, of any run that
// has not returned.
func (c *Client) postOf(t Token) *post {
	for _, r := range c.runs {
		if p := r.posts[t.Scope]; p != nil {
			if p.granted != nil && p.granted.Fence == t.Fence || p.lead != nil && p.lead.token.Fence == t.Fence {
				return p
			}
		}
	}
	return nil
}

func (r *run) gained(now core.Time, t Token) {
	p := r.posts[t.Scope]
	if p == nil {
		p = &post{run: r, notUntil: now}
		r.posts[t.Scope] = p
	}
	p.granted, p.since = &t, now
	p.serve(now)
}

// running is the call for the granted scope that has not returned, of this run or of
// another that is over otherwise; nil: none.
func (p *post) running() *lead {
	for _, r := range p.run.client.runs {
		if other := r.posts[p.granted.Scope]; other != nil && other.lead != nil {
			return other.lead
		}
	}
	return nil
}

// serve calls f if it may be called now.
func (p *post) serve(now core.Time) {
	if p.granted == nil || now < p.notUntil || p.running() != nil {
		return
	}
	l := &lead{token: *p.granted, began: now, held: true}
	l.ctx = newLeaseContext(p.run.ctx, p.run.client, l.token)
	p.lead, p.granted = l, nil
	p.run.serving.Go(func() { p.run.client.serve(p, l) })
}

// serve runs f under a leadership and gives it up afterwards.
func (c *Client) serve(p *post, l *lead) {
	stopSigning := c.sign(l)
	err := error(nil)
	if l.ctx.Err() == nil {
		err = p.run.f(l.ctx, l.token)
	}
	stopSigning()
	c.mu.Lock()
	defer c.mu.Unlock()
	now := c.clock.Now()
	c.rest(now, p, l, err)
	l.ctx.end(ErrReturned)
	if p.run.ctx.Err() != nil {
		p.run.withdraw() // before the scope is free, or it might be given to this member again
	}
	if l.held {
		c.member.GiveUp(l.token.Scope, l.token.Fence)
	}
	p.lead = nil
	p.serve(now)
	c.poke()
}

// rest settles when f may be called again. An error counts unless f was told to stop.
func (c *Client) rest(now core.Time, p *post, l *lead, err error) {
	switch {
	case l.ctx.Context.Err() != nil:
		p.errors = 0
		return
	case err == nil:
		p.errors = 0
		p.notUntil = now.Add(restAfter)
	default:
		if now.Sub(l.began) > maxRest {
			p.errors = 0
		}
		p.errors++
		pause := jitter(backoff(2*restAfter, maxRest, p.errors))
		p.notUntil = now.Add(pause)
		c.logger.Warn("giving a scope up: the function failed", "scope", l.token.Scope, "fence", l.token.Fence, "error", err, "pause", pause)
	}
}

// lost ends what was done under a leadership that is over.
func (c *Client) lost(change core.MemberChange) {
	p := c.postOf(change.Token)
	if p == nil {
		return
	}
	if p.granted != nil && p.granted.Fence == change.Token.Fence {
		p.granted = nil
	}
	if p.lead == nil || p.lead.token.Fence != change.Token.Fence {
		return
	}
	p.lead.held = false
	switch change.Reason {
	case core.ReasonLeaseLapsed:
		p.lead.ctx.end(ErrLeaseLapsed)
	default:
		p.lead.ctx.end(fmt.Errorf("%w: %s", ErrTaken, change.Reason))
	}
}

// handOver asks f to return; false: no f runs under that leadership.
func (c *Client) handOver(change core.MemberChange) bool {
	p := c.postOf(change.Token)
	if p == nil || p.lead == nil || p.lead.token.Fence != change.Token.Fence {
		if p != nil {
			p.granted = nil
		}
		return false
	}
	p.lead.ctx.end(&HandOver{Reason: change.Ask.Reason, To: change.Ask.To, CorrelationID: change.Ask.CorrelationID})
	return true
}

// endLapsed ends every context whose time is over, and returns when the next is. What
// ended is given up when f returns, even if the lease is renewed after all.
func (c *Client) endLapsed(now core.Time) core.Time {
	until, running := core.Time(c.until.Load()), false
	for _, r := range c.runs {
		for _, p := range r.posts {
			switch {
			case p.lead == nil || p.lead.ctx.Context.Err() != nil:
			case now >= until:
				p.lead.ctx.end(ErrLeaseLapsed)
			default:
				running = true
			}
		}
	}
	if running {
		return until
	}
	return core.Never
}

// tendPosts looks after what waits. It returns when to look again.
func (c *Client) tendPosts(now core.Time) core.Time {
	next := core.Never
	for _, r := range c.runs {
		for scope, p := range r.posts {
			switch {
			case p.granted != nil:
				next = min(next, c.tend(now, p))
			case p.lead == nil && p.errors == 0 && now >= p.notUntil:
				delete(r.posts, scope)
			}
		}
	}
	return next
}

// tend calls f for a scope that waited for it, or gives the scope up when an earlier
// call of f does not return. It returns when to look again.
func (c *Client) tend(now core.Time, p *post) core.Time {
	before := p.running()
	if before == nil {
		p.serve(now)
		return p.notUntil
	}
	overdue := p.since.Add(c.o.TTL)
	if now < overdue {
		return overdue
	}
	c.logger.Error("a function has not returned although its leadership is over; the scope that was gained again is given up",
		"scope", p.granted.Scope, "overFence", before.token.Fence, "fence", p.granted.Fence)
	c.member.GiveUp(p.granted.Scope, p.granted.Fence)
	p.granted = nil
	return core.Never
}

package logtest

import (
	"context"
	"errors"
	"fmt"
	"math/rand/v2"
	"sync"
	"sync/atomic"
	"time"

	"github.com/omnirelay/leadership/adapters/storeserver"
	"github.com/omnirelay/leadership/core"
)

const (
	callTimeout = 15 * time.Second       // a call on a server that is well
	shortCall   = 600 * time.Millisecond // a call that is to fail
	grace       = 2 * time.Second        // how late an answer may be on a busy machine
	recovery    = 30 * time.Second       // until a store is used again after a fault, or has trimmed
)

// bench is the place of one case.
type bench struct {
	ctx            context.Context
	cluster, place string
	seed           uint64
	patience       time.Duration // how long poll waits
	logf           func(string, ...any)
	open           func(ctx context.Context, through bool) (LogStore, error)

	// Of cases on a real server:
	factory *Factory
	server  *storeserver.Server
	proxy   *storeserver.Proxy
	dir     string

	mu     sync.Mutex
	opened []LogStore
}

// perform runs a case within its time and closes what it opened.
func (b *bench) perform(ctx context.Context, run func(*bench) error) error {
	within := caseWithin
	if long() {
		within *= 10
	}
	var cancel context.CancelFunc
	b.ctx, cancel = context.WithTimeout(ctx, within)
	defer cancel()
	err := run(b)
	for _, s := range b.opened {
		err = errors.Join(err, s.Close())
	}
	return err
}

func (b *bench) site(through bool) Site {
	s := Site{Address: b.server.Address(), ClusterID: b.cluster, Place: b.place}
	if through {
		s.Address = b.proxy.Address()
	}
	return s
}

func (b *bench) rng() *rand.Rand { return rand.New(rand.NewPCG(b.seed, 1)) }

// direct opens the log past the proxy.
func (b *bench) direct() (*client, error) { return b.client(false) }

// through opens the log through the proxy.
func (b *bench) through() (*client, error) { return b.client(true) }

func (b *bench) client(through bool) (*client, error) {
	return b.keep(func(ctx context.Context) (LogStore, error) { return b.open(ctx, through) })
}

// at opens the log at another site.
func (b *bench) at(site Site) (*client, error) {
	return b.keep(func(ctx context.Context) (LogStore, error) { return b.factory.Open(ctx, site) })
}

// keep opens a log that is closed when the case is over.
func (b *bench) keep(open func(context.Context) (LogStore, error)) (*client, error) {
	ctx, cancel := context.WithTimeout(b.ctx, callTimeout)
	defer cancel()
	s, err := open(ctx)
	if err != nil {
		return nil, fmt.Errorf("opening the log: %w", err)
	}
	b.mu.Lock()
	b.opened = append(b.opened, s)
	b.mu.Unlock()
	return &client{b: b, store: s}, nil
}

// client makes calls on an open log and holds every answer to its form.
type client struct {
	b      *bench
	store  LogStore
	lastID atomic.Uint64
}

// call makes a call. The error says how the answer broke the contract; a call that
// was refused or failed is none.
func (c *client) call(call *core.StoreCall) (*core.StoreReply, error) {
	call.ID = c.lastID.Add(1)
	if call.Timeout == 0 {
		call.Timeout = callTimeout
	}
	begun := time.Now()
	r := c.store.Do(c.b.ctx, call)
	took := time.Since(begun)
	if err := wellFormed(call, r); err != nil {
		return nil, fmt.Errorf("%s: %w", nameOf(call), err)
	}
	if took > call.Timeout+grace {
		return nil, fmt.Errorf("%s: answered after %v, its time limit was %v", nameOf(call), took, call.Timeout)
	}
	if err := c.b.ctx.Err(); err != nil {
		return nil, fmt.Errorf("%s: the case takes too long: %w", nameOf(call), err)
	}
	return r, nil
}

// must makes a call that has to take effect.
func (c *client) must(call *core.StoreCall) (*core.StoreReply, error) {
	return c.want(core.StoreOK, call)
}

// want makes a call that has to end as status.
func (c *client) want(status core.StoreStatus, call *core.StoreCall) (*core.StoreReply, error) {
	r, err := c.call(call)
	if err == nil && r.Status != status {
		err = fmt.Errorf("%s: %s, want %s", nameOf(call), describe(r), nameOfStatus(status))
	}
	return r, err
}

// recovered waits until the store serves again after a fault.
func (c *client) recovered() (*core.StoreReply, error) {
	for end := time.Now().Add(recovery); ; {
		r, err := c.call(&core.StoreCall{Timeout: shortCall, Confirm: &core.StoreConfirm{}})
		if err != nil || r.Status == core.StoreOK {
			return r, err
		}
		if time.Now().After(end) {
			return nil, fmt.Errorf("not usable %v after the fault: %s", recovery, describe(r))
		}
		time.Sleep(20 * time.Millisecond)
	}
}

func wellFormed(c *core.StoreCall, r *core.StoreReply) error {
	switch {
	case r == nil:
		return errors.New("no reply: nil")
	case r.ID != c.ID:
		return fmt.Errorf("the reply has ID %d, the call %d", r.ID, c.ID)
	case r.Status < core.StoreOK || r.Status > core.StoreUnfit:
		return fmt.Errorf("status %d is none", r.Status)
	case r.Status != core.StoreOK && r.Text == "":
		return fmt.Errorf("%s without a text that says why", nameOfStatus(r.Status))
	case r.Status == core.StoreFailed && r.Identity != "":
		return errors.New("a failed call names an identity")
	case r.Status <= core.StoreRefused && r.Identity == "":
		return errors.New("the reply names no identity")
	case c.Fetch != nil && r.Status == core.StoreOK:
		return wellFetched(c.Fetch, r)
	}
	return nil
}

// wellFetched checks that a fetch left nothing out.
func wellFetched(f *core.StoreFetch, r *core.StoreReply) error {
	last, after := r.Lead.GetLast(), f.After
	if s := r.Snapshot; s != nil {
		if s.Index <= f.After || s.Index > last {
			return fmt.Errorf("fetched behind %d: a snapshot of index %d, the log ends at %d", f.After, s.Index, last)
		}
		after = s.Index
	}
	for _, e := range r.Entries {
		if after++; e.Index != after {
			return fmt.Errorf("fetched behind %d: entry %d in the place of %d", f.After, e.Index, after)
		}
	}
	switch {
	case after > last && len(r.Entries) > 0:
		return fmt.Errorf("entries up to %d, but the lead record ends at %d", after, last)
	case len(r.Entries) == 0 && after < last:
		return fmt.Errorf("fetched behind %d: nothing behind %d, but the log ends at %d", f.After, after, last)
	case r.First > last+1 || (len(r.Entries) > 0 && r.First > r.Entries[0].Index):
		return fmt.Errorf("the first entry kept is said to be %d; the log ends at %d", r.First, last)
	}
	return nil
}

func nameOf(c *core.StoreCall) string {
	switch {
	case c.Append != nil:
		return fmt.Sprintf("Append behind %d.%d", c.Append.Guard.Term, c.Append.Guard.Last)
	case c.Confirm != nil:
		return fmt.Sprintf("Confirm %+v", *c.Confirm)
	case c.Fetch != nil:
		return fmt.Sprintf("Fetch %+v", *c.Fetch)
	case c.Publish != nil:
		return fmt.Sprintf("Publish of term %d behind %d (%d)", c.Publish.Term, c.Publish.After, len(c.Publish.Records))
	case c.Checkpoint != nil:
		return fmt.Sprintf("Checkpoint of term %d at %d, trimming to %d", c.Checkpoint.Term, c.Checkpoint.Snapshot.Index, c.Checkpoint.TrimTo)
	case c.Attest != nil:
		return fmt.Sprintf("Attest %+v", *c.Attest)
	case c.Close != nil:
		return fmt.Sprintf("Close %q at %v", c.Close.Reason, c.Close.Guard)
	case c.Replace != nil:
		return fmt.Sprintf("Replace at %v", c.Replace.Guard)
	case c.Trail != nil:
		return fmt.Sprintf("Trail %+v", *c.Trail)
	}
	return "empty call"
}

func nameOfStatus(s core.StoreStatus) string {
	return [...]string{"none", "OK", "refused", "failed", "unfit"}[s]
}

func describe(r *core.StoreReply) string {
	if r.Text == "" {
		return nameOfStatus(r.Status)
	}
	return nameOfStatus(r.Status) + ": " + r.Text
}

// group runs functions side by side and returns the first error; stop is closed then.
type group struct {
	wait sync.WaitGroup
	once sync.Once
	err  error
	stop chan struct{}
}

func newGroup() *group { return &group{stop: make(chan struct{})} }

func (g *group) do(f func() error) {
	g.wait.Go(func() {
		if err := f(); err != nil {
			g.once.Do(func() { g.err = err; close(g.stop) })
		}
	})
}

// stopped reports whether somebody failed.
func (g *group) stopped() bool {
	select {
	case <-g.stop:
		return true
	default:
		return false
	}
}

func (g *group) end() error {
	g.wait.Wait()
	return g.err
}

// poll looks until it is so.
func (b *bench) poll(what string, is func() (bool, error)) error {
	for end := time.Now().Add(b.patience); ; {
		ok, err := is()
		if ok || err != nil {
			return err
		}
		if time.Now().After(end) || b.ctx.Err() != nil {
			return fmt.Errorf("never seen: %s", what)
		}
		time.Sleep(5 * time.Millisecond)
	}
}

package host

import (
	"context"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/omnirelay/leadership/core"
)

// modelStore is the contract behind a lock, and a switch.
type modelStore struct {
	mu    sync.Mutex
	model *core.StoreModel
	down  bool
}

func newModelStore() *modelStore { return &modelStore{model: core.NewStoreModel()} }

func (s *modelStore) Do(ctx context.Context, c *core.StoreCall) *core.StoreReply {
	if f := c.Fetch; f != nil { // waits, so that an idle follower does not spin
		s.await(ctx, f)
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.down || ctx.Err() != nil {
		return &core.StoreReply{ID: c.ID, Status: core.StoreFailed, Text: "the store is down"}
	}
	return s.model.Do("server", c)
}

// await returns when there is something after f.After, or f.Wait is over.
func (s *modelStore) await(ctx context.Context, f *core.StoreFetch) {
	over := time.After(f.Wait)
	for {
		s.mu.Lock()
		news := s.down || s.model.Position().Last > f.After
		s.mu.Unlock()
		if news {
			return
		}
		select {
		case <-over:
			return
		case <-ctx.Done():
			return
		case <-time.After(2 * time.Millisecond):
		}
	}
}

func (s *modelStore) set(down bool) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.down = down
}

func onStore(s Store) func(*Options) {
	return func(o *Options) { o.Core.Store, o.Store = true, s }
}

// officeOf is the host whose office is open, nil when there is none.
func officeOf(all []*running) (registrar *running) {
	for _, h := range all {
		h.View(func(_ *core.Registry, s core.Status) {
			if s.IsRegistrar && s.OfficeOpen {
				registrar = h
			}
		})
	}
	return registrar
}

// Two are enough: the store decides, not a majority of them.
func TestTwoHostsOnAStore(t *testing.T) {
	all := cluster(t, 2, onStore(newModelStore()))
	declare(t, all[0].Host, "s/1", "s/2")
	for i, h := range all {
		until(t, h.Host, "each host leads one scope", func() bool { _, held := h.Held(); return len(held) == 1 })
		if err := h.ReadBarrier(within(t)); err != nil {
			t.Errorf("host %d: %v", i, err)
		}
	}
	registrar := officeOf(all)
	if registrar == nil {
		t.Fatal("no registrar is in office")
	}
	if err := registrar.Shutdown(within(t)); err != nil {
		t.Fatal(err)
	}
	if err := registrar.end(); err != nil {
		t.Error(err)
	}
	for _, h := range all {
		if h != registrar {
			until(t, h.Host, "the other leads both", func() bool { _, held := h.Held(); return len(held) == 2 })
		}
	}
}

// A single host has nobody to hand over to, and comes back to the same log.
func TestOneHostComesBackToItsStore(t *testing.T) {
	s := newModelStore()
	first := cluster(t, 1, onStore(s))[0]
	declare(t, first.Host, "a/b")
	until(t, first.Host, "the own member leads", func() bool { _, held := first.Holds("a/b"); return held })
	token, _ := first.Token("a/b")
	if err := first.Shutdown(within(t)); err != nil {
		t.Fatal(err)
	}
	if err := first.end(); err != nil {
		t.Fatal(err)
	}
	again := cluster(t, 1, onStore(s))[0]
	until(t, again.Host, "it leads again", func() bool { _, held := again.Holds("a/b"); return held })
	if now, _ := again.Token("a/b"); now.Fence <= token.Fence {
		t.Errorf("fence %d after %d", now.Fence, token.Fence)
	}
}

// While the store does not answer nothing is believed any longer than the lease, and
// the node says why it is not ready; afterwards it goes on by itself.
func TestStoreThatIsDown(t *testing.T) {
	s := newModelStore()
	var answered, failed atomic.Int64
	h := cluster(t, 1, func(o *Options) {
		onStore(s)(o)
		o.OnStoreCall = func(c *core.StoreCall, r *core.StoreReply, took time.Duration) {
			switch {
			case c.ID != r.ID || took < 0:
				t.Errorf("%+v was answered with %+v after %v", c, r, took)
			case r.Status == core.StoreFailed:
				failed.Add(1)
			default:
				answered.Add(1)
			}
		}
	})[0]
	declare(t, h.Host, "a/b")
	until(t, h.Host, "the own member leads", func() bool { _, held := h.Holds("a/b"); return held })
	if answered.Load() == 0 || failed.Load() > 0 {
		t.Errorf("told of %d answered calls and %d failed ones", answered.Load(), failed.Load())
	}
	s.set(true)
	until(t, h.Host, "the lease lapses", func() bool { _, held := h.Holds("a/b"); return !held })
	until(t, h.Host, "the reason is told", func() (told bool) {
		h.View(func(_ *core.Registry, s core.Status) {
			told = s.NotReadyReason == "the store does not answer: the store is down"
		})
		return told
	})
	if failed.Load() == 0 {
		t.Error("told of no failed call")
	}
	s.set(false)
	until(t, h.Host, "it leads again", func() bool { _, held := h.Holds("a/b"); return held })
}

// A node that is shut down while its store is away does not wait for it longer than
// anybody believes anything.
func TestShutdownWithoutItsStore(t *testing.T) {
	s := newModelStore()
	h := cluster(t, 1, onStore(s))[0]
	declare(t, h.Host, "a/b")
	until(t, h.Host, "the own member leads", func() bool { _, held := h.Holds("a/b"); return held })
	s.set(true)
	begun := time.Now()
	err := h.Shutdown(within(t)) // for 20 s, if it were to wait for the store
	if err == nil || !strings.Contains(err.Error(), "the store does not answer") {
		t.Errorf("%v", err)
	}
	if took := time.Since(begun); took > 5*time.Second {
		t.Errorf("it took %v", took)
	}
}

// Run ends with its calls: none outlives it (TestMain looks for goroutines).
func TestRunEndsItsCalls(t *testing.T) {
	h := cluster(t, 1, onStore(stuckStore{}))[0]
	until(t, h.Host, "the status is there", func() bool { return h.Changed() != nil })
	if err := h.end(); err != nil {
		t.Error(err)
	}
	if n := len(h.store.slots); n != 0 {
		t.Errorf("%d calls are under way after Run", n)
	}
}

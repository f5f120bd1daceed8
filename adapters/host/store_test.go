package host

import (
	"context"
	"sync"
	"testing"
	"time"

	"github.com/omnirelay/leadership/core"
)

// stuckStore answers nothing until its context ends.
type stuckStore struct{}

func (stuckStore) Do(ctx context.Context, c *core.StoreCall) *core.StoreReply {
	<-ctx.Done()
	return &core.StoreReply{ID: c.ID, Status: core.StoreFailed, Text: "the end"}
}

// Each call is answered exactly once, whatever the store does, and however full the
// inbox is; the number of those under way is bounded.
func TestEveryStoreCallIsAnswered(t *testing.T) {
	var mu sync.Mutex
	told := 0
	h := &Host{o: Options{Store: stuckStore{}, OnStoreCall: func(c *core.StoreCall, r *core.StoreReply, _ time.Duration) {
		mu.Lock()
		defer mu.Unlock()
		if c.ID == r.ID {
			told++
		}
	}}}
	h.inbox.wake = make(chan struct{}, 1)
	for h.inbox.offer(core.Input{}) {
	}
	full := len(h.inbox.inputs)
	ctx, cancel := context.WithCancel(context.Background())
	h.store = newStoreCalls(ctx, h)
	var e core.Emission
	for id := range uint64(maxStoreCalls + 4) {
		e.Calls = append(e.Calls, core.StoreCall{ID: id, Confirm: &core.StoreConfirm{}})
	}
	(&world{h}).Emit(e)
	if n := len(h.inbox.inputs) - full; n != 4 {
		t.Errorf("%d calls beyond the bound were answered at once, want 4", n)
	}
	cancel()
	h.store.wait()
	seen := map[uint64]int{}
	for _, in := range h.inbox.inputs[full:] {
		if in.Store.Status != core.StoreFailed || in.Store.Text == "" {
			t.Errorf("%+v", in.Store)
		}
		seen[in.Store.ID]++
	}
	for id := range uint64(maxStoreCalls + 4) {
		if seen[id] != 1 {
			t.Errorf("call %d was answered %d times", id, seen[id])
		}
	}
	if told != 0 {
		t.Errorf("told of %d calls that our own end cut off", told)
	}
}

func TestStoreAndItsSettingGoTogether(t *testing.T) {
	cfg := core.Config{ID: 1, Voters: []core.NodeID{1}, ClusterID: "test"}
	if _, err := New(Options{Core: cfg, Store: stuckStore{}}); err == nil {
		t.Error("a store was taken that the replica does not use")
	}
	cfg.Store = true
	if _, err := New(Options{Core: cfg}); err == nil {
		t.Error("a replica without its store was taken")
	}
}

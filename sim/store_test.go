package sim

import (
	"container/heap"
	"strings"
	"testing"
	"time"

	"github.com/omnirelay/leadership/core"
	"github.com/omnirelay/leadership/sim/check"
)

// benchStore is a store and a world that goes on only as far as a test lets it; its
// replicas are up and do nothing.
func benchStore(t *testing.T) (*World, *replica) {
	t.Helper()
	w := newWorld(Options{Seed: 1, Scenario: named(t, "steady"), Log: LogCAS})
	for _, r := range w.replicas {
		r.up = true
		r.client = storeClient{pending: map[uint64]bool{}, tail: tail{}}
	}
	return w, w.replicas[0]
}

// pass lets time pass.
func pass(w *World, d time.Duration) {
	end := w.now + int64(d)
	for len(w.events) > 0 && w.events[0].at <= end {
		e := heap.Pop(&w.events).(event)
		w.now = e.at
		e.run()
	}
	w.now = end
}

// appendCall is the append behind the log as it stands on the primary.
func appendCall(w *World, id uint64, term uint64) *core.StoreCall {
	v := w.store.main()
	at, lead := v.model.Position(), v.lead()
	e := &core.StoredEntry{Index: at.Last + 1, Term: term, Chain: core.ChainEntry(lead.GetChain(), at.Last+1, term, nil)}
	return &core.StoreCall{ID: id, Timeout: 600 * ms, Append: &core.StoreAppend{Guard: at, Entries: []*core.StoredEntry{e}, Lead: &core.Lead{
		Schema: core.StoreSchema, ClusterId: "sim", Term: term, Holder: 1, Last: e.Index, Chain: e.Chain, AppendId: []byte{byte(id)}, Identity: v.identity,
	}}}
}

// answer is the latest answer that the replica got.
func answer(t *testing.T, r *replica, id uint64) *core.StoreReply {
	t.Helper()
	var found *core.StoreReply
	for _, in := range r.inbox {
		if in.Store != nil && in.Store.ID == id {
			if found != nil {
				t.Fatalf("call %d was answered twice", id)
			}
			found = in.Store
		}
	}
	if found == nil {
		t.Fatalf("call %d was not answered", id)
	}
	return found
}

func TestStoreExecutesLateWhatItsCallerGaveUp(t *testing.T) {
	w, r := benchStore(t)
	w.store.pause(2 * sec)
	r.call(appendCall(w, 1, 1))
	pass(w, sec)
	if a := answer(t, r, 1); a.Status != core.StoreFailed || w.store.main().model.Position().Last != 0 {
		t.Fatalf("%+v, log at %+v", a, w.store.main().model.Position())
	}
	pass(w, 2*sec)
	if answer(t, r, 1); w.store.main().model.Position().Last != 1 {
		t.Error("the call never took effect")
	}
}

func TestStoreFetchWaitsForNews(t *testing.T) {
	w, r := benchStore(t)
	fetch := func(id uint64) *core.StoreCall {
		return &core.StoreCall{ID: id, Timeout: sec, Fetch: &core.StoreFetch{MaxBytes: 1 << 20, Wait: 300 * ms}}
	}
	r.call(fetch(1))
	pass(w, 200*ms)
	if len(r.inbox) != 0 {
		t.Fatal("answered before there was news")
	}
	pass(w, 200*ms)
	if a := answer(t, r, 1); a.Status != core.StoreOK || len(a.Entries) != 0 {
		t.Errorf("when the wait is over: %+v", a)
	}
	r.call(fetch(2))
	pass(w, 50*ms)
	r.call(appendCall(w, 3, 1))
	pass(w, 50*ms)
	if a := answer(t, r, 2); len(a.Entries) != 1 {
		t.Errorf("when there is news: %+v", a)
	}
}

func TestStoreRestartKeepsAllAndChangesItsIdentity(t *testing.T) {
	w, r := benchStore(t)
	r.call(appendCall(w, 1, 1))
	pass(w, 100*ms)
	had := w.store.main().identity
	w.store.crash(500 * ms)
	r.call(appendCall(w, 2, 1))
	pass(w, 700*ms)
	if a := answer(t, r, 2); a.Status != core.StoreFailed {
		t.Errorf("while it was down: %+v", a)
	}
	if v := w.store.main(); !v.up || v.identity == had || v.model.Position().Last != 1 {
		t.Errorf("back as %s at %+v", v.identity, v.model.Position())
	}
}

func TestStoreFailOverLosesTheLatestAndLeavesTheOldOne(t *testing.T) {
	w, r := benchStore(t)
	for id := uint64(1); id <= 5; id++ {
		r.call(appendCall(w, id, 1))
		pass(w, 100*ms)
	}
	old := w.store.main()
	w.store.failOver(2, 100*sec)
	if got := w.store.main().model.Position().Last; got != 3 || !w.store.lossy {
		t.Fatalf("the new one ends at %d, lossy %v", got, w.store.lossy)
	}
	if !old.up {
		old.up = true // this seed took it away at once
	}
	r.client.toOldStore = true
	r.call(&core.StoreCall{ID: 9, Timeout: sec, Confirm: &core.StoreConfirm{}})
	pass(w, 50*ms)
	if a := answer(t, r, 9); a.Identity != old.identity || a.Lead.Last != 5 {
		t.Errorf("a client that was left behind: %+v", a)
	}
}

// A store whose tail skips entries breaks its contract: the service must stop, and
// say why.
func TestAStoreThatSkipsEntriesStopsTheService(t *testing.T) {
	for seed := uint64(1); seed <= 10; seed++ {
		s := named(t, "crashes")
		w := newWorld(Options{Seed: seed, Scenario: s, Log: LogCAS})
		w.store.skip = 100
		for _, v := range w.play().Violations {
			if v.Property == check.NoPanicProperty && strings.Contains(v.Text, "does not follow") {
				return
			}
			t.Errorf("seed %d: %v", seed, v)
		}
	}
	t.Error("nobody noticed")
}

func TestStoreCutsAndLosses(t *testing.T) {
	w, r := benchStore(t)
	w.nemesis.cutLinks([][2]endpoint{{w.store.main().at, r.at}}, 2*sec) // it is not heard
	r.call(appendCall(w, 1, 1))
	pass(w, sec)
	if a := answer(t, r, 1); a.Status != core.StoreFailed || w.store.main().model.Position().Last != 1 {
		t.Errorf("an answer cut off: %+v", a)
	}
	pass(w, 2*sec)
	w.store.loseCalls = 1000
	r.call(appendCall(w, 2, 1))
	pass(w, sec)
	if a := answer(t, r, 2); a.Status != core.StoreFailed || w.store.main().model.Position().Last != 1 {
		t.Errorf("a lost call: %+v", a)
	}
	w.store.loseCalls, w.store.repeat = 0, 1000
	r.call(appendCall(w, 3, 1))
	pass(w, sec)
	if a := answer(t, r, 3); a.Status != core.StoreOK || w.store.main().model.Position().Last != 2 {
		t.Errorf("a call executed twice: %+v", a)
	}
}

func TestTheFenceIsJumpedAndTheServiceGoesOn(t *testing.T) {
	jumps, elections := 0, 0
	for seed := uint64(1); seed <= 4; seed++ {
		r := Run(Options{Seed: seed, Scenario: named(t, "store-lost-writes"), Log: LogCAS})
		for _, v := range r.Violations {
			t.Errorf("seed %d: %v", seed, v)
		}
		jumps += r.Stats.Jumps
		elections += r.Stats.Elections[core.ReasonMoved]
	}
	if jumps == 0 || elections == 0 {
		t.Errorf("%d jumps, %d elections after them", jumps, elections)
	}
}

func TestAMarkThatGoesBackIsNoticed(t *testing.T) {
	for name, tt := range map[string]struct {
		next *core.StoreMark
		want int
	}{
		"on":                  {&core.StoreMark{Index: 8, Term: 3, NextFence: 5}, 0},
		"back":                {&core.StoreMark{Index: 6, Term: 3, NextFence: 5}, 1},
		"a lower fence":       {&core.StoreMark{Index: 7, Term: 3, NextFence: 4}, 1},
		"a new log":           {&core.StoreMark{Generation: 1, NextFence: 5}, 0},
		"a new log, no fence": {&core.StoreMark{Generation: 1}, 1},
	} {
		t.Run(name, func(t *testing.T) {
			w, r := benchStore(t)
			r.disk.apply(&core.Batch{Mark: &core.StoreMark{Index: 7, Term: 3, NextFence: 5}})
			r.disk.apply(&core.Batch{Mark: tt.next})
			if len(w.checks.violations) != tt.want {
				t.Errorf("violations: %v", w.checks.violations)
			}
		})
	}
}

package logtest

import (
	"bytes"
	"fmt"
	"math/rand/v2"
	"slices"
	"sync"
	"time"

	"github.com/omnirelay/leadership/core"
)

// tailNeverSkips: several readers wait for what comes and see every entry, in order,
// while appends, beats and take-overs go on.
func tailNeverSkips(b *bench) error {
	w, err := b.inOffice(1, b.direct)
	if err != nil {
		return err
	}
	appends := scale(60)
	sentAt := newClock()
	g := newGroup()
	var delays delays
	for range 5 {
		c, err := b.direct()
		if err != nil {
			return err
		}
		g.do(func() error {
			r := &reader{client: c}
			for len(r.datas()) < appends && !g.stopped() {
				before := len(r.entries)
				if _, err := r.read(core.StoreFetch{Wait: 2 * time.Second, MaxBytes: 4000}); err != nil {
					return err
				}
				for _, e := range r.entries[before:] {
					delays.add(sentAt.since(string(e.Data)))
				}
			}
			if got := r.datas(); !slices.Equal(got, sentAt.order()) {
				return fmt.Errorf("a reader saw %d entries, or others than the %d written", len(got), appends)
			}
			return nil
		})
	}
	g.do(func() error {
		rng := b.rng()
		for i := range appends {
			name := fmt.Sprint(i)
			sentAt.mark(name)
			if err := w.write(name); err != nil || g.stopped() {
				return err
			}
			if err := distract(w, rng); err != nil {
				return err
			}
		}
		return nil
	})
	err = g.end()
	b.logf("from the append to a waiting reader: %s", delays.text())
	return err
}

// distract does what happens between appends.
func distract(w *writer, rng *rand.Rand) error {
	switch rng.IntN(8) {
	case 0:
		return w.takeOver()
	case 1, 2:
		r, err := w.must(&core.StoreCall{Confirm: &core.StoreConfirm{Term: w.lead.Term, Beat: true}})
		if err == nil {
			w.saw(r)
		}
		return err
	case 3:
		time.Sleep(time.Duration(rng.IntN(20)) * time.Millisecond) // readers wait at the end
	}
	return nil
}

// clock remembers when something was sent.
type clock struct {
	mu    sync.Mutex
	at    map[string]time.Time
	names []string
}

func newClock() *clock { return &clock{at: map[string]time.Time{}} }

func (c *clock) mark(name string) {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.at[name] = time.Now()
	c.names = append(c.names, name)
}

func (c *clock) since(name string) time.Duration {
	c.mu.Lock()
	defer c.mu.Unlock()
	if at, ok := c.at[name]; ok {
		return time.Since(at)
	}
	return 0
}

func (c *clock) order() []string {
	c.mu.Lock()
	defer c.mu.Unlock()
	return slices.Clone(c.names)
}

// delays are figures for people.
type delays struct {
	mu  sync.Mutex
	all []time.Duration
}

func (d *delays) add(v time.Duration) {
	d.mu.Lock()
	defer d.mu.Unlock()
	if v > 0 {
		d.all = append(d.all, v)
	}
}

func (d *delays) text() string {
	d.mu.Lock()
	defer d.mu.Unlock()
	if len(d.all) == 0 {
		return "nothing measured"
	}
	slices.Sort(d.all)
	at := func(q int) time.Duration { return d.all[(len(d.all)-1)*q/100].Round(10 * time.Microsecond) }
	return fmt.Sprintf("p50 %v, p99 %v, max %v (%d)", at(50), at(99), at(100), len(d.all))
}

// fetchWaits: a fetch at the end of the log answers when its wait is over, with the
// lead record as it is then, and does not wait when there is something.
func fetchWaits(b *bench) error {
	w, err := b.inOffice(1, b.direct)
	if err != nil {
		return err
	}
	c, err := b.direct()
	if err != nil {
		return err
	}
	begun := time.Now()
	r := &reader{client: c}
	if _, err := r.read(core.StoreFetch{Wait: callTimeout}); err != nil {
		return err
	}
	if took := time.Since(begun); took > callTimeout/2 {
		return fmt.Errorf("something was there, and the fetch waited %v", took)
	}
	beat := w.lead.Beat
	g := newGroup()
	const wait = 600 * time.Millisecond
	g.do(func() error {
		begun := time.Now()
		reply, err := r.read(core.StoreFetch{Wait: wait})
		if took := time.Since(begun); err == nil && took > wait+grace {
			err = fmt.Errorf("nothing new within %v, and the fetch took %v", wait, took)
		}
		// Nothing says that a beat ends the waiting; at its end it is to be seen.
		if err == nil && time.Since(begun) >= wait && reply.Lead.Beat <= beat {
			err = fmt.Errorf("after waiting, the lead record of the beginning: beat %d", reply.Lead.Beat)
		}
		return err
	})
	g.do(func() error {
		for range 5 {
			if _, err := w.must(&core.StoreCall{Confirm: &core.StoreConfirm{Term: 1, Beat: true}}); err != nil {
				return err
			}
			time.Sleep(wait / 12)
		}
		return nil
	})
	return g.end()
}

// trimmingUnderReaders: while checkpoints replace the snapshot and trim the log,
// readers at any place see no gap, and each snapshot is whole and fits to the
// entries that follow.
func trimmingUnderReaders(b *bench) error {
	w, err := b.inOffice(1, b.direct)
	if err != nil {
		return err
	}
	h := &history{chains: map[uint64][]byte{1: w.lead.Chain}, sizes: map[uint64]int{}}
	g, done := newGroup(), make(chan struct{})
	for i, pace := range []struct {
		maxBytes int
		restart  bool // from the beginning, again and again
		wait     time.Duration
	}{{core.MaxFetchBytes, false, 200 * time.Millisecond}, {300, false, 0}, {core.MaxFetchBytes, true, 0}, {100, true, 0}} {
		c, err := b.direct()
		if err != nil {
			return err
		}
		g.do(func() error {
			if err := h.follow(c, core.StoreFetch{MaxBytes: pace.maxBytes, Wait: pace.wait}, pace.restart, done, g); err != nil {
				return fmt.Errorf("reader %d: %w", i, err)
			}
			return nil
		})
	}
	g.do(func() error {
		defer close(done)
		return h.make(b, w, g)
	})
	if err := g.end(); err != nil {
		return err
	}
	return h.bounded(b, w)
}

// history is what the writer of a log knows of it.
type history struct {
	mu     sync.Mutex
	chains map[uint64][]byte // by index
	sizes  map[uint64]int    // of snapshots, by index
}

// make appends and checkpoints; one snapshot in ten is large.
func (h *history) make(b *bench, w *writer, g *group) error {
	rng := b.rng()
	for i := range scale(40) {
		for range 3 {
			a := w.compose(false, pattern(w.lead.Last+1, rng.IntN(500)+1), pattern(w.lead.Last+2, rng.IntN(500)+1))
			h.mu.Lock() // a reader may see it before its writer hears of it
			for _, e := range a.Entries {
				h.chains[e.Index] = e.Chain
			}
			h.mu.Unlock()
			if err := w.append(a); err != nil || g.stopped() {
				return err
			}
		}
		size := rng.IntN(100_000)
		if i%10 == 5 {
			size = largeSnapshot()
		}
		if err := h.checkpoint(w, size, uint64(rng.IntN(10))); err != nil {
			return err
		}
	}
	return nil
}

// checkpoint makes a snapshot of the end of the log and keeps some entries before it.
func (h *history) checkpoint(w *writer, size int, keep uint64) error {
	at := w.lead.Last
	h.mu.Lock()
	h.sizes[at] = size
	h.mu.Unlock()
	snap := &core.StoredSnapshot{Index: at, Term: w.lead.Term, Chain: w.lead.Chain, Data: pattern(at, size)}
	_, err := w.must(&core.StoreCall{Timeout: caseWithin, Checkpoint: &core.StoreCheckpoint{Term: w.lead.Term, Snapshot: snap, TrimTo: at - min(at, keep)}})
	return err
}

func (h *history) follow(c *client, f core.StoreFetch, restart bool, done <-chan struct{}, g *group) error {
	r := &reader{client: c}
	for snapshots := 0; !g.stopped(); {
		before := r.snapshot
		reply, err := r.read(f)
		if err == nil {
			err = h.check(r)
		}
		if err != nil {
			return err
		}
		if r.snapshot != before {
			snapshots++
		}
		r.entries = nil
		select {
		case <-done:
			if r.after < reply.Lead.Last {
				continue
			}
			if restart && snapshots == 0 {
				return fmt.Errorf("no fetch from the beginning came upon a snapshot")
			}
			return nil
		default:
		}
		if restart && r.after >= reply.Lead.Last {
			r = &reader{client: c}
		}
	}
	return nil
}

// check compares a reader with what was written.
func (h *history) check(r *reader) error {
	h.mu.Lock()
	defer h.mu.Unlock()
	if want := h.chains[r.after]; r.after > 0 && !bytes.Equal(r.chain, want) {
		return fmt.Errorf("the chain at %d is not the one written", r.after)
	}
	s := r.snapshot
	if s == nil {
		return nil
	}
	size, made := h.sizes[s.Index]
	if !made || !bytes.Equal(s.Chain, h.chains[s.Index]) || !bytes.Equal(s.Data, pattern(s.Index, size)) {
		return fmt.Errorf("the snapshot of %d (%d bytes) is not the one made (%d bytes)", s.Index, len(s.Data), size)
	}
	return nil
}

// bounded checks that a log that was trimmed to its end holds nothing but the
// snapshot in the end, and that an older checkpoint or one of another office is refused.
func (h *history) bounded(b *bench, w *writer) error {
	if err := w.write("one more"); err != nil {
		return err
	}
	h.mu.Lock()
	h.chains[w.lead.Last] = w.lead.Chain
	h.mu.Unlock()
	if err := h.checkpoint(w, 1000, 0); err != nil {
		return err
	}
	snap := &core.StoredSnapshot{Index: w.lead.Last, Term: 1, Chain: w.lead.Chain, Data: []byte("not newer")}
	for name, c := range map[string]core.StoreCheckpoint{
		"not newer":            {Term: 1, Snapshot: snap},
		"of another office":    {Term: 2, Snapshot: &core.StoredSnapshot{Index: w.lead.Last + 1, Data: []byte("x")}},
		"of what is not there": {Term: 1, Snapshot: &core.StoredSnapshot{Index: w.lead.Last + 1, Data: []byte("x")}},
	} {
		if _, err := w.want(core.StoreRefused, &core.StoreCall{Checkpoint: &c}); err != nil {
			return fmt.Errorf("a checkpoint %s: %w", name, err)
		}
	}
	return b.poll("the log trimmed to its end", func() (bool, error) {
		r, err := wholeLog(w.client)
		if err == nil {
			err = h.check(r)
		}
		return err == nil && r.last.First == w.lead.Last+1 && len(r.entries) == 0, err
	})
}

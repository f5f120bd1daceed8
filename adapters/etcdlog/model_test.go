package etcdlog

import (
	"context"
	"fmt"
	"math/rand/v2"
	"testing"

	"google.golang.org/protobuf/proto"

	"github.com/omnirelay/leadership/adapters/storeserver"
	"github.com/omnirelay/leadership/core"
)

// TestModel makes the same calls, right and wrong ones, on etcd and on the contract
// as a program, and compares every answer.
func TestModel(t *testing.T) {
	eachEtcd(t, func(t *testing.T, server *storeserver.Server) {
		for seed := range uint64(3) {
			o := options(server.Address())
			o.Prefix = fmt.Sprintf("%sseed-%d/", testPrefix, seed)
			w := &walk{t: t, store: open(t, o), model: core.NewStoreModel(), rng: rand.New(rand.NewPCG(seed, 1)), seed: seed}
			w.identity = do(t, w.store, core.StoreOK, &core.StoreCall{Confirm: &core.StoreConfirm{}}).Identity
			for w.step = range 300 {
				w.compare(w.call())
			}
		}
	})
}

// walk is a sequence of random calls.
type walk struct {
	t        *testing.T
	store    *Store
	model    *core.StoreModel
	rng      *rand.Rand
	identity string
	seed     uint64
	step     int
	lead     core.Lead
	latest   *core.StoreAppend
	index    uint64 // of the snapshot
	audited  uint64
}

func (w *walk) compare(c *core.StoreCall) {
	c.ID, c.Timeout = uint64(w.step), patience
	got, want := w.store.Do(context.Background(), c), w.model.Do(w.identity, c)
	place := fmt.Sprintf("seed %d, step %d, call %s", w.seed, w.step, describe(c))
	switch {
	case got.ID != want.ID || got.Status != want.Status || got.Identity != want.Identity:
		w.t.Fatalf("%s: got %d %s (%s), want %d (%s)", place, got.Status, got.Identity, got.Text, want.Status, want.Text)
	case (got.Text == "") != (want.Text == ""):
		w.t.Fatalf("%s: text %q, want %q", place, got.Text, want.Text)
	case !proto.Equal(got.Lead, want.Lead):
		w.t.Fatalf("%s: lead %v, want %v", place, got.Lead, want.Lead)
	case got.First != want.First || (c.Fetch != nil || c.Publish != nil) && got.Published != want.Published || !proto.Equal(got.Snapshot, want.Snapshot):
		w.t.Fatalf("%s: first %d, published %d, snapshot %v; want %d, %d, %v", place, got.First, got.Published, got.Snapshot, want.First, want.Published, want.Snapshot)
	case fmt.Sprint(got.Attested) != fmt.Sprint(want.Attested) || len(got.Entries) != len(want.Entries) || len(got.Records) != len(want.Records):
		w.t.Fatalf("%s: attested %v, %d entries, %d records; want %v, %d, %d", place, got.Attested, len(got.Entries), len(got.Records), want.Attested, len(want.Entries), len(want.Records))
	}
	for i := range got.Entries {
		if !proto.Equal(got.Entries[i], want.Entries[i]) {
			w.t.Fatalf("%s: entry %v, want %v", place, got.Entries[i], want.Entries[i])
		}
	}
	for i := range got.Records {
		if !proto.Equal(got.Records[i], want.Records[i]) {
			w.t.Fatalf("%s: record %v, want %v", place, got.Records[i], want.Records[i])
		}
	}
	w.learn(c, want)
}

func describe(c *core.StoreCall) string {
	return fmt.Sprintf("%+v %+v %+v %+v %+v %+v %+v %+v %+v", c.Append, c.Confirm, c.Fetch, c.Publish, c.Checkpoint, c.Attest, c.Close, c.Replace, c.Trail)
}

func (w *walk) learn(c *core.StoreCall, r *core.StoreReply) {
	w.lead = core.Lead{Term: r.Lead.GetTerm(), Last: r.Lead.GetLast(), Identity: r.Lead.GetIdentity(), Generation: r.Lead.GetGeneration()}
	switch {
	case r.Status != core.StoreOK:
	case c.Publish != nil:
		w.audited = r.Published
	case c.Checkpoint != nil:
		w.index = c.Checkpoint.Snapshot.Index
	case c.Replace != nil:
		w.index = c.Replace.Snapshot.Index
		w.audited = w.model.Do(w.identity, &core.StoreCall{Fetch: &core.StoreFetch{}}).Published
	}
}

// near is n most of the time.
func (w *walk) near(n uint64) uint64 {
	switch w.rng.IntN(12) {
	case 0:
		return n + 1
	case 1:
		return n - min(n, 1)
	}
	return n
}

func (w *walk) call() *core.StoreCall {
	switch n := w.rng.IntN(100); {
	case n < 40:
		return &core.StoreCall{Append: w.append()}
	case n < 50:
		return &core.StoreCall{Confirm: &core.StoreConfirm{Term: w.near(w.lead.Term), Beat: w.rng.IntN(3) > 0}}
	case n < 70:
		return &core.StoreCall{Fetch: &core.StoreFetch{After: w.rng.Uint64N(w.lead.Last + 2), MaxBytes: w.rng.IntN(3000)}}
	case n < 78:
		return &core.StoreCall{Publish: w.publish()}
	case n < 84:
		at := w.rng.Uint64N(w.lead.Last + 2)
		return &core.StoreCall{Checkpoint: &core.StoreCheckpoint{Term: max(1, w.near(w.lead.Term)), Snapshot: w.snapshot(at), TrimTo: at - w.rng.Uint64N(at+1)}}
	case n < 88:
		return &core.StoreCall{Attest: &core.StoreAttest{Identity: w.name(), Node: core.NodeID(1 + w.rng.IntN(3)), Round: w.rng.Uint64N(2)}}
	case n < 94:
		return &core.StoreCall{Close: w.close()}
	case n < 96:
		return &core.StoreCall{Replace: w.replace()}
	}
	return &core.StoreCall{Trail: &core.StoreTrail{After: w.rng.Uint64N(w.audited + 2), Limit: w.rng.IntN(600)}}
}

// name is the server's identity, or an old one.
func (w *walk) name() string {
	if w.rng.IntN(4) == 0 {
		return "another"
	}
	return w.identity
}

func (w *walk) append() *core.StoreAppend {
	if w.latest != nil && w.rng.IntN(10) == 0 {
		return w.latest
	}
	a := &core.StoreAppend{Guard: core.Position{Term: w.near(w.lead.Term), Last: w.near(w.lead.Last)}}
	a.Adopt, a.Voters = w.rng.IntN(2) == 0, []core.NodeID{1, 2}[:w.rng.IntN(3)]
	a.Lead = &core.Lead{
		Schema: core.StoreSchema, ClusterId: testCluster, Identity: w.identity, Generation: w.lead.Generation,
		Term: max(1, a.Guard.Term+w.rng.Uint64N(2)), Holder: 1 + w.rng.Uint64N(3), AppendId: w.bytes(8), Chain: w.bytes(32), Round: w.rng.Uint64N(2),
	}
	if w.rng.IntN(10) == 0 {
		a.Lead.Identity = "another"
	}
	n := 1 + w.rng.IntN(core.MaxAppendEntries)
	if w.rng.IntN(2) == 0 {
		n = 1
	}
	for i := range uint64(n) {
		a.Entries = append(a.Entries, &core.StoredEntry{Index: a.Guard.Last + 1 + i, Term: a.Lead.Term, Data: w.bytes(w.rng.IntN(200)), Chain: w.bytes(32)})
	}
	a.Lead.Last = a.Guard.Last + uint64(n)
	w.latest = a
	return a
}

func (w *walk) bytes(n int) []byte {
	if n == 0 {
		return nil
	}
	b := make([]byte, n)
	for i := range b {
		b[i] = byte(w.rng.Uint32())
	}
	return b
}

func (w *walk) publish() *core.StorePublish {
	p := &core.StorePublish{Term: max(1, w.near(w.lead.Term)), After: w.near(w.audited)}
	first := p.After + 1
	if w.rng.IntN(6) == 0 {
		first += w.rng.Uint64N(1000)
	}
	for i := range uint64(w.rng.IntN(250)) {
		p.Records = append(p.Records, &core.Record{Seq: first + i, Revision: w.near(w.lead.Last), Scope: "global-control", Hash: w.bytes(32)})
	}
	return p
}

func (w *walk) snapshot(index uint64) *core.StoredSnapshot {
	n := w.rng.IntN(1000)
	if w.rng.IntN(8) == 0 {
		n = w.rng.IntN(4 << 20)
	}
	return &core.StoredSnapshot{Index: index, Term: 1 + w.rng.Uint64N(5), Chain: w.bytes(32), Data: w.bytes(n)}
}

func (w *walk) close() *core.StoreClose {
	c := &core.StoreClose{}
	if w.rng.IntN(3) == 0 {
		c.Reason = "closed by the test"
	}
	if w.rng.IntN(2) == 0 {
		c.Guard = &core.Position{Term: w.near(w.lead.Term), Last: w.near(w.lead.Last)}
	}
	return c
}

func (w *walk) replace() *core.StoreReplace {
	r := &core.StoreReplace{Guard: core.Position{Term: w.near(w.lead.Term), Last: w.near(w.lead.Last)}, Published: w.rng.Uint64N(w.audited + 1)}
	last := w.lead.Last + w.rng.Uint64N(3)
	r.Lead = &core.Lead{Schema: core.StoreSchema, ClusterId: testCluster, Identity: w.name(), Term: w.lead.Term + 1, Last: last, Beat: w.rng.Uint64N(100), Generation: w.lead.Generation + 1}
	r.Snapshot = w.snapshot(last)
	return r
}

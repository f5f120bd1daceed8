package logtest

import (
	"errors"
	"fmt"
	"math/rand/v2"

	"google.golang.org/protobuf/proto"

	"github.com/omnirelay/leadership/core"
)

// randomCalls: any sequence of calls, sensible ones and others, is answered as
// core.StoreModel answers it.
func randomCalls(b *bench) error {
	c, err := b.direct()
	if err != nil {
		return err
	}
	first, err := c.must(&core.StoreCall{Confirm: &core.StoreConfirm{}})
	if err != nil {
		return err
	}
	t := &twin{client: c, identity: first.Identity, model: core.NewStoreModel(), rng: b.rng(), lead: first.Lead, counts: map[string]int{}}
	t.writer = newWriter(c, 1)
	t.writer.identity = first.Identity
	t.trail = newTrail(t.writer, 1)
	for n := range scale(1200) {
		if err := t.step(); err != nil {
			return fmt.Errorf("call %d: %w", n, err)
		}
	}
	b.logf("%v", t.counts)
	return nil
}

// twin is a store beside the model.
type twin struct {
	*client
	identity string
	model    *core.StoreModel
	rng      *rand.Rand
	lead     *core.Lead
	writer   *writer
	trail    *trail
	former   []*core.StoreCall // to be made again
	snapshot uint64            // index of the newest
	replaced int
	counts   map[string]int
}

// step makes one call on both.
func (t *twin) step() error {
	call := t.next()
	want := t.model.Do(t.identity, cloneCall(call))
	got, err := t.call(call)
	if err != nil {
		return err
	}
	if err := t.same(call, got, want); err != nil {
		return fmt.Errorf("%s: %w", nameOf(call), err)
	}
	t.counts[kindOf(call)+" "+nameOfStatus(got.Status)]++
	t.lead, t.writer.lead = want.Lead, proto.CloneOf(want.Lead)
	if t.former = append(t.former, call); len(t.former) > 20 {
		t.former = t.former[1:]
	}
	if want.Status != core.StoreOK {
		return nil
	}
	switch {
	case call.Publish != nil:
		t.trail.published(call.Publish)
	case call.Checkpoint != nil:
		t.snapshot = call.Checkpoint.Snapshot.Index
		return t.trimmed()
	case call.Replace != nil:
		t.snapshot = call.Replace.Snapshot.Index
		t.trail.after = t.model.Do(t.identity, &core.StoreCall{Fetch: &core.StoreFetch{}}).Published
		return t.trimmed()
	}
	return nil
}

// trimmed waits until the store has trimmed as far as the model: it may take longer.
func (t *twin) trimmed() error {
	want := t.model.Do(t.identity, &core.StoreCall{Fetch: &core.StoreFetch{}}).First
	return t.b.poll(fmt.Sprintf("the log trimmed up to %d", want), func() (bool, error) {
		r, err := t.must(&core.StoreCall{Fetch: &core.StoreFetch{After: t.lead.GetLast(), MaxBytes: 1}})
		return err == nil && r.First == want, err
	})
}

// cloneCall: the model keeps what it is given.
func cloneCall(c *core.StoreCall) *core.StoreCall {
	d := *c
	if c.Append != nil {
		a := *c.Append
		a.Lead = proto.CloneOf(a.Lead)
		d.Append = &a
	}
	return &d
}

// next makes a call up: mostly one that makes sense now.
func (t *twin) next() *core.StoreCall {
	t.writer.lead = proto.CloneOf(t.lead)
	switch n := t.rng.IntN(100); {
	case n < 35:
		return &core.StoreCall{Append: t.append()}
	case n < 45:
		return &core.StoreCall{Confirm: &core.StoreConfirm{Term: t.term(), Beat: t.rng.IntN(3) > 0}}
	case n < 63:
		return &core.StoreCall{Fetch: &core.StoreFetch{After: t.index(), MaxBytes: t.rng.IntN(3000)}}
	case n < 72:
		return &core.StoreCall{Publish: t.publish()}
	case n < 78:
		return &core.StoreCall{Trail: &core.StoreTrail{After: t.rng.Uint64N(t.trail.after + 5), Limit: t.rng.IntN(20) + 1}}
	case n < 83:
		return &core.StoreCall{Checkpoint: t.checkpoint()}
	case n < 87:
		return &core.StoreCall{Attest: &core.StoreAttest{Identity: t.someIdentity(), Node: core.NodeID(t.rng.IntN(4) + 1), Round: t.rng.Uint64N(2)}}
	case n < 91:
		return &core.StoreCall{Close: t.close()}
	case n < 94:
		return &core.StoreCall{Replace: t.replace()}
	}
	if len(t.former) == 0 {
		return &core.StoreCall{Confirm: &core.StoreConfirm{}}
	}
	return t.former[t.rng.IntN(len(t.former))]
}

// odd is true now and then.
func (t *twin) odd(oneIn int) bool { return t.rng.IntN(oneIn) == 0 }

// near is n, or one more or less.
func (t *twin) near(n uint64) uint64 {
	return n + t.rng.Uint64N(3) - min(n, 1)
}

func (t *twin) append() *core.StoreAppend {
	var datas [][]byte
	for range 1 + t.rng.IntN(3) {
		datas = append(datas, pattern(t.rng.Uint64(), t.rng.IntN(400)))
	}
	takeOver := t.lead == nil || t.odd(5)
	a := t.writer.compose(takeOver, datas...)
	if t.odd(8) {
		a.Guard.Term = t.near(a.Guard.Term)
	}
	if t.odd(8) {
		a.Guard.Last = t.near(a.Guard.Last)
	}
	if t.odd(10) {
		a.Lead.Identity = t.someIdentity()
	}
	if t.odd(2) {
		a.Adopt, a.Lead.Round = true, t.rng.Uint64N(2)
		for v := range core.NodeID(t.rng.IntN(4)) {
			a.Voters = append(a.Voters, v+1)
		}
	}
	if t.odd(20) {
		a.Lead.Holder = 0 // it gives the office up
	}
	// Entries stand behind the guard, also behind a wrong one.
	for i, e := range a.Entries {
		e.Index = a.Guard.Last + uint64(i) + 1
		a.Lead.Last = e.Index
	}
	a.Lead.Closed = ""
	return a
}

func (t *twin) someIdentity() string {
	if t.odd(3) {
		return "another server"
	}
	return t.identity
}

func (t *twin) term() uint64 {
	if t.odd(4) {
		return t.lead.GetTerm() + 1
	}
	return max(t.lead.GetTerm(), 1)
}

// index is a place in the log or near it.
func (t *twin) index() uint64 {
	last := t.lead.GetLast()
	if t.odd(3) {
		return last
	}
	return t.rng.Uint64N(last + 3)
}

func (t *twin) publish() *core.StorePublish {
	t.trail.term = t.term()
	p := t.trail.compose(1 + t.rng.IntN(4))
	if t.odd(5) && p.After > 0 {
		p.After--
		for _, rec := range p.Records {
			rec.Seq--
		}
	}
	if t.odd(8) {
		p.Revision++
		p.Records[len(p.Records)-1].Revision++
	}
	if t.odd(8) { // behind records that nobody knows any more
		for _, rec := range p.Records {
			rec.Seq += 3
		}
	}
	return p
}

func (t *twin) checkpoint() *core.StoreCheckpoint {
	at := t.index()
	s := &core.StoredSnapshot{Index: at, Term: t.term(), Chain: pattern(at, 32), Data: pattern(at, t.rng.IntN(3000))}
	return &core.StoreCheckpoint{Term: t.term(), Snapshot: s, TrimTo: t.rng.Uint64N(at + 1)}
}

func (t *twin) close() *core.StoreClose {
	c := &core.StoreClose{}
	if t.odd(4) {
		c.Reason = "a reason"
	}
	if t.odd(2) {
		at := t.writer.position()
		if t.odd(4) {
			at.Last++
		}
		c.Guard = &at
	}
	return c
}

func (t *twin) replace() *core.StoreReplace {
	t.replaced++
	r := &core.StoreReplace{Guard: t.writer.position(), Lead: &core.Lead{
		Schema: core.StoreSchema, ClusterId: t.b.cluster, Term: t.lead.GetTerm() + 1, Last: t.lead.GetLast() + t.rng.Uint64N(5),
		Chain: pattern(uint64(t.replaced), 32), AppendId: fmt.Appendf(nil, "replace %d", t.replaced),
		Identity: t.someIdentity(), Generation: t.lead.GetGeneration() + 1, Round: t.rng.Uint64() >> 2,
	}, Published: t.rng.Uint64N(t.trail.after + 2)}
	if t.odd(3) {
		r.Guard.Term++
	}
	r.Snapshot = &core.StoredSnapshot{Index: r.Lead.Last, Term: r.Lead.Term, Chain: r.Lead.Chain, Data: pattern(r.Lead.Last, 500)}
	return r
}

// same compares the replies, but for texts and how much of the entries is fetched at
// once.
func (t *twin) same(c *core.StoreCall, got, want *core.StoreReply) error {
	if got.Status != want.Status {
		return fmt.Errorf("%s, want %s", describe(got), describe(want))
	}
	if got.Identity != t.identity {
		return fmt.Errorf("the server is %q now, it was %q", got.Identity, t.identity)
	}
	if !proto.Equal(got.Lead, want.Lead) {
		return fmt.Errorf("lead record\n%v, want\n%v", got.Lead, want.Lead)
	}
	switch {
	case c.Publish != nil && got.Published != want.Published:
		return fmt.Errorf("%d is said to be published, want %d", got.Published, want.Published)
	case got.Status != core.StoreOK:
		return nil
	case c.Trail != nil:
		return sameRecords(got.Records, want.Records)
	case c.Fetch != nil:
		return t.sameFetched(c.Fetch, got)
	}
	return nil
}

func (t *twin) sameFetched(f *core.StoreFetch, got *core.StoreReply) error {
	all := t.model.Do(t.identity, &core.StoreCall{Fetch: &core.StoreFetch{After: f.After, MaxBytes: 1 << 40}})
	switch {
	case !proto.Equal(got.Snapshot, all.Snapshot):
		return fmt.Errorf("snapshot of %d, want %d", got.Snapshot.GetIndex(), all.Snapshot.GetIndex())
	case got.First != all.First || got.Published != all.Published || fmt.Sprint(got.Attested) != fmt.Sprint(all.Attested):
		return fmt.Errorf("first %d, published %d, attested %v; want %d, %d, %v", got.First, got.Published, got.Attested, all.First, all.Published, all.Attested)
	case len(got.Entries) > len(all.Entries):
		return fmt.Errorf("%d entries, want at most %d", len(got.Entries), len(all.Entries))
	case len(got.Entries) == 0 && len(all.Entries) > 0:
		return errors.New("no entry, though there are some")
	}
	for i, e := range got.Entries {
		if !proto.Equal(e, all.Entries[i]) {
			return fmt.Errorf("entry\n%v, want\n%v", e, all.Entries[i])
		}
	}
	return notTooMuch(got, max(f.MaxBytes, 1))
}

func kindOf(c *core.StoreCall) string {
	name := nameOf(c)
	for i, r := range name {
		if r == ' ' {
			return name[:i]
		}
	}
	return name
}

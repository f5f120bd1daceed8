package redislog

import (
	"fmt"
	"math"
	"math/rand/v2"
	"testing"

	"google.golang.org/protobuf/proto"

	"github.com/omnirelay/leadership/core"
	"github.com/omnirelay/leadership/core/logpb"
)

// TestTwin makes the same random calls, sensible ones and others, on the store and
// on the contract as a program. Every reply must be the same.
func TestTwin(t *testing.T) {
	server := startServer(t)
	for seed := range uint64(12) {
		t.Run(fmt.Sprint(seed), func(t *testing.T) {
			o := testOptions(server.Address())
			o.Prefix = fmt.Sprintf("/leadership/twin-%d/", seed)
			s := openStore(t, o)
			// Numbers beyond what a double holds count as well.
			base := []uint64{0, 1<<53 - 3, math.MaxInt64 - 20, 9_999_999_990}[seed%4]
			w := &workload{rand: rand.New(rand.NewPCG(seed, 1)), model: core.NewStoreModel(), identity: identityOf(t, s), base: base}
			if base > 0 {
				w.compare(t, s, w.beginAt(base))
			}
			for range 400 {
				w.compare(t, s, w.call())
			}
		})
	}
}

// workload makes up calls that mostly fit the state of the model.
type workload struct {
	rand     *rand.Rand
	model    *core.StoreModel
	identity string
	base     uint64
	appends  int
	latest   *core.StoreAppend
}

func (w *workload) compare(t *testing.T, s *Store, c *core.StoreCall) {
	t.Helper()
	want := w.model.Do(w.identity, c)
	got := do(s, c)
	if want.Status == core.StoreRefused { // in its own words
		want.Text = got.Text
	}
	if text := difference(want, got); text != "" {
		t.Fatalf("%s\nafter %s", text, describe(c))
	}
}

func (w *workload) beginAt(n uint64) *core.StoreCall {
	lead := w.lead(n, n)
	lead.Beat = n
	return &core.StoreCall{Replace: &core.StoreReplace{Lead: lead, Snapshot: &logpb.StoredSnapshot{Index: n, Term: n, Data: []byte("s")}}}
}

func (w *workload) lead(term, last uint64) *logpb.Lead {
	w.appends++
	return &logpb.Lead{
		Schema: core.StoreSchema, ClusterId: testCluster, Term: term, Holder: w.rand.Uint64N(4), Last: last,
		Chain: w.bytes(4), AppendId: fmt.Appendf(nil, "%d\x00\xff", w.appends), Identity: w.identity, Generation: w.rand.Uint64(),
	}
}

func (w *workload) bytes(most int) []byte {
	b := make([]byte, w.rand.IntN(most+1))
	for i := range b {
		b[i] = byte(w.rand.Uint32())
	}
	return b
}

// near is n or something beside it.
func (w *workload) near(n uint64) uint64 {
	switch w.rand.IntN(8) {
	case 0:
		return n + 1
	case 1:
		return n - min(n, 1)
	}
	return n
}

func (w *workload) call() *core.StoreCall {
	at := w.model.Position()
	state := w.model.Do(w.identity, &core.StoreCall{Fetch: &core.StoreFetch{}})
	switch w.rand.IntN(20) {
	case 0, 1, 2, 3, 4, 5:
		return &core.StoreCall{Append: w.append(at)}
	case 6:
		if w.latest != nil {
			return &core.StoreCall{Append: w.latest}
		}
		fallthrough
	case 7, 8:
		return &core.StoreCall{Confirm: &core.StoreConfirm{Term: w.near(at.Term), Beat: w.rand.IntN(2) == 0}}
	case 9, 10, 11:
		return &core.StoreCall{Fetch: &core.StoreFetch{After: at.Last - min(at.Last, w.rand.Uint64N(30)), MaxBytes: w.rand.IntN(300)}}
	case 12, 13:
		return &core.StoreCall{Publish: w.publish(at.Term, state.Published)}
	case 14:
		index := w.near(at.Last - min(at.Last, w.rand.Uint64N(10)))
		return &core.StoreCall{Checkpoint: &core.StoreCheckpoint{
			Term: w.near(at.Term), TrimTo: index - min(index, w.rand.Uint64N(6)),
			Snapshot: &logpb.StoredSnapshot{Index: index, Term: at.Term, Chain: w.bytes(32), Data: w.bytes(50)},
		}}
	case 15:
		identity := w.identity
		if w.rand.IntN(3) == 0 {
			identity = "another"
		}
		return &core.StoreCall{Attest: &core.StoreAttest{Identity: identity, Node: core.NodeID(w.rand.Uint64N(5)), Round: w.rand.Uint64N(2)}}
	case 16, 17:
		return &core.StoreCall{Close: w.close(at)}
	case 18:
		return &core.StoreCall{Replace: w.replace(at, state.Published)}
	}
	return &core.StoreCall{Trail: &core.StoreTrail{After: state.Published - min(state.Published, w.rand.Uint64N(20)), Limit: w.rand.IntN(15)}}
}

func (w *workload) append(at core.Position) *core.StoreAppend {
	a := &core.StoreAppend{Guard: core.Position{Term: w.near(at.Term), Last: w.near(at.Last)}, Adopt: w.rand.IntN(2) == 0}
	for range 1 + w.rand.IntN(3) {
		index := a.Guard.Last + 1 + uint64(len(a.Entries))
		a.Entries = append(a.Entries, &logpb.StoredEntry{Index: index, Term: a.Guard.Term, Data: w.bytes(100), Chain: w.bytes(32)})
	}
	a.Lead = w.lead(a.Guard.Term+w.rand.Uint64N(2), a.Guard.Last+uint64(len(a.Entries)))
	for range w.rand.IntN(4) {
		a.Voters = append(a.Voters, core.NodeID(w.rand.Uint64N(5)))
	}
	a.Lead.Round = w.rand.Uint64N(2)
	if w.rand.IntN(8) == 0 {
		a.Lead.Identity = "another"
	}
	w.latest = a
	return a
}

func (w *workload) publish(term, after uint64) *core.StorePublish {
	p := &core.StorePublish{Term: w.near(term), After: w.near(after)}
	for i := range w.rand.Uint64N(5) {
		p.Records = append(p.Records, &core.Record{Seq: p.After + 1 + i, Reason: fmt.Sprint(w.rand.Uint32())})
	}
	return p
}

func (w *workload) close(at core.Position) *core.StoreClose {
	c := &core.StoreClose{}
	if w.rand.IntN(3) > 0 { // mostly it is opened again
		c.Guard = &core.Position{Term: w.near(at.Term), Last: w.near(at.Last)}
	}
	if w.rand.IntN(3) == 0 {
		c.Reason = "for a reason"
	}
	return c
}

func (w *workload) replace(at core.Position, published uint64) *core.StoreReplace {
	p := &core.StoreReplace{Guard: core.Position{Term: w.near(at.Term), Last: w.near(at.Last)}, Published: published - min(published, w.rand.Uint64N(8))}
	last := max(w.base, at.Last-min(at.Last, w.rand.Uint64N(20))+w.rand.Uint64N(10))
	p.Lead = w.lead(at.Term+1, last)
	p.Lead.Beat = w.base + w.rand.Uint64N(12)
	if w.rand.IntN(4) == 0 {
		p.Lead.Identity = "another"
	}
	p.Snapshot = &logpb.StoredSnapshot{Index: last, Term: at.Term, Chain: w.bytes(32), Data: w.bytes(50)}
	return p
}

// difference says where two replies differ, empty when nowhere.
func difference(want, got *core.StoreReply) string {
	w, g := *want, *got
	type list struct{ want, got []proto.Message }
	lists := []list{{messages(w.Lead), messages(g.Lead)}, {messages(w.Snapshot), messages(g.Snapshot)},
		{messages(w.Entries...), messages(g.Entries...)}, {messages(w.Records...), messages(g.Records...)}}
	for _, l := range lists {
		same := len(l.want) == len(l.got)
		for i := 0; same && i < len(l.want); i++ {
			same = proto.Equal(l.want[i], l.got[i])
		}
		if !same {
			return fmt.Sprintf("want %v\ngot  %v\ntext %s", l.want, l.got, g.Text)
		}
	}
	w.Lead, w.Snapshot, w.Entries, w.Records = nil, nil, nil, nil
	g.Lead, g.Snapshot, g.Entries, g.Records = nil, nil, nil, nil
	if a, b := fmt.Sprintf("%+v", w), fmt.Sprintf("%+v", g); a != b {
		return fmt.Sprintf("want %s\ngot  %s", a, b)
	}
	return ""
}

func messages[M interface {
	comparable
	proto.Message
}](list ...M) []proto.Message {
	var none M
	var all []proto.Message
	for _, m := range list {
		if m != none {
			all = append(all, m)
		}
	}
	return all
}

func describe(c *core.StoreCall) string {
	return fmt.Sprintf("append %+v, confirm %+v, fetch %+v, publish %+v, checkpoint %+v, attest %+v, close %+v, replace %+v, trail %+v",
		c.Append, c.Confirm, c.Fetch, c.Publish, c.Checkpoint, c.Attest, c.Close, c.Replace, c.Trail)
}

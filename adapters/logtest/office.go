package logtest

import (
	"errors"
	"fmt"
	"math/rand/v2"
	"slices"
	"strings"
	"sync"
	"time"

	"google.golang.org/protobuf/proto"

	"github.com/omnirelay/leadership/core"
)

// firstOffice: an empty store holds no log; of several who begin one at the same
// time, one does.
func firstOffice(b *bench) error {
	const many = 4
	var writers []*writer
	for n := range core.NodeID(many) {
		c, err := b.direct()
		if err != nil {
			return err
		}
		w := newWriter(c, n+1)
		if err := w.look(); err != nil {
			return err
		}
		if w.lead != nil {
			return fmt.Errorf("a new place has a lead record: %v", w.lead)
		}
		r, err := w.must(&core.StoreCall{Fetch: &core.StoreFetch{MaxBytes: 1000}})
		if err != nil {
			return err
		}
		if r.Lead != nil || r.Snapshot != nil || len(r.Entries) > 0 || r.First != 1 || r.Published != 0 {
			return fmt.Errorf("a new place is not empty: %+v", r)
		}
		writers = append(writers, w)
	}
	var mu sync.Mutex
	began := 0
	g := newGroup()
	for _, w := range writers {
		g.do(func() error {
			r, err := w.try(w.compose(true))
			if err == nil && r.Status == core.StoreOK {
				mu.Lock()
				began++
				mu.Unlock()
			}
			return err
		})
	}
	if err := g.end(); err != nil {
		return err
	}
	if began != 1 {
		return fmt.Errorf("%d of %d began the log, want one", began, many)
	}
	return nil
}

// orderAndChain: what is written is read, in order, from anywhere, in pieces of any
// size; an append at the wrong place changes nothing.
func orderAndChain(b *bench) error {
	w, err := b.inOffice(1, b.direct)
	if err != nil {
		return err
	}
	var want []string
	for i := range 40 {
		batch := []string{fmt.Sprintf("%d-a", i), fmt.Sprintf("%d-%s", i, strings.Repeat("b", i*20))}
		if err := w.write(batch...); err != nil {
			return err
		}
		want = append(want, batch...)
	}
	for _, guard := range []core.Position{
		{}, {Term: 1}, {Term: 1, Last: w.lead.Last - 1}, {Term: 1, Last: w.lead.Last + 1}, {Term: 2, Last: w.lead.Last}, {Last: w.lead.Last},
	} {
		a := w.compose(false, []byte("wrong place"))
		a.Guard, a.Lead.Last, a.Entries[0].Index = guard, guard.Last+1, guard.Last+1
		if err := w.refuse(a); err != nil {
			return fmt.Errorf("guard %v at %v: %w", guard, w.position(), err)
		}
	}
	other, err := b.direct()
	if err != nil {
		return err
	}
	for _, maxBytes := range []int{1, 100, 2000, core.MaxFetchBytes} {
		r := &reader{client: other}
		for more := true; more; more = r.after < w.lead.Last {
			reply, err := r.read(core.StoreFetch{MaxBytes: maxBytes})
			if err != nil {
				return err
			}
			if err := notTooMuch(reply, maxBytes); err != nil {
				return err
			}
		}
		if got := r.datas(); !slices.Equal(got, want) {
			return fmt.Errorf("in pieces of %d bytes: %d entries, want the %d written", maxBytes, len(got), len(want))
		}
		if !proto.Equal(r.last.Lead, w.lead) {
			return fmt.Errorf("lead record %v, want %v", r.last.Lead, w.lead)
		}
	}
	beyond := &reader{client: other, after: w.lead.Last + 5}
	reply, err := beyond.read(core.StoreFetch{})
	if err != nil {
		return err
	}
	if len(reply.Entries) > 0 || reply.Snapshot != nil || reply.Lead.Last != w.lead.Last {
		return fmt.Errorf("behind the end of the log: %v", reply)
	}
	return nil
}

// notTooMuch allows twice what was asked for: stores count encodings, not only data.
func notTooMuch(r *core.StoreReply, maxBytes int) error {
	size := 0
	for _, e := range r.Entries {
		size += len(e.Data)
	}
	if len(r.Entries) > 1 && size > 2*maxBytes {
		return fmt.Errorf("%d entries of %d bytes were fetched, asked for about %d", len(r.Entries), size, maxBytes)
	}
	return nil
}

// appendsWhole: whoever reads while appends of several entries are made sees each
// whole or not at all, and the lead record fits to what is there.
func appendsWhole(b *bench) error {
	const size = 7
	w, err := b.inOffice(1, b.direct)
	if err != nil {
		return err
	}
	g, done := newGroup(), make(chan struct{})
	for range 3 {
		c, err := b.direct()
		if err != nil {
			return err
		}
		g.do(func() error { return readWhole(c, size, done, g) })
	}
	g.do(func() error {
		defer close(done)
		for i := range scale(60) {
			var batch []string
			for k := range size {
				batch = append(batch, fmt.Sprintf("%d.%d", i, k))
			}
			if err := w.write(batch...); err != nil || g.stopped() {
				return err
			}
		}
		return nil
	})
	return g.end()
}

func readWhole(c *client, size int, done <-chan struct{}, g *group) error {
	for last := false; !last && !g.stopped(); {
		select {
		case <-done:
			last = true
		default:
		}
		r := &reader{client: c}
		reply, err := r.read(core.StoreFetch{})
		if err != nil {
			return err
		}
		// The first entry is that of the office.
		if n := len(r.entries) - 1; n%size != 0 || reply.Lead.Last != uint64(n+1) {
			return fmt.Errorf("%d entries of appends of %d were seen, the lead record ends at %d", n, size, reply.Lead.Last)
		}
	}
	return nil
}

// rival is one of several registrars that take the office from one another.
type rival struct {
	*writer
	acknowledged []string
	refused      []string
	offices      int
}

// twoRegistrars: appends and take-overs of several registrars at once give one order.
// The log is read afterwards: the chain is unbroken, everything acknowledged is in it
// once, nothing refused is, and the entries of one term are of one registrar.
func twoRegistrars(b *bench) error {
	rivals := make([]*rival, 3)
	for i := range rivals {
		c, err := b.direct()
		if err != nil {
			return err
		}
		rivals[i] = &rival{writer: newWriter(c, core.NodeID(i+1))}
	}
	rng := b.rng()
	// In bouts, so that none is done before another has begun.
	for bout := range scale(20) {
		g := newGroup()
		for _, r := range rivals {
			seed := rng.Uint64()
			g.do(func() error { return r.contend(bout, rand.New(rand.NewPCG(seed, 1))) })
		}
		if err := g.end(); err != nil {
			return err
		}
	}
	log, err := wholeLog(rivals[0].client)
	if err != nil {
		return err
	}
	offices, refused, err := judgeRivals(b, log, rivals)
	if err == nil && (uint64(offices) != log.term || offices < 2 || refused == 0) {
		err = fmt.Errorf("%d offices won, the log ends in term %d, %d entries refused: nobody contended", offices, log.term, refused)
	}
	return err
}

// contend makes a few appends, each on what was last seen: as the holder, or to take
// the office over.
func (r *rival) contend(bout int, rng *rand.Rand) error {
	for i := range 4 {
		prefix := fmt.Sprintf("%d/%d.%d", r.node, bout, i)
		var err error
		if r.lead == nil || core.NodeID(r.lead.Holder) != r.node || rng.IntN(6) == 0 {
			err = r.challenge(prefix + "/over")
		} else {
			var names []string
			for k := range 1 + rng.IntN(3) {
				names = append(names, fmt.Sprintf("%s/%d", prefix, k))
			}
			_, err = r.offer(false, names...)
		}
		if err != nil {
			return fmt.Errorf("registrar %d: %w", r.node, err)
		}
	}
	return nil
}

// challenge takes the office on what was last seen, often too late.
func (r *rival) challenge(name string) error {
	if r.identity == "" {
		if err := r.look(); err != nil {
			return err
		}
	}
	reply, err := r.offer(true, name)
	if err == nil && reply.Status == core.StoreOK {
		r.offices++
	}
	return err
}

// offer makes an append and keeps what became of it.
func (r *rival) offer(takeOver bool, names ...string) (*core.StoreReply, error) {
	var datas [][]byte
	for _, name := range names {
		datas = append(datas, []byte(name))
	}
	reply, err := r.try(r.compose(takeOver, datas...))
	if err != nil {
		return nil, err
	}
	switch reply.Status {
	case core.StoreOK:
		r.acknowledged = append(r.acknowledged, names...)
	case core.StoreRefused:
		r.refused = append(r.refused, names...)
		r.lead = reply.Lead
	}
	return reply, nil
}

// judgeRivals reads in the log what became of everything that was tried.
func judgeRivals(b *bench, log *reader, rivals []*rival) (offices, refused int, err error) {
	count, err := entriesByName(log)
	if err != nil {
		return 0, 0, err
	}
	acknowledged := 0
	for _, r := range rivals {
		offices, acknowledged, refused = offices+r.offices, acknowledged+len(r.acknowledged), refused+len(r.refused)
		if err := containsInOrder(log.datas(), r.acknowledged); err != nil {
			return 0, 0, err
		}
		for _, name := range r.acknowledged {
			if count[name] != 1 {
				return 0, 0, fmt.Errorf("%s was acknowledged and is in the log %d times", name, count[name])
			}
		}
		for _, name := range r.refused {
			if count[name] != 0 {
				return 0, 0, fmt.Errorf("%s was refused and is in the log", name)
			}
		}
	}
	b.logf("%d offices, %d entries acknowledged, %d refused", offices, acknowledged, refused)
	return offices, refused, nil
}

// entriesByName counts the entries, those of one term being of one registrar.
func entriesByName(log *reader) (map[string]int, error) {
	count, holders := map[string]int{}, map[uint64]string{}
	for _, e := range log.entries {
		if len(e.Data) == 0 {
			continue
		}
		count[string(e.Data)]++
		who, _, _ := strings.Cut(string(e.Data), "/")
		if h := holders[e.Term]; h != "" && h != who {
			return nil, fmt.Errorf("term %d has entries of registrars %s and %s", e.Term, h, who)
		}
		holders[e.Term] = who
	}
	return count, nil
}

// repeatedAppend: an append made again is answered as the first time, and is in the
// log once; a former one made again is refused.
func repeatedAppend(b *bench) error {
	w, err := b.inOffice(1, b.direct)
	if err != nil {
		return err
	}
	a := w.compose(false, []byte("a"), []byte("b"))
	for range 3 {
		if err := w.append(a); err != nil {
			return err
		}
	}
	other, err := b.direct() // another connection, as after a restart of ours
	if err != nil {
		return err
	}
	if err := newWriter(other, 1).append(a); err != nil {
		return err
	}
	if err := w.write("c"); err != nil {
		return err
	}
	if err := w.refuse(a); err != nil {
		return err
	}
	over := w.compose(true)
	for range 2 {
		if err := w.append(over); err != nil {
			return err
		}
	}
	if err := w.refuse(a); err != nil {
		return err
	}
	log, err := wholeLog(other)
	if err != nil {
		return err
	}
	if got := strings.Join(log.datas(), " "); got != "a b c" || log.after != 5 {
		return fmt.Errorf("the log holds %q up to %d, want a b c up to 5", got, log.after)
	}
	return nil
}

// beatsSeen: a beat of the office is seen by others, one of another term is not made,
// and appends keep the count.
func beatsSeen(b *bench) error {
	w, err := b.inOffice(1, b.direct)
	if err != nil {
		return err
	}
	other, err := b.direct()
	if err != nil {
		return err
	}
	want := w.lead.Beat
	for i := range 10 {
		if err := w.write(fmt.Sprint(i)); err != nil {
			return err
		}
		r, err := w.must(&core.StoreCall{Confirm: &core.StoreConfirm{Term: 1, Beat: true}})
		if err != nil {
			return err
		}
		want++
		for _, idle := range []core.StoreConfirm{{Term: 2, Beat: true}, {Term: 0, Beat: true}, {Term: 1}} {
			if _, err := w.must(&core.StoreCall{Confirm: &idle}); err != nil {
				return err
			}
		}
		seen, err := (&reader{client: other, after: w.lead.Last, chain: w.lead.Chain, term: w.lead.Term}).read(core.StoreFetch{})
		if err != nil {
			return err
		}
		if r.Lead.Beat != want || seen.Lead.Beat != want {
			return fmt.Errorf("beat %d was answered with %d and is seen as %d", want, r.Lead.Beat, seen.Lead.Beat)
		}
	}
	return nil
}

// manyCallers: all kinds of calls at once on one open store.
func manyCallers(b *bench) error {
	w, err := b.inOffice(1, b.direct)
	if err != nil {
		return err
	}
	g, done := newGroup(), make(chan struct{})
	for _, call := range []func() *core.StoreCall{
		func() *core.StoreCall { return &core.StoreCall{Confirm: &core.StoreConfirm{Term: 1, Beat: true}} },
		func() *core.StoreCall { return &core.StoreCall{Confirm: &core.StoreConfirm{Term: 1}} },
		func() *core.StoreCall { return &core.StoreCall{Fetch: &core.StoreFetch{MaxBytes: 10_000}} },
		func() *core.StoreCall {
			return &core.StoreCall{Fetch: &core.StoreFetch{After: 1 << 40, MaxBytes: 1, Wait: 50 * time.Millisecond}}
		},
		func() *core.StoreCall { return &core.StoreCall{Trail: &core.StoreTrail{Limit: 10}} },
		func() *core.StoreCall {
			return &core.StoreCall{Attest: &core.StoreAttest{Identity: w.identity, Node: 1}}
		},
	} {
		for range 2 {
			g.do(func() error {
				for !g.stopped() {
					if _, err := w.must(call()); err != nil {
						return err
					}
					select {
					case <-done:
						return nil
					default:
					}
				}
				return nil
			})
		}
	}
	trail := newTrail(w, 1)
	g.do(func() error {
		for !g.stopped() {
			select {
			case <-done:
				return nil
			default:
			}
			if _, err := trail.publish(1); err != nil {
				return err
			}
		}
		return nil
	})
	g.do(func() error {
		defer close(done)
		own := newWriter(w.client, 1)
		if err := own.look(); err != nil {
			return err
		}
		for i := range scale(50) {
			if err := own.write(fmt.Sprint(i)); err != nil || g.stopped() {
				return err
			}
		}
		return nil
	})
	if err := g.end(); err != nil {
		return err
	}
	log, err := wholeLog(w.client)
	if err == nil && len(log.datas()) != scale(50) {
		err = fmt.Errorf("%d entries, want %d", len(log.datas()), scale(50))
	}
	return err
}

// otherCluster: a log of another cluster is neither read nor written.
func otherCluster(b *bench) error {
	w, err := b.inOffice(1, b.direct)
	if err != nil {
		return err
	}
	if err := w.write("a"); err != nil {
		return err
	}
	mine := b.cluster
	b.cluster = "another"
	defer func() { b.cluster = mine }()
	if err := mustBeUnfit(b, mine); err != nil {
		return err
	}
	b.cluster = mine
	log, err := wholeLog(w.client)
	if err == nil && strings.Join(log.datas(), " ") != "a" {
		err = fmt.Errorf("the log holds %q, want a", log.datas())
	}
	return err
}

// mustBeUnfit opens the log and makes calls that write: opening must fail, or all of them
// must end unfit, and say want.
func mustBeUnfit(b *bench, want string) error {
	c, err := b.direct()
	if err != nil {
		if !strings.Contains(err.Error(), want) {
			return fmt.Errorf("opening fails, but does not say %q: %w", want, err)
		}
		return nil
	}
	w := newWriter(c, 9)
	r, err := w.want(core.StoreUnfit, &core.StoreCall{Fetch: &core.StoreFetch{MaxBytes: 1000}})
	if err != nil {
		return err
	}
	if !strings.Contains(r.Text, want) {
		return fmt.Errorf("a fetch is unfit, but does not say %q: %s", want, r.Text)
	}
	w.identity = "unknown"
	r, err = w.call(&core.StoreCall{Append: w.compose(true)})
	if err == nil && r.Status == core.StoreOK {
		err = errors.New("an append was made on data that is unfit")
	}
	return err
}

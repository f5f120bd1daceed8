package logtest

import (
	"bytes"
	"crypto/sha256"
	"fmt"
	"maps"
	"strings"

	"google.golang.org/protobuf/proto"

	"github.com/omnirelay/leadership/core"
)

// trail publishes audit records as a registrar does.
type trail struct {
	*writer
	term  uint64
	after uint64
	hash  []byte
	sent  []*core.Record
}

func newTrail(w *writer, term uint64) *trail { return &trail{writer: w, term: term} }

// compose makes the n next records.
func (t *trail) compose(n int) *core.StorePublish { return t.composeFrom(t.after+1, n) }

// composeFrom makes n records of the newest entry that the writer knows: elections and
// losses of a few scopes in turn.
func (t *trail) composeFrom(first uint64, n int) *core.StorePublish {
	revision := t.lead.GetLast()
	p := &core.StorePublish{Term: t.term, After: t.after, Revision: revision}
	prev := t.hash
	for i := range uint64(n) {
		seq := first + i
		hash := sha256.Sum256(fmt.Appendf(nil, "%d of term %d", seq, t.term))
		kind := uint32(core.EventElected)
		if seq%3 == 0 {
			kind = uint32(core.EventLost)
		}
		p.Records = append(p.Records, &core.Record{
			Seq: seq, Revision: revision, Ordinal: uint32(i), Kind: kind, Scope: fmt.Sprintf("shard/logtest/%02d", seq%7), ScopeKind: "shard",
			Labels: map[string]string{"zone": "a"}, MemberId: "m1", Session: 1, Term: seq, Fence: seq,
			CorrelationId: fmt.Sprintf("c-%d", seq), Actor: "logtest", WallNs: int64(seq), IssuedWallNs: int64(seq),
			PrevHash: prev, Hash: hash[:],
		})
		prev = hash[:]
	}
	return p
}

// publish makes the n next records known; a refusal is no error.
func (t *trail) publish(n int) (*core.StoreReply, error) {
	p := t.compose(n)
	r, err := t.call(&core.StoreCall{Publish: p})
	if err == nil && r.Status == core.StoreOK {
		t.published(p)
	}
	return r, err
}

func (t *trail) published(p *core.StorePublish) {
	last := p.Records[len(p.Records)-1]
	t.after, t.hash, t.sent = last.Seq, last.Hash, append(t.sent, p.Records...)
}

// readTrail reads all published records, in pieces.
func readTrail(c *client, limit int) ([]*core.Record, error) {
	var all []*core.Record
	for after := uint64(0); ; {
		r, err := c.must(&core.StoreCall{Trail: &core.StoreTrail{After: after, Limit: limit}})
		if err != nil || len(r.Records) == 0 {
			return all, err
		}
		if len(r.Records) > limit {
			return all, fmt.Errorf("%d records, asked for at most %d", len(r.Records), limit)
		}
		for _, rec := range r.Records {
			if after++; rec.Seq != after {
				return all, fmt.Errorf("record %d in the place of %d", rec.Seq, after)
			}
		}
		all = append(all, r.Records...)
	}
}

func sameRecords(got, want []*core.Record) error {
	if len(got) != len(want) {
		return fmt.Errorf("%d records are published, want %d", len(got), len(want))
	}
	for i := range got {
		if !proto.Equal(got[i], want[i]) {
			return fmt.Errorf("record %d is\n%v, want\n%v", i+1, got[i], want[i])
		}
	}
	return nil
}

// publishedOnce: records are published in order, once however often it is tried, by
// the office alone.
func publishedOnce(b *bench) error {
	w, err := b.inOffice(1, b.direct)
	if err != nil {
		return err
	}
	t := newTrail(w, 1)
	for _, n := range []int{1, 3, 250, 1} {
		p := t.compose(n)
		if _, err := w.must(&core.StoreCall{Publish: p}); err != nil {
			return err
		}
		// Its answer lost, a registrar tries again; a fetch tells it that all is there.
		if _, err := w.want(core.StoreRefused, &core.StoreCall{Publish: p}); err != nil {
			return err
		}
		t.published(p)
		r, err := w.must(&core.StoreCall{Fetch: &core.StoreFetch{After: w.lead.Last, MaxBytes: 1}})
		if err != nil {
			return err
		}
		if r.Published != t.after {
			return fmt.Errorf("%d records are said to be published, want %d", r.Published, t.after)
		}
	}
	gap := t.compose(2)
	gap.After++
	for _, rec := range gap.Records {
		rec.Seq++
	}
	former := t.compose(1)
	former.Term = 0
	ahead := t.compose(2)
	ahead.Records[1].Revision++
	ahead.Revision++
	for name, p := range map[string]*core.StorePublish{"another place": gap, "another term": former, "of an entry that is not there": ahead} {
		if _, err := w.want(core.StoreRefused, &core.StoreCall{Publish: p}); err != nil {
			return fmt.Errorf("%s: %w", name, err)
		}
	}
	rival, err := b.inOffice(2, b.direct)
	if err != nil {
		return err
	}
	if _, err := w.want(core.StoreRefused, &core.StoreCall{Publish: t.compose(1)}); err != nil {
		return err
	}
	t.writer, t.term = rival, 2
	if r, err := t.publish(2); err != nil || r.Status != core.StoreOK {
		return fmt.Errorf("publishing in the next office: %v, %w", r, err)
	}
	for _, limit := range []int{7, 1000} {
		got, err := readTrail(rival.client, limit)
		if err == nil {
			err = sameRecords(got, t.sent)
		}
		if err != nil {
			return err
		}
	}
	return nil
}

// trailBeginsLate: what a registrar still knows of the audit trail may begin behind
// what is published, after a move from a store that keeps the newest records only.
func trailBeginsLate(b *bench) error {
	w, err := b.inOffice(1, b.direct)
	if err != nil {
		return err
	}
	t := newTrail(w, 1)
	var want []*core.Record
	for _, begins := range []uint64{5000, 6000} {
		p := newTrail(w, 1).composeFrom(begins, 3)
		p.After = t.after
		if _, err := w.must(&core.StoreCall{Publish: p}); err != nil {
			return fmt.Errorf("records from %d on, behind %d: %w", begins, t.after, err)
		}
		t.published(p)
		want = append(want, p.Records...)
	}
	r, err := w.must(&core.StoreCall{Fetch: &core.StoreFetch{After: w.lead.Last, MaxBytes: 1}})
	if err != nil {
		return err
	}
	if r.Published != 6002 {
		return fmt.Errorf("%d is said to be published, want 6002", r.Published)
	}
	r, err = w.must(&core.StoreCall{Trail: &core.StoreTrail{After: 10, Limit: 100}})
	if err == nil {
		err = sameRecords(r.Records, want)
	}
	return err
}

// attestAndAdopt: a log is adopted on another server only when every voter's latest
// attestation of that server is of the round of the adoption. The server stays the one it is here: the lead record names another.
func attestAndAdopt(b *bench) error {
	w, err := b.inOffice(1, b.direct)
	if err != nil {
		return err
	}
	// An operator moves the log to a server of which it does not know who it is.
	moved := proto.CloneOf(w.lead)
	moved.Identity, moved.Term = "another server", 2
	moved.Generation++
	moved.AppendId = []byte("moved")
	_, err = w.must(&core.StoreCall{Replace: &core.StoreReplace{Guard: w.position(), Lead: moved,
		Snapshot: &core.StoredSnapshot{Index: moved.Last, Term: 1, Chain: moved.Chain, Data: []byte("state")}}})
	if err != nil {
		return err
	}
	if err := w.look(); err != nil {
		return err
	}
	voters := []core.NodeID{1, 2, 3}
	adopt := func(voters []core.NodeID) *core.StoreAppend {
		a := w.compose(true)
		a.Adopt, a.Voters, a.Lead.Round = true, voters, 7
		return a
	}
	if err := w.refuse(w.compose(true)); err != nil {
		return fmt.Errorf("an append on another server: %w", err)
	}
	if err := w.refuse(adopt(voters)); err != nil {
		return fmt.Errorf("adopted, attested by nobody: %w", err)
	}
	if err := w.refuse(adopt(nil)); err != nil {
		return fmt.Errorf("adopted without voters: %w", err)
	}
	if _, err := w.want(core.StoreRefused, &core.StoreCall{Attest: &core.StoreAttest{Identity: "another server", Node: 1}}); err != nil {
		return fmt.Errorf("attesting a server that this one is not: %w", err)
	}
	attest := func(v core.NodeID, round uint64) error {
		_, err := w.must(&core.StoreCall{Attest: &core.StoreAttest{Identity: w.identity, Node: v, Round: round}})
		return err
	}
	for _, v := range []core.NodeID{1, 3, 3} {
		if err := attest(v, 7); err != nil {
			return err
		}
		if err := w.refuse(adopt(voters)); err != nil {
			return fmt.Errorf("adopted, not attested by all: %w", err)
		}
	}
	// One that has attested another server since is here in a later round: the two
	// others must say anew that they have not.
	for _, said := range []struct{ node, round uint64 }{{2, 8}, {2, 6}, {1, 1 << 40}} {
		if err := attest(core.NodeID(said.node), said.round); err != nil {
			return err
		}
		if err := w.refuse(adopt(voters)); err != nil {
			return fmt.Errorf("adopted in a round that not all attested in: %w", err)
		}
	}
	if err := attestedIn(w, map[core.NodeID]uint64{1: 1 << 40, 2: 6, 3: 7}); err != nil {
		return err
	}
	for v := range core.NodeID(2) {
		if err := attest(v+1, 7); err != nil {
			return err
		}
	}
	if err := w.append(adopt(voters)); err != nil {
		return fmt.Errorf("adopting, attested by all: %w", err)
	}
	if err := attestedIn(w, map[core.NodeID]uint64{1: 7, 2: 7, 3: 7}); err != nil {
		return err
	}
	if err := w.write("as ever"); err != nil {
		return err
	}
	return replacedUnattested(w)
}

// replacedUnattested: what was attested was said of the log before a replacement.
func replacedUnattested(w *writer) error {
	next := proto.CloneOf(w.lead)
	next.Term, next.AppendId = next.Term+1, []byte("replaced again")
	next.Generation++
	_, err := w.must(&core.StoreCall{Replace: &core.StoreReplace{Guard: w.position(), Lead: next,
		Snapshot: &core.StoredSnapshot{Index: next.Last, Term: next.Term, Chain: next.Chain, Data: []byte("state")}}})
	if err != nil {
		return err
	}
	if err := w.look(); err != nil {
		return err
	}
	return attestedIn(w, map[core.NodeID]uint64{})
}

// attestedIn compares who attested, and in which round.
func attestedIn(w *writer, want map[core.NodeID]uint64) error {
	r, err := w.must(&core.StoreCall{Fetch: &core.StoreFetch{After: w.lead.Last, MaxBytes: 1}})
	if err == nil && !maps.Equal(r.Attested, want) {
		err = fmt.Errorf("attested by %v (node: round), want %v", r.Attested, want)
	}
	return err
}

// closeAndReplace: a closed log takes no append until it is opened; a whole log is
// replaced only where the operator believes it to stand.
func closeAndReplace(b *bench) error {
	c, err := b.direct()
	if err != nil {
		return err
	}
	if _, err := c.want(core.StoreRefused, &core.StoreCall{Close: &core.StoreClose{Reason: "none yet"}}); err != nil {
		return fmt.Errorf("closing what is not there: %w", err)
	}
	w := newWriter(c, 1)
	if err := w.takeOver(); err != nil {
		return err
	}
	if err := w.write("a", "b"); err != nil {
		return err
	}
	if err := closes(w); err != nil {
		return err
	}
	t := newTrail(w, 1)
	if r, err := t.publish(20); err != nil || r.Status != core.StoreOK {
		return fmt.Errorf("publishing: %v, %w", r, err)
	}
	return replaces(b, w, t)
}

func closes(w *writer) error {
	elsewhere := core.Position{Term: w.lead.Term, Last: w.lead.Last - 1}
	here := w.position()
	for _, c := range []struct {
		call core.StoreClose
		want core.StoreStatus
	}{
		{core.StoreClose{Guard: &elsewhere, Reason: "at another place"}, core.StoreRefused},
		{core.StoreClose{Guard: &core.Position{Term: w.lead.Term + 1}, Reason: "in another term"}, core.StoreRefused},
		{core.StoreClose{Guard: &here, Identity: "another", Reason: "on another server"}, core.StoreRefused},
		{core.StoreClose{Guard: &core.Position{Term: w.lead.Term}, Identity: w.lead.Identity, Reason: "a server lost something"}, core.StoreOK},
		{core.StoreClose{}, core.StoreOK},
		{core.StoreClose{Guard: &here, Reason: "a server lost something"}, core.StoreOK},
		{core.StoreClose{Reason: "closed already"}, core.StoreRefused},
	} {
		r, err := w.want(c.want, &core.StoreCall{Close: &c.call})
		if err != nil {
			return err
		}
		w.saw(r)
	}
	if w.lead.Closed != "a server lost something" {
		return fmt.Errorf("closed because %q, want the first reason", w.lead.Closed)
	}
	for _, a := range []*core.StoreAppend{w.compose(false, []byte("x")), w.compose(true)} {
		a.Lead.Closed = ""
		if err := w.refuse(a); err != nil {
			return fmt.Errorf("on a closed log: %w", err)
		}
	}
	r, err := w.must(&core.StoreCall{Close: &core.StoreClose{}})
	if err != nil {
		return err
	}
	w.saw(r)
	return w.write("c")
}

func replaces(b *bench, w *writer, t *trail) error {
	lead := proto.CloneOf(w.lead)
	lead.Term, lead.Holder, lead.Last, lead.Generation = lead.Term+5, 0, lead.Last+100, lead.Generation+1
	chain := sha256.Sum256([]byte("a new beginning"))
	lead.Chain, lead.AppendId = chain[:], []byte("replaced")
	snap := &core.StoredSnapshot{Index: lead.Last, Term: lead.Term, Chain: lead.Chain, Data: []byte("all of it")}
	call := &core.StoreCall{Replace: &core.StoreReplace{Guard: core.Position{Term: 1, Last: 1}, Lead: lead, Snapshot: snap, Published: 12}}
	if _, err := w.want(core.StoreRefused, call); err != nil {
		return err
	}
	call.Replace.Guard = w.position()
	r, err := w.must(call)
	if err != nil {
		return err
	}
	if !proto.Equal(r.Lead, lead) {
		return fmt.Errorf("replaced by %v, want %v", r.Lead, lead)
	}
	if _, err := w.want(core.StoreRefused, call); err != nil {
		return fmt.Errorf("replaced a second time: %w", err)
	}
	log, err := wholeLog(w.client)
	if err != nil {
		return err
	}
	if !proto.Equal(log.snapshot, snap) || len(log.entries) > 0 || log.last.First != lead.Last+1 || log.last.Published != 12 {
		return fmt.Errorf("after the replacement: snapshot of %d, %d entries, first %d, %d published", log.snapshot.GetIndex(), len(log.entries), log.last.First, log.last.Published)
	}
	got, err := readTrail(w.client, 100)
	if err == nil {
		err = sameRecords(got, t.sent[:12])
	}
	if err != nil {
		return err
	}
	next, err := b.inOffice(2, b.direct)
	if err != nil {
		return err
	}
	return next.write("after the new beginning")
}

// limits: what core may ask for at most, a store takes and gives back.
func limits(b *bench) error {
	w, err := b.inOffice(1, b.direct)
	if err != nil {
		return err
	}
	small := make([]string, core.MaxAppendEntries)
	for i := range small {
		small[i] = strings.Repeat(fmt.Sprint(i%10), core.MaxAppendBytes/core.MaxAppendEntries)
	}
	if err := w.write(small...); err != nil {
		return fmt.Errorf("the largest append: %w", err)
	}
	large := strings.Repeat("x", core.MaxBatchBytes+64<<10) // a batch and what is around it
	if err := w.write(large); err != nil {
		return fmt.Errorf("the largest entry: %w", err)
	}
	for range 8 {
		if err := w.write(small...); err != nil {
			return err
		}
	}
	if err := fetchesLarge(w, small[0], large); err != nil {
		return err
	}
	if err := publishesLarge(w); err != nil {
		return err
	}
	snap := &core.StoredSnapshot{Index: w.lead.Last, Term: 1, Chain: w.lead.Chain, Data: pattern(w.lead.Last, largeSnapshot())}
	if _, err := w.must(&core.StoreCall{Timeout: caseWithin, Checkpoint: &core.StoreCheckpoint{Term: 1, Snapshot: snap, TrimTo: w.lead.Last}}); err != nil {
		return err
	}
	return b.poll("the snapshot, and nothing else", func() (bool, error) {
		log, err := wholeLog(w.client)
		return err == nil && len(log.entries) == 0 && proto.Equal(log.snapshot, snap), err
	})
}

func fetchesLarge(w *writer, small, large string) error {
	r := &reader{client: w.client}
	for more := true; more; more = r.after < w.lead.Last {
		reply, err := r.read(core.StoreFetch{})
		if err == nil {
			err = notTooMuch(reply, core.MaxFetchBytes)
		}
		if err != nil {
			return err
		}
	}
	datas := r.datas()
	if want := 9*core.MaxAppendEntries + 1; len(datas) != want || datas[0] != small || datas[core.MaxAppendEntries] != large {
		return fmt.Errorf("%d entries, want %d with the contents written", len(datas), want)
	}
	return nil
}

func publishesLarge(w *writer) error {
	t := newTrail(w, 1)
	p := t.compose(core.MaxPublishRecords)
	for _, rec := range p.Records {
		rec.Reason, rec.Actor = strings.Repeat("r", core.MaxReason), strings.Repeat("a", core.MaxActor)
		rec.MemberId, rec.CorrelationId = strings.Repeat("m", core.MaxMemberID), strings.Repeat("c", core.MaxCorrelationID)
	}
	if _, err := w.must(&core.StoreCall{Publish: p}); err != nil {
		return err
	}
	got, err := readTrail(w.client, core.MaxPublishRecords)
	if err == nil {
		err = sameRecords(got, p.Records)
	}
	return err
}

// pattern is a content of a snapshot that shows which it is and whether it is whole.
func pattern(index uint64, size int) []byte {
	unit := sha256.Sum256(fmt.Appendf(nil, "snapshot %d", index))
	return bytes.Repeat(unit[:], size/len(unit)+1)[:size]
}

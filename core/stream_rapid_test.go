package core

import (
	"bytes"
	"fmt"
	"maps"
	"testing"

	"google.golang.org/protobuf/proto"
	"pgregory.net/rapid"

	"github.com/omnirelay/leadership/core/logpb"
)

// reader follows a stream as a client does: it keeps the last cursor, loses its
// connection anywhere, and resumes.
type reader struct {
	filter  Filter
	s       *Subscription
	cursor  *Cursor
	leaders map[string]uint64 // scope to fence
	partial bool              // within a snapshot
	next    int               // the first record it has not seen
}

// streamMachine feeds a registry with a short history and lets readers of any
// speed follow it. A reader that has read all there is must know exactly the
// leaders, and must have seen every record after the snapshot it began with once.
type streamMachine struct {
	*registryMachine
	all     []*Record // for ever
	readers []*reader
}

func TestAnyStreamReplaysToTheState(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		m := &streamMachine{registryMachine: &registryMachine{g: NewRegistry(0), term: 1}}
		m.g.history.limit = rapid.IntRange(1, 30).Draw(t, "records kept")
		for _, scope := range []string{"", "", "s", GlobalControl} {
			m.readers = append(m.readers, &reader{filter: Filter{Scope: scope}, s: NewSubscription(Filter{Scope: scope}, nil)})
		}
		t.Repeat(map[string]func(*rapid.T){
			"entry": m.feed, "entry more": m.feed, "entry most": m.feed,
			"poll": m.poll, "poll more": m.poll,
			"reconnect": m.reconnect,
			"restore":   m.restore,
			"":          m.lookUp,
		})
		for _, r := range m.readers {
			m.read(t, r, 1000)
			m.caughtUp(t, r)
		}
	})
}

func (m *streamMachine) feed(t *rapid.T) {
	e := &logpb.Entry{}
	for range rapid.IntRange(0, 4).Draw(t, "commands") {
		e.Commands = append(e.Commands, m.command(t))
	}
	out, err := m.g.Apply(m.g.revision+1, m.term, must(proto.Marshal(e)))
	if err != nil {
		t.Fatal(err)
	}
	m.all = append(m.all, out.Records...)
}

func (m *streamMachine) restore(t *rapid.T) {
	limit := m.g.history.limit
	restored, err := Restore(m.g.Snapshot(), 0)
	if err != nil {
		t.Fatal(err)
	}
	restored.history.limit = limit
	m.g = restored
}

func (m *streamMachine) someReader(t *rapid.T) *reader {
	return rapid.SampledFrom(m.readers).Draw(t, "reader")
}

func (m *streamMachine) reconnect(t *rapid.T) {
	r := m.someReader(t)
	if r.partial {
		r.cursor, r.partial = nil, false // left within a snapshot: it starts over
	}
	if r.cursor != nil { // the cursor travels as text
		c, err := ParseCursor(r.cursor.String())
		if err != nil {
			t.Fatal(err)
		}
		r.cursor = &c
	}
	r.s = NewSubscription(r.filter, r.cursor)
}

func (m *streamMachine) poll(t *rapid.T) {
	m.read(t, m.someReader(t), rapid.IntRange(1, 5).Draw(t, "items"))
}

func (m *streamMachine) read(t *rapid.T, r *reader, limit int) {
	items := r.s.Poll(m.g, limit)
	if len(items) > limit {
		t.Fatalf("%d items of at most %d", len(items), limit)
	}
	for i := range items {
		m.take(t, r, &items[i])
	}
	if len(items) < limit {
		m.caughtUp(t, r)
	}
}

func (m *streamMachine) take(t *rapid.T, r *reader, item *StreamItem) {
	switch {
	case item.Kind == EventObserved && item.Reason == ReasonResync:
		r.cursor = nil
		r.leaders, r.partial = map[string]uint64{}, true
	case item.Kind == EventSnapshot:
		if !r.partial {
			r.leaders, r.partial = map[string]uint64{}, true
		}
		r.leaders[item.Token.Scope] = item.Token.Fence
	case item.Kind == EventObserved && item.Reason == ReasonSnapshotEnd:
		if !r.partial {
			r.leaders = map[string]uint64{}
		}
		r.partial, r.cursor = false, &Cursor{item.Cursor.Revision, item.Cursor.Ordinal}
		for r.next = 0; r.next < len(m.all) && cursorOf(m.all[r.next]).Compare(item.Cursor) <= 0; r.next++ {
		}
	default:
		m.takeEvent(t, r, item)
	}
}

// takeEvent: it is the very next record that the filter admits.
func (m *streamMachine) takeEvent(t *rapid.T, r *reader, item *StreamItem) {
	for r.next < len(m.all) && !r.filter.admits(m.all[r.next].Scope) {
		r.next++
	}
	if r.partial || r.next >= len(m.all) || m.all[r.next].Seq != item.Record.Seq {
		t.Fatalf("was told %s out of turn", storyRecord(item.Record))
	}
	r.next++
	if r.cursor != nil && item.Cursor.Compare(*r.cursor) <= 0 {
		t.Fatalf("cursor %v after %v", item.Cursor, *r.cursor)
	}
	r.cursor = &Cursor{item.Cursor.Revision, item.Cursor.Ordinal}
	switch k := EventKind(item.Record.Kind); {
	case k == EventElected:
		r.leaders[item.Record.Scope] = item.Record.Fence
	case k.EndsLeadership():
		delete(r.leaders, item.Record.Scope)
	}
}

// caughtUp: a reader that was given less than it asked for knows the leaders.
func (m *streamMachine) caughtUp(t *rapid.T, r *reader) {
	want := map[string]uint64{}
	for _, tok := range m.g.Tokens() {
		if r.filter.admits(tok.Scope) {
			want[tok.Scope] = tok.Fence
		}
	}
	if r.partial || !maps.Equal(want, r.leaders) {
		t.Fatalf("a reader of %q knows %v, the registry %v; within a snapshot: %v", r.filter.Scope, r.leaders, want, r.partial)
	}
}

// lookUp: the history holds the newest records, and finds them from any place.
func (m *streamMachine) lookUp(t *rapid.T) {
	h := m.g.History()
	if want := min(len(m.all), h.limit); h.Len() != want {
		t.Fatalf("%d records are kept of %d, the limit is %d", h.Len(), len(m.all), h.limit)
	}
	for seq := range uint64(len(m.all) + 2) {
		records, ok := h.AfterSeq(seq, 3)
		kept := int(seq) >= len(m.all)-h.limit
		if ok != kept {
			t.Fatalf("after %d of %d with %d kept: %v", seq, len(m.all), h.limit, ok)
		}
		if want := m.all[min(int(seq), len(m.all)):]; ok {
			m.sameRecords(t, records, want[:min(len(want), 3)])
		}
	}
	for i := max(0, len(m.all)-h.limit); i < len(m.all); i++ {
		records, ok := h.After(cursorOf(m.all[i]), 2)
		if want := m.all[i+1:]; ok {
			m.sameRecords(t, records, want[:min(len(want), 2)])
		} else {
			t.Fatalf("the cursor of record %d is gone", i)
		}
	}
}

func (m *streamMachine) sameRecords(t *rapid.T, got, want []*Record) {
	if len(got) != len(want) {
		t.Fatalf("%d records, want %d", len(got), len(want))
	}
	for i := range got {
		if !bytes.Equal(got[i].Hash, want[i].Hash) {
			t.Fatalf("%s, want %s", storyRecord(got[i]), storyRecord(want[i]))
		}
	}
}

func TestHistoryTakesAnyArguments(t *testing.T) {
	g := NewRegistry(0)
	apply(t, g, declare("d", "s", "t"))
	h := g.History()
	for _, limit := range []int{-1, 0, 1, 1 << 62} {
		for _, seq := range []uint64{0, 1, 2, 3, 1 << 62, 1 << 63, ^uint64(0)} {
			if records, ok := h.AfterSeq(seq, limit); !ok || len(records) > max(0, limit) {
				t.Errorf("AfterSeq(%d, %d): %d records, %v", seq, limit, len(records), ok)
			}
		}
		if records, ok := h.After(Cursor{}, limit); !ok || len(records) > max(0, limit) {
			t.Errorf("After(0.0, %d): %d records, %v", limit, len(records), ok)
		}
	}
}

// A record that was touched, dropped or swapped breaks the chain.
func TestTheChainShowsDamage(t *testing.T) {
	g := NewRegistry(0)
	for i := range 4 {
		apply(t, g, declare(fmt.Sprint("d", i), fmt.Sprint("s", i)))
	}
	records, _ := g.History().AfterSeq(0, 10)
	damage := map[string]func([]*Record) []*Record{
		"touched": func(r []*Record) []*Record {
			r[1] = proto.Clone(r[1]).(*Record)
			r[1].Fence++
			return r
		},
		"dropped": func(r []*Record) []*Record { return append(r[:1:1], r[2:]...) },
		"swapped": func(r []*Record) []*Record { r[1], r[2] = r[2], r[1]; return r },
		"twice":   func(r []*Record) []*Record { return append(r[:2:2], r[1:]...) },
	}
	if err := VerifyChain(nil, records); err != nil {
		t.Fatal(err)
	}
	for name, do := range damage {
		if VerifyChain(nil, do(append([]*Record(nil), records...))) == nil {
			t.Errorf("a record %s was not noticed", name)
		}
	}
}

func TestCursorsSurviveTheirText(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		c := Cursor{Revision: rapid.Uint64().Draw(t, "revision"), Ordinal: rapid.Uint32().Draw(t, "ordinal")}
		d := Cursor{Revision: rapid.Uint64().Draw(t, "other revision"), Ordinal: rapid.Uint32().Draw(t, "other ordinal")}
		if parsed, err := ParseCursor(c.String()); err != nil || parsed != c {
			t.Fatalf("%v became %v, %v", c, parsed, err)
		}
		if c.Compare(d) != -d.Compare(c) || c.Compare(c) != 0 || (c.Compare(d) == 0) != (c == d) {
			t.Fatalf("%v and %v compare as %d and %d", c, d, c.Compare(d), d.Compare(c))
		}
	})
}

// The window of replies against a list that forgets nothing.
func TestReplyWindowForgetsByType(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		w := newReplyWindow()
		w.limit = rapid.IntRange(1, 6).Draw(t, "limit")
		executed := map[string]uint64{}
		for index := uint64(1); index <= 40; index++ {
			id := fmt.Sprint("r", rapid.IntRange(0, 25).Draw(t, "request"))
			at, before := executed[id]
			// A retry carries the base it was first sent with: before its execution.
			base := index - 1
			if before {
				base = rapid.Uint64Range(0, at-1).Draw(t, "base")
			}
			switch r := w.lookup(id, base); {
			case r == nil && before:
				t.Fatalf("%s, executed at %d, passes again at %d with base %d", id, at, index, base)
			case r == nil:
				w.keep(id, index, &Result{Revision: index})
				executed[id] = index
			case r.Code == "" && r.Revision != at:
				t.Fatalf("%s was replied to with that of %d, not %d", id, r.Revision, at)
			case r.Code != "" && !before:
				t.Fatalf("%s is new and was refused: %v", id, r)
			}
			if len(w.replies) > w.limit || len(w.replies) != len(w.order) {
				t.Fatalf("%d replies are kept, %d in order, of %d", len(w.replies), len(w.order), w.limit)
			}
		}
	})
}

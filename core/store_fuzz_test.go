package core

import (
	"testing"
	"time"

	"google.golang.org/protobuf/proto"

	"github.com/omnirelay/leadership/core/logpb"
)

// Whatever a store answers, a replica neither panics nor spins, and what it knows
// to have been there never shrinks.
func FuzzStoreReplies(f *testing.F) {
	lead, _ := proto.Marshal(&Lead{Schema: 1, ClusterId: "bench", Term: 1, Holder: 2, Last: 1, Identity: "s", Chain: ChainEntry(nil, 1, 1, nil)})
	entry, _ := proto.Marshal(&StoredEntry{Index: 1, Term: 1, Chain: ChainEntry(nil, 1, 1, nil)})
	f.Add([]byte{1, 1, 1, 1, 2, 1}, lead, entry, []byte{})
	g := NewRegistry(0)
	_, _ = g.Apply(1, 1, nil)
	data, _ := marshalSnapshot(g.Snapshot())
	snap, _ := proto.Marshal(&StoredSnapshot{Index: 1, Term: 1, Data: data})
	f.Add([]byte{1, 9, 1, 3, 1}, lead, entry, snap)
	f.Fuzz(func(t *testing.T, script, lead, entry, snapshot []byte) {
		cfg := Config{ID: 1, Voters: []NodeID{1, 2}, ClusterID: "bench", Seed: 1, Store: true}
		w := &scriptedStore{now: 1}
		r, err := NewReplica(cfg, Boot{}, 1)
		if err != nil {
			t.Fatal(err)
		}
		d := NewDrive(r, w, w)
		for i, op := range script {
			if i > 200 {
				return
			}
			w.answer(op, lead, entry, snapshot)
			if d.Turn() != nil {
				return // it halted, with a reason
			}
			for range 8 {
				if next := d.Deadline(); next > w.now {
					w.now = min(next, w.now.Add(time.Second))
					break
				}
				if d.Turn() != nil {
					return
				}
			}
			if d.Deadline() < w.now {
				t.Fatalf("the deadline stays in the past after %d answers", i)
			}
			if w.shrunk {
				t.Fatal("the mark shrank")
			}
		}
	})
}

type scriptedStore struct {
	now    Time
	calls  []StoreCall
	inbox  []Input
	mark   *StoreMark
	shrunk bool
}

func (w *scriptedStore) Persist(b Batch) error {
	if m := b.Mark; m != nil {
		if had := w.mark; had != nil && (m.Generation < had.Generation || m.NextFence < had.NextFence || m.NextSession < had.NextSession ||
			m.Generation == had.Generation && m.Index < had.Index) {
			w.shrunk = true
		}
		w.mark = m
	}
	return nil
}
func (w *scriptedStore) Drain() []Input  { in := w.inbox; w.inbox = nil; return in }
func (w *scriptedStore) Now() Time       { return w.now }
func (w *scriptedStore) Wall() int64     { return int64(w.now) }
func (w *scriptedStore) Emit(e Emission) { w.calls = append(w.calls, e.Calls...) }

// answer takes the oldest call and answers it as the bits of op say.
func (w *scriptedStore) answer(op byte, lead, entry, snapshot []byte) {
	if len(w.calls) == 0 {
		return
	}
	c := w.calls[0]
	w.calls = w.calls[1:]
	r := &StoreReply{ID: c.ID, Status: StoreStatus(1 + op%3), Identity: []string{"s", "other"}[op>>2&1], First: uint64(op >> 3 & 1)}
	if op>>4&1 == 0 {
		l := &Lead{}
		if proto.Unmarshal(lead, l) == nil {
			if c.Append != nil && op>>5&1 == 1 {
				l = c.Append.Lead
			}
			r.Lead = proto.Clone(l).(*logpb.Lead)
		}
	}
	if e := (&StoredEntry{}); op>>5&1 == 0 && proto.Unmarshal(entry, e) == nil {
		r.Entries = append(r.Entries, e)
	}
	if s := (&StoredSnapshot{}); op>>6&1 == 1 && proto.Unmarshal(snapshot, s) == nil {
		r.Snapshot = s
	}
	if op>>7 == 1 {
		r.Attested = map[NodeID]uint64{1: 1, 2: uint64(1 + op&1)}
	}
	w.inbox = append(w.inbox, Input{Store: r})
}

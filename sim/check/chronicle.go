package check

import (
	"fmt"
	"maps"
	"slices"
	"sort"

	"go.etcd.io/raft/v3/raftpb"
	"google.golang.org/protobuf/proto"

	"github.com/omnirelay/leadership/core"
	"github.com/omnirelay/leadership/core/logpb"
)

// Chronicle is the history as it was first seen on any replica: what every other
// account of it is compared with.
type Chronicle struct {
	entries  map[uint64]*raftpb.Entry
	decoded  map[uint64]*logpb.Entry
	requests map[string][]uint64 // indexes of the entries that carry the request
	records  []*core.Record      // by Seq, from 1
	acked    map[string]uint64   // acknowledged requests: revision of the reply
}

func NewChronicle() *Chronicle {
	return &Chronicle{entries: map[uint64]*raftpb.Entry{}, decoded: map[uint64]*logpb.Entry{}, requests: map[string][]uint64{}, acked: map[string]uint64{}}
}

// enter notes an applied entry and returns what stood at its index before.
func (h *Chronicle) enter(e *raftpb.Entry) *raftpb.Entry {
	if had := h.entries[e.GetIndex()]; had != nil {
		return had
	}
	h.entries[e.GetIndex()] = e
	for _, c := range h.Commands(e.GetIndex()) {
		if c.RequestId != "" {
			h.requests[c.RequestId] = append(h.requests[c.RequestId], e.GetIndex())
		}
	}
	return nil
}

// Relocated tells that an operator let the log go on from a revision: what was
// behind it is lost.
func (h *Chronicle) Relocated(kept uint64) {
	maps.DeleteFunc(h.entries, func(i uint64, _ *raftpb.Entry) bool { return i > kept })
	maps.DeleteFunc(h.decoded, func(i uint64, _ *logpb.Entry) bool { return i > kept })
	maps.DeleteFunc(h.acked, func(_ string, revision uint64) bool { return revision > kept })
	for id, at := range h.requests {
		h.requests[id] = slices.DeleteFunc(at, func(i uint64) bool { return i > kept })
	}
	h.records = h.records[:h.RecordsUpTo(kept)]
}

// Has reports whether some replica applied an entry at index.
func (h *Chronicle) Has(index uint64) bool { return h.entries[index] != nil }

// Term is the term of the entry at index, 0 when it is unknown.
func (h *Chronicle) Term(index uint64) uint64 { return h.entries[index].GetTerm() }

// Commands returns the commands of the entry at index, nil when it is unknown.
func (h *Chronicle) Commands(index uint64) []*logpb.Command {
	if d := h.decoded[index]; d != nil {
		return d.Commands
	}
	e := h.entries[index]
	if e == nil || e.GetType() != raftpb.EntryNormal || len(e.GetData()) == 0 {
		return nil
	}
	d := new(logpb.Entry)
	if proto.Unmarshal(e.GetData(), d) != nil {
		return nil
	}
	h.decoded[index] = d
	return d.Commands
}

// record notes a record. had is the one noted before under its number; neither
// had nor fresh when its predecessor is unknown.
func (h *Chronicle) record(r *core.Record) (had *core.Record, fresh bool) {
	n := uint64(len(h.records))
	switch {
	case r.Seq >= 1 && r.Seq <= n:
		return h.records[r.Seq-1], false
	case r.Seq == n+1:
		h.records = append(h.records, r)
		return nil, true
	}
	return nil, false
}

// Records returns all records, by number from 1. Not to be modified.
func (h *Chronicle) Records() []*core.Record { return h.records }

// RecordsUpTo counts the records of all revisions up to the given one.
func (h *Chronicle) RecordsUpTo(revision uint64) uint64 {
	return uint64(sort.Search(len(h.records), func(i int) bool { return h.records[i].Revision > revision }))
}

// contradict reports the acknowledged requests that the second account of an
// entry does not have.
func (h *Chronicle) contradict(at int64, report Report, first, second *raftpb.Entry) {
	kept := map[string]bool{}
	d := new(logpb.Entry)
	if proto.Unmarshal(second.GetData(), d) == nil {
		for _, c := range d.Commands {
			kept[c.RequestId] = true
		}
	}
	for _, c := range h.Commands(first.GetIndex()) {
		if _, acked := h.acked[c.RequestId]; acked && !kept[c.RequestId] {
			report.plain(DurableProperty, at, "request %s was acknowledged at index %d, which holds another entry now", c.RequestId, first.GetIndex())
		}
	}
}

// describe names what an entry carries.
func describe(e *raftpb.Entry) string {
	d := new(logpb.Entry)
	if e.GetType() != raftpb.EntryNormal || len(e.GetData()) == 0 {
		return "empty"
	}
	if err := proto.Unmarshal(e.GetData(), d); err != nil {
		return "not decodable"
	}
	if len(d.Commands) == 0 {
		return "no commands"
	}
	return fmt.Sprintf("%d commands, first %T %s", len(d.Commands), d.Commands[0].Kind, d.Commands[0].RequestId)
}

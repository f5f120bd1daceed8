package core

import (
	"bytes"
	"fmt"
	"sort"
)

// History holds the latest MaxHistory records in order: what streams resume from,
// and the part of the audit trail that travels with snapshots. Records are
// chained: each holds the hash of the one before it.
type History struct {
	records []*Record
	nextSeq uint64
	head    []byte // hash of the newest record, kept or not
	floor   Cursor // of the newest record that is no longer kept
	limit   int
	// incidents holds, by what it tells, the number of the newest record of a split-brain
	// that is kept. It follows from the records.
	incidents map[incident]uint64
}

func newHistory() History {
	return History{nextSeq: 1, limit: MaxHistory, incidents: map[incident]uint64{}}
}

// append numbers and chains a record.
func (h *History) append(r *Record) {
	r.Seq = h.nextSeq
	r.PrevHash = h.head
	r.Hash = hashRecord(r)
	h.nextSeq++
	h.head = r.Hash
	h.records = append(h.records, r)
	h.index(r)
	if len(h.records) > h.limit {
		h.unindex(h.records[0])
		if c := cursorOf(h.records[0]); c.Compare(h.floor) > 0 {
			h.floor = c
		}
		h.records[0] = nil
		h.records = h.records[1:]
	}
}

func (h *History) index(r *Record) {
	if EventKind(r.Kind) == EventSplitBrain {
		h.incidents[incidentOf(r)] = r.Seq
	}
}

func (h *History) unindex(r *Record) {
	if EventKind(r.Kind) == EventSplitBrain && h.incidents[incidentOf(r)] == r.Seq {
		delete(h.incidents, incidentOf(r))
	}
}

// reported says whether a record of a split-brain is kept.
func (h *History) reported(i incident) bool { return h.incidents[i] != 0 }

// Len is the number of records kept.
func (h *History) Len() int { return len(h.records) }

// First is the oldest record kept, nil when there is none.
func (h *History) First() *Record {
	if len(h.records) == 0 {
		return nil
	}
	return h.records[0]
}

// Last is the newest record, nil when there is none.
func (h *History) Last() *Record {
	if len(h.records) == 0 {
		return nil
	}
	return h.records[len(h.records)-1]
}

// Head is the sequence number and hash of the newest record ever made; 0 and nil
// when there was none.
func (h *History) Head() (seq uint64, hash []byte) { return h.nextSeq - 1, h.head }

// After returns up to limit records that follow c. ok is false when some of them
// are no longer kept.
func (h *History) After(c Cursor, limit int) (records []*Record, ok bool) {
	if c.Compare(h.floor) < 0 {
		return nil, false
	}
	i := sort.Search(len(h.records), func(i int) bool { return cursorOf(h.records[i]).Compare(c) > 0 })
	return upTo(h.records[i:], limit), true
}

func upTo(records []*Record, limit int) []*Record {
	return records[:max(0, min(len(records), limit))]
}

// AfterSeq returns up to limit records with a sequence number above seq. ok is
// false when some of them are no longer kept.
func (h *History) AfterSeq(seq uint64, limit int) (records []*Record, ok bool) {
	first := h.nextSeq - uint64(len(h.records))
	if seq >= h.nextSeq {
		return nil, true
	}
	if seq+1 < first {
		return nil, false
	}
	return upTo(h.records[seq+1-first:], limit), true
}

// VerifyChain checks that records are consecutive and untouched, and that the
// first follows prev (nil: it is the first of all, or prev is not known).
func VerifyChain(prev *Record, records []*Record) error {
	for _, r := range records {
		if !bytes.Equal(r.Hash, hashRecord(r)) {
			return fmt.Errorf("audit record %d: its hash does not match its content", r.Seq)
		}
		if prev != nil && (r.Seq != prev.Seq+1 || !bytes.Equal(r.PrevHash, prev.Hash)) {
			return fmt.Errorf("audit record %d does not follow record %d", r.Seq, prev.Seq)
		}
		prev = r
	}
	return nil
}

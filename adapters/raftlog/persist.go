package raftlog

import (
	"bytes"
	"errors"
	"fmt"

	"go.etcd.io/bbolt"
	"go.etcd.io/raft/v3/raftpb"
	"google.golang.org/protobuf/proto"

	"github.com/omnirelay/leadership/core"
)

// Persist makes b durable in one transaction: two fsyncs. Its first error shuts
// the log; a batch that contradicts what is stored is an error too, so that no log
// is written that Open would refuse.
func (l *Log) Persist(b core.Batch) error {
	return l.update("persist", func(s *step) error { return s.apply(b) })
}

// step is the state on its way through one transaction.
type step struct {
	state
	id identity
	tx *bbolt.Tx
}

func (s *step) apply(b core.Batch) error {
	mark := b.Mark
	b.Mark = nil
	switch {
	case s.id.store == storeRaft && mark != nil:
		return errNoMark
	case s.id.store == storeRaft:
		return s.applyRaft(b)
	case !b.Empty() || b.CompactTo != 0 || len(b.Records) > 0:
		return errOnlyMark
	case mark != nil:
		return s.setMark(mark)
	}
	return nil
}

// applyRaft follows the order of the batch's fields.
func (s *step) applyRaft(b core.Batch) error {
	base, _ := s.base()
	committed := max(s.commit, base)
	if b.Install != nil {
		if err := s.install(b.Install); err != nil {
			return err
		}
		committed = s.snapIndex
	}
	if h := b.HardState; h != nil {
		if err := s.setHardState(h); err != nil {
			return err
		}
	}
	if len(b.Entries) > 0 {
		if err := s.append(b.Entries, committed); err != nil {
			return err
		}
	}
	if b.Checkpoint != nil {
		if err := s.checkpoint(b.Checkpoint); err != nil {
			return err
		}
	}
	if err := s.compact(b.CompactTo); err != nil {
		return err
	}
	return s.audit(b.Records, b.AuditedTo)
}

func (s *step) setHardState(h *raftpb.HardState) error {
	vote := s.vote
	switch {
	case h.GetTerm() < s.term:
		return fmt.Errorf("hard state: term %d after term %d", h.GetTerm(), s.term)
	case h.GetTerm() == s.term && vote != 0 && h.GetVote() != vote:
		return fmt.Errorf("hard state: vote for %d after a vote for %d in term %d", h.GetVote(), vote, s.term)
	case h.GetCommit() < s.commit:
		return fmt.Errorf("hard state: commit index %d after %d", h.GetCommit(), s.commit)
	}
	s.hard, s.term, s.vote, s.commit = 1, h.GetTerm(), h.GetVote(), h.GetCommit()
	return nil
}

// install replaces snapshot and entries. The audit trail stays; see joinTrail.
func (s *step) install(snap *raftpb.Snapshot) error {
	index := snap.GetMetadata().GetIndex()
	if base, _ := s.base(); index <= max(s.commit, base) {
		return fmt.Errorf("install: snapshot at %d, but %d is committed here", index, max(s.commit, base))
	}
	if err := s.storeSnapshot(snap); err != nil {
		return err
	}
	s.installedAt, s.first, s.last = index, 0, 0
	// A snapshot holds committed entries only.
	s.commit = index
	return s.empty(entriesBucket)
}

func (s *step) checkpoint(snap *raftpb.Snapshot) error {
	index, term := snap.GetMetadata().GetIndex(), snap.GetMetadata().GetTerm()
	if base, _ := s.base(); index <= base || index > s.commit {
		return fmt.Errorf("checkpoint: snapshot at %d, want one after %d and up to %d", index, base, s.commit)
	}
	if stored, err := s.termOf(index); err != nil {
		return err
	} else if stored != term {
		return fmt.Errorf("checkpoint: snapshot of term %d, but entry %d is of term %d", term, index, stored)
	}
	return s.storeSnapshot(snap)
}

func (s *step) storeSnapshot(snap *raftpb.Snapshot) error {
	data, err := proto.Marshal(snap)
	if err != nil {
		return err
	}
	s.snapIndex, s.snapTerm = snap.GetMetadata().GetIndex(), snap.GetMetadata().GetTerm()
	return put(s.tx, snapshotBucket, snapshotKey, data)
}

// empty drops all of a bucket.
func (s *step) empty(bucket []byte) error {
	if err := s.tx.DeleteBucket(bucket); err != nil {
		return err
	}
	_, err := s.tx.CreateBucket(bucket)
	return err
}

// append stores entries and drops the ones they replace and all behind those.
// committed entries are never replaced.
func (s *step) append(entries []*raftpb.Entry, committed uint64) error {
	from := entries[0].GetIndex()
	switch {
	case from <= committed:
		return fmt.Errorf("entry %d: entries up to %d are committed", from, committed)
	case from > s.end()+1:
		return fmt.Errorf("entry %d: a gap after entry %d", from, s.end())
	}
	term, err := s.termOf(from - 1)
	if err != nil {
		return err
	}
	if err := s.drop(from, s.last); err != nil {
		return err
	}
	for i, e := range entries {
		index := from + uint64(i)
		if e.GetIndex() != index {
			return fmt.Errorf("entry %d: want entry %d next", e.GetIndex(), index)
		}
		if e.GetTerm() < term || e.GetTerm() > s.term {
			return fmt.Errorf("entry %d: term %d, want %d to %d", index, e.GetTerm(), term, s.term)
		}
		if err := putMessage(s.tx, entriesBucket, index, e); err != nil {
			return err
		}
		term = e.GetTerm()
	}
	if s.first == 0 {
		s.first = from
	}
	s.last = from + uint64(len(entries)) - 1
	return nil
}

// termOf returns the term of an entry or of the snapshot they build on.
func (s *step) termOf(index uint64) (uint64, error) {
	if base, term := s.base(); index == base {
		return term, nil
	}
	e := new(raftpb.Entry)
	if err := getMessage(s.tx, entriesBucket, index, e); err != nil {
		return 0, err
	}
	return e.GetTerm(), nil
}

// compact drops the entries up to index.
func (s *step) compact(index uint64) error {
	if index > s.snapIndex {
		return fmt.Errorf("compact: up to %d, but the snapshot covers %d", index, s.snapIndex)
	}
	if s.first == 0 || index < s.first {
		return nil
	}
	if err := s.drop(s.first, index); err != nil {
		return err
	}
	if s.first = index + 1; s.first > s.last {
		s.first, s.last = 0, 0
	}
	return nil
}

// drop deletes the entries from first to last; none when last is before first.
func (s *step) drop(first, last uint64) error {
	bucket := s.tx.Bucket(entriesBucket)
	for index := first; index <= last; index++ {
		if err := bucket.Delete(position(index)); err != nil {
			return err
		}
	}
	return nil
}

// audit appends records to the trail and moves the mark.
func (s *step) audit(records []*core.Record, auditedTo uint64) error {
	if auditedTo != 0 && auditedTo < s.auditedTo {
		return fmt.Errorf("audited to %d after %d", auditedTo, s.auditedTo)
	}
	if n := len(records); n > 0 && records[n-1].Revision > auditedTo {
		return fmt.Errorf("audit record %d is of revision %d, but audited only to %d", records[n-1].Seq, records[n-1].Revision, auditedTo)
	}
	records, err := s.joinTrail(records)
	if err != nil {
		return err
	}
	if err := s.extendTrail(records); err != nil {
		return err
	}
	s.auditedTo = max(s.auditedTo, auditedTo)
	return nil
}

// joinTrail fits the records that came with a received snapshot to the trail here:
// it returns those not stored yet. When the snapshot did not hold all that is
// missing, the trail starts anew with what it did hold.
func (s *step) joinTrail(records []*core.Record) ([]*core.Record, error) {
	if len(records) == 0 || s.lastSeq == 0 || s.auditedTo >= s.installedAt {
		return records, nil
	}
	if records[0].Seq > s.lastSeq+1 {
		s.firstSeq, s.lastSeq = 0, 0
		return records, s.empty(recordsBucket)
	}
	for len(records) > 0 && records[0].Seq <= s.lastSeq {
		if seq := records[0].Seq; seq >= s.firstSeq {
			stored := new(core.Record)
			if err := getMessage(s.tx, recordsBucket, seq, stored); err != nil {
				return nil, err
			}
			if !bytes.Equal(stored.Hash, records[0].Hash) {
				return nil, fmt.Errorf("audit record %d differs from the one stored", seq)
			}
		}
		records = records[1:]
	}
	return records, nil
}

func (s *step) extendTrail(records []*core.Record) error {
	var last *core.Record
	if s.lastSeq != 0 && len(records) > 0 {
		last = new(core.Record)
		if err := getMessage(s.tx, recordsBucket, s.lastSeq, last); err != nil {
			return err
		}
	}
	for _, r := range records {
		if err := follows(last, r); err != nil {
			return err
		}
		if err := putMessage(s.tx, recordsBucket, r.Seq, r); err != nil {
			return err
		}
		last = r
	}
	if last != nil {
		s.lastSeq = last.Seq
	}
	if s.firstSeq == 0 && len(records) > 0 {
		s.firstSeq = records[0].Seq
	}
	return nil
}

// follows checks that r is the record after last; nil: r is the first kept. What a
// record says is not looked at: the checksum covers it, and core.VerifyChain
// proves it.
func follows(last, r *core.Record) error {
	switch {
	case r.Seq == 0:
		return errors.New("an audit record without a number")
	case last == nil:
		return nil
	case r.Seq != last.Seq+1:
		return fmt.Errorf("audit record %d: want record %d next", r.Seq, last.Seq+1)
	case !bytes.Equal(r.PrevHash, last.Hash):
		return fmt.Errorf("audit record %d: it does not hold the hash of record %d", r.Seq, last.Seq)
	}
	return nil
}

func putMessage(tx *bbolt.Tx, bucket []byte, number uint64, m proto.Message) error {
	data, err := proto.Marshal(m)
	if err != nil {
		return fmt.Errorf("%s %d: %w", bucket, number, err)
	}
	return put(tx, bucket, position(number), data)
}

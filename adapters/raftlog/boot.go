package raftlog

import (
	"encoding/binary"
	"errors"
	"fmt"

	"go.etcd.io/bbolt"
	"go.etcd.io/raft/v3/raftpb"
	"google.golang.org/protobuf/proto"

	"github.com/omnirelay/leadership/core"
)

// load reads and verifies everything.
func (l *Log) load(want identity, sealed bool) (core.Boot, error) {
	r := &reader{path: l.path, sealed: sealed}
	err := shield(func() error {
		return l.db.View(func(tx *bbolt.Tx) error {
			r.tx = tx
			return r.read(want)
		})
	})
	if err != nil {
		return core.Boot{}, l.loadRefusal(err)
	}
	l.state = r.state
	return r.boot, nil
}

func (l *Log) loadRefusal(err error) error {
	var refusal *Refusal
	if errors.As(err, &refusal) {
		return refusal
	}
	r := damaged(l.path, "its content does not add up")
	r.Err = err
	return r
}

// reader collects a boot.
type reader struct {
	path   string
	sealed bool // a sealed log is read too
	tx     *bbolt.Tx
	state  state
	boot   core.Boot
}

func (r *reader) read(want identity) error {
	if err := r.identity(want); err != nil {
		return err
	}
	for _, name := range [][]byte{snapshotBucket, entriesBucket, recordsBucket} {
		if r.tx.Bucket(name) == nil {
			return fmt.Errorf("bucket %s is missing", name)
		}
	}
	if err := r.readState(); err != nil {
		return err
	}
	parts := []func() error{r.snapshot, r.entries, r.records}
	if want.store != storeRaft {
		parts = append(parts, r.mark)
	}
	for _, part := range parts {
		if err := part(); err != nil {
			return err
		}
	}
	return nil
}

func (r *reader) identity(want identity) error {
	if r.tx.Bucket(metaBucket) == nil {
		return foreign(r.path, "a bbolt file of another program")
	}
	payload, err := get(r.tx, metaBucket, identityKey)
	if err != nil {
		return err
	}
	found, err := decodeIdentity(payload)
	if err != nil {
		return fmt.Errorf("meta identity: %w", err)
	}
	switch {
	case found.schema > schema:
		return &Refusal{Reason: ReasonNewer, Path: r.path,
			Found:  fmt.Sprintf("written by a newer program: schema %d, this one knows up to %d", found.schema, schema),
			Remedy: "run the newer program; there is no way back to the older one"}
	case found.cluster != want.cluster:
		return r.otherOwner(fmt.Sprintf("it belongs to cluster %q, this is %q", found.cluster, want.cluster))
	case found.node != want.node:
		return r.otherOwner(fmt.Sprintf("it belongs to node %d, this is node %d", found.node, want.node))
	}
	if err := r.seal(); err != nil || found.store == want.store {
		return err
	}
	return otherStore(r.path, found.store, want.store)
}

func (r *reader) otherOwner(found string) *Refusal {
	return &Refusal{Reason: ReasonOtherOwner, Path: r.path, Found: found,
		Remedy: "check the configured ids and the data directory; a log is never handed from one node to another"}
}

func (r *reader) readState() error {
	payload, err := get(r.tx, metaBucket, stateKey)
	if err != nil {
		return err
	}
	if r.state, err = decodeState(payload); err == nil {
		err = r.state.check()
	}
	if err != nil {
		return fmt.Errorf("meta state: %w", err)
	}
	r.boot.HardState, r.boot.AuditedTo = r.state.hardState(), r.state.auditedTo
	return nil
}

func (r *reader) snapshot() error {
	if r.state.snapIndex == 0 {
		return nil
	}
	payload, err := get(r.tx, snapshotBucket, snapshotKey)
	if err != nil {
		return err
	}
	snap := new(raftpb.Snapshot)
	if err := proto.Unmarshal(payload, snap); err != nil {
		return fmt.Errorf("snapshot: %w", err)
	}
	if m := snap.GetMetadata(); m.GetIndex() != r.state.snapIndex || m.GetTerm() != r.state.snapTerm {
		return fmt.Errorf("snapshot: it is of index %d and term %d, want %d and %d", m.GetIndex(), m.GetTerm(), r.state.snapIndex, r.state.snapTerm)
	}
	r.boot.Snapshot = snap
	return nil
}

func (r *reader) entries() error {
	term := uint64(originTerm)
	return r.each(entriesBucket, r.state.first, r.state.last, func(index uint64, payload []byte) error {
		e := new(raftpb.Entry)
		if err := proto.Unmarshal(payload, e); err != nil {
			return err
		}
		switch {
		case e.GetIndex() != index:
			return fmt.Errorf("it calls itself entry %d", e.GetIndex())
		case e.GetTerm() < term || e.GetTerm() > r.state.term:
			return fmt.Errorf("term %d, want %d to %d", e.GetTerm(), term, r.state.term)
		case index == r.state.snapIndex && e.GetTerm() != r.state.snapTerm:
			return fmt.Errorf("term %d, but the snapshot there is of term %d", e.GetTerm(), r.state.snapTerm)
		case index > r.state.snapIndex && e.GetTerm() < r.state.snapTerm:
			return fmt.Errorf("term %d after a snapshot of term %d", e.GetTerm(), r.state.snapTerm)
		}
		term = e.GetTerm()
		r.boot.Entries = append(r.boot.Entries, e)
		return nil
	})
}

func (r *reader) records() error {
	return r.each(recordsBucket, r.state.firstSeq, r.state.lastSeq, func(seq uint64, payload []byte) error {
		record := new(core.Record)
		if err := proto.Unmarshal(payload, record); err != nil {
			return err
		}
		if record.Seq != seq {
			return fmt.Errorf("it calls itself record %d", record.Seq)
		}
		if err := follows(r.boot.LastRecord, record); err != nil {
			return err
		}
		r.boot.LastRecord = record
		return nil
	})
}

// each visits a bucket that must hold exactly the numbers from first to last;
// both 0: nothing.
func (r *reader) each(bucket []byte, first, last uint64, visit func(uint64, []byte) error) error {
	next := first
	err := r.tx.Bucket(bucket).ForEach(func(key, value []byte) error {
		if len(key) != 8 {
			return fmt.Errorf("%s: a key of %d bytes, want 8", bucket, len(key))
		}
		number := binary.BigEndian.Uint64(key)
		if first == 0 || number != next || number > last {
			return fmt.Errorf("%s %d: found, want %d to %d without a gap", bucket, number, first, last)
		}
		payload, err := unframe(bucket, key, value)
		if err == nil {
			err = visit(number, payload)
		}
		if err != nil {
			return fmt.Errorf("%s %d: %w", bucket, number, err)
		}
		next++
		return nil
	})
	if err != nil {
		return err
	}
	if first != 0 && next != last+1 {
		return fmt.Errorf("%s %d: missing, want %d to %d", bucket, next, first, last)
	}
	return nil
}

// get returns a verified payload. It shares the memory of the transaction.
func get(tx *bbolt.Tx, bucket, key []byte) ([]byte, error) {
	value := tx.Bucket(bucket).Get(key)
	if value == nil {
		return nil, fmt.Errorf("%s %s: missing", bucket, name(key))
	}
	payload, err := unframe(bucket, key, value)
	if err != nil {
		return nil, fmt.Errorf("%s %s: %w", bucket, name(key), err)
	}
	return payload, nil
}

func getMessage(tx *bbolt.Tx, bucket []byte, number uint64, m proto.Message) error {
	payload, err := get(tx, bucket, position(number))
	if err != nil {
		return err
	}
	if err := proto.Unmarshal(payload, m); err != nil {
		return fmt.Errorf("%s %d: %w", bucket, number, err)
	}
	return nil
}

// name shows a key to people.
func name(key []byte) string {
	if len(key) == 8 && key[0] == 0 { // a position; no other key starts with 0
		return fmt.Sprint(binary.BigEndian.Uint64(key))
	}
	return string(key)
}

// Records returns the stored audit records with a sequence number above afterSeq,
// oldest first, at most limit of them and never more than MaxRecordsRead. What it
// returns is durable. An error of the storage shuts the log, as one of Persist does.
func (l *Log) Records(afterSeq uint64, limit int) ([]*core.Record, error) {
	l.mu.Lock()
	defer l.mu.Unlock()
	if l.err != nil {
		return nil, l.err
	}
	if afterSeq >= l.state.lastSeq {
		return nil, nil
	}
	var records []*core.Record
	first := max(afterSeq+1, l.state.firstSeq)
	limit = min(limit, MaxRecordsRead)
	err := shield(func() error {
		return l.db.View(func(tx *bbolt.Tx) error {
			for seq := first; seq <= l.state.lastSeq && len(records) < limit; seq++ {
				record := new(core.Record)
				if err := getMessage(tx, recordsBucket, seq, record); err != nil {
					return err
				}
				records = append(records, record)
			}
			return nil
		})
	})
	if err != nil {
		return nil, l.shut("read audit records", err)
	}
	return records, nil
}

package raftlog

import (
	"encoding/binary"
	"errors"
	"fmt"

	"go.etcd.io/raft/v3/raftpb"
	"google.golang.org/protobuf/proto"

	"github.com/omnirelay/leadership/core"
)

// Buckets. Snapshots have one of their own: bbolt rewrites whole pages, and next
// to the state every vote would rewrite megabytes.
var (
	metaBucket     = []byte("meta")
	snapshotBucket = []byte("snapshot")
	entriesBucket  = []byte("entries")
	recordsBucket  = []byte("records")

	identityKey = []byte("identity")
	stateKey    = []byte("state")
	snapshotKey = []byte("snapshot")
)

// schema is the newest version of everything below. A newer one is refused. A raft
// log is laid out as in version 1, so that an older program still reads it; one with
// the mark of an external store as in version 2.
const (
	schema     = 2
	schemaRaft = 1
)

// origin is where core starts every log: as if a snapshot of term 1 had been taken
// at this index, which names the voters and is never stored. The first entry of a
// log without a snapshot is the next one. TestReplicasOnTheirLogs fails when core
// starts elsewhere.
const (
	originIndex = 1
	originTerm  = 1
)

// identity says whose log it is, and what kind of log. Written once.
type identity struct {
	schema  uint32
	node    core.NodeID
	cluster string
	store   string // where the registry is kept; storeRaft: here
}

func (i identity) encode() []byte {
	b := binary.BigEndian.AppendUint32(nil, i.schema)
	b = binary.BigEndian.AppendUint64(b, uint64(i.node))
	if i.schema > schemaRaft {
		b = append(append(b, byte(len(i.store))), i.store...)
	}
	return append(b, i.cluster...)
}

func decodeIdentity(b []byte) (identity, error) {
	if len(b) < 4 {
		return identity{}, errors.New("too short")
	}
	id := identity{schema: binary.BigEndian.Uint32(b), store: storeRaft}
	if id.schema > schema {
		return id, nil // its layout is not known here
	}
	if len(b) < 12 {
		return identity{}, errors.New("too short")
	}
	id.node, b = core.NodeID(binary.BigEndian.Uint64(b[4:])), b[12:]
	if id.schema > schemaRaft {
		if len(b) == 0 || len(b) <= int(b[0]) {
			return identity{}, errors.New("too short")
		}
		id.store, b = string(b[1:1+b[0]]), b[1+b[0]:]
	}
	id.cluster = string(b)
	return id, nil
}

// state is rewritten by every transaction. It holds the small facts, and the
// extent of everything else: without it a page that lost its last entries, and a
// bucket that lost all, would look like a log that never had them.
type state struct {
	hard                uint64 // 1: there is a hard state
	term, vote, commit  uint64
	snapIndex, snapTerm uint64 // 0: no snapshot
	installedAt         uint64 // index of the last snapshot received; 0: none
	first, last         uint64 // indexes of the entries; 0: none
	auditedTo           uint64
	firstSeq, lastSeq   uint64 // of the audit records; 0: none
	session             uint64 // last session of the process that used the log; 0: none
}

func (s *state) fields() []*uint64 {
	return []*uint64{&s.hard, &s.term, &s.vote, &s.commit, &s.snapIndex, &s.snapTerm, &s.installedAt,
		&s.first, &s.last, &s.auditedTo, &s.firstSeq, &s.lastSeq, &s.session}
}

func (s *state) encode() []byte {
	var b []byte
	for _, f := range s.fields() {
		b = binary.BigEndian.AppendUint64(b, *f)
	}
	return b
}

func decodeState(b []byte) (state, error) {
	var s state
	fields := s.fields()
	if len(b) != 8*len(fields) {
		return s, fmt.Errorf("%d bytes, want %d", len(b), 8*len(fields))
	}
	for i, f := range fields {
		*f = binary.BigEndian.Uint64(b[8*i:])
	}
	return s, nil
}

func (s *state) hardState() *raftpb.HardState {
	if s.hard == 0 {
		return nil
	}
	return &raftpb.HardState{Term: proto.Uint64(s.term), Vote: proto.Uint64(s.vote), Commit: proto.Uint64(s.commit)}
}

// base is the index and the term of the snapshot that the entries build on.
func (s *state) base() (index, term uint64) {
	if s.snapIndex == 0 {
		return originIndex, originTerm
	}
	return s.snapIndex, s.snapTerm
}

// end is the index of the newest entry the log knows of.
func (s *state) end() uint64 {
	base, _ := s.base()
	return max(s.last, base)
}

// waits reports whether the log is of a node that joins and has not been sent anything
// yet: it knows of a term, and of nothing that was committed.
func (s *state) waits() bool { return s.commit == 0 && s.snapIndex == 0 && s.last == 0 }

// check returns what in the state contradicts itself. raft panics on most of it.
func (s *state) check() error {
	base, term := s.base()
	switch {
	case s.hard == 0 && (s.last != 0 || s.snapIndex != 0 || s.auditedTo != 0):
		return errors.New("there are entries, a snapshot or an audit mark, and no hard state")
	case (s.first == 0) != (s.last == 0) || s.first > s.last:
		return fmt.Errorf("entries from %d to %d", s.first, s.last)
	case s.first > base+1:
		return fmt.Errorf("a gap between the snapshot at %d and the first entry %d", base, s.first)
	case s.last != 0 && s.last < base:
		return fmt.Errorf("the last entry %d lies before the snapshot at %d", s.last, base)
	case s.hard != 0 && !s.waits() && (s.commit < base || s.commit > s.end()):
		return fmt.Errorf("commit index %d outside of %d to %d", s.commit, base, s.end())
	case s.hard != 0 && s.term < term:
		return fmt.Errorf("a snapshot of term %d above the stored term %d", term, s.term)
	case s.auditedTo > s.commit:
		return fmt.Errorf("audited to %d, beyond the commit index %d", s.auditedTo, s.commit)
	case (s.firstSeq == 0) != (s.lastSeq == 0) || s.firstSeq > s.lastSeq:
		return fmt.Errorf("audit records from %d to %d", s.firstSeq, s.lastSeq)
	}
	return nil
}

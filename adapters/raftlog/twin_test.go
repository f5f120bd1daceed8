package raftlog

import (
	"bytes"
	"crypto/sha256"
	"fmt"
	"os"
	"testing"

	"go.etcd.io/raft/v3/raftpb"
	"google.golang.org/protobuf/proto"
	"pgregory.net/rapid"

	"github.com/omnirelay/leadership/core"
)

// twin is what a log must hold, kept the naive way.
type twin struct {
	hard        *raftpb.HardState
	snap        *raftpb.Snapshot
	entries     []*raftpb.Entry
	records     []*core.Record
	auditedTo   uint64
	installedAt uint64
	session     uint64
}

func (w *twin) apply(b core.Batch) {
	if b.Install != nil {
		w.snap, w.entries, w.installedAt = b.Install, nil, b.Install.GetMetadata().GetIndex()
	}
	if b.HardState != nil {
		w.hard = b.HardState
	}
	for _, e := range b.Entries {
		for len(w.entries) > 0 && w.entries[len(w.entries)-1].GetIndex() >= e.GetIndex() {
			w.entries = w.entries[:len(w.entries)-1]
		}
		w.entries = append(w.entries[:len(w.entries):len(w.entries)], e)
	}
	if b.Checkpoint != nil {
		w.snap = b.Checkpoint
	}
	for len(w.entries) > 0 && w.entries[0].GetIndex() <= b.CompactTo {
		w.entries = w.entries[1:]
	}
	for _, r := range b.Records {
		switch n := w.lastSeq(); {
		case n != 0 && r.Seq > n+1:
			w.records = []*core.Record{r}
		case n == 0 || r.Seq == n+1:
			w.records = append(w.records, r)
		}
	}
	w.auditedTo = max(w.auditedTo, b.AuditedTo)
}

func (w *twin) boot() core.Boot {
	b := core.Boot{HardState: w.hard, Snapshot: w.snap, Entries: w.entries, AuditedTo: w.auditedTo}
	if n := len(w.records); n > 0 {
		b.LastRecord = w.records[n-1]
	}
	return b
}

func (w *twin) lastSeq() uint64 {
	if n := len(w.records); n > 0 {
		return w.records[n-1].Seq
	}
	return 0
}

func (w *twin) commit() uint64    { return max(w.hard.GetCommit(), originIndex) }
func (w *twin) snapIndex() uint64 { return w.snap.GetMetadata().GetIndex() }

func (w *twin) last() uint64 {
	if n := len(w.entries); n > 0 {
		return w.entries[n-1].GetIndex()
	}
	return max(w.snapIndex(), originIndex)
}

func (w *twin) termOf(index uint64) uint64 {
	for _, e := range w.entries {
		if e.GetIndex() == index {
			return e.GetTerm()
		}
	}
	if index == w.snapIndex() {
		return w.snap.GetMetadata().GetTerm()
	}
	return originTerm
}

// difference says where two boots differ; empty: nowhere.
func difference(got, want core.Boot) string {
	switch {
	case (got.HardState == nil) != (want.HardState == nil) || !proto.Equal(got.HardState, want.HardState):
		return fmt.Sprintf("hard state %v, want %v", got.HardState, want.HardState)
	case (got.Snapshot == nil) != (want.Snapshot == nil) || !proto.Equal(got.Snapshot, want.Snapshot):
		return fmt.Sprintf("snapshot %v, want %v", got.Snapshot.GetMetadata(), want.Snapshot.GetMetadata())
	case len(got.Entries) != len(want.Entries):
		return fmt.Sprintf("%d entries, want %d", len(got.Entries), len(want.Entries))
	case got.AuditedTo != want.AuditedTo:
		return fmt.Sprintf("audited to %d, want %d", got.AuditedTo, want.AuditedTo)
	case (got.LastRecord == nil) != (want.LastRecord == nil) || !proto.Equal(got.LastRecord, want.LastRecord):
		return fmt.Sprintf("last record %v, want %v", got.LastRecord, want.LastRecord)
	}
	for i := range got.Entries {
		if !proto.Equal(got.Entries[i], want.Entries[i]) {
			return fmt.Sprintf("entry %v, want %v", got.Entries[i], want.Entries[i])
		}
	}
	return ""
}

func recordsDifference(got, want []*core.Record) string {
	if len(got) != len(want) {
		return fmt.Sprintf("%d records, want %d", len(got), len(want))
	}
	for i := range got {
		if !proto.Equal(got[i], want[i]) {
			return fmt.Sprintf("record %v, want %v", got[i], want[i])
		}
	}
	return ""
}

func hardState(term, vote, commit uint64) *raftpb.HardState {
	return &raftpb.HardState{Term: &term, Vote: &vote, Commit: &commit}
}

func entry(index, term uint64, data []byte) *raftpb.Entry {
	return &raftpb.Entry{Index: &index, Term: &term, Type: raftpb.EntryNormal.Enum(), Data: data}
}

func snapshot(index, term uint64, data []byte) *raftpb.Snapshot {
	return &raftpb.Snapshot{Data: data, Metadata: &raftpb.SnapshotMetadata{
		Index: &index, Term: &term, ConfState: &raftpb.ConfState{Voters: []uint64{1, 2, 3}}}}
}

// record makes record seq of a chain that depends on nothing but the numbers.
func record(seq, revision uint64) *core.Record {
	return &core.Record{Seq: seq, Revision: revision, Ordinal: 1, Kind: 3, Scope: "global-control",
		PrevHash: recordHash(seq - 1), Hash: recordHash(seq)}
}

func recordHash(seq uint64) []byte {
	if seq == 0 {
		return nil
	}
	h := sha256.Sum256(position(seq))
	return h[:]
}

// content is size bytes that belong to n.
func content(n uint64, size int) []byte {
	h := sha256.Sum256(position(n))
	return bytes.Repeat(h[:], size/len(h)+1)[:size]
}

// memoryDir is a directory where a sync costs nothing, for tests that do not ask
// about the disk; elsewhere an ordinary one.
func memoryDir(t testing.TB) string {
	dir, err := os.MkdirTemp("/dev/shm", "raftlog")
	if err != nil {
		return t.TempDir()
	}
	t.Cleanup(func() { os.RemoveAll(dir) })
	return dir
}

func options(dir string) Options { return Options{Dir: dir, ClusterID: "mesh.test", NodeID: 2} }

// model drives a log and its twin with the same batches.
type model struct {
	twin twin
	dir  string
	log  *Log
	seq  uint64 // newest record that exists, stored or not
}

func TestLogEqualsItsTwin(t *testing.T) {
	base := memoryDir(t)
	runs := 0
	rapid.Check(t, func(rt *rapid.T) {
		runs++
		m := &model{dir: fmt.Sprintf("%s/%d", base, runs)}
		defer func() { _ = m.log.Close(); os.RemoveAll(m.dir) }()
		m.open(rt)
		rt.Repeat(map[string]func(*rapid.T){
			"append": m.append, "commit": m.commit, "checkpoint": m.checkpoint, "install": m.install,
			"audit": m.audit, "session": m.session, "reopen": m.reopen,
		})
		m.reopen(rt)
	})
}

func (m *model) open(t *rapid.T) {
	log, boot, err := Open(options(m.dir))
	if err != nil {
		t.Fatalf("open: %v", err)
	}
	m.log = log
	if d := difference(boot, m.twin.boot()); d != "" {
		t.Fatalf("reopened: %s", d)
	}
	if got := log.LastSession(); got != m.twin.session {
		t.Fatalf("reopened: session %d, want %d", got, m.twin.session)
	}
}

func (m *model) reopen(t *rapid.T) {
	after, limit := m.draw(t, "after", 0, m.seq+1), int(m.draw(t, "limit", 0, 20))
	got, err := m.log.Records(after, limit)
	if err != nil {
		t.Fatalf("records: %v", err)
	}
	var want []*core.Record
	for _, r := range m.twin.records {
		if r.Seq > after && len(want) < limit {
			want = append(want, r)
		}
	}
	if d := recordsDifference(got, want); d != "" {
		t.Fatalf("records after %d, at most %d: %s", after, limit, d)
	}
	if err := m.log.Close(); err != nil {
		t.Fatalf("close: %v", err)
	}
	m.open(t)
}

func (m *model) draw(t *rapid.T, label string, from, to uint64) uint64 {
	return rapid.Uint64Range(from, to).Draw(t, label)
}

func (m *model) persist(t *rapid.T, b core.Batch) {
	if err := m.log.Persist(b); err != nil {
		t.Fatalf("persist: %v", err)
	}
	m.twin.apply(b)
}

func (m *model) append(t *rapid.T) {
	from := m.draw(t, "from", m.twin.commit()+1, m.twin.last()+1)
	term := max(m.twin.termOf(from-1), m.twin.hard.GetTerm()) + m.draw(t, "term", 0, 1)
	b := core.Batch{HardState: m.termed(t, term)}
	for i := range m.draw(t, "count", 1, 20) {
		b.Entries = append(b.Entries, entry(from+i, term, content(m.draw(t, "data", 0, 9), int(m.draw(t, "size", 0, 2000)))))
	}
	b.HardState.Commit = proto.Uint64(m.draw(t, "commit", m.twin.commit(), b.Entries[len(b.Entries)-1].GetIndex()))
	m.persist(t, b)
}

// termed is the hard state in a term; the vote of a term never changes.
func (m *model) termed(t *rapid.T, term uint64) *raftpb.HardState {
	term = max(term, 1)
	vote := m.twin.hard.GetVote()
	if term > m.twin.hard.GetTerm() {
		vote = m.draw(t, "vote", 0, 3)
	}
	return hardState(term, vote, m.twin.commit())
}

func (m *model) commit(t *rapid.T) {
	h := m.termed(t, m.twin.hard.GetTerm()+m.draw(t, "term", 0, 1))
	h.Commit = proto.Uint64(m.draw(t, "commit", m.twin.commit(), m.twin.last()))
	m.persist(t, core.Batch{HardState: h})
}

func (m *model) checkpoint(t *rapid.T) {
	base := max(m.twin.snapIndex(), originIndex)
	if m.twin.commit() == base {
		t.Skip("nothing to checkpoint")
	}
	index := m.draw(t, "index", base+1, m.twin.commit())
	m.persist(t, core.Batch{
		Checkpoint: snapshot(index, m.twin.termOf(index), content(index, int(m.draw(t, "size", 0, 20000)))),
		CompactTo:  m.draw(t, "compact", 0, index),
	})
}

func (m *model) install(t *rapid.T) {
	index := m.twin.commit() + m.draw(t, "ahead", 1, 30)
	h := m.termed(t, m.twin.hard.GetTerm()+m.draw(t, "term", 0, 1))
	h.Commit = proto.Uint64(index)
	m.seq += m.draw(t, "records", 0, 20)
	m.persist(t, core.Batch{Install: snapshot(index, h.GetTerm(), content(index, int(m.draw(t, "size", 0, 20000)))), HardState: h})
}

// audit appends records; after an install they may overlap the trail or leave a
// gap to it, as the history of a received snapshot does.
func (m *model) audit(t *rapid.T) {
	if m.twin.hard == nil {
		t.Skip("nothing to audit")
	}
	from := m.twin.lastSeq() + 1
	if m.twin.auditedTo < m.twin.installedAt {
		from = m.draw(t, "first", 1, max(m.seq, from))
	}
	m.seq = max(m.seq, from-1) + m.draw(t, "new", 0, 10)
	b := core.Batch{AuditedTo: m.twin.commit()}
	for seq := from; seq <= m.seq; seq++ {
		b.Records = append(b.Records, record(seq, 1))
	}
	if len(b.Records) > 0 && b.Records[len(b.Records)-1].Seq <= m.twin.lastSeq() {
		b.Records = nil
	}
	m.persist(t, b)
}

func (m *model) session(t *rapid.T) {
	m.twin.session = m.draw(t, "session", 0, 1<<40)
	if err := m.log.SetSession(m.twin.session); err != nil {
		t.Fatalf("set session: %v", err)
	}
}

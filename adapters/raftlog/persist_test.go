package raftlog

import (
	"errors"
	"strings"
	"testing"

	"go.etcd.io/raft/v3/raftpb"

	"github.com/omnirelay/leadership/core"
)

// Batches that contradict a log of ten steps: entries 2 to 11 of term 1, 10
// committed and audited to 9, records 1 to 3.
var contradictions = []struct {
	want  string // part of the error
	batch core.Batch
}{
	{"entry 13: a gap after entry 11", core.Batch{Entries: []*raftpb.Entry{entry(13, 1, nil)}}},
	{"entry 10: entries up to 10 are committed", core.Batch{Entries: []*raftpb.Entry{entry(10, 1, nil)}}},
	{"entry 14: want entry 13 next", core.Batch{Entries: []*raftpb.Entry{entry(12, 1, nil), entry(14, 1, nil)}}},
	{"entry 12: term 0, want 1 to 1", core.Batch{Entries: []*raftpb.Entry{entry(12, 0, nil)}}},
	{"entry 12: term 2, want 1 to 1", core.Batch{Entries: []*raftpb.Entry{entry(12, 2, nil)}}},
	{"hard state: term 0 after term 1", core.Batch{HardState: hardState(0, 1, 10)}},
	{"vote for 2 after a vote for 1 in term 1", core.Batch{HardState: hardState(1, 2, 10)}},
	{"hard state: commit index 9 after 10", core.Batch{HardState: hardState(1, 1, 9)}},
	{"commit index 12 outside of 1 to 11", core.Batch{HardState: hardState(1, 1, 12)}},
	{"install: snapshot at 10, but 10 is committed here", core.Batch{Install: snapshot(10, 1, nil)}},
	{"a snapshot of term 2 above the stored term 1", core.Batch{Install: snapshot(20, 2, nil)}},
	{"checkpoint: snapshot at 11, want one after 1 and up to 10", core.Batch{Checkpoint: snapshot(11, 1, nil)}},
	{"checkpoint: snapshot of term 2, but entry 5 is of term 1", core.Batch{Checkpoint: snapshot(5, 2, nil)}},
	{"compact: up to 6, but the snapshot covers 5", core.Batch{Checkpoint: snapshot(5, 1, nil), CompactTo: 6}},
	{"audited to 8 after 9", core.Batch{AuditedTo: 8}},
	{"audited to 11, beyond the commit index 10", core.Batch{AuditedTo: 11}},
	{"audit record 5: want record 4 next", core.Batch{Records: []*core.Record{record(5, 10)}, AuditedTo: 10}},
	{"audit record 3: want record 4 next", core.Batch{Records: []*core.Record{record(3, 10)}, AuditedTo: 10}},
	{"audit record 4 is of revision 10, but audited only to 0", core.Batch{Records: []*core.Record{record(4, 10)}}},
	{"audit record 4: it does not hold the hash of record 3", core.Batch{
		Records: []*core.Record{{Seq: 4, Revision: 10, PrevHash: []byte("x")}}, AuditedTo: 10}},
}

// A batch that contradicts the log shuts it, and nothing of the batch is stored:
// not even the good entry that precedes the contradiction.
func TestContradictingBatchesAreRefusedWhole(t *testing.T) {
	for _, c := range contradictions {
		dir := memoryDir(t)
		writeStory(t, dir, 10)
		log := mustOpen(t, dir)
		err := log.Persist(c.batch)
		if err == nil || !strings.Contains(err.Error(), c.want) {
			t.Errorf("%v, want %q", err, c.want)
		}
		if again := log.Persist(storyBatch(11)); !errors.Is(again, ErrShut) || !strings.Contains(again.Error(), c.want) {
			t.Errorf("after %q: %v, want it shut and the first error told again", c.want, again)
		}
		mustClose(t, log)
		log, boot, err := Open(options(dir))
		if err != nil {
			t.Fatalf("after %q: %v", c.want, err)
		}
		if d := difference(boot, storyTwin(10).boot()); d != "" {
			t.Errorf("after %q: %s", c.want, d)
		}
		mustClose(t, log)
	}
}

// The records of a received snapshot must agree with those stored before it.
func TestInstalledTrailMustAgree(t *testing.T) {
	dir := memoryDir(t)
	writeStory(t, dir, 10)
	log := mustOpen(t, dir)
	defer mustClose(t, log)
	if err := log.Persist(core.Batch{Install: snapshot(30, 1, nil)}); err != nil {
		t.Fatal(err)
	}
	forged := record(3, 10)
	forged.Hash = []byte("another")
	err := log.Persist(core.Batch{Records: []*core.Record{forged}, AuditedTo: 30})
	if err == nil || !strings.Contains(err.Error(), "audit record 3 differs from the one stored") {
		t.Errorf("%v", err)
	}
}

func TestClosedLog(t *testing.T) {
	log := mustOpen(t, memoryDir(t))
	mustClose(t, log)
	mustClose(t, log)
	_, err := log.Records(0, 1)
	for _, err := range []error{err, log.Persist(storyBatch(1)), log.SetSession(1)} {
		if !errors.Is(err, ErrClosed) {
			t.Errorf("%v, want ErrClosed", err)
		}
	}
}

func TestRecordsReadIsBounded(t *testing.T) {
	log := mustOpen(t, memoryDir(t))
	defer mustClose(t, log)
	b := core.Batch{HardState: hardState(1, 1, 2), Entries: []*raftpb.Entry{entry(2, 1, nil)}, AuditedTo: 2}
	for seq := uint64(1); seq <= MaxRecordsRead+5; seq++ {
		b.Records = append(b.Records, record(seq, 2))
	}
	if err := log.Persist(b); err != nil {
		t.Fatal(err)
	}
	for _, c := range []struct {
		after       uint64
		limit, want int
	}{{0, 1 << 30, MaxRecordsRead}, {MaxRecordsRead, 10, 5}, {0, 0, 0}, {0, -1, 0}, {1 << 63, 10, 0}, {^uint64(0), 10, 0}} {
		got, err := log.Records(c.after, c.limit)
		if err != nil || len(got) != c.want {
			t.Errorf("after %d, limit %d: %d records, %v; want %d", c.after, c.limit, len(got), err, c.want)
		}
	}
}

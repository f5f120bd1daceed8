package sim

import (
	"testing"

	"go.etcd.io/raft/v3/raftpb"
	"google.golang.org/protobuf/proto"

	"github.com/omnirelay/leadership/core"
	"github.com/omnirelay/leadership/core/plant"
)

// newTestDisk is the disk of a replica in a world that does not run.
func newTestDisk(t *testing.T, plants ...plant.Plant) *disk {
	t.Helper()
	w := newWorld(Options{Seed: 1, Scenario: named(t, "steady"), Plants: plant.Of(plants...)})
	return w.replicas[0].disk
}

func logEntry(index, term uint64) *raftpb.Entry {
	return &raftpb.Entry{Index: proto.Uint64(index), Term: proto.Uint64(term), Data: []byte("data")}
}

func TestDiskReplacesATail(t *testing.T) {
	d := newTestDisk(t)
	d.apply(&core.Batch{Entries: []*raftpb.Entry{logEntry(2, 1), logEntry(3, 1), logEntry(4, 1)}})
	d.apply(&core.Batch{Entries: []*raftpb.Entry{logEntry(3, 2)}})
	if len(d.entries) != 2 || d.entry(3).GetTerm() != 2 || d.entry(4) != nil {
		t.Errorf("entries: %v", d.entries)
	}
	d.apply(&core.Batch{CompactTo: 2})
	if d.entry(2) != nil || d.entry(3) == nil {
		t.Errorf("entries after compaction: %v", d.entries)
	}
}

func TestDiskLosesWhatWasNotSynced(t *testing.T) {
	d := newTestDisk(t)
	d.inFlight = &core.Batch{Entries: []*raftpb.Entry{logEntry(2, 1)}}
	d.crash()
	if d.inFlight != nil || d.entry(2) != nil {
		t.Error("an unsynced write survived the crash")
	}
}

func TestTornTailIsAPlantOnly(t *testing.T) {
	d := newTestDisk(t, plant.TornTailAccepted)
	d.inFlight = &core.Batch{Entries: []*raftpb.Entry{logEntry(2, 1), logEntry(3, 1)}}
	d.crash()
	if got := d.entry(3); got == nil || string(got.GetData()) != "da" {
		t.Errorf("torn entry: %v", got)
	}
}

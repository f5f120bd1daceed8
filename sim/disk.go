package sim

import (
	"errors"
	"fmt"
	"math/rand/v2"
	"slices"
	"time"

	"go.etcd.io/raft/v3/raftpb"
	"google.golang.org/protobuf/proto"

	"github.com/omnirelay/leadership/core"
	"github.com/omnirelay/leadership/core/logpb"
	"github.com/omnirelay/leadership/core/plant"
	"github.com/omnirelay/leadership/sim/check"
)

// errInjected is what a failing disk returns.
var errInjected = errors.New("injected: the disk failed")

// disk is one replica's log on a simulated disk. A batch is one transaction: a
// crash within Persist leaves all of it or nothing.
type disk struct {
	w       *World
	process *process
	replica core.NodeID
	rng     *rand.Rand

	hardState *raftpb.HardState
	snapshot  *raftpb.Snapshot
	entries   []*raftpb.Entry
	auditedTo uint64
	last      *core.Record // newest audit record
	mark      *core.StoreMark

	syncMin, syncMax time.Duration
	failNext         bool
	inFlight         *core.Batch // written and not yet synced
}

// Persist implements core.Log.
func (d *disk) Persist(b core.Batch) error {
	d.process.port()
	d.w.observe(d.w.replicas[d.replica-1])
	for _, e := range b.Entries {
		d.w.checks.linearizable.Proposed(d.w.now, e.GetIndex(), e.GetTerm())
	}
	if d.failNext {
		d.failNext = false
		d.w.stats.DiskErrors++
		if d.rng.IntN(2) == 0 {
			d.apply(&b) // it failed, and yet it is there
		}
		return errInjected
	}
	if b.Mark != nil && d.w.plants.Has(plant.MarkBeforeDurable) {
		d.plantLateMark(b.Mark)
		return nil
	}
	sync := d.syncMin + time.Duration(d.rng.Int64N(int64(d.syncMax-d.syncMin)+1))
	d.inFlight = &b
	d.process.sleep(sync * 3 / 4)
	if d.w.nemesis.crashAtVote(d, &b) {
		d.w.tracef(d.process.name, "crashes before its vote is durable")
		panic(crashed{})
	}
	d.inFlight = nil
	d.apply(&b)
	d.process.sleep(sync / 4)
	return nil
}

// crash is what the loss of the process does to what was not yet synced.
func (d *disk) crash() {
	b := d.inFlight
	d.inFlight = nil
	if b != nil && d.w.plants.Has(plant.TornTailAccepted) && len(b.Entries) > 0 {
		torn := proto.CloneOf(b.Entries[len(b.Entries)-1])
		torn.Data = torn.Data[:len(torn.Data)/2]
		entries := append(slices.Clone(b.Entries[:len(b.Entries)-1]), torn)
		d.apply(&core.Batch{HardState: b.HardState, Entries: entries})
	}
}

// setMark replaces the mark. One that knows less than the one before would be worth
// nothing: after a jump alone the log begins anew.
func (d *disk) setMark(m *core.StoreMark) {
	had := d.mark
	d.mark = m
	if had == nil || d.w.plants.Has(plant.MarkForgotten) || d.w.plants.Has(plant.MarkBeforeDurable) || d.w.plants.Has(plant.AttestUnseen) {
		return
	}
	within := m.Generation > had.Generation || m.Generation == had.Generation && m.Index >= had.Index && m.Term >= had.Term && m.Round >= had.Round
	if !within || m.NextFence < had.NextFence || m.NextSession < had.NextSession || had.Witness && !m.Witness {
		d.w.checks.violated(check.Violation{Property: check.DurableProperty, At: d.w.now, Text: fmt.Sprintf("the mark of replica %d goes back from %v to %v", d.replica, had, m)})
	}
}

// plantLateMark writes a mark long after whoever asked for it goes on.
func (d *disk) plantLateMark(m *core.StoreMark) {
	life := d.process.incarnation
	d.w.after(4*sec, func() {
		if d.process.up && d.process.incarnation == life {
			d.setMark(m)
		}
	})
}

func (d *disk) apply(b *core.Batch) {
	bridged := false
	if b.Install != nil {
		d.install(b.Install)
		bridged = d.bridge(b)
	}
	if b.HardState != nil {
		d.hardState = b.HardState
	}
	if len(b.Entries) > 0 {
		d.append(b.Entries)
	}
	if b.Checkpoint != nil {
		d.snapshot = b.Checkpoint
	}
	if b.CompactTo > 0 {
		d.compact(b.CompactTo)
	}
	for _, r := range b.Records {
		if !bridged || r.Seq > d.last.Seq {
			d.store(r)
		}
	}
	if b.AuditedTo > 0 {
		d.auditedTo = b.AuditedTo
	}
	if b.Mark != nil {
		d.setMark(b.Mark)
	}
	d.w.digest.words(uint64(d.replica), uint64(len(d.entries)), d.auditedTo)
}

func (d *disk) install(s *raftpb.Snapshot) {
	d.snapshot, d.entries = s, nil
	d.w.stats.SnapshotInstalls++
}

// bridge stores the records that a received snapshot carries for the entries
// which this replica never applied, unless the batch brings them itself.
func (d *disk) bridge(b *core.Batch) bool {
	var seq uint64
	if d.last != nil {
		seq = d.last.Seq
	}
	if len(b.Records) > 0 && b.Records[0].Seq == seq+1 {
		return false
	}
	s := new(logpb.Snapshot)
	if proto.Unmarshal(b.Install.GetData(), s) != nil {
		return false
	}
	bridged := false
	for _, r := range s.History {
		if r.Seq > seq {
			d.store(r)
			bridged = true
		}
	}
	return bridged
}

func (d *disk) store(r *core.Record) {
	d.w.checks.stored(d.w.now, d.replica, d.last, r)
	d.last = r
}

func (d *disk) append(entries []*raftpb.Entry) {
	first := entries[0].GetIndex()
	keep := len(d.entries)
	for keep > 0 && d.entries[keep-1].GetIndex() >= first {
		keep--
	}
	d.entries = append(d.entries[:keep:keep], entries...)
}

func (d *disk) compact(to uint64) {
	i := 0
	for i < len(d.entries) && d.entries[i].GetIndex() <= to {
		i++
	}
	d.entries = slices.Clone(d.entries[i:])
}

// entry returns the entry at index, nil when the log does not hold it.
func (d *disk) entry(index uint64) *raftpb.Entry {
	if len(d.entries) == 0 {
		return nil
	}
	i := int64(index) - int64(d.entries[0].GetIndex())
	if i < 0 || i >= int64(len(d.entries)) {
		return nil
	}
	return d.entries[i]
}

// boot is what a starting replica finds.
func (d *disk) boot() core.Boot {
	if m := d.mark; m != nil && d.w.plants.Has(plant.MarkForgotten) {
		d.mark = &core.StoreMark{ClusterId: m.ClusterId, Identity: m.Identity, Round: m.Round, Generation: m.Generation, Witness: m.Witness}
	}
	return core.Boot{
		HardState: d.hardState, Snapshot: d.snapshot, Entries: slices.Clone(d.entries),
		AuditedTo: d.auditedTo, LastRecord: d.last, Mark: d.mark,
	}
}

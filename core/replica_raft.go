package core

import (
	"encoding/binary"
	"errors"
	"fmt"

	"go.etcd.io/raft/v3"
	"go.etcd.io/raft/v3/raftpb"
	"google.golang.org/protobuf/proto"

	"github.com/omnirelay/leadership/core/logpb"
	"github.com/omnirelay/leadership/core/plant"
)

// How the replica uses raft. Only a leader is ever ticked: it counts heartbeats
// and, with CheckQuorum, how long it has not heard a majority. Followers are never
// ticked, since raft's own election timeouts come from a process-wide random
// source; the replica's seeded electionTimer does that work with ForgetLeader and
// Campaign. PreVote keeps a replica that was cut off from disturbing the others.

// firstIndex is the index of the snapshot that every new log starts with: it
// holds nothing but the voters.
const firstIndex = 1

// load builds raft and the registry from what the log holds.
func (r *Replica) load(boot Boot) error {
	snap := boot.Snapshot
	if raft.IsEmptySnap(snap) {
		snap = r.firstSnapshot()
	}
	r.storage = raft.NewMemoryStorage()
	if err := r.storage.ApplySnapshot(snap); err != nil {
		return err
	}
	if boot.HardState != nil {
		if err := r.storage.SetHardState(boot.HardState); err != nil {
			return err
		}
		r.vote = boot.HardState.GetVote()
	}
	if err := r.storage.Append(boot.Entries); err != nil {
		return err
	}
	registry, err := r.registryFrom(snap)
	if err != nil {
		return err
	}
	r.adopt(registry)
	r.snapshotAt = snap.GetMetadata().GetIndex()
	r.confState = snap.GetMetadata().GetConfState()
	r.plantReplay(boot)
	r.node, err = raft.NewRawNode(r.raftConfig(snap.GetMetadata().GetIndex()))
	return err
}

func (r *Replica) firstSnapshot() *raftpb.Snapshot {
	voters := make([]uint64, 0, len(r.cfg.Voters))
	for _, v := range r.cfg.Voters {
		voters = append(voters, uint64(v))
	}
	return &raftpb.Snapshot{Metadata: &raftpb.SnapshotMetadata{
		Index: proto.Uint64(firstIndex), Term: proto.Uint64(1), ConfState: &raftpb.ConfState{Voters: voters},
	}}
}

func (r *Replica) raftConfig(applied uint64) *raft.Config {
	plain := r.cfg.Plants.Has(plant.NoPreVoteCheckQuorum)
	return &raft.Config{
		ID: uint64(r.cfg.ID), ElectionTick: max(2, int(r.cfg.ElectionTimeout/r.cfg.HeartbeatInterval)), HeartbeatTick: 1,
		Storage: r.storage, Applied: applied, MaxSizePerMsg: MaxBatchBytes, MaxUncommittedEntriesSize: MaxUncommitted,
		MaxInflightMsgs: 256, CheckQuorum: !plain, PreVote: !plain, DisableProposalForwarding: true, Logger: r.cfg.Logger,
	}
}

// registryFrom decodes the registry that a raft snapshot carries.
func (r *Replica) registryFrom(snap *raftpb.Snapshot) (*Registry, error) {
	if len(snap.GetData()) == 0 {
		return NewRegistry(r.cfg.MaxVersion), nil
	}
	s := &logpb.Snapshot{}
	if err := proto.Unmarshal(snap.GetData(), s); err != nil {
		return nil, fmt.Errorf("the snapshot at index %d does not decode: %w", snap.GetMetadata().GetIndex(), err)
	}
	return Restore(s, r.cfg.MaxVersion)
}

// adopt makes g this replica's registry. Notes that stand in it are dated now:
// later than they were made, so no silence is counted that was not measured.
func (r *Replica) adopt(g *Registry) {
	g.plants, g.self = r.cfg.Plants, r.cfg.ID
	r.registry = g
	clear(r.notedAt)
	for _, s := range g.Sessions() {
		if s.Noted {
			r.notedAt[s.ID] = r.now
		}
	}
}

func (r *Replica) receiveRaft(m *Message) {
	if err := r.node.Step(m.Raft); err != nil && !errors.Is(err, raft.ErrProposalDropped) && !errors.Is(err, raft.ErrStepPeerNotFound) {
		r.cfg.Logger.Warningf("raft message refused: %v", err)
	}
	switch m.Raft.GetType() {
	case raftpb.MsgApp, raftpb.MsgHeartbeat, raftpb.MsgSnap:
		if st := r.node.BasicStatus(); st.Lead == uint64(m.From) && st.GetTerm() == m.Raft.GetTerm() {
			r.timer.Reset(r.now)
		}
	}
}

func (r *Replica) tickRaft() {
	if r.leading {
		if r.now >= r.nextTick {
			// One tick however late: what arrived while the process stood still has been
			// stepped already, but what the others sent has not all arrived.
			r.node.Tick()
			r.nextTick = r.now.Add(r.cfg.HeartbeatInterval)
		}
	} else {
		r.tickFollower()
	}
	for _, id := range sortedKeys(r.reportAt) {
		if r.now >= r.reportAt[id] {
			delete(r.reportAt, id)
			r.node.ReportSnapshot(uint64(id), raft.SnapshotFinish)
		}
	}
}

func (r *Replica) tickFollower() {
	if r.timer.Forgotten(r.now) {
		if err := r.node.ForgetLeader(); err != nil {
			r.cfg.Logger.Warningf("forget leader: %v", err)
		}
	}
	if r.now >= r.timer.stand {
		r.status.campaigns++
		if err := r.node.Campaign(); err != nil {
			r.cfg.Logger.Warningf("campaign: %v", err)
		}
		r.timer.Reset(r.now)
	}
}

// watchOffice notices that this replica became registrar or ceased to be it.
func (r *Replica) watchOffice() {
	st := r.node.BasicStatus()
	lead := NodeID(st.Lead)
	if lead != r.lead {
		r.lead = lead
		r.requests.retryNow(r.now)
		r.reads.retryNow(r.now)
	}
	leading := st.RaftState == raft.StateLeader
	if leading == r.leading && st.GetTerm() == r.term {
		return
	}
	if r.leading {
		r.endOffice()
	}
	r.leading, r.term = leading, st.GetTerm()
	if leading {
		r.beginOffice()
	}
}

func (r *Replica) beginOffice() {
	r.status.offices++
	r.officeOpen = false
	r.nextTick = r.now.Add(r.cfg.HeartbeatInterval)
	r.keeper.Begin(r.term)
	r.duties.forget()
	if r.cfg.Plants.Has(plant.OfficeOutlived) || r.cfg.Plants.Has(plant.KeepalivesBeforeFirstEntry) {
		r.keeper.plantAdopt(r.now, r.registry)
	}
}

func (r *Replica) endOffice() {
	r.officeOpen = false
	r.nextTick = Never
	r.keeper.End()
	r.duties.forget()
	r.requests.officeEnded()
	r.timer.Reset(r.now)
}

// handOver gives the office to the replica that is furthest.
func (r *Replica) handOver() {
	if !r.leading {
		return
	}
	var best, match uint64
	r.node.WithProgress(func(id uint64, _ raft.ProgressType, pr raftProgress) {
		if NodeID(id) != r.cfg.ID && pr.RecentActive && (best == 0 || pr.Match > match) {
			best, match = id, pr.Match
		}
	})
	if best != 0 {
		r.node.TransferLeader(best)
	}
}

// confirm asks a quorum whether this replica still leads, for the keepalives and
// reads that wait for that.
func (r *Replica) confirm() {
	if r.leading && r.keeper.WantsCheck() {
		r.node.ReadIndex(readContext(readCheck, r.term, r.keeper.BeginCheck()))
	}
	for _, id := range r.reads.due(r.now, r.cfg.ElectionTimeout) {
		r.node.ReadIndex(readContext(readLocal, r.reads.life, id))
	}
}

// The two users of raft's ReadIndex.
const (
	readCheck byte = 'k'
	readLocal byte = 'r'
)

// readContext names a read index. epoch sets it apart from those of an earlier
// office or life, whose answers may still come: raft itself asks again, in a later
// term, what it was asked in an office that had committed nothing, and a response
// may outlive the process that it was meant for.
func readContext(kind byte, epoch, id uint64) []byte {
	return binary.BigEndian.AppendUint64(binary.BigEndian.AppendUint64([]byte{kind}, epoch), id)
}

// confirmed takes what raft says of a read index.
func (r *Replica) confirmed(rs raft.ReadState) {
	if len(rs.RequestCtx) != 17 {
		return
	}
	epoch, id := binary.BigEndian.Uint64(rs.RequestCtx[1:]), binary.BigEndian.Uint64(rs.RequestCtx[9:])
	switch {
	case rs.RequestCtx[0] == readCheck && (epoch == r.term || r.cfg.Plants.Has(plant.CheckOfFormerOffice)):
		r.keeper.Confirmed(id)
	case rs.RequestCtx[0] == readLocal && epoch == r.reads.life:
		r.reads.confirmed(id, rs.Index)
	}
}

// Ready is what must be made durable, and then sent.
type Ready struct {
	// Batch must be durable before any of Messages is sent and before Advance is
	// called.
	Batch    Batch
	Messages []Message
}

// HasReady reports whether there is anything to persist, send or give out.
func (r *Replica) HasReady() bool {
	return r.err == nil && (r.node.HasReady() || !r.out.empty() || r.reads.hasFailed() || r.checkpoint != nil || r.auditDue() || r.attached.dirty())
}

func (r *Replica) auditDue() bool { return len(r.auditBatch) > 0 && r.now >= r.auditFlushAt }

// Ready takes out the next step. Advance must follow once it is durable and sent.
func (r *Replica) Ready() Ready {
	rd := Ready{}
	if r.node.HasReady() {
		r.current = r.node.Ready()
	} else {
		r.current = raft.Ready{}
	}
	rd.Batch.HardState, rd.Batch.Entries = r.current.HardState, r.current.Entries
	if !raft.IsEmptySnap(r.current.Snapshot) {
		r.prepareInstall(&rd.Batch)
	}
	rd.Batch.Checkpoint, rd.Batch.CompactTo = r.checkpoint, r.compactTo
	if len(r.auditBatch) > 0 && (!rd.Batch.Empty() || r.auditDue()) {
		r.takeAudit(&rd.Batch)
	}
	for _, m := range r.current.Messages {
		rd.Messages = append(rd.Messages, r.envelope(m))
	}
	return rd
}

func (r *Replica) envelope(m *raftpb.Message) Message {
	to := NodeID(m.GetTo())
	if m.GetType() == raftpb.MsgSnap {
		// raft sends nothing more to that follower until it is told that the snapshot
		// arrived. Told too early, it probes, is rejected and sends again.
		r.reportAt[to] = r.now.Add(2 * r.cfg.ElectionTimeout)
	}
	return Message{From: r.cfg.ID, To: to, Raft: m}
}

// prepareInstall decodes a received snapshot and adds the audit records that came
// with it.
func (r *Replica) prepareInstall(b *Batch) {
	restored, err := r.registryFrom(r.current.Snapshot)
	if err != nil {
		r.Halt(err)
		return
	}
	r.restored = restored
	b.Install = r.current.Snapshot
	records, ok := restored.History().AfterSeq(r.auditSeq, MaxHistory)
	if !ok { // more was skipped than travels with a snapshot: the chain restarts behind the gap
		records, _ = restored.History().AfterSeq(restored.History().First().GetSeq()-1, MaxHistory)
	}
	r.auditBatch = nil
	r.markAudit(b, records, restored.Revision())
}

func (r *Replica) takeAudit(b *Batch) {
	records := r.auditBatch
	r.auditBatch = nil
	r.markAudit(b, records, r.registry.Revision())
}

func (r *Replica) markAudit(b *Batch, records []*Record, to uint64) {
	b.Records, b.AuditedTo = records, to
	r.auditedTo, r.auditFlushAt = to, Never
	if n := len(records); n > 0 {
		r.auditSeq = records[n-1].GetSeq()
	}
}

// Advance takes in that the latest Ready is durable and sent, applies what is
// committed, and returns what that gives out. now was read after the persisting.
func (r *Replica) Advance(now Time) Emission {
	r.now = now
	rd := r.current
	r.current = raft.Ready{}
	if err := r.store(rd); err != nil {
		r.Halt(err)
		return Emission{}
	}
	r.watchOffice()
	for _, e := range rd.CommittedEntries {
		if err := r.apply(e); err != nil {
			r.Halt(fmt.Errorf("entry %d: %w", e.GetIndex(), err))
			return Emission{}
		}
	}
	for _, rs := range rd.ReadStates {
		r.confirmed(rs)
	}
	if !isEmptyReady(&rd) {
		r.node.Advance(rd)
	}
	r.takeCheckpoint()
	r.out.Reads = append(r.out.Reads, r.reads.ready(r.registry.Revision())...)
	r.collectAcks()
	r.sendViews()
	out := r.out
	r.out = Emission{}
	return out
}

func isEmptyReady(rd *raft.Ready) bool {
	return rd.SoftState == nil && rd.HardState == nil && rd.Entries == nil && rd.Snapshot == nil &&
		rd.CommittedEntries == nil && rd.Messages == nil && rd.ReadStates == nil
}

// store mirrors in memory what is durable now.
func (r *Replica) store(rd raft.Ready) error {
	if !raft.IsEmptySnap(rd.Snapshot) {
		if err := r.storage.ApplySnapshot(rd.Snapshot); err != nil {
			return err
		}
		r.installed(rd.Snapshot)
	}
	if hs := rd.HardState; hs != nil {
		if err := r.storage.SetHardState(hs); err != nil {
			return err
		}
		r.committed = hs.GetCommit()
		if hs.GetVote() != r.vote || hs.GetTerm() != r.term {
			r.vote = hs.GetVote()
			if r.vote != 0 && r.vote != uint64(r.cfg.ID) {
				r.timer.Reset(r.now) // a vote was granted
			}
		}
	}
	r.checkpoint, r.compactTo = nil, 0
	return r.storage.Append(rd.Entries)
}

// installed replaces the registry by the one a snapshot brought.
func (r *Replica) installed(snap *raftpb.Snapshot) {
	r.status.installs++
	old := r.registry
	r.adopt(r.restored)
	r.restored = nil
	r.snapshotAt = snap.GetMetadata().GetIndex()
	r.confState = snap.GetMetadata().GetConfState()
	r.replayCheck = nil
	if records, ok := r.registry.History().AfterSeq(old.history.nextSeq-1, MaxHistory); ok {
		r.out.Records = append(r.out.Records, records...)
	}
	r.attached.markAll()
	r.requests.answerKept(&r.out, &r.registry.replies)
}

// apply executes one committed entry.
func (r *Replica) apply(e *raftpb.Entry) error {
	if e.GetType() != raftpb.EntryNormal {
		return errors.New("a change of the voters, which this build does not make")
	}
	r.logBytes += len(e.GetData())
	term := e.GetTerm()
	if r.cfg.Plants.Has(plant.TermOfCommitter) {
		term = r.term
	}
	r.registry.plantWall = r.plantWall
	out, err := r.registry.Apply(e.GetIndex(), term, e.GetData())
	if err != nil {
		return err
	}
	if e.GetIndex() == r.plantSkip {
		r.registry.plantAgain(e.GetIndex(), e.GetTerm(), e.GetData(), out)
	}
	if err := r.audit(out); err != nil {
		return err
	}
	r.followSessions(out)
	if r.leading && !r.officeOpen && e.GetTerm() == r.term {
		r.openOffice()
	}
	for _, k := range out.Keeper {
		r.keeper.Applied(k)
	}
	r.attached.caughtUp()
	return r.answer(e.GetData(), out)
}

// openOffice: the office's first entry is applied.
func (r *Replica) openOffice() {
	r.officeOpen = true
	r.keeper.Open(r.now, r.registry, r.notedAt)
	r.duties.open(r.now, r.cfg.RebalanceInterval)
}

// audit keeps the records of an applied entry for the log and the stream.
func (r *Replica) audit(out *Outcome) error {
	for _, rec := range out.Records {
		if c := r.replayCheck; c != nil && rec.GetSeq() == c.GetSeq() {
			r.replayCheck = nil
			if string(c.GetHash()) != string(rec.GetHash()) {
				return fmt.Errorf("the log replays to another audit record %d than the one kept: the log or the audit trail is not this node's own", c.GetSeq())
			}
		}
	}
	if out.Revision <= r.auditedTo || len(out.Records) == 0 {
		return nil
	}
	if len(r.auditBatch) == 0 {
		r.auditFlushAt = r.now.Add(r.cfg.HeartbeatInterval)
	}
	r.auditBatch = append(r.auditBatch, out.Records...)
	r.out.Records = append(r.out.Records, out.Records...)
	return nil
}

// followSessions tells keeper and attachments what an entry did to sessions.
func (r *Replica) followSessions(out *Outcome) {
	for _, id := range out.Notes {
		r.notedAt[id] = r.now
	}
	for _, id := range out.Sessions {
		s, live := r.registry.Session(id)
		if !live {
			delete(r.notedAt, id)
			r.keeper.Ended(id)
		} else {
			if !s.Noted {
				delete(r.notedAt, id)
			}
			r.keeper.Opened(r.now, id, durationOf(s.TTL))
		}
		r.attached.mark(id)
	}
}

// takeCheckpoint snapshots the registry when enough entries were applied since the
// last one. Half as many stay in the log, for followers that are a little behind.
func (r *Replica) takeCheckpoint() {
	applied := r.registry.Revision()
	full := r.logBytes > MaxLogBytes
	if applied == r.snapshotAt || (!full && applied < r.snapshotAt+r.cfg.SnapshotEntries) {
		return
	}
	data, err := marshalSnapshot(r.registry.Snapshot())
	if err != nil {
		r.Halt(err)
		return
	}
	snap, err := r.storage.CreateSnapshot(applied, r.confState, data)
	if err != nil {
		r.Halt(err)
		return
	}
	keep := r.cfg.SnapshotEntries / 2
	if full {
		keep = 0
	}
	r.logBytes = 0
	first, _ := r.storage.FirstIndex()
	if applied >= first+keep {
		r.compactTo = applied - keep
		if err := r.storage.Compact(r.compactTo); err != nil {
			r.Halt(err)
			return
		}
	}
	r.status.checkpoints++
	r.snapshotAt = applied
	r.checkpoint = snap
}

// plantReplay makes a restart apply the last entry it replays twice.
func (r *Replica) plantReplay(boot Boot) {
	if r.cfg.Plants.Has(plant.ApplyTwiceAfterRestart) && boot.HardState != nil && len(boot.Entries) > 0 {
		r.plantSkip = boot.HardState.GetCommit()
	}
}

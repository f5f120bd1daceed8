package core

import (
	"encoding/binary"
	"errors"
	"fmt"
	"slices"

	"go.etcd.io/raft/v3"
	"go.etcd.io/raft/v3/raftpb"
	"google.golang.org/protobuf/proto"

	"github.com/omnirelay/leadership/core/plant"
)

// raftJournal is the log that the replicas keep among themselves.
//
// Only a leader is ever ticked: it counts heartbeats and, with CheckQuorum, how
// long it has not heard a majority. Followers are never ticked, since raft's own
// election timeouts come from a process-wide random source; the seeded
// electionTimer does that work with ForgetLeader and Campaign. PreVote keeps a
// replica that was cut off from disturbing the others.
type raftJournal struct {
	r       *Replica
	node    *raft.RawNode
	storage *raft.MemoryStorage
	timer   electionTimer

	vote       uint64
	nextTick   Time // of a leader
	commit     uint64
	confState  *raftpb.ConfState
	current    raft.Ready
	restored   *Registry // from a received snapshot that is being made durable
	checkpoint *raftpb.Snapshot
	compactTo  uint64
	logBytes   int             // of the entries applied since the last checkpoint
	snapshotAt uint64          // index of the latest snapshot
	reportAt   map[NodeID]Time // when to tell raft that a snapshot was sent

	// The audit trail between applied and durable.
	auditedTo    uint64 // durable
	auditSeq     uint64 // of the newest durable record
	auditBatch   []*Record
	auditFlushAt Time
	replayCheck  *Record // the newest durable record at boot, until the replay passed it

	// The members of the log.
	heard          map[NodeID]Time   // when each other replica last said anything
	changeDue      Time              // when the next change of the members may be proposed
	membersChanged bool              // since the last snapshot
	askAgain       uint64            // the check to ask for again, since the members changed
	asked          uint64            // the latest check that was asked for
	waits          map[NodeID]string // why the registrar's next step about a node waits

	plantSkip  uint64
	bootCommit uint64
}

// firstIndex is the index of the snapshot that every new log starts with: it
// holds nothing but the voters.
const firstIndex = 1

// newRaftJournal builds raft and the registry from what the log holds.
func newRaftJournal(r *Replica, boot Boot) (*raftJournal, error) {
	j := &raftJournal{
		r: r, reportAt: map[NodeID]Time{}, heard: map[NodeID]Time{}, waits: map[NodeID]string{}, changeDue: minTime, auditFlushAt: Never, nextTick: Never, auditedTo: boot.AuditedTo,
		replayCheck: boot.LastRecord, storage: raft.NewMemoryStorage(), timer: electionTimer{timeout: r.cfg.ElectionTimeout, rng: r.rng},
	}
	if boot.LastRecord != nil {
		j.auditSeq = boot.LastRecord.Seq
	}
	j.timer.Reset(r.now)
	snap := boot.Snapshot
	switch waiting := raft.IsEmptySnap(snap) && boot.HardState.GetCommit() == 0; {
	case waiting && r.cfg.Join:
		snap = nil // the registrar sends one
	case waiting && boot.HardState != nil:
		return nil, errors.New("this node was started to join a cluster and has not been let in; start it as one that joins")
	case raft.IsEmptySnap(snap):
		snap = FirstRaftSnapshot(j.firstVoters(boot.Entries), firstIndex, nil)
	}
	if snap != nil {
		if err := j.storage.ApplySnapshot(snap); err != nil {
			return nil, err
		}
	}
	if boot.HardState != nil {
		if err := j.storage.SetHardState(boot.HardState); err != nil {
			return nil, err
		}
		j.vote, j.bootCommit = boot.HardState.GetVote(), boot.HardState.GetCommit()
	}
	if err := j.storage.Append(boot.Entries); err != nil {
		return nil, err
	}
	registry, err := j.registryFrom(snap)
	if err != nil {
		return nil, err
	}
	r.adopt(registry)
	j.snapshotAt = snap.GetMetadata().GetIndex()
	j.confState = snap.GetMetadata().GetConfState()
	j.plantReplay(boot)
	j.node, err = raft.NewRawNode(j.raftConfig(snap.GetMetadata().GetIndex()))
	return j, err
}

// FirstRaftSnapshot is what a raft log among voters starts from: nothing, or, when
// a registry moved in from elsewhere, its encoded snapshot at index.
func FirstRaftSnapshot(voters []NodeID, index uint64, registry []byte) *raftpb.Snapshot {
	conf := &raftpb.ConfState{}
	for _, v := range voters {
		conf.Voters = append(conf.Voters, uint64(v))
	}
	return &raftpb.Snapshot{Data: registry, Metadata: &raftpb.SnapshotMetadata{
		Index: proto.Uint64(index), Term: proto.Uint64(1), ConfState: conf,
	}}
}

func (j *raftJournal) raftConfig(applied uint64) *raft.Config {
	c := &j.r.cfg
	plain := c.Plants.Has(plant.NoPreVoteCheckQuorum)
	return &raft.Config{
		ID: uint64(c.ID), ElectionTick: max(2, int(c.ElectionTimeout/c.HeartbeatInterval)), HeartbeatTick: 1,
		Storage: j.storage, Applied: applied, MaxSizePerMsg: MaxBatchBytes, MaxUncommittedEntriesSize: MaxUncommitted,
		MaxInflightMsgs: 256, CheckQuorum: !plain, PreVote: !plain, DisableProposalForwarding: true, StepDownOnRemoval: true, Logger: c.Logger,
	}
}

// registryFrom decodes the registry that a raft snapshot carries.
func (j *raftJournal) registryFrom(snap *raftpb.Snapshot) (*Registry, error) {
	if len(snap.GetData()) == 0 {
		return NewRegistry(j.r.cfg.MaxVersion), nil
	}
	return j.r.registryFrom(snap.GetMetadata().GetIndex(), snap.GetData())
}

func (j *raftJournal) step(in *Input) {
	switch {
	case in.Message != nil:
		j.receive(in.Message)
	case in.Unreachable != 0:
		j.node.ReportUnreachable(uint64(in.Unreachable))
	}
}

func (j *raftJournal) receive(m *Message) {
	j.heard[m.From] = j.r.now
	if err := j.node.Step(m.Raft); err != nil && !errors.Is(err, raft.ErrProposalDropped) && !errors.Is(err, raft.ErrStepPeerNotFound) {
		j.r.cfg.Logger.Warningf("raft message refused: %v", err)
	}
	switch m.Raft.GetType() {
	case raftpb.MsgApp, raftpb.MsgHeartbeat, raftpb.MsgSnap:
		if st := j.node.BasicStatus(); st.Lead == uint64(m.From) && st.GetTerm() == m.Raft.GetTerm() {
			j.timer.Reset(j.r.now)
		}
	}
}

func (j *raftJournal) tick() {
	now := j.r.now
	if j.r.leading {
		if now >= j.nextTick {
			// One tick however late: what arrived while the process stood still has been
			// stepped already, but what the others sent has not all arrived.
			j.node.Tick()
			j.repeatCheck()
			j.nextTick = now.Add(j.r.cfg.HeartbeatInterval)
		}
	} else {
		j.tickFollower()
	}
	for _, id := range sortedKeys(j.reportAt) {
		if now >= j.reportAt[id] {
			delete(j.reportAt, id)
			j.node.ReportSnapshot(uint64(id), raft.SnapshotFinish)
		}
	}
}

func (j *raftJournal) tickFollower() {
	now := j.r.now
	if j.timer.Forgotten(now) {
		if err := j.node.ForgetLeader(); err != nil {
			j.r.cfg.Logger.Warningf("forget leader: %v", err)
		}
	}
	if now >= j.timer.stand && !j.votes() {
		j.timer.Reset(now)
	}
	if now >= j.timer.stand {
		j.r.status.campaigns++
		if err := j.node.Campaign(); err != nil {
			j.r.cfg.Logger.Warningf("campaign: %v", err)
		}
		j.timer.Reset(now)
	}
}

func (j *raftJournal) deadline() Time {
	d := min(j.auditFlushAt, j.timer.Deadline())
	if j.r.leading {
		d = min(j.auditFlushAt, j.nextTick)
	}
	for _, n := range sortedKeys(j.reportAt) {
		d = min(d, j.reportAt[n])
	}
	return d
}

func (j *raftJournal) office() (lead NodeID, term uint64, leading bool) {
	st := j.node.BasicStatus()
	return NodeID(st.Lead), st.GetTerm(), st.RaftState == raft.StateLeader
}

func (j *raftJournal) officeBegan() {
	j.asked, j.askAgain = 0, 0
	j.nextTick = j.r.now.Add(j.r.cfg.HeartbeatInterval)
}

func (j *raftJournal) officeEnded() {
	j.nextTick = Never
	j.timer.Reset(j.r.now)
}

func (j *raftJournal) propose(data []byte) error { return j.node.Propose(data) }

func (j *raftJournal) doubtful() bool { return false }

func (j *raftJournal) committed() uint64 { return j.commit }

func (j *raftJournal) notReady() string {
	if j.joins() {
		return "this node has not been let in: add it to the cluster, or wait until the registrar reaches it"
	}
	if n := len(j.confState.GetVoters()); j.r.lead == 0 {
		return fmt.Sprintf("no registrar: fewer than %d of the %d registry nodes can reach each other, or they are electing one", n/2+1, n)
	}
	return ""
}

// handOver gives the office to the voter that is furthest, if it can to one that stays.
func (j *raftJournal) handOver() {
	if !j.r.leading {
		return
	}
	heir := j.heir(true)
	if heir == 0 {
		heir = j.heir(false)
	}
	if heir != 0 {
		j.node.TransferLeader(uint64(heir))
	}
}

func (j *raftJournal) handOverTo(id NodeID) {
	switch {
	case id == 0:
		j.handOver()
	// While raft tries, nothing is taken into the log: so only with one that is there.
	case j.r.leading && j.heardLately(id) && slices.Contains(j.confState.GetVoters(), uint64(id)):
		j.node.TransferLeader(uint64(id))
	}
}

// The two users of raft's ReadIndex.
const (
	readCheck byte = 'k'
	readLocal byte = 'r'
)

func (j *raftJournal) confirmOffice(check uint64) {
	j.asked = check
	j.node.ReadIndex(readContext(readCheck, j.r.term, check))
}

func (j *raftJournal) confirmRead(id uint64) {
	j.node.ReadIndex(readContext(readLocal, j.r.reads.life, id))
}

// repeatCheck asks again for the check under way after the members changed: raft answers
// one upon the word of another voter, and there may be no other any more.
func (j *raftJournal) repeatCheck() {
	if j.askAgain != 0 {
		j.confirmOffice(j.askAgain)
		j.askAgain = 0
	}
}

// readContext names a read index. epoch sets it apart from those of an earlier
// office or life, whose answers may still come: raft itself asks again, in a later
// term, what it was asked in an office that had committed nothing, and a response
// may outlive the process that it was meant for.
func readContext(kind byte, epoch, id uint64) []byte {
	return binary.BigEndian.AppendUint64(binary.BigEndian.AppendUint64([]byte{kind}, epoch), id)
}

// confirmed takes what raft says of a read index.
func (j *raftJournal) confirmed(rs raft.ReadState) {
	if len(rs.RequestCtx) != 17 {
		return
	}
	r := j.r
	epoch, id := binary.BigEndian.Uint64(rs.RequestCtx[1:]), binary.BigEndian.Uint64(rs.RequestCtx[9:])
	switch {
	case rs.RequestCtx[0] == readCheck && (epoch == r.term || r.cfg.Plants.Has(plant.CheckOfFormerOffice)):
		r.keeper.Confirmed(id)
	case rs.RequestCtx[0] == readLocal && epoch == r.reads.life:
		r.reads.confirmed(id, rs.Index)
	}
}

func (j *raftJournal) hasReady() bool {
	return j.node.HasReady() || j.checkpoint != nil || j.auditDue()
}

func (j *raftJournal) auditDue() bool { return len(j.auditBatch) > 0 && j.r.now >= j.auditFlushAt }

func (j *raftJournal) ready(rd *Ready) {
	if j.node.HasReady() {
		j.current = j.node.Ready()
	} else {
		j.current = raft.Ready{}
	}
	rd.Batch.HardState, rd.Batch.Entries = j.current.HardState, j.current.Entries
	if !raft.IsEmptySnap(j.current.Snapshot) {
		j.prepareInstall(&rd.Batch)
	}
	rd.Batch.Checkpoint, rd.Batch.CompactTo = j.checkpoint, j.compactTo
	if len(j.auditBatch) > 0 && (!rd.Batch.Empty() || j.auditDue()) {
		j.takeAudit(&rd.Batch)
	}
	for _, m := range j.current.Messages {
		rd.Messages = append(rd.Messages, j.envelope(m))
	}
}

func (j *raftJournal) envelope(m *raftpb.Message) Message {
	to := NodeID(m.GetTo())
	if m.GetType() == raftpb.MsgSnap {
		// raft sends nothing more to that follower until it is told that the snapshot
		// arrived. Told too early, it probes, is rejected and sends again.
		j.reportAt[to] = j.r.now.Add(2 * j.r.cfg.ElectionTimeout)
	}
	return Message{From: j.r.cfg.ID, To: to, Raft: m}
}

// prepareInstall decodes a received snapshot and adds the audit records that came
// with it.
func (j *raftJournal) prepareInstall(b *Batch) {
	restored, err := j.registryFrom(j.current.Snapshot)
	if err != nil {
		j.r.Halt(err)
		return
	}
	j.restored = restored
	b.Install = j.current.Snapshot
	records, ok := restored.History().AfterSeq(j.auditSeq, MaxHistory)
	if !ok { // more was skipped than travels with a snapshot: the chain restarts behind the gap
		records, _ = restored.History().AfterSeq(restored.History().First().GetSeq()-1, MaxHistory)
	}
	j.auditBatch = nil
	j.markAudit(b, records, restored.Revision())
}

func (j *raftJournal) takeAudit(b *Batch) {
	records := j.auditBatch
	j.auditBatch = nil
	j.markAudit(b, records, j.r.registry.Revision())
}

func (j *raftJournal) markAudit(b *Batch, records []*Record, to uint64) {
	b.Records, b.AuditedTo = records, to
	j.auditedTo, j.auditFlushAt = to, Never
	if n := len(records); n > 0 {
		j.auditSeq = records[n-1].GetSeq()
	}
}

// advance mirrors in memory what is durable now, and applies what is committed.
func (j *raftJournal) advance() error {
	rd := j.current
	j.current = raft.Ready{}
	if err := j.store(rd); err != nil {
		return err
	}
	j.r.watchOffice()
	for _, e := range rd.CommittedEntries {
		if err := j.apply(e); err != nil {
			return fmt.Errorf("entry %d: %w", e.GetIndex(), err)
		}
	}
	for _, rs := range rd.ReadStates {
		j.confirmed(rs)
	}
	if !isEmptyReady(&rd) {
		j.node.Advance(rd)
	}
	return j.takeCheckpoint()
}

func isEmptyReady(rd *raft.Ready) bool {
	return rd.SoftState == nil && rd.HardState == nil && rd.Entries == nil && rd.Snapshot == nil &&
		rd.CommittedEntries == nil && rd.Messages == nil && rd.ReadStates == nil
}

func (j *raftJournal) store(rd raft.Ready) error {
	if !raft.IsEmptySnap(rd.Snapshot) {
		if err := j.storage.ApplySnapshot(rd.Snapshot); err != nil {
			return err
		}
		j.installed(rd.Snapshot)
	}
	if hs := rd.HardState; hs != nil {
		if err := j.storage.SetHardState(hs); err != nil {
			return err
		}
		j.commit = hs.GetCommit()
		if hs.GetVote() != j.vote || hs.GetTerm() != j.r.term {
			j.vote = hs.GetVote()
			if j.vote != 0 && j.vote != uint64(j.r.cfg.ID) {
				j.timer.Reset(j.r.now) // a vote was granted
			}
		}
	}
	j.checkpoint, j.compactTo = nil, 0
	return j.storage.Append(rd.Entries)
}

// installed replaces the registry by the one a snapshot brought.
func (j *raftJournal) installed(snap *raftpb.Snapshot) {
	j.snapshotAt = snap.GetMetadata().GetIndex()
	j.confState = snap.GetMetadata().GetConfState()
	j.replayCheck = nil
	j.r.install(j.restored)
	j.restored = nil
}

func (j *raftJournal) apply(e *raftpb.Entry) error {
	j.logBytes += len(e.GetData())
	switch e.GetType() {
	case raftpb.EntryNormal:
	case raftpb.EntryConfChangeV2:
		return j.applyChange(e)
	default:
		return errors.New("a change of the voters in a form that this build does not make")
	}
	return j.r.apply(logEntry{index: e.GetIndex(), term: e.GetTerm(), data: e.GetData()}, e.GetIndex() == j.plantSkip)
}

// recorded keeps the records of an applied entry for the log and the stream.
func (j *raftJournal) recorded(out *Outcome) error {
	for _, rec := range out.Records {
		if c := j.replayCheck; c != nil && rec.GetSeq() == c.GetSeq() {
			j.replayCheck = nil
			if string(c.GetHash()) != string(rec.GetHash()) {
				return fmt.Errorf("the log replays to another audit record %d than the one kept: the log or the audit trail is not this node's own", c.GetSeq())
			}
		}
	}
	if out.Revision <= j.auditedTo || len(out.Records) == 0 {
		return nil
	}
	if len(j.auditBatch) == 0 {
		j.auditFlushAt = j.r.now.Add(j.r.cfg.HeartbeatInterval)
	}
	j.auditBatch = append(j.auditBatch, out.Records...)
	j.r.out.Records = append(j.r.out.Records, out.Records...)
	return nil
}

// takeCheckpoint snapshots the registry when enough entries were applied since the
// last one. Half as many stay in the log, for followers that are a little behind.
func (j *raftJournal) takeCheckpoint() error {
	r := j.r
	applied := r.registry.Revision()
	full := j.logBytes > MaxLogBytes
	// After a change of the members at once: a node that joins can only begin with a
	// snapshot that names it.
	if applied == j.snapshotAt || (!full && !j.membersChanged && applied < j.snapshotAt+r.cfg.SnapshotEntries) {
		return nil
	}
	j.membersChanged = false
	data, err := marshalSnapshot(r.registry.Snapshot())
	if err != nil {
		return err
	}
	snap, err := j.storage.CreateSnapshot(applied, j.plantStale(), data)
	if err != nil {
		return err
	}
	keep := r.cfg.SnapshotEntries / 2
	if full {
		keep = 0
	}
	j.logBytes = 0
	first, _ := j.storage.FirstIndex()
	if applied >= first+keep {
		j.compactTo = applied - keep
		if err := j.storage.Compact(j.compactTo); err != nil {
			return err
		}
	}
	r.status.checkpoints++
	j.snapshotAt = applied
	j.checkpoint = snap
	return nil
}

// plantReplay makes a restart apply the last entry it replays twice.
func (j *raftJournal) plantReplay(boot Boot) {
	if j.r.cfg.Plants.Has(plant.ApplyTwiceAfterRestart) && boot.HardState != nil && len(boot.Entries) > 0 {
		j.plantSkip = boot.HardState.GetCommit()
	}
}

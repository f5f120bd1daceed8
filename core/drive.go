package core

import (
	"go.etcd.io/raft/v3/raftpb"

	"github.com/omnirelay/leadership/core/logpb"
	"github.com/omnirelay/leadership/core/plant"
)

// Log is where a replica keeps what must outlive its process.
type Log interface {
	// Persist makes b durable, all or nothing, before it returns. After the first
	// error the drive stops for good and never calls Persist again: what a failed
	// write left behind is unknown until the log is opened anew.
	Persist(b Batch) error
}

// Batch is one durable step of a log. The fields are applied in their order. A
// replica whose log lies in an external store keeps a Mark and nothing else.
type Batch struct {
	// Install replaces the whole log by a received snapshot. nil: none.
	Install *raftpb.Snapshot
	// HardState is the term, vote and commit index. nil: unchanged. A vote that
	// was sent and forgotten elects two registrars.
	HardState *raftpb.HardState
	// Entries are appended. An entry at an index already present replaces it and
	// everything behind it.
	Entries []*raftpb.Entry
	// Checkpoint is a snapshot this replica took of its own state. nil: none.
	// Entries with an index up to CompactTo are dropped, later ones kept.
	Checkpoint *raftpb.Snapshot
	CompactTo  uint64
	// Records are audit records, consecutive by Seq, and AuditedTo the revision up
	// to which all records are in the log now. They must share one transaction: a
	// restart replays what lies after AuditedTo. 0: unchanged.
	Records   []*Record
	AuditedTo uint64
	// Mark is what this replica knows to be in the external store. nil: unchanged.
	// Without it, durable before what rests on it is shown, a store that lost what it
	// had acknowledged would be believed, and a fence given twice.
	Mark *StoreMark
}

// Empty reports whether there is nothing to persist.
func (b *Batch) Empty() bool {
	return b.Install == nil && b.HardState == nil && len(b.Entries) == 0 && b.Checkpoint == nil && b.AuditedTo == 0 && b.Mark == nil
}

// Boot is what a log holds when a replica starts.
type Boot struct {
	HardState *raftpb.HardState // nil: the log is new
	Snapshot  *raftpb.Snapshot  // nil: none was taken or received
	Entries   []*raftpb.Entry   // consecutive, from the first after the snapshot or earlier
	AuditedTo uint64            // see Batch
	// LastRecord is the newest audit record kept, nil when there is none. The
	// replay must arrive at the same chain.
	LastRecord *Record
	Mark       *StoreMark // see Batch; nil: this replica has seen no external store yet
}

// World is everything around a replica but its log.
type World interface {
	// Drain takes what has arrived, at most MaxMessagesPerTurn inputs, in order.
	Drain() []Input
	// Now reads this process's clock.
	Now() Time
	// Wall reads the wall clock in Unix nanoseconds. It is stamped on entries for
	// people and decides nothing.
	Wall() int64
	// Emit takes everything a turn gave out. It must not block: what a slow peer or
	// consumer cannot take is dropped, and the protocol repeats it.
	Emit(Emission)
}

// Input is one thing that arrived. Exactly one field is set.
type Input struct {
	Message     *Message      // from another replica
	Member      *MemberInput  // from an attached member
	Detached    ConnID        // a member's connection ended
	Broken      ConnID        // a member's connection ended, and neither side wished it
	Gossip      *GossipNews   // what gossip says of a member
	Request     *RequestInput // from a local caller
	Read        *ReadInput    // a local caller wants to read what is committed now
	Unreachable NodeID        // sending to this replica failed
	Store       *StoreReply   // the external store answered
	Removed     bool          // another node says that this one was removed from the cluster
	HandOver    bool          // give the registrar's office to another replica, before a shutdown
}

// MemberInput is a message that came over a member's connection.
type MemberInput struct {
	Conn    ConnID
	Message MemberMessage
}

// RequestInput is a command of a local caller, answered by one RequestDone with
// the same Tag, at the latest when the configured MaxElectionWindow has passed.
type RequestInput struct {
	Tag     uint64
	Command *logpb.Command
}

// ReadInput asks for a linearizable read, answered by one ReadDone.
type ReadInput struct {
	Tag uint64
}

// Emission is what one step of a turn gave out, in the order in which it may be
// shown. Everything in it is covered by what was persisted before.
type Emission struct {
	Messages []Message      // to other replicas
	Calls    []StoreCall    // to the external store; each is answered by one Input.Store
	Members  []MemberOutput // to attached members
	Records  []*Record      // committed transitions, consecutive
	Requests []RequestDone  // answers to local callers
	Reads    []ReadDone     // local reads that may be served from the registry now
}

// MemberOutput is a message for the member on a connection.
type MemberOutput struct {
	Conn    ConnID
	Message ReplicaMessage
}

// RequestDone answers a RequestInput.
type RequestDone struct {
	Tag    uint64
	Result *Result
}

// ReadDone answers a ReadInput. When Err is nil the registry, as it stands, holds
// everything that was acknowledged before the read was asked for.
type ReadDone struct {
	Tag uint64
	Err *Error
}

// Drive runs a replica: it takes what arrived, lets the replica think, and makes
// durable what must be before anything that rests on it is shown. Host and
// simulator run these very lines.
type Drive struct {
	replica *Replica
	log     Log
	world   World
	plants  plant.Set
	err     error
}

// NewDrive couples a replica with its log and its world.
func NewDrive(r *Replica, log Log, world World) *Drive {
	return &Drive{replica: r, log: log, world: world, plants: r.cfg.Plants}
}

// Turn takes one step. It returns the error that stopped the drive for good: a
// storage error or what halted the replica. The caller runs the next turn when
// something has arrived or Deadline has come.
func (d *Drive) Turn() error {
	if d.err != nil {
		return d.err
	}
	var now Time
	if d.plants.Has(plant.StampBeforeDrain) {
		now = d.world.Now()
	}
	inputs := d.world.Drain()
	if !d.plants.Has(plant.StampBeforeDrain) {
		// Receipts are stamped after the inbox was drained: were the clock read
		// first and the process then stalled, a keepalive would seem to have been
		// received before it was sent, and its session would expire too early.
		now = d.world.Now()
	}
	d.replica.Step(now, inputs)
	d.replica.Tick(now, d.world.Wall())
	for d.replica.HasReady() {
		if d.err = d.settle(); d.err != nil {
			return d.err
		}
	}
	d.err = d.replica.Err() // halted, and nothing is left to be made durable
	return d.err
}

// settle persists one batch and then emits what rests on it.
func (d *Drive) settle() error {
	ready := d.replica.Ready()
	if err := d.replica.Err(); err != nil {
		return err // what it took out is not to be made durable
	}
	if d.plants.Has(plant.VoteBeforeDurable) || d.plants.Has(plant.AppendBeforeDurable) {
		d.world.Emit(d.plantEarly(&ready))
	}
	if !ready.Batch.Empty() {
		if err := d.persist(ready.Batch); err != nil {
			d.replica.Halt(err)
			return err
		}
	}
	d.world.Emit(Emission{Messages: ready.Messages, Calls: ready.Calls})
	d.world.Emit(d.replica.Advance(d.world.Now()))
	return d.replica.Err()
}

func (d *Drive) persist(b Batch) error {
	if d.plants.Has(plant.AuditOutsideTransaction) && len(b.Records) > 0 {
		late := Batch{Records: b.Records}
		b.Records = nil
		if err := d.log.Persist(b); err != nil {
			return err
		}
		late.AuditedTo = b.AuditedTo
		return d.log.Persist(late)
	}
	return d.log.Persist(b)
}

// plantEarly takes out of ready the messages a planted bug sends too soon.
func (d *Drive) plantEarly(ready *Ready) Emission {
	var early, rest []Message
	for _, m := range ready.Messages {
		vote := m.Raft != nil && (m.Raft.GetType() == raftpb.MsgVoteResp || m.Raft.GetType() == raftpb.MsgVote)
		app := m.Raft != nil && m.Raft.GetType() == raftpb.MsgAppResp
		if (vote && d.plants.Has(plant.VoteBeforeDurable)) || (app && d.plants.Has(plant.AppendBeforeDurable)) {
			early = append(early, m)
		} else {
			rest = append(rest, m)
		}
	}
	ready.Messages = rest
	return Emission{Messages: early}
}

// Deadline is when the next turn is due if nothing arrives before.
func (d *Drive) Deadline() Time {
	if d.err != nil {
		return Never
	}
	return d.replica.Deadline()
}

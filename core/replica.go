package core

import (
	"errors"
	"fmt"
	"math/rand/v2"
	"slices"
	"time"

	"go.etcd.io/raft/v3"

	"github.com/omnirelay/leadership/core/logpb"
	"github.com/omnirelay/leadership/core/plant"
)

// Config of a replica. The zero value of a duration means its default.
type Config struct {
	// ID names this replica, Voters all of them; the same Voters on each.
	ID     NodeID
	Voters []NodeID
	// Name is what the audit trail calls this replica; empty: node-ID.
	Name string
	// VoterNames is what people call the voters; missing: node-ID.
	VoterNames map[NodeID]string
	// ClusterID is written into the registry by its first registrar.
	ClusterID string
	// Join says that this replica begins with nothing and is let into a log that others
	// keep: Voters are not used then. It counts only while its own log is empty.
	Join bool
	// Addresses are where this replica's node listens, told to the others; empty: it does
	// not tell.
	Addresses NodeAddresses
	// Store says that the log lies in an external store, not with the replicas.
	Store bool
	// Seed makes this replica's randomness: when it stands, ids it mints. Two
	// replicas, or two lives of one, must not share a seed.
	Seed uint64
	// Epsilon bounds the rate error of every clock of the cluster.
	Epsilon Epsilon
	// ElectionTimeout is how long a follower waits for the registrar before it lets
	// others stand; it stands itself within twice that. At least three
	// HeartbeatIntervals, or a lost message deposes a registrar.
	ElectionTimeout   time.Duration
	HeartbeatInterval time.Duration
	// MaxElectionWindow is the longest a request waits for a registrar.
	MaxElectionWindow time.Duration
	// FormationMembers is how many members must stand before the first elections,
	// FormationWindow how long the first of them waits for the others.
	FormationMembers int
	FormationWindow  time.Duration
	// RebalanceInterval is the pause between two rounds of rebalancing, each at most
	// rebalanceMoves; negative: never.
	RebalanceInterval time.Duration
	// SnapshotEntries is how many applied entries a snapshot follows, at most; it
	// comes earlier when they hold MaxLogBytes.
	SnapshotEntries uint64
	// MaxVersion is the newest protocol version to understand; 0: ProtocolVersion.
	MaxVersion uint32
	Plants     plant.Set
	// Logger takes raft's own log; nil: none.
	Logger raft.Logger
}

// NodeAddresses are where a node listens, each host:port. All empty: not known.
type NodeAddresses struct{ Peer, HTTP, GRPC string }

// EnsureDefaults fills in every field that was left at zero.
func (c *Config) EnsureDefaults() {
	defaultTo(&c.ElectionTimeout, DefaultElectionTimeout)
	defaultTo(&c.HeartbeatInterval, DefaultHeartbeatInterval)
	defaultTo(&c.MaxElectionWindow, DefaultMaxElectionWindow)
	defaultTo(&c.FormationWindow, DefaultFormationWindow)
	defaultTo(&c.RebalanceInterval, DefaultRebalanceInterval)
	defaultTo(&c.SnapshotEntries, DefaultSnapshotEntries)
	defaultTo(&c.MaxVersion, ProtocolVersion)
	defaultTo(&c.Epsilon, DefaultEpsilon)
	defaultTo(&c.Name, fmt.Sprintf("node-%d", c.ID))
	if c.Logger == nil {
		c.Logger = silentLogger{}
	}
}

func (c *Config) voterName(id NodeID) string {
	if name := c.VoterNames[id]; name != "" {
		return name
	}
	return fmt.Sprintf("node-%d", id)
}

func defaultTo[T comparable](field *T, value T) {
	var zero T
	if *field == zero {
		*field = value
	}
}

// Validate reports every problem of a configuration with its defaults filled in.
func (c *Config) Validate() error {
	var problems []error
	check := func(ok bool, field, format string, args ...any) {
		if !ok {
			problems = append(problems, invalid(field, format, args...))
		}
	}
	check(c.ID != 0, "id", "0 is nobody")
	check(c.Join || slices.Contains(c.Voters, c.ID), "voters", "replica %d is not among the voters %v", c.ID, c.Voters)
	check(len(c.Voters) <= MaxReplicas, "voters", "%d replicas; at most %d are allowed", len(c.Voters), MaxReplicas)
	sorted := slices.Clone(c.Voters)
	slices.Sort(sorted)
	check(len(slices.Compact(sorted)) == len(c.Voters), "voters", "%v names a replica twice", c.Voters)
	check(!c.Join || !c.Store, "join", "a registry in an external store is not joined; write every node under peers")
	check(c.ClusterID != "", "clusterId", "empty")
	check(len(c.Name) <= MaxRequestID/2, "name", "%d bytes; at most %d are allowed", len(c.Name), MaxRequestID/2)
	check(c.HeartbeatInterval > 0, "heartbeatInterval", "%v; want a positive duration", c.HeartbeatInterval)
	check(c.ElectionTimeout >= 3*c.HeartbeatInterval, "electionTimeout", "%v; want at least three heartbeat intervals of %v", c.ElectionTimeout, c.HeartbeatInterval)
	check(c.MaxElectionWindow > c.ElectionTimeout, "maxElectionWindow", "%v; want more than the election timeout of %v", c.MaxElectionWindow, c.ElectionTimeout)
	check(c.Epsilon > 0 && c.Epsilon < 500, "epsilon", "%d parts per thousand; want 1 to 499", c.Epsilon)
	check(c.FormationMembers >= 0 && c.FormationMembers <= MaxSessions, "formationMembers", "%d; want 0 to %d", c.FormationMembers, MaxSessions)
	return errors.Join(problems...)
}

// Replica is one copy of the registry over a log, with the keeper that works
// while this replica is the registrar. It is driven by a Drive: inputs and time go
// in, a Ready comes out, is made durable and sent, and Advance gives out what that
// made true. It starts no goroutine and is not safe for concurrent use.
type Replica struct {
	cfg      Config
	journal  journal
	registry *Registry
	keeper   *Keeper
	rng      *rand.Rand
	now      Time
	err      error

	// Of the log, as this replica has taken note of it.
	lead       NodeID
	leading    bool
	term       uint64
	officeOpen bool

	notedAt map[SessionID]Time // when this replica applied each note that stands

	requests requestTable
	attached attachments
	gossip   gossip
	claims   *splitBrain
	reads    readTable
	duties   duties

	out            Emission
	status         statusCounters
	wall           int64 // the wall clock, for entries proposed in this turn
	plantWall      int64
	plantDecisions []*logpb.Command
}

type statusCounters struct {
	installs, checkpoints, campaigns, offices uint64
}

// NewReplica returns a replica that continues from what its log holds. The clock
// reads now; nothing is assumed about readings of an earlier life.
func NewReplica(cfg Config, boot Boot, now Time) (*Replica, error) {
	cfg.EnsureDefaults()
	if err := cfg.Validate(); err != nil {
		return nil, err
	}
	r := &Replica{
		cfg: cfg, now: now, rng: rand.New(rand.NewPCG(cfg.Seed, uint64(cfg.ID))),
		keeper: newKeeper(cfg.Epsilon, cfg.Plants), notedAt: map[SessionID]Time{},
		requests: newRequestTable(), attached: newAttachments(), duties: newDuties(),
		gossip: newGossip(), claims: newSplitBrain(cfg.ElectionTimeout, cfg.Plants),
	}
	r.reads = newReadTable(r.rng.Uint64())
	var err error
	if cfg.Store {
		r.journal, err = newStoreJournal(r, boot)
	} else {
		r.journal, err = newRaftJournal(r, boot)
	}
	if err != nil {
		return nil, err
	}
	return r, nil
}

// Registry is this replica's copy, to be read between turns and not modified.
func (r *Replica) Registry() *Registry { return r.registry }

// Err is what halted the replica, nil while it runs.
func (r *Replica) Err() error { return r.err }

// Halt stops the replica for good.
func (r *Replica) Halt(err error) {
	if r.err == nil {
		r.err = err
		r.keeper.End()
	}
}

// Status tells what a replica knows about itself.
type Status struct {
	ID          NodeID
	Registrar   NodeID // 0: none known
	IsRegistrar bool
	// OfficeOpen is true once the registrar's first entry is applied.
	OfficeOpen bool
	RaftTerm   uint64
	Applied    uint64
	Committed  uint64
	// Ready is true while this copy can be vouched for; otherwise NotReadyReason
	// says why not.
	Ready            bool
	NotReadyReason   string
	Version          uint32
	Forming          bool
	SnapshotInstalls uint64
	Checkpoints      uint64
	Campaigns        uint64
	Offices          uint64
	PendingRequests  int
	// Nodes is what the registrar knows of the members of a raft log; empty elsewhere.
	Nodes           []NodeProgress
	AttachedMembers int
}

// Status describes the replica between two turns.
func (r *Replica) Status() Status {
	forming, _ := r.registry.Forming()
	s := Status{
		ID: r.cfg.ID, Registrar: r.lead, IsRegistrar: r.leading, OfficeOpen: r.officeOpen, RaftTerm: r.term,
		Applied: r.registry.Revision(), Committed: r.journal.committed(), Version: r.registry.Version(), Forming: forming,
		SnapshotInstalls: r.status.installs, Checkpoints: r.status.checkpoints, Campaigns: r.status.campaigns,
		Offices: r.status.offices, PendingRequests: len(r.requests.byID), AttachedMembers: len(r.attached.bySession),
	}
	if j, raft := r.journal.(*raftJournal); raft {
		s.Nodes = j.progress()
	}
	s.NotReadyReason = r.notReady()
	s.Ready = s.NotReadyReason == ""
	return s
}

// notReady is a ladder: the strongest reason first.
func (r *Replica) notReady() string {
	switch {
	case r.err != nil:
		return fmt.Sprintf("this node halted: %v", r.err)
	case r.journal.notReady() != "":
		return r.journal.notReady()
	case r.leading && !r.officeOpen:
		return "this node has just become registrar and has not confirmed it yet"
	case r.registry.ClusterID() == "":
		return "the registry has no first entry yet"
	}
	return ""
}

// Step takes what has arrived. now was read after everything in inputs arrived.
func (r *Replica) Step(now Time, inputs []Input) {
	r.now = now
	if r.err != nil {
		return
	}
	for i := range inputs {
		r.step(&inputs[i])
	}
}

func (r *Replica) step(in *Input) {
	switch {
	case in.Message != nil:
		r.receive(in)
	case in.Member != nil:
		r.receiveMember(in.Member)
	case in.Request != nil:
		r.request(in.Request)
	case in.Read != nil && r.cfg.Plants.Has(plant.LocalRead):
		r.out.Reads = append(r.out.Reads, ReadDone{Tag: in.Read.Tag})
	case in.Read != nil:
		r.reads.add(r.now, in.Read.Tag, r.cfg.MaxElectionWindow)
	case in.Detached != 0:
		r.attached.detach(in.Detached)
	case in.Broken != 0:
		r.brokeOff(in.Broken)
	case in.Gossip != nil:
		r.receiveGossip(in.Gossip)
	case in.Unreachable != 0:
		r.nodeUnreachable(in.Unreachable)
		r.journal.step(in)
	case in.Store != nil:
		r.journal.step(in)
	case in.Removed:
		r.removed(", as another node says")
	case in.HandOver:
		r.journal.handOver()
	}
}

func (r *Replica) receive(in *Input) {
	m := in.Message
	if m.To != r.cfg.ID || !r.listensTo(m.From) {
		return
	}
	switch {
	case m.Raft != nil:
		r.journal.step(in)
	case m.Proposal != nil:
		r.receiveProposal(m.Proposal)
	case m.Keepalive != nil:
		r.receiveForwarded(m.From, m.Keepalive)
	case m.Ack != nil:
		r.returnAck(m.Ack)
	case m.Suspicion != nil:
		r.suspectSession(m.Suspicion.Session)
	}
}

// Tick lets time pass. It must follow Step with the same now. wall is the wall
// clock, in Unix nanoseconds, that entries proposed now are stamped with.
func (r *Replica) Tick(now Time, wall int64) {
	r.now, r.wall = now, wall
	if r.err != nil {
		return
	}
	r.watchOffice()
	r.journal.tick()
	r.watchOffice()
	r.tickKeeper()
	r.tickDuties()
	r.tickRequests()
	r.propose(wall)
	r.confirm()
	r.collectAcks()
	r.plantWall = int64(now)
}

// Deadline is when Tick is due if nothing arrives before.
func (r *Replica) Deadline() Time {
	if r.err != nil {
		return Never
	}
	d := min(r.keeper.Deadline(r.now), r.duties.deadline(), r.adviceDeadline(), r.requests.deadline(), r.reads.deadline(), r.journal.deadline())
	return max(d, r.now) // at once, when it has passed
}

// collectAcks sends the keeper's acknowledgements on their way.
func (r *Replica) collectAcks() {
	for _, a := range r.keeper.TakeAcks() {
		ack := &AckReturn{Session: a.session, Number: a.number, Conn: a.conn}
		if a.home == r.cfg.ID {
			r.returnAck(ack)
		} else {
			r.out.Messages = append(r.out.Messages, Message{From: r.cfg.ID, To: a.home, Ack: ack})
		}
	}
}

// returnAck hands an acknowledgement to the member's connection.
func (r *Replica) returnAck(a *AckReturn) {
	r.out.Members = append(r.out.Members, MemberOutput{Conn: a.Conn, Message: ReplicaMessage{Ack: &Ack{Session: a.Session, Number: a.Number}}})
}

func (r *Replica) mintID() string {
	return fmt.Sprintf("%016x%016x", r.rng.Uint64(), r.rng.Uint64())
}

// own returns a command that this replica proposes on its own account.
func (r *Replica) own(c *logpb.Command) *logpb.Command {
	c.RequestId = fmt.Sprintf("%s/%s", r.cfg.Name, r.mintID())
	c.Base = r.registry.Revision()
	c.CorrelationId = r.mintID()
	c.Actor = r.cfg.Name
	return c
}

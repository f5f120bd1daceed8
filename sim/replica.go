package sim

import (
	"errors"
	"math/rand/v2"
	"strings"
	"time"

	"go.etcd.io/raft/v3/raftpb"
	"google.golang.org/protobuf/proto"

	"github.com/omnirelay/leadership/core"
)

// maxInbox is how many inputs wait for a process; what comes on top is lost, as
// it would be in a full socket buffer.
const maxInbox = 8 * core.MaxMessagesPerTurn

// replica is one process of the registry: core's own Replica and Drive over a
// simulated clock, disk and network.
type replica struct {
	process
	id    core.NodeID
	at    endpoint
	disk  *disk
	wall  int64 // wall clock minus true time
	core  *core.Replica
	drive *core.Drive
	inbox []core.Input
	conns map[core.ConnID]*conn

	observed uint64 // the revision that the checkers have seen of this incarnation
	status   core.Status
	client   storeClient
	slow     int // faults that touch its disk or its pace
	// idle: it is no node yet; joins: it came later; gone: it never starts again.
	idle, joins, gone bool
}

func newReplica(w *World, id core.NodeID, rng *rand.Rand) *replica {
	r := &replica{id: id, at: endpoint(id - 1)}
	r.process = process{w: w, name: "replica-" + string(rune('0'+id)), rng: rng, clock: w.newClock(rng)}
	r.wall = rng.Int64N(int64(time.Hour))
	r.disk = &disk{w: w, process: &r.process, replica: id, rng: rng, syncMin: w.scenario.SyncMin.D(), syncMax: w.scenario.SyncMax.D()}
	r.onEnd = r.down
	return r
}

// boot starts the next incarnation from what the disk holds.
func (r *replica) boot() {
	if r.up || r.gone {
		return
	}
	r.inbox, r.conns, r.observed = nil, map[core.ConnID]*conn{}, 0
	r.client = storeClient{pending: map[uint64]bool{}, tail: tail{}, lag: r.client.lag, toOldStore: r.client.toOldStore}
	r.core, r.drive, r.status = nil, nil, core.Status{}
	r.stallOneIn = 0
	r.w.checks.booted(r.w.now, r)
	r.w.tracef(r.name, "starts")
	r.start(r.run)
	r.w.healthChanged()
}

func (r *replica) run() {
	var err error
	r.core, err = core.NewReplica(r.w.replicaConfig(r), r.disk.boot(), r.Now())
	if err != nil {
		r.w.halted(r, err)
		return
	}
	r.drive = core.NewDrive(r.core, r.disk, r)
	for {
		if err := r.drive.Turn(); err != nil {
			if !errors.Is(err, errInjected) && !r.w.removedHalt(r, err) {
				r.w.halted(r, err)
			}
			return
		}
		r.w.turned(r)
		r.countTurn()
		r.wait(block{until: r.nextTurn(), forInputs: true})
	}
}

// nextTurn is when the next turn is due, in true time. A host's timer is a little
// late, never early.
func (r *replica) nextTurn() int64 {
	soon := r.w.now + int64(20*time.Microsecond)
	if len(r.inbox) > 0 {
		return soon
	}
	due := r.clock.when(r.drive.Deadline())
	if due == never {
		return never
	}
	return max(soon, due+r.rng.Int64N(int64(time.Millisecond)))
}

// down is called when the process has ended.
func (r *replica) down() {
	r.disk.crash()
	for _, c := range sortedConns(r.conns) {
		c.replicaDied()
	}
	r.inbox, r.conns = nil, nil
	r.core, r.drive, r.status = nil, nil, core.Status{}
	r.w.healthChanged()
	r.w.restartLater(r)
}

// receive puts an input into the inbox.
func (r *replica) receive(in core.Input) {
	if !r.up || len(r.inbox) >= maxInbox {
		return
	}
	r.inbox = append(r.inbox, in)
	r.arrived()
}

// Drain implements core.World.
func (r *replica) Drain() []core.Input {
	r.port()
	n := min(len(r.inbox), core.MaxMessagesPerTurn)
	inputs := r.inbox[:n:n]
	r.inbox = r.inbox[n:]
	if len(r.inbox) == 0 {
		r.inbox = nil
	}
	r.taken(inputs)
	return inputs
}

// Now implements core.World.
func (r *replica) Now() core.Time {
	r.port()
	return r.clock.At(r.w.now)
}

// Wall implements core.World.
func (r *replica) Wall() int64 { return r.wall + r.w.now }

// Emit implements core.World.
func (r *replica) Emit(e core.Emission) {
	r.port()
	r.w.observe(r)
	for _, rec := range e.Records {
		r.w.checks.told(r.w.now, r.id, rec)
	}
	for i := range e.Messages {
		r.sendMessage(&e.Messages[i])
	}
	for i := range e.Calls {
		r.call(&e.Calls[i])
	}
	for i := range e.Members {
		r.sendMember(&e.Members[i])
	}
	for i := range e.Requests {
		r.w.workload.answered(r, &e.Requests[i])
	}
	for i := range e.Reads {
		r.w.workload.readDone(r, &e.Reads[i])
	}
}

func (r *replica) sendMessage(m *core.Message) {
	if m.Ack != nil {
		r.w.checks.acknowledged(r.w.now, m.Ack.Session, m.Ack.Number)
	}
	if m.To == 0 || int(m.To) > len(r.w.replicas) || r.w.nemesis.intercept(r, m) {
		return
	}
	to, msg := r.w.replicas[m.To-1], *m
	open := r.w.network.send(r.at, to.at, func() {
		r.w.digestMessage(&msg)
		if r.w.turnAway(r, to) {
			return
		}
		if msg.Keepalive != nil && to.up {
			r.w.checks.heard(r.w.now, msg.Keepalive.Session)
		}
		to.receive(core.Input{Message: r.w.carried(&msg)})
	})
	if !open && r.rng.IntN(4) == 0 {
		r.inbox = append(r.inbox, core.Input{Unreachable: m.To})
	}
}

// carried is a message as its receiver gets it.
func (w *World) carried(m *core.Message) *core.Message {
	if !w.copies {
		return m
	}
	c := *m
	if m.Raft != nil {
		c.Raft = proto.CloneOf(m.Raft)
	}
	if m.Proposal != nil {
		c.Proposal = &core.Proposal{}
		for _, command := range m.Proposal.Commands {
			c.Proposal.Commands = append(c.Proposal.Commands, proto.CloneOf(command))
		}
	}
	return &c
}

func (r *replica) sendMember(m *core.MemberOutput) {
	if a := m.Message.Ack; a != nil {
		r.w.checks.acknowledged(r.w.now, a.Session, a.Number)
	}
	if p := m.Message.Reply; p != nil {
		r.w.checks.answered(r.w.now, p.RequestID, p.Result)
	}
	if c := r.conns[m.Conn]; c != nil {
		c.toMember(m.Message)
	}
}

// digestMessage folds a delivered message into the hash of the run.
func (w *World) digestMessage(m *core.Message) {
	d := &w.digest
	d.words(uint64(w.now), uint64(m.From), uint64(m.To))
	switch {
	case m.Raft != nil:
		digestRaft(d, m.Raft)
	case m.Keepalive != nil:
		d.words(2, uint64(m.Keepalive.Session), m.Keepalive.Number)
	case m.Suspicion != nil:
		d.words(7, uint64(m.Suspicion.Session))
	case m.Ack != nil:
		d.words(3, uint64(m.Ack.Session), m.Ack.Number)
	case m.Proposal != nil:
		d.words(4, uint64(len(m.Proposal.Commands)))
		for _, c := range m.Proposal.Commands {
			d.text(c.RequestId)
		}
	}
}

func digestRaft(d *digest, m *raftpb.Message) {
	d.words(1, uint64(m.GetType()), m.GetTerm(), m.GetIndex(), m.GetLogTerm(), m.GetCommit(), uint64(len(m.GetEntries())))
	d.bytes(m.GetContext())
	for _, e := range m.GetEntries() {
		d.bytes(e.GetData())
	}
}

// lostLog reports whether a panic of raft says that a log lost its tail.
func lostLog(text string) bool {
	return strings.Contains(text, "out of range [lastIndex")
}

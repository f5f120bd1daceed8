package core

import (
	"fmt"
	"testing"
	"time"

	"go.etcd.io/raft/v3/raftpb"
	"google.golang.org/protobuf/proto"

	"github.com/omnirelay/leadership/core/logpb"
)

// bench is a cluster in one process with a perfect network, one clock for all and
// logs in memory: enough to tell whether the parts fit. The simulator does the rest.
type bench struct {
	t       *testing.T
	now     Time
	nodes   map[NodeID]*benchNode
	members map[ConnID]*benchMember
	records map[NodeID][]*Record
	tag     uint64 // of the latest request or read
	hook    func(Message) bool
	store   *benchStore
}

type benchNode struct {
	mayHalt bool  // a replica that halts is not the end of the test
	halted  error // what it halted by
	b       *bench
	id      NodeID
	cfg     Config
	drive   *Drive
	replica *Replica
	log     *benchLog
	inbox   []Input
	down    bool
	cut     bool // exchanges nothing with other replicas
	done    map[uint64]*Result
	reads   map[uint64]*Error
	seen    map[uint64]uint64 // by tag of a read: the revision it was served at
}

type benchMember struct {
	conn    ConnID
	home    NodeID
	member  *Member
	cut     bool
	changes []MemberChange
}

type benchLog struct {
	boot    Boot
	records []*Record
	fail    error
	batches int
}

func (l *benchLog) Persist(b Batch) error {
	if l.fail != nil {
		return l.fail
	}
	l.batches++
	if b.Install != nil {
		l.boot.Snapshot, l.boot.Entries = b.Install, nil
	}
	if b.HardState != nil {
		l.boot.HardState = proto.Clone(b.HardState).(*raftpb.HardState)
	}
	for _, e := range b.Entries {
		for n := len(l.boot.Entries); n > 0 && l.boot.Entries[n-1].GetIndex() >= e.GetIndex(); n-- {
			l.boot.Entries = l.boot.Entries[:n-1]
		}
		l.boot.Entries = append(l.boot.Entries, e)
	}
	if b.Checkpoint != nil {
		l.boot.Snapshot = b.Checkpoint
		for len(l.boot.Entries) > 0 && l.boot.Entries[0].GetIndex() <= b.CompactTo {
			l.boot.Entries = l.boot.Entries[1:]
		}
	}
	if m, had := b.Mark, l.boot.Mark; m != nil {
		if had != nil && (m.Generation < had.Generation || m.Generation == had.Generation && (m.Index < had.Index || m.Term < had.Term || m.Round < had.Round) || m.NextFence < had.NextFence) {
			return fmt.Errorf("the mark goes back from %v to %v", had, m)
		}
		l.boot.Mark = m
	}
	if b.AuditedTo != 0 {
		l.boot.AuditedTo = b.AuditedTo
		l.records = append(l.records, b.Records...)
		if n := len(l.records); n > 0 {
			l.boot.LastRecord = l.records[n-1]
		}
	}
	return nil
}

func (n *benchNode) Drain() []Input {
	in := n.inbox
	n.inbox = nil
	return in
}
func (n *benchNode) Now() Time   { return n.b.now }
func (n *benchNode) Wall() int64 { return int64(n.b.now) + 1_700_000_000_000_000_000 }
func (n *benchNode) Emit(e Emission) {
	for _, m := range e.Messages {
		if n.b.hook != nil && n.b.hook(m) {
			continue
		}
		if to := n.b.nodes[m.To]; to != nil && !to.down && !to.cut && !n.cut {
			to.inbox = append(to.inbox, Input{Message: &m})
		}
	}
	for _, m := range e.Members {
		if to := n.b.members[m.Conn]; to != nil && !to.cut {
			to.member.Step(n.b.now, m.Message)
		}
	}
	n.b.records[n.id] = append(n.b.records[n.id], e.Records...)
	for _, d := range e.Requests {
		n.done[d.Tag] = d.Result
	}
	for i := range e.Calls {
		n.b.store.call(n, &e.Calls[i])
	}
	for _, d := range e.Reads {
		n.reads[d.Tag], n.seen[d.Tag] = d.Err, n.replica.Registry().Revision()
	}
}

func newBench(t *testing.T, nodes int, edit func(*Config)) *bench {
	b := &bench{t: t, now: 1, store: newBenchStore(), nodes: map[NodeID]*benchNode{}, members: map[ConnID]*benchMember{}, records: map[NodeID][]*Record{}}
	var voters []NodeID
	for i := range nodes {
		voters = append(voters, NodeID(i+1))
	}
	for _, id := range voters {
		cfg := Config{ID: id, Voters: voters, ClusterID: "bench", Seed: uint64(id) * 77}
		if edit != nil {
			edit(&cfg)
		}
		b.nodes[id] = &benchNode{b: b, id: id, cfg: cfg, log: &benchLog{}, down: true, done: map[uint64]*Result{}, reads: map[uint64]*Error{}, seen: map[uint64]uint64{}}
		b.start(id)
	}
	return b
}

func (b *bench) start(id NodeID) {
	n := b.nodes[id]
	n.cfg.Seed++
	r, err := NewReplica(n.cfg, n.log.boot, b.now)
	if err != nil {
		b.t.Fatal(err)
	}
	n.replica, n.drive, n.down, n.inbox = r, NewDrive(r, n.log, n), false, nil
}

func (b *bench) isolate(id NodeID, cut bool) { b.nodes[id].cut = cut }

func (b *bench) join(name string, home NodeID, ttl time.Duration) *benchMember {
	conn := ConnID(len(b.members) + 1)
	m, err := NewMember(MemberConfig{MemberID: name, TTL: ttl, Instance: fmt.Sprintf("%s-%d", name, conn), Seed: uint64(conn)}, b.now)
	if err != nil {
		b.t.Fatal(err)
	}
	bm := &benchMember{conn: conn, home: home, member: m}
	b.members[conn] = bm
	return bm
}

func (b *bench) run(d time.Duration) {
	for end := b.now.Add(d); b.now < end; b.now = b.now.Add(time.Millisecond) {
		for _, c := range sortedKeys(b.members) {
			m := b.members[c]
			if m.member.Deadline() <= b.now {
				m.member.Tick(b.now)
			}
			out := m.member.TakeOutput()
			m.changes = append(m.changes, out.Changes...)
			if n := b.nodes[m.home]; n != nil && !n.down && !m.cut {
				for _, msg := range out.Messages {
					n.inbox = append(n.inbox, Input{Member: &MemberInput{Conn: m.conn, Message: msg}})
				}
			}
		}
		b.store.run(b.now)
		for _, id := range sortedKeys(b.nodes) {
			n := b.nodes[id]
			if n.down || (len(n.inbox) == 0 && n.drive.Deadline() > b.now) {
				continue
			}
			n.turn()
		}
	}
}

// turn runs the drive until it would sleep. A drive that never would keeps a
// processor busy for nothing, and the simulator at one moment for ever.
func (n *benchNode) turn() {
	for range 16 {
		if err := n.drive.Turn(); err != nil && n.mayHalt {
			n.down, n.halted = true, err
			return
		} else if err != nil {
			n.b.t.Fatalf("node %d: %v", n.id, err)
		}
		if len(n.inbox) > 0 || n.drive.Deadline() > n.b.now {
			return
		}
	}
	n.b.t.Fatalf("node %d spins at %v: its deadline is %v", n.id, n.b.now, n.drive.Deadline())
}

func (b *bench) registrar() *benchNode {
	for _, id := range sortedKeys(b.nodes) {
		if n := b.nodes[id]; !n.down && !n.cut && n.replica.Status().OfficeOpen {
			return n
		}
	}
	b.t.Fatal("no registrar")
	return nil
}

func (b *bench) do(c *logpb.Command) *Result {
	b.t.Helper()
	return b.doAt(b.registrar(), c)
}

// doAt hands a command to one node and waits for the reply.
func (b *bench) doAt(n *benchNode, c *logpb.Command) *Result {
	b.t.Helper()
	tag := n.ask(c)
	b.until(10*time.Second, "a reply", func() bool { return n.done[tag] != nil })
	return n.done[tag]
}

// ask hands a command to the node and returns the tag of its reply.
func (n *benchNode) ask(c *logpb.Command) uint64 {
	n.b.tag++
	n.inbox = append(n.inbox, Input{Request: &RequestInput{Tag: n.b.tag, Command: c}})
	return n.b.tag
}

// read asks for a linearizable read and returns the tag of its answer.
func (n *benchNode) read() uint64 {
	n.b.tag++
	n.inbox = append(n.inbox, Input{Read: &ReadInput{Tag: n.b.tag}})
	return n.b.tag
}

// until runs until something holds, and fails when it takes longer than limit.
func (b *bench) until(limit time.Duration, what string, holds func() bool) {
	b.t.Helper()
	for end := b.now.Add(limit); b.now < end; {
		if holds() {
			return
		}
		b.run(time.Millisecond)
	}
	if !holds() {
		b.t.Fatalf("no %s within %v", what, limit)
	}
}

func declare(id string, scopes ...string) *logpb.Command {
	d := &logpb.DeclareScopes{}
	for _, s := range scopes {
		d.Scopes = append(d.Scopes, &logpb.ScopeSpec{Id: s})
	}
	return &logpb.Command{RequestId: id, Kind: &logpb.Command_DeclareScopes{DeclareScopes: d}}
}

func TestThreeReplicasElectAndFailOver(t *testing.T) {
	b := newBench(t, 3, func(c *Config) { c.FormationMembers = 3; c.SnapshotEntries = 6 })
	b.run(2 * time.Second)
	scopes := []string{GlobalControl}
	for i := range 30 {
		scopes = append(scopes, fmt.Sprintf("shard/mesh.demo/%02d", i))
	}
	if r := b.do(declare("d1", scopes...)); r.Code != "" {
		t.Fatal(r)
	}
	var members []*benchMember
	for i := range 3 {
		m := b.join(fmt.Sprintf("m%d", i), NodeID(i+1), time.Second)
		if err := m.member.Stand(&logpb.Selector{}, 0); err != nil {
			t.Fatal(err)
		}
		members = append(members, m)
	}
	b.run(3 * time.Second)
	held := 0
	for _, m := range members {
		n := len(m.member.Held(b.now))
		if n < 8 || n > 13 {
			t.Errorf("%s holds %d of 31", m.member.MemberID(), n)
		}
		held += n
	}
	if held != 31 {
		t.Fatalf("%d of 31 held", held)
	}
	// Its member dies with the registrar.
	reg := b.registrar()
	before := reg.replica.Registry().Tokens()
	reg.down = true
	members[reg.id-1].cut = true
	b.run(4 * time.Second)
	reg2 := b.registrar()
	for i, tok := range reg2.replica.Registry().Tokens() {
		if tok.LeaderID == fmt.Sprintf("m%d", reg.id-1) {
			t.Errorf("%s is still led by the dead member", tok.Scope)
		}
		if tok.LeaderID != before[i].LeaderID && tok.Fence <= before[i].Fence {
			t.Errorf("%s: fence %d after %d", tok.Scope, tok.Fence, before[i].Fence)
		}
	}
	b.start(reg.id)
	b.run(3 * time.Second)
	if h, g := reg2.replica.Registry().Hash(), reg.replica.Registry().Hash(); h != g {
		t.Errorf("replicas differ at %d and %d", reg2.replica.Registry().Revision(), reg.replica.Registry().Revision())
	}
	if reg2.replica.Status().Checkpoints == 0 {
		t.Error("no checkpoint was taken")
	}
	if err := VerifyChain(nil, b.nodes[reg2.id].log.records); err != nil {
		t.Error(err)
	}
}

// A registrar that was cut off and deposed must sleep like any follower: what it
// was due to do in its office is nobody's business any more.
func TestADeposedRegistrarSleeps(t *testing.T) {
	b := newBench(t, 3, nil)
	b.run(2 * time.Second)
	old := b.registrar()
	b.isolate(old.id, true)
	b.run(4 * time.Second)
	if b.registrar() == old {
		t.Fatal("nobody took over")
	}
	b.isolate(old.id, false)
	b.run(4 * time.Second)
	if s := old.replica.Status(); !s.Ready || s.IsRegistrar {
		t.Fatalf("%+v", s)
	}
}

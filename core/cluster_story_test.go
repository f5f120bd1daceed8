package core

import (
	"errors"
	"fmt"
	"slices"
	"strings"
	"testing"
	"time"

	"go.etcd.io/raft/v3/raftpb"
	"google.golang.org/protobuf/proto"

	"github.com/omnirelay/leadership/core/logpb"
)

// others are the nodes that are not n, in order.
func (b *bench) others(n *benchNode) []*benchNode {
	var rest []*benchNode
	for _, id := range sortedKeys(b.nodes) {
		if b.nodes[id] != n {
			rest = append(rest, b.nodes[id])
		}
	}
	return rest
}

// same fails unless every node that is up has applied the same to the same state.
func (b *bench) same() {
	b.t.Helper()
	first := b.registrar()
	b.until(5*time.Second, "equal revision on all nodes", func() bool {
		for _, n := range b.others(first) {
			if !n.down && n.replica.Registry().Revision() != first.replica.Registry().Revision() {
				return false
			}
		}
		return true
	})
	for _, n := range b.others(first) {
		if !n.down && n.replica.Registry().Hash() != first.replica.Registry().Hash() {
			b.t.Errorf("nodes %d and %d differ at revision %d", first.id, n.id, n.replica.Registry().Revision())
		}
	}
}

// audited fails unless the node's audit trail is whole: every record once, in
// order, chained, from the first to the registry's newest.
func (n *benchNode) audited() {
	n.b.t.Helper()
	if err := VerifyChain(nil, n.log.records); err != nil {
		n.b.t.Errorf("node %d: %v", n.id, err)
	}
	seq, hash := n.replica.Registry().History().Head()
	if got := len(n.log.records); uint64(got) != seq {
		n.b.t.Fatalf("node %d keeps %d audit records of %d", n.id, got, seq)
	}
	if seq > 0 && string(n.log.records[seq-1].Hash) != string(hash) {
		n.b.t.Errorf("node %d: the audit trail ends in another hash than the registry", n.id)
	}
}

func willing(t *testing.T, m *benchMember) *benchMember {
	t.Helper()
	if err := m.member.Stand(&logpb.Selector{}, 0); err != nil {
		t.Fatal(err)
	}
	return m
}

func (b *bench) leads(m *benchMember, scope string) bool {
	_, ok := m.member.Holds(scope, b.now)
	return ok
}

// The office is handed over before a shutdown: no election timeout passes, nobody
// loses a lease, and what was proposed meanwhile takes effect once.
func TestTheOfficeIsHandedOver(t *testing.T) {
	b := newBench(t, 3, nil)
	b.run(2 * time.Second)
	m := willing(t, b.join("m", 1, time.Second))
	b.do(declare("d", "s"))
	b.until(3*time.Second, "leader", func() bool { return b.leads(m, "s") })
	old := b.registrar()
	old.inbox = append(old.inbox, Input{HandOver: true})
	asked := old.ask(declare("during", "during"))
	b.until(DefaultElectionTimeout/2, "new registrar", func() bool {
		for _, n := range b.others(old) {
			if n.replica.Status().OfficeOpen {
				return true
			}
		}
		return false
	})
	b.until(3*time.Second, "reply", func() bool { return old.done[asked] != nil })
	for end := b.now.Add(3 * time.Second); b.now < end; b.run(time.Millisecond) {
		if !b.leads(m, "s") {
			t.Fatal("the member lost its lease with the hand-over")
		}
	}
	b.same()
}

// A replica that was away for longer than the log reaches back is given a
// snapshot, with it the whole audit trail, and follows from there.
func TestAFarBehindReplicaInstallsASnapshot(t *testing.T) {
	b := newBench(t, 3, func(c *Config) { c.SnapshotEntries = 8 })
	b.run(2 * time.Second)
	willing(t, b.join("m", 1, time.Second))
	b.do(declare("d", "s"))
	behind := b.others(b.registrar())[0]
	behind.down = true
	for i := range 40 {
		if r := b.do(declare(fmt.Sprint("d", i), fmt.Sprint("scope-", i))); r.Code != "" {
			t.Fatal(r)
		}
	}
	b.run(time.Second)
	b.start(behind.id)
	b.until(5*time.Second, "snapshot", func() bool { return behind.replica.Status().SnapshotInstalls > 0 })
	b.run(time.Second)
	b.same()
	behind.audited()
	b.registrar().audited()
	// It goes on from what it installed, also after a restart.
	b.do(declare("later", "later"))
	behind.down = true
	b.start(behind.id)
	b.run(2 * time.Second)
	b.same()
	behind.audited()
}

// All nodes lose power and start from their logs: the same state, no record twice,
// nobody elected by accident, and the sessions' silence is counted anew.
func TestEverythingRestartsFromTheLog(t *testing.T) {
	b := newBench(t, 3, func(c *Config) { c.SnapshotEntries = 12 })
	b.run(2 * time.Second)
	m := willing(t, b.join("m", 1, 2*time.Second))
	for i := range 20 {
		b.do(declare(fmt.Sprint("d", i), fmt.Sprint("scope-", i)))
	}
	b.until(3*time.Second, "leader", func() bool { return b.leads(m, "scope-3") })
	b.run(time.Second)
	before := b.nodes[1].replica.Registry()
	for _, n := range b.nodes {
		n.down = true
	}
	b.run(100 * time.Millisecond)
	for _, id := range sortedKeys(b.nodes) {
		b.start(id)
	}
	b.run(4 * time.Second)
	b.same()
	for _, n := range b.nodes {
		n.audited()
	}
	after := b.registrar().replica.Registry()
	if !slices.EqualFunc(before.Tokens(), after.Tokens(), func(x, y Token) bool { return x.Scope == y.Scope && x.Fence == y.Fence }) {
		t.Errorf("leaders before %v, after %v", before.Tokens(), after.Tokens())
	}
	if !b.leads(m, "scope-3") {
		t.Error("the member did not come back into its lease")
	}
}

// A linearizable read on any node sees what was acknowledged before it was asked
// for, however far that node was behind.
func TestALinearizableReadSeesWhatWasAcknowledged(t *testing.T) {
	b := newBench(t, 3, nil)
	b.run(2 * time.Second)
	reg := b.registrar()
	far := b.others(reg)[1]
	b.isolate(far.id, true)
	written := b.do(declare("d", "s"))
	b.isolate(far.id, false)
	for _, n := range b.nodes {
		tag := n.read()
		b.until(5*time.Second, "read", func() bool { _, ok := n.reads[tag]; return ok })
		if err := n.reads[tag]; err != nil {
			t.Errorf("node %d: %v", n.id, err)
		} else if n.seen[tag] < written.Revision {
			t.Errorf("node %d read at revision %d what was written at %d", n.id, n.seen[tag], written.Revision)
		}
	}
}

// A node that is cut off cannot vouch for its copy: reads and requests on it are
// refused within the window, and it says that it is not ready.
func TestACutOffNodeRefusesInTime(t *testing.T) {
	b := newBench(t, 3, nil)
	b.run(2 * time.Second)
	b.do(declare("d", "s"))
	for _, n := range []*benchNode{b.registrar(), b.others(b.registrar())[0]} {
		b.isolate(n.id, true)
		read, request := n.read(), n.ask(declare(fmt.Sprint("cut", n.id), "t"))
		b.run(DefaultMaxElectionWindow + 10*time.Millisecond)
		if err := n.reads[read]; err == nil || err.Code != CodeUnavailable {
			t.Errorf("node %d: a read was answered with %v", n.id, err)
		}
		if r := n.done[request]; r == nil || r.Code != string(CodeUnavailable) {
			t.Errorf("node %d: a request was answered with %v", n.id, r)
		}
		if s := n.replica.Status(); s.Ready || !strings.Contains(s.NotReadyReason, "no registrar") {
			t.Errorf("node %d says it is ready: %q", n.id, s.NotReadyReason)
		}
		b.isolate(n.id, false)
		b.run(2 * time.Second)
		if s := n.replica.Status(); !s.Ready {
			t.Errorf("node %d: %s", n.id, s.NotReadyReason)
		}
	}
	b.same()
}

// The reply was lost with the node. The retry under the same request id, through
// another node, has the same reply and no second effect; so has one that
// crosses a restart of everything.
func TestARetryThroughAnotherNodeHasTheSameReply(t *testing.T) {
	b := newBench(t, 3, func(c *Config) { c.SnapshotEntries = 8 })
	b.run(2 * time.Second)
	open := func() *logpb.Command {
		return &logpb.Command{RequestId: "open-once", Kind: &logpb.Command_OpenSession{OpenSession: &logpb.OpenSession{MemberId: "m", TtlNs: int64(MaxTTL)}}}
	}
	first := b.doAt(b.nodes[1], open())
	for _, n := range b.nodes {
		if again := b.doAt(n, open()); !proto.Equal(first, again) {
			t.Errorf("node %d replied %v after %v", n.id, again, first)
		}
	}
	for i := range 20 {
		b.do(declare(fmt.Sprint("d", i), fmt.Sprint("scope-", i)))
	}
	for _, id := range sortedKeys(b.nodes) {
		b.start(id)
	}
	b.run(3 * time.Second)
	if again := b.doAt(b.nodes[2], open()); !proto.Equal(first, again) {
		t.Errorf("after a restart the reply was %v after %v", again, first)
	}
	if n := len(b.registrar().replica.Registry().Sessions()); n != 1 {
		t.Errorf("%d sessions were opened", n)
	}
}

// One request, told to every node at once and again while the registrar dies, has
// one effect.
func TestARequestThatOutlivesItsRegistrarHasOneEffect(t *testing.T) {
	b := newBench(t, 3, nil)
	b.run(2 * time.Second)
	reg := b.registrar()
	command := func() *logpb.Command {
		return &logpb.Command{RequestId: "open-once", Kind: &logpb.Command_OpenSession{OpenSession: &logpb.OpenSession{MemberId: "m", TtlNs: int64(MaxTTL)}}}
	}
	tags := map[*benchNode]uint64{}
	for _, n := range b.others(reg) {
		tags[n] = n.ask(command())
	}
	b.run(time.Millisecond)
	reg.down = true
	b.run(4 * time.Second)
	var replies []*Result
	for n, tag := range tags {
		if n.done[tag] == nil {
			t.Fatalf("node %d did not answer", n.id)
		}
		replies = append(replies, n.done[tag])
	}
	if !proto.Equal(replies[0], replies[1]) || replies[0].Session == 0 {
		t.Errorf("two replies: %v and %v", replies[0], replies[1])
	}
	if n := len(b.registrar().replica.Registry().Sessions()); n != 1 {
		t.Errorf("%d sessions were opened", n)
	}
}

// A member's node dies. It goes on through another without losing its lease.
func TestAMemberGoesOnThroughAnotherNode(t *testing.T) {
	b := newBench(t, 3, nil)
	b.run(2 * time.Second)
	home := b.others(b.registrar())[0]
	m := willing(t, b.join("m", home.id, 2*time.Second))
	b.do(declare("d", "s"))
	b.until(3*time.Second, "leader", func() bool { return b.leads(m, "s") })
	home.down = true
	b.run(500 * time.Millisecond)
	m.home = b.others(home)[0].id
	m.member.Attached(b.now)
	for end := b.now.Add(5 * time.Second); b.now < end; b.run(time.Millisecond) {
		if !b.leads(m, "s") {
			t.Fatal("the lease was lost")
		}
	}
}

// A cluster of one needs nobody.
func TestASingleNodeCluster(t *testing.T) {
	b := newBench(t, 1, func(c *Config) { c.SnapshotEntries = 5 })
	b.run(2 * time.Second)
	m := willing(t, b.join("m", 1, time.Second))
	b.do(declare("d", "s"))
	b.until(3*time.Second, "leader", func() bool { return b.leads(m, "s") })
	read := b.nodes[1].read()
	b.run(10 * time.Millisecond)
	if err, served := b.nodes[1].reads[read]; !served || err != nil {
		t.Errorf("the read was answered: %v, with %v", served, err)
	}
	m.cut = true
	b.run(2 * time.Second)
	if tokens := b.nodes[1].replica.Registry().Tokens(); len(tokens) != 0 {
		t.Errorf("a silent member still leads: %v", tokens)
	}
	for range 10 {
		b.do(&logpb.Command{RequestId: fmt.Sprint("r", b.now), Kind: &logpb.Command_Read{Read: &logpb.Read{}}})
	}
	before, _ := b.nodes[1].replica.Registry().Scope("s")
	b.nodes[1].down = true
	b.start(1)
	if b.run(2 * time.Second); b.nodes[1].replica.Status().NotReadyReason != "" {
		t.Error(b.nodes[1].replica.Status().NotReadyReason)
	}
	b.nodes[1].audited()
	if after, known := b.nodes[1].replica.Registry().Scope("s"); !known || after.VacantSinceWall != before.VacantSinceWall {
		t.Errorf("before %+v, after %+v", before, after)
	}
}

// A member that comes later is given its share by drain and acknowledgement: no
// scope is unled for longer than that takes, and nobody leads twice.
func TestALateMemberGetsItsShare(t *testing.T) {
	b := newBench(t, 3, func(c *Config) { c.RebalanceInterval = 200 * time.Millisecond })
	b.run(2 * time.Second)
	first := willing(t, b.join("first", 1, time.Second))
	b.do(declare("d", "s0", "s1", "s2", "s3", "s4", "s5", "s6", "s7"))
	b.until(3*time.Second, "leader of all", func() bool { return len(first.member.Held(b.now)) == 8 })
	late := willing(t, b.join("late", 2, time.Second))
	for end := b.now.Add(8 * time.Second); b.now < end; b.run(time.Millisecond) {
		for _, h := range late.member.Held(b.now) {
			if b.leads(first, h.Scope) {
				t.Fatalf("both lead %s", h.Scope)
			}
		}
	}
	f, l := len(first.member.Held(b.now)), len(late.member.Held(b.now))
	if f+l != 8 || l < 3 {
		t.Errorf("first leads %d, late %d of 8", f, l)
	}
	revision := b.registrar().replica.Registry().Revision()
	b.run(5 * time.Second)
	if now := b.registrar().replica.Registry().Revision(); now != revision {
		t.Errorf("the log grew from %d to %d although nothing happened", revision, now)
	}
}

// A rolling upgrade: the new command is refused by type until the last replica has
// been restarted with the newer build.
func TestANewCommandWaitsForEveryReplica(t *testing.T) {
	for old := NodeID(1); old <= 3; old++ {
		t.Run(fmt.Sprint("replica ", old, " is older"), func(t *testing.T) { upgrade(t, old) })
	}
}

func upgrade(t *testing.T, old NodeID) {
	b := newBench(t, 3, func(c *Config) {
		if c.ID == old {
			c.MaxVersion = 1
		}
	})
	b.run(3 * time.Second)
	drain := func(id string) *logpb.Command {
		return &logpb.Command{RequestId: id, Kind: &logpb.Command_Cordon{Cordon: &logpb.Cordon{MemberId: "m", Cordoned: true, Drain: true}}}
	}
	if r := b.do(drain("early")); r.Code != string(CodeUnsupported) {
		t.Fatalf("the drain was answered with %v", r)
	}
	b.run(time.Second) // an entry that holds it would have reached everybody
	for _, n := range b.nodes {
		if err := n.replica.Err(); err != nil {
			t.Fatalf("node %d: %v", n.id, err)
		}
	}
	b.nodes[old].down = true
	b.nodes[old].cfg.MaxVersion = 2
	b.start(old)
	b.run(3 * time.Second)
	if r := b.do(drain("late")); r.Code != "" {
		t.Errorf("the drain was answered with %v", r)
	}
	b.same()
}

// What a newer build wrote stops a replica, which says so and stays stopped.
func TestAnUnknownEntryStopsTheReplica(t *testing.T) {
	b := newBench(t, 1, nil)
	b.run(2 * time.Second)
	n := b.nodes[1]
	if err := n.replica.journal.propose(newerPayload(t, "field-of-selector")); err != nil {
		t.Fatal(err)
	}
	err := n.drive.Turn()
	if err == nil || !strings.Contains(err.Error(), "newer build") {
		t.Fatalf("the turn ended with %v", err)
	}
	if again := n.drive.Turn(); !errors.Is(again, err) {
		t.Errorf("the next turn ended with %v", again)
	}
	if s := n.replica.Status(); s.Ready || !strings.Contains(s.NotReadyReason, "halted") || n.drive.Deadline() != Never {
		t.Errorf("%+v", s)
	}
}

// The first storage error stops the drive for good: nothing is emitted that rests
// on what was not made durable, and the log is not touched again.
func TestAStorageErrorLatches(t *testing.T) {
	b := newBench(t, 3, nil)
	b.run(2 * time.Second)
	n := b.registrar()
	n.log.fail = errors.New("disk gone")
	tag := n.ask(declare("d", "s"))
	if err := n.drive.Turn(); err == nil || err.Error() != "disk gone" {
		t.Fatalf("the turn ended with %v", err)
	}
	n.log.fail = nil
	batches := n.log.batches
	if err := n.drive.Turn(); err == nil || err.Error() != "disk gone" || n.log.batches != batches {
		t.Errorf("the next turn ended with %v after %d batches", err, n.log.batches-batches)
	}
	if n.done[tag] != nil || n.replica.Err() == nil {
		t.Errorf("done %v, err %v", n.done[tag], n.replica.Err())
	}
	n.down = true
	b.run(3 * time.Second)
	b.registrar()
}

// A snapshot that does not decode halts the replica before it replaces anything.
func TestADamagedSnapshotIsNotInstalled(t *testing.T) {
	b := newBench(t, 3, nil)
	b.run(2 * time.Second)
	reg := b.registrar()
	n := b.others(reg)[0]
	term := reg.replica.Status().RaftTerm
	n.inbox = append(n.inbox, Input{Message: &Message{From: reg.id, To: n.id, Raft: &raftpb.Message{
		Type: raftpb.MsgSnap.Enum(), From: proto.Uint64(uint64(reg.id)), To: proto.Uint64(uint64(n.id)), Term: proto.Uint64(term),
		Snapshot: &raftpb.Snapshot{Data: []byte("not a snapshot"), Metadata: &raftpb.SnapshotMetadata{
			Index: proto.Uint64(5000), Term: proto.Uint64(term), ConfState: &raftpb.ConfState{Voters: []uint64{1, 2, 3}},
		}},
	}}})
	batches := n.log.batches
	if err := n.drive.Turn(); err == nil || !strings.Contains(err.Error(), "does not decode") {
		t.Fatalf("the turn ended with %v", err)
	}
	if n.log.batches != batches || n.log.boot.HardState.GetCommit() >= 5000 {
		t.Error("something of the damaged snapshot was made durable")
	}
	b.start(n.id) // what was kept is sound
	b.run(3 * time.Second)
	b.same()
}

// Every caller of a pending request is answered; the one too many at once.
func TestEveryWaiterIsAnswered(t *testing.T) {
	b := newBench(t, 3, nil)
	b.run(2 * time.Second)
	n := b.registrar()
	b.isolate(n.id, true)
	var tags []uint64
	for range MaxInFlight + 1 {
		tags = append(tags, n.ask(declare("same", "s")))
	}
	b.run(time.Millisecond)
	if r := n.done[tags[MaxInFlight]]; r == nil || r.Code != string(CodeOverloaded) {
		t.Errorf("the last was answered with %v", r)
	}
	b.run(DefaultMaxElectionWindow + time.Millisecond)
	for i, tag := range tags[:MaxInFlight] {
		if r := n.done[tag]; r == nil || r.Code != string(CodeUnavailable) {
			t.Fatalf("caller %d was answered with %v", i, r)
		}
	}
}

// The same seeds give the same elections, offices and hashes.
func TestTheSameSeedsGiveTheSameRun(t *testing.T) {
	run := func() string {
		b := newBench(t, 3, func(c *Config) { c.SnapshotEntries = 10 })
		b.run(time.Second)
		for i := range 3 {
			willing(t, b.join(fmt.Sprint("m", i), NodeID(i+1), time.Second))
		}
		b.run(time.Second)
		b.do(declare("d", "s0", "s1", "s2", "s3"))
		b.registrar().down = true
		b.run(4 * time.Second)
		n := b.registrar()
		return fmt.Sprintf("%d %d %x", n.id, n.replica.Registry().Revision(), n.replica.Registry().Hash())
	}
	if first, second := run(), run(); first != second {
		t.Errorf("%s, then %s", first, second)
	}
}

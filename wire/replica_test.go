package wire

import (
	"fmt"
	"testing"
	"time"

	"google.golang.org/protobuf/proto"

	"github.com/omnirelay/leadership/core"
	"github.com/omnirelay/leadership/core/logpb"
)

// trio is three of core's replicas whose every message goes through the wire
// format, on one clock, over a network that loses nothing but what goes to a node
// that is down.
type trio struct {
	t      *testing.T
	now    core.Time
	nodes  map[core.NodeID]*trioNode
	member *core.Member // attached to home
	home   core.NodeID
	seen   map[string]int // messages by kind
}

type trioNode struct {
	*trio
	id      core.NodeID
	replica *core.Replica
	drive   *core.Drive
	inbox   []core.Input
	down    bool
	done    map[uint64]*core.Result
	reads   map[uint64]bool
}

// Persist keeps nothing: no node of a trio restarts.
func (n *trioNode) Persist(core.Batch) error { return nil }

func (n *trioNode) Now() core.Time { return n.now }

func (n *trioNode) Wall() int64 { return electedAt + int64(n.now) }

func (n *trioNode) Drain() []core.Input {
	in := n.inbox
	n.inbox = nil
	return in
}

func (n *trioNode) Emit(e core.Emission) {
	for i := range e.Messages {
		n.travel(&e.Messages[i])
	}
	for _, m := range e.Members {
		n.member.Step(n.now, m.Message)
	}
	for _, d := range e.Requests {
		n.done[d.Tag] = d.Result
	}
	for _, d := range e.Reads {
		n.reads[d.Tag] = d.Err == nil
	}
}

// travel encodes, marshals, decodes and delivers.
func (n *trioNode) travel(m *core.Message) {
	encoded, err := EncodeMessage(m)
	if err != nil {
		n.t.Fatalf("core sent what the wire refuses: %v", err)
	}
	data, err := proto.Marshal(encoded)
	if err != nil {
		n.t.Fatal(err)
	}
	got, err := DecodeMessageBytes(data)
	if err != nil {
		n.t.Fatal(err)
	}
	n.seen[kindOf(&got)]++
	if to := n.nodes[got.To]; !to.down {
		to.inbox = append(to.inbox, core.Input{Message: &got})
	}
}

func kindOf(m *core.Message) string {
	switch {
	case m.Raft != nil:
		return m.Raft.GetType().String()
	case m.Proposal != nil:
		return "Proposal"
	case m.Keepalive != nil:
		return "Keepalive"
	}
	return "Ack"
}

func newTrio(t *testing.T) *trio {
	t.Helper()
	x := &trio{t: t, now: 1, nodes: map[core.NodeID]*trioNode{}, seen: map[string]int{}}
	for _, id := range []core.NodeID{1, 2, 3} {
		n := &trioNode{trio: x, id: id, done: map[uint64]*core.Result{}, reads: map[uint64]bool{}}
		var err error
		n.replica, err = core.NewReplica(core.Config{ID: id, Voters: []core.NodeID{1, 2, 3}, ClusterID: "trio",
			Seed: uint64(id), SnapshotEntries: 8}, core.Boot{}, x.now)
		if err != nil {
			t.Fatal(err)
		}
		n.drive = core.NewDrive(n.replica, n, n)
		x.nodes[id] = n
	}
	var err error
	x.member, err = core.NewMember(core.MemberConfig{MemberID: "m", TTL: time.Second, Instance: "m-1", Seed: 9}, x.now)
	if err != nil {
		t.Fatal(err)
	}
	return x
}

// until runs the clock until what is wanted holds, for at most a minute of it.
func (x *trio) until(what string, holds func() bool) {
	x.t.Helper()
	for end := x.now.Add(time.Minute); !holds(); x.now = x.now.Add(5 * time.Millisecond) {
		if x.now >= end {
			x.t.Fatalf("%s: not within a minute; seen %v", what, x.seen)
		}
		x.tick()
	}
}

func (x *trio) tick() {
	x.member.Tick(x.now)
	out := x.member.TakeOutput()
	if home := x.nodes[x.home]; home != nil {
		for _, m := range out.Messages {
			home.inbox = append(home.inbox, core.Input{Member: &core.MemberInput{Conn: 1, Message: m}})
		}
	}
	for id := core.NodeID(1); id <= 3; id++ {
		if n := x.nodes[id]; !n.down {
			if err := n.drive.Turn(); err != nil {
				x.t.Fatalf("node %d: %v", id, err)
			}
		}
	}
}

// roles returns the registrar and one follower that knows it.
func (x *trio) roles() (registrar, follower *trioNode) {
	x.until("a registrar that a follower knows", func() bool {
		registrar, follower = nil, nil
		for id := core.NodeID(1); id <= 3; id++ {
			switch s := x.nodes[id].replica.Status(); {
			case s.OfficeOpen:
				registrar = x.nodes[id]
			case s.Ready && s.Registrar != 0 && !x.nodes[id].down:
				follower = x.nodes[id]
			}
		}
		return registrar != nil && follower != nil && follower.replica.Status().Registrar == registrar.id
	})
	return registrar, follower
}

func (x *trio) declare(at *trioNode, number int) {
	tag := uint64(number)
	at.inbox = append(at.inbox, core.Input{Request: &core.RequestInput{Tag: tag, Command: &logpb.Command{
		RequestId: fmt.Sprintf("r-%d", number),
		Kind:      &logpb.Command_DeclareScopes{DeclareScopes: &logpb.DeclareScopes{Scopes: []*logpb.ScopeSpec{{Id: fmt.Sprintf("job-%d", number)}}}},
	}}})
	x.until("the answer to a request", func() bool { return at.done[tag] != nil })
	if r := at.done[tag]; r.Code != "" {
		x.t.Fatalf("request %d: %v", number, r)
	}
}

// TestCoreSpeaksWhatTheWireCarries drives three replicas through all that makes
// them talk. Every kind of message that the wire admits must occur, and core must
// send no other.
func TestCoreSpeaksWhatTheWireCarries(t *testing.T) {
	x := newTrio(t)
	_, follower := x.roles()
	x.home = follower.id
	x.member.Attached(x.now)
	x.until("an acknowledged keepalive by way of a follower", func() bool { return x.seen["Ack"] > 0 })
	x.declare(follower, 1)
	follower.inbox = append(follower.inbox, core.Input{Read: &core.ReadInput{Tag: 7}})
	x.until("a read at a follower", func() bool { return follower.reads[7] })

	registrar, follower := x.roles()
	follower.down = true
	for number := 2; number < 40; number++ {
		x.declare(registrar, number)
	}
	follower.down = false
	x.until("a snapshot installed", func() bool { return follower.replica.Status().SnapshotInstalls > 0 })

	registrar, _ = x.roles()
	registrar.inbox = append(registrar.inbox, core.Input{HandOver: true})
	x.until("another registrar", func() bool {
		now, _ := x.roles()
		return now != registrar
	})

	for kind := range travels {
		if x.seen[kind.String()] == 0 {
			t.Errorf("%s was never sent: the wire need not admit it", kind)
		}
	}
	for _, kind := range []string{"Proposal", "Keepalive", "Ack"} {
		if x.seen[kind] == 0 {
			t.Errorf("%s was never sent", kind)
		}
	}
}

package sim

import (
	"math/rand/v2"
	"strconv"
	"time"

	"github.com/omnirelay/leadership/core"
	"github.com/omnirelay/leadership/core/logpb"
)

// member is a process that may lead: core's own Member with a small application
// that acts on resources while it believes it leads.
type member struct {
	process
	member  string // member id
	index   int
	at      endpoint
	core    *core.Member
	inbox   []memberInput
	conn    *conn
	heardAt int64 // when anything last came from the replica
	session core.SessionID
	// replaces is the session that the next incarnation knows to be dead.
	replaces core.SessionID
	closing  bool
	slow     int // faults that touch its pace
	app      app
	standing stands
}

// memberInput is one thing a member's process takes from its inbox.
type memberInput struct {
	message  *core.ReplicaMessage
	attached bool
	act      func(now core.Time) // something its application does
}

// stands is what a member is eligible for.
type stands struct {
	shardsOnly bool
	priority   int32
}

// selects reports whether the member stands for the scope.
func (s stands) selects(spec *logpb.ScopeSpec) bool {
	return !s.shardsOnly || spec.Kind == core.KindShard
}

func (s stands) selector() *logpb.Selector {
	if s.shardsOnly {
		return &logpb.Selector{Kind: core.KindShard}
	}
	return &logpb.Selector{}
}

func newMember(w *World, index int, at endpoint, rng *rand.Rand) *member {
	m := &member{index: index, at: at, member: "m" + strconv.Itoa(index+1)}
	m.process = process{w: w, name: "member-" + strconv.Itoa(index+1), rng: rng, clock: w.newClock(rng)}
	m.onEnd = m.down
	if index > 0 && rng.IntN(4) == 0 {
		m.standing = stands{shardsOnly: true}
	}
	if rng.IntN(5) == 0 {
		m.standing.priority = 1
	}
	m.app.m = m
	return m
}

// processName names one incarnation.
func (m *member) processName() string { return m.member + "#" + strconv.Itoa(m.incarnation) }

// boot starts the next incarnation.
func (m *member) boot() {
	if m.up {
		return
	}
	m.inbox, m.core, m.conn, m.session, m.closing = nil, nil, nil, 0, false
	m.stallOneIn = 0
	m.app.reset()
	m.w.tracef(m.member, "%s starts again", m.name)
	m.start(m.run)
	m.reconnect()
	m.app.begin()
	m.w.healthChanged()
}

func (m *member) run() {
	var err error
	m.core, err = core.NewMember(m.w.memberConfig(m), m.now())
	if err == nil {
		err = m.core.Stand(m.standing.selector(), m.standing.priority)
	}
	if err != nil {
		panic(err) // a scenario that core does not take
	}
	m.replaces = 0
	for !m.done() {
		m.turn()
		m.countTurn()
		m.wait(block{until: m.nextTurn(), forInputs: true})
	}
}

// done reports that the member closed its session and may end its process.
func (m *member) done() bool { return m.closing && m.core.Closed() }

func (m *member) now() core.Time { return m.clock.At(m.w.now) }

// turn is what a host does: take what came, read the clock, step, and only then
// send.
func (m *member) turn() {
	m.port()
	inputs := m.inbox
	m.inbox = nil
	now := m.now()
	for i := range inputs {
		m.take(now, &inputs[i])
	}
	m.core.Tick(now)
	out := m.core.TakeOutput()
	m.noteKeepalives(now, out.Messages)
	m.w.believed(m)
	for i := range out.Changes {
		m.app.changed(&out.Changes[i])
	}
	m.port() // between the reading of the clock and the sending
	for i := range out.Messages {
		if m.conn != nil {
			m.conn.toReplica(out.Messages[i])
		}
	}
	m.watchConnection()
}

func (m *member) take(now core.Time, in *memberInput) {
	switch {
	case in.message != nil:
		m.core.Step(now, *in.message)
	case in.attached:
		m.core.Attached(now)
	case in.act != nil:
		in.act(now)
	}
}

func (m *member) noteKeepalives(now core.Time, messages []core.MemberMessage) {
	for i := range messages {
		if k := messages[i].Keepalive; k != nil {
			m.session = k.Session
			m.w.checks.sent(k.Session, k.Number, now, m.clock)
		}
	}
}

// watchConnection tries another replica when this one is silent.
func (m *member) watchConnection() {
	if m.w.now-m.heardAt > int64(m.w.scenario.Patience) {
		m.reconnect()
	}
}

func (m *member) nextTurn() int64 {
	soon := m.w.now + int64(20*time.Microsecond)
	if len(m.inbox) > 0 {
		return soon
	}
	due := m.heardAt + int64(m.w.scenario.Patience) + 1
	if at := m.clock.when(m.core.Deadline()); at != never {
		due = min(due, at+m.rng.Int64N(int64(time.Millisecond)))
	}
	return max(soon, due)
}

// reconnect attaches to a replica taken at random, another than the present one
// if there is one.
func (m *member) reconnect() {
	if m.conn != nil {
		m.conn.detach()
	}
	running := m.w.running()
	n := len(running)
	i := m.rng.IntN(n)
	if m.conn != nil && n > 1 && running[i] == m.conn.replica {
		i = (i + 1) % n
	}
	m.heardAt = m.w.now
	m.w.attach(m, running[i])
}

func (m *member) receive(in memberInput) {
	if !m.up || len(m.inbox) >= maxInbox {
		return
	}
	m.inbox = append(m.inbox, in)
	m.arrived()
}

// act lets the application do something in the process's next turn.
func (m *member) act(f func(now core.Time)) { m.receive(memberInput{act: f}) }

// down is called when the process has ended.
func (m *member) down() {
	if m.conn != nil {
		m.conn.end(!m.closing)
	}
	if m.core != nil && m.closing && m.core.Closed() {
		m.w.gossip.left(m)
	}
	m.conn, m.inbox, m.core = nil, nil, nil
	m.w.healthChanged()
	m.w.rejoinLater(m)
}

// believes is the member's belief about a scope at this instant. A paused process
// believes, too.
func (m *member) believes(scope string) (core.Token, bool) {
	if !m.up || m.core == nil {
		return core.Token{}, false
	}
	return m.core.Holds(scope, m.now())
}

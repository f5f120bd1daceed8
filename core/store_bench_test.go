package core

import (
	"testing"
	"time"

	"github.com/omnirelay/leadership/core/logpb"
)

// benchStore is an external store for the bench: StoreModel behind calls that take
// a millisecond each way.
type benchStore struct {
	model    *StoreModel
	identity string
	calls    []*benchCall
	// lose decides about a call: lost before it is executed, or its answer lost.
	lose func(n *benchNode, c *StoreCall) (call, answer bool)
	down bool
	// route is the server that a replica's calls go to, where there are several; nil:
	// model and identity. No model: the calls are lost.
	route func(n *benchNode) (*StoreModel, string)
}

// server is where the calls of a replica go.
func (s *benchStore) server(n *benchNode) (*StoreModel, string) {
	if s.route != nil {
		return s.route(n)
	}
	return s.model, s.identity
}

type benchCall struct {
	node    *benchNode
	replica *Replica
	call    *StoreCall
	at      Time // executed
	giveUp  Time
	lost    bool
}

func newBenchStore() *benchStore {
	return &benchStore{model: NewStoreModel(), identity: "server-1"}
}

func (s *benchStore) call(n *benchNode, c *StoreCall) {
	now := n.b.now
	s.calls = append(s.calls, &benchCall{node: n, replica: n.replica, call: c, at: now.Add(time.Millisecond), giveUp: now.Add(c.Timeout)})
}

func (s *benchStore) run(now Time) {
	waiting := s.calls
	s.calls = nil
	for _, c := range waiting {
		switch {
		case now >= c.giveUp:
			c.answer(&StoreReply{ID: c.call.ID, Status: StoreFailed, Text: "no answer in time"})
		case c.lost || s.down || now < c.at || c.waits(s, now):
			s.calls = append(s.calls, c)
		default:
			s.execute(c)
		}
	}
}

func (s *benchStore) execute(c *benchCall) {
	model, identity := s.server(c.node)
	lostCall, lostAnswer := model == nil, false
	if s.lose != nil && !lostCall {
		lostCall, lostAnswer = s.lose(c.node, c.call)
	}
	var reply *StoreReply
	if !lostCall {
		reply = model.Do(identity, c.call)
	}
	if lostCall || lostAnswer {
		c.lost = true
		s.calls = append(s.calls, c)
		return
	}
	c.answer(reply)
}

// waits reports whether a fetch has nothing to bring yet.
func (c *benchCall) waits(s *benchStore, now Time) bool {
	f := c.call.Fetch
	m, _ := s.server(c.node)
	return f != nil && m != nil && f.After >= m.Position().Last && now < c.at.Add(f.Wait) && m.lead.GetClosed() == ""
}

func (c *benchCall) answer(r *StoreReply) {
	if !c.node.down && c.node.replica == c.replica {
		c.node.inbox = append(c.node.inbox, Input{Store: r})
	}
}

func onStore(c *Config) {
	c.Store = true
	c.HeartbeatInterval = 200 * time.Millisecond
	c.ElectionTimeout = 600 * time.Millisecond
}

func TestReplicasOverAStoreElectAndFailOver(t *testing.T) {
	b := newBench(t, 3, func(c *Config) { onStore(c); c.FormationMembers = 3; c.SnapshotEntries = 6 })
	b.run(2 * time.Second)
	if r := b.do(declare("d1", GlobalControl, "shard/a/0", "shard/a/1", "shard/a/2", "shard/a/3")); r.Code != "" {
		t.Fatal(r)
	}
	var members []*benchMember
	for i := range 3 {
		m := b.join([]string{"m1", "m2", "m3"}[i], NodeID(i+1), time.Second)
		_ = m.member.Stand(nil, 0)
		members = append(members, m)
	}
	b.until(5*time.Second, "leaders", func() bool {
		held := 0
		for _, m := range members {
			held += len(m.member.Held(b.now))
		}
		return held == 5
	})
	reg := b.registrar()
	term := reg.replica.Status().RaftTerm
	reg.down = true
	members[reg.id-1].cut = true
	b.run(4 * time.Second)
	next := b.registrar()
	if next.replica.Status().RaftTerm <= term {
		t.Fatal("no new office")
	}
	b.until(5*time.Second, "all led", func() bool { return len(next.replica.Registry().Tokens()) == 5 })
	b.start(reg.id)
	b.run(3 * time.Second)
	if h, g := next.replica.Registry().Hash(), reg.replica.Registry().Hash(); h != g {
		t.Errorf("replicas differ at %d and %d", next.replica.Registry().Revision(), reg.replica.Registry().Revision())
	}
	if err := VerifyChain(nil, b.store.model.published); err != nil {
		t.Error(err)
	}
	if head, _ := next.replica.Registry().History().Head(); head != b.store.model.newest() {
		t.Errorf("%d of %d records are published", b.store.model.newest(), head)
	}
	if b.store.model.snapshot == nil {
		t.Error("no snapshot was taken")
	}
}

// What every replica must do whatever its log is.
func TestTheStoriesOfAClusterHoldOverAStore(t *testing.T) {
	b := newBench(t, 3, onStore)
	b.run(2 * time.Second)
	first := b.registrar()
	b.do(declare("d1", GlobalControl))
	first.inbox = append(first.inbox, Input{HandOver: true})
	b.until(time.Second, "another registrar", func() bool {
		for _, n := range b.nodes {
			if n != first && n.replica.Status().OfficeOpen {
				return true
			}
		}
		return false
	})
	b.run(time.Second)
	if s := first.replica.Status(); s.IsRegistrar || !s.Ready {
		t.Fatalf("%+v", s)
	}
	tag := first.read()
	b.until(2*time.Second, "a read", func() bool { _, done := first.reads[tag]; return done })
	if first.reads[tag] != nil || first.seen[tag] < b.store.model.Position().Last {
		t.Fatalf("read %v at %d of %d", first.reads[tag], first.seen[tag], b.store.model.Position().Last)
	}
	same := b.doAt(first, declare("d1", GlobalControl))
	if same.Code != "" || same.Revision >= b.store.model.Position().Last {
		t.Fatalf("the retry was executed again: %v", same)
	}
}

func TestAnAppendWhoseAnswerIsLostHasOneEffect(t *testing.T) {
	b := newBench(t, 3, onStore)
	b.run(2 * time.Second)
	lost := 0
	b.store.lose = func(_ *benchNode, c *StoreCall) (bool, bool) {
		if c.Append != nil && lost < 5 {
			lost++
			return lost%2 == 0, lost%2 == 1
		}
		return false, false
	}
	for i := range 10 {
		scope := string(rune('a' + i))
		if r := b.doAt(b.nodes[1], declare("d"+scope, scope)); r.Code != "" {
			t.Fatal(r)
		}
	}
	if lost != 5 {
		t.Fatalf("%d lost", lost)
	}
	b.run(2 * time.Second)
	if n := len(b.nodes[1].replica.Registry().Scopes()); n != 10 {
		t.Fatalf("%d scopes", n)
	}
}

// restartStore comes back as another server, with what is left of the log.
func (b *bench) restartStore(identity string, m *StoreModel) {
	b.store.down = true
	b.run(100 * time.Millisecond)
	b.store.identity, b.store.down = identity, false
	if m != nil {
		b.store.model = m
	}
}

func TestAStoreThatRestartedIsUsedOnceEveryoneFoundItsMark(t *testing.T) {
	b := newBench(t, 3, onStore)
	b.run(2 * time.Second)
	b.do(declare("d1", GlobalControl))
	b.nodes[3].down = true
	b.restartStore("server-2", nil)
	b.run(5 * time.Second)
	for id := NodeID(1); id < 3; id++ {
		if s := b.nodes[id].replica.Status(); s.Ready || s.IsRegistrar {
			t.Fatalf("node %d did not wait for node 3: %+v", id, s)
		}
	}
	b.start(3)
	b.until(2*time.Second, "a registrar", func() bool {
		for _, n := range b.nodes {
			if n.replica.Status().OfficeOpen {
				return true
			}
		}
		return false
	})
	if r := b.do(declare("d2", "shard/a/1")); r.Code != "" {
		t.Fatal(r)
	}
}

func TestAStoreThatForgotStopsTheService(t *testing.T) {
	b := newBench(t, 3, onStore)
	b.run(2 * time.Second)
	b.do(declare("d1", GlobalControl))
	b.run(time.Second)
	old := b.store.model.Clone()
	b.do(declare("d2", "shard/a/1"))
	b.run(time.Second)
	b.restartStore("server-2", old)
	b.run(5 * time.Second)
	for _, n := range b.nodes {
		s := n.replica.Status()
		if s.Ready || s.IsRegistrar || s.NotReadyReason == "" {
			t.Fatalf("node %d goes on: %+v", n.id, s)
		}
	}
	if b.store.model.lead.Closed == "" {
		t.Fatal("the log is open")
	}
}

// jump is what the operator's command does.
func (b *bench) jump() {
	b.t.Helper()
	reader := NewLogReader()
	for done := false; !done; {
		var err error
		if done, err = reader.Take(b.store.model.Do(b.store.identity, &StoreCall{Fetch: reader.Next()})); err != nil {
			b.t.Fatal(err)
		}
	}
	g, lead, identity := reader.Registry()
	g.Relocate(Relocation{Ahead: JumpAhead, Actor: "operator", LongestTTL: 2 * time.Second})
	next, snapshot, err := g.StoredLog(lead.Term+1, lead.Generation+1, identity)
	if err != nil {
		b.t.Fatal(err)
	}
	seq, _ := g.History().Head()
	r := b.store.model.Do(identity, &StoreCall{Replace: &StoreReplace{Guard: reader.Position(), Lead: next, Snapshot: snapshot, Published: seq}})
	if r.Status != StoreOK {
		b.t.Fatal(r.Text)
	}
}

func TestAJumpStartsTheServiceAgain(t *testing.T) {
	b := newBench(t, 3, onStore)
	b.run(2 * time.Second)
	b.do(declare("d1", GlobalControl, "shard/a/0"))
	var members []*benchMember
	for i := range 3 {
		m := b.join([]string{"m1", "m2", "m3"}[i], NodeID(i+1), time.Second)
		_ = m.member.Stand(nil, 0)
		members = append(members, m)
	}
	b.run(3 * time.Second)
	old := b.store.model.Clone()
	highest := b.registrar().replica.Registry().nextFence
	b.do(&logpb.Command{RequestId: "t1", Kind: &logpb.Command_Transfer{Transfer: &logpb.Transfer{Scope: GlobalControl, Reason: AskTransfer}}})
	b.run(time.Second)
	for _, m := range members {
		for _, h := range m.member.Held(b.now) {
			highest = max(highest, h.Token.Fence)
		}
	}
	b.restartStore("server-2", old)
	b.run(5 * time.Second)
	b.jump()
	b.run(900 * time.Millisecond)
	for _, m := range members {
		if len(m.member.Held(b.now)) > 0 {
			t.Fatal("elected before members of before had to stop")
		}
	}
	b.run(4 * time.Second)
	tokens := b.registrar().replica.Registry().Tokens()
	if len(tokens) != 2 {
		t.Fatalf("%d scopes are led", len(tokens))
	}
	for _, tok := range tokens {
		if tok.Fence <= highest {
			t.Errorf("%s has fence %d; %d was given before", tok.Scope, tok.Fence, highest)
		}
	}
	if err := VerifyChain(nil, b.registrar().replica.Registry().History().records); err != nil {
		t.Error(err)
	}
}

// A glimpse of a wrong server, an empty one or an old copy, must not close the log
// that the right one still holds.
func TestAGlimpseOfAnEmptyStoreClosesNothing(t *testing.T) {
	b := newBench(t, 3, onStore)
	b.run(2 * time.Second)
	b.do(declare("d1", GlobalControl))
	right := b.store.model
	b.store.model = NewStoreModel()
	b.run(time.Second)
	for _, n := range b.nodes {
		if n.replica.Status().Ready {
			t.Fatalf("node %d believes an empty store", n.id)
		}
	}
	b.store.model = right
	b.until(3*time.Second, "a registrar", func() bool {
		for _, n := range b.nodes {
			if n.replica.Status().OfficeOpen {
				return true
			}
		}
		return false
	})
	if right.lead.Closed != "" {
		t.Fatal(right.lead.Closed)
	}
}

// officeWithin waits until some office is open, other than the one that the store's
// restart ends.
func (b *bench) officeWithin(limit time.Duration) bool {
	b.run(DefaultElectionTimeout)
	for end := b.now.Add(limit); b.now < end; b.run(10 * time.Millisecond) {
		for _, n := range b.nodes {
			if n.replica.Status().OfficeOpen {
				return true
			}
		}
	}
	return false
}

// A replica whose disk was wiped cannot tell whether a server that comes up under
// another identity has everything it had seen. A new one, that never served, can.
func TestAWipedReplicaVouchesForNothing(t *testing.T) {
	b := newBench(t, 3, onStore)
	b.run(2 * time.Second)
	b.do(declare("d1", GlobalControl))
	for _, wiped := range []bool{true, false} {
		b.nodes[2].down = true
		if wiped {
			b.nodes[2].log = &benchLog{}
		}
		identity := map[bool]string{true: "server-2", false: "server-3"}[wiped]
		b.restartStore(identity, nil)
		b.start(2)
		if open := b.officeWithin(4 * time.Second); open == wiped {
			t.Fatalf("wiped %v: an office opened: %v", wiped, open)
		}
		if wiped { // it is given the log on a server that it knows, and is a witness then
			b.restartStore("server-1", nil)
			if !b.officeWithin(4 * time.Second) {
				t.Fatal("no office on the server of before")
			}
			b.run(time.Second)
		}
	}
}

// A log begins in an empty store only when no replica knows of an older one.
func TestALogBeginsOnlyWhenNobodyKnowsAnOlder(t *testing.T) {
	b := newBench(t, 3, onStore)
	b.run(2 * time.Second)
	b.do(declare("d1", GlobalControl))
	b.store.model = NewStoreModel()
	b.nodes[2].down, b.nodes[2].log = true, &benchLog{}
	b.start(2)
	b.run(5 * time.Second)
	if b.store.model.lead != nil {
		t.Fatal("a replica without a mark began a new log, while the others know an older one")
	}
}

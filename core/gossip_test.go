package core

import (
	"fmt"
	"slices"
	"testing"
	"time"

	"github.com/omnirelay/leadership/core/logpb"
	"github.com/omnirelay/leadership/core/plant"
)

// advised is a cluster with members that stand for everything, and scopes of both kinds.
func advised(t *testing.T, members int) (*bench, []*benchMember) {
	t.Helper()
	b := newBench(t, 3, func(c *Config) { c.RebalanceInterval = -1 })
	b.run(2 * time.Second)
	d := declare("d", "lease")
	d.GetDeclareScopes().Scopes = append(d.GetDeclareScopes().Scopes, &logpb.ScopeSpec{Id: "fast", Failover: logpb.ScopeSpec_FAILOVER_FAST})
	if r := b.do(d); r.Code != "" {
		t.Fatal(r)
	}
	var all []*benchMember
	for i := range members {
		m := b.join(fmt.Sprintf("m%d", i), b.others(b.registrar())[0].id, DefaultTTL)
		if err := m.member.Stand(&logpb.Selector{}, 0); err != nil {
			t.Fatal(err)
		}
		all = append(all, m)
		b.run(time.Second) // the first leads both
	}
	return b, all
}

// gossip tells one node.
func (n *benchNode) gossip(news GossipNews) {
	n.inbox = append(n.inbox, Input{Gossip: &news})
}

func (b *bench) gossipAll(news GossipNews) {
	for _, id := range sortedKeys(b.nodes) {
		b.nodes[id].gossip(news)
	}
}

func (b *bench) registry() *Registry { return b.registrar().replica.Registry() }

func (b *bench) leader(scope string) string {
	token, _ := b.registry().Token(scope)
	return token.LeaderID
}

// recorded counts the records of a kind, of those with a reason, since an audit number.
func (b *bench) recorded(since uint64, kind EventKind, reason string) (n int) {
	records, _ := b.registry().History().AfterSeq(since, MaxHistory)
	for _, r := range records {
		if EventKind(r.Kind) == kind && (reason == "" || r.Reason == reason) {
			n++
		}
	}
	return n
}

func (b *bench) seq() uint64 {
	seq, _ := b.registry().History().Head()
	return seq
}

// A suspicion moves a scope with failover fast at once, a lease never, and what it left in
// the log is gone with the next keepalive.
func TestASuspicionMovesOnlyWhatFailsOverFast(t *testing.T) {
	for _, health := range []Health{HealthSuspect, HealthDead} {
		b, members := advised(t, 2)
		before := b.registry().Tokens()
		b.gossipAll(GossipNews{MemberID: "m0", Health: health})
		b.until(50*time.Millisecond, "fail-over of what is fast", func() bool { return b.leader("fast") == "m1" })
		if token, _ := b.registry().Token("lease"); token.Fence != before[1].Fence {
			t.Errorf("%v: the lease moved: %+v", health, token)
		}
		id := members[0].member.Session()
		b.until(KeepaliveInterval(DefaultTTL)+100*time.Millisecond, "end of the note", func() bool {
			s, _ := b.registry().Session(id)
			return !s.Noted && s.Ineligible == ""
		})
		b.run(5 * time.Second)
		if members[0].member.Session() != id || b.leader("lease") != "m0" {
			t.Errorf("%v: a living member lost its session", health)
		}
		b.same()
	}
}

// However often gossip changes its mind, a session is noted at most once in NoteAfter for it.
func TestSuspicionsAreBounded(t *testing.T) {
	b, members := advised(t, 2)
	first := b.registry().Revision()
	const span = 8 * time.Second
	for range span / (20 * time.Millisecond) {
		b.gossipAll(GossipNews{MemberID: "m0", Health: HealthSuspect})
		b.run(10 * time.Millisecond)
		b.gossipAll(GossipNews{MemberID: "m0", Health: HealthAlive})
		b.run(10 * time.Millisecond)
	}
	// A note and its cancel, each an entry; and the next sessions' views, none.
	if n := int(b.registry().Revision() - first); n < 4 || n > 2*int(span/NoteAfter(DefaultTTL))+2 {
		t.Errorf("%d entries in %v of changing suspicion", n, span)
	}
	if members[0].member.Session() == 0 || b.leader("lease") != "m0" {
		t.Error("a living member lost its session")
	}
	b.same()
}

// A word of death is forgotten as soon as the member is heard of; repeating it changes
// nothing, and another registrar knows no more of it.
func TestWhoIsHeardOfIsNotDead(t *testing.T) {
	b, _ := advised(t, 2)
	since := b.seq()
	b.gossipAll(GossipNews{MemberID: "m1", Health: HealthDead})
	b.until(time.Second, "word of the death", func() bool { return b.recorded(since, EventMemberObserved, "dead") == 1 })
	b.until(KeepaliveInterval(DefaultTTL)+100*time.Millisecond, "its end", func() bool { return b.recorded(since, EventMemberObserved, "alive") == 1 })
	b.gossipAll(GossipNews{MemberID: "m1", Health: HealthDead})
	b.run(2 * time.Second)
	old := b.registrar()
	b.isolate(old.id, true)
	b.run(3 * time.Second)
	if n := b.recorded(since, EventMemberObserved, ""); n != 2 {
		t.Errorf("%d observations, want one of the death and one of its end", n)
	}
	b.isolate(old.id, false)
	b.run(time.Second)
	b.same()
}

// A new registrar acts on what its own gossip had said before.
func TestANewRegistrarKnowsWhatGossipSaid(t *testing.T) {
	b, _ := advised(t, 2)
	for _, n := range b.others(b.registrar()) {
		n.gossip(GossipNews{MemberID: "m1", Unsupported: true, Health: HealthAlive})
	}
	b.run(time.Second)
	if got := b.registry().Observed(); len(got) > 0 {
		t.Fatalf("a follower's gossip is in the log: %v", got)
	}
	old := b.registrar()
	b.isolate(old.id, true)
	b.run(3 * time.Second)
	if got := b.registry().Member("m1").Ineligible; got != "unsupported" {
		t.Errorf("the new registrar says %q", got)
	}
	b.gossipAll(GossipNews{MemberID: "m1"}) // forgotten
	b.until(time.Second, "nothing against it", func() bool { return b.registry().Member("m1").Ineligible == "" })
	b.isolate(old.id, false)
	b.run(time.Second)
	b.same()
}

// A connection that broke off is a suspicion, wherever the member was attached; one that
// was ended is none, and who is heard of within the grace is not noted.
func TestABrokenConnectionIsASuspicion(t *testing.T) {
	b, members := advised(t, 2)
	m := members[0]
	home, session := b.nodes[m.home], m.member.Session()
	noted := func() bool { s, _ := b.registry().Session(session); return s.Noted }
	b.until(time.Second, "a keepalive", func() bool { return m.member.keepaliveAt.Sub(b.now) > 350*time.Millisecond })
	home.inbox = append(home.inbox, Input{Broken: m.conn})
	b.until(suspicionGrace(DefaultTTL)+20*time.Millisecond, "a note", noted)
	if b.leader("fast") != "m1" {
		t.Error("what fails over fast stayed")
	}
	b.until(time.Second, "the end of the note", func() bool { return !noted() })

	b.until(time.Second, "a keepalive", func() bool { return m.member.keepaliveAt.Sub(b.now) > 350*time.Millisecond })
	home.inbox = append(home.inbox, Input{Detached: m.conn})
	b.run(suspicionGrace(DefaultTTL) + 50*time.Millisecond)
	if noted() {
		t.Error("noted for a connection that was ended")
	}
	b.until(time.Second, "a keepalive", func() bool { return m.member.keepaliveAt.Sub(b.now) > 350*time.Millisecond })
	home.inbox = append(home.inbox, Input{Broken: m.conn})
	b.run(20 * time.Millisecond)
	m.member.Attached(b.now)
	b.run(suspicionGrace(DefaultTTL) + 50*time.Millisecond)
	if noted() {
		t.Error("noted although it reattached within the grace")
	}
}

// The member of a node that cannot be reached is suspected, unless its next keepalive
// comes in its time: a connection between nodes may break off once, and the member knows
// nothing of that.
func TestTheMemberOfAnUnreachableNodeIsSuspected(t *testing.T) {
	for _, silent := range []bool{false, true} {
		b, members := advised(t, 2)
		r := b.registrar()
		other := b.others(r)[0].id
		r.replica.cfg.VoterNames = map[NodeID]string{other: "m0"}
		m := members[0]
		b.until(time.Second, "a keepalive", func() bool { return m.member.keepaliveAt.Sub(b.now) > 350*time.Millisecond })
		b.run(10 * time.Millisecond)
		m.cut = silent
		r.inbox = append(r.inbox, Input{Unreachable: other})
		suspected := func() bool {
			s, _ := b.registry().Session(m.member.Session())
			return s.Noted || b.leader("fast") == "m1"
		}
		if silent {
			b.until(nextWord(b.registry(), "m0")+20*time.Millisecond, "a note", suspected)
			continue
		}
		for range 20 {
			if b.run(50 * time.Millisecond); suspected() {
				t.Fatal("suspected although its keepalives arrive")
			}
		}
	}
}

// A holder that is cut off and still believes is heard by gossip.
func TestTwoWhoClaimOneScopeAreReported(t *testing.T) {
	b, members := advised(t, 2)
	since := b.seq()
	members[0].cut = true
	b.run(100 * time.Millisecond)
	tell := func() {
		if claims := members[0].member.Claims(b.now); len(claims) > 0 {
			b.gossipAll(GossipNews{MemberID: "m0", Health: HealthAlive, Claims: claims, ClaimsFor: members[0].member.Until(b.now).Sub(b.now)})
		}
	}
	for range 40 {
		tell()
		b.run(100 * time.Millisecond)
	}
	if n := b.recorded(since, EventSplitBrain, SplitBrainTwoClaimants); n != 1 {
		t.Errorf("%d reports of two claimants, want 1", n)
	}
	if n := b.recorded(since, EventSplitBrain, ""); n != 1 {
		t.Errorf("%d reports in all, want 1: the lease was exclusive", n)
	}
	b.same()
}

// A leader that is gone from gossip while its lease lives is reported once; one that left
// in order is not.
func TestALeaderThatIsGoneIsReported(t *testing.T) {
	b, members := advised(t, 2)
	since := b.seq()
	members[1].member.Close()
	b.run(time.Second)
	b.gossipAll(GossipNews{MemberID: "m1", Health: HealthLeft})
	b.run(time.Second)
	members[0].cut = true
	b.run(500 * time.Millisecond)
	b.gossipAll(GossipNews{MemberID: "m0", Health: HealthDead})
	b.run(4 * time.Second)
	if n := b.recorded(since, EventSplitBrain, SplitBrainLeaderGone); n != 1 {
		t.Errorf("%d reports of a leader that is gone, want 1", n)
	}
	if n := b.recorded(since, EventSplitBrain, ""); n != 1 {
		t.Errorf("%d reports in all, want 1", n)
	}
}

// Who claims and says what it likes, by gossip, fills neither the tables nor the log.
func TestALiarIsBounded(t *testing.T) {
	b, _ := advised(t, 2)
	since := b.seq()
	r := b.registrar()
	for i := range 100 {
		var claims []Claim
		for j := range 2 * MaxClaims {
			claims = append(claims, Claim{Scope: fmt.Sprintf("liar/%d", j), Fence: uint64(1000 + i/20)})
		}
		r.gossip(GossipNews{MemberID: "liar", Health: HealthAlive, Claims: claims, ClaimsFor: time.Hour})
		r.gossip(GossipNews{MemberID: fmt.Sprintf("nobody-%d", i), Health: Health(i % 7), Unsupported: i%2 == 0, Claims: []Claim{{Scope: "//", Fence: 1}, {Scope: "a", Fence: 0}}, ClaimsFor: time.Hour})
		b.run(100 * time.Millisecond)
	}
	if n := b.recorded(since, EventSplitBrain, ""); n < 1 || n > claimantBurst+2 {
		t.Errorf("%d reports of one liar", n)
	}
	if n := len(r.replica.claims.members["liar"].claims); n > MaxMemberClaims {
		t.Errorf("%d claims kept of one member", n)
	}
	for i := range 3 * MaxGossipMembers {
		r.replica.receiveGossip(&GossipNews{MemberID: fmt.Sprintf("n-%d", i), Health: HealthDead})
	}
	if n := len(r.replica.gossip.members); n != MaxGossipMembers {
		t.Errorf("gossip's word of %d members is kept", n)
	}
	first := b.registry().Revision()
	b.run(10 * time.Second)
	if n := b.registry().Revision() - first; n > 60 {
		t.Errorf("%d entries in 10 s of a liar that is silent", n)
	}
}

// Who claims what it likes uses up its own share of the reports, and nobody else's.
func TestALiarDoesNotHideOthers(t *testing.T) {
	d, g := newSplitBrain(DefaultElectionTimeout, plant.Set{}), NewRegistry(0)
	d.begin(0, g)
	var lies []Claim
	for i := range MaxMemberClaims {
		lies = append(lies, Claim{Scope: fmt.Sprintf("a/%d", i), Fence: 7})
	}
	honest := Claim{Scope: "z", Fence: 9}
	reported := 0
	for now := Time(0); now < Time(10*time.Minute); now = now.Add(400 * time.Millisecond) {
		for part := range slices.Chunk(lies, MaxClaims) {
			d.hear(now, g, "liar", part, DefaultTTL)
		}
		if now > Time(9*time.Minute) {
			d.hear(now, g, "other", []Claim{honest}, DefaultTTL)
		}
		for _, r := range d.due(now, g) {
			if r.MemberId == "other" {
				reported++
			}
		}
	}
	if reported == 0 {
		t.Error("another claimant is not reported")
	}
}

// Of one member only so many fences of one scope are kept, the latest.
func TestClaimsOfOneScopeAreBounded(t *testing.T) {
	d, g := newSplitBrain(DefaultElectionTimeout, plant.Set{}), NewRegistry(0)
	for i := range 1000 {
		d.hear(Time(i), g, "m", []Claim{{Scope: "s", Fence: uint64(i + 1)}}, DefaultTTL)
	}
	kept := d.byScope["s"]
	if len(kept) != maxFences || len(d.members["m"].claims) != maxFences || d.count != maxFences || kept[maxFences-1].Fence != 1000 {
		t.Errorf("%d claims on one scope are kept, %d of the member, %d counted", len(kept), len(d.members["m"].claims), d.count)
	}
}

// A process that goes on in a session that has ended is reported, however seldom it keeps
// alive.
func TestWhoGoesOnInAnEndedSessionIsReported(t *testing.T) {
	for _, ttl := range []time.Duration{DefaultTTL, 10 * time.Second} {
		b := newBench(t, 3, nil)
		b.run(2 * time.Second)
		b.do(declare("d", "s"))
		m := b.join("m0", b.registrar().id, ttl)
		if err := m.member.Stand(&logpb.Selector{}, 0); err != nil {
			t.Fatal(err)
		}
		b.until(5*time.Second, "a leader", func() bool { return len(m.member.Held(b.now)) == 1 })
		session, claims := m.member.Session(), m.member.Claims(b.now)
		m.cut = true
		b.until(3*ttl, "the end of the session", func() bool { return b.registry().LiveSessions("m0") == 0 })
		for n := range 20 {
			r := b.registrar()
			r.inbox = append(r.inbox, Input{Member: &MemberInput{Conn: 99, Message: MemberMessage{Keepalive: &Keepalive{Session: session, Number: uint64(1000 + n), Claims: claims}}}})
			b.run(KeepaliveInterval(ttl))
		}
		if n := b.recorded(0, EventSplitBrain, ""); n != 1 {
			t.Errorf("with a TTL of %v: %d reports, want 1", ttl, n)
		}
	}
}

// What a drain could not ask for is asked for when somebody can lead it, on behalf of who
// asked for the drain.
func TestADrainGoesOnWhenSomebodyComes(t *testing.T) {
	b, members := advised(t, 1)
	drain := &logpb.Command{RequestId: "drain", Actor: "ann", Why: "new disk", Kind: &logpb.Command_Cordon{Cordon: &logpb.Cordon{MemberId: "m0", Cordoned: true, Drain: true}}}
	if r := b.do(drain); r.Code != "" {
		t.Fatal(r)
	}
	b.run(3 * time.Second)
	if st := b.registry().Member("m0"); st.Stuck != 2 || st.Leads != 2 || st.HandingOver != 0 || !st.Draining {
		t.Fatalf("%+v", st)
	}
	since := b.seq()
	other := b.join("m1", members[0].home, DefaultTTL)
	if err := other.member.Stand(&logpb.Selector{}, 0); err != nil {
		t.Fatal(err)
	}
	b.until(3*time.Second, "everything to have moved", func() bool { return b.leader("lease") == "m1" && b.leader("fast") == "m1" })
	records, _ := b.registry().History().AfterSeq(since, MaxHistory)
	for _, r := range records {
		if r.Reason == AskDrain && (r.Actor != "ann" || r.Why != "new disk") {
			t.Errorf("a record of the drain names %q and %q: %v", r.Actor, r.Why, r)
		}
	}
	if n := b.recorded(since, EventDrainRequested, AskDrain); n != 2 {
		t.Errorf("%d scopes were asked for", n)
	}
}

// Below version 3 nothing of this is in the log, and a reason is dropped, not refused.
func TestAMixedClusterKeepsToItself(t *testing.T) {
	b := newBench(t, 3, func(c *Config) {
		if c.ID == 3 {
			c.MaxVersion = 2
		}
	})
	b.run(2 * time.Second)
	d := declare("d", "s")
	d.Why = "why not"
	if r := b.do(d); r.Code != "" {
		t.Fatal(r)
	}
	m := b.join("m0", 1, DefaultTTL)
	if err := m.member.Stand(&logpb.Selector{}, 0); err != nil {
		t.Fatal(err)
	}
	b.run(time.Second)
	b.gossipAll(GossipNews{MemberID: "m0", Health: HealthDead, Unsupported: true, Claims: []Claim{{Scope: "s", Fence: 99}}, ClaimsFor: time.Hour})
	b.do(&logpb.Command{RequestId: "c", Why: "why not", Kind: &logpb.Command_Cordon{Cordon: &logpb.Cordon{MemberId: "m0", Cordoned: true, Drain: true}}})
	b.run(5 * time.Second)
	for _, r := range b.registry().History().records {
		if r.Why != "" || r.Kind >= uint32(EventSplitBrain) {
			t.Errorf("a record of version 3: %v", r)
		}
	}
	if len(b.registry().Draining()) > 0 || len(b.registry().Observed()) > 0 {
		t.Error("state of version 3")
	}
	b.same()
}

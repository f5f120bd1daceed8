package core

import (
	"fmt"
	"strings"
	"testing"
	"time"

	"google.golang.org/protobuf/proto"

	"github.com/omnirelay/leadership/core/logpb"
	"github.com/omnirelay/leadership/core/plant"
)

// One glimpse of an old copy (one fetch), the right store untouched.
func TestAGlimpseOfAnOldCopyClosesNothing(t *testing.T) {
	for _, same := range []bool{false, true} {
		b := newBench(t, 3, onStore)
		b.run(2 * time.Second)
		b.do(declare("d1", GlobalControl))
		b.run(time.Second)
		old := b.store.model.Clone()
		b.do(declare("d2", "shard/a/1"))
		b.run(time.Second)
		right := b.store.model
		reg := b.registrar()
		// one fetch of one follower is answered by the old copy
		f := b.nodes[reg.id%3+1]
		identity := "server-0"
		if same {
			identity = b.store.identity
		}
		kind := callFetch
		j := f.replica.journal.(*storeJournal)
		s := j.slots[kind]
		b.until(time.Second, "fetch", func() bool { s = j.slots[kind]; return s.id != 0 })
		f.inbox = append(f.inbox, Input{Store: old.Do(identity, &StoreCall{ID: s.id, Fetch: &StoreFetch{After: s.end, MaxBytes: 1000}})})
		b.run(3 * time.Second)
		if right.lead.Closed != "" {
			t.Errorf("same=%v: the right log was closed: %s", same, right.lead.Closed)
		}
	}
}

// A snapshot by a newer build, met by an older replica that lags.
func TestASnapshotOfANewerBuildStopsOneReplica(t *testing.T) {
	b := newBench(t, 3, func(c *Config) { onStore(c); c.SnapshotEntries = 6 })
	b.run(2 * time.Second)
	reg := b.registrar()
	f := b.nodes[reg.id%3+1]
	f.down = true
	for i := range 20 {
		b.do(declare(fmt.Sprint("d", i), fmt.Sprint("s", i)))
	}
	b.run(2 * time.Second)
	s := &logpb.Snapshot{}
	_ = proto.Unmarshal(b.store.model.snapshot.Data, s)
	s.Format = snapshotFormat + 1
	data, _ := marshalSnapshot(s)
	snap := proto.CloneOf(b.store.model.snapshot)
	snap.Data = data
	b.store.model.snapshot = snap
	f.log.boot.Mark, f.mayHalt = nil, true
	b.start(f.id)
	b.run(3 * time.Second)
	if f.halted == nil || !strings.Contains(f.halted.Error(), "this build reads format") {
		t.Errorf("the old replica halted by: %v", f.halted)
	}
	if c := b.store.model.lead.Closed; c != "" {
		t.Errorf("one old replica closed the log for all: %s", c)
	}
}

// The floor of the history goes backwards after a jump.
func TestTheFloorOfHistoryOnlyRises(t *testing.T) {
	g := NewRegistry(0)
	g.history.limit = 8
	apply := func(i uint64, c *logpb.Command) {
		data, _ := proto.Marshal(&logpb.Entry{Commands: []*logpb.Command{c}})
		if _, err := g.Apply(i, 1, data); err != nil {
			t.Fatal(err)
		}
	}
	apply(1, &logpb.Command{RequestId: "b", Kind: &logpb.Command_Bootstrap{Bootstrap: &logpb.Bootstrap{ClusterId: "bench"}}})
	apply(2, &logpb.Command{RequestId: "o", Kind: &logpb.Command_OpenSession{OpenSession: &logpb.OpenSession{MemberId: "m", TtlNs: int64(time.Second)}}})
	apply(3, &logpb.Command{RequestId: "s", Kind: &logpb.Command_Stand{Stand: &logpb.Stand{Session: 1, Selector: &logpb.Selector{}, Number: 1}}})
	for i := uint64(4); i < 10; i++ {
		apply(i, declare(fmt.Sprint("d", i), fmt.Sprint("s", i)))
	}
	t.Log(g.history.Len(), g.history.floor)
	lost := Cursor{Revision: 20, Ordinal: 1} // what a reader had seen in the part that was lost
	g.Relocate(Relocation{Ahead: JumpAhead, Actor: "op"})
	sub := NewSubscription(Filter{}, &lost)
	if items := sub.Poll(g, 100); len(items) == 0 || items[0].Reason != ReasonResync {
		t.Fatal("expected a resync right after the jump")
	}
	before := g.history.floor
	r := g.revision
	apply(r+1, &logpb.Command{RequestId: "ef", Kind: &logpb.Command_EndFormation{EndFormation: &logpb.EndFormation{Formation: g.formation}}})
	apply(r+2, &logpb.Command{RequestId: "o2", Kind: &logpb.Command_OpenSession{OpenSession: &logpb.OpenSession{MemberId: "m", TtlNs: int64(time.Second)}}})
	apply(r+3, &logpb.Command{RequestId: "s2", Base: r, Kind: &logpb.Command_Stand{Stand: &logpb.Stand{Session: uint64(g.nextSession - 1), Selector: &logpb.Selector{Id: "s4"}, Number: 1}}})
	if g.history.floor.Compare(before) < 0 {
		t.Errorf("the floor went back from %v to %v", before, g.history.floor)
	}
	sub = NewSubscription(Filter{}, &lost)
	if items := sub.Poll(g, 100); len(items) == 0 || items[0].Reason != ReasonResync {
		t.Errorf("a reader of what was lost goes on without a resync: %v", items)
	}
}

// The answer to a checkpoint is lost, and nothing is written afterwards.
func TestACheckpointWhoseAnswerWasLostIsNotRepeated(t *testing.T) {
	b := newBench(t, 3, func(c *Config) { onStore(c); c.SnapshotEntries = 6 })
	n, lost := 0, 0
	b.store.lose = func(_ *benchNode, c *StoreCall) (bool, bool) {
		if c.Checkpoint != nil {
			n++
			if b.now > Time(5*time.Second) && lost == 0 {
				lost++
				return false, true
			}
		}
		return false, false
	}
	b.run(6 * time.Second)
	for i := 0; lost == 0; i++ {
		b.do(declare(fmt.Sprint("d", i), fmt.Sprint("s", i)))
		b.run(50 * time.Millisecond)
	}
	t.Log(b.store.model.lead.Last, b.store.model.snapshot.GetIndex())
	b.run(35 * time.Second)
	had := n
	b.run(60 * time.Second)
	if n != had {
		t.Errorf("%d checkpoints in 60 idle seconds", n-had)
	}
}

// A fetch executed before the adoption is answered after it.
func TestALateFetchDoesNotTroubleARegistrar(t *testing.T) {
	b := newBench(t, 3, onStore)
	b.run(2 * time.Second)
	b.do(declare("d1", GlobalControl))
	b.store.down = true
	b.run(100 * time.Millisecond)
	b.store.identity, b.store.down = "server-2", false
	var late *StoreReply
	var who *benchNode
	for i := 0; i < 5000 && late == nil; i++ {
		b.run(time.Millisecond)
		for _, n := range b.nodes {
			j := n.replica.journal.(*storeJournal)
			if j.slots[callAppend].id != 0 && j.attempt != nil && j.attempt.Adopt && j.slots[callFetch].id != 0 {
				who = n
				id := j.slots[callFetch].id
				late = b.store.model.Do(b.store.identity, &StoreCall{ID: id, Fetch: &StoreFetch{After: j.end.index, MaxBytes: 1000}})
				if late.Lead.Identity != "server-1" {
					late = nil
					continue
				}
				for _, c := range b.store.calls {
					if c.node == n && c.call.ID == id {
						c.lost = true
					}
				}
			}
		}
	}
	if late == nil {
		t.Fatal("schedule")
	}
	b.until(time.Second, "office", func() bool { return who.replica.Status().OfficeOpen })
	term := who.replica.Status().RaftTerm
	who.inbox = append(who.inbox, Input{Store: late})
	b.run(30 * time.Second)
	s := who.replica.Status()
	if s.IsRegistrar && !s.Ready && s.RaftTerm == term {
		t.Errorf("registrar, and not ready for ever: %s", s.NotReadyReason)
	} else {
		t.Logf("%+v", s)
	}
}

// An empty store and one replica with an empty disk.
func TestANewReplicaBeginsNoLogWhereOthersKnowOne(t *testing.T) {
	b := newBench(t, 3, onStore)
	b.run(2 * time.Second)
	b.do(declare("d1", GlobalControl, "a"))
	reg := b.registrar()
	f := b.nodes[reg.id%3+1]
	f.down = true
	b.run(time.Second)
	b.restartStore("server-2", NewStoreModel())
	f.log.boot = Boot{}
	b.start(f.id)
	opened := false
	two := b.join("two", f.id, 2*time.Second)
	_ = two.member.Stand(nil, 0)
	b.run(5 * time.Second)
	if f.replica.Status().OfficeOpen {
		b.doAt(f, declare("dd", "a"))
	}
	for range 10000 {
		b.run(time.Millisecond)
		opened = opened || f.replica.Status().OfficeOpen
	}
	t.Logf("two holds %v", two.member.Held(b.now))
	for _, n := range b.nodes {
		t.Log(n.id, n.id == f.id, n.replica.Status().NotReadyReason)
	}
	if opened {
		t.Errorf("a replica without a mark opened an office on an empty store; closed now: %q", b.store.model.lead.GetClosed())
	}
}

// One publication without an answer, at a drain of a member with 12,000 scopes.
func TestNoAuditRecordIsLostInABacklog(t *testing.T) {
	b := newBench(t, 3, onStore)
	b.run(2 * time.Second)
	one := b.join("one", 1, 2*time.Second)
	_ = one.member.Stand(nil, 0)
	b.run(3 * time.Second)
	for c := range 12 {
		var ids []string
		for i := range 1000 {
			ids = append(ids, fmt.Sprintf("s%d-%d", c, i))
		}
		if r := b.do(declare(fmt.Sprint("d", c), ids...)); r.Code != "" {
			t.Fatal(r)
		}
	}
	two := b.join("two", 2, 2*time.Second)
	_ = two.member.Stand(nil, 0)
	b.run(5 * time.Second)
	lost := 0
	b.store.lose = func(_ *benchNode, c *StoreCall) (bool, bool) {
		if c.Publish != nil && lost < 1 {
			lost++
			return true, false
		}
		return false, false
	}
	one.cut = true
	say := func() {
		head, _ := b.registrar().replica.Registry().History().Head()
		t.Logf("head %d published %d", head, b.store.model.newest())
	}
	say()
	id, _ := b.registrar().replica.Registry().SessionOf("one")
	t.Log(b.do(&logpb.Command{RequestId: "cordon", Kind: &logpb.Command_Cordon{Cordon: &logpb.Cordon{MemberId: "one", Cordoned: true, Drain: true}}}))
	say()
	t.Log(b.do(&logpb.Command{RequestId: "close", Kind: &logpb.Command_CloseSession{CloseSession: &logpb.CloseSession{Session: uint64(id)}}}))
	say()
	b.run(10 * time.Second)
	say()
	if err := VerifyChain(nil, b.store.model.published); err != nil {
		t.Error(err)
	}
}

// Nonsense.
func TestNonsenseOfAStoreStopsTheReplica(t *testing.T) {
	for name, r := range map[string]*StoreReply{
		"nil entry":     {Status: StoreOK, Identity: "s", Lead: &Lead{ClusterId: "bench", Term: 1, Last: 1, Identity: "s"}, Entries: []*StoredEntry{nil}},
		"max term":      {Status: StoreOK, Identity: "s", Lead: &Lead{ClusterId: "bench", Term: 1<<64 - 1, Last: 0, Identity: "s"}},
		"max round":     {Status: StoreOK, Identity: "s", Lead: &Lead{ClusterId: "bench", Term: 1, Last: 0, Identity: "t"}, Attested: map[NodeID]uint64{1: 1<<64 - 1}},
		"status 0":      {Identity: "s"},
		"status 77":     {Status: 77, Identity: "s"},
		"refused fetch": {Status: StoreRefused, Identity: "s"},
	} {
		t.Run(name, func(t *testing.T) {
			defer func() {
				if p := recover(); p != nil {
					t.Errorf("panic: %v", p)
				}
			}()
			w := &scriptedStore{now: 1}
			rep, _ := NewReplica(Config{ID: 1, Voters: []NodeID{1, 2}, ClusterID: "bench", Seed: 1, Store: true}, Boot{}, 1)
			d := NewDrive(rep, w, w)
			appends := 0
			for range 400 {
				for _, c := range w.calls {
					x := *r
					x.ID = c.ID
					if c.Append != nil {
						appends++
						if c.Append.Lead.Term < r.Lead.GetTerm() {
							t.Fatalf("append under term %d", c.Append.Lead.Term)
						}
						x.Status = StoreFailed
					}
					w.inbox = append(w.inbox, Input{Store: &x})
				}
				w.calls = nil
				if err := d.Turn(); err != nil {
					t.Log(err)
					return
				}
				w.now = w.now.Add(10 * time.Millisecond)
			}
			t.Logf("%+v appends %d", rep.Status(), appends)
		})
	}
}

// The registrar's publications never succeed; nothing else is wrong.
func TestARegistrarThatCannotPublishGivesWay(t *testing.T) {
	b := newBench(t, 3, onStore)
	b.run(2 * time.Second)
	one := b.join("one", 1, 2*time.Second)
	_ = one.member.Stand(nil, 0)
	b.run(3 * time.Second)
	reg := b.registrar()
	b.store.lose = func(n *benchNode, c *StoreCall) (bool, bool) { return c.Publish != nil && n == reg, false }
	for c := range 9 {
		var ids []string
		for i := range 1000 {
			ids = append(ids, fmt.Sprintf("s%d-%d", c, i))
		}
		b.do(declare(fmt.Sprint("d", c), ids...))
	}
	two := b.join("two", 2, 2*time.Second)
	_ = two
	one.cut = true // it dies
	b.run(60 * time.Second)
	s := reg.replica.Status()
	led := len(reg.replica.Registry().Tokens())
	if s.IsRegistrar && s.Ready && led > 0 {
		t.Errorf("60 s after its member died %d scopes are still led by it; the registrar says it is ready: %+v", led, s)
	}
}

// The server restarts during an installation, before the last replica is there.
func TestAStoreMayRestartBeforeTheFirstEntry(t *testing.T) {
	b := newBench(t, 3, onStore)
	b.nodes[3].down = true
	b.run(3 * time.Second)
	b.restartStore("server-2", nil)
	b.run(time.Second)
	b.start(3)
	b.run(30 * time.Second)
	open := false
	for _, n := range b.nodes {
		open = open || n.replica.Status().OfficeOpen
		t.Log(n.id, n.replica.Status().NotReadyReason)
	}
	if !open {
		t.Error("no registry ever begins")
	}
}

// As R without load, but the first Close is lost.
func TestAFoundLossIsNotForgotten(t *testing.T) {
	b := newBench(t, 3, onStore)
	b.run(2 * time.Second)
	b.do(declare("d1", GlobalControl))
	b.run(time.Second)
	old := b.store.model.Clone()
	reg := b.registrar()
	for _, n := range b.nodes {
		n.down = n != reg
	}
	for i := range 3 {
		b.do(declare(fmt.Sprint("x", i), fmt.Sprint("lost", i)))
	}
	reg.down = true
	floor := proto.CloneOf(reg.log.boot.Mark)
	b.store.model, b.store.calls = old, nil
	for _, n := range b.nodes {
		if n != reg {
			b.start(n.id)
		}
	}
	b.run(4 * time.Second)
	for i := range 10 {
		b.do(declare(fmt.Sprint("y", i), fmt.Sprint("new", i)))
	}
	b.run(time.Second)
	lost := 0
	b.store.lose = func(_ *benchNode, c *StoreCall) (bool, bool) {
		if c.Close != nil && lost < 1 {
			lost++
			return true, false
		}
		return false, false
	}
	b.start(reg.id)
	b.run(10 * time.Second)
	s := reg.replica.Status()
	if b.store.model.lead.Closed == "" {
		t.Errorf("closes tried %d; open; ready %v at %d %q; mark was at %d, is at %d", lost, s.Ready, s.Applied, s.NotReadyReason, floor.Index, reg.log.boot.Mark.Index)
	}
}

// A server is attested by all but one, and superseded by another before the last has
// seen it. All attest that one, and it is adopted. The last, which has not seen that
// yet, flaps back to the server before: its word there makes the attestations of
// before complete, and the log would be adopted twice.
func TestAWordGivenBeforeMovingOnAdoptsNothing(t *testing.T) {
	for _, planted := range []bool{true, false} {
		b := newBench(t, 3, func(c *Config) {
			onStore(c)
			if planted {
				c.Plants = plant.Of(plant.OneRound)
			}
		})
		b.run(2 * time.Second)
		b.do(declare("d1", GlobalControl))
		b.run(time.Second)
		last := b.nodes[b.registrar().id%3+1]
		before, heir := b.store.model.Clone(), b.store.model.Clone()
		at := map[*benchNode]*StoreModel{}
		names := map[*StoreModel]string{before: "server-2", heir: "server-3"}
		b.store.route = func(n *benchNode) (*StoreModel, string) { return at[n], names[at[n]] }
		b.store.lose = func(n *benchNode, c *StoreCall) (bool, bool) { // what has executed is answered
			if c.Attest != nil && n == last && at[n] == heir {
				heir.Do("server-3", c)
				at[n] = before
			}
			return false, false
		}
		for _, n := range b.nodes {
			if n != last {
				at[n] = before
			}
		}
		b.until(5*time.Second, "two attestations", func() bool { return len(before.attested["server-2"]) == 2 })
		for _, n := range b.nodes {
			at[n] = heir
		}
		b.until(5*time.Second, "the heir is adopted", func() bool { return heir.lead.Identity == "server-3" })
		b.run(5 * time.Second)
		if twice := before.lead.Identity == "server-2"; twice != planted {
			t.Errorf("planted %v: the log was adopted on both: %v", planted, twice)
		}
		if planted {
			continue
		}
		if last.replica.Status().Ready || at[last] != before {
			t.Errorf("the one that flapped: %+v", last.replica.Status())
		}
		b.do(declare("d2", "shard/a/1"))
		// It is where the others are. It has given its word for the server before since, and
		// waits until the log is on a later one.
		at[last] = heir
		b.run(2 * time.Second)
		if s := last.replica.Status(); s.Ready || !strings.Contains(s.NotReadyReason, "was superseded") {
			t.Errorf("the one that came back: %+v", s)
		}
		b.store.lose, names[heir] = nil, "server-4"
		b.run(5 * time.Second)
		b.do(declare("d3", "shard/a/2"))
		b.run(time.Second)
		for _, n := range b.nodes {
			if s := n.replica.Status(); !s.Ready || s.Applied != heir.lead.Last {
				t.Errorf("replica %d on a later server: %+v", n.id, s)
			}
		}
		if heir.lead.Closed != "" {
			t.Errorf("closed: %s", heir.lead.Closed)
		}
	}
}

// A registrar's append takes effect, its answer is lost, and a copy of the server is
// promoted: what the copy says of the append gives no office.
func TestACopyOfTheLeadRecordGivesNoOffice(t *testing.T) {
	b := newBench(t, 3, onStore)
	b.run(2 * time.Second)
	b.do(declare("d1", GlobalControl))
	b.registrar().down = true
	var who *benchNode
	b.store.lose = func(n *benchNode, c *StoreCall) (bool, bool) {
		if c.Append != nil && who == nil {
			who = n
		}
		return false, c.Append != nil
	}
	b.until(5*time.Second, "a take-over whose answer is lost", func() bool { return who != nil })
	b.store.identity = "server-2"
	for end := b.now.Add(3 * time.Second); b.now < end; b.run(time.Millisecond) {
		if who.replica.Status().IsRegistrar {
			t.Fatalf("it is the registrar by a lead record on server-2 that says %v", b.store.model.lead)
		}
	}
	if mark := who.log.boot.Mark; mark.Identity != "server-2" {
		t.Errorf("it did not attest the server that is there: %v", mark)
	}
}

// A replica has seen the lead record after an entry that nobody was told of, and not
// the entry. A server without it is promoted: nothing is missing from it.
func TestALeadRecordOfAnotherServerIsNotWaitedFor(t *testing.T) {
	b := newBench(t, 3, onStore)
	b.run(2 * time.Second)
	b.do(declare("d1", GlobalControl))
	b.run(time.Second)
	heir := b.store.model.Clone()
	f := b.nodes[b.registrar().id%3+1]
	j := f.replica.journal.(*storeJournal)
	ahead := proto.CloneOf(heir.lead)
	ahead.Last++
	j.slots[callConfirm] = storeSlot{id: 1 << 40, end: j.end.index, term: j.lead.Term} // a read was asked for
	f.inbox = append(f.inbox, Input{Store: &StoreReply{ID: 1 << 40, Status: StoreOK, Identity: "server-1", Lead: ahead}})
	b.run(time.Millisecond)
	if j.lead.Last != ahead.Last || j.end.index != heir.lead.Last {
		t.Fatalf("schedule: at %d of %d", j.end.index, j.lead.Last)
	}
	b.restartStore("server-2", heir)
	if !b.officeWithin(5 * time.Second) {
		for _, n := range b.nodes {
			t.Errorf("replica %d: %s", n.id, n.replica.Status().NotReadyReason)
		}
	}
}

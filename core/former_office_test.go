package core

import (
	"github.com/omnirelay/leadership/core/plant"
	"testing"
	"time"

	"github.com/omnirelay/leadership/core/logpb"
	"go.etcd.io/raft/v3/raftpb"
)

// raft keeps the MsgReadIndex of a leader that had committed nothing in its term
// through a change of term, and asks it again in the next term that it leads. The
// keeper numbers its checks anew in each office, so the answer to a check of an
// office that is over is taken for the first check of this one: begun before the
// receipt.
func TestACheckOfAFormerOfficeConfirmsNothing(t *testing.T) {
	if twoHold(t, plant.Set{}) {
		t.Error("two members hold the scope at once")
	}
	if !twoHold(t, plant.Of(plant.CheckOfFormerOffice)) {
		t.Error("the schedule no longer shows the planted bug")
	}
}

// twoHold runs the schedule and reports whether two members came to hold the scope
// at one moment.
func twoHold(t *testing.T, plants plant.Set) bool {
	b := newBench(t, 3, func(c *Config) { c.Plants = plants })
	b.run(2 * time.Second)
	l := b.registrar()
	r, f := b.nodes[l.id%3+1], b.nodes[(l.id+1)%3+1]
	if x := b.do(declare("d1", "a")); x.Code != "" {
		t.Fatal(x)
	}
	one := b.join("one", r.id, 6*time.Second)
	_ = one.member.Stand(&logpb.Selector{}, 0)
	b.until(5*time.Second, "one leads", func() bool { _, ok := one.member.Holds("a", b.now); return ok })
	two := b.join("two", f.id, 6*time.Second)
	_ = two.member.Stand(&logpb.Selector{}, 0)
	b.run(3 * time.Second)
	one.member.Attached(b.now)
	b.run(20 * time.Millisecond)
	t0 := b.now
	say := func(what string) {
		t.Logf("%6dms %s; one holds until %dms", (b.now-t0)/1e6, what, (one.member.leaseUntil-t0)/1e6)
	}
	say("start")

	vote := func(m Message) bool {
		k := m.Raft.GetType()
		return k == raftpb.MsgPreVote || k == raftpb.MsgVote
	}
	app := func(m Message) bool {
		k := m.Raft.GetType()
		return k == raftpb.MsgApp || k == raftpb.MsgHeartbeat
	}
	// 1. The registrar is cut off; R wins, but its first entry reaches nobody.
	l.cut = true
	b.hook = func(m Message) bool {
		return m.Raft == nil || (m.From == f.id && vote(m)) || (m.From == r.id && app(m))
	}
	b.until(3*time.Second, "R leads", func() bool { return r.replica.Status().IsRegistrar })
	say("R leads, nothing committed")
	one.member.Attached(b.now) // its keepalive asks for check 1, which raft postpones
	b.until(3*time.Second, "R steps down", func() bool { return !r.replica.Status().IsRegistrar })
	say("R stepped down")
	// 2. R wins again and commits. What answers it after that is under way for long.
	var late []Message
	l.cut = false
	committed := false
	b.hook = func(m Message) bool {
		if m.Raft == nil {
			return true
		}
		if (m.From == f.id || m.From == l.id) && vote(m) {
			return true
		}
		if m.From == l.id && m.To == r.id && m.Raft.GetType() != raftpb.MsgPreVoteResp && m.Raft.GetType() != raftpb.MsgVoteResp {
			late = append(late, m)
			return true
		}
		if m.To == r.id && m.Raft.GetType() == raftpb.MsgHeartbeatResp {
			late = append(late, m)
			committed = committed || len(m.Raft.GetContext()) != 0
			return true
		}
		return false
	}
	b.until(4*time.Second, "R's office opens", func() bool { return r.replica.Status().OfficeOpen && committed })
	say("R's office is open, and an old check was asked again")
	if r.replica.keeper.inFlight {
		t.Fatal("R has begun a check of its own")
	}
	// 3. R reaches nobody from now on; the others elect.
	b.hook = func(m Message) bool { return m.From == r.id || m.To == r.id }
	b.until(3*time.Second, "another office", func() bool { return l.replica.Status().OfficeOpen || f.replica.Status().OfficeOpen })
	say("another office is open")
	// 4. Shortly after, what was under way arrives, old as it is, and a keepalive.
	for i := 0; i < 400 && r.replica.Status().IsRegistrar; i++ {
		b.run(time.Millisecond)
		if i == 200 {
			break
		}
	}
	if !r.replica.Status().IsRegistrar {
		t.Fatal("R stepped down too early for this schedule")
	}
	before := one.member.leaseUntil
	one.member.Attached(b.now)
	for i := range late {
		if late[i].Raft.GetTerm() == r.replica.Status().RaftTerm {
			r.inbox = append(r.inbox, Input{Message: &late[i]})
		}
	}
	b.run(3 * time.Millisecond)
	say("late answers and a keepalive arrived at R")
	if one.member.leaseUntil == before {
		return false // not acknowledged, as it should be
	}
	b.until(10*time.Second, "two leads", func() bool { _, ok := two.member.Holds("a", b.now); return ok })
	say("two holds")
	_, ok := one.member.Holds("a", b.now)
	return ok
}

// A response to a read of a process's former life may outlive it.
func TestAnAnswerToAFormerLifeAnswersNothing(t *testing.T) {
	b := newBench(t, 3, nil)
	b.run(2 * time.Second)
	b.do(declare("d1", "a"))
	b.run(time.Second)
	l := b.registrar()
	f := b.nodes[l.id%3+1]
	var late *Message
	b.hook = func(m Message) bool {
		if m.Raft != nil && m.Raft.GetType() == raftpb.MsgReadIndexResp && m.To == f.id {
			late = &m
			return true
		}
		return false
	}
	f.read()
	b.until(time.Second, "a response on its way", func() bool { return late != nil })
	b.hook = nil
	f.down = true // it crashes with the response under way
	res := b.do(declare("d2", "b"))
	if res.Code != "" {
		t.Fatal(res)
	}
	acked := res.Revision
	f.cut = true // and hears nothing yet
	b.start(f.id)
	b.run(10 * time.Millisecond)
	tag := f.read() // begun after d2 was acknowledged
	b.run(2 * time.Millisecond)
	f.inbox = append(f.inbox, Input{Message: late})
	b.run(5 * time.Millisecond)
	if err, done := f.reads[tag]; done && err == nil && f.seen[tag] < acked {
		t.Fatalf("a linearizable read was served at revision %d; revision %d was acknowledged before it was asked for", f.seen[tag], acked)
	}
}

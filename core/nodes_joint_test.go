package core

import (
	"slices"
	"testing"
	"time"

	"go.etcd.io/raft/v3/raftpb"
	"google.golang.org/protobuf/proto"

	"github.com/omnirelay/leadership/core/logpb"
)

// raft does not propose again to leave the joint state when its proposal was dropped while
// the office was handed over in vain; the registrar does.
func TestTheJointStateIsLeft(t *testing.T) {
	s := newNodeStory(t, 3, 100)
	s.run(3 * time.Second)
	reg := s.registrar()
	dead := s.others(reg)[1]
	s.boot("n4")
	s.run(time.Second)
	rj := func() *raftJournal { return reg.replica.journal.(*raftJournal) }
	joint := func() bool {
		last, _ := rj().storage.LastIndex()
		es, _ := rj().storage.Entries(last, last+1, 1<<20)
		if len(es) == 0 || es[0].GetType() != raftpb.EntryConfChangeV2 {
			return false
		}
		c := &raftpb.ConfChangeV2{}
		return proto.Unmarshal(es[0].GetData(), c) == nil && len(c.Changes) == 2
	}
	for _, n := range s.nodes {
		n.mayHalt = true
	}
	s.hook = func(m Message) bool { return joint() && m.Raft.GetType() == raftpb.MsgAppResp && m.To == reg.id }
	s.do(&logpb.Command{RequestId: "rep", Kind: &logpb.Command_ReplaceNode{ReplaceNode: &logpb.ReplaceNode{Name: dead.cfg.Name, By: s.joining("n4")}}})
	s.until(5*time.Second, "a joint step proposed", joint)
	dead.down = true
	// a word to move that was applied just before comes due now
	rj().handOverTo(dead.id)
	s.hook = nil
	s.until(10*time.Second, "the end of the joint state", func() bool {
		m := membersOf(rj().confState)
		return len(m.Outgoing) == 0 && !slices.Contains(m.Voters, dead.id)
	})
}

// A registrar that is asked to go and is cut off in that moment has gone: who came after it
// stays.
func TestAnOrderToMoveIsDoneOnce(t *testing.T) {
	s := newNodeStory(t, 3, 100)
	s.run(3 * time.Second)
	reg := s.registrar()
	others := s.others(reg)
	s.doAt(reg, &logpb.Command{RequestId: "mvx", Kind: &logpb.Command_MoveRegistrar{MoveRegistrar: &logpb.MoveRegistrar{To: "nope"}}})
	offices := func() (n uint64) {
		for _, id := range sortedKeys(s.nodes) {
			n += s.nodes[id].replica.Status().Offices
		}
		return n
	}
	before := offices()
	s.hook = func(m Message) bool { return m.Raft.GetType() == raftpb.MsgAppResp && m.To == reg.id }
	reg.ask(&logpb.Command{RequestId: "mv", Kind: &logpb.Command_MoveRegistrar{MoveRegistrar: &logpb.MoveRegistrar{}}})
	last := func(o *benchNode) uint64 { i, _ := o.replica.journal.(*raftJournal).storage.LastIndex(); return i }
	l0 := last(others[0])
	s.until(time.Second, "entry", func() bool { return last(others[0]) > l0 && last(others[1]) > l0 })
	s.isolate(reg.id, true)
	s.hook = nil
	s.run(6 * time.Second)
	if n := offices() - before; n != 1 {
		t.Errorf("the registrar that was asked to move was cut off, and the office was taken %d times", n)
	}
}

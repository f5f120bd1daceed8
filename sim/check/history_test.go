package check

import (
	"testing"

	"go.etcd.io/raft/v3/raftpb"
	"google.golang.org/protobuf/proto"

	"github.com/omnirelay/leadership/core"
	"github.com/omnirelay/leadership/core/logpb"
)

func elected(seq, revision uint64, scope string, session, fence uint64) *core.Record {
	return &core.Record{Seq: seq, Revision: revision, Ordinal: 1, Kind: uint32(core.EventElected), Scope: scope, Session: session, Fence: fence,
		Hash: []byte{byte(seq)}, PrevHash: []byte{byte(seq - 1)}}
}

func entry(t *testing.T, index, term uint64, requests ...string) *raftpb.Entry {
	t.Helper()
	e := &logpb.Entry{}
	for _, id := range requests {
		e.Commands = append(e.Commands, &logpb.Command{RequestId: id, Kind: &logpb.Command_Read{Read: &logpb.Read{}}})
	}
	data, err := proto.Marshal(e)
	if err != nil {
		t.Fatal(err)
	}
	return &raftpb.Entry{Index: proto.Uint64(index), Term: proto.Uint64(term), Type: raftpb.EntryNormal.Enum(), Data: data}
}

func TestFenceMonotonic(t *testing.T) {
	var c caught
	x := NewFenceMonotonic(c.report)
	first, second := elected(1, 5, "a", 1, 1), elected(2, 6, "a", 2, 2)
	x.Record(1, first)
	x.Record(2, second)
	x.Record(3, first) // another replica tells the same
	c.want(t, FenceMonotonicProperty, 0)
	x.Record(4, elected(3, 7, "b", 3, 2)) // used before
	x.Record(5, elected(4, 8, "c", 3, 1)) // used before, lower
	c.want(t, FenceMonotonicProperty, 2)
}

func TestFenceMonotonicRefusesAFallingFence(t *testing.T) {
	var c caught
	x := NewFenceMonotonic(c.report)
	x.Record(1, elected(1, 5, "a", 1, 10))
	x.Record(2, elected(2, 6, "a", 1, 9))
	c.want(t, FenceMonotonicProperty, 1)
}

func TestAgreementOnEntries(t *testing.T) {
	var c caught
	x := NewAgreement(c.report, NewChronicle())
	x.Applied(1, 1, entry(t, 7, 2, "r1"))
	x.Applied(2, 2, entry(t, 7, 2, "r1")) // equal, not the same pointer
	c.want(t, AgreementProperty, 0)
	x.Applied(3, 3, entry(t, 7, 3, "r1"))
	x.Applied(4, 3, entry(t, 7, 2, "r2"))
	c.want(t, AgreementProperty, 2)
}

func TestAgreementOnStatesAndRecords(t *testing.T) {
	var c caught
	x := NewAgreement(c.report, NewChronicle())
	x.State(1, 1, 7, [32]byte{1})
	x.State(2, 2, 7, [32]byte{1})
	x.State(3, 2, 8, [32]byte{2})
	if !x.Record(4, 1, elected(1, 7, "a", 1, 1)) || x.Record(5, 2, elected(1, 7, "a", 1, 1)) {
		t.Error("a record is new once")
	}
	c.want(t, AgreementProperty, 0)
	x.State(6, 3, 7, [32]byte{9})
	x.Record(7, 3, elected(1, 7, "a", 2, 1))
	x.Record(8, 3, elected(3, 9, "a", 2, 5)) // record 2 is unknown
	c.want(t, AgreementProperty, 3)
}

func TestDurableAcknowledgement(t *testing.T) {
	var c caught
	h := NewChronicle()
	a, x := NewAgreement(c.report, h), NewDurable(c.report, h)
	a.Applied(1, 1, entry(t, 7, 2, "r1", "r2"))
	x.Acknowledged(2, "r1", &core.Result{Revision: 7})
	c.want(t, DurableProperty, 0)
	x.Acknowledged(3, "r3", &core.Result{Revision: 7})
	c.want(t, DurableProperty, 1)

	c = nil
	a.Applied(4, 2, entry(t, 7, 3, "r2")) // r1 was acknowledged and is gone, r2 is still there
	if len(c) != 2 || c[0].Property != AgreementProperty || c[1].Property != DurableProperty {
		t.Errorf("want Agreement and one Durable: %v", c)
	}
}

func TestDurableTrail(t *testing.T) {
	var c caught
	h := NewChronicle()
	a, x := NewAgreement(c.report, h), NewDurable(c.report, h)
	one, two := elected(1, 7, "a", 1, 1), elected(2, 9, "a", 2, 2)
	a.Record(1, 1, one)
	a.Record(1, 1, two)
	x.Stored(2, 1, nil, one)
	x.Stored(3, 1, one, two)
	x.Trail(4, 1, 1, 8)
	x.Trail(5, 1, 2, 9)
	c.want(t, DurableProperty, 0)
	x.Stored(6, 2, nil, two)                                   // a gap
	x.Stored(7, 2, one, one)                                   // twice
	x.Stored(8, 2, &core.Record{Seq: 1, Hash: []byte{9}}, two) // another chain
	x.Trail(9, 2, 1, 9)                                        // claims more than it has
	c.want(t, DurableProperty, 4)
}

func TestExactlyOnceReply(t *testing.T) {
	var c caught
	x := NewExactlyOnce(c.report)
	x.Answered(1, "r1", &core.Result{Revision: 7, Session: 3})
	x.Answered(2, "r1", &core.Result{Revision: 7, Session: 3})
	x.Answered(3, "r1", &core.Result{Code: string(core.CodeUnavailable)})
	x.Answered(4, "r1", &core.Result{Code: string(core.CodeTooOld), Revision: 12})
	c.want(t, ExactlyOnceProperty, 0)
	x.Answered(5, "r1", &core.Result{Revision: 9, Session: 4})
	c.want(t, ExactlyOnceProperty, 1)
}

func TestExactlyOnceEffect(t *testing.T) {
	var c caught
	x := NewExactlyOnce(c.report)
	drain := func(revision uint64, scope string) *core.Record {
		return &core.Record{Revision: revision, Ordinal: 1, Kind: uint32(core.EventDrainRequested), Scope: scope, CorrelationId: "op-1"}
	}
	x.Record(1, drain(7, "a"))
	x.Record(2, drain(7, "b"))
	c.want(t, ExactlyOnceProperty, 0)
	x.Record(3, drain(9, "a"))
	c.want(t, ExactlyOnceProperty, 1)
}

func TestLiveSessionOnly(t *testing.T) {
	var c caught
	x := NewLiveSessionOnly(c.report)
	leads := []core.Token{{Scope: "a", Session: 1}}
	x.Registry(1, 1, 5, leads, []core.SessionID{1, 2})
	x.Ended(1, 6)
	x.Registry(2, 2, 5, leads, []core.SessionID{1, 2}) // another replica, still behind
	x.Record(3, elected(1, 5, "a", 1, 1))
	x.Record(4, elected(2, 9, "a", 2, 2))
	c.want(t, LiveSessionOnlyProperty, 0)
	x.Registry(5, 2, 7, leads, []core.SessionID{2})  // led by one that is not live
	x.Registry(6, 2, 8, nil, []core.SessionID{1, 2}) // lives again
	x.Record(7, elected(3, 10, "a", 1, 3))           // elected although it ended
	c.want(t, LiveSessionOnlyProperty, 3)
}

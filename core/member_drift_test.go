package core

import (
	"testing"
	"time"

	"github.com/omnirelay/leadership/core/logpb"
)

// leading returns a member with a TTL of a second that leads s by a keepalive of time 0.
func leading(t *testing.T) *Member {
	t.Helper()
	m, err := NewMember(MemberConfig{MemberID: "alice", TTL: time.Second, Instance: "life"}, 0)
	if err != nil {
		t.Fatal(err)
	}
	if err := m.Stand(&logpb.Selector{Id: "s"}, 0); err != nil {
		t.Fatal(err)
	}
	m.Tick(0)
	m.Step(0, ReplicaMessage{Reply: &Reply{RequestID: m.requestID("open"), Result: &Result{Session: 1, Revision: 1}}})
	m.Tick(0)
	m.Step(0, ReplicaMessage{View: &View{Session: 1, Revision: 2, Live: true, Grants: []Grant{{Token: Token{Scope: "s", Fence: 7}}}}})
	m.Step(0, ReplicaMessage{Ack: &Ack{Session: 1, Number: 1}})
	m.TakeOutput()
	return m
}

func TestWideningShortensTheLeaseInForce(t *testing.T) {
	m := leading(t)
	if held := m.Held(0); len(held) != 1 || held[0].Until != Time(990*time.Millisecond) {
		t.Fatalf("with 1 %% of drift it holds %+v, want one until 990ms", held)
	}
	if err := m.Widen(0, 50); err != nil {
		t.Fatal(err)
	}
	if held := m.Held(0); len(held) != 1 || held[0].Until != Time(950*time.Millisecond) {
		t.Errorf("with 5 %% of drift it holds %+v, want one until 950ms", held)
	}
	if err := m.Widen(0, 20); err != nil || m.Drift() != 50 {
		t.Errorf("widened to less it reckons with %d (%v), want 50 as before", m.Drift(), err)
	}
	m.Tick(Time(200 * time.Millisecond))
	m.Step(Time(210*time.Millisecond), ReplicaMessage{Ack: &Ack{Session: 1, Number: 2}})
	if held := m.Held(Time(210 * time.Millisecond)); len(held) != 1 || held[0].Until != Time(1150*time.Millisecond) {
		t.Errorf("renewed at 200ms it holds %+v, want one until 1.15s", held)
	}
}

func TestWideningEndsALeaseThatWouldBeOver(t *testing.T) {
	m := leading(t)
	if err := m.Widen(Time(960*time.Millisecond), 50); err != nil {
		t.Fatal(err)
	}
	var lost bool
	for _, c := range m.TakeOutput().Changes {
		lost = lost || c.Kind == ChangeLost && c.Token.Fence == 7 && c.Reason == ReasonLeaseLapsed
	}
	if !lost {
		t.Error("no loss was told")
	}
}

func TestWideningBeyondSenseIsRefused(t *testing.T) {
	m := leading(t)
	for _, e := range []Epsilon{-1, 500} {
		if err := m.Widen(0, e); err == nil || m.Drift() != DefaultEpsilon {
			t.Errorf("%d parts per thousand: %v, reckoning with %d", e, err, m.Drift())
		}
	}
}

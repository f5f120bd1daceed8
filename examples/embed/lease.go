package main

import (
	"fmt"
	"time"

	"github.com/omnirelay/leadership/core"
)

// leaseEndsByItself embeds core's Member alone: time goes in, messages come out. It
// shows that a member which hears nothing more stops believing by its own clock.
func leaseEndsByItself() error {
	now := core.Time(time.Hour) // any clock will do: only differences count
	m, err := core.NewMember(core.MemberConfig{MemberID: "worker-2", Instance: "worker-2/life-1", TTL: time.Second}, now)
	if err != nil {
		return err
	}
	m.Tick(now) // asks for a session
	opening := m.TakeOutput().Messages[0].Command
	m.Step(now, core.ReplicaMessage{Reply: &core.Reply{RequestID: opening.RequestId, Result: &core.Result{Session: 1, Revision: 9}}})
	m.Tick(now) // sends the first keepalive
	alive := m.TakeOutput().Messages[0].Keepalive
	m.Step(now, core.ReplicaMessage{View: &core.View{
		Session: 1, Revision: 10, Live: true, Grants: []core.Grant{{Token: core.Token{Scope: scope, Session: 1, Term: 1, Fence: 7}}},
	}})
	if _, held := m.Holds(scope, now); held {
		return fmt.Errorf("believed before the first keepalive was acknowledged")
	}
	m.Step(now.Add(10*time.Millisecond), core.ReplicaMessage{Ack: &core.Ack{Session: 1, Number: alive.Number}})
	if _, held := m.Holds(scope, now.Add(989*time.Millisecond)); !held {
		return fmt.Errorf("not believed although the lease runs")
	}
	if _, held := m.Holds(scope, now.Add(990*time.Millisecond)); held {
		return fmt.Errorf("believed for longer than TTL(1-ε) after the keepalive was sent")
	}
	fmt.Println("a lease of 1s ended after 990ms without a word from anybody")
	return nil
}

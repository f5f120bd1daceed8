package check

import (
	"testing"

	"github.com/omnirelay/leadership/core"
)

// caught collects what a checker reports.
type caught []Violation

func (c *caught) report(v Violation) { *c = append(*c, v) }

func (c *caught) want(t *testing.T, p Property, n int) {
	t.Helper()
	if len(*c) != n {
		t.Fatalf("%d violations, want %d: %v", len(*c), n, *c)
	}
	for _, v := range *c {
		if v.Property != p {
			t.Errorf("property %s, want %s: %v", v.Property, p, v)
		}
	}
}

func belief(process string, session core.SessionID, fence uint64) Belief {
	return Belief{Process: process, Token: core.Token{Scope: "a", Session: session, Fence: fence}}
}

func TestExclusiveLease(t *testing.T) {
	var c caught
	x := NewExclusiveLease(c.report)
	x.Observe(1, "a", nil)
	x.Observe(2, "a", []Belief{belief("m1#1", 1, 1)})
	fast := belief("m2#1", 2, 2)
	fast.Token.Failover = core.FailoverFast
	x.Observe(3, "a", []Belief{belief("m1#1", 1, 1), fast})
	c.want(t, ExclusiveLeaseProperty, 0)
	x.Observe(4, "a", []Belief{belief("m1#1", 1, 1), belief("m2#1", 2, 2)})
	c.want(t, ExclusiveLeaseProperty, 1)
}

func TestHolderIsLeader(t *testing.T) {
	var c caught
	x := NewHolderIsLeader(c.report)
	x.Observe(1, belief("m1#1", 1, 7), core.Token{Session: 1, Fence: 7}, true)
	c.want(t, HolderIsLeaderProperty, 0)
	x.Observe(2, belief("m1#1", 1, 7), core.Token{Session: 1, Fence: 8}, true) // elected again
	x.Observe(3, belief("m1#1", 1, 7), core.Token{Session: 2, Fence: 7}, true) // another session
	x.Observe(4, belief("m1#1", 1, 7), core.Token{}, false)                    // nobody
	c.want(t, HolderIsLeaderProperty, 3)
}

func TestNoStaleEffect(t *testing.T) {
	var c caught
	x := NewNoStaleEffect(c.report)
	x.Applied(1, "r1", "a", 3)
	x.Applied(2, "r1", "a", 3)
	x.Applied(3, "r1", "b", 1) // another scope
	x.Applied(4, "r2", "a", 1) // another resource
	x.Applied(5, "r1", "a", 5)
	c.want(t, NoStaleEffectProperty, 0)
	x.Applied(6, "r1", "a", 4)
	c.want(t, NoStaleEffectProperty, 1)
}

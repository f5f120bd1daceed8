package gossip

import (
	"fmt"
	"testing"
	"time"

	"github.com/omnirelay/leadership/core"
)

// What a member claims arrives everywhere, also where it cannot send itself, for no
// longer than it said; what it gives up, and what it never claimed, is told as well.
func TestClaimsTravel(t *testing.T) {
	m := newMesh(t)
	a := m.start(m.options("a"))
	b := m.start(m.options("b", a.Address()))
	c := m.start(m.options("c", b.Address()))
	const lease = 3 * time.Second
	hold := func(n int) {
		a.mu.Lock()
		defer a.mu.Unlock()
		a.claims, a.lease = someClaims(n), lease
	}
	last := func(x *member) (news core.GossipNews) {
		for _, n := range x.told("a") {
			if n.ClaimsFor > 0 {
				news = n
			}
		}
		return news
	}
	hold(40)
	for _, x := range []*member{b, c} {
		until(t, "all claims arrive", func() bool { return len(last(x).Claims) == 40 })
		for _, n := range x.told("a") {
			if n.ClaimsFor > lease {
				t.Errorf("claimed for %v; the lease is %v", n.ClaimsFor, lease)
			}
			if n.Health != core.HealthAlive {
				t.Errorf("%+v", n)
			}
		}
	}
	hold(3)
	until(t, "some were given up", func() bool { return len(last(c).Claims) == 3 })
	a.mu.Lock()
	a.claims, a.lease = nil, 0
	a.mu.Unlock()
	until(t, "all were given up", func() bool { n := last(c); return n.ClaimsFor > 0 && len(n.Claims) == 0 })
}

// More than fits into one piece of news comes in turn.
func TestManyClaimsComeInTurn(t *testing.T) {
	m := newMesh(t)
	a := m.start(m.options("a"))
	b := m.start(m.options("b", a.Address()))
	a.mu.Lock()
	a.claims, a.lease = someClaims(300), 5*time.Second
	a.mu.Unlock()
	heard := map[string]bool{}
	until(t, "all claims have come", func() bool {
		for _, n := range b.told("a") {
			if len(n.Claims) > core.MaxClaims {
				t.Fatalf("%d claims in one piece of news", len(n.Claims))
			}
			for _, c := range n.Claims {
				heard[fmt.Sprint(c)] = true
			}
		}
		return len(heard) == 300
	})
}

// A receiver that cannot take news is asked again, and nothing is lost.
func TestNewsThatCannotBeTakenWaits(t *testing.T) {
	m := newMesh(t)
	a := m.start(m.options("a"))
	o := m.options("b", a.Address())
	refused, taken := 0, make(chan core.GossipNews, 100)
	o.Deliver = func(n core.GossipNews) bool {
		if refused < 5 {
			refused++
			return false
		}
		taken <- n
		return true
	}
	g, err := New(o)
	if err != nil {
		t.Fatal(err)
	}
	m.run(g)
	seen := map[string]bool{}
	for len(seen) < 2 {
		select {
		case n := <-taken:
			seen[n.MemberID] = true
		case <-time.After(within):
			t.Fatalf("only %v were told", seen)
		}
	}
}

package host

import (
	"testing"

	"github.com/omnirelay/leadership/core"
)

// memberStatus finds a member in the registry of a host.
func memberStatus(h *Host, member string) (st core.MemberStatus) {
	h.View(func(g *core.Registry, _ core.Status) { st = g.Member(member) })
	return st
}

func sessionNoted(h *Host, id core.SessionID) (noted bool) {
	h.View(func(g *core.Registry, _ core.Status) {
		s, _ := g.Session(id)
		noted = s.Noted
	})
	return noted
}

// What the registrar's gossip says against a member is in the log of every node, until
// the member is heard of.
func TestGossipIsAdvice(t *testing.T) {
	all := cluster(t, 3, registryOnly)
	d := &door{}
	at := d.attach(t, all[0].Host)
	session := d.open(t, all[0].Host, at, "outside")
	at.Send(keepalive(session, 1))
	until(t, all[0].Host, "the keepalive is acknowledged", func() bool { _, ok := d.find(acked(session, 1)); return ok })
	for _, h := range all {
		if !h.Gossip(core.GossipNews{MemberID: "outside", Health: core.HealthDead}) {
			t.Fatal("the inbox is full")
		}
	}
	for _, h := range all {
		until(t, h.Host, "the member is ineligible", func() bool { return memberStatus(h.Host, "outside").Ineligible == "dead" })
		until(t, h.Host, "its session is noted", func() bool { return sessionNoted(h.Host, session) })
	}
	at.Send(keepalive(session, 2))
	for _, h := range all {
		until(t, h.Host, "the member is eligible again", func() bool { return memberStatus(h.Host, "outside").Ineligible == "" })
	}
}

func TestABrokenAttachmentIsASuspicion(t *testing.T) {
	all := cluster(t, 3, registryOnly)
	for i, h := range all {
		until(t, h.Host, "every node is known to understand a suspicion", func() (known bool) {
			h.View(func(_ *core.Registry, s core.Status) { known = s.Version == core.ProtocolVersion })
			return known
		})
		d := &door{}
		at := d.attach(t, h.Host)
		session := d.open(t, h.Host, at, string(rune('a'+i)))
		at.Send(keepalive(session, 1))
		until(t, h.Host, "the keepalive is acknowledged", func() bool { _, ok := d.find(acked(session, 1)); return ok })
		at.Break()
		at.Detach() // is too late to change anything
		until(t, h.Host, "the session is noted", func() bool { return sessionNoted(h.Host, session) })
		if at.Send(keepalive(session, 2)) {
			t.Error("a broken attachment takes messages")
		}
	}
}

func TestClaimsAreWhatTheMemberHolds(t *testing.T) {
	h := cluster(t, 1, nil)[0]
	if claims, remaining := h.Claims(); len(claims) > 0 || remaining != 0 {
		t.Errorf("claims %v for %v before anything is led", claims, remaining)
	}
	declare(t, h.Host, "a/b")
	until(t, h.Host, "the own member leads", func() bool { _, ok := h.Holds("a/b"); return ok })
	token, _ := h.Holds("a/b")
	claims, remaining := h.Claims()
	if len(claims) != 1 || claims[0] != (core.Claim{Scope: "a/b", Fence: token.Fence}) || remaining <= 0 || remaining > h.o.Member.TTL {
		t.Errorf("claims %v for %v", claims, remaining)
	}
	h.GiveUp("a/b", token.Fence)
	if claims, remaining := h.Claims(); len(claims) > 0 && claims[0].Fence == token.Fence {
		t.Errorf("claims %v for %v after it was given up", claims, remaining)
	}
}

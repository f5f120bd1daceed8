package sim

import (
	"math/rand/v2"
	"time"

	"github.com/omnirelay/leadership/core"
)

// GossipSetup says how members gossip. The zero setup: they do not, and a connection that
// a process takes with it is no suspicion either.
type GossipSetup struct {
	// Every is how often, about, a member's word goes round; 0: never.
	Every Duration
	// Late bounds how late a word comes to a replica, in calm times.
	Late Duration
	// SuspectAfter and DeadAfter are the silence after which a replica's gossip calls a
	// member suspect and dead.
	SuspectAfter, DeadAfter Duration
	// FastScopes is how many of the scopes fail over fast.
	FastScopes int
}

// gossip carries the word of members to the replicas, beside all other traffic. It is
// honest, and late, unless a fault makes it lie.
type gossip struct {
	w     *World
	rng   *rand.Rand
	views [][]gossipView // by replica and member
	late  time.Duration  // by faults, on top
}

// gossipView is what one replica's gossip knows of one member.
type gossipView struct {
	heardAt int64
	told    core.Health
	lie     core.Health // told in place of what is known; 0: none
	bad     bool        // a lie, too: it runs an unsupported version
}

func newGossip(w *World, rng *rand.Rand) *gossip { return &gossip{w: w, rng: rng} }

func (g *gossip) on() bool { return g.w.scenario.Gossip.Every > 0 }

func (g *gossip) begin() {
	if !g.on() {
		return
	}
	for range g.w.replicas {
		g.views = append(g.views, make([]gossipView, len(g.w.members)))
	}
	for _, m := range g.w.members {
		g.w.after(spread(g.rng, g.w.scenario.Gossip.Every.D()), func() { g.round(m) })
	}
	g.w.after(100*ms, g.look)
}

// round tells every replica what a member says of itself.
func (g *gossip) round(m *member) {
	if m.up && !m.paused && m.core != nil {
		now := m.now()
		claims, life := m.core.Claims(now), m.core.Until(now).Sub(now)
		if life <= 0 {
			life = g.w.scenario.TTL.D()
		}
		for _, r := range g.w.replicas {
			if g.reaches(m, r) {
				g.w.after(g.delay(), func() { g.heard(r, m, claims, life) })
			}
		}
	}
	g.w.after(spread(g.rng, g.w.scenario.Gossip.Every.D()), func() { g.round(m) })
}

// reaches reports whether a member's word comes to a replica: straight, or by another.
func (g *gossip) reaches(m *member, r *replica) bool {
	if g.w.network.open(m.at, r.at) {
		return true
	}
	for _, o := range g.w.replicas {
		if o.up && g.w.network.open(m.at, o.at) && g.w.network.open(o.at, r.at) {
			return true
		}
	}
	for _, o := range g.w.members {
		if o != m && o.up && g.w.network.open(m.at, o.at) && g.w.network.open(o.at, r.at) {
			return true
		}
	}
	return false
}

func (g *gossip) delay() time.Duration {
	d := time.Duration(g.rng.Int64N(int64(g.w.scenario.Gossip.Late) + 1))
	if g.late > 0 {
		d += time.Duration(g.rng.Int64N(int64(g.late)))
	}
	return d
}

func (g *gossip) heard(r *replica, m *member, claims []core.Claim, life time.Duration) {
	v := &g.views[r.id-1][m.index]
	v.heardAt = g.w.now
	g.tell(r, m, core.HealthAlive, claims, life)
	g.w.checks.claimsHeard(r, m, claims, life)
}

// tell gives a replica a word on a member, or the lie in its place.
func (g *gossip) tell(r *replica, m *member, health core.Health, claims []core.Claim, life time.Duration) {
	v := &g.views[r.id-1][m.index]
	v.told = health
	if v.lie != core.HealthUnknown {
		health = v.lie
	}
	if r.up {
		r.receive(core.Input{Gossip: &core.GossipNews{MemberID: m.member, Health: health, Unsupported: v.bad, Claims: claims, ClaimsFor: life}})
	}
}

// look has every replica's gossip miss those that are silent.
func (g *gossip) look() {
	s := &g.w.scenario.Gossip
	for _, r := range g.w.replicas {
		for _, m := range g.w.members {
			v := &g.views[r.id-1][m.index]
			silent := time.Duration(g.w.now - v.heardAt)
			switch {
			case v.heardAt == 0:
			case silent > s.DeadAfter.D() && v.told == core.HealthSuspect:
				g.tell(r, m, core.HealthDead, nil, 0)
			case silent > s.SuspectAfter.D() && v.told == core.HealthAlive:
				g.tell(r, m, core.HealthSuspect, nil, 0)
			}
		}
	}
	g.w.after(100*ms, g.look)
}

// left tells every replica that a member said farewell.
func (g *gossip) left(m *member) {
	if !g.on() {
		return
	}
	for _, r := range g.w.replicas {
		g.w.after(g.delay(), func() {
			if !m.up {
				g.tell(r, m, core.HealthLeft, nil, 0)
			}
		})
	}
}

// untouched reports whether nothing false is said of a member anywhere that would keep it
// from being elected for good.
func (g *gossip) untouched(m *member) bool {
	for _, views := range g.views {
		if views[m.index].bad {
			return false
		}
	}
	return !g.w.checks.reference.unsupported[m.member]
}

// lie lets some replicas, or all, say something false of a member for d.
func (n *nemesis) lie(d time.Duration, health core.Health, bad bool) {
	g := n.w.gossip
	m := n.anyMember()
	all := g.rng.IntN(2) == 0
	for _, r := range n.w.replicas {
		if !all && g.rng.IntN(2) == 0 {
			continue
		}
		v := &g.views[r.id-1][m.index]
		v.lie, v.bad = health, bad
		n.w.tracef(m.member, "gossip lies to %s about %s for %v: %v, unsupported %v", r.name, m.member, d, health, bad)
		g.tell(r, m, v.told, nil, 0)
		n.lasting(d, func() {
			v.lie, v.bad = core.HealthUnknown, false
			g.tell(r, m, v.told, nil, 0)
		})
	}
}

// splitViews lets every replica say something else of every member.
func (n *nemesis) splitViews(d time.Duration) {
	g := n.w.gossip
	for _, r := range n.w.replicas {
		for _, m := range n.w.members {
			v := &g.views[r.id-1][m.index]
			v.lie = core.Health(1 + g.rng.IntN(int(core.HealthLeft)))
			n.w.tracef(m.member, "gossip tells %s for %v that %s is %v", r.name, d, m.member, v.lie)
			g.tell(r, m, v.told, nil, 0)
			n.lasting(d, func() {
				v.lie = core.HealthUnknown
				g.tell(r, m, v.told, nil, 0)
			})
		}
	}
}

// lateGossip delays what goes round, so that it is overtaken too.
func (n *nemesis) lateGossip(d time.Duration) {
	g := n.w.gossip
	late := time.Duration(1 + g.rng.Int64N(int64(3*n.w.scenario.TTL)))
	g.late = max(g.late, late)
	n.w.tracef("", "gossip is up to %v late for %v", g.late, d)
	n.lasting(d, func() { g.late = 0 })
}

// inventedClaims has members claim what they do not lead.
func (n *nemesis) inventedClaims(time.Duration) {
	g := n.w.gossip
	m, r := n.anyMember(), n.anyReplica()
	var claims []core.Claim
	for range 1 + g.rng.IntN(core.MaxClaims) {
		claims = append(claims, core.Claim{Scope: scopeName(g.rng.IntN(n.w.scenario.Scopes + 2)), Fence: 1 + uint64(g.rng.IntN(400))})
	}
	n.w.tracef(m.member, "gossip tells %s of %d claims that %s never made", r.name, len(claims), m.member)
	g.tell(r, m, g.views[r.id-1][m.index].told, claims, time.Duration(1+g.rng.Int64N(int64(n.w.scenario.TTL))))
}

func init() {
	for name, f := range map[string]func(n *nemesis, d time.Duration){
		"gossip-suspects":    func(n *nemesis, d time.Duration) { n.lie(d, core.HealthSuspect, false) },
		"gossip-buries":      func(n *nemesis, d time.Duration) { n.lie(d, core.HealthDead, false) },
		"gossip-waves":       func(n *nemesis, d time.Duration) { n.lie(d, core.HealthLeft, false) },
		"gossip-unsupported": func(n *nemesis, d time.Duration) { n.lie(d, core.HealthAlive, true) },
		"gossip-splits":      (*nemesis).splitViews,
		"gossip-late":        (*nemesis).lateGossip,
		"gossip-invents":     (*nemesis).inventedClaims,
	} {
		faults[name] = f
	}
}

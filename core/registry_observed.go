package core

import (
	"fmt"

	"github.com/omnirelay/leadership/core/logpb"
	"github.com/omnirelay/leadership/core/plant"
)

// MaxObservations bounds the members of one ObserveMembers and the reports of one
// ReportSplitBrain.
const MaxObservations = 64

// Observation is what the log says that gossip says against electing a member.
type Observation struct {
	MemberID    string
	Health      Health // HealthAlive, HealthDead or HealthLeft
	Unsupported bool
}

// Ineligible names what keeps the member from being elected, the strongest first:
// unsupported, left or dead. Empty: nothing.
func (o Observation) Ineligible() string {
	switch {
	case o.Unsupported:
		return "unsupported"
	case o.Health == HealthLeft, o.Health == HealthDead:
		return o.Health.String()
	}
	return ""
}

// reason is how the record of an observation names it.
func (o Observation) reason() string {
	if r := o.Ineligible(); r != "" {
		return r
	}
	return HealthAlive.String()
}

var healthNames = [...]string{HealthUnknown: "unknown", HealthAlive: "alive", HealthSuspect: "suspect", HealthDead: "dead", HealthLeft: "left"}

func (h Health) String() string {
	if int(h) < len(healthNames) {
		return healthNames[h]
	}
	return fmt.Sprintf("health-%d", h)
}

var healthProtos = [...]logpb.Observation_Health{
	HealthAlive: logpb.Observation_HEALTH_ALIVE, HealthDead: logpb.Observation_HEALTH_DEAD, HealthLeft: logpb.Observation_HEALTH_LEFT,
}

func (o Observation) toProto() *logpb.Observation {
	return &logpb.Observation{MemberId: o.MemberID, Health: healthProtos[o.Health], Unsupported: o.Unsupported}
}

func observationOf(p *logpb.Observation) Observation {
	o := Observation{MemberID: p.MemberId, Health: HealthAlive, Unsupported: p.Unsupported}
	switch p.Health {
	case logpb.Observation_HEALTH_DEAD:
		o.Health = HealthDead
	case logpb.Observation_HEALTH_LEFT:
		o.Health = HealthLeft
	}
	return o
}

// observe takes what gossip says of members. It ends nothing: it only decides who may
// be elected from now on.
func (g *Registry) observe(c *logpb.ObserveMembers) *Error {
	if len(c.Members) == 0 || len(c.Members) > MaxObservations {
		return invalid("members", "%d; want 1 to %d", len(c.Members), MaxObservations)
	}
	for _, p := range c.Members {
		if err := CheckMemberID("memberId", p.MemberId); err != nil {
			return asRefusal(err)
		}
	}
	for _, p := range c.Members {
		g.believe(observationOf(p))
	}
	g.fillVacancies()
	return nil
}

// believe keeps one observation, when it is news.
func (g *Registry) believe(o Observation) {
	had, known := g.observed[o.MemberID]
	against := o.Ineligible() != ""
	switch {
	case known && had == o, !known && !against, !known && len(g.observed) >= MaxGossipMembers:
		return
	case against:
		g.observed[o.MemberID] = o
	case g.plants.Has(plant.ObservedNeverCleared):
		return
	default:
		delete(g.observed, o.MemberID)
	}
	g.filled = false
	g.recordMember(EventMemberObserved, o.MemberID, o.reason(), o.Health.String())
}

// clearDeath drops the word that a member is dead or left: it opened a session.
func (g *Registry) clearDeath(member string) {
	if o, ok := g.observed[member]; ok && o.Health != HealthAlive {
		o.Health = HealthAlive
		g.believe(o)
	}
}

// barred reports whether a member may not be elected, whatever it stands for.
func (g *Registry) barred(member string) bool {
	if g.cordoned[member] {
		return true
	}
	_, against := g.observed[member]
	return against && !g.plants.Has(plant.IneligibleElected)
}

// observation is what the log says of a member.
func (g *Registry) observation(member string) Observation {
	if o, ok := g.observed[member]; ok {
		return o
	}
	return Observation{MemberID: member, Health: HealthAlive}
}

// Observed lists the members that gossip says something against, as far as the log
// knows, sorted.
func (g *Registry) Observed() []Observation {
	all := make([]Observation, 0, len(g.observed))
	for _, id := range sortedKeys(g.observed) {
		all = append(all, g.observed[id])
	}
	return all
}

// MemberStatus is what the registry says of a member, over all of its sessions.
type MemberStatus struct {
	Cordoned, Draining bool
	Ineligible         string // see Observation
	Sessions           int    // live ones
	Leads              int    // scopes
	HandingOver        int    // of these, how many it is asked for
	// Stuck is how many of these nobody else can lead at the moment: a drain leaves them
	// with their holder until somebody can.
	Stuck int
}

// Member describes a member. Stuck takes a look at all sessions for each scope it leads.
func (g *Registry) Member(id string) MemberStatus {
	m := MemberStatus{Cordoned: g.cordoned[id], Draining: g.draining[id], Ineligible: g.observed[id].Ineligible(), Sessions: len(g.members[id])}
	led := g.ledBy(id)
	m.Leads = len(led)
	order := sortedKeys(g.sessions)
	for _, sc := range led {
		if sc.ask != nil {
			m.HandingOver++
		}
		if !g.canMove(sc, order) {
			m.Stuck++
		}
	}
	return m
}

// KnownMembers lists the members that have a live session, or of which the registry
// knows that they are cordoned, draining or ineligible, sorted.
func (g *Registry) KnownMembers() []string {
	known := map[string]bool{}
	for _, ids := range [][]string{sortedKeys(g.members), sortedKeys(g.cordoned), sortedKeys(g.draining), sortedKeys(g.observed)} {
		for _, id := range ids {
			known[id] = true
		}
	}
	return sortedKeys(known)
}

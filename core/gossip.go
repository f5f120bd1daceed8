package core

import (
	"slices"
	"time"

	"github.com/omnirelay/leadership/core/logpb"
	"github.com/omnirelay/leadership/core/plant"
)

// Gossip is advice. Every replica keeps what its own gossip says of members, so that a
// new registrar knows it at once; only the registrar acts on it, and only so:
//
//   - what speaks against electing a member goes into the log, and out of it when gossip
//     says otherwise or the member is heard of;
//   - a member that is suspected is noted silent at once, as it would be a little later:
//     a scope with failover fast moves on, a lease does not;
//   - what members claim to lead is compared with the log.
//
// What a member says itself, by a keepalive or by opening a session, is worth more than
// what others say of it, from the moment at which it is heard.
type gossip struct {
	members  map[string]*gossiped
	adviseAt Time
	lookedAt Time
	// Of the office: how often this registrar may say something against members.
	allowed allowance
	// strangers bounds the same for members without a session.
	strangers allowance
	clearedAt Time // when it was last proposed to clear what gossip has forgotten
}

// gossiped is what gossip says of one member.
type gossiped struct {
	health      Health
	since       Time // when this health was told first
	unsupported bool
	heardAt     Time
	// proposed is what was last proposed of it in this office, at proposedAt; goneAt when
	// it was last reported gone.
	proposed   Observation
	proposedAt Time
	goneAt     Time
}

// The registrar looks at what gossip says every adviseEvery while anything of it speaks
// against a member, and says at most adviceBurst things against members at once and
// four a second more.
const (
	adviseEvery = 100 * time.Millisecond
	adviceBurst = 256
)

func newGossip() gossip {
	return gossip{members: map[string]*gossiped{}, adviseAt: Never, lookedAt: minTime}
}

// receiveGossip takes what gossip says of a member.
func (r *Replica) receiveGossip(n *GossipNews) {
	if CheckMemberID("memberId", n.MemberID) != nil || n.Health > HealthLeft {
		return
	}
	if n.ClaimsFor > 0 {
		r.claims.hear(r.now, r.registry, n.MemberID, saneClaims(n.Claims), n.ClaimsFor)
	}
	had := r.gossip.healthOf(n.MemberID)
	m := r.gossip.tell(r.now, n)
	if m != nil && m.health != had && (m.health == HealthSuspect || m.health == HealthDead) {
		r.suspectMember(n.MemberID, 0)
	}
	r.stirAdvice()
}

// stirAdvice has what gossip says looked at again.
func (r *Replica) stirAdvice() {
	if len(r.gossip.members) > 0 || len(r.registry.observed) > 0 {
		// Many entries in a row are looked at together.
		r.gossip.adviseAt = min(r.gossip.adviseAt, max(r.now, r.gossip.lookedAt.Add(adviseEvery/4)))
	}
}

// saneClaims are the claims that the log could know.
func saneClaims(claims []Claim) []Claim {
	claims = claims[:min(len(claims), MaxClaims)]
	return slices.DeleteFunc(slices.Clone(claims), func(c Claim) bool { return c.Fence == 0 || ParseScopeID(c.Scope) != nil })
}

func (p *gossip) healthOf(member string) Health {
	if m := p.members[member]; m != nil {
		return m.health
	}
	return HealthUnknown
}

// tell keeps the news; nil when there is nothing to keep.
func (p *gossip) tell(now Time, n *GossipNews) *gossiped {
	if n.Health == HealthUnknown && !n.Unsupported {
		delete(p.members, n.MemberID)
		return nil
	}
	m := p.members[n.MemberID]
	if m == nil {
		if len(p.members) >= MaxGossipMembers {
			p.evict()
		}
		m = &gossiped{since: now, proposedAt: minTime, goneAt: minTime}
		p.members[n.MemberID] = m
	}
	if m.health != n.Health {
		m.health, m.since = n.Health, now
	}
	m.unsupported, m.heardAt = n.Unsupported, now
	return m
}

// evict forgets the member that was told of longest ago, one with nothing against it
// before others.
func (p *gossip) evict() {
	victim := ""
	for _, id := range sortedKeys(p.members) {
		if victim == "" || p.members[id].before(p.members[victim]) {
			victim = id
		}
	}
	delete(p.members, victim)
}

func (m *gossiped) against() bool {
	return m.unsupported || m.health == HealthDead || m.health == HealthLeft
}

func (m *gossiped) before(o *gossiped) bool {
	if m.against() != o.against() {
		return o.against()
	}
	return m.heardAt < o.heardAt
}

// suspectMember has the live sessions of a member noted after a grace.
func (r *Replica) suspectMember(member string, grace time.Duration) {
	if !r.officeOpen || r.registry.LiveSessions(member) == 0 {
		return
	}
	for _, id := range r.registry.sessionsOf(member) {
		r.keeper.Suspect(r.now, id, grace)
		if r.cfg.Plants.Has(plant.GossipRevokesLease) && r.gossip.healthOf(member) == HealthDead {
			r.keeper.plantRevoke(r.now, id)
		}
	}
}

// suspicionGrace is how long a member whose connection broke has to be heard of by
// another before its session is noted.
func suspicionGrace(ttl time.Duration) time.Duration { return ttl / 20 }

// suspectSession has one session noted after the grace of a broken connection.
func (r *Replica) suspectSession(id SessionID) {
	if s := r.registry.sessions[id]; s != nil {
		r.suspectAfter(id, suspicionGrace(durationOf(s.ttl)))
	}
}

func (r *Replica) suspectAfter(id SessionID, grace time.Duration) {
	if r.officeOpen {
		r.keeper.Suspect(r.now, id, grace)
	}
}

// brokeOff tells the registrar of a member's connection that broke off.
func (r *Replica) brokeOff(conn ConnID) {
	for _, id := range r.attached.detach(conn) {
		switch {
		case r.registry.sessions[id] == nil:
		case r.leading:
			r.suspectSession(id)
		case r.lead != 0 && r.registry.Version() >= adviceVersion: // others do not know the message
			r.out.Messages = append(r.out.Messages, Message{From: r.cfg.ID, To: r.lead, Suspicion: &Suspicion{Session: id}})
		}
	}
}

// nodeUnreachable suspects the member of a node that cannot be reached.
func (r *Replica) nodeUnreachable(n NodeID) {
	member := r.cfg.voterName(n)
	if node := r.registry.nodes[n]; node != nil && node.Name != "" {
		member = node.Name
	}
	if r.registry.LiveSessions(member) > 0 {
		// Unlike a member whose stream broke it sends nothing anew: the time of a keepalive.
		for _, id := range r.registry.sessionsOf(member) {
			r.suspectAfter(id, nextWord(r.registry, member))
		}
	}
}

// claimed takes what a session claims by a keepalive.
func (r *Replica) claimed(k *KeepaliveForward) {
	claims := saneClaims(k.Claims)
	if s := r.registry.sessions[k.Session]; s != nil {
		r.claims.hearItself(r.now, r.registry, s.member, claims, durationOf(s.ttl))
		return
	}
	if member := r.claims.former.memberOf(k.Session, claims); member != "" {
		// Its TTL is not known any more.
		r.claims.hear(r.now, r.registry, member, claims, max(r.cfg.ElectionTimeout, durationOf(r.registry.longestTTL)))
	}
}

// beginAdvice starts an office with what gossip has said before. A member that was
// suspected then has the time of a keepalive to be heard of.
func (r *Replica) beginAdvice() {
	r.gossip.allowed = newAllowance(r.now, adviceBurst, time.Second/4)
	r.gossip.strangers = newAllowance(r.now, MaxObservations, time.Minute)
	r.gossip.clearedAt = minTime
	r.claims.begin(r.now, r.registry)
	for _, id := range sortedKeys(r.gossip.members) {
		m := r.gossip.members[id]
		m.proposedAt, m.goneAt = minTime, minTime
		if m.health == HealthSuspect || m.health == HealthDead {
			for _, s := range r.registry.sessionsOf(id) {
				r.keeper.Suspect(r.now, s, KeepaliveInterval(durationOf(r.registry.sessions[s].ttl)))
			}
		}
	}
	r.stirAdvice()
}

// adviceDeadline is when advise has something to look at.
func (r *Replica) adviceDeadline() Time {
	if !r.officeOpen || r.registry.Version() < adviceVersion {
		return Never
	}
	return min(r.gossip.adviseAt, r.claims.next)
}

// advise is the registrar's duty to put into the log what gossip says.
func (r *Replica) advise() {
	if r.now < r.adviceDeadline() {
		return
	}
	reports := r.claims.due(r.now, r.registry)
	if r.now >= r.gossip.adviseAt {
		r.gossip.adviseAt, r.gossip.lookedAt = Never, r.now
		r.observeMembers()
		reports = append(reports, r.goneLeaders(MaxObservations-len(reports))...)
	}
	if len(reports) > 0 {
		r.requests.enqueue(r.own(&logpb.Command{Kind: &logpb.Command_ReportSplitBrain{ReportSplitBrain: &logpb.ReportSplitBrain{Reports: reports}}}))
	}
}

// adviceVersion is the protocol version from which on the log knows of gossip.
const adviceVersion = 3

// observeMembers proposes what differs between gossip and the log.
func (r *Replica) observeMembers() {
	var news []*logpb.Observation
	forgotten := r.gossip.clearedAt == minTime || r.now >= r.gossip.clearedAt.Add(r.cfg.ElectionTimeout)
	for _, id := range r.adviseOn() {
		want, have := r.wanted(id), r.registry.observation(id)
		if want != have || r.registry.LiveSessions(id) > 0 {
			r.gossip.adviseAt = r.now.Add(adviseEvery)
		}
		if want == have || len(news) == MaxObservations {
			continue
		}
		m := r.gossip.members[id]
		if m != nil && m.proposed == want && r.now < m.proposedAt.Add(r.cfg.ElectionTimeout) {
			continue // it is on its way
		}
		if want.Ineligible() != "" && !r.mayAdvise(id) || m == nil && !forgotten {
			continue
		}
		if m != nil {
			m.proposed, m.proposedAt = want, r.now
		} else {
			r.gossip.clearedAt = r.now
		}
		news = append(news, want.toProto())
	}
	if len(news) > 0 {
		r.requests.enqueue(r.own(&logpb.Command{Kind: &logpb.Command_ObserveMembers{ObserveMembers: &logpb.ObserveMembers{Members: news}}}))
	}
}

// mayAdvise reports whether something more may be said against a member.
func (r *Replica) mayAdvise(id string) bool {
	_, known := r.registry.observed[id]
	switch {
	case !known && len(r.registry.observed) >= MaxGossipMembers:
		return false
	case r.registry.LiveSessions(id) == 0 && !r.gossip.strangers.take(r.now):
		return false
	}
	return r.gossip.allowed.take(r.now)
}

// adviseOn lists the members against which gossip or the log says something.
func (r *Replica) adviseOn() []string {
	ids := sortedKeysWhere(r.gossip.members, (*gossiped).against)
	for _, id := range sortedKeys(r.registry.observed) {
		if m := r.gossip.members[id]; m == nil || !m.against() {
			ids = append(ids, id)
		}
	}
	slices.Sort(ids)
	return ids
}

// wanted is what the log should say of a member. That it is dead or left is said only of
// one that could be elected: it has a live session, and is not heard of.
func (r *Replica) wanted(id string) Observation {
	o := Observation{MemberID: id, Health: HealthAlive}
	m := r.gossip.members[id]
	if m == nil {
		return o
	}
	o.Unsupported = m.unsupported
	said := m.health == HealthDead || m.health == HealthLeft
	live := r.registry.LiveSessions(id) > 0
	if said && (live && !r.heardSince(id, m.since) || !live && r.registry.observation(id).Health == m.health) {
		o.Health = m.health
	}
	return o
}

// heardSince reports whether a member was heard of after a moment, in any of its sessions.
func (r *Replica) heardSince(member string, since Time) bool {
	return slices.ContainsFunc(r.registry.sessionsOf(member), func(id SessionID) bool {
		return r.keeper.HeardSince(r.now, id, since)
	})
}

// goneLeaders reports those that gossip calls dead or left, that were not heard of for as
// long as a session may be silent before it is noted, and that lead by the log.
func (r *Replica) goneLeaders(limit int) (reports []*logpb.SplitBrain) {
	for _, id := range sortedKeysWhere(r.gossip.members, (*gossiped).against) {
		m := r.gossip.members[id]
		if len(reports) >= limit || r.claims.silent {
			return reports
		}
		if !r.gone(id, m) || r.now < m.goneAt.Add(reportRetry) && m.goneAt != minTime {
			continue
		}
		session, _ := r.registry.SessionOf(id)
		if r.registry.history.reported(incident{reason: SplitBrainLeaderGone, member: id, session: uint64(session)}) || !r.claims.allowed.take(r.now) {
			continue
		}
		m.goneAt = r.now
		reports = append(reports, &logpb.SplitBrain{MemberId: id, Reason: SplitBrainLeaderGone})
	}
	return reports
}

func (r *Replica) gone(id string, m *gossiped) bool {
	if m.health != HealthDead && m.health != HealthLeft || r.registry.LiveSessions(id) == 0 || r.heardSince(id, m.since) {
		return false
	}
	return slices.ContainsFunc(r.registry.sessionsOf(id), func(s SessionID) bool {
		t := r.registry.sessions[s]
		return len(t.leads) > 0 && r.now >= m.since.Add(NoteAfter(durationOf(t.ttl)))
	})
}

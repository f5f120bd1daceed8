package core

import (
	"cmp"
	"slices"
	"time"

	"github.com/omnirelay/leadership/core/logpb"
	"github.com/omnirelay/leadership/core/plant"
)

// splitBrain finds members that claim to lead what they do not, by the log.
//
// A claim is what a member said it believes, and lives only as long as the member may
// believe without a further word. Most claims agree with the log. One that does not is
// rarely a split-brain: what was said may be late, and the log of this replica may be
// behind the member's. So how the claimed leadership ended decides how often the claim
// must be heard again:
//
//   - given up by its holder, which stopped first, or run out: old news, unless it is
//     repeated for longer than the claim could live;
//   - of a fence that the log does not know: late news, or a log that is behind, unless it
//     is repeated after an election timeout;
//   - taken away on suspicion, with failover fast: the holder may well believe, or be dead.
//     It counts when it is heard of after its next keepalive was due.
//
// Every replica keeps what it hears; only the registrar reports.
type splitBrain struct {
	persist time.Duration // how long a claim must be repeated that may be late
	silent  bool          // plant DetectorSilent
	former  formerLeaders
	byScope map[string][]*heardClaim
	members map[string]*claimant
	count   int
	wrong   map[string]int // by scope: how many claims the log contradicts
	next    Time
	// Of the office: how often this registrar may report at all.
	allowed allowance
}

// claimant is a member that claims something.
type claimant struct {
	claims  []*heardClaim
	allowed allowance
}

// heardClaim is one claim of one member.
type heardClaim struct {
	Claim
	member  string
	heardAt Time          // the latest time
	life    time.Duration // the longest it was said to live
	until   Time
	// keptUntil is how long it is remembered that it was heard: who leads much tells of it
	// in turn, and each word may run out before the next.
	keptUntil Time
	// wrong says that the log contradicts it, since wrongSince as this replica saw it.
	wrong      bool
	wrongSince Time
	end        leaderEnd
	// told is the reason for which it was proposed to report it, at toldAt.
	told   string
	toldAt Time
}

// Split-brains are reported at most reportBurst at once and one a second more, and of
// one claimant at most claimantBurst and one in 10 s more: who claims what it likes
// cannot fill the log. What the log did not take is proposed again after reportRetry.
const (
	reportBurst   = 256
	claimantBurst = 64
	reportRetry   = 2 * time.Second
)

func newSplitBrain(persist time.Duration, p plant.Set) *splitBrain {
	return &splitBrain{
		persist: persist, silent: p.Has(plant.DetectorSilent), former: newFormerLeaders(),
		byScope: map[string][]*heardClaim{}, members: map[string]*claimant{}, wrong: map[string]int{}, next: Never,
	}
}

// adopt begins anew with the records that a registry keeps.
func (d *splitBrain) adopt(now Time, g *Registry) {
	d.former = newFormerLeaders()
	for _, r := range g.History().records {
		d.former.follow(r)
	}
	d.weighAll(now, g)
}

// begin starts an office: what contradicts the log does so from now on.
func (d *splitBrain) begin(now Time, g *Registry) {
	d.allowed = newAllowance(now, reportBurst, time.Second)
	for _, scope := range sortedKeys(d.byScope) {
		for _, c := range d.byScope[scope] {
			if c.wrong {
				d.agree(c)
				c.told = ""
			}
		}
	}
	d.weighAll(now, g)
}

func (d *splitBrain) weighAll(now Time, g *Registry) {
	for _, scope := range sortedKeys(d.byScope) {
		d.weigh(now, g, scope)
	}
}

// hearItself takes what a member claims by a keepalive. Fewer than MaxClaims are all that it
// claims, unless two processes go by its name. What gossip says may be late: by that
// nothing is withdrawn.
func (d *splitBrain) hearItself(now Time, g *Registry, member string, claims []Claim, life time.Duration) {
	if m := d.members[member]; m != nil && len(claims) < MaxClaims && g.LiveSessions(member) < 2 {
		d.withdraw(m, claims)
	}
	d.take(now, g, member, claims, min(life, MaxTTL), maxTurns)
}

// Of a member that claims all that a replica keeps of one, each comes round in maxTurns
// keepalives at the latest. maxFences bounds the fences under which one member is heard to
// claim one scope: it leads it under one.
const (
	maxTurns  = MaxMemberClaims / MaxClaims
	maxFences = 8
)

// hear takes what a member is heard to claim, for as long as it may believe it.
func (d *splitBrain) hear(now Time, g *Registry, member string, claims []Claim, life time.Duration) {
	if life <= 0 {
		return
	}
	d.take(now, g, member, claims, min(life, MaxTTL), 1)
}

// take keeps claims, and remembers each for so many lives.
func (d *splitBrain) take(now Time, g *Registry, member string, claims []Claim, life time.Duration, lives int64) {
	scopes := make(map[string]bool, len(claims))
	for _, c := range claims[:min(len(claims), MaxClaims)] {
		h := d.heard(now, member, c)
		if h == nil {
			continue
		}
		if h.keptUntil <= now {
			d.agree(h) // the former word is forgotten: this is no repetition of it
		}
		h.heardAt, h.life, h.until = now, max(h.life, life), max(h.until, now.Add(life))
		h.keptUntil = max(h.keptUntil, now.Add(min(time.Duration(lives)*life, MaxTTL)))
		scopes[c.Scope] = true
	}
	for _, scope := range sortedKeys(scopes) {
		if d.weigh(now, g, scope); d.wrong[scope] > 0 {
			d.next = now
		}
	}
}

// withdraw drops what a member claims no more.
func (d *splitBrain) withdraw(m *claimant, all []Claim) {
	m.claims = slices.DeleteFunc(m.claims, func(h *heardClaim) bool {
		if slices.Contains(all, h.Claim) {
			return false
		}
		d.drop(h)
		return true
	})
}

// heard finds or makes the place of a claim; nil when there is none left.
func (d *splitBrain) heard(now Time, member string, c Claim) *heardClaim {
	var oldest *heardClaim
	fences := 0
	for _, h := range d.byScope[c.Scope] {
		switch {
		case h.member != member:
		case h.Fence == c.Fence:
			return h
		default:
			if fences++; oldest == nil || h.heardAt < oldest.heardAt {
				oldest = h
			}
		}
	}
	m := d.members[member]
	if fences >= maxFences {
		m.claims = slices.DeleteFunc(m.claims, func(h *heardClaim) bool { return h == oldest })
		d.drop(oldest)
	}
	if m != nil && len(m.claims) >= MaxMemberClaims {
		d.makeRoom(now, m)
	}
	if d.count >= MaxHeardClaims {
		d.sweep(now)
	}
	if d.count >= MaxHeardClaims {
		return nil
	}
	if m == nil {
		m = &claimant{allowed: newAllowance(now, claimantBurst, 10*time.Second)}
		d.members[member] = m
	}
	h := &heardClaim{Claim: c, member: member}
	m.claims = append(m.claims, h)
	d.byScope[c.Scope] = append(d.byScope[c.Scope], h)
	d.count++
	return h
}

// makeRoom drops a member's claims that are forgotten, or, when none is, the one that will
// be first.
func (d *splitBrain) makeRoom(now Time, m *claimant) {
	first := m.claims[0]
	for _, h := range m.claims {
		if h.keptUntil < first.keptUntil {
			first = h
		}
	}
	d.expire(max(now, first.keptUntil), m)
}

// expire drops a member's claims that are forgotten.
func (d *splitBrain) expire(now Time, m *claimant) {
	m.claims = slices.DeleteFunc(m.claims, func(h *heardClaim) bool {
		if h.keptUntil > now {
			return false
		}
		d.drop(h)
		return true
	})
}

// sweep drops all claims that are forgotten.
func (d *splitBrain) sweep(now Time) {
	for _, id := range sortedKeys(d.members) {
		m := d.members[id]
		d.expire(now, m)
		if len(m.claims) == 0 && m.allowed.full(now) {
			delete(d.members, id)
		}
	}
}

// drop takes a claim out of everything but its member's list.
func (d *splitBrain) drop(h *heardClaim) {
	kept := slices.DeleteFunc(d.byScope[h.Scope], func(o *heardClaim) bool { return o == h })
	if len(kept) == 0 {
		delete(d.byScope, h.Scope)
	} else {
		d.byScope[h.Scope] = kept
	}
	d.count--
	d.agree(h)
}

// agree takes back that the log contradicts a claim.
func (d *splitBrain) agree(h *heardClaim) {
	if !h.wrong {
		return
	}
	h.wrong = false
	if d.wrong[h.Scope]--; d.wrong[h.Scope] == 0 {
		delete(d.wrong, h.Scope)
	}
}

// follow takes in what an entry changed.
func (d *splitBrain) follow(now Time, g *Registry, records []*Record) {
	for _, r := range records {
		d.former.follow(r)
	}
	for _, r := range records {
		if k := EventKind(r.Kind); k == EventElected || k.EndsLeadership() {
			d.weigh(now, g, r.Scope)
		}
	}
}

// weigh compares the claims on a scope with the log.
func (d *splitBrain) weigh(now Time, g *Registry, scope string) {
	leader, led := g.Token(scope)
	for _, h := range d.byScope[scope] {
		if led && leader.Fence == h.Fence && leader.LeaderID == h.member {
			d.agree(h)
			continue
		}
		if !h.wrong {
			h.wrong, h.wrongSince = true, now
			d.wrong[scope]++
		}
		h.end = d.former.how(h.member, h.Claim)
	}
}

// due returns what is to be reported now, at most MaxObservations of it.
func (d *splitBrain) due(now Time, g *Registry) (reports []*logpb.SplitBrain) {
	if now < d.next || d.silent {
		return nil
	}
	d.next = Never
	for _, scope := range sortedKeys(d.wrong) {
		reason := SplitBrainUnknownClaimant
		if d.leaderClaims(now, g, scope) {
			reason = SplitBrainTwoClaimants
		}
		for _, h := range d.inOrder(scope) {
			if now >= h.keptUntil {
				d.expire(now, d.members[h.member])
				continue
			}
			if !h.wrong || now >= h.until || h.heardAt < h.wrongSince.Add(d.repeated(g, h)) {
				continue // it is looked at when it is heard again
			}
			if len(reports) == MaxObservations {
				d.next = now
				return reports
			}
			if d.mayReport(now, g, h, reason) {
				reports = append(reports, &logpb.SplitBrain{Scope: h.Scope, MemberId: h.member, Fence: h.Fence, Reason: reason})
			}
		}
	}
	return reports
}

// inOrder lists the claims on a scope by member and fence, whatever was heard first.
func (d *splitBrain) inOrder(scope string) []*heardClaim {
	all := slices.Clone(d.byScope[scope])
	slices.SortFunc(all, func(a, b *heardClaim) int {
		return cmp.Or(cmp.Compare(a.member, b.member), cmp.Compare(a.Fence, b.Fence))
	})
	return all
}

// repeated is for how long a claim must be heard that the log contradicts.
func (d *splitBrain) repeated(g *Registry, h *heardClaim) time.Duration {
	switch h.end {
	case endGivenUp, endRunOut:
		return max(h.life, d.persist)
	case endSuspected:
		return cmp.Or(nextWord(g, h.member), d.persist)
	}
	return d.persist
}

// nextWord is by when a member that is in reach has sent a keepalive, with what it claims by
// then.
func nextWord(g *Registry, member string) (wait time.Duration) {
	for _, id := range g.sessionsOf(member) {
		ttl := durationOf(g.sessions[id].ttl)
		wait = max(wait, KeepaliveInterval(ttl)+suspicionGrace(ttl))
	}
	return wait
}

// leaderClaims reports whether the leader in the log is heard to claim a scope.
func (d *splitBrain) leaderClaims(now Time, g *Registry, scope string) bool {
	leader, led := g.Token(scope)
	return led && slices.ContainsFunc(d.byScope[scope], func(o *heardClaim) bool {
		return o.member == leader.LeaderID && o.Fence == leader.Fence && now < o.until
	})
}

// mayReport reports whether a split-brain is news, and within what may be reported.
func (d *splitBrain) mayReport(now Time, g *Registry, h *heardClaim, reason string) bool {
	for _, told := range []string{reason, SplitBrainTwoClaimants} { // which says more
		if g.history.reported(incident{reason: told, scope: h.Scope, member: h.member, fence: h.Fence}) {
			return false
		}
	}
	if h.told == reason && now < h.toldAt.Add(reportRetry) {
		d.next = min(d.next, h.toldAt.Add(reportRetry))
		return false
	}
	m := d.members[h.member]
	if !m.allowed.take(now) {
		return false // its own excess must cost nobody else's
	}
	if !d.allowed.take(now) {
		m.allowed.left++
		d.next = min(d.next, now.Add(time.Second))
		return false
	}
	h.told, h.toldAt = reason, now
	return true
}

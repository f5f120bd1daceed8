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
//   - given up by its holder, which stopped first: old news, unless it is repeated for
//     longer than the claim could live;
//   - run out, or of a fence that the log does not know: late news, or a log that is
//     behind, unless it is repeated after an election timeout;
//   - taken away on suspicion, with failover fast: the holder may well believe, and what it
//     said before counts, unless its next keepalive says that it knows.
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
	d.hear(now, g, member, claims, life)
}

// hear takes what a member is heard to claim, for as long as it may believe it.
func (d *splitBrain) hear(now Time, g *Registry, member string, claims []Claim, life time.Duration) {
	if life <= 0 {
		return
	}
	life = min(life, MaxTTL)
	for _, c := range claims[:min(len(claims), MaxClaims)] {
		if h := d.heard(now, member, c); h != nil {
			if h.until <= now {
				d.agree(h) // the former word has run out: this is no repetition of it
			}
			h.heardAt, h.life, h.until = now, max(h.life, life), max(h.until, now.Add(life))
			d.weigh(now, g, c.Scope)
			if d.wrong[c.Scope] > 0 {
				d.next = now
			}
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
	for _, h := range d.byScope[c.Scope] {
		if h.member == member && h.Fence == c.Fence {
			return h
		}
	}
	m := d.members[member]
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

// makeRoom drops a member's claims that live no more, or, when all do, the one that ends
// first.
func (d *splitBrain) makeRoom(now Time, m *claimant) {
	first := m.claims[0]
	for _, h := range m.claims {
		if h.until < first.until {
			first = h
		}
	}
	d.expire(max(now, first.until), m)
}

// expire drops a member's claims that live no more.
func (d *splitBrain) expire(now Time, m *claimant) {
	m.claims = slices.DeleteFunc(m.claims, func(h *heardClaim) bool {
		if h.until > now {
			return false
		}
		d.drop(h)
		return true
	})
}

// sweep drops all claims that live no more.
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
		if h.end = d.former.how(h.member, h.Claim); h.end == endSuspected {
			d.next = now // the others are looked at when they are heard again
		}
	}
}

// due returns what is to be reported now, at most MaxObservations of it.
func (d *splitBrain) due(now Time, g *Registry) (reports []*logpb.SplitBrain) {
	if now < d.next || d.silent {
		return nil
	}
	d.next = Never
	for _, scope := range sortedKeys(d.wrong) {
		for _, h := range d.inOrder(scope) {
			if now >= h.until {
				d.expire(now, d.members[h.member])
				continue
			}
			if !h.wrong {
				continue
			}
			reason, at := d.judge(now, g, h)
			if reason == "" || now < at {
				d.next = min(d.next, at)
				continue
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

// judge says why a claim that the log contradicts is a split-brain, and from when on. An
// empty reason: only hearing it again makes it one.
func (d *splitBrain) judge(now Time, g *Registry, h *heardClaim) (reason string, at Time) {
	reason = SplitBrainUnknownClaimant
	if d.leaderClaims(now, g, h) {
		reason = SplitBrainTwoClaimants
	}
	repeated := d.persist
	switch {
	case h.end == endSuspected && reason == SplitBrainTwoClaimants:
		return reason, h.wrongSince.Add(nextWord(g, h.member))
	case h.end == endSuspected:
		return reason, h.wrongSince.Add(d.persist) // the successor's first claim is on its way
	case h.end == endGivenUp:
		repeated = max(h.life, d.persist)
	}
	if h.heardAt < h.wrongSince.Add(repeated) {
		return "", Never
	}
	return reason, h.heardAt
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

// leaderClaims reports whether the leader in the log is heard to claim the scope as well.
func (d *splitBrain) leaderClaims(now Time, g *Registry, h *heardClaim) bool {
	leader, led := g.Token(h.Scope)
	return led && slices.ContainsFunc(d.byScope[h.Scope], func(o *heardClaim) bool {
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
	if !d.allowed.take(now) || !m.allowed.take(now) {
		d.next = min(d.next, now.Add(time.Second))
		return false
	}
	h.told, h.toldAt = reason, now
	return true
}

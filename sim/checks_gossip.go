package sim

import (
	"slices"
	"time"

	"github.com/omnirelay/leadership/core"
	"github.com/omnirelay/leadership/core/logpb"
)

// reportWithin is how long a registrar may take to report a split-brain that it hears of.
const reportWithin = 3 * time.Second

// checkEligible looks at who was elected by the entry that g applied, if that is one more
// than the reference has.
func (w *World) checkEligible(g *core.Registry, tokens []core.Token) {
	ref := &w.checks.reference
	before := ref.barred
	ref.barred, ref.unsupported = map[string]bool{}, map[string]bool{}
	for _, id := range g.Cordoned() {
		ref.barred[id] = true
	}
	for _, o := range g.Observed() {
		ref.barred[o.MemberID] = true
		ref.unsupported[o.MemberID] = o.Unsupported
	}
	if g.Revision() != ref.revision+1 || slices.ContainsFunc(w.checks.chronicle.Commands(g.Revision()), changesEligibility) {
		return
	}
	for _, t := range tokens {
		if t.Fence != ref.leaders[t.Scope].Fence {
			w.checks.eligible.Elected(w.now, t, before[t.LeaderID] && ref.barred[t.LeaderID])
		}
	}
}

func changesEligibility(c *logpb.Command) bool {
	return c.GetCordon() != nil || c.GetObserveMembers() != nil || c.GetOpenSession() != nil
}

// sessionLost looks at a session that a member lost: whether anything explains it.
func (w *World) sessionLost(m *member, c *core.MemberChange) {
	if w.checks.kept == nil || w.relocated(c.Session) || m.closing {
		return
	}
	long := w.now - 2*int64(core.DefaultMaxElectionWindow)
	well := false
	for i := range w.health.majorities {
		maj := &w.health.majorities[i]
		well = well || maj.members[m.index] <= long
	}
	if well && w.officeSince() <= long && w.health.troubled <= long {
		w.checks.kept.Lost(w.now, m.processName(), c.Session, c.Reason)
	}
}

// officeSince is since when a healthy registrar is in office; never: there is none.
func (w *World) officeSince() int64 {
	if w.health.office.replica == 0 {
		return never
	}
	return w.health.officeSince
}

// claimsHeard holds a member's claims, as they come to a replica, against the reference.
func (c *checks) claimsHeard(r *replica, m *member, claims []core.Claim, life time.Duration) {
	w := c.w
	if c.splitBrain == nil || w.health.office.replica != r.id || !r.up || life <= 0 {
		return
	}
	for _, claim := range claims {
		leader, led := c.reference.leaders[claim.Scope]
		t, believes := m.believes(claim.Scope)
		at, suspected := c.suspected[claim.Fence]
		if !led || leader.Fence <= claim.Fence || !suspected || !believes || t.Fence != claim.Fence {
			continue
		}
		if w.now > at+int64(200*ms) { // the registrar has applied it
			// Its next keepalive was due long ago.
			c.splitBrain.Heard(w.now, w.health.officeSince, m.member, claim, life, w.scenario.TTL.D()/4+200*ms)
		}
	}
}

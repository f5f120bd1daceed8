package sim

import (
	"fmt"
	"slices"
	"time"

	"github.com/omnirelay/leadership/core"
	"github.com/omnirelay/leadership/core/logpb"
	"github.com/omnirelay/leadership/sim/check"
)

// checks feeds the checkers with what the world sees.
type checks struct {
	w      *World
	stopAt []check.Property

	violations []check.Violation // the first of each property

	chronicle *check.Chronicle
	reference reference
	heardAt   map[core.SessionID]int64 // when a keepalive last reached a replica
	suspected map[uint64]int64         // by fence: when its leadership ended on suspicion

	exclusive     *check.ExclusiveLease // nil when clocks may break their promise
	holder        *check.HolderIsLeader // likewise
	resurrection  *check.NoResurrection // likewise
	bounded       *check.BoundedExpiry  // likewise
	sla           *check.ElectionSLA    // likewise
	fences        *check.FenceMonotonic
	noStaleEffect *check.NoStaleEffect
	agreement     *check.Agreement
	durable       *check.Durable
	exactlyOnce   *check.ExactlyOnce
	liveOnly      *check.LiveSessionOnly
	eligible      *check.EligibleOnly
	kept          *check.KeptSession        // nil as bounded is, and without gossip
	splitBrain    *check.SplitBrainReported // likewise
	linearizable  *check.Linearizable
	orderly       *check.OrderlyNodes
}

// expirySlack is what BoundedExpiry allows for flight and commit in one office. Over
// an external store a call may have been lost just before the office was untouched,
// and is repeated when it was waited for.
func (w *World) expirySlack() time.Duration {
	if w.store != nil {
		return 500*time.Millisecond + core.DefaultElectionTimeout
	}
	return 500 * time.Millisecond
}

// orderTimeout is how long an order of one scope's history is looked for, in real
// time. A run has some hundred operations on a scope, which takes milliseconds.
const orderTimeout = 20 * time.Second

func newChecks(w *World, stopAt []check.Property) *checks {
	c := &checks{w: w, stopAt: stopAt, chronicle: check.NewChronicle(), reference: newReference(), heardAt: map[core.SessionID]int64{},
		suspected: map[uint64]int64{}}
	report := check.Report(c.violated)
	c.fences = check.NewFenceMonotonic(report)
	c.noStaleEffect = check.NewNoStaleEffect(report)
	c.agreement = check.NewAgreement(report, c.chronicle)
	c.durable = check.NewDurable(report, c.chronicle)
	c.exactlyOnce = check.NewExactlyOnce(report)
	c.liveOnly = check.NewLiveSessionOnly(report)
	c.eligible = check.NewEligibleOnly(report)
	c.linearizable = check.NewLinearizable(report, orderTimeout)
	c.orderly = check.NewOrderlyNodes(report)
	if !w.scenario.Clocks.Beyond {
		c.exclusive = check.NewExclusiveLease(report)
		c.holder = check.NewHolderIsLeader(report)
		c.resurrection = check.NewNoResurrection(report)
	}
	if !w.scenario.Clocks.Beyond && !w.scenario.SafetyOnly {
		c.bounded = check.NewBoundedExpiry(report, w.scenario.Epsilon, w.expirySlack())
		c.sla = check.NewElectionSLA(report, core.DefaultMaxElectionWindow)
		if w.scenario.Gossip.Every > 0 {
			c.kept = check.NewKeptSession(report)
			c.splitBrain = check.NewSplitBrainReported(report, reportWithin)
		}
	}
	return c
}

// violated keeps the first violation of each property and ends the run at the
// one it is to stop at.
func (c *checks) violated(v check.Violation) {
	for i := range c.violations {
		if c.violations[i].Property == v.Property {
			return
		}
	}
	c.violations = append(c.violations, v)
	if len(c.stopAt) == 0 || slices.Contains(c.stopAt, v.Property) {
		c.w.over = true
	}
}

// reference is the registry as it stands at the highest revision that any
// replica has applied.
type reference struct {
	revision uint64
	leaders  map[string]core.Token
	names    []string // of the declared scopes, sorted
	scopes   map[string]*declared
	sessions map[core.SessionID]bool
	cordoned map[string]bool
	// barred are the members that may not be elected, unsupported those of them for what
	// only gossip can take back.
	barred, unsupported map[string]bool
}

// declared is a scope that the registry knows.
type declared struct {
	spec     *logpb.ScopeSpec
	since    int64 // true time at which it was seen first
	retiring bool
}

func newReference() reference {
	return reference{leaders: map[string]core.Token{}, scopes: map[string]*declared{}, sessions: map[core.SessionID]bool{}, cordoned: map[string]bool{},
		barred: map[string]bool{}, unsupported: map[string]bool{}}
}

// observe compares what a replica has applied by now with the others.
func (w *World) observe(r *replica) {
	if r.core == nil {
		return
	}
	g := r.core.Registry()
	revision := g.Revision()
	if revision == r.observed || w.lost(revision) {
		return
	}
	for i := max(r.observed+1, w.relocatedAt); i <= revision; i++ {
		if e := r.entry(i); e != nil {
			w.checks.agreement.Applied(w.now, r.id, e)
		}
	}
	hash := g.Hash()
	w.digest.bytes(hash[:])
	w.checks.agreement.State(w.now, r.id, revision, hash)
	tokens, sessions := g.Tokens(), g.Sessions()
	if revision > w.checks.reference.revision {
		w.advance(r, g, tokens, sessions)
	}
	live := make([]core.SessionID, len(sessions))
	for i := range sessions {
		live[i] = sessions[i].ID
	}
	w.checks.liveOnly.Registry(w.now, r.id, revision, tokens, live)
	r.client.forget(revision)
	r.observed = revision
}

// advance moves the reference on to what a replica was the first to apply.
func (w *World) advance(r *replica, g *core.Registry, tokens []core.Token, sessions []core.SessionStatus) {
	ref := &w.checks.reference
	w.endSessions(ref.revision, g, sessions)
	w.checkEligible(g, tokens)
	ref.revision = g.Revision()
	w.declareScopes(g)
	clear(ref.cordoned)
	for _, m := range g.Cordoned() {
		ref.cordoned[m] = true
	}
	w.changeLeaders(tokens)
	w.nodes.follow(g, r.core.Members())
}

func (w *World) endSessions(before uint64, g *core.Registry, sessions []core.SessionStatus) {
	ref := &w.checks.reference
	live := make(map[core.SessionID]bool, len(sessions))
	for i := range sessions {
		s := &sessions[i]
		live[s.ID] = true
		if !ref.sessions[s.ID] {
			w.sessionOpened(s)
		}
	}
	ended := false
	for id := range ref.sessions {
		ended = ended || !live[id]
	}
	if ended {
		given := w.sessionsGivenUp(before+1, g.Revision())
		for _, id := range sortedSessions(ref.sessions) {
			if !live[id] {
				w.sessionEnded(id, g.Revision(), given[id])
			}
		}
	}
	ref.sessions = live
}

func (w *World) sessionOpened(s *core.SessionStatus) {
	w.tracef(s.MemberID, "session %d of %s is open", s.ID, s.MemberID)
	w.checks.heardAt[s.ID] = w.now
	if w.checks.bounded != nil {
		w.checks.bounded.Opened(w.now, s.ID, time.Duration(s.TTL))
	}
}

// sessionsGivenUp are the sessions whose end the members themselves asked for.
func (w *World) sessionsGivenUp(from, to uint64) map[core.SessionID]bool {
	given := map[core.SessionID]bool{}
	for i := max(from, w.relocatedAt); i <= to; i++ {
		for _, c := range w.checks.chronicle.Commands(i) {
			given[core.SessionID(c.GetCloseSession().GetSession())] = true
			given[core.SessionID(c.GetOpenSession().GetReplaces())] = true
		}
	}
	return given
}

func (w *World) sessionEnded(id core.SessionID, revision uint64, given bool) {
	w.checks.liveOnly.Ended(id, revision)
	if w.checks.bounded != nil {
		w.checks.bounded.Ended(id)
	}
	if given || w.relocated(id) {
		return
	}
	w.stats.Expiries++
	w.tracef("", "session %d expires at revision %d", id, revision)
	if w.checks.resurrection != nil {
		w.checks.resurrection.Expired(w.now, id)
	}
}

func (w *World) declareScopes(g *core.Registry) {
	ref := &w.checks.reference
	scopes := g.Scopes()
	ref.names = ref.names[:0]
	had := ref.scopes
	ref.scopes = make(map[string]*declared, len(scopes))
	for i := range scopes {
		s := &scopes[i]
		d := had[s.Spec.Id]
		if d == nil || d.retiring && !s.Retiring {
			d = &declared{since: w.now}
		}
		d.spec, d.retiring = s.Spec, s.Retiring
		ref.scopes[s.Spec.Id] = d
		ref.names = append(ref.names, s.Spec.Id)
	}
}

// changeLeaders looks anew at everybody's beliefs about each scope whose leader
// is another than before.
func (w *World) changeLeaders(tokens []core.Token) {
	ref := &w.checks.reference
	leaders := make(map[string]core.Token, len(tokens))
	for i := range tokens {
		leaders[tokens[i].Scope] = tokens[i]
	}
	had := ref.leaders
	ref.leaders = leaders
	for i := range tokens {
		if tokens[i].Fence != had[tokens[i].Scope].Fence {
			w.elected(tokens[i])
		}
	}
	for _, scope := range sortedTokens(had) {
		if now := leaders[scope]; now.Fence != had[scope].Fence || now.Session != had[scope].Session {
			if since := w.wellSince(had[scope].Session); since == never || w.now-since < int64(core.DefaultMaxElectionWindow) {
				w.health.failedOver[scope] = w.now
			}
			w.compareBeliefs(scope)
		}
	}
}

// elected lets a member now and then decline a scope before it was told of it, as
// one does that heard of its election from elsewhere.
func (w *World) elected(t core.Token) {
	if w.nemesis.over || w.workload.rng.IntN(25) > 0 {
		return
	}
	for _, m := range w.members {
		if m.up && m.session == t.Session {
			m.act(func(core.Time) { m.app.giveUp(t) })
		}
	}
}

// compareBeliefs holds every belief about a scope against the reference.
func (w *World) compareBeliefs(scope string) {
	if w.checks.holder == nil {
		return
	}
	leader, led := w.checks.reference.leaders[scope]
	for _, m := range w.members {
		if t, ok := m.believes(scope); ok && (led || !w.relocated(t.Session)) {
			w.checks.holder.Observe(w.now, check.Belief{Process: m.processName(), Token: t}, leader, led)
		}
	}
}

// believed looks at what a member believes after its step: the only moment at
// which a belief can begin.
func (w *World) believed(m *member) {
	if w.checks.holder == nil {
		return
	}
	for _, h := range m.core.Held(m.now()) {
		scope := h.Token.Scope
		leader, led := w.checks.reference.leaders[scope]
		if led || !w.relocated(h.Token.Session) {
			w.checks.holder.Observe(w.now, check.Belief{Process: m.processName(), Token: h.Token}, leader, led)
		}
		var beliefs []check.Belief
		for _, o := range w.members {
			if t, ok := o.believes(scope); ok {
				beliefs = append(beliefs, check.Belief{Process: o.processName(), Token: t})
			}
		}
		if len(beliefs) > 1 {
			w.checks.exclusive.Observe(w.now, scope, beliefs)
		}
	}
}

// turned is called after each turn of a replica.
func (w *World) turned(r *replica) {
	w.observe(r)
	had := r.status
	w.checkNodes(r)
	r.status = r.core.Status()
	w.digest.words(uint64(r.id), r.status.RaftTerm, r.status.Applied, r.status.Committed)
	if had.IsRegistrar != r.status.IsRegistrar || had.OfficeOpen != r.status.OfficeOpen || had.RaftTerm != r.status.RaftTerm {
		w.tracef(r.name, "registrar: %v, office open: %v, term %d", r.status.IsRegistrar, r.status.OfficeOpen, r.status.RaftTerm)
		if r.status.OfficeOpen && !had.OfficeOpen {
			w.stats.Offices++
			w.healthChanged()
			w.officeOpened(r)
		}
		w.healthChanged()
	}
	for _, s := range w.subscribers {
		s.turned(r)
	}
}

func (c *checks) told(at int64, replica core.NodeID, r *core.Record) {
	if c.w.lost(r.Revision) {
		return
	}
	fresh := c.agreement.Record(at, replica, r)
	c.fences.Record(at, r)
	if fresh {
		c.exactlyOnce.Record(at, r)
		c.liveOnly.Record(at, r)
		if c.w.scenario.Spares > 0 {
			c.nodeRecord(at, r)
			if core.EventKind(r.Kind) == core.EventRegistrarMoved { // which is tried for so long
				c.w.health.handedOver = at + int64(core.DefaultMaxElectionWindow)
			}
		}
		c.linearizable.Told(at, r, c.chronicle.Term(r.Revision))
		c.w.stats.record(r)
		if r.Reason == core.ReasonSuspected {
			c.suspected[r.Fence] = at
		}
		if core.EventKind(r.Kind) == core.EventSplitBrain && c.splitBrain != nil {
			c.splitBrain.Told(r)
		}
		c.w.tracef(r.Scope, "%s %s session %d fence %d at %d.%d (%s)", core.EventKind(r.Kind), r.Scope, r.Session, r.Fence, r.Revision, r.Ordinal, r.Reason)
	}
}

func (c *checks) stored(at int64, replica core.NodeID, last, r *core.Record) {
	c.durable.Stored(at, replica, last, r)
	c.told(at, replica, r)
}

// booted checks what a replica's disk holds when its process starts.
func (c *checks) booted(at int64, r *replica) {
	var newest uint64
	if r.disk.last != nil {
		newest = r.disk.last.Seq
	}
	c.durable.Trail(at, r.id, newest, r.disk.auditedTo)
}

func (c *checks) sent(id core.SessionID, number uint64, s core.Time, clock *clock) {
	if c.resurrection != nil {
		c.resurrection.Sent(id, number, s, c.w.scenario.TTL.D(), c.w.scenario.Epsilon, clock)
	}
}

func (c *checks) acknowledged(at int64, id core.SessionID, number uint64) {
	if c.resurrection != nil {
		c.resurrection.Acknowledged(at, id, number)
	}
}

func (c *checks) heard(at int64, id core.SessionID) {
	c.heardAt[id] = at
	if c.bounded != nil {
		c.bounded.Heard(at, id)
	}
}

func (c *checks) answered(at int64, requestID string, r *core.Result) {
	if c.w.lost(r.Revision) {
		return
	}
	c.exactlyOnce.Answered(at, requestID, r)
	if core.Code(r.Code) == core.CodeOK && r.Revision > 0 {
		c.durable.Acknowledged(at, requestID, r)
	}
}

// halted is called when a replica stopped by itself. If it could not apply an
// entry that another replica has in another form, they disagree.
func (w *World) halted(r *replica, err error) {
	if r.core != nil {
		if e := r.entry(r.core.Registry().Revision() + 1); e != nil && w.checks.chronicle.Has(e.GetIndex()) {
			w.checks.agreement.Applied(w.now, r.id, e)
		}
	}
	w.checks.violated(check.Violation{Property: check.NoPanicProperty, At: w.now, Text: r.name + " halted: " + err.Error()})
}

// spun is called when a process does not sleep.
func (w *World) spun(p *process) {
	w.checks.violated(check.Violation{Property: check.NoSpinProperty, At: w.now, Text: fmt.Sprintf("%s took %d turns within %v: its deadline stays in the past", p.name, maxTurns, spinWindow)})
	w.over = true // it would go on for ever, a few microseconds at a time
}

// panicked is called when a process ended by a panic. Raft panics when it finds
// that a log lost what it had acknowledged.
func (w *World) panicked(p *process, what, stack string) {
	for _, r := range w.replicas {
		if &r.process == p && lostLog(what) {
			w.checks.durable.Lost(w.now, r.id, what)
			return
		}
	}
	w.checks.violated(check.Violation{Property: check.NoPanicProperty, At: w.now, Text: p.name + " panicked: " + what + "\n" + stack})
}

// finish compares everything once more when the run is over.
func (w *World) finish() {
	for _, r := range w.replicas {
		w.observe(r)
		w.checks.booted(w.now, r)
	}
	for _, s := range w.subscribers {
		s.finish()
	}
	w.settleNodes()
	w.checks.linearizable.Check()
}

package sim

import (
	"errors"
	"slices"
	"strings"

	"github.com/omnirelay/leadership/core"
	"github.com/omnirelay/leadership/core/plant"
	"github.com/omnirelay/leadership/sim/check"
)

// operator watches the service. When the replicas have closed the log, or one says
// that an operator must act, and the server that was superseded is gone, it jumps the
// fence after a while: the one command that starts the service again.
func (s *store) operator() {
	s.w.after(spread(s.rng, 400*ms), s.operator)
	if s.main().lead().GetClosed() == "" && !s.calledFor() {
		s.closedAt = never
		return
	}
	if s.closedAt == never {
		s.closedAt = s.w.now
		s.jumpAt = s.w.now + s.rng.Int64N(int64(5*sec))
	}
	s.mustNotServe()
	if s.w.now >= s.jumpAt && s.main().up && !s.servers[1-s.primary].up {
		s.jump()
	}
}

// calledFor reports whether a replica asks for an operator.
func (s *store) calledFor() bool {
	return slices.ContainsFunc(s.w.replicas, func(r *replica) bool {
		return r.up && strings.Contains(r.status.NotReadyReason, "an operator must jump the fence")
	})
}

// closedGrace is how long a replica may take to learn that its log was closed.
const closedGrace = 2 * sec

// mustNotServe looks for a replica that says it is ready although its log was closed
// a while ago, and no other server is left.
func (s *store) mustNotServe() {
	w := s.w
	if s.main().lead().GetClosed() == "" || w.now-max(s.closedAt, s.aloneAt) < int64(closedGrace) || s.servers[1-s.primary].up || s.slow > 0 || s.flapping > 0 || w.network.storms > 0 {
		return
	}
	for _, r := range w.replicas {
		if r.up && !r.paused && r.slow == 0 && r.status.Ready && !r.client.toOldStore && w.network.open(r.at, s.main().at) {
			w.checks.violated(check.Violation{Property: check.DurableProperty, At: w.now, Text: r.name + " says it is ready although the log was closed: " + s.main().lead().GetClosed()})
		}
	}
}

// jump is what the operator's command does.
func (s *store) jump() {
	v, w := s.main(), s.w
	ahead := core.JumpAhead
	if w.plants.Has(plant.JumpKeepsFence) {
		ahead = 0
	}
	moved, err := v.jump(core.Relocation{
		Ahead: ahead, LongestTTL: w.scenario.TTL.D(), Actor: "operator", CorrelationID: "jump",
	})
	if errors.Is(err, errNotBegun) {
		s.stillborn = true
		return
	}
	if err != nil {
		w.checks.violated(check.Violation{Property: check.NoPanicProperty, At: w.now, Text: "the operator's jump failed: " + err.Error()})
		return
	}
	w.stats.Jumps++
	w.tracef("", "the operator jumps the fence: what is kept ends at revision %d, and goes on at %d", moved.kept, moved.now)
	s.lossy, s.wiped, s.closedAt, v.past = false, false, never, nil
	s.cutTrail(v)
	w.jumped(moved)
}

// move is what a jump did: the revision that what is kept ends at, the one at which
// it goes on, and the first session that is not of before.
type move struct {
	kept, now uint64
	session   core.SessionID
}

// errNotBegun says that what is left of a log ends before the registry began: the
// command refuses to go on from nothing.
var errNotBegun = errors.New("the log holds no registry")

// jump replaces the log on a server by what it holds, moved on.
func (v *storeServer) jump(m core.Relocation) (moved move, err error) {
	reader := core.NewLogReader()
	for done := false; !done; {
		if done, err = reader.Take(v.model.Do(v.identity, &core.StoreCall{Fetch: reader.Next()})); err != nil {
			return moved, err
		}
	}
	g, lead, identity := reader.Registry()
	moved.kept = g.Revision()
	g.Relocate(m)
	next, snapshot, err := g.StoredLog(lead.Term+1, lead.Generation+1, identity)
	if err != nil {
		return moved, err
	}
	if next.ClusterId == "" {
		return moved, errNotBegun
	}
	seq, _ := g.History().Head()
	call := &core.StoreCall{Replace: &core.StoreReplace{Guard: reader.Position(), Lead: next, Snapshot: snapshot, Published: seq}}
	if r := v.model.Do(v.identity, call); r.Status != core.StoreOK {
		return moved, errors.New(r.Text)
	}
	moved.now, moved.session = g.Revision(), core.SessionID(g.Snapshot().NextSession)
	return moved, nil
}

// jumped tells the checkers what was lost: everything behind a revision, and no more.
func (w *World) jumped(m move) {
	c, kept := w.checks, m.kept
	c.linearizable.Relocated(w.now, kept)
	c.chronicle.Relocated(kept)
	c.agreement.Relocated(kept)
	c.exactlyOnce.Relocated(kept)
	c.fences.Relocated(kept)
	w.losses = append(w.losses, revisions{m.kept + 1, m.now - 1})
	w.relocatedAt, w.sessionsFrom = m.now, m.session
	// Elections wait until the members of before have stopped.
	w.health.troubled = w.now + 2*int64(w.scenario.TTL)
	w.healthChanged()
}

// revisions is a range of them, both ends included.
type revisions struct{ from, to uint64 }

// lost reports whether a revision is one of those that the store lost and a jump
// left behind. A replica that was not told yet may still speak of it.
func (w *World) lost(revision uint64) bool {
	return slices.ContainsFunc(w.losses, func(l revisions) bool { return l.from <= revision && revision <= l.to })
}

// relocated reports whether a session is of before an operator's jump. What it
// leads ended with the jump; that its member may believe on for a while is why
// elections wait.
func (w *World) relocated(id core.SessionID) bool {
	return id < w.sessionsFrom
}

package core

import (
	"fmt"
	"maps"
	"slices"
	"time"

	"google.golang.org/protobuf/proto"

	"github.com/omnirelay/leadership/core/logpb"
	"github.com/omnirelay/leadership/core/plant"
)

func (g *Registry) openSession(c *logpb.OpenSession, result *Result) *Error {
	if len(g.sessions) >= MaxSessions && g.sessions[SessionID(c.Replaces)] == nil {
		return &Error{Code: CodeLimit, Field: "sessions", Message: "too many live sessions; wait until one ends"}
	}
	old := g.sessions[SessionID(c.Replaces)]
	replaced := old != nil
	if replaced {
		if old.member != c.MemberId {
			return invalid("replaces", "session %d belongs to member %q", c.Replaces, old.member)
		}
		// Others come first: a process that was replaced had trouble. And no formation
		// begins between two sessions of one member.
		g.end(old, EventExpired, ReasonReplaced)
		g.fillVacancies()
	}
	s := &session{
		id: g.nextSession, member: c.MemberId, labels: maps.Clone(c.Labels), weight: c.Weight, ttl: c.TtlNs,
		openedAt: g.revision, leads: map[string]*scope{}, drained: map[string]*scope{},
	}
	g.nextSession++
	g.longestTTL = max(g.longestTTL, s.ttl)
	g.sessions[s.id] = s
	g.enter(s)
	g.clearDeath(s.member)
	g.touch(s)
	for _, st := range c.Stands {
		s.stands = append(s.stands, &logpb.Stand{Session: uint64(s.id), Selector: st.Selector, Priority: st.Priority})
	}
	if replaced {
		g.reform()
	}
	g.stood(s, len(s.stands))
	result.Session = uint64(s.id)
	return nil
}

// closeSession ends a session whose member has stopped acting. One entry hands
// over everything it led.
func (g *Registry) closeSession(c *logpb.CloseSession) *Error {
	s, err := g.liveSession(c.Session)
	if err != nil {
		return err
	}
	g.endSession(s, EventSteppedDown, ReasonSessionEnded)
	return nil
}

func (g *Registry) liveSession(id uint64) (*session, *Error) {
	if s := g.sessions[SessionID(id)]; s != nil {
		return s, nil
	}
	if id == 0 || SessionID(id) >= g.nextSession {
		return nil, refuse(CodeNotFound, "session %d was never opened", id)
	}
	return nil, refuse(CodeSessionEnded, "session %d has ended; open a new one", id)
}

// endSession ends a session for good and elects successors for all it led, in
// the same entry.
func (g *Registry) endSession(s *session, kind EventKind, reason string) {
	g.end(s, kind, reason)
	g.reform()
	g.fillVacancies()
}

// enter and leave keep the sessions of each member, oldest first.
func (g *Registry) enter(s *session) {
	ids := append(slices.Clone(g.members[s.member]), s.id)
	slices.Sort(ids)
	g.members[s.member] = ids
}

func (g *Registry) leave(s *session) {
	ids := slices.DeleteFunc(slices.Clone(g.members[s.member]), func(id SessionID) bool { return id == s.id })
	if g.members[s.member] = ids; len(ids) == 0 {
		delete(g.members, s.member)
	}
}

// end takes a session and its leaderships away.
func (g *Registry) end(s *session, kind EventKind, reason string) {
	delete(g.sessions, s.id)
	g.leave(s)
	g.touch(s)
	for _, id := range sortedKeys(s.leads) {
		sc := s.leads[id]
		g.vacate(sc, kind, reason)
		if sc.retiring() {
			g.remove(sc)
		}
	}
}

// reform starts a new formation when nobody stands any more: the first process
// to come back must not end with every scope.
func (g *Registry) reform() {
	if g.forming || g.formationMembers <= 1 || g.standing() > 0 {
		return
	}
	g.forming = true
	g.formation++
}

// standing counts the distinct members that stand for something.
func (g *Registry) standing() uint32 {
	seen := make(map[string]bool, len(g.sessions))
	for _, id := range sortedKeys(g.sessions) {
		if s := g.sessions[id]; len(s.stands) > 0 {
			seen[s.member] = true
		}
	}
	return uint32(len(seen))
}

func (g *Registry) endFormation(c *logpb.EndFormation) *Error {
	if g.forming && c.Formation == g.formation {
		g.forming, g.wait = false, 0
		g.fillVacancies()
	}
	return nil
}

func (g *Registry) stand(c *logpb.Stand) *Error {
	s, err := g.liveSession(c.Session)
	if err != nil {
		return err
	}
	if !s.wishes(c.Number) {
		return nil
	}
	for _, old := range s.stands {
		if sameSelector(old.Selector, c.Selector) {
			old.Priority = c.Priority
			return nil
		}
	}
	if len(s.stands) >= MaxStands {
		return &Error{Code: CodeLimit, Field: "stands", Message: "the session stands for too many selectors; withdraw one"}
	}
	if n := standBytes(s.stands) + proto.Size(c.Selector); n > MaxStandBytes {
		return &Error{Code: CodeLimit, Field: "stands", Message: fmt.Sprintf("the selectors of the session would have %d bytes, at most %d are kept; withdraw one", n, MaxStandBytes)}
	}
	s.stands = append(s.stands, &logpb.Stand{Session: c.Session, Selector: c.Selector, Priority: c.Priority})
	g.stood(s, 1)
	return nil
}

// standBytes is how much the selectors of stands take, encoded.
func standBytes(stands []*logpb.Stand) (n int) {
	for _, st := range stands {
		n += proto.Size(st.Selector)
	}
	return n
}

// wishes reports whether a stand or withdrawal is newer than the last that took
// effect, and notes it.
func (s *session) wishes(number uint64) bool {
	if number == 0 {
		return true
	}
	if number <= s.wish {
		return false
	}
	s.wish = number
	return true
}

// stood ends a formation when enough members stand, and elects. The latest stands of s
// are new.
func (g *Registry) stood(s *session, latest int) {
	if g.forming && g.wait == 0 && g.clusterID != "" && g.standing() >= max(g.formationMembers, 1) {
		g.forming, g.filled = false, false
	}
	g.fillFor(s, latest)
}

func (g *Registry) withdraw(c *logpb.Withdraw) *Error {
	s, err := g.liveSession(c.Session)
	if err != nil {
		return err
	}
	if !s.wishes(c.Number) {
		return nil
	}
	kept := s.stands[:0]
	for _, st := range s.stands {
		if !sameSelector(st.Selector, c.Selector) {
			kept = append(kept, st)
		}
	}
	if len(kept) == len(s.stands) {
		return refuse(CodeNotFound, "session %d does not stand for that selector", c.Session)
	}
	clear(s.stands[len(kept):])
	s.stands = kept
	g.reform()
	return nil
}

// keeperDecision applies what a registrar decided about a silent session.
//
// Whether it counts is decided by its position in the log: the term it carries
// must be the term of the entry that holds it, and its number must be above the
// last that took effect. Nothing else may be asked, for instance who committed
// it, since that differs between replicas and times.
func (g *Registry) keeperDecision(k *logpb.KeeperDecision, term uint64) *Result {
	stale := k.Term != term
	if g.plants.Has(plant.DeposedExpiryCounts) {
		stale = false
	}
	repeated := k.Term < g.keeperTerm || (k.Term == g.keeperTerm && k.Number <= g.keeperNumber)
	if g.plants.Has(plant.NoteAfterCancel) || g.plants.Has(plant.DeposedExpiryCounts) {
		repeated = false
	}
	void := stale || repeated
	g.outcome.Keeper = append(g.outcome.Keeper, KeeperApplied{Decision: k, Void: void})
	if void {
		return &Result{Revision: g.revision}
	}
	if k.Term > g.keeperTerm || k.Number > g.keeperNumber {
		g.keeperTerm, g.keeperNumber = k.Term, k.Number
	}
	if s := g.sessions[SessionID(k.Session)]; s != nil {
		g.decide(s, k)
	}
	return &Result{Revision: g.revision}
}

func (g *Registry) decide(s *session, k *logpb.KeeperDecision) {
	switch k.Kind {
	case logpb.KeeperDecision_KIND_NOTE:
		s.noted, s.notedAge, s.notedAt = true, k.AgeNs, g.revision
		g.outcome.Notes = append(g.outcome.Notes, s.id)
		g.outcome.Sessions = append(g.outcome.Sessions, s.id)
		g.failOverFast(s)
	case logpb.KeeperDecision_KIND_CANCEL:
		s.noted, s.notedAge, s.notedAt = false, 0, 0
		g.outcome.Sessions = append(g.outcome.Sessions, s.id)
	case logpb.KeeperDecision_KIND_EXPIRE:
		g.endSession(s, EventExpired, ReasonExpired)
	}
}

// failOverFast replaces a session noted silent as leader of every scope that asks
// for that, where somebody else can lead. The holder may still believe: for such
// scopes only the fence keeps its effects out.
func (g *Registry) failOverFast(s *session) {
	order := sortedKeys(g.sessions)
	for _, id := range sortedKeys(s.leads) {
		sc := s.leads[id]
		if sc.failover != logpb.ScopeSpec_FAILOVER_FAST || sc.retiring() || g.forming {
			continue
		}
		if best := g.best(sc, order); best != nil && !best.noted {
			g.vacate(sc, EventExpired, ReasonSuspected)
			g.install(sc, best)
		}
	}
}

// touch marks the session's view as changed.
func (g *Registry) touch(s *session) {
	s.changedAt = g.revision
	g.outcome.Sessions = append(g.outcome.Sessions, s.id)
}

func checkTTL(ttl time.Duration) error {
	if ttl < MinTTL || ttl > MaxTTL {
		return invalid("ttl", "%v; want %v to %v", ttl, MinTTL, MaxTTL)
	}
	return nil
}

package core

import (
	"slices"

	"github.com/omnirelay/leadership/core/logpb"
	"github.com/omnirelay/leadership/core/plant"
)

// The election rule. A vacant scope goes to the best candidate among the sessions
// that stand for it, compared by, in this order:
//
//  1. one who resigned the scope comes last of all, one noted silent next to last;
//  2. the preferred member;
//  3. the higher priority;
//  4. fewer scopes led per weight, counting the scope at stake;
//  5. the higher rendezvous hash of scope and member, so that ties spread;
//  6. the newer session: of two lives of one process the later.
//
// Nobody is a candidate who is cordoned, or of whom the log says that gossip calls it
// dead, left, or of an unsupported version.
//
// It looks at nothing but the registry, and uses integers only, so every replica
// elects the same leader.

// candidate is one session in the light of one scope.
type candidate struct {
	session   *session
	resigned  bool
	noted     bool
	preferred bool
	priority  int32
	load      uint64 // scopes led, counting the one at stake
	weight    uint64
	rank      uint64
}

// eligible reports whether s may be elected for sc.
func (g *Registry) eligible(s *session, sc *scope) bool {
	if g.barred(s.member) {
		return false
	}
	_, stands := s.priorityFor(sc.spec)
	return stands
}

// priorityFor returns the highest priority with which s stands for spec.
func (s *session) priorityFor(spec *logpb.ScopeSpec) (priority int32, stands bool) {
	for _, st := range s.stands {
		if selects(st.Selector, spec) && (!stands || st.Priority > priority) {
			priority, stands = st.Priority, true
		}
	}
	return priority, stands
}

// candidateFor weighs s for sc; ok is false when s may not be elected.
func (g *Registry) candidateFor(s *session, sc *scope) (c candidate, ok bool) {
	if g.barred(s.member) {
		return candidate{}, false
	}
	priority, ok := s.priorityFor(sc.spec)
	if !ok {
		return candidate{}, false
	}
	return candidate{
		session: s, resigned: sc.resignedBy == s.id, noted: s.noted, preferred: sc.spec.PreferredMember == s.member,
		priority: priority, load: uint64(len(s.leads)) + 1, weight: uint64(max(s.weight, 1)),
		rank: rendezvous(sc.spec.Id, s.member),
	}, true
}

// better reports whether a comes before b.
func (a *candidate) better(b *candidate) bool {
	if a.resigned != b.resigned {
		return !a.resigned
	}
	if a.noted != b.noted {
		return !a.noted
	}
	if c := a.comparePreference(b); c != 0 {
		return c > 0
	}
	if x, y := a.load*b.weight, b.load*a.weight; x != y {
		return x < y
	}
	if a.rank != b.rank {
		return a.rank > b.rank
	}
	return a.session.id > b.session.id
}

// comparePreference compares what the scope and the members wish, load aside.
func (a *candidate) comparePreference(b *candidate) int {
	switch {
	case a.preferred != b.preferred && a.preferred, a.preferred == b.preferred && a.priority > b.priority:
		return 1
	case a.preferred != b.preferred, a.priority < b.priority:
		return -1
	}
	return 0
}

// elect fills one vacancy if anybody is eligible.
func (g *Registry) elect(sc *scope, order []SessionID) {
	if best := g.best(sc, order); best != nil {
		g.install(sc, best)
	}
}

// best returns the session that the rule elects for sc, nil when none is eligible.
func (g *Registry) best(sc *scope, order []SessionID) *session {
	var best candidate
	for _, id := range order {
		c, ok := g.candidateFor(g.sessions[id], sc)
		if !ok {
			continue
		}
		if g.plants.Has(plant.DivergentElection) {
			c.rank ^= uint64(g.self) * 0x9e3779b97f4a7c15
		}
		if best.session == nil || c.better(&best) {
			best = c
		}
	}
	return best.session
}

// electNamed elects the member that a transfer names, if it still can lead.
func (g *Registry) electNamed(sc *scope, member string) bool {
	if g.forming {
		return false
	}
	best := g.best(sc, g.sessionsOf(member))
	if best != nil {
		g.install(sc, best)
	}
	return best != nil
}

// sessionsOf lists the live sessions of a member, newest first: of two lives of one
// process the later one is preferred where the rule sees no difference.
func (g *Registry) sessionsOf(member string) []SessionID {
	ids := slices.Clone(g.members[member])
	slices.Reverse(ids)
	return ids
}

// fillVacancies elects for the vacant scopes, in the order of their ids: for those that
// were vacated since all were looked at, and for all when anything else changed that may
// let somebody lead. One member's requests must not cost a look at every session for
// each of thousands of vacancies.
func (g *Registry) fillVacancies() {
	if g.forming {
		return
	}
	open := g.vacated
	if !g.filled {
		open = g.vacant
	}
	g.fill(g.electionOrder(open, func(sc *scope) bool { return sc.leader == nil && g.vacant[sc.spec.Id] == sc }))
	g.filled = true
	clear(g.vacated)
}

// fillFor elects for the vacant scopes that s has come to stand for by the latest of its
// stands; the others had nobody before, and have nobody now.
func (g *Registry) fillFor(s *session, latest int) {
	if g.forming || !g.filled {
		g.fillVacancies()
		return
	}
	if g.barred(s.member) || latest == 0 {
		return
	}
	added := s.stands[len(s.stands)-latest:]
	g.fill(g.electionOrder(g.vacant, func(sc *scope) bool {
		return slices.ContainsFunc(added, func(st *logpb.Stand) bool { return selects(st.Selector, sc.spec) })
	}))
}

// fill elects for vacant scopes, one after another.
func (g *Registry) fill(ids []string) {
	if len(ids) == 0 || len(g.sessions) == 0 {
		return
	}
	order := sortedKeys(g.sessions)
	for _, id := range ids {
		g.elect(g.vacant[id], order)
	}
}

// electionOrder lists those of the scopes that are wanted.
func (g *Registry) electionOrder(scopes map[string]*scope, wanted func(*scope) bool) []string {
	if g.plants.Has(plant.ApplyRangesOverMap) {
		var ids []string
		for id, sc := range scopes { //order: the planted bug
			if wanted(sc) {
				ids = append(ids, id)
			}
		}
		return ids
	}
	return sortedKeysWhere(scopes, wanted)
}

// rendezvous weighs a member for a scope (highest random weight, Thaler and
// Ravishankar 1998): FNV-1a over both, then a finalizer that spreads the bits.
func rendezvous(scope, member string) uint64 {
	h := uint64(14695981039346656037)
	for i := 0; i < len(scope); i++ {
		h = (h ^ uint64(scope[i])) * 1099511628211
	}
	h = (h ^ 0xff) * 1099511628211
	for i := 0; i < len(member); i++ {
		h = (h ^ uint64(member[i])) * 1099511628211
	}
	h = (h ^ h>>33) * 0xff51afd7ed558ccd
	h = (h ^ h>>33) * 0xc4ceb9fe1a85ec53
	return h ^ h>>33
}

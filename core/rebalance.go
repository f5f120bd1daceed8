package core

import (
	"cmp"
	"encoding/binary"
	"math"
	"slices"
	"strings"
)

// Move is one step of a rebalance: ask the holder under Fence to hand Scope over.
type Move struct {
	Scope string
	Fence uint64
	To    string // member id
}

// rebalanceSlack is the hysteresis: a scope moves for the sake of balance only if
// its holder would still lead this many more than the successor afterwards, or
// members that come and go would keep scopes in motion.
const rebalanceSlack = 1

// PlanMoves returns at most limit moves that bring scopes to members which the
// scope prefers, which stand with a higher priority, or which lead clearly less
// for their weight. It is empty when all is well, while elections wait for
// members, and for scopes already asked for. It takes the first that it finds in the
// order of the ids: what a registrar can afford every second. PlanRebalance is for those
// who want the fewest moves.
func (g *Registry) PlanMoves(limit int) []Move {
	moves, _ := g.planMoves(limit, "", math.MaxInt)
	return moves
}

// planMoves is PlanMoves for the scopes behind after, as far as so many looks at a session
// reach. on is where to go on from; empty: it has seen all.
func (g *Registry) planMoves(limit int, after string, looks int) (moves []Move, on string) {
	if g.forming || len(g.sessions) < 2 {
		return nil, ""
	}
	order := sortedKeys(g.sessions)
	loads := g.loads(order)
	for _, name := range sortedKeysWhere(g.scopes, func(sc *scope) bool { return sc.leader != nil && sc.ask == nil && sc.spec.Id > after }) {
		if looks -= len(order); looks < 0 || len(moves) >= limit {
			return moves, on
		}
		on = name
		sc := g.scopes[name]
		if to := g.successorFor(sc, order, loads); to != nil {
			loads[sc.leader.id]--
			loads[to.id]++
			moves = append(moves, Move{Scope: name, Fence: sc.fence, To: to.member})
		}
	}
	return moves, ""
}

// loads counts what each session leads; what is on its way counts as arrived.
func (g *Registry) loads(order []SessionID) map[SessionID]uint64 {
	loads := make(map[SessionID]uint64, len(order))
	for _, id := range order {
		loads[id] = uint64(len(g.sessions[id].leads))
	}
	for _, name := range sortedKeysWhere(g.scopes, func(sc *scope) bool { return sc.leader != nil && sc.ask != nil && sc.ask.to != "" }) {
		sc := g.scopes[name]
		if to, ok := g.SessionOf(sc.ask.to); ok {
			loads[sc.leader.id]--
			loads[to]++
		}
	}
	return loads
}

// successorFor returns the session that sc should move to, nil to leave it.
func (g *Registry) successorFor(sc *scope, order []SessionID, loads map[SessionID]uint64) *session {
	holder, ok := g.candidateFor(sc.leader, sc)
	if !ok { // it stopped standing or is cordoned: that alone displaces nobody
		return nil
	}
	holder.load = loads[sc.leader.id]
	var best candidate
	for _, id := range order {
		c, ok := g.candidateFor(g.sessions[id], sc)
		if !ok || c.session.member == sc.leader.member || c.noted || c.resigned {
			continue
		}
		c.load = loads[id] + 1
		if best.session == nil || c.better(&best) {
			best = c
		}
	}
	if best.session == nil {
		return nil
	}
	wish := best.comparePreference(&holder)
	lighter := (best.load+rebalanceSlack)*holder.weight < holder.load*best.weight
	if wish > 0 || (wish == 0 && lighter) {
		return best.session
	}
	return nil
}

// PlanRebalance returns the first limit of the fewest moves that do all that PlanMoves
// would do in the end, and how many would follow those. It weighs every scope against every
// session, which takes seconds for ten thousand against hundreds.
//
// First go the scopes that belong elsewhere: those have to move whatever the balance. Then
// the member that leads most for its weight gives, again and again, to the one that leads
// least of those that can take, until nobody leads clearly more than another could: a
// member that gives to one that is not the lightest, or that is not the heaviest itself,
// only makes more moves.
func (g *Registry) PlanRebalance(limit int) (moves []Move, remaining int) {
	if g.forming || len(g.sessions) < 2 {
		return nil, 0
	}
	p := newPlan(g)
	p.preferences()
	p.balance()
	all := p.moves()
	n := max(0, min(limit, len(all)))
	return all[:n], len(all) - n
}

// plan is what the registry would look like after the moves so far.
type plan struct {
	g       *Registry
	order   []SessionID
	loads   map[SessionID]uint64
	classes map[string]*moveClass
	holders map[SessionID][]*planned // what can be moved, by who leads it, in the order of ids
	moved   []*planned               // in the order of their first move
}

// moveClass are scopes with the same candidates.
type moveClass struct {
	candidates []candidate // without load, by session
}

// planned is a led scope that nobody was asked for.
type planned struct {
	sc     *scope
	class  *moveClass
	leader SessionID
	moved  bool
}

func newPlan(g *Registry) *plan {
	p := &plan{
		g: g, order: sortedKeys(g.sessions),
		classes: map[string]*moveClass{}, holders: map[SessionID][]*planned{},
	}
	p.loads = g.loads(p.order)
	for _, name := range sortedKeys(g.scopes) {
		sc := g.scopes[name]
		switch {
		case sc.leader == nil, sc.ask != nil:
		case g.eligible(sc.leader, sc): // one that stopped standing or is cordoned is not displaced by that alone
			p.holders[sc.leader.id] = append(p.holders[sc.leader.id], &planned{sc: sc, class: p.classOf(sc), leader: sc.leader.id})
		}
	}
	return p
}

// classOf finds the candidates for a scope, once for all scopes that have the same.
func (p *plan) classOf(sc *scope) *moveClass {
	var found []candidate
	var key []byte
	for _, id := range p.order {
		c, ok := p.g.candidateFor(p.g.sessions[id], sc)
		if !ok {
			continue
		}
		found = append(found, c)
		key = binary.BigEndian.AppendUint64(key, uint64(id))
		key = binary.BigEndian.AppendUint32(key, uint32(c.priority))
		key = append(key, bit(c.preferred), bit(c.resigned))
	}
	class := p.classes[string(key)]
	if class == nil {
		class = &moveClass{candidates: found}
		p.classes[string(key)] = class
	}
	return class
}

func bit(b bool) byte {
	if b {
		return 1
	}
	return 0
}

// preferences moves what belongs to another by preference or priority.
func (p *plan) preferences() {
	var wrong []*planned
	for _, id := range p.order {
		for _, s := range p.holders[id] {
			if to := p.successor(s, p.wished); to != nil {
				wrong = append(wrong, s)
			}
		}
	}
	slices.SortFunc(wrong, func(a, b *planned) int { return strings.Compare(a.sc.spec.Id, b.sc.spec.Id) })
	for _, s := range wrong {
		p.move(s, p.successor(s, p.wished).session.id)
	}
}

// balance lets the heaviest give to the lightest until there is nothing to be gained.
func (p *plan) balance() {
	resting := map[SessionID]bool{} // they have nothing to give to anybody
	for {
		from, ok := p.heaviest(resting)
		if !ok {
			return
		}
		s, to := p.gift(from)
		if s == nil {
			resting[from] = true
			continue
		}
		p.move(s, to)
		clear(resting) // they may have something to give to who has less now
	}
}

// heaviest is who leads most for its weight and has something to give.
func (p *plan) heaviest(resting map[SessionID]bool) (heaviest SessionID, ok bool) {
	for _, id := range p.order {
		if resting[id] || len(p.holders[id]) == 0 {
			continue
		}
		if !ok || p.loads[id]*p.weight(heaviest) > p.loads[heaviest]*p.weight(id) {
			heaviest, ok = id, true
		}
	}
	return heaviest, ok
}

func (p *plan) weight(id SessionID) uint64 { return uint64(max(p.g.sessions[id].weight, 1)) }

// gift is what a holder should give, and to whom: to the lightest that can take it.
func (p *plan) gift(from SessionID) (gift *planned, to SessionID) {
	var best *candidate
	seen := map[*moveClass]bool{}
	for _, s := range p.holders[from] {
		if seen[s.class] {
			continue
		}
		seen[s.class] = true
		c := p.successor(s, p.lighter)
		if c == nil {
			continue
		}
		if best == nil || c.needier(best) > 0 {
			gift, best, to = s, c, c.session.id
		}
	}
	return gift, to
}

// successor is the best of those candidates for a scope to which it should move, nil when
// there is none.
func (p *plan) successor(s *planned, should func(s *planned, to *candidate) bool) *candidate {
	var best *candidate
	for i := range s.class.candidates {
		c := s.class.candidates[i]
		if c.noted || c.resigned || !p.another(s, c.session) {
			continue
		}
		c.load, c.rank = p.loads[c.session.id]+1, rendezvous(s.sc.spec.Id, c.session.member)
		if (best == nil || c.before(best)) && should(s, &c) {
			best = &c
		}
	}
	return best
}

// before is better, but that of two candidates who are wished for alike it is the needier.
func (a *candidate) before(b *candidate) bool {
	if n := a.needier(b); n != 0 && a.comparePreference(b) == 0 {
		return n > 0
	}
	return a.better(b)
}

// needier compares who leads less for its weight, so that a holder with the slack would
// give to it.
func (a *candidate) needier(b *candidate) int {
	return cmp.Compare((b.load+rebalanceSlack)*a.weight, (a.load+rebalanceSlack)*b.weight)
}

// another reports whether a session is of another member than the one that has the scope by
// now, and than the one that is to be asked for it, unless it is that very session.
func (p *plan) another(s *planned, to *session) bool {
	if to.member == p.g.sessions[s.leader].member {
		return false
	}
	return to.member != s.sc.leader.member || to == s.sc.leader
}

// wished reports whether scope and members wish for a successor rather than the holder.
func (p *plan) wished(s *planned, to *candidate) bool { return p.wish(s, to) > 0 }

// lighter reports whether nobody wishes for either, and the holder would still lead clearly
// more than the successor.
func (p *plan) lighter(s *planned, to *candidate) bool {
	return p.wish(s, to) == 0 && (to.load+rebalanceSlack)*p.weight(s.leader) < p.loads[s.leader]*to.weight
}

func (p *plan) wish(s *planned, to *candidate) int {
	for i := range s.class.candidates {
		if c := &s.class.candidates[i]; c.session.id == s.leader {
			return to.comparePreference(c)
		}
	}
	return 0
}

func (p *plan) move(s *planned, to SessionID) {
	p.loads[s.leader]--
	p.loads[to]++
	p.holders[s.leader] = slices.DeleteFunc(p.holders[s.leader], func(o *planned) bool { return o == s })
	at, _ := slices.BinarySearchFunc(p.holders[to], s.sc.spec.Id, func(o *planned, id string) int { return strings.Compare(o.sc.spec.Id, id) })
	p.holders[to] = slices.Insert(p.holders[to], at, s)
	s.leader = to
	if !s.moved {
		s.moved = true
		p.moved = append(p.moved, s)
	}
}

// moves are the scopes that end elsewhere than they began.
func (p *plan) moves() (moves []Move) {
	for _, s := range p.moved {
		if s.leader != s.sc.leader.id {
			moves = append(moves, Move{Scope: s.sc.spec.Id, Fence: s.sc.fence, To: p.g.sessions[s.leader].member})
		}
	}
	return moves
}

package core

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
// members, and for scopes already asked for.
func (g *Registry) PlanMoves(limit int) []Move {
	if g.forming || len(g.sessions) < 2 {
		return nil
	}
	var moves []Move
	loads := make(map[SessionID]uint64, len(g.sessions))
	order := sortedKeys(g.sessions)
	for _, id := range order {
		loads[id] = uint64(len(g.sessions[id].leads))
	}
	for _, name := range sortedKeys(g.scopes) {
		sc := g.scopes[name]
		if sc.leader == nil || sc.ask == nil {
			continue
		}
		// What is on its way counts as arrived.
		if to, ok := g.SessionOf(sc.ask.to); ok && sc.ask.to != "" {
			loads[sc.leader.id]--
			loads[to]++
		}
	}
	for _, name := range sortedKeys(g.scopes) {
		if len(moves) == limit {
			break
		}
		if to := g.successorFor(g.scopes[name], order, loads); to != nil {
			sc := g.scopes[name]
			loads[sc.leader.id]--
			loads[to.id]++
			moves = append(moves, Move{Scope: name, Fence: sc.fence, To: to.member})
		}
	}
	return moves
}

// successorFor returns the session that sc should move to, nil to leave it.
func (g *Registry) successorFor(sc *scope, order []SessionID, loads map[SessionID]uint64) *session {
	if sc.leader == nil || sc.ask != nil {
		return nil
	}
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

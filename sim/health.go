package sim

import (
	"math/bits"
	"slices"
	"time"

	"github.com/omnirelay/leadership/core"
)

// sampleEvery is how often the world is looked at for what should have happened.
const sampleEvery = 50 * time.Millisecond

// health knows since when which part of the world is untouched by faults: what
// the liveness properties presuppose.
type health struct {
	majorities []majority
	office     office
	// officeSince is since when that office is untouched.
	officeSince int64
	unled       map[string]int64 // since when a scope that had a leader has none
	// failedOver is when the registry last replaced a leader that was in trouble:
	// the successor may be in trouble, too, and is counted anew.
	failedOver map[string]int64
	// registrar is the replica that opened the latest office, and troubled when an
	// office was opened last that replaced a registrar in trouble: TTLs begin anew.
	registrar  core.NodeID
	troubled   int64
	handedOver int64 // when a hand-over of the office was last asked for
}

// majority is one set of replicas that is large enough to decide: more than half of
// them, or any that an external store serves.
type majority struct {
	set     uint
	since   int64   // untouched since; never: it is not now
	members []int64 // by member: untouched, and in reach of the whole set, since
}

// office is one registrar's time in office, as far as nothing disturbs it.
type office struct {
	replica     core.NodeID
	incarnation int
	term        uint64
}

func (w *World) healthChanged() {
	if w.now > 0 && !w.over {
		w.measure()
	}
}

// sample looks at the world at regular times.
func (w *World) sample() {
	w.measure()
	w.checkLiveness()
	w.after(sampleEvery, w.sample)
}

// measure updates since when everything is healthy.
func (w *World) measure() {
	h := &w.health
	if h.majorities == nil {
		least := len(w.replicas)/2 + 1
		if w.store != nil {
			least = 1
		}
		h.majorities = majoritiesOf(len(w.replicas), len(w.members), least)
		if w.store == nil {
			h.majorities = majoritiesAmong(len(w.replicas), &w.nodes.log, len(w.members))
		}
		if h.failedOver == nil {
			h.failedOver = map[string]int64{}
		}
	}
	for i := range h.majorities {
		w.measureMajority(&h.majorities[i])
	}
	w.measureOffice()
}

func majoritiesOf(replicas, members, least int) []majority {
	var all []majority
	for set := uint(1); set < 1<<replicas; set++ {
		if bits.OnesCount(set) >= least {
			m := majority{set: set, since: never}
			for range members {
				m.members = append(m.members, never)
			}
			all = append(all, m)
		}
	}
	return all
}

// majoritiesAmong are the sets of replicas that can decide: more than half of the voters,
// and of those of before while two majorities are needed.
func majoritiesAmong(replicas int, log *core.LogMembers, members int) []majority {
	all := setOf(log.Voters) | setOf(log.Outgoing)
	return slices.DeleteFunc(majoritiesOf(replicas, members, 1), func(m majority) bool {
		return m.set&^all != 0 || !decides(m.set, log)
	})
}

// decides reports whether a set of replicas is enough for the members of a log.
func decides(set uint, log *core.LogMembers) bool {
	enough := func(of uint) bool { return of == 0 || 2*bits.OnesCount(set&of) > bits.OnesCount(of) }
	return enough(setOf(log.Voters)) && enough(setOf(log.Outgoing))
}

// decidesForAll reports whether a set is enough also for those in it that have not heard of
// the latest change of the members.
func (w *World) decidesForAll(set uint) bool {
	for i, r := range w.replicas {
		if set&(1<<i) == 0 || r.core == nil {
			continue
		}
		if log := r.core.Members(); !decides(set, &log) {
			return false
		}
	}
	return true
}

func setOf(nodes []core.NodeID) (set uint) {
	for _, n := range nodes {
		set |= 1 << (n - 1)
	}
	return set
}

func (w *World) measureMajority(m *majority) {
	m.since = since(m.since, w.now, w.majorityHealthy(m.set))
	for i, member := range w.members {
		m.members[i] = since(m.members[i], w.now, m.since != never && w.memberHealthy(member, m.set))
	}
}

// since keeps the start of an unbroken stretch of holds.
func since(had, now int64, holds bool) int64 {
	switch {
	case !holds:
		return never
	case had == never:
		return now
	}
	return had
}

func (w *World) majorityHealthy(set uint) bool {
	if w.network.storms > 0 || w.store != nil && !w.storeHealthy(set) || w.scenario.Spares > 0 && !w.decidesForAll(set) {
		return false
	}
	for i, a := range w.replicas {
		if set&(1<<i) == 0 {
			continue
		}
		if !a.up || a.paused || a.slow > 0 || a.crashAfter > 0 || a.disk.failNext {
			return false
		}
		for j, b := range w.replicas[:i] {
			if set&(1<<j) != 0 && !w.network.open(a.at, b.at) {
				return false
			}
		}
	}
	return true
}

// memberHealthy reports whether nothing keeps the member from leading, as far as
// the world is concerned.
func (w *World) memberHealthy(m *member, set uint) bool {
	if !m.up || m.paused || m.slow > 0 || m.closing {
		return false
	}
	for i, r := range w.replicas {
		if set&(1<<i) != 0 && !w.network.open(m.at, r.at) {
			return false
		}
	}
	// That gossip calls it dead does not matter: it is heard of.
	return !w.checks.reference.cordoned[m.member] && w.gossip.untouched(m)
}

// measureOffice tells the checker of BoundedExpiry when a healthy office is on.
func (w *World) measureOffice() {
	now := w.healthyOffice()
	if now == w.health.office {
		return
	}
	w.health.office, w.health.officeSince = now, w.now
	if w.checks.splitBrain != nil {
		w.checks.splitBrain.Office(w.officeSince())
	}
	if w.checks.bounded == nil {
		return
	}
	if now.replica == 0 {
		w.checks.bounded.NoOffice(w.now)
	} else {
		w.checks.bounded.Office(w.now)
	}
}

// healthyOffice finds the registrar of the newest term, if it is in an untouched
// majority and is not giving its office away: until that has succeeded or failed,
// which takes an election timeout, raft takes no proposals (seed 5836).
func (w *World) healthyOffice() office {
	var best office
	if w.now-w.health.handedOver < 2*int64(core.DefaultElectionTimeout) {
		return best
	}
	for i, r := range w.replicas {
		if !r.up || !r.status.IsRegistrar || !r.status.OfficeOpen || r.status.RaftTerm <= best.term || w.nodes.goes(r.id) {
			continue
		}
		for _, m := range w.health.majorities {
			if m.since != never && m.set&(1<<i) != 0 {
				best = office{r.id, r.incarnation, r.status.RaftTerm}
			}
		}
	}
	return best
}

// checkLiveness looks for what should have happened by now.
func (w *World) checkLiveness() {
	if w.checks.bounded != nil {
		w.checks.bounded.Check(w.now)
	}
	if w.checks.splitBrain != nil {
		w.checks.splitBrain.Check(w.now)
	}
	if w.checks.sla == nil {
		return
	}
	for _, name := range w.checks.reference.names {
		s, led := w.checks.reference.scopes[name], w.led(name)
		w.checks.sla.Sample(w.now, name, led, w.owedSince(name, s))
		w.health.timeFailover(w, name, led)
	}
}

// timeFailover measures how long a scope that had a leader has none.
func (h *health) timeFailover(w *World, scope string, led bool) {
	if h.unled == nil {
		h.unled = map[string]int64{}
	}
	since, known := h.unled[scope]
	switch {
	case led && known && since > 0:
		w.stats.Failovers = append(w.stats.Failovers, time.Duration(w.now-since))
		h.unled[scope] = 0
	case led:
		h.unled[scope] = 0
	case known && since == 0:
		h.unled[scope] = w.now
	}
}

// led reports whether a living process believes that it leads the scope.
func (w *World) led(scope string) bool {
	for _, m := range w.members {
		if _, ok := m.believes(scope); ok {
			return true
		}
	}
	return false
}

// owedSince is since when the scope should have a leader: a majority untouched,
// and within its reach a member that stands for the scope. A leader in trouble
// that still makes itself heard keeps the scope: it is counted from its last word,
// or from the end of its trouble.
func (w *World) owedSince(name string, s *declared) int64 {
	if s.retiring {
		return never
	}
	owed := never
	for _, maj := range w.health.majorities {
		for i, m := range w.members {
			if m.standing.selects(s.spec) {
				owed = min(owed, maj.members[i])
			}
		}
	}
	leader, led := w.checks.reference.leaders[name]
	well := w.wellSince(leader.Session)
	switch {
	case owed == never:
		return never
	case led && well == never:
		owed = max(owed, w.checks.heardAt[leader.Session])
	case led:
		owed = max(owed, well)
	}
	return max(owed, s.since, w.health.failedOver[name], w.health.troubled)
}

// officeOpened notes whether trouble, and not the registry's own doing, ended the
// office before this one.
func (w *World) officeOpened(r *replica) {
	h := &w.health
	had := h.registrar
	h.registrar = r.id
	well := false
	for _, m := range h.majorities {
		well = well || had != 0 && m.since != never && m.set&(1<<(had-1)) != 0 && w.now-m.since > int64(core.DefaultMaxElectionWindow)
	}
	if !well || w.now-h.handedOver < int64(core.DefaultMaxElectionWindow) {
		h.troubled = w.now
	}
}

// wellSince is since when the process that has the session is untouched and in
// reach of an untouched majority; never: it is not.
func (w *World) wellSince(id core.SessionID) int64 {
	well := never
	for i, m := range w.members {
		if m.up && m.session == id {
			for _, maj := range w.health.majorities {
				well = min(well, maj.members[i])
			}
		}
	}
	return well
}

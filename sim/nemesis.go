package sim

import (
	"fmt"
	"math/rand/v2"
	"slices"
	"strings"
	"time"

	"github.com/omnirelay/leadership/core"
)

// nemesis makes things go wrong at random moments, and at the end puts them right.
type nemesis struct {
	w    *World
	rng  *rand.Rand
	over bool // the quiet part has begun
	undo []func()
	ambushes
}

func newNemesis(w *World, rng *rand.Rand) *nemesis { return &nemesis{w: w, rng: rng} }

// faults names everything that can go wrong. Each strikes for at most d.
var faults = map[string]func(n *nemesis, d time.Duration){
	"replica-crash":         func(n *nemesis, _ time.Duration) { n.crash(n.anyReplica()) },
	"replica-crash-at-port": func(n *nemesis, _ time.Duration) { n.anyReplica().crashAfter = 1 + n.rng.IntN(12) },
	"all-crash":             (*nemesis).crashAll,
	"replica-pause":         (*nemesis).pauseReplica,
	"replica-stalls":        func(n *nemesis, d time.Duration) { r := n.anyReplica(); n.stall(&r.process, &r.slow, d) },
	"registrar-stalls": func(n *nemesis, d time.Duration) {
		r := n.registrar()
		n.stallBy(&r.process, &r.slow, d, 12, 350*ms)
	},
	"replica-reboot":         func(n *nemesis, _ time.Duration) { n.reboot(n.anyReplica()) },
	"isolate-registrar":      func(n *nemesis, d time.Duration) { n.isolate(n.registrar(), d) },
	"isolate-replica":        func(n *nemesis, d time.Duration) { n.isolate(n.anyReplica(), d) },
	"one-way-registrar":      func(n *nemesis, d time.Duration) { n.oneWay(n.registrar(), d, n.rng.IntN(2) == 0) },
	"deaf-registrar":         func(n *nemesis, d time.Duration) { n.oneWay(n.registrar(), d, true) },
	"one-way-link":           (*nemesis).oneWayLink,
	"split":                  (*nemesis).split,
	"lagging-replica":        (*nemesis).lag,
	"isolate-member":         (*nemesis).isolateMember,
	"delay-member":           (*nemesis).delayMember,
	"member-one-replica":     (*nemesis).leaveOneReplica,
	"member-crash":           (*nemesis).crashMember,
	"member-pause":           (*nemesis).pauseMember,
	"member-stalls":          func(n *nemesis, d time.Duration) { m := n.anyMember(); n.stall(&m.process, &m.slow, d) },
	"storm":                  (*nemesis).storm,
	"slow-disk":              func(n *nemesis, d time.Duration) { n.slowDisk(n.anyReplica(), d) },
	"slow-registrar-disk":    func(n *nemesis, d time.Duration) { n.slowDisk(n.registrar(), d) },
	"disk-error":             func(n *nemesis, _ time.Duration) { n.anyReplica().disk.failNext = true },
	"resource-restart":       func(n *nemesis, d time.Duration) { n.w.resources[n.rng.IntN(len(n.w.resources))].restart(d) },
	"clock-rate":             (*nemesis).bendClock,
	"wall-jump":              func(n *nemesis, _ time.Duration) { n.anyReplica().wall = n.rng.Int64N(int64(48 * time.Hour)) },
	"black-hole":             func(n *nemesis, d time.Duration) { n.blackHole(n.registrar(), d) },
	"black-hole-at-decision": func(n *nemesis, d time.Duration) { n.atDecision = d },
	"black-hole-at-expiry":   func(n *nemesis, d time.Duration) { n.atExpiry = d },
	"pause-at-check":         func(n *nemesis, d time.Duration) { n.atCheck = d },
	"trap-cancel": func(n *nemesis, _ time.Duration) {
		if n.trap.stage == trapOff {
			n.trap.stage = trapLaid
		}
	},
	"split-at-members": func(n *nemesis, d time.Duration) { n.atMembers = d },
	"crash-at-vote":    func(n *nemesis, _ time.Duration) { n.atVote = true },
	"hand-over":        (*nemesis).handOver,

	// Of the external store:
	"store-restart":    func(n *nemesis, d time.Duration) { n.w.store.crash(d) },
	"store-pause":      (*nemesis).pauseStore,
	"store-slow":       (*nemesis).slowStore,
	"store-loses":      (*nemesis).loseCalls,
	"store-fail-over":  func(n *nemesis, d time.Duration) { n.w.store.failOver(0, d) },
	"store-wiped-mark": (*nemesis).wipeMark,
	"store-blackout": func(n *nemesis, d time.Duration) {
		n.w.store.failOver(n.rng.IntN(maxPast), d)
		n.crashAll(d)
	},
	"store-lost-writes":   func(n *nemesis, d time.Duration) { n.w.store.failOver(n.rng.IntN(maxPast), d) },
	"store-cut":           func(n *nemesis, d time.Duration) { n.cutStore(n.anyReplica(), d) },
	"store-cut-registrar": func(n *nemesis, d time.Duration) { n.cutStore(n.registrar(), d) },
	"store-late-tail":     (*nemesis).lagTail,
	"late-append":         func(n *nemesis, d time.Duration) { n.atAppend = d },
}

// ofStore reports whether a fault needs an external store.
func ofStore(fault string) bool { return strings.HasPrefix(fault, "store-") || fault == "late-append" }

// Faults lists the names of all faults.
func Faults() []string {
	names := make([]string, 0, len(faults))
	for name := range faults {
		names = append(names, name)
	}
	slices.Sort(names)
	return names
}

func (n *nemesis) begin() {
	for _, f := range n.w.scenario.Faults {
		n.schedule(f)
	}
	n.w.at(int64(n.w.scenario.Duration-n.w.scenario.Quiet), n.quiet)
}

// schedule strikes with f now and then.
func (n *nemesis) schedule(f FaultRate) {
	wait := f.Every.D()
	if !f.Steady {
		wait = spread(n.rng, wait)
	}
	n.w.after(wait, func() {
		if n.over {
			return
		}
		d := f.Min.D() + time.Duration(n.rng.Int64N(int64(f.Max-f.Min)+1))
		n.w.tracef("", "fault: %s for up to %v", f.Fault, d)
		faults[f.Fault](n, d)
		n.w.healthChanged()
		n.schedule(f)
	})
}

// lasting lets a fault last for d: undo runs then, or when the quiet begins.
func (n *nemesis) lasting(d time.Duration, undo func()) {
	done := false
	once := func() {
		if !done {
			done = true
			undo()
			n.w.healthChanged()
		}
	}
	n.w.after(d, once)
	n.undo = append(n.undo, once)
}

// quiet ends every fault.
func (n *nemesis) quiet() {
	n.over = true
	n.w.tracef("", "quiet: all faults end")
	for _, undo := range n.undo {
		undo()
	}
	n.undo = nil
	n.trap.end()
	n.ambushes = ambushes{}
	for _, r := range n.w.replicas {
		r.crashAfter, r.disk.failNext = 0, false
	}
}

// downtime is how long a process that died stays down.
func (n *nemesis) downtime() time.Duration {
	if n.over {
		return 200 * ms
	}
	if n.hasty {
		n.hasty = false
		return time.Duration(1+n.rng.IntN(60)) * ms
	}
	if n.rng.IntN(3) == 0 {
		return time.Duration(n.rng.Int64N(int64(5 * sec)))
	}
	return time.Duration(20+n.rng.IntN(800)) * ms
}

func (n *nemesis) anyReplica() *replica {
	running := n.w.running()
	return running[n.rng.IntN(len(running))]
}

func (n *nemesis) anyMember() *member { return n.w.members[n.rng.IntN(len(n.w.members))] }

// registrar is the replica in office, of the newest term when several believe
// so; any replica when there is none.
func (n *nemesis) registrar() *replica {
	var found *replica
	for _, r := range n.w.replicas {
		if r.up && r.status.IsRegistrar && (found == nil || r.status.RaftTerm > found.status.RaftTerm) {
			found = r
		}
	}
	if found == nil {
		return n.anyReplica()
	}
	return found
}

func (n *nemesis) crash(r *replica) {
	if r.up {
		n.w.stats.Crashes++
		n.w.tracef(r.name, "crashes")
		r.kill()
	}
}

func (n *nemesis) crashAll(time.Duration) {
	for _, r := range n.w.replicas {
		n.crash(r)
	}
}

// reboot restarts the machine: its clock begins anew.
func (n *nemesis) reboot(r *replica) {
	n.crash(r)
	r.clock = n.w.newClock(n.rng)
}

func (n *nemesis) pauseReplica(d time.Duration) {
	r := n.anyReplica()
	if n.rng.IntN(2) == 0 {
		r = n.registrar()
	}
	n.w.tracef(r.name, "is paused for %v", d)
	n.pause(&r.process, d)
}

func (n *nemesis) pauseMember(d time.Duration) {
	m := n.anyMember()
	n.w.tracef(m.member, "%s is paused for %v", m.processName(), d)
	n.pause(&m.process, d)
}

func (n *nemesis) pause(p *process, d time.Duration) {
	p.pause(min(d, n.left()))
	n.lasting(d, func() {})
}

// left is the time until the quiet begins.
func (n *nemesis) left() time.Duration {
	return time.Duration(int64(n.w.scenario.Duration-n.w.scenario.Quiet) - n.w.now)
}

// stall makes a process wait at one in a few of its port calls.
func (n *nemesis) stall(p *process, slow *int, d time.Duration) {
	n.stallBy(p, slow, d, 3+n.rng.IntN(60), []time.Duration{20 * ms, 300 * ms, 3 * sec}[n.rng.IntN(3)])
}

// stallBy makes one in so many port calls wait, for up to longest.
func (n *nemesis) stallBy(p *process, slow *int, d time.Duration, oneIn int, longest time.Duration) {
	*slow++
	p.stallOneIn, p.stallMax = oneIn, longest
	n.w.tracef(p.name, "stalls at one in %d port calls for up to %v", p.stallOneIn, p.stallMax)
	n.lasting(d, func() {
		p.stallOneIn = 0
		n.recover(slow, longest)
	})
}

func (n *nemesis) handOver(time.Duration) {
	n.w.health.handedOver = n.w.now
	n.registrar().receive(core.Input{HandOver: true})
}

func (n *nemesis) slowDisk(r *replica, d time.Duration) {
	r.slow++
	r.disk.syncMax = []time.Duration{100 * ms, 600 * ms, 3 * sec}[n.rng.IntN(3)]
	longest := r.disk.syncMax
	r.disk.syncMin = longest / 10
	n.w.tracef(r.name, "disk takes up to %v", r.disk.syncMax)
	n.lasting(d, func() {
		n.recover(&r.slow, longest)
		r.disk.syncMin, r.disk.syncMax = n.w.scenario.SyncMin.D(), n.w.scenario.SyncMax.D()
	})
}

// recover ends a process's trouble when the last call that it slowed has ended.
func (n *nemesis) recover(slow *int, longest time.Duration) {
	n.w.after(longest, func() {
		*slow--
		n.w.healthChanged()
	})
}

// cutLinks cuts links, given as from and to, for d.
func (n *nemesis) cutLinks(links [][2]endpoint, d time.Duration) {
	n.w.stats.Cuts++
	for _, l := range links {
		n.w.network.cut(l[0], l[1])
	}
	n.lasting(d, func() {
		for _, l := range links {
			n.w.network.mend(l[0], l[1])
		}
	})
}

func bothWays(a, b endpoint) [][2]endpoint { return [][2]endpoint{{a, b}, {b, a}} }

// isolate cuts a replica from the other replicas, and sometimes from the members.
func (n *nemesis) isolate(r *replica, d time.Duration) {
	if n.rng.IntN(2) == 0 {
		n.isolateAmongReplicas(r, d)
		return
	}
	n.w.tracef(r.name, "is cut off from everything for %v", d)
	n.cutLinks(append(n.linksAmongReplicas(r), n.linksToMembers(r)...), d)
}

// isolateAmongReplicas cuts a replica from the others; its members still reach it.
func (n *nemesis) isolateAmongReplicas(r *replica, d time.Duration) {
	n.w.tracef(r.name, "is cut off from the other replicas for %v", d)
	n.cutLinks(n.linksAmongReplicas(r), d)
}

func (n *nemesis) linksAmongReplicas(r *replica) (links [][2]endpoint) {
	for _, at := range n.peers(r) {
		links = append(links, bothWays(r.at, at)...)
	}
	return links
}

// peers are where the registry's own traffic with a replica goes: the other
// replicas, and the store when there is one.
func (n *nemesis) peers(r *replica) (all []endpoint) {
	for _, o := range n.w.replicas {
		if o != r {
			all = append(all, o.at)
		}
	}
	return append(all, n.w.storePlaces()...)
}

func (n *nemesis) linksToMembers(r *replica) (links [][2]endpoint) {
	for _, m := range n.w.members {
		links = append(links, bothWays(r.at, m.at)...)
	}
	return links
}

// oneWay cuts all that a replica hears, or all that it says, among replicas.
func (n *nemesis) oneWay(r *replica, d time.Duration, deaf bool) {
	n.w.tracef(r.name, "is cut off one way for %v (deaf: %v)", d, deaf)
	var links [][2]endpoint
	for _, at := range n.peers(r) {
		if deaf {
			links = append(links, [2]endpoint{at, r.at})
		} else {
			links = append(links, [2]endpoint{r.at, at})
		}
	}
	n.cutLinks(links, d)
}

func (n *nemesis) oneWayLink(d time.Duration) {
	a, b := n.anyReplica(), n.anyReplica()
	if a != b {
		n.w.tracef("", "link from %s to %s is cut for %v", a.name, b.name, d)
		n.cutLinks([][2]endpoint{{a.at, b.at}}, d)
	}
}

// split divides all machines into two sides.
func (n *nemesis) split(d time.Duration) {
	side := make([]bool, n.w.network.size)
	for i := range side {
		side[i] = n.rng.IntN(2) == 0
	}
	n.w.tracef("", "split for %v: %v", d, side)
	var links [][2]endpoint
	for a := range side {
		for b := range side {
			if side[a] != side[b] {
				links = append(links, [2]endpoint{endpoint(a), endpoint(b)})
			}
		}
	}
	n.cutLinks(links, d)
}

// lag cuts a follower from the registrar's appends but not from the members.
func (n *nemesis) lag(d time.Duration) {
	r := n.anyReplica()
	n.w.tracef(r.name, "lags for %v", d)
	var links [][2]endpoint
	for _, at := range n.peers(r) {
		links = append(links, [2]endpoint{at, r.at})
	}
	n.cutLinks(links, d)
}

func (n *nemesis) isolateMember(d time.Duration) {
	m := n.anyMember()
	n.w.tracef(m.member, "%s is cut off for %v", m.processName(), d)
	heard, said := true, true
	if n.rng.IntN(3) == 0 {
		heard = n.rng.IntN(2) == 0
		said = !heard
	}
	var links [][2]endpoint
	for _, r := range n.w.replicas {
		if !heard {
			links = append(links, [2]endpoint{r.at, m.at})
		}
		if !said {
			links = append(links, [2]endpoint{m.at, r.at})
		}
		if heard && said {
			links = append(links, bothWays(r.at, m.at)...)
		}
	}
	n.cutLinks(links, d)
}

// delayMember holds up what a member says now until its session is about to
// expire, and then lets nothing more of it through.
func (n *nemesis) delayMember(d time.Duration) {
	m, ttl := n.anyMember(), n.w.scenario.TTL.D()
	n.w.network.held[m.at] = ttl*4/5 + time.Duration(n.rng.Int64N(int64(ttl/4)))
	n.w.tracef(m.member, "%s is heard %v late", m.processName(), n.w.network.held[m.at])
	m.slow++
	n.lasting(ttl/4, func() {
		m.slow--
		n.w.network.held[m.at] = 0
		if !n.over {
			n.cutLinks(n.linksOf(m), d)
		}
	})
}

// linksOf are a member's links to the replicas, in both directions.
func (n *nemesis) linksOf(m *member) (links [][2]endpoint) {
	for _, r := range n.w.replicas {
		links = append(links, bothWays(r.at, m.at)...)
	}
	return links
}

// leaveOneReplica cuts a member from all replicas but one.
func (n *nemesis) leaveOneReplica(d time.Duration) {
	m, left := n.anyMember(), n.anyReplica()
	n.w.tracef(m.member, "%s can reach only %s for %v", m.processName(), left.name, d)
	var links [][2]endpoint
	for _, r := range n.w.replicas {
		if r != left {
			links = append(links, bothWays(r.at, m.at)...)
		}
	}
	n.cutLinks(links, d)
}

func (n *nemesis) crashMember(time.Duration) {
	m := n.anyMember()
	if m.up {
		n.w.stats.MemberCrashes++
		n.w.tracef(m.member, "%s crashes", m.processName())
		m.kill()
	}
}

// storm makes the whole network bad for a while.
func (n *nemesis) storm(d time.Duration) {
	net := n.w.network
	net.storms++
	net.quality.Loss, net.quality.Duplicate = n.rng.IntN(300), n.rng.IntN(200)
	net.quality.Late, net.quality.LateMax = n.rng.IntN(200), time.Duration(n.rng.Int64N(int64(3*n.w.scenario.TTL)))+ms
	n.w.tracef("", "storm: %+v", net.quality)
	n.lasting(d, func() {
		if net.storms--; net.storms == 0 {
			net.quality = n.w.scenario.Network
		}
	})
}

// bendClock changes the rate of one clock within what the scenario allows.
func (n *nemesis) bendClock(time.Duration) {
	if i := n.rng.IntN(len(n.w.replicas) + len(n.w.members)); i < len(n.w.replicas) {
		n.bend(&n.w.replicas[i].process)
	} else {
		n.bend(&n.w.members[i-len(n.w.replicas)].process)
	}
}

func (n *nemesis) bend(p *process) {
	ppm := n.w.scenario.Clocks.rate(n.rng)
	n.w.tracef(p.name, "clock rate changes to %+d ppm", ppm)
	p.clock.setRate(n.w.now, ppm)
	if p.up && p.blocked.forInputs && !p.paused {
		p.wakeBy(min(p.wakeAt, n.w.now+int64(ms))) // its timers go by the clock as it is now
	}
}

func (f FaultRate) check() error {
	if faults[f.Fault] == nil {
		return fmt.Errorf("faults: no fault is named %q; want one of %v", f.Fault, Faults())
	}
	if f.Every <= 0 || f.Min < 0 || f.Max < f.Min {
		return fmt.Errorf("faults: %s: every %v, min %v, max %v; want every > 0 and 0 <= min <= max", f.Fault, f.Every.D(), f.Min.D(), f.Max.D())
	}
	return nil
}

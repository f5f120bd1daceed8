// Package sim is a simulated world around the real core: replicas that run
// core's own Replica and Drive, members that run core's Member, resources that
// run core's Guard, and everything that goes wrong between them.
//
// There is one virtual time and one seed. A heap of events, ordered by time and
// then by the order of their making, is all that ever happens; every process is a
// coroutine that blocks in virtual time only. So a run is a function of its
// scenario and seed, and costs no waiting.
package sim

import (
	"container/heap"
	"fmt"
	"math/rand/v2"
	"time"

	"github.com/omnirelay/leadership/core"
	"github.com/omnirelay/leadership/core/plant"
	"github.com/omnirelay/leadership/sim/check"
)

// Options of one run.
type Options struct {
	Seed     uint64
	Scenario Scenario
	Log      Log
	Plants   plant.Set
	// StopAt ends the run at the first violation of one of these properties; empty:
	// at the first of any.
	StopAt []check.Property
	// Copy hands every receiver a copy of a message, as a real network does. Without
	// it messages are shared, which is faster and must make no difference.
	Copy bool
	// Trace keeps a line for what happens, for the explanation of a failure.
	Trace bool
}

// Log says what kind of log is under the core.
type Log string

const (
	LogRaft Log = "raft" // among the replicas; also the empty Log
	LogCAS  Log = "cas"  // compare and append, in an external store
)

// ParseLog reads the name of a log.
func ParseLog(name string) (Log, error) {
	if l := Log(name); l == LogRaft || l == LogCAS {
		return l, nil
	}
	return "", fmt.Errorf("no log is named %q; want raft or cas", name)
}

// World is one run.
type World struct {
	scenario Scenario
	plants   plant.Set
	seed     uint64
	copies   bool

	now    int64 // true time, nanoseconds
	events eventHeap
	order  uint64
	digest digest
	over   bool

	network *network
	store   *store      // nil: the replicas keep the log among themselves
	losses  []revisions // that an operator's jumps left behind
	// The latest of them led to this revision; earlier sessions ended with it.
	relocatedAt  uint64
	sessionsFrom core.SessionID
	replicas     []*replica
	members      []*member
	resources    []*resource
	subscribers  []*subscriber
	conns        uint64

	gossip   *gossip
	workload *workload
	nemesis  *nemesis
	nodes    *nodeOperators
	health   health
	checks   *checks
	stats    Stats
	trace    *trace
}

// event is something that happens at an instant.
type event struct {
	at    int64
	order uint64
	run   func()
}

type eventHeap []event

func (h eventHeap) Len() int { return len(h) }
func (h eventHeap) Less(i, j int) bool {
	if h[i].at != h[j].at {
		return h[i].at < h[j].at
	}
	return h[i].order < h[j].order
}
func (h eventHeap) Swap(i, j int) { h[i], h[j] = h[j], h[i] }
func (h *eventHeap) Push(x any)   { *h = append(*h, x.(event)) }
func (h *eventHeap) Pop() any {
	last := len(*h) - 1
	e := (*h)[last]
	(*h)[last] = event{}
	*h = (*h)[:last]
	return e
}

// Run simulates one seed of one scenario.
func Run(o Options) Report {
	return newWorld(o).play()
}

// play runs the world to its end.
func (w *World) play() Report {
	started := time.Now()
	defer w.stop()
	w.begin()
	end := int64(w.scenario.Duration)
	for len(w.events) > 0 && w.events[0].at <= end && !w.over {
		e := heap.Pop(&w.events).(event)
		w.now = e.at
		e.run()
	}
	if !w.over {
		w.now = end
		w.finish()
	}
	return w.report(time.Since(started))
}

func newWorld(o Options) *World {
	w := &World{scenario: o.Scenario.forSeed(o.Seed, o.Log), plants: o.Plants, seed: o.Seed, copies: o.Copy}
	if o.Trace {
		w.trace = &trace{}
	}
	s := &w.scenario
	nodes := s.Replicas + s.Spares
	machines := nodes + s.Members + s.Resources
	if o.Log == LogCAS {
		machines += storeMachines
		w.store = newStore(w, w.source("store"))
	}
	w.network = newNetwork(w, machines, s.Network, w.source("network"))
	w.checks = newChecks(w, o.StopAt)
	w.health.handedOver = -int64(time.Hour)
	w.workload = newWorkload(w, w.source("workload"))
	w.gossip = newGossip(w, w.source("gossip"))
	w.nemesis = newNemesis(w, w.source("faults"))
	w.nodes = newNodeOperators(w, w.source("nodes"))
	for i := range nodes {
		w.replicas = append(w.replicas, newReplica(w, core.NodeID(i+1), w.source(fmt.Sprint("replica", i))))
		w.replicas[i].idle = i >= s.Replicas
	}
	for i := range s.Members {
		w.members = append(w.members, newMember(w, i, endpoint(nodes+i), w.source(fmt.Sprint("member", i))))
	}
	for i := range s.Resources {
		at := endpoint(nodes + s.Members + i)
		w.resources = append(w.resources, newResource(w, fmt.Sprintf("resource-%d", i+1), at, w.source(fmt.Sprint("resource", i))))
	}
	for i := range s.Subscribers {
		w.subscribers = append(w.subscribers, newSubscriber(w, i, w.source(fmt.Sprint("subscriber", i))))
	}
	return w
}

// source is the randomness of one concern: what one draws more does not shift the
// others.
func (w *World) source(concern string) *rand.Rand {
	h := uint64(14695981039346656037)
	for i := 0; i < len(concern); i++ {
		h = (h ^ uint64(concern[i])) * 1099511628211
	}
	return rand.New(rand.NewPCG(w.seed, h))
}

// begin lets everything start.
func (w *World) begin() {
	for _, r := range w.running() {
		r.boot()
	}
	for _, m := range w.members {
		w.after(time.Duration(m.rng.Int64N(int64(time.Second))), m.boot)
	}
	for _, s := range w.subscribers {
		s.begin()
	}
	w.workload.begin()
	w.nodes.begin()
	w.gossip.begin()
	w.nemesis.begin()
	if w.store != nil {
		w.store.operator()
	}
	w.sample()
}

// stop ends every coroutine.
func (w *World) stop() {
	w.over = true
	w.nemesis.over = true
	for _, r := range w.replicas {
		r.kill()
	}
	for _, m := range w.members {
		m.kill()
	}
}

// at runs f at an instant.
func (w *World) at(t int64, f func()) {
	w.order++
	heap.Push(&w.events, event{at: t, order: w.order, run: f})
}

// after runs f when d has passed.
func (w *World) after(d time.Duration, f func()) { w.at(w.now+int64(d), f) }

// spread draws a stretch around mean: half of it to one and a half.
func spread(rng *rand.Rand, mean time.Duration) time.Duration {
	return mean/2 + time.Duration(rng.Int64N(int64(mean)+1))
}

// newClock is the clock of one machine: somewhere, and with some error of rate
// that the scenario allows.
func (w *World) newClock(rng *rand.Rand) *clock {
	return newClock(w.now, core.Time(rng.Int64N(int64(1000*time.Hour))), w.scenario.Clocks.rate(rng))
}

func (w *World) replicaConfig(r *replica) core.Config {
	voters := make([]core.NodeID, w.scenario.Replicas)
	for i := range voters {
		voters[i] = core.NodeID(i + 1)
	}
	c := core.Config{
		ID: r.id, Voters: voters, ClusterID: "sim", Store: w.store != nil, Seed: r.rng.Uint64(), Epsilon: w.scenario.Epsilon,
		FormationMembers: w.scenario.FormationMembers, SnapshotEntries: w.scenario.SnapshotEntries,
		RebalanceInterval: w.scenario.RebalanceInterval.D(), Plants: w.plants,
	}
	if w.scenario.Spares > 0 {
		c.Name, c.Addresses, c.Join = nodeNameOf(r), nodeAddressesOf(r), r.joins
	}
	return c
}

func (w *World) memberConfig(m *member) core.MemberConfig {
	return core.MemberConfig{
		MemberID: m.member, Weight: uint32(1 + m.index%2), TTL: w.scenario.TTL.D(), Epsilon: w.scenario.Epsilon,
		Seed: m.rng.Uint64(), Instance: m.processName(), Replaces: m.replaces, Manual: m.index != 1, Plants: w.plants,
	}
}

// resourceOf is the resource that the leader of a scope acts on.
func (w *World) resourceOf(scope string) *resource {
	return w.resources[len(scope)%len(w.resources)]
}

// restartLater brings a replica back that went down.
func (w *World) restartLater(r *replica) {
	if !w.over && !r.gone {
		w.after(w.nemesis.downtime(), r.boot)
	}
}

// rejoinLater brings a member back that went down; sometimes it can prove that
// its predecessor is dead.
func (w *World) rejoinLater(m *member) {
	if w.over {
		return
	}
	if !m.closing && w.nemesis.rng.IntN(3) == 0 {
		m.replaces = m.session
	}
	w.after(w.nemesis.downtime(), m.boot)
}

// tracef notes what happens, when the run is traced. about is a scope, a session
// or a process.
func (w *World) tracef(about, format string, args ...any) {
	if w.trace != nil {
		w.trace.add(w.now, about, fmt.Sprintf(format, args...))
	}
}

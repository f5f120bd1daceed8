package sim

import (
	"errors"
	"fmt"
	"math/rand/v2"
	"slices"
	"time"

	"go.etcd.io/raft/v3/raftpb"
	"google.golang.org/protobuf/proto"

	"github.com/omnirelay/leadership/core"
	"github.com/omnirelay/leadership/core/logpb"
)

// nodeOperators add, remove and replace nodes of the registry and move its registrar,
// through whatever replica, and repeat what they asked for. Machines that are not nodes
// yet are spares; one that broke or was removed is gone for ever.
type nodeOperators struct {
	w      *World
	rng    *rand.Rand
	nodes  []core.NodeInfo // as the reference registry has them
	voters []core.NodeID
	log    core.LogMembers  // whose majorities decide
	asked  []*logpb.Command // what was asked for, to be asked again
	said   map[string]bool  // names of removed nodes
}

func newNodeOperators(w *World, rng *rand.Rand) *nodeOperators {
	return &nodeOperators{w: w, rng: rng, said: map[string]bool{}}
}

func (o *nodeOperators) begin() {
	for i := range o.w.scenario.Replicas {
		o.voters = append(o.voters, core.NodeID(i+1))
	}
	o.log.Voters = o.voters
	if o.w.scenario.Spares > 0 {
		o.next()
	}
}

func (o *nodeOperators) next() {
	o.w.after(spread(o.rng, o.w.scenario.Workload.NodesEvery.D()), func() {
		if !o.w.nemesis.over {
			o.act()
			o.next()
		}
	})
}

func nodeNameOf(r *replica) string { return fmt.Sprintf("node-%d", r.id) }

func nodeAddressesOf(r *replica) core.NodeAddresses {
	return core.NodeAddresses{Peer: fmt.Sprintf("10.0.0.%d:7413", r.id)}
}

// node describes a machine to the registry.
func (o *nodeOperators) node(r *replica) *logpb.Node {
	return &logpb.Node{Id: uint64(r.id), Name: nodeNameOf(r), PeerAddress: nodeAddressesOf(r).Peer}
}

// follow takes the nodes of the registry at a newer revision.
func (o *nodeOperators) follow(g *core.Registry, log core.LogMembers) {
	if o.w.scenario.Spares == 0 {
		return
	}
	o.nodes = g.Nodes()
	for _, name := range g.RemovedNodes() {
		o.said[name] = true
	}
	if voters := g.Voters(); len(voters) > 0 {
		o.voters = voters
	}
	if !slices.Equal(log.Voters, o.log.Voters) || !slices.Equal(log.Outgoing, o.log.Outgoing) {
		o.log = log
		o.w.health.majorities = nil // other sets decide now, and are measured from now on
	}
}

// goes reports whether a node is on its way out: as registrar it gives its office away.
func (o *nodeOperators) goes(id core.NodeID) bool {
	i := slices.IndexFunc(o.nodes, func(n core.NodeInfo) bool { return n.ID == id })
	return i >= 0 && (o.nodes[i].Stage == core.NodeLeaving || slices.ContainsFunc(o.nodes, func(n core.NodeInfo) bool { return n.Replaces == o.nodes[i].Name }))
}

// act asks for one thing.
func (o *nodeOperators) act() {
	switch roll := o.rng.IntN(20); {
	case roll < 5:
		o.add()
	case roll < 8:
		o.remove()
	case roll < 12:
		o.replace(o.present())
	case roll < 15:
		o.breakDown()
	case roll < 17:
		o.submit(&logpb.Command{Kind: &logpb.Command_MoveRegistrar{MoveRegistrar: &logpb.MoveRegistrar{To: o.someName()}}})
	case roll < 18:
		o.reuse()
	default:
		o.again()
	}
}

// submit asks for a change of nodes.
func (o *nodeOperators) submit(c *logpb.Command) {
	c.Why = "sim"
	o.asked = append(o.asked, c)
	o.w.tracef("", "asks for %v", c.Kind)
	o.w.workload.submit(cloneOf(c), 0)
}

// again asks for something a second time, under another request id.
func (o *nodeOperators) again() {
	if len(o.asked) > 0 {
		c := o.asked[o.rng.IntN(len(o.asked))]
		o.w.workload.submit(cloneOf(c), 0)
	}
}

func cloneOf(c *logpb.Command) *logpb.Command {
	return &logpb.Command{Kind: c.Kind, Why: c.Why}
}

func (o *nodeOperators) someName() string {
	if len(o.nodes) == 0 || o.rng.IntN(4) == 0 {
		return ""
	}
	return o.nodes[o.rng.IntN(len(o.nodes))].Name
}

// present is the name of a node that was not removed; those whose machine broke first.
func (o *nodeOperators) present() string {
	for _, n := range o.nodes {
		if o.w.replicas[n.ID-1].gone && o.rng.IntN(2) == 0 {
			return n.Name
		}
	}
	return o.someName()
}

// spare starts a machine that has never been a node, and returns it; nil: there is none.
// Sometimes it is late.
func (o *nodeOperators) spare() *replica {
	for _, r := range o.w.replicas {
		if r.idle {
			r.idle, r.joins = false, true
			o.w.after(time.Duration(o.rng.Int64N(int64(2*sec))), r.boot)
			return r
		}
	}
	return nil
}

// most is how many nodes the operators want at most.
const most = 5

func (o *nodeOperators) add() {
	if len(o.nodes) >= most {
		return
	}
	if r := o.spare(); r != nil {
		o.submit(&logpb.Command{Kind: &logpb.Command_AddNode{AddNode: &logpb.AddNode{Node: o.node(r)}}})
	}
}

func (o *nodeOperators) remove() {
	if name := o.present(); name != "" && len(o.nodes) > 2 {
		o.submit(&logpb.Command{Kind: &logpb.Command_RemoveNode{RemoveNode: &logpb.RemoveNode{Name: name}}})
	}
}

func (o *nodeOperators) replace(name string) {
	if name == "" {
		return
	}
	if r := o.spare(); r != nil {
		o.submit(&logpb.Command{Kind: &logpb.Command_ReplaceNode{ReplaceNode: &logpb.ReplaceNode{Name: name, By: o.node(r)}}})
	}
}

// breakDown destroys the machine of a voter with all that is on it, when the others can
// do without, and has it replaced or removed.
func (o *nodeOperators) breakDown() {
	for _, n := range o.nodes {
		if n.Stage != core.NodeVoter || n.Replaces != "" || o.w.replicas[n.ID-1].gone {
			return
		}
	}
	if len(o.nodes) < 3 || len(o.nodes) != len(o.voters) {
		return
	}
	n := o.nodes[o.rng.IntN(len(o.nodes))]
	r := o.w.replicas[n.ID-1]
	r.gone = true
	o.w.tracef(r.name, "breaks for ever")
	o.w.nemesis.crash(r)
	o.w.healthChanged()
	if o.rng.IntN(3) == 0 {
		o.submit(&logpb.Command{Kind: &logpb.Command_RemoveNode{RemoveNode: &logpb.RemoveNode{Name: n.Name}}})
	} else {
		o.replace(n.Name)
	}
}

// reuse asks for a node under a name that was removed; on a machine that forgot all.
func (o *nodeOperators) reuse() {
	for _, r := range o.w.replicas {
		if r.gone && o.said[nodeNameOf(r)] {
			o.submit(&logpb.Command{Kind: &logpb.Command_AddNode{AddNode: &logpb.AddNode{Node: o.node(r)}}})
			return
		}
	}
}

// running are the machines that are nodes, or are to become some.
func (w *World) running() []*replica {
	if w.scenario.Spares == 0 {
		return w.replicas
	}
	var all []*replica
	for _, r := range w.replicas {
		if !r.idle && !r.gone {
			all = append(all, r)
		}
	}
	if len(all) == 0 {
		return w.replicas[:1] // which is down
	}
	return all
}

// removedHalt takes in that a replica stopped because it was removed.
func (w *World) removedHalt(r *replica, err error) bool {
	if !errors.Is(err, core.ErrRemoved) {
		return false
	}
	r.gone = true
	w.tracef(r.name, "learns that it was removed")
	if !w.nodes.said[nodeNameOf(r)] {
		w.checks.orderly.WronglyRemoved(w.now, r.id)
	}
	return true
}

// turnAway tells a node that it was removed, as its peer's transport does; false: it may
// speak.
func (w *World) turnAway(from, to *replica) bool {
	if w.scenario.Spares == 0 || to.core == nil || !to.core.Registry().RemovedNode(from.id) {
		return false
	}
	life := from.incarnation
	w.network.send(to.at, from.at, func() {
		if from.incarnation == life {
			from.receive(core.Input{Removed: true})
		}
	})
	return true
}

// checkNodes compares the log's members of a replica with those of its registry.
func (w *World) checkNodes(r *replica) {
	g := r.core.Registry()
	if w.scenario.Spares == 0 || g.ClusterID() == "" {
		return
	}
	w.checks.orderly.Members(w.now, r.id, g.Revision(), r.core.Members(), g.Voters())
}

// nodeRecord holds a record about a node against the disks.
func (c *checks) nodeRecord(at int64, rec *core.Record) {
	var newest uint64
	for _, r := range c.w.replicas {
		if nodeNameOf(r) == rec.Subject {
			newest = max(r.disk.snapshot.GetMetadata().GetIndex(), newest)
			if n := len(r.disk.entries); n > 0 {
				newest = max(newest, r.disk.entries[n-1].GetIndex())
			}
		}
	}
	c.orderly.Record(at, rec, newest)
}

// settleNodes looks for what was asked for and not done.
func (w *World) settleNodes() {
	if w.scenario.Spares == 0 {
		return
	}
	for _, v := range w.nodes.voters {
		if w.replicas[v-1].gone {
			return // somebody must take it away before anything else is sure to go on
		}
	}
	for _, n := range w.nodes.nodes {
		if n.Stage == core.NodeVoter && n.Replaces == "" || w.replicas[n.ID-1].gone && n.Stage == core.NodeLearner {
			continue
		}
		why := "nobody says why"
		for _, s := range w.replicas {
			for _, p := range s.status.Nodes {
				if s.up && p.ID == n.ID && p.Waits != "" {
					why = p.Waits
				}
			}
		}
		w.checks.orderly.Unsettled(w.now, n, why)
	}
}

// splitAtMembers waits for the moment in which a registrar is about to tell that a change
// of the voters is committed: those that it gains go on with it, the others are cut off
// and count the voters of before. It reports whether the message is swallowed.
func (n *nemesis) splitAtMembers(r *replica, m *core.Message) bool {
	if n.atMembers == 0 || n.over || !r.status.IsRegistrar {
		return false
	}
	gained := r.gainsBy(m.Raft.GetCommit())
	if gained == nil {
		return false
	}
	d := n.atMembers
	n.atMembers = 0
	n.w.tracef(r.name, "is cut off with %v, which it gains as voters, for %v", gained, d)
	side := func(id core.NodeID) bool { return id == r.id || slices.Contains(gained, id) }
	var links [][2]endpoint
	for _, a := range n.w.replicas {
		for _, b := range n.w.replicas {
			if side(a.id) != side(b.id) {
				links = append(links, [2]endpoint{a.at, b.at})
			}
		}
	}
	n.cutLinks(links, d)
	return !side(m.To)
}

// gainsBy lists the voters that a replica gains by the entries up to commit that it has
// not applied yet; nil: its voters do not change.
func (r *replica) gainsBy(commit uint64) (gained []core.NodeID) {
	for i := r.core.Registry().Revision() + 1; i <= commit; i++ {
		e := r.disk.entry(i)
		change := &raftpb.ConfChangeV2{}
		if e.GetType() != raftpb.EntryConfChangeV2 || proto.Unmarshal(e.GetData(), change) != nil {
			continue
		}
		for _, c := range change.GetChanges() {
			switch c.GetType() {
			case raftpb.ConfChangeAddNode:
				gained = append(gained, core.NodeID(c.GetNodeId()))
			case raftpb.ConfChangeRemoveNode:
				gained = append(gained, r.id) // nobody, and yet the voters change
			}
		}
	}
	return gained
}

func nodeChurn() Scenario {
	s := baseline("node-churn", "nodes are added, removed, replaced and broken, and the registrar is moved, while links break and processes die")
	s.only = LogRaft
	s.Spares = 6
	s.Workload.NodesEvery = Duration(2500 * ms)
	s.Faults = []FaultRate{
		fault("split-at-members", 3*sec, 1*sec, 4*sec),
		fault("replica-crash", 4*sec, 50*ms, 2*sec),
		fault("replica-crash-at-port", 4*sec, 50*ms, 2*sec),
		fault("isolate-registrar", 6*sec, 300*ms, 3*sec),
		fault("isolate-replica", 5*sec, 300*ms, 4*sec),
		fault("split", 12*sec, 300*ms, 3*sec),
		fault("replica-pause", 8*sec, 300*ms, 3*sec),
		fault("all-crash", 25*sec, 50*ms, 1*sec),
		fault("hand-over", 9*sec, 0, 0),
		fault("storm", 12*sec, 500*ms, 3*sec),
		fault("member-crash", 10*sec, 0, 0),
	}
	s.vary = func(s *Scenario, rng *rand.Rand) {
		s.Faults = chosen(s.Faults, rng)
		s.SnapshotEntries = []uint64{8, 40, 10_000}[rng.IntN(3)]
		if rng.IntN(4) == 0 {
			s.Replicas, s.Spares = 2+rng.IntN(3), 5
		}
		s.Workload.NodesEvery = Duration(time.Duration(800+rng.IntN(3000)) * ms)
	}
	return s
}

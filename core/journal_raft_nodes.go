package core

import (
	"fmt"
	"slices"
	"strings"

	"go.etcd.io/raft/v3"
	"go.etcd.io/raft/v3/raftpb"
	"go.etcd.io/raft/v3/tracker"
	"google.golang.org/protobuf/proto"

	"github.com/omnirelay/leadership/core/logpb"
	"github.com/omnirelay/leadership/core/plant"
)

// The members of the raft log, and how the registrar brings them to agree with the
// registry's table of nodes: one change at a time, each looked at anew. Whoever becomes
// registrar goes on where the last one stopped, since all that counts is in the table
// and in the log.
//
// Intuition: a new node first only listens. When it has all but the newest entries it
// gets its vote; the node that it replaces loses its own in the same step, for which a
// majority of the old voters and a majority of the new ones are needed (joint consensus;
// raft leaves that state by itself). So at no moment can two majorities exist that
// share nobody.

// maxLearnerLag is how many entries a learner may be behind when it gets its vote. More
// would leave the new majority waiting for it.
const maxLearnerLag = 64

// LogMembers returns the members of the log by its present configuration.
func membersOf(c *raftpb.ConfState) LogMembers {
	return LogMembers{
		Voters: nodeIDs(c.GetVoters()), Outgoing: nodeIDs(c.GetVotersOutgoing()), Learners: nodeIDs(append(slices.Clone(c.GetLearners()), c.GetLearnersNext()...)),
	}
}

func nodeIDs(ids []uint64) []NodeID {
	nodes := make([]NodeID, len(ids))
	for i, id := range ids {
		nodes[i] = NodeID(id)
	}
	slices.Sort(nodes)
	return nodes
}

// firstVoters are the voters that a log without a snapshot began with: those of its
// first command, when it holds that. The configuration may name others by now.
func (j *raftJournal) firstVoters(entries []*raftpb.Entry) []NodeID {
	for _, e := range entries {
		if e.GetType() != raftpb.EntryNormal || len(e.GetData()) == 0 {
			continue
		}
		entry := &logpb.Entry{}
		if proto.Unmarshal(e.GetData(), entry) != nil {
			break // applying it will say what is wrong
		}
		for _, c := range entry.Commands {
			if b := c.GetBootstrap(); b != nil {
				return nodeIDs(b.Voters)
			}
		}
	}
	return j.r.cfg.Voters
}

// votes reports whether this replica may vote: whoever may not never stands.
func (j *raftJournal) votes() bool {
	id := uint64(j.r.cfg.ID)
	return slices.Contains(j.confState.GetVoters(), id) || slices.Contains(j.confState.GetVotersOutgoing(), id)
}

// joins reports whether this replica still waits for the first word of a log that it
// is to join.
func (j *raftJournal) joins() bool { return len(j.confState.GetVoters()) == 0 }

// applyChange applies an entry that changes the members of the log. raft must be told
// of each, also of those that a restart replays.
func (j *raftJournal) applyChange(e *raftpb.Entry) error {
	change := &raftpb.ConfChangeV2{}
	if err := proto.Unmarshal(e.GetData(), change); err != nil {
		return fmt.Errorf("a change of the voters does not decode: %w", err)
	}
	if had := membersOf(j.confState); !sameVoters(&had, j.r.registry.voters) {
		return fmt.Errorf("the voters change, and this node took part in another log than the others: it counts %v, the registry %v; its peers were configured differently when it started first", had.Voters, j.r.registry.voters)
	}
	if !j.plantForgotten(e) {
		j.confState = j.plantAtOnce(change, j.node.ApplyConfChange(change))
	}
	out, err := j.r.registry.ApplyMembers(e.GetIndex(), change.GetContext(), membersOf(j.confState))
	if err != nil {
		return err
	}
	j.changeDue, j.membersChanged, j.askAgain = j.r.now, true, j.asked
	return j.r.applied(e.GetTerm(), out)
}

func sameVoters(m *LogMembers, voters []NodeID) bool {
	all := slices.Concat(m.Voters, m.Outgoing)
	slices.Sort(all)
	known := slices.Clone(voters)
	slices.Sort(known)
	return slices.Equal(slices.Compact(all), slices.Compact(known))
}

// plantAtOnce leaves the joint state as soon as it is entered.
func (j *raftJournal) plantAtOnce(change *raftpb.ConfChangeV2, c *raftpb.ConfState) *raftpb.ConfState {
	if j.r.cfg.Plants.Has(plant.ReplaceAtOnce) && len(c.GetVotersOutgoing()) > 0 {
		return j.node.ApplyConfChange(&raftpb.ConfChangeV2{})
	}
	return c
}

func (j *raftJournal) plantForgotten(e *raftpb.Entry) bool {
	return j.r.cfg.Plants.Has(plant.MembersForgotten) && e.GetIndex() <= j.bootCommit
}

// heardLately reports whether another replica said anything within an election timeout.
func (j *raftJournal) heardLately(id NodeID) bool {
	at, ever := j.heard[id]
	return id == j.r.cfg.ID || (ever && j.r.now.Sub(at) < j.r.cfg.ElectionTimeout)
}

// reachable lists who was heard lately, sorted; this replica among them.
func (j *raftJournal) reachable() (ids []uint64) {
	for _, n := range j.r.registry.Nodes() {
		if j.heardLately(n.ID) {
			ids = append(ids, uint64(n.ID))
		}
	}
	slices.Sort(ids)
	return ids
}

// progress is how far each member of the log is, as the registrar knows; sorted by id.
func (j *raftJournal) progress() (all []NodeProgress) {
	if !j.r.leading {
		return nil
	}
	j.node.WithProgress(func(id uint64, _ raft.ProgressType, pr raftProgress) {
		all = append(all, NodeProgress{ID: NodeID(id), Match: pr.Match, Active: j.heardLately(NodeID(id)), Waits: j.waits[NodeID(id)]})
	})
	return all
}

// changeNodes takes the next step towards what the registry wants of its nodes.
func (j *raftJournal) changeNodes() {
	if len(j.confState.GetVotersOutgoing()) > 0 {
		j.leaveJoint()
		return // one step at a time
	}
	if j.r.now < j.changeDue {
		return
	}
	clear(j.waits)
	for _, id := range sortedKeys(j.r.registry.nodes) {
		n := j.r.registry.nodes[id]
		s := j.stepFor(n)
		switch {
		case s.waits != "":
			j.waits[id] = s.waits
		case s.handOver:
			j.changeDue = j.r.now.Add(j.r.cfg.ElectionTimeout)
			j.handOver()
			return
		case len(s.changes) > 0:
			j.changeDue = j.r.now.Add(j.r.cfg.ElectionTimeout)
			j.proposeChange(s.changes)
			return
		}
	}
}

// leaveJoint sees to it that raft leaves the joint state. It proposes that by itself when
// it has applied something, but not again if the proposal was dropped, as all are while the
// office is handed over: on a quiet cluster both majorities would be needed for ever. So
// after a while there is something to apply.
func (j *raftJournal) leaveJoint() {
	if j.r.now < j.changeDue.Add(j.r.cfg.ElectionTimeout) {
		return
	}
	j.changeDue = j.r.now
	if err := j.node.Propose(nil); err != nil {
		j.r.cfg.Logger.Warningf("leaving the joint state: %v", err) // tried again
	}
}

// nodeStep is what to do next about a node: one of the three, or nothing.
type nodeStep struct {
	changes  []*raftpb.ConfChangeSingle
	handOver bool   // the registrar itself is to go: another takes the office first
	waits    string // why nothing can be done yet
}

func change(kind raftpb.ConfChangeType, id NodeID) *raftpb.ConfChangeSingle {
	return &raftpb.ConfChangeSingle{Type: kind.Enum(), NodeId: proto.Uint64(uint64(id))}
}

func (j *raftJournal) stepFor(n *logpb.Node) nodeStep {
	id := NodeID(n.Id)
	switch n.Stage {
	case logpb.Node_STAGE_JOINING:
		return nodeStep{changes: []*raftpb.ConfChangeSingle{change(raftpb.ConfChangeAddLearnerNode, id)}}
	case logpb.Node_STAGE_LEARNER:
		return j.promote(n)
	case logpb.Node_STAGE_LEAVING:
		return j.removal(id)
	case logpb.Node_STAGE_VOTER:
		if old := j.r.registry.nodeNamed(n.Replaces); old != nil && n.Replaces != "" {
			return j.removal(NodeID(old.Id))
		}
	}
	return nodeStep{}
}

// promote gives a learner its vote, once it has caught up, and takes that of the node
// which it replaces.
func (j *raftJournal) promote(n *logpb.Node) nodeStep {
	id := NodeID(n.Id)
	if waits := j.notCaughtUp(id); waits != "" && !j.r.cfg.Plants.Has(plant.PromoteUncaught) {
		return nodeStep{waits: waits}
	}
	changes := []*raftpb.ConfChangeSingle{change(raftpb.ConfChangeAddNode, id)}
	voters := append(nodeIDs(j.confState.GetVoters()), id)
	if old := j.r.registry.nodeNamed(n.Replaces); old != nil && n.Replaces != "" {
		replaced := NodeID(old.Id)
		switch {
		case replaced != j.r.cfg.ID:
			changes = append(changes, change(raftpb.ConfChangeRemoveNode, replaced))
			voters = without(voters, replaced)
		case j.heir(true) != 0:
			return nodeStep{handOver: true}
		}
		// Nobody else can take the office: the new node votes first, and takes it then.
	}
	if waits := j.majorityOf(voters); waits != "" {
		return nodeStep{waits: waits}
	}
	return nodeStep{changes: changes}
}

func (j *raftJournal) notCaughtUp(id NodeID) string {
	var pr raftProgress
	j.node.WithProgress(func(p uint64, _ raft.ProgressType, has raftProgress) {
		if NodeID(p) == id {
			pr = has
		}
	})
	g := j.r.registry
	switch {
	case !j.heardLately(id):
		return "it is not heard from: start it, and check its addresses"
	case pr.State != tracker.StateReplicate || pr.Match+maxLearnerLag < j.commit:
		return fmt.Sprintf("it is catching up: it has entries up to %d of %d", pr.Match, j.commit)
	case g.AnnouncedVersion(id) < g.Version():
		return fmt.Sprintf("it has not said that it understands protocol version %d", g.Version())
	}
	return ""
}

// removal takes a node out of the log.
func (j *raftJournal) removal(id NodeID) nodeStep {
	if id == j.r.cfg.ID && j.votes() {
		if j.heir(true) == 0 {
			return nodeStep{waits: "it is registrar, and no voter that stays can be reached to take the office"}
		}
		return nodeStep{handOver: true}
	}
	voters := nodeIDs(j.confState.GetVoters())
	if slices.Contains(voters, id) {
		if waits := j.majorityOf(without(voters, id)); waits != "" {
			return nodeStep{waits: waits}
		}
	}
	return nodeStep{changes: []*raftpb.ConfChangeSingle{change(raftpb.ConfChangeRemoveNode, id)}}
}

func without(ids []NodeID, id NodeID) []NodeID {
	return slices.DeleteFunc(slices.Clone(ids), func(v NodeID) bool { return v == id })
}

// majorityOf says what is missing for a majority of voters to be reachable: without one
// the log would stand still after the change.
func (j *raftJournal) majorityOf(voters []NodeID) string {
	var silent []string
	for _, v := range voters {
		if !j.heardLately(v) {
			silent = append(silent, j.nodeName(v))
		}
	}
	if alive := len(voters) - len(silent); alive < len(voters)/2+1 {
		return fmt.Sprintf("afterwards only %d of %d voters could be reached; not heard from: %s", alive, len(voters), strings.Join(silent, ", "))
	}
	return ""
}

func (j *raftJournal) nodeName(id NodeID) string {
	if n := j.r.registry.nodes[id]; n != nil {
		return n.Name
	}
	return j.r.cfg.voterName(id)
}

// proposeChange puts a change of the log's members into the log. raft turns one that
// comes too early into an entry that does nothing; then it is proposed again.
func (j *raftJournal) proposeChange(changes []*raftpb.ConfChangeSingle) {
	context, err := proto.Marshal(&logpb.Entry{Proposer: uint64(j.r.cfg.ID), WallNs: j.r.wall})
	if err == nil {
		err = j.node.ProposeConfChange(&raftpb.ConfChangeV2{Changes: changes, Context: context})
	}
	if err != nil {
		j.r.cfg.Logger.Warningf("a change of the voters was not taken: %v", err)
	}
}

// heir is the voter that is furthest, of those that were heard lately or at least
// answered raft; stays leaves out those that are to go. 0: none.
func (j *raftJournal) heir(stays bool) NodeID {
	var best NodeID
	var match uint64
	j.node.WithProgress(func(id uint64, kind raft.ProgressType, pr raftProgress) {
		n := NodeID(id)
		if kind == raft.ProgressTypeLearner || n == j.r.cfg.ID || !pr.RecentActive || !slices.Contains(j.confState.GetVoters(), id) {
			return
		}
		if (!stays || j.r.registry.stays(n)) && (best == 0 || pr.Match > match) {
			best, match = n, pr.Match
		}
	})
	return best
}

// stays reports whether nobody asked that a voter goes.
func (g *Registry) stays(id NodeID) bool {
	n := g.nodes[id]
	return n == nil || (n.Stage == logpb.Node_STAGE_VOTER && g.replacerOf(n.Name) == nil)
}

func (j *raftJournal) plantStale() *raftpb.ConfState {
	if j.r.cfg.Plants.Has(plant.StaleMembers) && !j.r.cfg.Join {
		return FirstRaftSnapshot(j.r.cfg.Voters, firstIndex, nil).GetMetadata().GetConfState()
	}
	return j.confState
}

package core

import (
	"cmp"
	"fmt"
	"hash/fnv"
	"slices"
	"strings"

	"github.com/omnirelay/leadership/core/logpb"
	"github.com/omnirelay/leadership/core/plant"
)

// The nodes that keep the registry, as the registry itself knows them: what was asked
// for by commands, and what has become of it by changes of the log's own members
// (journal_raft_nodes.go), which every replica applies at the same index. The registrar
// brings the second to agree with the first, step by step.
//
// A node is joining until the log goes to it, then a learner without a vote, then a
// voter; leaving from the command that removes it until the log no longer knows it.

// nodesVersion is the protocol version from which on there is a table of nodes.
const nodesVersion = 3

// NodeStage says what a node is to the registry.
type NodeStage uint8

const (
	NodeLearner NodeStage = iota + 1 // it receives the log, or is about to, and has no vote
	NodeVoter
	NodeLeaving // it is to be removed
)

func (s NodeStage) String() string {
	switch s {
	case NodeLearner:
		return "learner"
	case NodeVoter:
		return "voter"
	case NodeLeaving:
		return "leaving"
	}
	return fmt.Sprintf("stage %d", uint8(s))
}

// NodeInfo describes one node that keeps the registry.
type NodeInfo struct {
	ID NodeID
	// Name and the addresses, host:port, are empty for a voter that has not told them yet.
	Name, PeerAddress, HTTPAddress, GRPCAddress string
	Stage                                       NodeStage
	// Replaces names the node that is removed in the step that makes this one a voter.
	Replaces string
}

// NodeIDOf is the id of the node with a name: its FNV-1a hash, so that it depends
// neither on the other nodes nor on their order. Never 0.
func NodeIDOf(name string) NodeID {
	h := fnv.New64a()
	h.Write([]byte(name))
	return NodeID(max(h.Sum64(), 1))
}

// Nodes describes every node that keeps the registry, sorted by name.
func (g *Registry) Nodes() []NodeInfo {
	all := make([]NodeInfo, 0, len(g.nodes))
	for _, v := range g.voters {
		if g.nodes[v] == nil {
			all = append(all, NodeInfo{ID: v, Stage: NodeVoter})
		}
	}
	for _, id := range sortedKeys(g.nodes) {
		all = append(all, infoOf(g.nodes[id]))
	}
	slices.SortStableFunc(all, func(a, b NodeInfo) int { return strings.Compare(a.Name, b.Name) })
	return all
}

// Node describes the node of a name.
func (g *Registry) Node(name string) (NodeInfo, bool) {
	if n := g.nodeNamed(name); n != nil {
		return infoOf(n), true
	}
	return NodeInfo{}, false
}

// RemovedNodes lists the names that are never used again, sorted.
func (g *Registry) RemovedNodes() []string { return sortedKeys(g.removed) }

// Voters lists the nodes that vote, while they change those of before and after.
func (g *Registry) Voters() []NodeID { return slices.Clone(g.voters) }

// RemovedNode reports whether a node was removed, by its id.
func (g *Registry) RemovedNode(id NodeID) bool { return g.removedIDs[id] }

func infoOf(n *logpb.Node) NodeInfo {
	i := NodeInfo{
		ID: NodeID(n.Id), Name: n.Name, PeerAddress: n.PeerAddress, HTTPAddress: n.HttpAddress, GRPCAddress: n.GrpcAddress, Replaces: n.Replaces,
	}
	switch n.Stage {
	case logpb.Node_STAGE_JOINING, logpb.Node_STAGE_LEARNER:
		i.Stage = NodeLearner
	case logpb.Node_STAGE_VOTER:
		i.Stage = NodeVoter
	case logpb.Node_STAGE_LEAVING:
		i.Stage = NodeLeaving
	}
	return i
}

func (g *Registry) nodeNamed(name string) *logpb.Node {
	for _, id := range sortedKeys(g.nodes) {
		if g.nodes[id].Name == name {
			return g.nodes[id]
		}
	}
	return nil
}

// introduceNode takes what a replica tells of itself.
func (g *Registry) introduceNode(id NodeID, n *logpb.Node) *Error {
	if err := checkNodeName("node.name", n.Name); err != nil {
		return err
	}
	if err := checkNodeAddresses("node", n); err != nil {
		return err
	}
	known := g.nodes[id]
	switch named := g.nodeNamed(n.Name); {
	case g.removedIDs[id]:
		return refuse(CodeConflict, "node %q was removed", n.Name)
	case named != nil && NodeID(named.Id) != id:
		return refuse(CodeConflict, "node %d is called %q already", named.Id, n.Name)
	case known != nil && known.Name != n.Name:
		return refuse(CodeConflict, "node %d is called %q here; a node keeps its name", id, known.Name)
	case known == nil && !slices.Contains(g.voters, id):
		return refuse(CodeNotFound, "node %q was not added", n.Name)
	case known == nil:
		known = &logpb.Node{Id: uint64(id), Name: n.Name, Stage: logpb.Node_STAGE_VOTER}
		g.nodes[id] = known
	}
	// A node that does not know an address of its own leaves the one it was added with.
	known.PeerAddress = cmp.Or(n.PeerAddress, known.PeerAddress)
	known.HttpAddress = cmp.Or(n.HttpAddress, known.HttpAddress)
	known.GrpcAddress = cmp.Or(n.GrpcAddress, known.GrpcAddress)
	return nil
}

func sameNode(a, b *logpb.Node) bool {
	return a.Id == b.Id && a.Name == b.Name && a.PeerAddress == b.PeerAddress && a.HttpAddress == b.HttpAddress && a.GrpcAddress == b.GrpcAddress
}

func (g *Registry) addNode(c *logpb.AddNode) *Error {
	known, err := g.admissible(c.Node)
	if known != nil || err != nil {
		return err
	}
	return g.join(c.Node, "")
}

// admissible finds a node that is there already just as it is asked for, or says why
// it cannot come.
func (g *Registry) admissible(n *logpb.Node) (known *logpb.Node, err *Error) {
	if _, removed := g.removed[n.Name]; removed && !g.plants.Has(plant.RemovedNameReused) {
		return nil, refuse(CodeConflict, "node %q was removed, and its name is never used again: its disk may have forgotten its votes; choose another name", n.Name)
	}
	if known = g.nodeNamed(n.Name); known != nil {
		switch {
		case known.Stage == logpb.Node_STAGE_LEAVING:
			return nil, refuse(CodeConflict, "node %q is being removed; choose another name", n.Name)
		case !sameNode(known, n):
			return nil, refuse(CodeConflict, "node %q is there with other addresses (peer %s); it announces new ones itself when it starts with them", n.Name, known.PeerAddress)
		}
		return known, nil
	}
	if g.nodes[NodeID(n.Id)] != nil || slices.Contains(g.voters, NodeID(n.Id)) {
		return nil, refuse(CodeConflict, "id %d of node %q is that of another node; choose another name", n.Id, n.Name)
	}
	return nil, nil
}

// join puts a new node into the table.
func (g *Registry) join(n *logpb.Node, replaces string) *Error {
	if len(g.nodes) >= MaxNodes {
		return &Error{Code: CodeLimit, Field: "node", Message: fmt.Sprintf("%d nodes are there already; remove one first", MaxNodes)}
	}
	if replaces == "" && g.votersToBe()+1 > MaxReplicas {
		return &Error{Code: CodeLimit, Field: "node", Message: fmt.Sprintf("at most %d nodes may vote; remove or replace one", MaxReplicas)}
	}
	if len(g.removed)+len(g.nodes) >= MaxRemovedNodes {
		return &Error{Code: CodeLimit, Field: "node", Message: fmt.Sprintf("%d names of removed nodes are remembered, and no more can be", MaxRemovedNodes)}
	}
	added := &logpb.Node{
		Id: n.Id, Name: n.Name, PeerAddress: n.PeerAddress, HttpAddress: n.HttpAddress, GrpcAddress: n.GrpcAddress,
		Stage: logpb.Node_STAGE_JOINING, Replaces: replaces,
	}
	g.nodes[NodeID(n.Id)] = added
	if id, was := g.removed[n.Name]; was { // planted
		delete(g.removed, n.Name)
		delete(g.removedIDs, id)
	}
	g.askedBy(added)
	return nil
}

// askedBy remembers who asked for what is under way with a node.
func (g *Registry) askedBy(n *logpb.Node) {
	n.CorrelationId, n.Actor, n.Why = g.command.CorrelationId, g.command.Actor, g.command.Why
	g.outcome.Nodes = true
}

// votersToBe is how many nodes vote when all that was asked for is done.
func (g *Registry) votersToBe() int {
	count := 0
	for _, n := range g.Nodes() {
		if n.Stage != NodeLeaving && n.Replaces == "" {
			count++
		}
	}
	return count
}

func (g *Registry) replaceNode(c *logpb.ReplaceNode) *Error {
	by, err := g.admissible(c.By)
	if err != nil {
		return err
	}
	if _, gone := g.removed[c.Name]; gone && by != nil {
		return nil // done already
	}
	old := g.nodeNamed(c.Name)
	if old == nil {
		return g.noSuchNode(c.Name)
	}
	if by != nil && by.Replaces == c.Name {
		return nil
	}
	switch other := g.replacerOf(c.Name); {
	case other != nil:
		return refuse(CodeConflict, "node %q is being replaced by %q; remove that one first", c.Name, other.Name)
	case old.Stage == logpb.Node_STAGE_LEAVING:
		return refuse(CodeConflict, "node %q is being removed; add %q instead", c.Name, c.By.Name)
	case old.Stage != logpb.Node_STAGE_VOTER:
		return refuse(CodeConflict, "node %q has no vote yet; remove it, and add %q", c.Name, c.By.Name)
	case by == nil:
		return g.join(c.By, c.Name)
	case by.Stage == logpb.Node_STAGE_VOTER:
		return refuse(CodeConflict, "node %q votes already; remove %q", by.Name, c.Name)
	}
	by.Replaces = c.Name
	g.askedBy(by)
	return nil
}

func (g *Registry) noSuchNode(name string) *Error {
	if _, gone := g.removed[name]; gone {
		return refuse(CodeNotFound, "node %q was removed already", name)
	}
	return refuse(CodeNotFound, "no node is called %q", name)
}

// replacerOf is the node that takes the place of another.
func (g *Registry) replacerOf(name string) *logpb.Node {
	for _, id := range sortedKeys(g.nodes) {
		if g.nodes[id].Replaces == name && g.nodes[id].Stage != logpb.Node_STAGE_LEAVING {
			return g.nodes[id]
		}
	}
	return nil
}

func (g *Registry) removeNode(c *logpb.RemoveNode) *Error {
	n := g.nodeNamed(c.Name)
	if _, gone := g.removed[c.Name]; gone || (n != nil && n.Stage == logpb.Node_STAGE_LEAVING) {
		return nil
	}
	if n == nil {
		return g.noSuchNode(c.Name)
	}
	if n.Stage == logpb.Node_STAGE_VOTER {
		if err := g.spares(NodeID(n.Id), c.Reachable); err != nil {
			return err
		}
	}
	n.Stage, n.Replaces = logpb.Node_STAGE_LEAVING, ""
	g.askedBy(n)
	return nil
}

// spares reports whether the voters can do without one of them.
func (g *Registry) spares(id NodeID, reachable []uint64) *Error {
	var left, silent []string
	for _, n := range g.Nodes() {
		if n.Stage != NodeVoter || n.ID == id {
			continue
		}
		left = append(left, n.Name)
		if !slices.Contains(reachable, uint64(n.ID)) {
			silent = append(silent, n.Name)
		}
	}
	switch alive := len(left) - len(silent); {
	case len(left) == 0:
		return refuse(CodeConflict, "it is the last voter; add another node first, or replace it")
	case alive < len(left)/2+1:
		return refuse(CodeConflict, "of the %d voters that would be left only %d can be reached, fewer than a majority; bring back, replace or remove %s first",
			len(left), alive, strings.Join(silent, ", "))
	}
	return nil
}

// moveRegistrar leaves a word for the registrar, which acts when it applies it.
func (g *Registry) moveRegistrar(c *logpb.MoveRegistrar) *Error {
	move := &RegistrarMove{}
	if c.To != "" {
		n := g.nodeNamed(c.To)
		switch {
		case n == nil:
			return g.noSuchNode(c.To)
		case n.Stage != logpb.Node_STAGE_VOTER:
			return refuse(CodeConflict, "node %q is %s, and only a voter that stays can be registrar", c.To, infoOf(n).Stage)
		}
		move.To = NodeID(n.Id)
	}
	g.outcome.Move = move
	g.keep(&Record{Kind: uint32(EventRegistrarMoved), Subject: c.To})
	return nil
}

// LogMembers are the nodes that an entry of the log made its members.
type LogMembers struct {
	Voters   []NodeID
	Outgoing []NodeID // voters of before, while both majorities are needed
	Learners []NodeID
}

func (m *LogMembers) has(id NodeID) bool {
	return slices.Contains(m.Voters, id) || slices.Contains(m.Outgoing, id) || slices.Contains(m.Learners, id)
}

// ApplyMembers executes a log entry that changed the members of the log. payload is an
// entry without commands, or empty.
func (g *Registry) ApplyMembers(index uint64, payload []byte, m LogMembers) (*Outcome, error) {
	entry, err := decodeEntry(payload, g.maxVersion)
	if err != nil {
		return nil, err
	}
	if len(payload) == 0 { // the end of a step in which two majorities were needed
		entry.WallNs = g.history.Last().GetWallNs()
	}
	g.revision, g.entry, g.ordinal = index, entry, 0
	g.outcome = &Outcome{Revision: index, Nodes: true}
	g.voters = slices.Clone(m.Voters)
	for _, v := range m.Outgoing {
		if !slices.Contains(g.voters, v) {
			g.voters = append(g.voters, v)
		}
	}
	slices.Sort(g.voters)
	for _, id := range sortedKeys(g.nodes) {
		g.follow(g.nodes[id], &m)
	}
	g.raiseVersion()
	out := g.outcome
	g.entry, g.outcome = nil, nil
	return out, nil
}

// follow brings a node's stage up to what it is to the log.
func (g *Registry) follow(n *logpb.Node, m *LogMembers) {
	id := NodeID(n.Id)
	switch joining := n.Stage == logpb.Node_STAGE_JOINING; {
	case !m.has(id) && !joining:
		g.forgetNode(n)
	case joining && slices.Contains(m.Learners, id):
		n.Stage = logpb.Node_STAGE_LEARNER
		g.recordNode(EventNodeAdded, n.Name, n)
	case (joining || n.Stage == logpb.Node_STAGE_LEARNER) && slices.Contains(m.Voters, id):
		n.Stage = logpb.Node_STAGE_VOTER
		g.recordNode(EventNodePromoted, n.Name, n)
		if n.Replaces == "" {
			n.CorrelationId, n.Actor, n.Why = "", "", ""
		}
	}
}

// forgetNode ends a node that the log no longer knows.
func (g *Registry) forgetNode(n *logpb.Node) {
	cause := n
	if by := g.replacerOf(n.Name); by != nil {
		if n.Stage != logpb.Node_STAGE_LEAVING {
			cause = by
		}
		defer func() {
			by.Replaces = ""
			if by.Stage == logpb.Node_STAGE_VOTER {
				by.CorrelationId, by.Actor, by.Why = "", "", ""
			}
		}()
	}
	id := NodeID(n.Id)
	delete(g.nodes, id)
	delete(g.versions, id)
	g.removed[n.Name], g.removedIDs[id] = id, true
	g.recordNode(EventNodeRemoved, n.Name, cause)
}

// recordNode makes a record about a node; cause says who asked for it.
func (g *Registry) recordNode(kind EventKind, name string, cause *logpb.Node) {
	g.command = &logpb.Command{CorrelationId: cause.CorrelationId, Actor: cause.Actor, Why: cause.Why}
	g.keep(&Record{Kind: uint32(kind), Subject: name})
	g.command = nil
}

// changingNodes reports whether something is still to be done with a node.
func (g *Registry) changingNodes() bool {
	for _, id := range sortedKeys(g.nodes) {
		if n := g.nodes[id]; n.Stage != logpb.Node_STAGE_VOTER || n.Replaces != "" {
			return true
		}
	}
	return false
}

// relocateNodes lets the voters go on in another log, where each tells its name anew
// and nobody is on the way in or out.
func (g *Registry) relocateNodes() {
	for _, id := range sortedKeys(g.nodes) {
		n := g.nodes[id]
		if !slices.Contains(g.voters, id) {
			delete(g.nodes, id)
			continue
		}
		n.Stage, n.Replaces, n.CorrelationId, n.Actor, n.Why = logpb.Node_STAGE_VOTER, "", "", "", ""
	}
	for _, name := range sortedKeys(g.removed) {
		if id := g.removed[name]; slices.Contains(g.voters, id) {
			delete(g.removed, name)
			delete(g.removedIDs, id)
		}
	}
}

func (g *Registry) snapshotNodes(s *logpb.Snapshot) {
	for _, id := range sortedKeys(g.nodes) {
		s.Nodes = append(s.Nodes, cloneNode(g.nodes[id]))
	}
	for _, name := range sortedKeys(g.removed) {
		s.RemovedNodes, s.RemovedIds = append(s.RemovedNodes, name), append(s.RemovedIds, uint64(g.removed[name]))
	}
}

func cloneNode(n *logpb.Node) *logpb.Node {
	return &logpb.Node{
		Id: n.Id, Name: n.Name, PeerAddress: n.PeerAddress, HttpAddress: n.HttpAddress, GrpcAddress: n.GrpcAddress,
		Stage: n.Stage, Replaces: n.Replaces, CorrelationId: n.CorrelationId, Actor: n.Actor, Why: n.Why,
	}
}

func (g *Registry) restoreNodes(s *logpb.Snapshot) error {
	if len(s.RemovedIds) != len(s.RemovedNodes) {
		return fmt.Errorf("the snapshot at revision %d names %d removed nodes and %d ids of them", s.Revision, len(s.RemovedNodes), len(s.RemovedIds))
	}
	for _, n := range s.Nodes {
		g.nodes[NodeID(n.Id)] = cloneNode(n)
	}
	for i, name := range s.RemovedNodes {
		g.removed[name], g.removedIDs[NodeID(s.RemovedIds[i])] = NodeID(s.RemovedIds[i]), true
	}
	return nil
}

// nodes hashes the table, when there is one: a registry of before there were any has
// the hash that it had.
func (f *fieldHash) nodes(g *Registry) {
	if len(g.nodes)+len(g.removed) == 0 {
		return
	}
	f.str("nodes")
	f.u64(uint64(len(g.nodes)))
	for _, id := range sortedKeys(g.nodes) {
		n := g.nodes[id]
		f.u64(n.Id)
		f.u64(uint64(n.Stage))
		for _, text := range []string{n.Name, n.PeerAddress, n.HttpAddress, n.GrpcAddress, n.Replaces, n.CorrelationId, n.Actor, n.Why} {
			f.str(text)
		}
	}
	f.u64(uint64(len(g.removed)))
	for _, name := range sortedKeys(g.removed) {
		f.str(name)
		f.u64(uint64(g.removed[name]))
	}
}

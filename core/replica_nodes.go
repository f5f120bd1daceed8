package core

import (
	"errors"
	"fmt"
	"slices"

	"google.golang.org/protobuf/proto"

	"github.com/omnirelay/leadership/core/logpb"
)

// ErrRemoved is what halts the replica of a node that was removed from the cluster. It
// never comes back under its name.
var ErrRemoved = errors.New("this node was removed from the cluster")

// NodeProgress is what the registrar knows of a node of the log.
type NodeProgress struct {
	ID    NodeID
	Match uint64 // the newest entry that it is known to have
	// Active is true when it was heard within an election timeout.
	Active bool
	// Waits says why the next step of its change is not taken yet; empty: nothing waits.
	Waits string
}

// stamped adds to a command what only the registrar knows.
func (r *Replica) stamped(c *logpb.Command) *logpb.Command {
	j, raft := r.journal.(*raftJournal)
	if c.GetRemoveNode() == nil || !raft {
		return c
	}
	c = proto.CloneOf(c)
	c.GetRemoveNode().Reachable = j.reachable()
	return c
}

// nodesFixed refuses changes of nodes where the log lies in an external store.
func (r *Replica) nodesFixed(c *logpb.Command) error {
	if !r.cfg.Store {
		return nil
	}
	switch c.Kind.(type) {
	case *logpb.Command_AddNode, *logpb.Command_RemoveNode, *logpb.Command_ReplaceNode:
		return refuse(CodeUnsupported, "the registry lies in an external store, which has no voters to change: write the nodes under peers in every node's configuration and restart them one after the other")
	}
	return nil
}

// changeNodes is the registrar's duty to carry out what was asked for about nodes.
func (r *Replica) changeNodes() {
	d := &r.duties
	if r.now < d.nodesAt {
		return
	}
	j, raft := r.journal.(*raftJournal)
	if !raft || !r.registry.changingNodes() {
		d.nodesAt = Never
		return
	}
	d.nodesAt = r.now.Add(r.cfg.HeartbeatInterval)
	j.changeNodes()
}

// followNodes takes in what an entry did to nodes.
func (r *Replica) followNodes(term uint64, out *Outcome) {
	if out.Nodes && r.cfg.Addresses != (NodeAddresses{}) {
		r.duties.announceAt = min(r.duties.announceAt, r.now)
	}
	if out.Nodes && r.officeOpen {
		r.duties.nodesAt = r.now
	}
	if out.Nodes && r.registry.RemovedNode(r.cfg.ID) {
		r.removed("")
	}
	// Whoever became registrar since has done what an order without a name asks for.
	if out.Move != nil && r.leading && (out.Move.To != 0 || term == r.term) {
		r.duties.move, r.duties.moveUntil = out.Move, r.now.Add(r.cfg.MaxElectionWindow)
		r.duties.moveAt = r.now
	}
}

// moveRegistrar hands the office on as it was asked to, again and again for a while: the
// one it is meant for may be a little behind.
func (r *Replica) moveRegistrar() {
	d := &r.duties
	if r.now < d.moveAt {
		return
	}
	d.moveAt = Never
	if d.move == nil || d.move.To == r.cfg.ID || r.now >= d.moveUntil {
		d.move = nil
		return
	}
	d.moveAt = r.now.Add(2 * r.cfg.ElectionTimeout)
	r.journal.handOverTo(d.move.To)
}

// removed halts this replica: whatever it did from now on would be a stranger's.
func (r *Replica) removed(how string) {
	r.Halt(fmt.Errorf("%w%s; its name is never used again: to take part anew it needs another name and an empty data directory", ErrRemoved, how))
}

// listensTo reports whether a replica's messages count. Over raft they are those of
// every node that was not removed: one that is unknown here may be newer than this copy.
func (r *Replica) listensTo(id NodeID) bool {
	if r.cfg.Store {
		return slices.Contains(r.cfg.Voters, id)
	}
	return id != r.cfg.ID && !r.registry.RemovedNode(id)
}

// introduction is what this replica has to tell of its node, nil when nothing: the
// registry knows it, or cannot read it yet.
func (r *Replica) introduction() *logpb.Node {
	a := r.cfg.Addresses.usable()
	if r.cfg.Addresses == (NodeAddresses{}) || r.registry.Version() < nodesVersion || r.cfg.MaxVersion < nodesVersion {
		return nil
	}
	n, known := r.registry.Node(r.cfg.Name)
	if known && told(n.PeerAddress, a.Peer) && told(n.HTTPAddress, a.HTTP) && told(n.GRPCAddress, a.GRPC) {
		return nil
	}
	return &logpb.Node{Name: r.cfg.Name, PeerAddress: a.Peer, HttpAddress: a.HTTP, GrpcAddress: a.GRPC}
}

// told reports whether the registry knows an address, if there is one to tell.
func told(known, address string) bool { return address == "" || known == address }

// usable leaves out what nobody could connect to, like a port of 0.
func (a NodeAddresses) usable() NodeAddresses {
	for _, address := range []*string{&a.Peer, &a.HTTP, &a.GRPC} {
		if checkNodeAddress("", *address) != nil {
			*address = ""
		}
	}
	return a
}

// Members are the members of a raft log as this replica counts them; none of another log.
func (r *Replica) Members() LogMembers {
	if j, raft := r.journal.(*raftJournal); raft {
		return membersOf(j.confState)
	}
	return LogMembers{}
}

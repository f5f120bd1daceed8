package wire

import (
	"github.com/omnirelay/leadership/core"
	"github.com/omnirelay/leadership/core/logpb"
	"github.com/omnirelay/leadership/wire/controlpb"
)

// MaxMoves bounds the moves of one Rebalance, and DefaultMoves is how many it makes when
// nobody says.
const (
	MaxMoves     = 256
	DefaultMoves = 64
)

// AddNodeCommand converts a request.
func AddNodeCommand(r *controlpb.AddNodeRequest) (*logpb.Command, error) {
	c, err := commandOf(r)
	if err != nil {
		return nil, err
	}
	node, err := newNode("node", r.GetNode())
	c.Kind = &logpb.Command_AddNode{AddNode: &logpb.AddNode{Node: node}}
	return c, err
}

// RemoveNodeCommand converts a request.
func RemoveNodeCommand(r *controlpb.RemoveNodeRequest) (*logpb.Command, error) {
	c, err := ofNamed("name", r.GetName(), r)
	if err != nil {
		return nil, err
	}
	c.Kind = &logpb.Command_RemoveNode{RemoveNode: &logpb.RemoveNode{Name: r.GetName()}}
	return c, nil
}

// ReplaceNodeCommand converts a request.
func ReplaceNodeCommand(r *controlpb.ReplaceNodeRequest) (*logpb.Command, error) {
	c, err := ofNamed("name", r.GetName(), r)
	if err != nil {
		return nil, err
	}
	by, err := newNode("by", r.GetBy())
	c.Kind = &logpb.Command_ReplaceNode{ReplaceNode: &logpb.ReplaceNode{Name: r.GetName(), By: by}}
	return c, err
}

// MoveRegistrarCommand converts a request.
func MoveRegistrarCommand(r *controlpb.MoveRegistrarRequest) (*logpb.Command, error) {
	c, err := commandOf(r)
	if err != nil {
		return nil, err
	}
	c.Kind = &logpb.Command_MoveRegistrar{MoveRegistrar: &logpb.MoveRegistrar{To: r.GetTo()}}
	return c, nil
}

// RebalanceCommands begins the commands of a request, each of which moves one scope, and
// says how many there may be.
func RebalanceCommands(r *controlpb.RebalanceRequest) (base *logpb.Command, limit int, err error) {
	if r.Limit != nil && (r.GetLimit() == 0 || r.GetLimit() > MaxMoves) {
		return nil, 0, malformed("limit", "is %d, want 1 to %d", r.GetLimit(), MaxMoves)
	}
	limit = DefaultMoves
	if r.Limit != nil {
		limit = int(r.GetLimit())
	}
	base, err = commandOf(r)
	return base, limit, err
}

// NodeProto converts a node that keeps the registry, with what the status of the asked
// node says of it.
func NodeProto(n core.NodeInfo, st *core.Status) *controlpb.Node {
	p := &controlpb.Node{Name: n.Name, Stage: n.Stage.String(), Registrar: n.ID == st.Registrar,
		PeerAddress: n.PeerAddress, HttpAddress: n.HTTPAddress, GrpcAddress: n.GRPCAddress, Replaces: n.Replaces}
	for _, progress := range st.Nodes {
		if progress.ID == n.ID {
			p.Match, p.Reachable = &progress.Match, &progress.Active
		}
	}
	return p
}

// newNode converts a node that is to be.
func newNode(field string, n *controlpb.NewNode) (*logpb.Node, error) {
	if n.GetName() == "" {
		return nil, malformed(field+".name", "is empty; every node has a name of its own")
	}
	if n.GetPeerAddress() == "" {
		return nil, malformed(field+".peerAddress", "is empty; want host:port, where the other nodes reach it")
	}
	return &logpb.Node{Name: n.GetName(), PeerAddress: n.GetPeerAddress(), HttpAddress: n.GetHttpAddress(), GrpcAddress: n.GetGrpcAddress()}, nil
}

package main

import (
	"slices"
	"time"

	"github.com/omnirelay/leadership/adapters/api"
	"github.com/omnirelay/leadership/adapters/config"
	"github.com/omnirelay/leadership/core"
)

// meshPeers are the members that gossip knows, for the API.
func (n *node) meshPeers() []api.Peer {
	known := n.gossipPeers()
	peers := make([]api.Peer, 0, len(known))
	for _, p := range known {
		if p.ID == n.config.NodeID {
			p.LastSeen = time.Now() // nobody tells it of itself
		}
		peers = append(peers, api.Peer{
			ID: p.ID, Status: string(p.Status), Role: p.Role, ClusterID: p.ClusterID, Region: p.Region, MeshVersion: p.MeshVersion,
			HTTP3: p.HTTP3, Labels: p.Labels, Address: p.Address, LastSeen: p.LastSeen,
		})
	}
	return peers
}

// neighbours are the other nodes that serve: those of the configuration, as far as the
// registry does not know better, and those that it knows beside them.
func (n *node) neighbours() (peers []config.Peer, registrar core.NodeID) {
	n.host.View(func(g *core.Registry, s core.Status) {
		registrar = s.Registrar
		peers = neighboursOf(n.config, g.Nodes(), g.RemovedNodes())
	})
	return peers, registrar
}

func neighboursOf(c *config.Config, nodes []core.NodeInfo, removed []string) (peers []config.Peer) {
	here := func(name string) bool {
		return name == "" || name == c.NodeID || slices.ContainsFunc(peers, func(p config.Peer) bool { return p.ID == name })
	}
	for _, p := range c.Peers {
		if !here(p.ID) && !slices.Contains(removed, p.ID) {
			peers = append(peers, p)
		}
	}
	for _, i := range nodes {
		if !here(i.Name) {
			peers = append(peers, config.Peer{ID: i.Name, Address: i.PeerAddress, HTTP: i.HTTPAddress, GRPC: i.GRPCAddress})
		}
	}
	for _, i := range nodes {
		at := slices.IndexFunc(peers, func(p config.Peer) bool { return p.ID == i.Name })
		switch {
		case at < 0:
		case i.Stage != core.NodeVoter: // it has not caught up yet, or goes
			peers = slices.Delete(peers, at, at+1)
		case i.PeerAddress != "":
			peers[at] = config.Peer{ID: i.Name, Address: i.PeerAddress, HTTP: i.HTTPAddress, GRPC: i.GRPCAddress}
		}
	}
	return peers
}

// addresses are where members may go from this node.
func (n *node) addresses() (grpc []string) {
	peers, _ := n.neighbours()
	for _, p := range peers {
		if p.GRPC != "" {
			grpc = append(grpc, p.GRPC)
		}
	}
	return grpc
}

// hint names a node that is likelier to help: the registrar, or the next one.
func (n *node) hint() map[string]string {
	peers, registrar := n.neighbours()
	if len(peers) == 0 {
		return nil
	}
	best := peers[0]
	for _, p := range peers {
		if p.Replica() == registrar {
			best = p
		}
	}
	hint := map[string]string{"node": best.ID}
	if best.GRPC != "" {
		hint["grpc"] = best.GRPC
	}
	if best.HTTP != "" {
		hint["http"] = best.HTTP
	}
	return hint
}

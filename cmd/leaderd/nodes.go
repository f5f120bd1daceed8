package main

import (
	"context"
	"slices"

	"github.com/omnirelay/leadership/adapters/transport"
	"github.com/omnirelay/leadership/core"
)

// followNodes lets the connections to other nodes follow the registry's table of them.
func (n *node) followNodes(ctx context.Context) error {
	var seen []core.NodeInfo
	removed := 0
	for {
		changed := n.host.Changed()
		var nodes []core.NodeInfo
		var gone []core.NodeID
		n.host.View(func(g *core.Registry, _ core.Status) {
			nodes = g.Nodes()
			for _, name := range g.RemovedNodes() {
				gone = append(gone, core.NodeIDOf(name))
			}
		})
		if !slices.Equal(seen, nodes) || len(gone) != removed {
			seen, removed = nodes, len(gone)
			n.peers.SetNodes(peerNodes(nodes), gone)
		}
		select {
		case <-ctx.Done():
			return nil
		case <-changed:
		}
	}
}

func peerNodes(nodes []core.NodeInfo) []transport.PeerNode {
	peers := make([]transport.PeerNode, 0, len(nodes))
	for _, i := range nodes {
		peers = append(peers, transport.PeerNode{ID: i.ID, Name: i.Name, Address: i.PeerAddress})
	}
	return peers
}

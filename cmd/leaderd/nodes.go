package main

import (
	"context"
	"maps"
	"slices"
	"time"

	"github.com/omnirelay/leadership/adapters/transport"
	"github.com/omnirelay/leadership/core"
)

// followNodes lets the connections to other nodes follow the registry's table of them.
func (n *node) followNodes(ctx context.Context) error {
	var seen []core.NodeInfo
	removed := 0
	waits := map[core.NodeID]string{}
	look := time.NewTicker(time.Second) // what is waited for changes without an entry
	defer look.Stop()
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
		case <-look.C:
			n.tellWaits(waits)
		}
	}
}

// tellWaits logs, on the registrar, why a change of a node does not go on, once.
func (n *node) tellWaits(told map[core.NodeID]string) {
	var nodes []core.NodeInfo
	var progress []core.NodeProgress
	n.host.View(func(g *core.Registry, s core.Status) { nodes, progress = g.Nodes(), s.Nodes })
	now := map[core.NodeID]string{}
	for _, p := range progress {
		now[p.ID] = p.Waits
	}
	for _, i := range nodes {
		if why := now[i.ID]; why != "" && why != told[i.ID] {
			n.logger.Info("a change of a node waits", "name", i.Name, "stage", i.Stage.String(), "why", why)
		}
	}
	maps.Copy(told, now)
	maps.DeleteFunc(told, func(id core.NodeID, _ string) bool { return now[id] == "" })
}

func peerNodes(nodes []core.NodeInfo) []transport.PeerNode {
	peers := make([]transport.PeerNode, 0, len(nodes))
	for _, i := range nodes {
		peers = append(peers, transport.PeerNode{ID: i.ID, Name: i.Name, Address: i.PeerAddress})
	}
	return peers
}

package main

import (
	"context"
	"maps"
	"slices"
	"time"

	"github.com/omnirelay/leadership/adapters/gossip"
	"github.com/omnirelay/leadership/adapters/telemetry"
	"github.com/omnirelay/leadership/core"
	"github.com/omnirelay/leadership/core/logpb"
)

// leaveWithin bounds the farewell of a node that ends.
const leaveWithin = time.Second

// openGossip listens for gossip, if the node has any.
func (n *node) openGossip() (err error) {
	if !n.config.Gossip.Enabled {
		return nil
	}
	n.gossip, err = gossip.New(n.gossipOptions())
	return err
}

// gossipOptions turns the settings into options of the adapter.
func (n *node) gossipOptions() gossip.Options {
	c, g := n.config, n.config.Gossip
	w := fastWatch{view: n.host.View}
	return gossip.Options{
		Name: c.NodeID,
		Metadata: gossip.Metadata{
			ClusterID: c.ClusterID, Role: g.Role, Region: g.Region, MeshVersion: g.MeshVersion, HTTP3: c.Listeners.HTTP3, Labels: g.Labels,
		},
		Listen: g.Listen, Advertise: g.Advertise, Seeds: g.Seeds, KeyFile: g.KeyFile, Plaintext: g.Plaintext,
		MinMeshVersion: g.MinMeshVersion, MaxMeshVersion: g.MaxMeshVersion,
		Interval: g.Interval, Fanout: g.Fanout, ProbeInterval: g.ProbeInterval, ProbeTimeout: g.ProbeTimeout, Suspicion: g.Suspicion,
		Retransmit: g.Retransmit, PushPullInterval: g.PushPullInterval, WatchPeriod: g.WatchPeriod, WatchMisses: g.WatchMisses,
		Watch: w.members, Claims: n.host.Claims, Deliver: n.host.Gossip, Logger: n.logger,
	}
}

// runGossip gossips until ctx ends. What goes wrong in it is logged: a node without
// gossip elects and serves as before.
func (n *node) runGossip(ctx context.Context) {
	if n.gossip != nil {
		n.running.Go(func() { n.gossip.Run(ctx) })
	}
}

// leaveGossip says farewell. The member has given up all that it led.
func (n *node) leaveGossip() {
	if n.gossip == nil {
		return
	}
	if err := n.gossip.Leave(leaveWithin); err != nil {
		n.logger.Info("leaving the gossip: the others may take a while to notice", "error", err)
	}
}

func (n *node) closeGossip() {
	if n.gossip == nil {
		return
	}
	if err := n.gossip.Close(); err != nil {
		n.logger.Warn("closing the gossip", "error", err)
	}
}

// gossipPeers are the members that gossip knows; nil: this node does not gossip.
func (n *node) gossipPeers() []gossip.Peer {
	if n.gossip == nil {
		return nil
	}
	return n.gossip.Peers()
}

// gossipStats are the figures of gossip, all 0 without it.
func (n *node) gossipStats() telemetry.GossipStats {
	if n.gossip == nil {
		return telemetry.GossipStats{}
	}
	s := n.gossip.Stats()
	members := map[string]int{}
	for status, count := range s.Members {
		members[string(status)] = count
	}
	return telemetry.GossipStats{
		Members: members, Refused: s.Refused,
		SentBytes: s.SentBytes, SentPackets: s.SentPackets, ReceivedBytes: s.ReceivedBytes, ReceivedPackets: s.ReceivedPackets,
		ProbesAnswered: s.ProbesAnswered, ProbesMissed: s.ProbesMissed, ProbesUnsure: s.ProbesUnsure,
		Suspicions: s.Suspicions, Recoveries: s.Recoveries, Watched: s.Watched,
		WordsSent: s.WordsSent, WordsHeard: s.WordsHeard, WordsRepeated: s.WordsRepeated, Joins: s.Joins, JoinsFailed: s.JoinsFailed,
		Conflicts: s.Conflicts, Keys: s.Keys, KeyReloads: s.KeyReloads, KeyReloadsFailed: s.KeyReloadsFailed, HealthScore: s.HealthScore,
	}
}

// fastWatch finds the members that lead or stand for a scope that fails over on
// suspicion. It looks again only when the registry has changed.
type fastWatch struct {
	view     func(f func(g *core.Registry, s core.Status))
	looked   bool
	revision uint64
	found    []string
}

func (w *fastWatch) members() []string {
	w.view(func(g *core.Registry, _ core.Status) {
		if !w.looked || g.Revision() != w.revision {
			w.looked, w.revision, w.found = true, g.Revision(), fastMembers(g)
		}
	})
	return w.found
}

func fastMembers(g *core.Registry) []string {
	fast := slices.DeleteFunc(g.Scopes(), func(s core.ScopeStatus) bool { return s.Spec.Failover != logpb.ScopeSpec_FAILOVER_FAST })
	if len(fast) == 0 {
		return nil
	}
	found := map[string]bool{}
	for _, s := range fast {
		if s.Led {
			found[s.Leader.LeaderID] = true
		}
	}
	for _, session := range g.Sessions() {
		for _, stand := range g.Stands(session.ID) {
			if found[session.MemberID] {
				break
			}
			found[session.MemberID] = slices.ContainsFunc(fast, func(s core.ScopeStatus) bool { return mayPick(stand.Selector, s.Spec) })
		}
	}
	maps.DeleteFunc(found, func(_ string, watched bool) bool { return !watched })
	return slices.Sorted(maps.Keys(found))
}

// mayPick tells whether a selector can pick a scope. Labels are left out: one member
// too many that is watched does no harm.
func mayPick(s *logpb.Selector, spec *logpb.ScopeSpec) bool {
	return (s.GetId() == "" || s.GetId() == spec.Id) && (s.GetKind() == "" || s.GetKind() == spec.Kind) &&
		(s.GetNamespace() == "" || s.GetNamespace() == spec.Labels[core.LabelNamespace])
}

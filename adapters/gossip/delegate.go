package gossip

import (
	"errors"
	"fmt"
	"net/netip"
	"time"

	"github.com/hashicorp/memberlist"

	"github.com/omnirelay/leadership/core"
)

// delegate is what memberlist asks and tells. Most of it is called under memberlist's
// lock: nothing here waits, or calls memberlist.
type delegate struct{ g *Gossip }

var (
	_ memberlist.Delegate         = delegate{}
	_ memberlist.AliveDelegate    = delegate{}
	_ memberlist.MergeDelegate    = delegate{}
	_ memberlist.EventDelegate    = delegate{}
	_ memberlist.ConflictDelegate = delegate{}
	_ memberlist.PingDelegate     = delegate{}
)

// NodeMeta is what this member says of itself.
func (d delegate) NodeMeta(int) []byte { return d.g.metadata }

// NotifyAlive refuses who cannot be a member of this mesh.
func (d delegate) NotifyAlive(n *memberlist.Node) error {
	if d.g.roster.knows(n.Name, addressOf(n), n.Meta) && speaks(n) {
		return nil // most of what arrives was heard before
	}
	m, err := checkNode(n)
	reason := refusedMetadata
	if err == nil {
		err = d.g.roster.admit(n.Name, m)
		switch {
		case errors.Is(err, errCluster):
			reason = refusedCluster
		case errors.Is(err, errFull):
			reason = refusedFull
		case errors.Is(err, errEnded):
			reason = refusedEnded
		}
	}
	if err != nil {
		d.g.counts.refuse(reason)
	}
	return err
}

// checkNode holds what memberlist tells of a member to what it may be. A version that
// memberlist does not know would keep all members from full exchanges.
func checkNode(n *memberlist.Node) (m Metadata, err error) {
	if err := core.CheckMemberID("name", n.Name); err != nil {
		return m, err
	}
	address, ok := netip.AddrFromSlice(n.Addr)
	if !ok || address.IsUnspecified() || address.IsMulticast() || n.Port == 0 {
		return m, fmt.Errorf("its address %x:%d cannot be reached", []byte(n.Addr), n.Port)
	}
	if !speaks(n) {
		return m, fmt.Errorf("it speaks versions %d to %d of memberlist's protocol; %d is right", n.PMin, n.PMax, memberlist.ProtocolVersion2Compatible)
	}
	return DecodeMetadata(n.Meta)
}

// speaks tells whether a member speaks our version of memberlist's protocol.
func speaks(n *memberlist.Node) bool {
	const ours = memberlist.ProtocolVersion2Compatible
	return n.PMin <= ours && n.PMax >= ours && n.PCur == ours && n.DMin|n.DMax|n.DCur == 0
}

// NotifyMerge refuses a full exchange with another cluster.
func (d delegate) NotifyMerge(nodes []*memberlist.Node) error {
	if len(nodes) > 2*MaxMembers {
		return fmt.Errorf("it knows %d members; at most %d are right", len(nodes), MaxMembers)
	}
	for _, n := range nodes {
		if m, err := DecodeMetadata(n.Meta); err == nil && m.ClusterID != d.g.options.ClusterID {
			d.g.counts.refuse(refusedCluster)
			return fmt.Errorf("%.64q is a member of cluster %q; this is %q", n.Name, m.ClusterID, d.g.options.ClusterID)
		}
	}
	return nil
}

// NotifyJoin takes a member that is there now.
func (d delegate) NotifyJoin(n *memberlist.Node) {
	m, err := DecodeMetadata(n.Meta)
	if err != nil {
		return // NotifyAlive has refused it
	}
	d.g.roster.joined(n.Name, addressOf(n), m, n.Meta)
}

// NotifyUpdate takes a member that says something else of itself than before.
func (d delegate) NotifyUpdate(n *memberlist.Node) { d.NotifyJoin(n) }

// NotifyLeave takes a member that is given up or left.
func (d delegate) NotifyLeave(n *memberlist.Node) { d.g.roster.gone(n.Name) }

// NotifyConflict takes that two processes go by one name.
func (d delegate) NotifyConflict(existing, other *memberlist.Node) {
	d.g.counts.conflicts.Add(1)
	d.g.complain.once("conflict/"+existing.Name, func() {
		d.g.logger.Error("two processes gossip under one member id; give each an id of its own, or end the older one",
			"member", existing.Name, "address", addressOf(existing), "other", addressOf(other), "mine", existing.Name == d.g.options.Name)
	})
}

// NotifyMsg takes a word.
func (d delegate) NotifyMsg(data []byte) { d.g.hear(data) }

// GetBroadcasts fills what room a packet has left with words.
func (d delegate) GetBroadcasts(overhead, limit int) [][]byte { return d.g.board.take(overhead, limit) }

// LocalState is all words for a full exchange.
func (d delegate) LocalState(bool) []byte { return d.g.board.state() }

// MergeRemoteState takes the words of a full exchange.
func (d delegate) MergeRemoteState(state []byte, _ bool) {
	words, err := splitState(state)
	if err != nil {
		d.g.counts.refuse(refusedMalformed)
		return
	}
	for _, w := range words {
		d.g.hear(w)
	}
}

// AckPayload adds nothing to an answer.
func (d delegate) AckPayload() []byte { return nil }

// NotifyPingComplete takes that a member answered memberlist's own probe.
func (d delegate) NotifyPingComplete(n *memberlist.Node, _ time.Duration, _ []byte) {
	d.g.answered(n.Name)
}

func addressOf(n *memberlist.Node) string {
	address, ok := netip.AddrFromSlice(n.Addr)
	if !ok {
		return n.Addr.String()
	}
	return netip.AddrPortFrom(address.Unmap(), n.Port).String()
}

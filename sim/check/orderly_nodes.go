package check

import (
	"slices"

	"github.com/omnirelay/leadership/core"
)

// OrderlyNodes: at every index the nodes of the log are those of the registry; the name
// of a node that was removed is never used again; nobody gets a vote before it has all
// but the newest entries; and what was asked for is done in the end.
type OrderlyNodes struct {
	report  Report
	removed map[string]bool
}

// CaughtUpWithin is how many entries a node may be behind when its vote is recorded: what
// core allows, and what was proposed between its look and the change.
const CaughtUpWithin = 64 + 32

func NewOrderlyNodes(report Report) *OrderlyNodes {
	return &OrderlyNodes{report: report, removed: map[string]bool{}}
}

// Members compares what a replica's log counts as voters with what its registry says.
func (c *OrderlyNodes) Members(at int64, replica core.NodeID, revision uint64, log core.LogMembers, registry []core.NodeID) {
	counted := slices.Concat(log.Voters, log.Outgoing)
	slices.Sort(counted)
	if said := slices.Sorted(slices.Values(registry)); !slices.Equal(slices.Compact(counted), said) {
		c.report.plain(OrderlyNodesProperty, at, "the log of replica %d counts the voters %v at revision %d, its registry %v", replica, counted, revision, said)
	}
}

// Record takes a record that is told for the first time. newest is the newest entry on
// the disk of the node that it is about.
func (c *OrderlyNodes) Record(at int64, r *core.Record, newest uint64) {
	switch core.EventKind(r.Kind) {
	case core.EventNodeAdded:
		if c.removed[r.Subject] {
			c.report.plain(OrderlyNodesProperty, at, "node %s is added at revision %d, and one of that name was removed before", r.Subject, r.Revision)
		}
	case core.EventNodePromoted:
		if newest == 0 || newest+CaughtUpWithin < r.Revision {
			c.report.plain(OrderlyNodesProperty, at, "node %s gets its vote at revision %d, and has entries up to %d", r.Subject, r.Revision, newest)
		}
	case core.EventNodeRemoved:
		c.removed[r.Subject] = true
	}
}

// Unsettled tells that a change was not carried out although nothing kept it from it.
func (c *OrderlyNodes) Unsettled(at int64, node core.NodeInfo, why string) {
	c.report.plain(OrderlyNodesProperty, at, "node %s is still %s at the end, in place of %q: %s", node.Name, node.Stage, node.Replaces, why)
}

// WronglyRemoved tells that a replica believed that it was removed, and was not.
func (c *OrderlyNodes) WronglyRemoved(at int64, replica core.NodeID) {
	c.report.plain(OrderlyNodesProperty, at, "replica %d stopped because it was removed, and it was not", replica)
}

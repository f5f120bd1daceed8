package check

import "github.com/omnirelay/leadership/core"

// HolderIsLeader: whoever believes that it leads a scope by lease is the leader
// in the registry, under the same session and fence.
type HolderIsLeader struct{ report Report }

func NewHolderIsLeader(report Report) *HolderIsLeader { return &HolderIsLeader{report: report} }

// Observe compares one belief with the leader at the highest revision that any
// replica has applied.
func (c *HolderIsLeader) Observe(at int64, b Belief, leader core.Token, led bool) {
	if b.Token.Failover != core.FailoverLease {
		return
	}
	switch {
	case !led:
		c.report.scope(HolderIsLeaderProperty, at, b.Token.Scope, "%s believes it leads %s (session %d, fence %d) and the registry has no leader for it",
			b.Process, b.Token.Scope, b.Token.Session, b.Token.Fence)
	case leader.Session != b.Token.Session || leader.Fence != b.Token.Fence:
		c.report.scope(HolderIsLeaderProperty, at, b.Token.Scope, "%s believes it leads %s (session %d, fence %d) and the registry's leader is %s (session %d, fence %d)",
			b.Process, b.Token.Scope, b.Token.Session, b.Token.Fence, leader.LeaderID, leader.Session, leader.Fence)
	}
}

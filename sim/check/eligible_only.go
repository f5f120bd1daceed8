package check

import "github.com/omnirelay/leadership/core"

// EligibleOnly: nobody is elected who is cordoned, or against whom the log holds what
// gossip says.
type EligibleOnly struct{ report Report }

func NewEligibleOnly(report Report) *EligibleOnly { return &EligibleOnly{report: report} }

// Elected takes an election, and whether its winner was barred before its entry and after
// it, with nothing in the entry that could have changed that.
func (c *EligibleOnly) Elected(at int64, t core.Token, barred bool) {
	if barred {
		c.report.scope(EligibleOnlyProperty, at, t.Scope, "%s is elected for %s under fence %d, and the log says that it may not be", t.LeaderID, t.Scope, t.Fence)
	}
}

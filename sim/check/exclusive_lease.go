package check

import "github.com/omnirelay/leadership/core"

// Belief is a process's conviction that it leads a scope right now.
type Belief struct {
	Process string // one incarnation of one process
	Token   core.Token
}

// ExclusiveLease: in true time at most one process believes that it leads a
// scope whose failover is by lease.
type ExclusiveLease struct{ report Report }

func NewExclusiveLease(report Report) *ExclusiveLease { return &ExclusiveLease{report: report} }

// Observe takes all beliefs about one scope at one instant.
func (c *ExclusiveLease) Observe(at int64, scope string, beliefs []Belief) {
	first := -1
	for i := range beliefs {
		if beliefs[i].Token.Failover != core.FailoverLease {
			continue
		}
		if first < 0 {
			first = i
			continue
		}
		a, b := &beliefs[first], &beliefs[i]
		c.report.scope(ExclusiveLeaseProperty, at, scope, "%s believes it leads %s (session %d, fence %d) and so does %s (session %d, fence %d)",
			a.Process, scope, a.Token.Session, a.Token.Fence, b.Process, b.Token.Session, b.Token.Fence)
		return
	}
}

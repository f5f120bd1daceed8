package check

import "time"

// ElectionSLA: while a majority is stable and a member is eligible, no scope is
// without a leader for longer than the election window. A scope has a leader
// when a living process believes that it leads.
type ElectionSLA struct {
	report Report
	window time.Duration
	unled  map[string]int64 // since when nobody leads
}

func NewElectionSLA(report Report, window time.Duration) *ElectionSLA {
	return &ElectionSLA{report: report, window: window, unled: map[string]int64{}}
}

// Sample tells of one declared scope whether somebody believes that it leads,
// and since when the preconditions hold without a break; math.MaxInt64 when they
// do not.
func (c *ElectionSLA) Sample(at int64, scope string, led bool, owedSince int64) {
	if led {
		delete(c.unled, scope)
		return
	}
	if _, ok := c.unled[scope]; !ok {
		c.unled[scope] = at
	}
	if owedSince > at {
		return
	}
	if from := max(c.unled[scope], owedSince); time.Duration(at-from) > c.window {
		c.report.scope(ElectionSLAProperty, at, scope, "nobody leads %s since %v although a majority is stable and a member eligible", scope, time.Duration(from))
		c.unled[scope] = at
	}
}

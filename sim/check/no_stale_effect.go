package check

// NoStaleEffect: no resource applies an effect under a fence below one that it
// applied before, under any clocks and after its own restart too.
type NoStaleEffect struct {
	report  Report
	highest map[effectKey]uint64
}

type effectKey struct{ resource, scope string }

func NewNoStaleEffect(report Report) *NoStaleEffect {
	return &NoStaleEffect{report: report, highest: map[effectKey]uint64{}}
}

// Applied tells that a resource let an effect through.
func (c *NoStaleEffect) Applied(at int64, resource, scope string, fence uint64) {
	k := effectKey{resource, scope}
	if had := c.highest[k]; fence < had {
		c.report.scope(NoStaleEffectProperty, at, scope, "%s applied an effect on %s under fence %d after one under fence %d", resource, scope, fence, had)
		return
	}
	c.highest[k] = fence
}

// Stale reports whether an effect is older than one already applied.
func (c *NoStaleEffect) Stale(resource, scope string, fence uint64) bool {
	return fence < c.highest[effectKey{resource, scope}]
}

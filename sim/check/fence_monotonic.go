package check

import (
	"cmp"
	"slices"

	"github.com/omnirelay/leadership/core"
)

// FenceMonotonic: fences are unique in the whole registry and rise with every
// election, whichever replica tells of it.
type FenceMonotonic struct {
	report    Report
	elections []election // by place
	byFence   map[uint64]election
	floor     uint64 // the highest fence of elections that were lost
}

type election struct {
	place core.Cursor
	fence uint64
	scope string
}

func NewFenceMonotonic(report Report) *FenceMonotonic {
	return &FenceMonotonic{report: report, byFence: map[uint64]election{}}
}

// Relocated tells that the elections behind a revision are lost. Their fences were
// given all the same, and every later one is higher.
func (c *FenceMonotonic) Relocated(kept uint64) {
	for len(c.elections) > 0 && c.elections[len(c.elections)-1].place.Revision > kept {
		last := len(c.elections) - 1
		c.floor = max(c.floor, c.elections[last].fence)
		c.elections = c.elections[:last]
	}
}

// Record takes a record as some replica tells it; the same one may come often.
func (c *FenceMonotonic) Record(at int64, r *core.Record) {
	if core.EventKind(r.Kind) != core.EventElected {
		return
	}
	e := election{place: core.Cursor{Revision: r.Revision, Ordinal: r.Ordinal}, fence: r.Fence, scope: r.Scope}
	if known, ok := c.byFence[e.fence]; ok {
		if known != e {
			c.report.scope(FenceMonotonicProperty, at, e.scope, "fence %d given to %s at %v was given before to %s at %v",
				e.fence, e.scope, e.place, known.scope, known.place)
		}
		return
	}
	c.insert(at, e)
}

func (c *FenceMonotonic) insert(at int64, e election) {
	if e.fence <= c.floor {
		c.report.scope(FenceMonotonicProperty, at, e.scope, "%s elected at %v under fence %d, not above fence %d, which was given before the fence was jumped",
			e.scope, e.place, e.fence, c.floor)
		return
	}
	i, _ := slices.BinarySearchFunc(c.elections, e, func(a, b election) int { return a.place.Compare(b.place) })
	if i > 0 && cmp.Compare(c.elections[i-1].fence, e.fence) >= 0 {
		c.report.scope(FenceMonotonicProperty, at, e.scope, "%s elected at %v under fence %d, not above fence %d of the election at %v",
			e.scope, e.place, e.fence, c.elections[i-1].fence, c.elections[i-1].place)
		return
	}
	if i < len(c.elections) && c.elections[i].fence <= e.fence {
		c.report.scope(FenceMonotonicProperty, at, e.scope, "%s elected at %v under fence %d, not below fence %d of the later election at %v",
			e.scope, e.place, e.fence, c.elections[i].fence, c.elections[i].place)
		return
	}
	c.elections = slices.Insert(c.elections, i, e)
	c.byFence[e.fence] = e
}

package check

import (
	"fmt"
	"maps"
	"slices"

	"github.com/omnirelay/leadership/core"
)

// FaithfulStream follows one subscriber: whatever it resumes from and wherever,
// its stream replays to the registry's state without gap, repeat or reorder.
type FaithfulStream struct {
	report    Report
	chronicle *Chronicle
	name      string
	cursor    core.Cursor
	inside    bool // within a snapshot
	leaders   map[string]lead
}

type lead struct {
	session core.SessionID
	fence   uint64
}

func NewFaithfulStream(report Report, chronicle *Chronicle, name string) *FaithfulStream {
	return &FaithfulStream{report: report, chronicle: chronicle, name: name, leaders: map[string]lead{}}
}

// Cursor is the place after the last item.
func (c *FaithfulStream) Cursor() core.Cursor { return c.cursor }

// Restart tells that the subscriber begins anew, from a snapshot.
func (c *FaithfulStream) Restart() {
	c.cursor, c.inside = core.Cursor{}, true
	clear(c.leaders)
}

// Whole reports whether the subscriber has seen a whole snapshot and may resume.
func (c *FaithfulStream) Whole() bool { return !c.inside }

// Item takes the next item of the stream.
func (c *FaithfulStream) Item(at int64, item core.StreamItem) {
	switch item.Kind {
	case core.EventSnapshot:
		if !c.inside {
			c.fail(at, item.Token.Scope, "a snapshot item of %s amid events", item.Token.Scope)
		}
		c.leaders[item.Token.Scope] = lead{item.Token.Session, item.Token.Fence}
	case core.EventObserved:
		c.mark(item)
	default:
		c.event(at, item)
	}
}

func (c *FaithfulStream) mark(item core.StreamItem) {
	switch item.Reason {
	case core.ReasonResync:
		c.Restart()
	case core.ReasonSnapshotEnd:
		c.inside, c.cursor = false, item.Cursor
	}
}

func (c *FaithfulStream) event(at int64, item core.StreamItem) {
	r := item.Record
	if c.inside {
		c.fail(at, r.Scope, "event %v before the end of the snapshot", item.Cursor)
		return
	}
	place := core.Cursor{Revision: r.Revision, Ordinal: r.Ordinal}
	if place != item.Cursor || place.Compare(c.cursor) <= 0 {
		c.fail(at, r.Scope, "event %v (record %v) after %v", item.Cursor, place, c.cursor)
	}
	if next := c.next(); next != nil && next.Seq != r.Seq {
		c.fail(at, next.Scope, "event %v after %v leaves out %d.%d (%s of %s)", place, c.cursor, next.Revision, next.Ordinal, core.EventKind(next.Kind), next.Scope)
	}
	c.cursor = place
	c.apply(r)
}

// next is the first record after the cursor.
func (c *FaithfulStream) next() *core.Record {
	records := c.chronicle.Records()
	i, found := slices.BinarySearchFunc(records, c.cursor, func(r *core.Record, at core.Cursor) int {
		return core.Cursor{Revision: r.Revision, Ordinal: r.Ordinal}.Compare(at)
	})
	if found {
		i++
	}
	if i >= len(records) {
		return nil
	}
	return records[i]
}

func (c *FaithfulStream) apply(r *core.Record) {
	switch k := core.EventKind(r.Kind); {
	case k == core.EventElected:
		c.leaders[r.Scope] = lead{core.SessionID(r.Session), r.Fence}
	case k.EndsLeadership():
		delete(c.leaders, r.Scope)
	}
}

// CaughtUp compares what the subscriber pieced together with the leaders at the
// replica it follows, which had nothing more to tell.
func (c *FaithfulStream) CaughtUp(at int64, revision uint64, leaders []core.Token) {
	if c.inside || c.cursor.Revision > revision {
		return
	}
	want := make(map[string]lead, len(leaders))
	for i := range leaders {
		want[leaders[i].Scope] = lead{leaders[i].Session, leaders[i].Fence}
	}
	if maps.Equal(want, c.leaders) {
		return
	}
	scope := difference(want, c.leaders)
	c.fail(at, scope, "%s at revision %d: the stream says %+v and the registry %+v", scope, revision, c.leaders[scope], want[scope])
}

func difference(a, b map[string]lead) string {
	for _, m := range []map[string]lead{a, b} {
		for _, scope := range slices.Sorted(maps.Keys(m)) {
			if a[scope] != b[scope] {
				return scope
			}
		}
	}
	return ""
}

func (c *FaithfulStream) fail(at int64, scope, format string, args ...any) {
	c.report.scope(FaithfulStreamProperty, at, scope, "subscriber %s: %s", c.name, fmt.Sprintf(format, args...))
}

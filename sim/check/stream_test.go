package check

import (
	"testing"

	"github.com/omnirelay/leadership/core"
)

// streamOf returns a follower of a history of three elections of one scope.
func streamOf(c *caught) (*FaithfulStream, []*core.Record) {
	h := NewChronicle()
	records := []*core.Record{elected(1, 5, "a", 1, 1), elected(2, 6, "a", 2, 2), elected(3, 8, "a", 3, 3)}
	for _, r := range records {
		h.record(r)
	}
	x := NewFaithfulStream(c.report, h, "s")
	x.Restart()
	return x, records
}

func item(r *core.Record) core.StreamItem {
	return core.StreamItem{Kind: core.EventKind(r.Kind), Cursor: core.Cursor{Revision: r.Revision, Ordinal: r.Ordinal}, Record: r}
}

// snapshot is a stream's beginning after the first election.
func snapshot(x *FaithfulStream) {
	x.Item(1, core.StreamItem{Kind: core.EventSnapshot, Token: &core.Token{Scope: "a", Session: 1, Fence: 1}})
	x.Item(1, core.StreamItem{Kind: core.EventObserved, Reason: core.ReasonSnapshotEnd, Cursor: core.Cursor{Revision: 5, Ordinal: 1}})
}

func TestFaithfulStream(t *testing.T) {
	var c caught
	x, records := streamOf(&c)
	snapshot(x)
	x.Item(2, item(records[1]))
	x.Item(3, item(records[2]))
	x.CaughtUp(4, 8, []core.Token{{Scope: "a", Session: 3, Fence: 3}})
	c.want(t, FaithfulStreamProperty, 0)
}

func TestFaithfulStreamResync(t *testing.T) {
	var c caught
	x, _ := streamOf(&c)
	snapshot(x)
	x.Item(2, core.StreamItem{Kind: core.EventObserved, Reason: core.ReasonResync})
	if x.Whole() {
		t.Error("whole amid a resync")
	}
	snapshot(x)
	c.want(t, FaithfulStreamProperty, 0)
}

func TestFaithfulStreamFindsGapRepeatAndWrongState(t *testing.T) {
	for name, follow := range map[string]func(x *FaithfulStream, r []*core.Record){
		"gap":    func(x *FaithfulStream, r []*core.Record) { x.Item(2, item(r[2])) },
		"repeat": func(x *FaithfulStream, r []*core.Record) { x.Item(2, item(r[0])) },
		"event before the snapshot ended": func(x *FaithfulStream, r []*core.Record) {
			x.Restart()
			x.Item(2, item(r[1]))
		},
		"snapshot amid events": func(x *FaithfulStream, _ []*core.Record) {
			x.Item(2, core.StreamItem{Kind: core.EventSnapshot, Token: &core.Token{Scope: "a"}})
		},
		"wrong state": func(x *FaithfulStream, _ []*core.Record) {
			x.CaughtUp(2, 5, []core.Token{{Scope: "a", Session: 9, Fence: 9}})
		},
	} {
		t.Run(name, func(t *testing.T) {
			var c caught
			x, records := streamOf(&c)
			snapshot(x)
			follow(x, records)
			if len(c) == 0 {
				t.Fatal("nothing was reported")
			}
			for _, v := range c {
				if v.Property != FaithfulStreamProperty {
					t.Error(v)
				}
			}
		})
	}
}

package harness

import (
	"slices"
	"testing"

	"github.com/omnirelay/leadership/core"
	"github.com/omnirelay/leadership/wire"
)

// toldOf is what a reader is told that comes after the first records.
func toldOf(trail Trail, first int) (told Told) {
	at := trail[:first].End()
	for _, token := range trail.LeadersAt(at).ByScope {
		told = append(told, wire.Event{Kind: "SNAPSHOT", Scope: token.Scope, LeaderID: token.LeaderID, Token: &token})
	}
	told = append(told, wire.Event{Kind: "OBSERVED", Reason: core.ReasonSnapshotEnd, Revision: at.Revision, Ordinal: at.Ordinal})
	for i := range trail[first:] {
		r, _ := recordOf(&trail[first+i]) // they are good
		told = append(told, wire.EventOfRecord(r))
	}
	return told
}

func TestToldIsVerified(t *testing.T) {
	trail := twoLeaders(t)
	good := toldOf(trail, 4)
	if err := good.Verify(trail); err != nil {
		t.Fatal(err)
	}
	n := len(good)
	for name, spoil := range map[string]func(d Told) Told{
		"one missing":            func(d Told) Told { return slices.Delete(d, n-2, n-1) },
		"the last missing":       func(d Told) Told { return d[:n-1] },
		"one twice":              func(d Told) Told { return slices.Insert(d, n-1, d[n-1]) },
		"one changed":            func(d Told) Told { d[n-1].LeaderID = "c"; return d },
		"two exchanged":          func(d Told) Told { d[n-1], d[n-2] = d[n-2], d[n-1]; return d },
		"a leader not told":      func(d Told) Told { return d[1:] },
		"no end of the snapshot": func(d Told) Told { return d[:1] },
		"a second snapshot":      func(d Told) Told { return append(d, d[0]) },
		"nothing":                func(Told) Told { return nil },
	} {
		if err := spoil(toldOf(trail, 4)).Verify(trail); err == nil {
			t.Errorf("%s: not found", name)
		}
	}
}

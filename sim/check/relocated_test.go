package check

import (
	"testing"

	"github.com/omnirelay/leadership/core"
)

// After an operator's jump the history goes on from what was kept, at revisions far
// ahead; fences that were given in the lost part stay given.
func TestFenceMonotonicAcrossAJump(t *testing.T) {
	var c caught
	x := NewFenceMonotonic(c.report)
	x.Record(1, elected(1, 5, "a", 1, 1))
	x.Record(2, elected(2, 9, "a", 2, 7)) // lost
	x.Relocated(6)
	x.Record(3, elected(2, 1000, "a", 3, 100))
	c.want(t, FenceMonotonicProperty, 0)
	x.Record(4, elected(3, 1001, "b", 4, 7)) // given in the lost part
	c.want(t, FenceMonotonicProperty, 1)
}

func TestFenceMonotonicWantsAHigherFenceAfterAJump(t *testing.T) {
	var c caught
	x := NewFenceMonotonic(c.report)
	x.Record(1, elected(1, 9, "a", 2, 7)) // lost
	x.Relocated(6)
	x.Record(2, elected(1, 1000, "a", 3, 6))
	c.want(t, FenceMonotonicProperty, 1)
}

func TestAgreementAndDurableAcrossAJump(t *testing.T) {
	var c caught
	h := NewChronicle()
	a, d := NewAgreement(c.report, h), NewDurable(c.report, h)
	a.Applied(1, 1, entry(t, 5, 1, "kept"))
	a.Applied(1, 1, entry(t, 7, 1, "lost"))
	a.State(1, 1, 7, [32]byte{1})
	a.Record(1, 1, elected(1, 5, "a", 1, 1))
	a.Record(1, 1, elected(2, 7, "a", 2, 2))
	d.Acknowledged(1, "lost", &core.Result{Revision: 7})
	h.Relocated(6)
	a.Relocated(6)
	a.Applied(2, 1, entry(t, 7, 2, "another"))
	a.State(2, 1, 7, [32]byte{2})
	a.Record(2, 1, elected(2, 1000, "a", 3, 100))
	c.want(t, AgreementProperty, 0)
	a.Applied(3, 1, entry(t, 5, 2, "another")) // what was kept stays
	if len(c) == 0 {
		t.Error("a kept entry was replaced and nobody minded")
	}
}

func TestExactlyOnceAcrossAJump(t *testing.T) {
	var c caught
	x := NewExactlyOnce(c.report)
	x.Answered(1, "kept", &core.Result{Revision: 5})
	x.Answered(1, "lost", &core.Result{Revision: 7})
	x.Relocated(6)
	x.Answered(2, "lost", &core.Result{Revision: 1000})
	c.want(t, ExactlyOnceProperty, 0)
	x.Answered(3, "kept", &core.Result{Revision: 1001})
	c.want(t, ExactlyOnceProperty, 1)
}

func TestLinearizableAcrossAJump(t *testing.T) {
	for name, tt := range map[string]struct {
		call int64
		seen ScopeView
		want int
	}{
		"what was kept":                        {110, led(1), 0},
		"what was lost":                        {110, led(2), 1},
		"what was lost, asked before the jump": {90, led(2), 0},
	} {
		t.Run(name, func(t *testing.T) {
			s := twoElections()
			s.Relocated(100, 6)
			s.read(tt.call, 120, tt.seen, 1000)
			s.Check()
			s.c.want(t, LinearizableProperty, tt.want)
		})
	}
}

func TestLinearizableJudgesWhatIsLostByItself(t *testing.T) {
	s := twoElections()
	s.read(35, 36, led(1), 6) // stale already then
	s.Relocated(100, 6)
	s.c.want(t, LinearizableProperty, 1)
}

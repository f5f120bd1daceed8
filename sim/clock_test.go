package sim

import (
	"testing"

	"pgregory.net/rapid"

	"github.com/omnirelay/leadership/core"
)

func TestClockKeepsItsRateThroughBends(t *testing.T) {
	c := newClock(0, 1000, 10_000)
	if got := c.At(1_000_000); got != 1000+1_010_000 {
		t.Errorf("one per cent fast: %d", got)
	}
	c.setRate(1_000_000, -10_000)
	if got := c.At(2_000_000); got != 1000+1_010_000+990_000 {
		t.Errorf("then one per cent slow: %d", got)
	}
	if got := c.At(500_000); got != 1000+505_000 {
		t.Errorf("the past does not change: %d", got)
	}
}

// A timer set to when(r) must not find the clock before r, nor have slept on.
func TestClockWhenIsTheFirstInstant(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		from := rapid.Int64Range(0, 1e12).Draw(t, "from")
		c := newClock(from, core.Time(rapid.Int64Range(0, 4e18).Draw(t, "shows")), rapid.Int64Range(-400_000, 400_000).Draw(t, "ppm"))
		at := from + rapid.Int64Range(0, 1e13).Draw(t, "later")
		w := c.when(c.At(at))
		if w > at || c.At(w) != c.At(at) {
			t.Fatalf("the clock shows %d at %d, and when says %d", c.At(at), at, w)
		}
		if w > from && c.At(w-1) >= c.At(at) {
			t.Fatalf("%d is not the first instant", w)
		}
	})
}

package clock

import (
	"testing"
	"time"
)

func TestClockGoesOnAndNeverBack(t *testing.T) {
	var c Clock
	before, start := c.Now(), time.Now()
	last := before
	for time.Since(start) < 20*time.Millisecond {
		now := c.Now()
		if now < last {
			t.Fatalf("the clock went from %d back to %d", last, now)
		}
		last = now
	}
	if d := last.Sub(before); d < 15*time.Millisecond || d > 2*time.Second {
		t.Errorf("20ms took %v by the clock", d)
	}
}

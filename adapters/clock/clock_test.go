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

// On a machine whose clocks are slow to read, no pair of readings is close.
func TestSuspensionIsNoticedBySlowReadings(t *testing.T) {
	const slow, asleep = int64(100 * time.Microsecond), int64(10 * time.Second)
	var c Clock
	if c.learn(0, slow/2, slow) || c.suspended.Load() != 0 {
		t.Errorf("without a suspension: %d", c.suspended.Load())
	}
	if c.learn(0, asleep+slow/2, slow) || c.suspended.Load() != asleep-slow/2 {
		t.Errorf("%d, want %d at least", c.suspended.Load(), asleep-slow/2)
	}
	if !c.learn(0, asleep+10, 20) || c.suspended.Load() != asleep-slow/2 {
		t.Errorf("noise counts: %d", c.suspended.Load())
	}
	if !c.learn(0, 2*asleep, 20) || c.suspended.Load() != 2*asleep {
		t.Errorf("%d, want %d", c.suspended.Load(), 2*asleep)
	}
}

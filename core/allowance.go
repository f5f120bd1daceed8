package core

import "time"

// allowance bounds how often something is done: burst times at once, and once more for
// each stretch of every.
type allowance struct {
	left, burst int
	every       time.Duration
	filledAt    Time
}

func newAllowance(now Time, burst int, every time.Duration) allowance {
	return allowance{left: burst, burst: burst, every: every, filledAt: now}
}

// take reports whether it may be done once more now, and counts it.
func (a *allowance) take(now Time) bool {
	a.fill(now)
	if a.left == 0 {
		return false
	}
	a.left--
	return true
}

// fill counts back what time has given.
func (a *allowance) fill(now Time) {
	n := int64(now.Sub(a.filledAt) / a.every)
	if n <= 0 {
		return
	}
	a.left = int(min(int64(a.burst), int64(a.left)+n))
	a.filledAt = a.filledAt.Add(time.Duration(n) * a.every)
}

// full reports whether all is left, as if nothing had ever been taken.
func (a *allowance) full(now Time) bool {
	a.fill(now)
	return a.left == a.burst
}

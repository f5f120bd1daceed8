package core

import "time"

// Time is a reading of one process's own clock, in nanoseconds. The clock counts
// suspended time, is never set or slewed, and keeps its rate within Epsilon of
// true time. Readings of different processes are never compared.
type Time int64

// Never is the deadline of a part that waits for nothing.
const Never Time = 1<<63 - 1

// minTime is before every reading: clocks may start anywhere.
const minTime Time = -1 << 63

// Add returns t+d, or Never when t is Never or the sum would overflow.
func (t Time) Add(d time.Duration) Time {
	if t == Never || (d > 0 && int64(t) > int64(Never)-int64(d)) {
		return Never
	}
	return t + Time(d)
}

// Sub returns t-u.
func (t Time) Sub(u Time) time.Duration { return time.Duration(t - u) }

// Epsilon bounds a clock's rate error against true time, in parts per thousand.
// The zero value means DefaultEpsilon: a bound of zero is not a bound a clock keeps.
type Epsilon int64

// DefaultEpsilon is 1 %, fifty times what crystals drift.
const DefaultEpsilon Epsilon = 10

func (e Epsilon) permille() int64 {
	if e == 0 {
		return int64(DefaultEpsilon)
	}
	return int64(e)
}

// Stretch returns d(1+ε), rounded up: what a clock that runs fast must count
// before d has surely passed in true time.
func (e Epsilon) Stretch(d time.Duration) time.Duration {
	return d + time.Duration((int64(d)*e.permille()+999)/1000)
}

// Shrink returns d(1-ε), rounded down: what a clock that runs slow may count
// while d has surely not passed in true time.
func (e Epsilon) Shrink(d time.Duration) time.Duration {
	return d - time.Duration((int64(d)*e.permille()+999)/1000)
}

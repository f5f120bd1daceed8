// Package clock reads the clock that leases are measured with.
package clock

import (
	"sync/atomic"
	"time"

	"golang.org/x/sys/unix"

	"github.com/omnirelay/leadership/core"
)

// Clock reads the clock that leases are measured with: CLOCK_MONOTONIC_RAW, which
// no time daemon slews (chrony may slew the others by 8 %, far beyond any drift
// that a lease allows for), plus the time the machine was suspended, which is
// what CLOCK_BOOTTIME has over CLOCK_MONOTONIC.
type Clock struct {
	suspended atomic.Int64 // nanoseconds; only grows
}

const (
	// A reading of two clocks tells the suspended time only if both were read within
	// this time: else the process was preempted in between, and it tells the least that
	// it can be.
	pairWindow = 20 * time.Microsecond
	// Less than this between two readings of the suspended time is noise.
	suspendGrain = time.Millisecond
	pairTries    = 8
)

// Now reads the clock.
func (c *Clock) Now() core.Time {
	return core.Time(read(unix.CLOCK_MONOTONIC_RAW) + c.suspendedNs())
}

// suspendedNs is how long the machine has been suspended since it booted.
func (c *Clock) suspendedNs() int64 {
	for range pairTries {
		before := read(unix.CLOCK_MONOTONIC)
		boot := read(unix.CLOCK_BOOTTIME)
		after := read(unix.CLOCK_MONOTONIC)
		if c.learn(before, boot, after) {
			break
		}
	}
	return c.suspended.Load()
}

// learn takes what CLOCK_BOOTTIME has over two readings of CLOCK_MONOTONIC around it, and
// reports whether these were close enough. Where clocks are slow they never are, and a
// suspension must be noticed all the same.
func (c *Clock) learn(before, boot, after int64) (tight bool) {
	tight = after-before <= int64(pairWindow)
	found := boot - after
	if tight {
		found = boot - before
	}
	if known := c.suspended.Load(); found-known > int64(suspendGrain) {
		c.suspended.CompareAndSwap(known, found)
	}
	return tight
}

// Boottime reads CLOCK_BOOTTIME, for comparing readings of processes of one machine.
func Boottime() int64 { return read(unix.CLOCK_BOOTTIME) }

// read panics when the kernel lacks the clock: without it no lease can be kept.
func read(id int32) int64 {
	var ts unix.Timespec
	if err := unix.ClockGettime(id, &ts); err != nil {
		panic("clock_gettime: " + err.Error())
	}
	return ts.Nano()
}

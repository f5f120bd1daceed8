package supervisor

import "time"

// schedule is what is left of a lease, on CLOCK_BOOTTIME.
type schedule struct {
	termAt int64 // CMD is told to end
	killAt int64 // the fuse dies, and with it all in the namespace
	lastAt int64 // init dies, where it is no PID 1 and was to kill all at killAt
}

// slewTenths is by how many tenths the kernel lets a time daemon slow its clocks at most,
// that timers run by; the lease is measured by a clock that nobody slews.
const slewTenths = 1

// scheduleOf reckons from a reading of CLOCK_BOOTTIME that was made before the rest of the
// lease was asked for. margin is what the killing may take, grace what CMD has to end.
func scheduleOf(now int64, remaining, margin, grace time.Duration) schedule {
	at := func(rest time.Duration) int64 { return now + int64(rest)*(10-slewTenths)/10 }
	kill := at(remaining - margin)
	return schedule{termAt: kill - int64(grace), killAt: kill, lastAt: at(remaining - margin/2)}
}

func (s schedule) order() order { return order{TermAt: s.termAt, KillAt: s.killAt, LastAt: s.lastAt} }

package supervisor

import "time"

// schedule is what is left of a lease, on CLOCK_BOOTTIME.
type schedule struct{ termAt, killAt int64 }

// slewTenths is by how many tenths the kernel lets a time daemon slow its clocks at most,
// that timers run by; the lease is measured by a clock that nobody slews.
const slewTenths = 1

// scheduleOf reckons from a reading of CLOCK_BOOTTIME that was made before the rest of the
// lease was asked for. margin is what the killing may take, grace what CMD has to end.
func scheduleOf(now int64, remaining, margin, grace time.Duration) schedule {
	kill := now + int64(remaining-margin)*(10-slewTenths)/10
	return schedule{termAt: kill - int64(grace), killAt: kill}
}

func (s schedule) order() order { return order{TermAt: s.termAt, KillAt: s.killAt} }

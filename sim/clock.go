package sim

import (
	"math"

	"github.com/omnirelay/leadership/core"
)

const million = 1_000_000

// never is an instant of true time that does not come.
const never int64 = math.MaxInt64

// clock is one machine's clock that counts suspended time: a straight line over
// true time, bent where its rate was changed.
type clock struct {
	segments []segment
}

// segment is the clock from one change of rate on.
type segment struct {
	from int64     // true time
	base core.Time // what the clock shows then
	ppm  int64     // rate error in parts per million
}

func newClock(at int64, shows core.Time, ppm int64) *clock {
	return &clock{segments: []segment{{from: at, base: shows, ppm: ppm}}}
}

// At is what the clock shows at an instant of true time.
func (c *clock) At(t int64) core.Time {
	i := len(c.segments) - 1
	for i > 0 && t < c.segments[i].from {
		i--
	}
	s := c.segments[i]
	d, rate := t-s.from, million+s.ppm
	return s.base + core.Time(d/million*rate+d%million*rate/million)
}

// when is the first instant of true time at which the clock shows at least r, if
// its rate stays as it is.
func (c *clock) when(r core.Time) int64 {
	if r == core.Never {
		return never
	}
	s := c.segments[len(c.segments)-1]
	d := int64(r - s.base)
	if d <= 0 {
		return s.from
	}
	rate := million + s.ppm
	return s.from + d/rate*million + (d%rate*million+rate-1)/rate
}

// setRate bends the clock.
func (c *clock) setRate(t, ppm int64) {
	c.segments = append(c.segments, segment{from: t, base: c.At(t), ppm: ppm})
}

package check

import (
	"math"
	"testing"
	"time"

	"github.com/omnirelay/leadership/core"
)

// trueClock shows true time.
type trueClock struct{}

func (trueClock) At(t int64) core.Time { return core.Time(t) }

const sec = int64(time.Second)

func TestNoResurrection(t *testing.T) {
	for _, tt := range []struct {
		name    string
		expired int64 // 0: never
		acked   int64
		want    int
	}{
		{"never expired", 0, sec, 0},
		{"expired when the promise was over", 2 * sec, sec, 0},
		{"expired within the promise", sec + sec/2, sec, 1},
		{"acknowledged after it had expired", sec / 2, sec, 1},
	} {
		t.Run(tt.name, func(t *testing.T) {
			var c caught
			x := NewNoResurrection(c.report)
			x.Sent(1, 1, 0, 2*time.Second, 0, trueClock{})
			if tt.expired != 0 && tt.expired < tt.acked {
				x.Expired(tt.expired, 1)
			}
			x.Acknowledged(tt.acked, 1, 1)
			if tt.expired >= tt.acked {
				x.Expired(tt.expired, 1)
			}
			c.want(t, NoResurrectionProperty, tt.want)
		})
	}
}

func TestNoResurrectionIgnoresWhatWasNotAcknowledged(t *testing.T) {
	var c caught
	x := NewNoResurrection(c.report)
	x.Sent(1, 1, 0, 2*time.Second, 0, trueClock{})
	x.Expired(sec, 1)
	c.want(t, NoResurrectionProperty, 0)
	x.Acknowledged(2*sec, 1, 9)
	c.want(t, NoResurrectionProperty, 1) // never sent
}

func newBounded(c *caught) *BoundedExpiry {
	x := NewBoundedExpiry(c.report, 0, 500*time.Millisecond)
	x.Opened(0, 1, 2*time.Second)
	return x
}

func TestBoundedExpiryInOneOffice(t *testing.T) {
	var c caught
	x := newBounded(&c)
	x.Office(0)
	x.Heard(sec, 1)
	x.Check(3*sec + 500_000_000)
	c.want(t, BoundedExpiryProperty, 0) // silent for 2.5 s
	x.Check(3*sec + 600_000_000)
	c.want(t, BoundedExpiryProperty, 1)
	x.Check(9 * sec)
	c.want(t, BoundedExpiryProperty, 1) // told once
}

func TestBoundedExpiryCountsWholeOffices(t *testing.T) {
	var c caught
	x := newBounded(&c)
	for i := range int64(2) {
		x.Office(i * 4 * sec)
		x.NoOffice(i*4*sec + 1_400_000_000) // long enough for one note each
	}
	c.want(t, BoundedExpiryProperty, 0)
	x.Office(8 * sec)
	x.Check(8*sec + 1_400_000_000)
	c.want(t, BoundedExpiryProperty, 1)
}

func TestBoundedExpiryForgivesShortOffices(t *testing.T) {
	var c caught
	x := newBounded(&c)
	for i := range int64(20) {
		x.Office(i * 2 * sec)
		x.NoOffice(i*2*sec + 1_200_000_000)
	}
	x.Heard(41*sec, 1)
	x.Office(42 * sec)
	x.Ended(1)
	x.Check(60 * sec)
	c.want(t, BoundedExpiryProperty, 0)
}

func TestElectionSLA(t *testing.T) {
	var c caught
	x := NewElectionSLA(c.report, 5*time.Second)
	x.Sample(0, "a", true, 0)
	x.Sample(1*sec, "a", false, 0)
	x.Sample(6*sec, "a", false, 0)
	x.Sample(7*sec, "b", false, math.MaxInt64) // nothing is owed
	x.Sample(20*sec, "b", false, math.MaxInt64)
	x.Sample(21*sec, "b", false, 17*sec) // owed for less than the window
	x.Sample(22*sec, "c", false, 0)
	x.Sample(23*sec, "c", true, 0)
	x.Sample(29*sec, "c", false, 0)
	c.want(t, ElectionSLAProperty, 0)
	x.Sample(6*sec+1, "a", false, 0)
	c.want(t, ElectionSLAProperty, 1)
}

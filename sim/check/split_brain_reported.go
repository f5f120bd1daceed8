package check

import (
	"time"

	"github.com/omnirelay/leadership/core"
)

// SplitBrainReported: a registrar that is untouched, and hears again and again that a
// member claims what the log took from it, reports it in time; and nobody reports what
// nobody claimed.
type SplitBrainReported struct {
	report Report
	within time.Duration
	claims map[claimant]*contradiction
}

type claimant struct {
	member, scope string
	fence         uint64
}

// contradiction is a claim that the log contradicts.
type contradiction struct {
	first  int64 // when it was heard first, of words of which none ran out before the next
	until  int64 // when the latest of them runs out
	since  int64 // from when on it is owed that it be reported; 0: it is not
	told   bool
	office int64 // since when the registrar that hears it is in office
}

func NewSplitBrainReported(report Report, within time.Duration) *SplitBrainReported {
	return &SplitBrainReported{report: report, within: within, claims: map[claimant]*contradiction{}}
}

// Heard tells that an untouched registrar, in office since then, heard a claim that the log
// took away on suspicion, that the member goes on to believe, and that lives so long. Heard
// once it may be late: what is heard for longer than patience is to be reported.
func (c *SplitBrainReported) Heard(at, office int64, member string, claim core.Claim, life, patience time.Duration) {
	k := claimant{member, claim.Scope, claim.Fence}
	x := c.claims[k]
	if x == nil {
		x = &contradiction{}
		c.claims[k] = x
	}
	if x.office != office || at >= x.until {
		x.first, x.since, x.office = at, 0, office
	}
	x.until = max(x.until, at+int64(life))
	if x.since == 0 && time.Duration(at-x.first) > patience {
		x.since = at
	}
}

// Office tells since when the registrar of now is untouched in office; 0: there is none.
func (c *SplitBrainReported) Office(since int64) {
	for _, x := range c.claims {
		if x.office != since {
			x.since, x.until = 0, 0
		}
	}
}

// Told takes a report.
func (c *SplitBrainReported) Told(r *core.Record) {
	k := claimant{r.MemberId, r.Scope, r.Fence}
	if c.claims[k] == nil {
		c.claims[k] = &contradiction{}
	}
	c.claims[k].told = true
}

// Check looks for what should have been reported by now.
func (c *SplitBrainReported) Check(at int64) {
	var late *claimant
	for k, x := range c.claims {
		if !x.told && x.since > 0 && time.Duration(at-x.since) > c.within && (late == nil || k.less(*late)) {
			late = &k
		}
	}
	if late != nil {
		c.claims[*late].told = true
		c.report.scope(SplitBrainReportedProperty, at, late.scope, "%s claims %s under fence %d, which the log took away on suspicion, and nobody reports it", late.member, late.scope, late.fence)
	}
}

func (k claimant) less(o claimant) bool {
	return k.fence < o.fence || k.fence == o.fence && k.member < o.member
}

package check

import (
	"maps"

	"google.golang.org/protobuf/proto"

	"github.com/omnirelay/leadership/core"
)

// ExactlyOnce: a request that is retried, through whichever replica and however
// late, has one effect and one reply.
type ExactlyOnce struct {
	report  Report
	replies map[string]*core.Result
	effects map[effect]core.Cursor
}

// effect is what a single request can bring about only once.
type effect struct {
	correlation string
	kind        uint32
	scope       string
}

func NewExactlyOnce(report Report) *ExactlyOnce {
	return &ExactlyOnce{report: report, replies: map[string]*core.Result{}, effects: map[effect]core.Cursor{}}
}

// Relocated tells that what was behind a revision is lost: it may be asked again.
func (c *ExactlyOnce) Relocated(kept uint64) {
	maps.DeleteFunc(c.replies, func(_ string, r *core.Result) bool { return r.Revision > kept })
	maps.DeleteFunc(c.effects, func(_ effect, at core.Cursor) bool { return at.Revision > kept })
}

// Answered takes a reply. One without a revision never reached the log; one that
// is too old was refused before it could have an effect.
func (c *ExactlyOnce) Answered(at int64, requestID string, r *core.Result) {
	if r.Revision == 0 || core.Code(r.Code) == core.CodeTooOld {
		return
	}
	had := c.replies[requestID]
	if had == nil {
		c.replies[requestID] = r
		return
	}
	if had != r && !proto.Equal(had, r) {
		c.report.plain(ExactlyOnceProperty, at, "request %s was answered %q at revision %d (session %d) and %q at revision %d (session %d)",
			requestID, had.Code, had.Revision, had.Session, r.Code, r.Revision, r.Session)
	}
}

// Record takes a record; the workload gives every request a correlation id of
// its own, so an effect that shows up at two places happened twice.
func (c *ExactlyOnce) Record(at int64, r *core.Record) {
	switch core.EventKind(r.Kind) {
	case core.EventDrainRequested, core.EventScopeDeclared:
	default:
		return
	}
	if r.CorrelationId == "" {
		return
	}
	e := effect{correlation: r.CorrelationId, kind: r.Kind, scope: r.Scope}
	place := core.Cursor{Revision: r.Revision, Ordinal: r.Ordinal}
	had, ok := c.effects[e]
	if ok && had != place {
		c.report.scope(ExactlyOnceProperty, at, r.Scope, "request %s took effect on %s at %v and again at %v", r.CorrelationId, r.Scope, had, place)
		return
	}
	c.effects[e] = place
}

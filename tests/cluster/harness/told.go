package harness

import (
	"fmt"

	"github.com/omnirelay/leadership/core"
	"github.com/omnirelay/leadership/wire"
)

// Told is what one reader of the event stream was told, over all its connections.
type Told []wire.Event

// CursorOf is the place behind an event.
func CursorOf(e wire.Event) core.Cursor {
	return core.Cursor{Revision: e.Revision, Ordinal: e.Ordinal}
}

// Cursor is the place behind the last event.
func (d Told) Cursor() core.Cursor {
	if len(d) == 0 {
		return core.Cursor{}
	}
	return CursorOf(d[len(d)-1])
}

// Verify checks what was told against the audit trail: one snapshot with the
// leaders of its revision, then every record after it once and in order. A resync
// or a second snapshot is an error: it would stand for events that were missed.
func (d Told) Verify(trail Trail) error {
	snapshot := Leaders{ByScope: map[string]wire.Token{}}
	for i, e := range d {
		switch {
		case e.Kind == core.EventSnapshot.String():
			snapshot.ByScope[e.Scope] = *e.Token
		case e.Kind == core.EventObserved.String() && e.Reason == core.ReasonSnapshotEnd:
			if err := snapshot.SameTokens(trail.LeadersAt(CursorOf(e))); err != nil {
				return fmt.Errorf("the snapshot at %v against the audit trail: %w", CursorOf(e), err)
			}
			return sameEvents(d[i+1:], trail.After(CursorOf(e)))
		default:
			return fmt.Errorf("event %d is %s %s, within a snapshot", i, e.Kind, e.Reason)
		}
	}
	return fmt.Errorf("%d events were told and no snapshot ended", len(d))
}

func sameEvents(events Told, trail Trail) error {
	for i, e := range events {
		if i == len(trail) {
			return fmt.Errorf("%d events arrived after the snapshot, the audit trail has %d; the first too many is %s at %v",
				len(events), len(trail), e.Kind, CursorOf(e))
		}
		if err := sameEvent(e, &trail[i]); err != nil {
			return fmt.Errorf("event %d after the snapshot: %w", i+1, err)
		}
	}
	if len(events) < len(trail) {
		return fmt.Errorf("%d events arrived after the snapshot, the audit trail has %d; the first missing is record %d", len(events), len(trail), trail[len(events)].Seq)
	}
	return nil
}

func sameEvent(e wire.Event, r *wire.AuditRecord) error {
	fence := uint64(0)
	if e.Token != nil {
		fence = e.Token.FenceToken
	}
	if CursorOf(e) != (core.Cursor{Revision: r.Revision, Ordinal: r.Ordinal}) || e.Kind != r.Kind || e.Scope != r.Scope || e.LeaderID != r.MemberID ||
		fence != r.FenceToken || e.CorrelationID != r.CorrelationID || !e.OccurredAt.Equal(r.OccurredAt) {
		return fmt.Errorf("%v %s of %s by %s with fence %d (%s), the audit trail has %d.%d %s of %s by %s with fence %d (%s)", CursorOf(e), e.Kind, e.Scope,
			e.LeaderID, fence, e.CorrelationID, r.Revision, r.Ordinal, r.Kind, r.Scope, r.MemberID, r.FenceToken, r.CorrelationID)
	}
	return nil
}

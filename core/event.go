package core

import (
	"fmt"
	"strconv"
	"strings"

	"github.com/omnirelay/leadership/core/logpb"
)

// EventKind says what a record tells. Values are those of the public API and of
// the audit trail: never renumber.
type EventKind uint32

const (
	EventSnapshot       EventKind = 1 // the leader of a scope when a stream began; never in the log
	EventObserved       EventKind = 2 // a mark of a stream: ReasonSnapshotEnd or ReasonResync; never in the log
	EventElected        EventKind = 3
	EventRenewed        EventKind = 4 // local and opt-in; never in the log
	EventLost           EventKind = 5 // leadership ended with its scope
	EventExpired        EventKind = 6 // leadership ended with its session
	EventSteppedDown    EventKind = 7 // leadership given up by its holder
	EventDrainRequested EventKind = 8
	EventDrainCancelled EventKind = 9
	EventScopeDeclared  EventKind = 10
	EventScopeRetired   EventKind = 11
	EventSplitBrain     EventKind = 12 // two may lead one scope, or a leader is gone while its lease lives

	// Without a scope.
	EventMemberCordoned   EventKind = 13
	EventMemberUncordoned EventKind = 14
	EventMemberObserved   EventKind = 15 // what gossip says against electing a member changed
	EventNodeAdded        EventKind = 16 // as a learner
	EventNodePromoted     EventKind = 17
	EventNodeRemoved      EventKind = 18
	EventRegistrarMoved   EventKind = 19 // the registrar is asked to hand its office on
)

var eventKindNames = [...]string{
	EventSnapshot: "SNAPSHOT", EventObserved: "OBSERVED", EventElected: "ELECTED", EventRenewed: "RENEWED",
	EventLost: "LOST", EventExpired: "EXPIRED", EventSteppedDown: "STEPPED_DOWN",
	EventDrainRequested: "DRAIN_REQUESTED", EventDrainCancelled: "DRAIN_CANCELLED",
	EventScopeDeclared: "SCOPE_DECLARED", EventScopeRetired: "SCOPE_RETIRED", EventSplitBrain: "SPLIT_BRAIN",
	EventMemberCordoned: "MEMBER_CORDONED", EventMemberUncordoned: "MEMBER_UNCORDONED", EventMemberObserved: "MEMBER_OBSERVED",
	EventNodeAdded: "NODE_ADDED", EventNodePromoted: "NODE_PROMOTED", EventNodeRemoved: "NODE_REMOVED",
	EventRegistrarMoved: "REGISTRAR_MOVED",
}

func (k EventKind) String() string {
	if int(k) < len(eventKindNames) && eventKindNames[k] != "" {
		return eventKindNames[k]
	}
	return "EVENT_KIND_" + strconv.Itoa(int(k))
}

// EndsLeadership reports whether the scope had a leader before the event and has
// none after it. Unless an ELECTED of the same scope follows, it is vacant.
func (k EventKind) EndsLeadership() bool {
	return k == EventLost || k == EventExpired || k == EventSteppedDown
}

// Reasons that appear in events.
const (
	ReasonSnapshotEnd   = "snapshot-end"
	ReasonResync        = "resync"
	ReasonElected       = "elected"        // a vacant scope found its leader
	ReasonSessionEnded  = "session-closed" // the holder closed its session after it had stopped
	ReasonReplaced      = "process-proven-dead"
	ReasonExpired       = "session-expired"
	ReasonSuspected     = "session-silent" // of a scope with fast failover
	ReasonResigned      = "resigned"
	ReasonMoved         = "registry-moved" // the registry went on in another log: every session ended
	ReasonScopeDeclared = "declared"
	ReasonScopeRetired  = "retired"
	ReasonCordon        = "cordon" // with a drain: AskDrain
	ReasonUncordon      = "uncordon"
)

// Record is one transition: an event of the stream and a record of the audit
// trail, the same in both. Never modified after it was made.
type Record = logpb.Record

// Cursor is a place in the event stream: after event Ordinal of the log entry at
// Revision. Ordinals count from 1; the zero ordinal is the place before the
// entry's first event.
type Cursor struct {
	Revision uint64
	Ordinal  uint32
}

// Compare returns -1, 0 or +1.
func (c Cursor) Compare(d Cursor) int {
	switch {
	case c.Revision != d.Revision:
		if c.Revision < d.Revision {
			return -1
		}
		return 1
	case c.Ordinal != d.Ordinal:
		if c.Ordinal < d.Ordinal {
			return -1
		}
		return 1
	}
	return 0
}

// String writes the cursor as revision.ordinal.
func (c Cursor) String() string {
	return strconv.FormatUint(c.Revision, 10) + "." + strconv.FormatUint(uint64(c.Ordinal), 10)
}

// ParseCursor reads what String wrote.
func ParseCursor(s string) (Cursor, error) {
	rev, ord, ok := strings.Cut(s, ".")
	if !ok || len(s) > 32 {
		return Cursor{}, invalid("cursor", "want revision.ordinal, like 1042.3")
	}
	r, err1 := parseDecimal(rev, 64)
	o, err2 := parseDecimal(ord, 32)
	if err1 != nil || err2 != nil {
		return Cursor{}, invalid("cursor", "want revision.ordinal in decimal digits, like 1042.3")
	}
	return Cursor{Revision: r, Ordinal: uint32(o)}, nil
}

func parseDecimal(s string, bits int) (uint64, error) {
	if s == "" || (len(s) > 1 && s[0] == '0') || s[0] == '+' {
		return 0, fmt.Errorf("not a canonical decimal")
	}
	return strconv.ParseUint(s, 10, bits)
}

func cursorOf(r *Record) Cursor { return Cursor{Revision: r.Revision, Ordinal: r.Ordinal} }

package core

import "github.com/omnirelay/leadership/core/plant"

// Filter narrows a stream.
type Filter struct {
	Scope string // empty: all scopes
}

func (f Filter) admits(scope string) bool { return f.Scope == "" || f.Scope == scope }

// Subscription is one reader's place in the event stream of one replica. It keeps
// no queue: it is a cursor into the retained history, so a slow reader costs
// nothing and is resynced, never waited for.
//
// The stream is a snapshot at one revision (SNAPSHOT items), an end mark
// (OBSERVED, ReasonSnapshotEnd), then every event after it in order. When events
// it still owes are no longer kept, an OBSERVED item with ReasonResync says so
// and a new snapshot follows; there is never a silent gap.
type Subscription struct {
	filter  Filter
	started bool
	cursor  Cursor
	owed    []StreamItem // of a snapshot not wholly delivered
	plants  plant.Set
}

// StreamItem is one item of a stream.
type StreamItem struct {
	Kind EventKind
	// Cursor resumes behind this item. Within a snapshot it is zero: a reader that
	// leaves there starts over.
	Cursor Cursor
	Token  *Token  // SNAPSHOT: the leader of one scope
	Record *Record // an event of the log
	Reason string  // OBSERVED: ReasonSnapshotEnd or ReasonResync
}

// NewSubscription returns a stream that resumes behind the cursor, or, when it is
// nil, begins with a snapshot.
func NewSubscription(f Filter, resume *Cursor) *Subscription {
	s := &Subscription{filter: f}
	if resume != nil {
		s.started, s.cursor = true, *resume
	}
	return s
}

// WithPlants is for the simulator.
func (s *Subscription) WithPlants(p plant.Set) *Subscription {
	s.plants = p
	return s
}

// Ahead reports whether the reader has seen what g does not hold. A copy that lags
// catches up; one that is known to hold everything acknowledged (a linearizable
// read) never will: then the reader comes from another history, and Resync is due.
func (s *Subscription) Ahead(g *Registry) bool { return s.started && s.cursor.Revision > g.revision }

// Resync makes the stream start over: an OBSERVED item with ReasonResync, then a
// snapshot.
func (s *Subscription) Resync() {
	s.started = false
	s.owed = []StreamItem{{Kind: EventObserved, Reason: ReasonResync}}
}

// Poll returns up to limit items that follow what was returned before. Empty
// means that nothing new is there yet, or that g is behind the reader's cursor.
func (s *Subscription) Poll(g *Registry, limit int) []StreamItem {
	var items []StreamItem
	for len(items) < limit {
		if !s.started {
			s.snapshot(g)
		}
		if n := min(limit-len(items), len(s.owed)); n > 0 {
			items = append(items, s.owed[:n]...)
			s.owed = s.owed[n:]
			continue
		}
		more, progressed := s.events(g, limit-len(items))
		items = append(items, more...)
		if !progressed {
			break
		}
	}
	return items
}

// snapshot owes the reader the leaders of now.
func (s *Subscription) snapshot(g *Registry) {
	for _, t := range g.Tokens() {
		if s.filter.admits(t.Scope) {
			s.owed = append(s.owed, StreamItem{Kind: EventSnapshot, Token: &t})
		}
	}
	s.cursor = g.endCursor()
	s.started = true
	s.owed = append(s.owed, StreamItem{Kind: EventObserved, Reason: ReasonSnapshotEnd, Cursor: s.cursor})
}

// endCursor is the place behind everything that has happened.
func (g *Registry) endCursor() Cursor {
	if last := g.history.Last(); last != nil && last.Revision == g.revision {
		return cursorOf(last)
	}
	return Cursor{Revision: g.revision}
}

// events returns the next records that the filter admits. progressed is false at
// the end of what is there.
func (s *Subscription) events(g *Registry, limit int) (items []StreamItem, progressed bool) {
	if s.cursor.Revision > g.revision {
		return nil, false
	}
	records, ok := g.history.After(s.cursor, limit)
	if !ok {
		s.Resync()
		return nil, true
	}
	if s.plants.Has(plant.StreamResumesLate) && len(records) > 0 {
		s.plants = plant.Set{}
		s.cursor = cursorOf(records[0])
		records = records[1:]
	}
	for _, r := range records {
		s.cursor = cursorOf(r)
		if s.filter.admits(r.Scope) {
			items = append(items, StreamItem{Kind: EventKind(r.Kind), Cursor: s.cursor, Record: r})
		}
	}
	return items, len(records) > 0
}

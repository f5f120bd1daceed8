package telemetry

import (
	"context"
	"log/slog"
	"slices"
	"strings"
	"sync"
	"time"

	"github.com/omnirelay/leadership/core"
)

// scopeKinds are the values of the label scope_kind: a user's own kinds count as
// custom, so that the number of series stays bounded.
var scopeKinds = []string{core.KindGlobal, core.KindShard, core.KindCustom}

func scopeKind(kind string) string {
	if kind == core.KindGlobal || kind == core.KindShard {
		return kind
	}
	return core.KindCustom
}

// transitions are the kinds that begin or end a leadership.
var transitions = []core.EventKind{core.EventElected, core.EventLost, core.EventExpired, core.EventSteppedDown}

// recordKinds are the kinds that a record can have.
var recordKinds = append(transitions[:len(transitions):len(transitions)],
	core.EventDrainRequested, core.EventDrainCancelled, core.EventScopeDeclared, core.EventScopeRetired,
	core.EventSplitBrain, core.EventMemberCordoned, core.EventMemberUncordoned, core.EventMemberObserved,
	core.EventNodeAdded, core.EventNodePromoted, core.EventNodeRemoved, core.EventRegistrarMoved)

func transitionNames() []string { return labelsOf(transitions) }
func recordNames() []string     { return append(labelsOf(recordKinds), "other") }

func labelsOf(kinds []core.EventKind) []string {
	names := make([]string, len(kinds))
	for i, k := range kinds {
		names[i] = labelOf(k)
	}
	return names
}

func labelOf(k core.EventKind) string { return strings.ToLower(k.String()) }

// history is what the records told so far of each scope.
type history struct {
	mu     sync.Mutex
	seq    uint64 // of the last record; 0: none
	scopes map[string]*past
}

// past is what the records told of one scope.
type past struct {
	led      bool
	fence    uint64
	vacant   bool  // known to be, since vacantNs
	vacantNs int64 // registrar's wall clock
}

func newHistory() history { return history{scopes: map[string]*past{}} }

// Observe turns committed records, in their order, into one log line and the
// counts of each. Records that were skipped (a snapshot was installed) are no
// transitions that this node saw: what was known of scopes is forgotten then.
// Observe never waits for the log.
func (m *Metrics) Observe(records []*core.Record) {
	m.history.mu.Lock()
	defer m.history.mu.Unlock()
	more := make([]line, 0, len(records))
	for _, r := range records {
		if alarm := m.observe(r); alarm != "" {
			more = append(more, line{r, alarm})
		}
		more = append(more, line{record: r})
	}
	m.lines.add(more, m.log)
}

// Flush waits until the line of every record observed before is written, or ctx ends.
func (m *Metrics) Flush(ctx context.Context) { m.lines.flush(ctx) }

// observe counts a record. alarm is what it shows that must never happen, if anything.
func (m *Metrics) observe(r *core.Record) (alarm string) {
	h := &m.history
	if h.seq != 0 && r.Seq != h.seq+1 {
		h.scopes = map[string]*past{}
	}
	h.seq = r.Seq
	kind := core.EventKind(r.Kind)
	m.countRecord(kind)
	if kind >= core.EventSplitBrain { // of no scope's leadership
		if kind == core.EventSplitBrain && slices.Contains(splitReasons, r.Reason) {
			m.SplitBrain(r.Reason)
		}
		return ""
	}
	p := h.scopes[r.Scope]
	if p == nil {
		p = &past{}
		h.scopes[r.Scope] = p
	}
	switch {
	case kind == core.EventElected:
		m.transitions.WithLabelValues(scopeKind(r.ScopeKind), labelOf(kind)).Inc()
		alarm = m.elected(p, r)
	case kind.EndsLeadership():
		m.transitions.WithLabelValues(scopeKind(r.ScopeKind), labelOf(kind)).Inc()
		p.led, p.vacant, p.vacantNs = false, true, r.WallNs
	case kind == core.EventScopeDeclared && !p.led:
		p.vacant, p.vacantNs = true, r.WallNs
	case kind == core.EventScopeRetired:
		delete(h.scopes, r.Scope)
	}
	return alarm
}

func (m *Metrics) countRecord(kind core.EventKind) {
	for _, k := range recordKinds {
		if k == kind {
			m.records.WithLabelValues(labelOf(k)).Inc()
			return
		}
	}
	m.records.WithLabelValues("other").Inc()
}

func (m *Metrics) elected(p *past, r *core.Record) (alarm string) {
	switch {
	case p.led:
		alarm = SplitElectedWhileLed
	case r.Fence <= p.fence:
		alarm = SplitFenceNotRaised
	}
	if alarm != "" {
		m.SplitBrain(alarm)
	}
	if p.vacant {
		// The clocks of two registrars may disagree; time does not run backwards.
		m.election.Observe(float64(max(0, r.WallNs-p.vacantNs)) / float64(time.Millisecond))
	}
	p.led, p.vacant, p.fence = true, false, max(p.fence, r.Fence)
	return alarm
}

// log writes one line.
func (m *Metrics) log(l line) {
	kind := core.EventKind(l.record.Kind)
	level, message := slog.LevelInfo, "leadership "+strings.ReplaceAll(labelOf(kind), "_", " ")
	attrs := attributes(l.record)
	switch {
	case l.alarm != "":
		level, message = slog.LevelError, "split brain"
		attrs = append(attrs, slog.String("alarm", l.alarm), slog.String("runbook", SplitBrainRunbook))
	case kind == core.EventSplitBrain:
		level, message = slog.LevelWarn, "split brain"
		attrs = append(attrs, slog.String("alarm", l.record.Reason), slog.String("runbook", SplitBrainRunbook))
	case kind > core.EventSplitBrain:
		message = strings.ReplaceAll(labelOf(kind), "_", " ")
		attrs = outsideScopes(l.record)
	case kind == core.EventExpired:
		level = slog.LevelWarn
	}
	m.logger.LogAttrs(context.Background(), level, message, attrs...)
}

func attributes(r *core.Record) []slog.Attr {
	return append([]slog.Attr{
		slog.String("scope", r.Scope), slog.String("scopeKind", r.ScopeKind), slog.String("leader", r.MemberId),
		slog.Uint64("term", r.Term), slog.Uint64("fence", r.Fence),
	}, causes(r)...)
}

// outsideScopes tells a record about a member or a node.
func outsideScopes(r *core.Record) []slog.Attr {
	return append([]slog.Attr{slog.String("member", r.MemberId), slog.String("subject", r.Subject)}, causes(r)...)
}

// causes are what tells of every record where it comes from.
func causes(r *core.Record) []slog.Attr {
	cursor := core.Cursor{Revision: r.Revision, Ordinal: r.Ordinal}
	attrs := []slog.Attr{
		slog.String("reason", r.Reason), slog.String("cursor", cursor.String()), slog.Uint64("seq", r.Seq),
		slog.String("correlationId", r.CorrelationId), slog.String("actor", r.Actor),
	}
	if r.Why != "" {
		attrs = append(attrs, slog.String("why", r.Why))
	}
	return attrs
}

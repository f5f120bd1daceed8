package telemetry

import (
	"context"
	"log/slog"
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
	core.EventDrainRequested, core.EventDrainCancelled, core.EventScopeDeclared, core.EventScopeRetired)

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
func (m *Metrics) Observe(records []*core.Record) {
	m.history.mu.Lock()
	defer m.history.mu.Unlock()
	for _, r := range records {
		m.observe(r)
		m.log(r)
	}
}

func (m *Metrics) observe(r *core.Record) {
	h := &m.history
	if h.seq != 0 && r.Seq != h.seq+1 {
		h.scopes = map[string]*past{}
	}
	h.seq = r.Seq
	kind := core.EventKind(r.Kind)
	m.countRecord(kind)
	p := h.scopes[r.Scope]
	if p == nil {
		p = &past{}
		h.scopes[r.Scope] = p
	}
	switch {
	case kind == core.EventElected:
		m.transitions.WithLabelValues(scopeKind(r.ScopeKind), labelOf(kind)).Inc()
		m.elected(p, r)
	case kind.EndsLeadership():
		m.transitions.WithLabelValues(scopeKind(r.ScopeKind), labelOf(kind)).Inc()
		p.led, p.vacant, p.vacantNs = false, true, r.WallNs
	case kind == core.EventScopeDeclared && !p.led:
		p.vacant, p.vacantNs = true, r.WallNs
	case kind == core.EventScopeRetired:
		delete(h.scopes, r.Scope)
	}
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

func (m *Metrics) elected(p *past, r *core.Record) {
	if p.led {
		m.alarm(SplitElectedWhileLed, r)
	}
	if r.Fence <= p.fence {
		m.alarm(SplitFenceNotRaised, r)
	}
	if p.vacant {
		// The clocks of two registrars may disagree; time does not run backwards.
		m.election.Observe(float64(max(0, r.WallNs-p.vacantNs)) / float64(time.Millisecond))
	}
	p.led, p.vacant, p.fence = true, false, max(p.fence, r.Fence)
}

func (m *Metrics) alarm(reason string, r *core.Record) {
	m.SplitBrain(reason)
	m.logger.LogAttrs(context.Background(), slog.LevelError, "split brain", append(attributes(r), slog.String("alarm", reason))...)
}

// log writes the one line of a transition.
func (m *Metrics) log(r *core.Record) {
	level := slog.LevelInfo
	if core.EventKind(r.Kind) == core.EventExpired {
		level = slog.LevelWarn
	}
	message := "leadership " + strings.ReplaceAll(labelOf(core.EventKind(r.Kind)), "_", " ")
	m.logger.LogAttrs(context.Background(), level, message, attributes(r)...)
}

func attributes(r *core.Record) []slog.Attr {
	cursor := core.Cursor{Revision: r.Revision, Ordinal: r.Ordinal}
	return []slog.Attr{
		slog.String("scope", r.Scope), slog.String("scopeKind", r.ScopeKind), slog.String("leader", r.MemberId),
		slog.Uint64("term", r.Term), slog.Uint64("fence", r.Fence), slog.String("reason", r.Reason),
		slog.String("cursor", cursor.String()), slog.Uint64("seq", r.Seq), slog.String("correlationId", r.CorrelationId),
		slog.String("actor", r.Actor),
	}
}

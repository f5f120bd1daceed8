package telemetry

import (
	"context"
	"log/slog"
	"time"

	"github.com/omnirelay/leadership/core"
)

// window finds scopes that stayed without leader for longer than agreed. It counts
// on this process's clock from when the vacancy was first seen here, so neither
// wall clocks nor a restart make up a breach.
type window struct {
	longest time.Duration
	vacant  map[string]vacancy
}

// vacancy is one stretch without leader.
type vacancy struct {
	since    time.Time
	began    int64 // registrar's wall clock: tells this vacancy from the next one
	breached bool
}

// breach is a vacancy that outlasted the window, or the end of one.
type breach struct {
	scope string
	unled time.Duration
	ended bool
}

// look compares the scopes of now with what was vacant before.
func (w *window) look(now time.Time, scopes []core.ScopeStatus) []breach {
	var found []breach
	still := make(map[string]vacancy, len(w.vacant))
	for _, s := range scopes {
		v, known := w.vacant[s.Spec.Id]
		switch {
		case s.Led:
			if v.breached {
				found = append(found, breach{s.Spec.Id, now.Sub(v.since), true})
			}
			continue
		case !known || v.began != s.VacantSinceWall:
			v = vacancy{since: now, began: s.VacantSinceWall}
		case !v.breached && now.Sub(v.since) > w.longest:
			v.breached = true
			found = append(found, breach{scope: s.Spec.Id, unled: now.Sub(v.since)})
		}
		still[s.Spec.Id] = v
	}
	w.vacant = still
	return found
}

// WatchWindow counts and logs every vacancy that outlasts maxElectionWindow, until
// ctx ends. It looks every interval, or less often where the window allows: a look
// visits every scope.
func (m *Metrics) WatchWindow(ctx context.Context, maxElectionWindow, interval time.Duration) {
	w := window{longest: maxElectionWindow}
	ticker := time.NewTicker(max(interval, maxElectionWindow/20))
	defer ticker.Stop()
	for {
		var scopes []core.ScopeStatus
		m.view(func(g *core.Registry, _ core.Status) { scopes = g.Scopes() })
		m.report(w.look(time.Now(), scopes), maxElectionWindow)
		select {
		case <-ctx.Done():
			return
		case <-ticker.C:
		}
	}
}

func (m *Metrics) report(found []breach, longest time.Duration) {
	for _, b := range found {
		if b.ended {
			m.logger.Info("scope led again after a breach", "scope", b.scope, "unled", b.unled)
			continue
		}
		m.breaches.Inc()
		m.logger.LogAttrs(context.Background(), slog.LevelError, "scope unled for longer than maxElectionWindow",
			slog.String("scope", b.scope), slog.Duration("unled", b.unled), slog.Duration("maxElectionWindow", longest))
	}
}

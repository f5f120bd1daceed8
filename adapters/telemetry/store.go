package telemetry

import (
	"log/slog"
	"sync"
	"time"

	"github.com/prometheus/client_golang/prometheus"

	"github.com/omnirelay/leadership/core"
)

// What a call on an external store can be, and what can become of it.
var (
	storeCalls    = []string{"append", "confirm", "fetch", "publish", "checkpoint", "attest", "close", "replace", "trail"}
	storeStatuses = []string{"ok", "refused", "failed", "unfit"}
)

// storeMetrics tell of the external store that holds the registry.
type storeMetrics struct {
	calls   *prometheus.CounterVec
	seconds *prometheus.HistogramVec
	health  storeHealth
}

func (m *Metrics) newStoreMetrics() *storeMetrics {
	s := &storeMetrics{
		calls: m.counters("store_calls_total", "Calls on the external store, by what became of them.", "call", storeCalls, "status", storeStatuses),
		seconds: prometheus.NewHistogramVec(prometheus.HistogramOpts{Namespace: namespace, Name: "store_call_seconds",
			Help: "Seconds a call on the external store took. A fetch may wait for news.", Buckets: prometheus.ExponentialBuckets(0.0005, 2, 16)}, []string{"call"}),
		health: storeHealth{gauge: prometheus.NewGauge(prometheus.GaugeOpts(opts("store_up", "1 while the external store answers this node.")))},
	}
	for _, call := range storeCalls {
		s.seconds.WithLabelValues(call)
	}
	m.registry.MustRegister(s.seconds, s.health.gauge)
	return s
}

// StoreCall counts an answered call on the external store. The first call that is
// not answered is logged, and the first that is answered after it; those between are
// not. Options.Store must have been set.
func (m *Metrics) StoreCall(c *core.StoreCall, r *core.StoreReply, took time.Duration) {
	s, call := m.store, storeCallName(c)
	s.calls.WithLabelValues(call, storeStatusName(r.Status)).Inc()
	s.seconds.WithLabelValues(call).Observe(took.Seconds())
	now := time.Now()
	answered := r.Status == core.StoreOK || r.Status == core.StoreRefused
	switch change, down := s.health.look(now, now.Add(-took), answered); {
	case change && answered && down == 0:
		m.logger.Info("the store answers")
	case change && answered:
		m.logger.Info("the store answers again", slog.Duration("after", down))
	case change:
		m.logger.Warn("the store does not answer", slog.String("call", call), slog.String("reason", r.Text))
	}
}

// storeHealth tells outages from single calls that were cut off.
type storeHealth struct {
	gauge     prometheus.Gauge
	mu        sync.Mutex
	known, up bool
	lastGood  time.Time
	downSince time.Time
}

// look takes the outcome of a call. change: the store came back, after down, or went
// away. A failed call says nothing when a later one was answered meanwhile.
func (h *storeHealth) look(now, begun time.Time, answered bool) (change bool, down time.Duration) {
	h.mu.Lock()
	defer h.mu.Unlock()
	if !answered && h.lastGood.After(begun) {
		return false, 0
	}
	change = !h.known || h.up != answered
	switch {
	case answered:
		if change && h.known {
			down = now.Sub(h.downSince)
		}
		h.lastGood = now
	case change:
		h.downSince = begun
	}
	h.known, h.up = true, answered
	h.gauge.Set(float64(truth(answered)))
	return change, down
}

func storeCallName(c *core.StoreCall) string {
	switch {
	case c.Append != nil:
		return "append"
	case c.Confirm != nil:
		return "confirm"
	case c.Fetch != nil:
		return "fetch"
	case c.Publish != nil:
		return "publish"
	case c.Checkpoint != nil:
		return "checkpoint"
	case c.Attest != nil:
		return "attest"
	case c.Close != nil:
		return "close"
	case c.Replace != nil:
		return "replace"
	}
	return "trail"
}

func storeStatusName(s core.StoreStatus) string {
	switch s {
	case core.StoreOK:
		return "ok"
	case core.StoreRefused:
		return "refused"
	case core.StoreUnfit:
		return "unfit"
	}
	return "failed"
}

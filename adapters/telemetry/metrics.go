package telemetry

import (
	"log/slog"
	"net/http"
	"strconv"
	"time"

	"github.com/prometheus/client_golang/prometheus"
	"github.com/prometheus/client_golang/prometheus/collectors"
	"github.com/prometheus/client_golang/prometheus/promhttp"

	"github.com/omnirelay/leadership/core"
)

// The APIs that serve streams and requests.
const (
	APISSE  = "sse"
	APIGRPC = "grpc"
	APIHTTP = "http" // all but streams
)

// refusals are why callers are turned away, as adapters/access names it.
var refusals = []string{"unauthenticated", "forbidden", "rate", "busy"}

// The protocols a stream may negotiate.
var protocols = []string{"HTTP/1.1", "HTTP/2.0", "HTTP/3.0"}

// Why mesh_leadership_split_brain_total counts. The first three are what the registrar
// found by comparing claims and gossip with the log; the others must never happen.
const (
	SplitTwoClaimants    = core.SplitBrainTwoClaimants    // a second member believes that it leads
	SplitUnknownClaimant = core.SplitBrainUnknownClaimant // a member believes in a leadership that the log does not know, or has ended
	SplitLeaderGone      = core.SplitBrainLeaderGone      // gossip says that a leader is gone while its lease lives
	SplitElectedWhileLed = "elected-while-led"            // a scope got a leader before the last leadership had ended
	SplitFenceNotRaised  = "fence-not-raised"             // a scope was led with a fence not above an earlier one
	SplitStaleEffect     = "stale-effect"                 // a resource refused an action of a leader that had been replaced
)

// splitReasons are the values of the label reason.
var splitReasons = []string{SplitTwoClaimants, SplitUnknownClaimant, SplitLeaderGone, SplitElectedWhileLed, SplitFenceNotRaised, SplitStaleEffect}

// SplitBrainRunbook is what to do about each of them: a page of this project.
const SplitBrainRunbook = "docs/runbooks/split-brain.md"

// Options settle what metrics tell.
type Options struct {
	// Logger takes one line for each transition and each breach.
	Logger *slog.Logger
	// LeaderSeries is the most series of mesh_leadership_leader; 0: none.
	LeaderSeries int
	// Store adds the metrics of an external store.
	Store bool
	// View calls f with the registry and the status of now, under a lock; f is quick.
	View func(f func(g *core.Registry, s core.Status))
}

// Metrics are the metrics of one node. Every counter is there from the start, at
// 0, with every value of its labels. All methods may be called at the same time.
type Metrics struct {
	registry *prometheus.Registry
	logger   *slog.Logger
	view     func(f func(g *core.Registry, s core.Status))
	history  history
	lines    lines
	store    *storeMetrics // nil: no external store

	transitions *prometheus.CounterVec
	records     *prometheus.CounterVec
	election    prometheus.Histogram
	splitBrain  *prometheus.CounterVec
	breaches    prometheus.Counter
	commands    *prometheus.CounterVec
	keepalives  *prometheus.CounterVec
	persist     prometheus.Histogram
	streams     *prometheus.GaugeVec
	opened      *prometheus.CounterVec
	resyncs     *prometheus.CounterVec
	cut         *prometheus.CounterVec
	refused     *prometheus.CounterVec
	requests    *prometheus.CounterVec
	turnedAway  *prometheus.CounterVec
}

// NewMetrics returns the metrics of one node.
func NewMetrics(o Options) *Metrics {
	m := &Metrics{registry: prometheus.NewRegistry(), logger: o.Logger, view: o.View, history: newHistory()}
	m.transitions = m.counters("transitions_total", "Elections and ends of leaderships, by kind of scope.",
		"scope_kind", scopeKinds, "transition", transitionNames())
	m.records = m.counters("records_total", "Records of the audit trail this node has seen committed.", "kind", recordNames())
	m.splitBrain = m.counters("split_brain_total", "Two leaders of one scope, seen or nearly: see "+SplitBrainRunbook+".",
		"reason", splitReasons)
	m.commands = m.counters("commands_total", "Commands answered by this node, by code.", "code", codeNames())
	m.keepalives = m.counters("keepalives_total", "Keepalives of this node's own member.", "outcome", []string{"sent", "acknowledged"})
	m.opened = m.counters("streams_opened_total", "Event streams ever opened.", "api", apis, "protocol", protocols)
	m.resyncs = m.counters("stream_resyncs_total", "Streams told to start over, as what they still owed is no longer kept.", "api", apis)
	m.cut = m.counters("streams_cut_total", "Streams ended by this node as their reader had stopped reading.", "api", apis)
	m.refused = m.counters("streams_refused_total", "Streams refused as too many were open.", "api", apis)
	m.turnedAway = m.counters("requests_refused_total", "Calls turned away for who makes them, how often, or as this node has too much to do.",
		"api", []string{APIHTTP, APIGRPC}, "reason", refusals)
	m.lines.dropped = prometheus.NewCounter(opts("log_lines_dropped_total", "Lines of transitions that a log which had stopped did not take."))
	m.breaches = prometheus.NewCounter(opts("sla_breaches_total", "Vacancies that outlasted maxElectionWindow, as this node saw them."))
	m.election = prometheus.NewHistogram(prometheus.HistogramOpts{Namespace: namespace, Name: "election_duration_ms",
		Help: "Milliseconds a scope was without leader: from the record that ended a leadership, or declared the scope, to its next ELECTED, by the registrar's wall clock on both. " +
			"0 when one log entry did both. The silence before a session expires is not in it.",
		Buckets: []float64{0, 1, 5, 10, 50, 100, 250, 500, 1000, 2000, 3000, 5000, 10_000, 30_000}})
	m.persist = prometheus.NewHistogram(prometheus.HistogramOpts{Namespace: namespace, Name: "persist_duration_seconds",
		Help: "Seconds one durable write of the log took.", Buckets: prometheus.ExponentialBuckets(0.0001, 2, 16)})
	m.streams = prometheus.NewGaugeVec(prometheus.GaugeOpts(opts("streams", "Open event streams.")), []string{"api", "protocol"})
	m.requests = prometheus.NewCounterVec(opts("http_requests_total", "Requests answered over HTTP."), []string{"route", "status"})
	if o.Store {
		m.store = m.newStoreMetrics()
	}
	for _, api := range apis {
		for _, p := range protocols {
			m.streams.WithLabelValues(api, p)
		}
	}
	m.registry.MustRegister(m.breaches, m.lines.dropped, m.election, m.persist, m.streams, m.requests, newViewCollector(o.View, o.LeaderSeries),
		collectors.NewGoCollector(), collectors.NewProcessCollector(collectors.ProcessCollectorOpts{}))
	return m
}

const namespace = "mesh_leadership"

var apis = []string{APISSE, APIGRPC}

func opts(name, help string) prometheus.CounterOpts {
	return prometheus.CounterOpts{Namespace: namespace, Name: name, Help: help}
}

// counters registers a counter with one or two labels, (name, values) each, and
// makes every combination.
func (m *Metrics) counters(name, help, label string, values []string, more ...any) *prometheus.CounterVec {
	if len(more) == 0 {
		vec := prometheus.NewCounterVec(opts(name, help), []string{label})
		for _, v := range values {
			vec.WithLabelValues(v)
		}
		m.registry.MustRegister(vec)
		return vec
	}
	vec := prometheus.NewCounterVec(opts(name, help), []string{label, more[0].(string)})
	for _, v := range values {
		for _, w := range more[1].([]string) {
			vec.WithLabelValues(v, w)
		}
	}
	m.registry.MustRegister(vec)
	return vec
}

// Handler serves the metrics as Prometheus text.
func (m *Metrics) Handler() http.Handler {
	return promhttp.HandlerFor(m.registry, promhttp.HandlerOpts{MaxRequestsInFlight: 4, Timeout: 10 * time.Second})
}

// Registry lets other rooms add metrics of their own.
func (m *Metrics) Registry() prometheus.Registerer { return m.registry }

// Command counts an answer to a command. A code that is not core's counts as internal.
func (m *Metrics) Command(code core.Code) { m.commands.WithLabelValues(codeName(code)).Inc() }

// KeepaliveSent counts a keepalive of this node's own member.
func (m *Metrics) KeepaliveSent() { m.keepalives.WithLabelValues("sent").Inc() }

// KeepaliveAcknowledged counts an acknowledgement to this node's own member.
func (m *Metrics) KeepaliveAcknowledged() { m.keepalives.WithLabelValues("acknowledged").Inc() }

// Persisted records how long one durable write took.
func (m *Metrics) Persisted(d time.Duration) { m.persist.Observe(d.Seconds()) }

// SplitBrain counts what must never happen; reason is one of the Split constants.
func (m *Metrics) SplitBrain(reason string) { m.splitBrain.WithLabelValues(reason).Inc() }

// StreamOpened counts a stream until closed is called, once.
func (m *Metrics) StreamOpened(api, protocol string) (closed func()) {
	m.opened.WithLabelValues(api, protocol).Inc()
	open := m.streams.WithLabelValues(api, protocol)
	open.Inc()
	return open.Dec
}

// StreamResynced counts a stream that was told to start over.
func (m *Metrics) StreamResynced(api string) { m.resyncs.WithLabelValues(api).Inc() }

// StreamCut counts a stream whose reader had stopped.
func (m *Metrics) StreamCut(api string) { m.cut.WithLabelValues(api).Inc() }

// StreamRefused counts a stream that was one too many.
func (m *Metrics) StreamRefused(api string) { m.refused.WithLabelValues(api).Inc() }

// Request counts an answer over HTTP. route is one of a fixed set, never what the
// caller wrote.
func (m *Metrics) Request(route string, status int) {
	m.requests.WithLabelValues(route, strconv.Itoa(status)).Inc()
}

// RequestRefused counts a call that was turned away; reason is a word of access.RefusalOf,
// and nothing is counted when it is empty.
func (m *Metrics) RequestRefused(api, reason string) {
	if reason != "" {
		m.turnedAway.WithLabelValues(api, reason).Inc()
	}
}

func codeNames() []string {
	codes := []core.Code{core.CodeOK, core.CodeInvalid, core.CodeNotFound, core.CodeConflict, core.CodeSessionEnded, core.CodeNotLeader,
		core.CodeRetiring, core.CodeLimit, core.CodeTooOld, core.CodeUnsupported, core.CodeUnavailable, core.CodeOverloaded,
		core.CodeHalted, core.CodeAlreadyStarted}
	names := []string{"internal"}
	for _, c := range codes {
		if c == core.CodeOK {
			names = append(names, "ok")
			continue
		}
		names = append(names, string(c))
	}
	return names
}

func codeName(code core.Code) string {
	for _, name := range codeNames() {
		if name == string(code) {
			return name
		}
	}
	if code == core.CodeOK {
		return "ok"
	}
	return "internal"
}

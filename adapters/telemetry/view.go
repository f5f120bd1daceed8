package telemetry

import (
	"github.com/prometheus/client_golang/prometheus"

	"github.com/omnirelay/leadership/core"
)

// viewCollector reads the registry and the status when it is scraped: nothing in
// it can be stale or forgotten.
type viewCollector struct {
	view   func(f func(g *core.Registry, s core.Status))
	most   int // series of leader
	gauges []viewGauge
	leader *prometheus.Desc
	beyond *prometheus.Desc
	scopes *prometheus.Desc
	mesh   meshGauges
}

// viewGauge is one number of the view.
type viewGauge struct {
	desc *prometheus.Desc
	kind prometheus.ValueType
	read func(g *core.Registry, s *core.Status) uint64
}

func desc(name, help string, labels ...string) *prometheus.Desc {
	return prometheus.NewDesc(prometheus.BuildFQName(namespace, "", name), help, labels, nil)
}

func gauge(name, help string, read func(g *core.Registry, s *core.Status) uint64) viewGauge {
	return viewGauge{desc(name, help), prometheus.GaugeValue, read}
}

func counter(name, help string, read func(g *core.Registry, s *core.Status) uint64) viewGauge {
	return viewGauge{desc(name, help), prometheus.CounterValue, read}
}

func truth(b bool) uint64 {
	if b {
		return 1
	}
	return 0
}

func newViewCollector(view func(func(*core.Registry, core.Status)), most int) *viewCollector {
	return &viewCollector{
		view: view, most: most,
		leader: desc("leader", "1 for the current leader of each scope, as this node's copy has it.", "scope", "scope_kind", "leader"),
		beyond: desc("leader_series_omitted", "Led scopes without a series in mesh_leadership_leader, as its number is bounded."),
		scopes: desc("scopes", "Declared scopes.", "state"),
		mesh:   newMeshGauges(),
		gauges: []viewGauge{
			gauge("ready", "1 while this node can vouch for its copy.", func(_ *core.Registry, s *core.Status) uint64 { return truth(s.Ready) }),
			gauge("registrar", "1 while this node is the registrar.", func(_ *core.Registry, s *core.Status) uint64 { return truth(s.IsRegistrar) }),
			gauge("forming", "1 while elections wait for the first members.", func(_ *core.Registry, s *core.Status) uint64 { return truth(s.Forming) }),
			gauge("raft_term", "Term of the log.", func(_ *core.Registry, s *core.Status) uint64 { return s.RaftTerm }),
			gauge("applied_index", "Last log entry applied: the revision of this node's copy.", func(_ *core.Registry, s *core.Status) uint64 { return s.Applied }),
			gauge("committed_index", "Last log entry known to be committed.", func(_ *core.Registry, s *core.Status) uint64 { return s.Committed }),
			gauge("protocol_version", "Command schema in force.", func(_ *core.Registry, s *core.Status) uint64 { return uint64(s.Version) }),
			gauge("sessions", "Live sessions.", func(g *core.Registry, _ *core.Status) uint64 { return uint64(len(g.Sessions())) }),
			gauge("history_records", "Records that streams can resume from.", func(g *core.Registry, _ *core.Status) uint64 { return uint64(g.History().Len()) }),
			gauge("pending_requests", "Commands this node waits for.", func(_ *core.Registry, s *core.Status) uint64 { return uint64(s.PendingRequests) }),
			gauge("attached_members", "Members connected to this node.", func(_ *core.Registry, s *core.Status) uint64 { return uint64(s.AttachedMembers) }),
			counter("snapshot_installs_total", "Snapshots received and installed.", func(_ *core.Registry, s *core.Status) uint64 { return s.SnapshotInstalls }),
			counter("checkpoints_total", "Snapshots taken of the own state.", func(_ *core.Registry, s *core.Status) uint64 { return s.Checkpoints }),
			counter("campaigns_total", "Times this node stood for registrar.", func(_ *core.Registry, s *core.Status) uint64 { return s.Campaigns }),
			counter("offices_total", "Times this node became registrar.", func(_ *core.Registry, s *core.Status) uint64 { return s.Offices }),
		},
	}
}

func (c *viewCollector) Describe(ch chan<- *prometheus.Desc) {
	for _, g := range c.gauges {
		ch <- g.desc
	}
	ch <- c.leader
	ch <- c.beyond
	ch <- c.scopes
	c.mesh.describe(ch)
}

// Collect reads under the lock and sends outside it: a scrape that stalls must not
// hold the registry.
func (c *viewCollector) Collect(ch chan<- prometheus.Metric) {
	values := make([]uint64, len(c.gauges))
	var tokens []core.Token
	led, unled := 0, 0
	var mesh []prometheus.Metric
	c.view(func(g *core.Registry, s core.Status) {
		for i, gauge := range c.gauges {
			values[i] = gauge.read(g, &s)
		}
		tokens = g.Tokens()
		scopes := g.Scopes()
		led, unled = len(tokens), len(scopes)-len(tokens)
		mesh = c.mesh.read(g, scopes)
	})
	for _, m := range mesh {
		ch <- m
	}
	for i, gauge := range c.gauges {
		ch <- prometheus.MustNewConstMetric(gauge.desc, gauge.kind, float64(values[i]))
	}
	ch <- prometheus.MustNewConstMetric(c.scopes, prometheus.GaugeValue, float64(led), "led")
	ch <- prometheus.MustNewConstMetric(c.scopes, prometheus.GaugeValue, float64(unled), "unled")
	shown := min(len(tokens), c.most)
	for _, t := range tokens[:shown] {
		ch <- prometheus.MustNewConstMetric(c.leader, prometheus.GaugeValue, 1, t.Scope, t.ScopeKind, t.LeaderID)
	}
	ch <- prometheus.MustNewConstMetric(c.beyond, prometheus.GaugeValue, float64(len(tokens)-shown))
}

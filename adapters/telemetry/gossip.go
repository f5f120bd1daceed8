package telemetry

import (
	"github.com/prometheus/client_golang/prometheus"
)

// GossipStatuses are what a member may be in the eyes of gossip.
var GossipStatuses = []string{"alive", "suspect", "dead", "left"}

// GossipRefusals are why gossip refuses what arrives.
var GossipRefusals = []string{"key", "label", "cluster", "metadata", "full", "ended", "malformed", "stale", "busy"}

// GossipStats are the figures of gossip at one moment. All but the gauges only grow.
type GossipStats struct {
	Members map[string]int    // gauge, by GossipStatuses
	Refused map[string]uint64 // by GossipRefusals

	SentBytes, SentPackets, ReceivedBytes, ReceivedPackets uint64
	ProbesAnswered, ProbesMissed, ProbesUnsure             uint64
	Suspicions, Recoveries                                 uint64
	Watched                                                int // gauge
	WordsSent, WordsHeard, WordsRepeated                   uint64
	Joins, JoinsFailed                                     uint64
	Conflicts                                              uint64
	Keys                                                   int // gauge
	KeyReloads, KeyReloadsFailed                           uint64
	HealthScore                                            int // gauge
}

// WatchGossip adds the metrics of gossip, all at 0 while stats returns nothing. stats is
// asked whenever the metrics are read. It is called once.
func (m *Metrics) WatchGossip(stats func() GossipStats) {
	m.registry.MustRegister(newGossipCollector(stats))
}

// gossipCollector reads the figures of gossip when it is scraped.
type gossipCollector struct {
	stats   func() GossipStats
	metrics []gossipMetric
}

// gossipMetric is one metric, with the values of its label.
type gossipMetric struct {
	desc   *prometheus.Desc
	kind   prometheus.ValueType
	values []string // of the label; empty: it has none
	read   func(s *GossipStats, value string) float64
}

const gossipNamespace = "mesh_gossip"

func gossipMetricOf(kind prometheus.ValueType, name, help, label string, values []string, read func(s *GossipStats, value string) float64) gossipMetric {
	var labels []string
	if label != "" {
		labels = []string{label}
	}
	return gossipMetric{prometheus.NewDesc(prometheus.BuildFQName(gossipNamespace, "", name), help, labels, nil), kind, values, read}
}

// one is a metric without a label.
func one(kind prometheus.ValueType, name, help string, read func(s *GossipStats) float64) gossipMetric {
	return gossipMetricOf(kind, name, help, "", nil, func(s *GossipStats, _ string) float64 { return read(s) })
}

// pick reads the figure that belongs to a value of the label.
func pick(values []string, figures func(s *GossipStats) []uint64) func(s *GossipStats, value string) float64 {
	return func(s *GossipStats, value string) float64 {
		for i, v := range values {
			if v == value {
				return float64(figures(s)[i])
			}
		}
		return 0
	}
}

func newGossipCollector(stats func() GossipStats) *gossipCollector {
	const counts, gauges = prometheus.CounterValue, prometheus.GaugeValue
	labelled := func(name, help, label string, values []string, figures func(s *GossipStats) []uint64) gossipMetric {
		return gossipMetricOf(counts, name, help, label, values, pick(values, figures))
	}
	ways := []string{"sent", "received"}
	return &gossipCollector{stats: stats, metrics: []gossipMetric{
		gossipMetricOf(gauges, "members", "Members that gossip knows, this one among them, by what it believes of them.", "status", GossipStatuses,
			func(s *GossipStats, v string) float64 { return float64(s.Members[v]) }),
		gossipMetricOf(counts, "refused_total", "What arrived and was refused, by reason.", "reason", GossipRefusals,
			func(s *GossipStats, v string) float64 { return float64(s.Refused[v]) }),
		labelled("bytes_total", "Bytes of gossip.", "direction", ways, func(s *GossipStats) []uint64 { return []uint64{s.SentBytes, s.ReceivedBytes} }),
		labelled("packets_total", "Packets of gossip, and pieces of full exchanges.", "direction", ways,
			func(s *GossipStats) []uint64 { return []uint64{s.SentPackets, s.ReceivedPackets} }),
		labelled("probes_total", "Probes of watched members. Those that are unsure do not count, as this process was late itself.", "outcome", []string{"answered", "missed", "unsure"},
			func(s *GossipStats) []uint64 { return []uint64{s.ProbesAnswered, s.ProbesMissed, s.ProbesUnsure} }),
		one(gauges, "watched", "Members that are probed closely.", func(s *GossipStats) float64 { return float64(s.Watched) }),
		one(counts, "suspicions_total", "Times a member became suspect.", func(s *GossipStats) float64 { return float64(s.Suspicions) }),
		one(counts, "recoveries_total", "Times a suspect answered after all.", func(s *GossipStats) float64 { return float64(s.Recoveries) }),
		labelled("words_total", "Words of what members claim to lead: told by this one, of others that were new, and come again another way.", "kind", []string{"told", "heard", "repeated"},
			func(s *GossipStats) []uint64 { return []uint64{s.WordsSent, s.WordsHeard, s.WordsRepeated} }),
		labelled("joins_total", "Full exchanges with seeds.", "outcome", []string{"ok", "failed"}, func(s *GossipStats) []uint64 { return []uint64{s.Joins, s.JoinsFailed} }),
		one(counts, "conflicts_total", "Messages of another process under a member id that is taken.", func(s *GossipStats) float64 { return float64(s.Conflicts) }),
		one(gauges, "keys", "Keys in the keyring; 0: nothing is encrypted.", func(s *GossipStats) float64 { return float64(s.Keys) }),
		labelled("key_reloads_total", "Times the key file was read again.", "outcome", []string{"ok", "failed"},
			func(s *GossipStats) []uint64 { return []uint64{s.KeyReloads, s.KeyReloadsFailed} }),
		one(gauges, "health_score", "How late this process is with its own probes; 0 is well.", func(s *GossipStats) float64 { return float64(s.HealthScore) }),
	}}
}

// Describe is part of prometheus.Collector.
func (c *gossipCollector) Describe(ch chan<- *prometheus.Desc) {
	for _, m := range c.metrics {
		ch <- m.desc
	}
}

// Collect is part of prometheus.Collector.
func (c *gossipCollector) Collect(ch chan<- prometheus.Metric) {
	s := c.stats()
	for _, m := range c.metrics {
		if len(m.values) == 0 {
			ch <- prometheus.MustNewConstMetric(m.desc, m.kind, m.read(&s, ""))
		}
		for _, v := range m.values {
			ch <- prometheus.MustNewConstMetric(m.desc, m.kind, m.read(&s, v), v)
		}
	}
}

package telemetry

import (
	"log/slog"
	"strings"
	"testing"
)

func TestGossipMetrics(t *testing.T) {
	m := NewMetrics(Options{Logger: slog.New(slog.DiscardHandler), View: newWorld(t).View})
	var now GossipStats
	m.WatchGossip(func() GossipStats { return now })
	for _, zero := range []string{
		`mesh_gossip_members{status="alive"} 0`, `mesh_gossip_members{status="suspect"} 0`, `mesh_gossip_members{status="dead"} 0`, `mesh_gossip_members{status="left"} 0`,
		`mesh_gossip_refused_total{reason="key"} 0`, `mesh_gossip_probes_total{outcome="missed"} 0`, "mesh_gossip_suspicions_total 0",
		`mesh_gossip_joins_total{outcome="failed"} 0`, `mesh_gossip_key_reloads_total{outcome="ok"} 0`, "mesh_gossip_conflicts_total 0",
	} {
		if text := scrape(t, m); !strings.Contains(text, zero+"\n") {
			t.Errorf("without figures %q is missing in\n%s", zero, text)
		}
	}
	now = GossipStats{Members: map[string]int{"alive": 3, "left": 1}, Refused: map[string]uint64{"label": 7}, ReceivedBytes: 12, ProbesUnsure: 5, Keys: 2, HealthScore: 1}
	for _, want := range []string{
		`mesh_gossip_members{status="alive"} 3`, `mesh_gossip_members{status="left"} 1`, `mesh_gossip_members{status="dead"} 0`, `mesh_gossip_refused_total{reason="label"} 7`,
		`mesh_gossip_bytes_total{direction="received"} 12`, `mesh_gossip_bytes_total{direction="sent"} 0`, `mesh_gossip_probes_total{outcome="unsure"} 5`, "mesh_gossip_keys 2", "mesh_gossip_health_score 1",
	} {
		if text := scrape(t, m); !strings.Contains(text, want+"\n") {
			t.Errorf("%q is missing in\n%s", want, text)
		}
	}
}

package telemetry

import (
	"slices"

	"github.com/prometheus/client_golang/prometheus"

	"github.com/omnirelay/leadership/core"
)

// maxStuckWork is how many pairs of a session and a scope a scrape may look at.
const maxStuckWork = 1 << 16

// meshGauges tell what operators do to members and nodes, as the registry has it.
type meshGauges struct {
	members, handOvers, nodes *prometheus.Desc
}

func newMeshGauges() meshGauges {
	return meshGauges{
		members: desc("members", "Members kept from being elected: cordoned by an operator, draining among these; ineligible by what gossip says.", "state"),
		handOvers: desc("handovers", "Scopes on their way: asked of their holder; stuck with a draining member, as nobody else can lead them at the moment "+
			"(left out where counting would hold up the node).", "state"),
		nodes: desc("nodes", "Nodes that keep the registry.", "stage"),
	}
}

func (m *meshGauges) describe(ch chan<- *prometheus.Desc) {
	ch <- m.members
	ch <- m.handOvers
	ch <- m.nodes
}

// read counts under the lock.
func (m *meshGauges) read(g *core.Registry, scopes []core.ScopeStatus) (all []prometheus.Metric) {
	tell := func(d *prometheus.Desc, label string, n int) {
		all = append(all, prometheus.MustNewConstMetric(d, prometheus.GaugeValue, float64(n), label))
	}
	draining := g.Draining()
	tell(m.members, "cordoned", len(g.Cordoned()))
	tell(m.members, "draining", len(draining))
	tell(m.members, "ineligible", len(g.Observed()))
	asked := 0
	for _, s := range scopes {
		if s.Led && s.Ask != nil {
			asked++
		}
	}
	tell(m.handOvers, "asked", asked)
	if weight(g, draining) <= maxStuckWork {
		stuck := 0
		for _, id := range draining {
			stuck += g.Member(id).Stuck
		}
		tell(m.handOvers, "stuck", stuck)
	}
	stages := map[core.NodeStage]int{}
	for _, n := range g.Nodes() {
		stages[n.Stage]++
	}
	for _, stage := range []core.NodeStage{core.NodeLearner, core.NodeVoter, core.NodeLeaving} {
		tell(m.nodes, stage.String(), stages[stage])
	}
	return all
}

// weight is how many pairs of a session and a scope it takes to count what is stuck with
// members.
func weight(g *core.Registry, members []string) int {
	sessions := g.Sessions()
	scopes := len(members) // each costs a look at the sessions of its own
	for _, s := range sessions {
		if _, among := slices.BinarySearch(members, s.MemberID); among {
			scopes += s.Led
		}
	}
	return scopes * len(sessions)
}

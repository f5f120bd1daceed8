package observability_test

import (
	"errors"
	"fmt"
	"math"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/omnirelay/leadership/adapters/storeserver"
	"github.com/omnirelay/leadership/tests/cluster/harness"
)

// soonDead lets gossip notice within a second or two.
const soonDead = `probeInterval: 300ms
probeTimeout: 150ms
suspicion: 2
`

// story is what Prometheus saw.
type story struct {
	t          *testing.T
	prometheus *prometheus
	began      time.Time
	victim     *harness.Node // killed as registrar, and started again
}

// TestEveryQueryShowsAFailover: a Prometheus scrapes a cluster with load, whose registrar
// is killed. Every query of the board, of its variables and annotations, and of the
// rules returns data, and what is about failovers shows that one.
func TestEveryQueryShowsAFailover(t *testing.T) {
	s := &story{t: t}
	c := harness.New(t, harness.Options{Settings: grants, Gossip: true, GossipSettings: soonDead})
	s.prometheus, s.began = scrape(t, c), time.Now()
	s.victim = c.Registrar()
	others := c.Others(s.victim)
	l := newLoad(t, c, others[0])
	leave := l.declare()
	l.follow(others[0])
	l.refuse(others[0])
	uncordon := l.drain(others[1].ID)
	s.await("a member cordoned", `max(mesh_leadership_members{state="cordoned"})`, 1)
	uncordon()
	s.await("the scope that is to be lost, led", `max(mesh_leadership_leader{scope="`+nightly+`"})`, 1)
	s.await("the refusals of before", `count(mesh_leadership_http_requests_total{status="403"})`, 1)
	l.refuse(others[0]) // a counter that begins at 1 has not risen
	leave()
	s.await("a vacant scope", `max(mesh_leadership_scopes{state="unled"})`, 1)

	before, err := others[0].Leaders()
	must(t, err)
	if len(before.LedBy(s.victim.ID)) == 0 {
		t.Fatalf("%s leads nothing: its end would show nothing", s.victim.ID)
	}
	s.victim.Kill()
	s.await("a node down", `min(up)`, 0)
	s.await("another registrar", `sum(mesh_leadership_registrar{instance!="`+s.victim.HTTP+`"})`, 1)
	s.await("leaderships that ended by silence", `max(sum by (instance) (mesh_leadership_transitions_total{transition="expired"}) >= bool 1)`, 1)
	s.await("an alert", `max(ALERTS{alertname="LeadershipNodeDown"})`, 1)
	s.await("a member dead to gossip", `max(mesh_gossip_members{status="dead"})`, 1)
	s.await("a member kept from being elected", `max(mesh_leadership_members{state="ineligible"})`, 1)
	s.victim.Start()
	s.await("the node back", `sum(mesh_leadership_ready)`, 3)
	s.await("every alert for a node down gone", `sum(ALERTS{alertname="LeadershipNodeDown"}) or vector(0)`, 0)
	s.await("all copies alike", `count(`+s.fill(s.panelQuery("Current leaders", "A"))+`)`, harness.ScopeCount)
	s.judge(func(expr string) bool { return !ofStores(expr) })
	s.checkFailover()
}

// TestEveryStoreQueryReturnsData: those that only a cluster on an external store answers.
func TestEveryStoreQueryReturnsData(t *testing.T) {
	c := harness.New(t, harness.Options{Nodes: 1, Store: string(storeserver.Redis)})
	s := &story{t: t, prometheus: scrape(t, c), began: time.Now()}
	s.await("calls on the store counted twice", `max(rate(mesh_leadership_store_calls_total{call="confirm"}[2s]) > bool 0)`, 1)
	s.await("the store recorded", `min(leadership:store_up:min)`, 1)
	s.judge(ofStores)
}

func ofStores(expr string) bool {
	return strings.Contains(expr, "mesh_leadership_store_") || strings.Contains(expr, "leadership:store_")
}

// await waits until an instant query has one answer.
func (s *story) await(what, expr string, want float64) {
	s.t.Helper()
	took := harness.Await(s.t, 30*time.Second, what, func() error {
		found, err := s.prometheus.instant(expr)
		if err == nil && (len(found) != 1 || found[0].last() != want) {
			err = fmt.Errorf("%s is %v, want %v", expr, found, want)
		}
		return err
	})
	s.t.Logf("%v until %s", took.Round(time.Millisecond), what)
}

// judge runs all queries of the kind.
func (s *story) judge(mine func(expr string) bool) {
	s.t.Helper()
	b, ran := readBoard(s.t), 0
	for _, v := range b.Templating.List {
		if v.Type == "query" && mine(v.Definition) {
			s.checkVariable(v.Definition)
			ran++
		}
	}
	for _, a := range b.Annotations.List {
		if a.BuiltIn == 0 && mine(a.Target.Expr) {
			s.checkAnnotation(a)
			ran++
		}
	}
	for _, p := range b.Panels {
		for _, q := range p.Targets {
			if mine(q.Expr) {
				s.checkTarget(p, q)
				ran++
			}
		}
	}
	ran += s.checkRules(mine)
	s.t.Logf("%d queries returned data", ran)
	if ran == 0 {
		s.t.Error("there are none of them")
	}
}

// fill puts in what Grafana puts in for variables, all nodes and scopes being chosen.
func (s *story) fill(expr string) string {
	s.t.Helper()
	elapsed := time.Since(s.began).Round(time.Second) + 2*time.Second // never less than the story
	filled := strings.NewReplacer("$job", "leadership", "$node", ".*", "$scope", ".*",
		"$__rate_interval", (4 * scrapeEvery).String(), "$__range", elapsed.String(), "$__interval", scrapeEvery.String()).Replace(expr)
	if strings.Contains(filled, "$") {
		s.t.Errorf("%s: a variable that nobody fills in", expr)
	}
	return filled
}

var labelValues = regexp.MustCompile(`^label_values\((.*), (\w+)\)$`)

func (s *story) checkVariable(definition string) {
	s.t.Helper()
	parts := labelValues.FindStringSubmatch(definition)
	if parts == nil {
		s.t.Errorf("variable %s: want label_values(SERIES, LABEL)", definition)
		return
	}
	values, err := s.prometheus.labelValues(s.fill(parts[1]), parts[2], s.began)
	if err != nil || len(values) == 0 {
		s.t.Errorf("variable %s: %v, %v", definition, values, err)
	}
}

// checkAnnotation: it filters, so what it filters has to have data. Of registrars there
// is a new one to be told of.
func (s *story) checkAnnotation(a annotation) {
	s.t.Helper()
	compared, isFilter := strings.CutSuffix(a.Target.Expr, " > 0")
	if !isFilter {
		s.t.Errorf("annotation %q marks every time: %s", a.Name, a.Target.Expr)
	}
	s.checkData("annotation "+a.Name, s.fill(compared), nil)
	if marks := s.seen(a.Target.Expr); a.Name == "New registrar" && len(marks) == 0 {
		s.t.Errorf("annotation %q marks nothing", a.Name)
	}
}

var legendLabel = regexp.MustCompile(`{{(\w+)}}`)

// checkTarget: it returns data, with the labels that its legend names.
func (s *story) checkTarget(p panel, q target) {
	s.t.Helper()
	var labels []string
	for _, m := range legendLabel.FindAllStringSubmatch(q.LegendFormat, -1) {
		labels = append(labels, m[1])
	}
	expr, name := s.fill(q.Expr), fmt.Sprintf("panel %q, query %s", p.Title, q.RefID)
	if q.Range {
		s.checkData(name, expr, labels)
		return
	}
	found, err := s.prometheus.instant(expr)
	s.checkSeries(name, expr, labels, found, err)
}

func (s *story) checkData(name, expr string, labels []string) {
	s.t.Helper()
	found, err := s.prometheus.over(expr, s.began)
	s.checkSeries(name, expr, labels, found, err)
}

func (s *story) checkSeries(name, expr string, labels []string, found []series, err error) {
	s.t.Helper()
	numbers := 0
	for _, one := range found {
		numbers += len(one.samples())
		for _, label := range labels {
			if one.Metric[label] == "" {
				s.t.Errorf("%s: a series without %s, which its legend names: %v", name, label, one.Metric)
			}
		}
	}
	if err != nil || numbers == 0 {
		s.t.Errorf("%s returns no data: %v\n%s", name, err, expr)
	}
}

// alertShape is what every alert is: a recorded series compared with a number.
var alertShape = regexp.MustCompile(`^(leadership:[a-z0-9_:]+) [<>] ([0-9.]+)$`)

// checkRules returns how many rules there are of the kind.
func (s *story) checkRules(mine func(expr string) bool) (ran int) {
	s.t.Helper()
	rules, err := s.prometheus.rules()
	must(s.t, err)
	for _, r := range rules {
		if !mine(r.Query) {
			continue
		}
		ran++
		if r.Health != "ok" || r.LastError != "" {
			s.t.Errorf("rule %s is %s: %s", r.Name, r.Health, r.LastError)
		}
		recorded := r.Name
		if r.Type == "alerting" {
			parts := alertShape.FindStringSubmatch(r.Query)
			if parts == nil {
				s.t.Errorf("alert %s compares more than a recorded series with a number: %s", r.Name, r.Query)
				continue
			}
			recorded = parts[1]
		}
		s.checkData("rule "+r.Name, recorded, nil)
	}
	return ran
}

// seen runs a query of the board over the whole story; it is in the board when it is
// there as it is told here.
func (s *story) seen(expr string) []series {
	s.t.Helper()
	found, err := s.prometheus.over(s.fill(expr), s.began)
	must(s.t, err)
	return found
}

// panelQuery finds a query of the board.
func (s *story) panelQuery(title, ref string) string {
	s.t.Helper()
	for _, p := range readBoard(s.t).Panels {
		for _, q := range p.Targets {
			if p.Title == title && q.RefID == ref {
				return q.Expr
			}
		}
	}
	s.t.Fatalf("there is no panel %q with a query %s", title, ref)
	return ""
}

// highest is the highest value of a panel's series whose label has the value, NaN when
// there are none; lowest likewise.
func (s *story) highest(title, ref, label, value string) float64 {
	return s.extreme(title, ref, label, value, math.Max)
}

func (s *story) lowest(title, ref, label, value string) float64 {
	return s.extreme(title, ref, label, value, math.Min)
}

func (s *story) extreme(title, ref, label, value string, better func(a, b float64) float64) float64 {
	s.t.Helper()
	best := math.NaN()
	for _, one := range s.seen(s.panelQuery(title, ref)) {
		if one.Metric[label] != value {
			continue
		}
		for _, v := range one.samples() {
			if math.IsNaN(best) {
				best = v.value()
			}
			best = better(best, v.value())
		}
	}
	return best
}

// checkFailover looks for the failover in what the board shows.
func (s *story) checkFailover() {
	s.t.Helper()
	victim := s.victim.HTTP
	for _, look := range []struct {
		what string
		have float64
		good func(v float64) bool
	}{
		{"leaderships that expired", s.highest("Churn", "A", "transition", "expired"), above},
		{"leaderships that were given up in the drain", s.highest("Churn", "A", "transition", "stepped_down"), above},
		{"elections", s.highest("Churn", "A", "transition", "elected"), above},
		{"elections of shards", s.highest("Churn by kind of scope", "A", "scope_kind", "shard"), above},
		{"no retired scope", s.highest("Churn", "A", "transition", "lost"), zero},
		{"an unled scope", s.highest("Scopes unled and handed over", "A", "", ""), above},
		{"the victim leading", s.highest("Scopes led by each member", "A", "leader", s.victim.ID), above},
		{"the victim not scraped", s.lowest("Scraped", "A", "instance", victim), zero},
		{"the victim back", s.highest("Scraped", "A", "instance", victim), above},
		{"the victim registrar", s.highest("Registrar", "A", "instance", victim), above},
		{"fewer nodes ready", s.lowest("Nodes ready", "A", "", ""), func(v float64) bool { return v < 3 }},
		{"elections in the heatmap", s.highest("Elections by duration", "A", "le", "+Inf"), above},
		{"a node drained", s.highest("What operators did", "A", "kind", "drain_requested"), above},
		{"HTTP/3 streams of gRPC", s.highest("Streams by negotiated transport", "A", "protocol", "HTTP/3.0"), above},
		{"HTTP/1.1 streams", s.highest("Streams by negotiated transport", "A", "protocol", "HTTP/1.1"), above},
		{"streams being opened", s.highest("Streams opened", "A", "protocol", "HTTP/2.0"), above},
		{"a reader refused what changes something", s.highest("Requests refused", "A", "reason", "forbidden"), above},
		{"a member gone", s.highest("Members by gossip status", "A", "status", "dead"), above},
		{"a member cordoned", s.highest("Members kept from being elected", "A", "state", "cordoned"), above},
		{"a member that gossip holds for gone", s.highest("Members kept from being elected", "A", "state", "ineligible"), above},
		{"three voters", s.highest("Nodes by stage", "A", "stage", "voter"), func(v float64) bool { return v == 3 }},
		{"gossip", s.highest("Gossip traffic", "A", "direction", "sent"), above},
		{"requests refused by status", s.highest("Requests refused", "B", "status", "403"), above},
		// Gossip may have noticed before the lease was over: that is a report, of a leader gone.
		{"no two claimants", s.highest("Split-brain by reason", "A", "reason", "two-claimants"), zero},
	} {
		if !look.good(look.have) {
			s.t.Errorf("the board does not show %s: %v", look.what, look.have)
		}
	}
	if err := s.newOffice(); err != nil {
		s.t.Error(err)
	}
	if err := s.lostScope(); err != nil {
		s.t.Error(err)
	}
}

func above(v float64) bool { return v > 0 }
func zero(v float64) bool  { return v == 0 }

// newOffice: a node that is not the victim became registrar.
func (s *story) newOffice() error {
	for _, one := range s.seen(s.panelQuery("Offices and campaigns", "A")) {
		rose := slices.ContainsFunc(one.samples(), func(v sample) bool { return v.value() > 0 })
		if rose && one.Metric["instance"] != s.victim.HTTP {
			return nil
		}
	}
	return errors.New("the board does not show a new office")
}

// lostScope: the table names the scope whose only member left, and who led it.
func (s *story) lostScope() error {
	found, err := s.prometheus.instant(s.fill(s.panelQuery("Scopes that lost their leader", "A")))
	if err == nil && (len(found) != 1 || found[0].Metric["scope"] != nightly || found[0].Metric["leader"] != "nightly-1") {
		err = fmt.Errorf("the board shows %v as having lost their leader", found)
	}
	return err
}

// TestRulesFireOnWhatTheyAreFor: promtool runs the cases beside the rules, of which
// there is one for each alert.
func TestRulesFireOnWhatTheyAreFor(t *testing.T) {
	promtool(t, "check", "rules", rulesFile)
	promtool(t, "test", "rules", rulesTests)
	cases := string(contents(t, rulesTests))
	for _, m := range regexp.MustCompile(`(?m)^ *- alert: (\w+)$`).FindAllStringSubmatch(string(contents(t, rulesFile)), -1) {
		if !strings.Contains(cases, "ALERTS{alertname=\""+m[1]+"\"}") {
			t.Errorf("no case shows that %s fires", m[1])
		}
	}
	for _, m := range regexp.MustCompile(`(?m)^ *runbook: (\S+)$`).FindAllStringSubmatch(string(contents(t, rulesFile)), -1) {
		contents(t, filepath.Join("..", "..", m[1]))
	}
}

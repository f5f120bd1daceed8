package config

import (
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"pgregory.net/rapid"

	"github.com/omnirelay/leadership/core"
)

// least is the shortest valid file; a case appends lines under mesh.leadership.
const least = `mesh:
  leadership:
    nodeId: node-1
    clusterId: demo
    dataDir: data
    listeners: {http: "127.0.0.1:7411", grpc: "127.0.0.1:7412", peer: "127.0.0.1:7413"}
    tls: {cert: c.pem, key: k.pem, ca: ca.pem}
`

func load(text string, environ ...string) (*Config, string) {
	c, problems := parse("node.yaml", []byte(text), environ)
	return c, problems.Error()
}

func TestExampleIsValidAndShowsTheDefaults(t *testing.T) {
	c, err := Load("testdata/example.yaml", nil)
	if err != nil {
		t.Fatal(err)
	}
	d := Default()
	if c.LeaseDuration != d.LeaseDuration || c.RenewalLeadTime != d.RenewalLeadTime || c.EvaluationInterval != d.EvaluationInterval ||
		c.MaxElectionWindow != d.MaxElectionWindow || c.ElectionBackoff != d.ElectionBackoff || c.ElectionTimeout != d.ElectionTimeout ||
		c.HeartbeatInterval != d.HeartbeatInterval || c.ClockDrift != d.ClockDrift || c.FormationWindow != d.FormationWindow ||
		c.RebalanceInterval != d.RebalanceInterval || c.SnapshotEntries != d.SnapshotEntries || c.Streams != d.Streams ||
		c.Metrics != d.Metrics || c.Log != d.Log || c.Weight != d.Weight || c.Enabled != d.Enabled {
		t.Errorf("the example shows other defaults than Default: %+v", c)
	}
	if n := len(c.DeclaredScopes()); n != 2+64+2 {
		t.Errorf("%d scopes declared, want 68", n)
	}
	if want := filepath.Join("testdata", "data/node-1"); c.DataDir != want {
		t.Errorf("dataDir %q, want %q: relative paths start at the file's folder", c.DataDir, want)
	}
}

func TestJoinNeedsSomebodyToJoin(t *testing.T) {
	const both = "    join: true\n    peers:\n      - {id: node-1, address: \"127.0.0.1:7413\"}\n      - {id: node-2, address: \"127.0.0.1:7423\"}\n"
	if c, problems := load(least + both); problems != "" || !c.Join {
		t.Errorf("%s", problems)
	}
	if _, problems := load(least + "    join: true\n"); !strings.Contains(problems, "mesh.leadership.join: there is nobody to join") {
		t.Errorf("%q", problems)
	}
	if _, problems := load(least + both + "    registry: {store: redis, redis: {address: \"127.0.0.1:6379\"}}\n"); !strings.Contains(problems, "mesh.leadership.join: is for a registry that the nodes keep themselves") {
		t.Errorf("%q", problems)
	}
}

func TestLeastConfigurationDerives(t *testing.T) {
	c, problems := load(least + "    leaseDuration: 3s\n    maxElectionWindow: 6s\n")
	if problems != "" {
		t.Fatal(problems)
	}
	if c.RenewalLeadTime != 2400*time.Millisecond || c.FormationMembers != 1 || len(c.Peers) != 1 || c.Peers[0].ID != "node-1" {
		t.Errorf("derived %v, %d members, peers %v", c.RenewalLeadTime, c.FormationMembers, c.Peers)
	}
}

// Each case is what is appended to least, and what each problem must say.
func TestProblems(t *testing.T) {
	for name, tc := range map[string]struct {
		text string
		want []string
	}{
		"unknown key":            {"    leaseduration: 3s\n", []string{"node.yaml:8: mesh.leadership.leaseduration: unknown key; did you mean leaseDuration?"}},
		"unknown nested key":     {"    log: {lvel: info}\n", []string{"node.yaml:8: mesh.leadership.log.lvel: unknown key; did you mean level?"}},
		"nothing like it":        {"    log: {qqqqqqqq: info}\n", []string{"unknown key; known here: format, level"}},
		"unknown root":           {"gossip: {}\n", []string{"node.yaml:8: gossip: unknown key; known here: mesh"}},
		"no unit":                {"    leaseDuration: 5\n", []string{`node.yaml:8: mesh.leadership.leaseDuration: "5" is no duration; write one with its unit`}},
		"zero lease":             {"    leaseDuration: 0s\n", []string{"leaseDuration: 0s is out of bounds; from 100ms to 1h0m0s is right"}},
		"negative lease":         {"    leaseDuration: -2s\n", []string{"leaseDuration: -2s is out of bounds"}},
		"absurd lease":           {"    leaseDuration: 9999:00:00\n", []string{"leaseDuration: 9999h0m0s is out of bounds"}},
		"overflowing lease":      {"    leaseDuration: 99999999999h\n", []string{"is no duration"}},
		"zero heartbeat":         {"    heartbeatInterval: 0s\n", []string{"heartbeatInterval: 0s is out of bounds"}},
		"zero weight":            {"    weight: 0\n", []string{"weight: 0 is out of bounds; from 1 to 1000 is right"}},
		"negative weight":        {"    weight: -1\n", []string{`"-1" is no whole number in range`}},
		"fractional weight":      {"    weight: 1.5\n", []string{`"1.5" is no whole number in range`}},
		"bool":                   {"    enabled: yes\n", []string{`enabled: "yes" is neither true nor false`}},
		"no value":               {"    weight:\n", []string{"weight: has no value; write one, or leave the key out"}},
		"twice":                  {"    weight: 1\n    weight: 2\n", []string{"node.yaml:9: mesh.leadership.weight: written twice, first in line 8"}},
		"list for mapping":       {"    log: [info]\n", []string{"log: a list does not fit; write a mapping with keys like format, level"}},
		"text for mapping":       {"    log: info\n", []string{`log: "info" does not fit; write a mapping`}},
		"text for list":          {"    peers: node-1\n", []string{`peers: "node-1" does not fit; write a list, each item a mapping with keys like address, grpc, http, id`}},
		"mapping for text":       {"    weight: {a: b}\n", []string{"weight: a mapping does not fit; write one plain value"}},
		"anchor":                 {"    labels: &a {x: y}\n", []string{"anchors and aliases are not read"}},
		"odd tag":                {"    weight: !!binary aGk=\n", []string{"the tag !!binary is not read"}},
		"log level":              {"    log: {level: loud}\n", []string{`log.level: "loud" is unknown; one of debug, info, warn, error`}},
		"open":                   {"    control: {open: [metrics, all]}\n", []string{`control.open[1]: "all" is unknown; one of held, leaders, events, audit, metrics`}},
		"drift without unit":     {"    clockDrift: 10\n", []string{`clockDrift: "10" is no bound on a clock's rate; write it with its unit`}},
		"no drift":               {"    clockDrift: 0%\n", []string{"clockDrift: 0 permille is out of bounds; from 0.1% to 10% is right"}},
		"scope id":               {"    scopes: [global-control, 'a//b']\n", []string{"node.yaml:8: mesh.leadership.scopes[1]: an empty name or segment"}},
		"scope twice":            {"    scopes: [a, b, a]\n", []string{`scopes[2]: "a" is declared by scopes[0] already`}},
		"scope options":          {"    scopes:\n      - {id: a, failover: soon, priority: 9000000}\n", []string{"scopes[0].failover: \"soon\" is unknown; one of lease, fast", "node.yaml:9: mesh.leadership.scopes[0].priority: 9000000 is out of bounds"}},
		"shard kind":             {"    scopes: [{id: shard/a/b, kind: custom}]\n", []string{`kind: "custom" does not fit an id under shard/`}},
		"shard without ids":      {"    shards: [{namespace: a}]\n", []string{"shards[0]: names no shards"}},
		"shard both":             {"    shards: [{namespace: a, ids: [x], from: '0', to: '1'}]\n", []string{"has both ids and from/to"}},
		"shard range width":      {"    shards: [{namespace: a, from: '0', to: '63'}]\n", []string{`from "0" to "63" is no range`}},
		"shard range order":      {"    shards: [{namespace: a, from: '63', to: '00'}]\n", []string{"from 63 to 00 is no range"}},
		"shard namespace":        {"    shards: [{ids: [a]}]\n", []string{"shards[0].namespace: is missing"}},
		"too many scopes":        {"    shards: [{namespace: a, from: '00000', to: '16383'}, {namespace: b, ids: [x]}]\n", []string{"scopes: 16385 scopes or more, with those of shards; at most 16384"}},
		"peers without self":     {"    peers: [{id: node-2, address: 'h:1'}]\n", []string{`node.yaml:3: mesh.leadership.nodeId: "node-1" is not among the peers; one of node-2`}},
		"peer twice":             {"    peers: [{id: node-1, address: 'h:1'}, {id: node-1, address: 'h:1'}]\n", []string{`peers[1].address: "h:1" is listed twice`, `peers[1].id: "node-1" is listed twice`}},
		"peer address":           {"    peers: [{id: node-1, address: ':7413'}]\n", []string{`peers[0].address: ":7413" cannot be reached`}},
		"too many peers":         {"    peers: [" + manyPeers(10) + "]\n", []string{"peers: 10 replicas; 1 to 9 are right"}},
		"underscore":             {"    peers: [{id: node-1, address: 'h:1'}, {id: node_2, address: 'h:2'}]\n", []string{`peers[1].id: "node_2" is no name that a certificate can hold`}},
		"label":                  {"    labels: {'a b': c}\n", []string{`labels: "a b" has a byte that is no letter`}},
		"heartbeat too slow":     {"    heartbeatInterval: 200ms\n", []string{"heartbeatInterval: 200ms leaves an electionTimeout of 600ms no room for two lost heartbeats; less than a third of it, 200ms"}},
		"window too short":       {"    maxElectionWindow: 3s\n", []string{"maxElectionWindow: 3s is shorter than the 3.27s that failover may take", "at least 3.27s is right", "assumed commit of 25ms and round trip of 50ms"}},
		"lease too long":         {"    leaseDuration: 5s\n", []string{"maxElectionWindow: 5s is shorter than the 6.33s"}},
		"lease too short":        {"    leaseDuration: 200ms\n    ", []string{"leaseDuration: 200ms is too short: a note of silence takes up to 110ms"}},
		"note and drift":         {"    leaseDuration: 1s\n    clockDrift: 10%\n    maxElectionWindow: 9s\n    electionTimeout: 1s\n    renewalLeadTime: 2s\n", []string{"renewalLeadTime: 2s is out of bounds; from 1ms to 855ms is right"}},
		"two documents":          {"---\nmesh: {}\n", []string{"a second document or trailing text follows"}},
		"not yaml":               {"   nope: [\n", []string{"not YAML"}},
		"formation outlasts SLA": {"    formationWindow: 6s\n", []string{"formationWindow: 6s is out of bounds; from 50ms to 5s"}},
	} {
		t.Run(name, func(t *testing.T) {
			_, got := load(least + tc.text)
			if tc.want == nil && got != "" {
				t.Fatalf("unexpected problems:\n%s", got)
			}
			for _, want := range tc.want {
				if !strings.Contains(got, want) {
					t.Errorf("have\n%s\nwant it to contain\n%s", got, want)
				}
			}
			if tc.want != nil && strings.Count(got, "\n") >= len(tc.want)+1 {
				t.Errorf("more lines than problems:\n%s", got)
			}
		})
	}
}

func manyPeers(n int) string {
	peers := make([]string, n)
	for i := range peers {
		c := string(rune('a' + i))
		peers[i] = "{id: " + c + ", address: '" + c + ":1'}"
	}
	return strings.Join(append(peers[:n-1], "{id: node-1, address: 'n:1'}"), ", ")
}

// All problems come together, in the order of the file, the environment last.
func TestAllProblemsAtOnce(t *testing.T) {
	_, got := load(`mesh:
  leadership:
    nodeId: node 1
    leasDuration: 2s
    heartbeatInterval: soon
    maxElectionWindow: 0
    listeners: {http: "127.0.0.1:7411", grpc: "127.0.0.1:7411"}
`, "MESH_LEADERSHIP__WEIGHT=lots", "MESH_LEADERSHIP__NOPE__X=1", "PATH=/bin")
	want := []string{
		"node.yaml:2: mesh.leadership.clusterId: is missing",
		"node.yaml:2: mesh.leadership.dataDir: is missing",
		"node.yaml:2: mesh.leadership.tls.ca: is missing",
		"node.yaml:2: mesh.leadership.tls.cert: is missing",
		"node.yaml:2: mesh.leadership.tls.key: is missing",
		`node.yaml:3: mesh.leadership.nodeId: "node 1" is no name that a certificate can hold; 1 to 63 letters`,
		"node.yaml:4: mesh.leadership.leasDuration: unknown key; did you mean leaseDuration?",
		`node.yaml:5: mesh.leadership.heartbeatInterval: "soon" is no duration`,
		"node.yaml:6: mesh.leadership.maxElectionWindow: 0s is out of bounds; from 100ms to 1h0m0s is right",
		"node.yaml:7: mesh.leadership.listeners.grpc: 127.0.0.1:7411 is the address of listeners.http too; give each listener a port of its own",
		"node.yaml:7: mesh.leadership.listeners.peer: is missing; write host:port",
		"environment MESH_LEADERSHIP__NOPE__X: overrides no setting; ",
		`environment MESH_LEADERSHIP__WEIGHT: mesh.leadership.weight: "lots" is no whole number in range`,
	}
	lines := strings.Split(got, "\n")
	for i, w := range want {
		if i >= len(lines) || !strings.HasPrefix(lines[i], w) {
			t.Fatalf("line %d: want %q in\n%s", i+1, w, got)
		}
	}
	if len(lines) != len(want) {
		t.Errorf("%d lines, want %d:\n%s", len(lines), len(want), got)
	}
}

func TestEnvironmentOverrides(t *testing.T) {
	c, problems := load(least+"    leaseDuration: 1s\n    log: {level: debug}\n",
		"mesh_leadership__LeaseDuration=00:00:02.5", "MESH_LEADERSHIP__LOG__FORMAT=json",
		"MESH_LEADERSHIP__SCOPES=[global-control, {id: a/b, priority: 3}]", "MESH_LEADERSHIP__LABELS={zone.name: b}",
		"MESH_LEADERSHIP__REBALANCEINTERVAL=off", "MESH_LEADERSHIP__NODEID=7", "MESH_LEADERSHIP__CLOCKDRIFT=0.5%")
	if problems != "" {
		t.Fatal(problems)
	}
	if c.LeaseDuration != 2500*time.Millisecond || c.Log != (Log{"debug", "json"}) || c.RebalanceInterval != Off || c.NodeID != "7" ||
		c.Labels["zone.name"] != "b" || c.ClockDrift != 5 || len(c.Scopes) != 2 || c.Scopes[1].Priority != 3 {
		t.Errorf("overridden to %+v", c)
	}
	for value, want := range map[string]string{
		"MESH_LEADERSHIP__LEASEDURATIO=1s":   "did you mean leaseDuration?",
		"MESH_LEADERSHIP__=1s":               "overrides no setting",
		"MESH_LEADERSHIP__WEIGHT__X=1s":      "overrides no setting",
		"MESH_LEADERSHIP__SCOPES=[a, ":       "not YAML; write a list, each item a scope id",
		"MESH_LEADERSHIP__SCOPES=[{ids: 1}]": "environment MESH_LEADERSHIP__SCOPES: mesh.leadership.scopes[0].ids: unknown key; did you mean id?",
		"MESH_LEADERSHIP__LEASEDURATION=0s":  "environment MESH_LEADERSHIP__LEASEDURATION: mesh.leadership.leaseDuration: 0s is out of bounds",
	} {
		if _, got := load(least, value); !strings.Contains(got, want) {
			t.Errorf("%s: have %q, want %q", value, got, want)
		}
	}
	if _, got := load(least, "MESH_LEADERSHIP__WEIGHT=2", "mesh_leadership__weight=3"); !strings.Contains(got, "overridden by MESH_LEADERSHIP__WEIGHT too") {
		t.Errorf("two overrides of one setting: %q", got)
	}
}

// A replica's number must not depend on the order or the number of peers.
func TestReplicaNumbersAreStable(t *testing.T) {
	one, two := Peer{ID: "node-1"}, Peer{ID: "node-2"}
	if one.Replica() != 0xe696ecc2207879c3 || one.Replica() == two.Replica() {
		t.Errorf("node-1 is %#x, node-2 %#x: data directories of before would be another replica's", one.Replica(), two.Replica())
	}
}

func TestFileLimitsAndAbsence(t *testing.T) {
	path := filepath.Join(t.TempDir(), "big.yaml")
	if err := os.WriteFile(path, []byte(least+"#"+strings.Repeat("x", MaxFile)), 0o600); err != nil {
		t.Fatal(err)
	}
	var problems Problems
	if _, err := Load(path, nil); !errors.As(err, &problems) || !strings.Contains(err.Error(), "at most 1048576 are read") {
		t.Errorf("oversize file: %v", err)
	}
	if _, err := Load(filepath.Join(t.TempDir(), "none.yaml"), nil); !errors.Is(err, os.ErrNotExist) {
		t.Errorf("absent file: %v", err)
	}
	for text, want := range map[string]string{"": "there are no settings", "text": "the file is plain text", "[a]": "a list does not fit", "~": "has no value"} {
		if _, got := load(text); !strings.Contains(got, want) {
			t.Errorf("the file %q: %q, want %q", text, got, want)
		}
	}
}

// Whatever passes Validate keeps the inequalities of the timing argument, computed
// here in floats and apart from the code under test.
func TestValidTimingKeepsTheBounds(t *testing.T) {
	accepted := 0
	rapid.Check(t, func(t *rapid.T) {
		c, _ := load(least)
		ms := func(low, high int, name string) time.Duration {
			return time.Duration(rapid.IntRange(low, high).Draw(t, name)) * time.Millisecond
		}
		c.LeaseDuration = ms(200, 8000, "lease")
		c.RenewalLeadTime = c.LeaseDuration * 4 / 5
		c.EvaluationInterval = time.Millisecond
		c.ElectionTimeout = ms(200, 3000, "election")
		// Around what is right, so that a short run accepts and refuses both.
		c.HeartbeatInterval = c.ElectionTimeout * time.Duration(rapid.IntRange(5, 50).Draw(t, "heartbeat percent")) / 100
		c.MaxElectionWindow = (c.LeaseDuration + 2*c.ElectionTimeout) * time.Duration(300-rapid.IntRange(0, 220).Draw(t, "percent off")) / 100
		c.FormationWindow = max(50*time.Millisecond, c.MaxElectionWindow/10)
		c.ClockDrift = core.Epsilon(rapid.IntRange(1, 100).Draw(t, "drift"))
		lease, election, commit, eps := c.LeaseDuration.Seconds(), c.ElectionTimeout.Seconds(), AssumedCommit.Seconds(), float64(c.ClockDrift)/1000
		window, trip := c.MaxElectionWindow.Seconds(), AssumedRoundTrip.Seconds()
		const slack = 1e-6
		right := 0.4*lease/(1-eps)+commit < lease/2 &&
			lease*(1+eps)/(1-eps)+2*election+commit <= window &&
			2*election+lease*(1+eps)+trip <= window &&
			3*c.HeartbeatInterval.Seconds() < election
		near := near(0.4*lease/(1-eps)+commit, lease/2, slack) || near(lease*(1+eps)/(1-eps)+2*election+commit, window, slack) ||
			near(2*election+lease*(1+eps)+trip, window, slack) || near(3*c.HeartbeatInterval.Seconds(), election, slack)
		err := c.Validate()
		if !near && right != (err == nil) {
			t.Fatalf("right=%v, but Validate says %v", right, err)
		}
		if err == nil {
			accepted++
		}
	})
	if accepted == 0 {
		t.Error("no configuration was accepted: the test shows nothing")
	}
}

func near(a, b, slack float64) bool { return a-b < slack && b-a < slack }

func TestDurationsReadBack(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		d := time.Duration(rapid.Int64Range(0, int64(100*time.Hour)).Draw(t, "d")).Truncate(time.Millisecond)
		clock := clockOf(d)
		for _, text := range []string{d.String(), clock} {
			if got, err := parseDuration(text); err != nil || got != d {
				t.Fatalf("%q reads as %v, %v; want %v", text, got, err, d)
			}
		}
	})
	for _, text := range []string{"", "1", "1:2:3", "00:60:00", "00:00:60", "00:00:00.", "-00:00:01", "1h1", "99999:00:00"} {
		if d, err := parseDuration(text); err == nil {
			t.Errorf("%q reads as %v, want an error", text, d)
		}
	}
}

func clockOf(d time.Duration) string {
	return fmt.Sprintf("%02d", int(d/time.Hour)) + time.Time{}.Add(d%time.Hour).Format(":04:05.000")
}

func FuzzParse(f *testing.F) {
	example, err := os.ReadFile("testdata/example.yaml")
	if err != nil {
		f.Fatal(err)
	}
	f.Add(example, "MESH_LEADERSHIP__LEASEDURATION=3s")
	f.Add([]byte(least), "MESH_LEADERSHIP__SCOPES=[a]")
	f.Add([]byte("mesh: {leadership: {labels: {a: b, a: c}, peers: [[[1]]]}}"), "")
	f.Fuzz(func(t *testing.T, data []byte, variable string) {
		c, problems := parse("f.yaml", data, []string{variable})
		for _, p := range problems {
			if p.What == "" || strings.Contains(p.String(), "\n") {
				t.Errorf("a problem that says nothing, or on two lines: %q", p)
			}
		}
		if len(problems) == 0 {
			if err := c.Validate(); err != nil {
				t.Errorf("accepted, but %v", err)
			}
			if len(c.DeclaredScopes()) > core.MaxScopes {
				t.Error("more scopes than core takes")
			}
		}
	})
}

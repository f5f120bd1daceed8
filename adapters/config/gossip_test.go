package config

import (
	"path/filepath"
	"strings"
	"testing"
	"time"
)

func TestExampleShowsTheDefaultsOfGossip(t *testing.T) {
	c, err := Load("testdata/example.yaml", nil)
	if err != nil {
		t.Fatal(err)
	}
	g, d := c.Gossip, defaultGossip()
	if g.Interval != d.Interval || g.Fanout != d.Fanout || g.ProbeInterval != d.ProbeInterval || g.ProbeTimeout != d.ProbeTimeout || g.Suspicion != d.Suspicion ||
		g.Retransmit != d.Retransmit || g.PushPullInterval != d.PushPullInterval || g.WatchPeriod != d.WatchPeriod || g.WatchMisses != d.WatchMisses ||
		g.Role != d.Role || g.MeshVersion != d.MeshVersion || g.Plaintext != d.Plaintext {
		t.Errorf("the example shows other defaults than defaultGossip: %+v", g)
	}
}

const gossiping = "  gossip:\n    listen: 127.0.0.1:7414\n    keyFile: keys\n"

func TestWithoutABlockThereIsNoGossip(t *testing.T) {
	c, problems := load(least)
	if problems != "" || c.Gossip.Enabled {
		t.Errorf("enabled %v, problems %s", c.Gossip.Enabled, problems)
	}
}

func TestGossipIsReadAndDerived(t *testing.T) {
	c, problems := load(least+"    labels: {zone: a}\n"+gossiping+"    seeds: [127.0.0.1:7424]\n    region: eu-1\n    watchPeriod: 50ms\n",
		"MESH_GOSSIP__FANOUT=5", "mesh_gossip__minmeshversion=1.2", "MESH_GOSSIP__SEEDS=[a:1, b:2]")
	if problems != "" {
		t.Fatal(problems)
	}
	g := c.Gossip
	if !g.Enabled || g.Fanout != 5 || g.MinMeshVersion != "1.2" || strings.Join(g.Seeds, " ") != "a:1 b:2" || g.Region != "eu-1" ||
		g.WatchPeriod != 50*time.Millisecond || g.WatchMisses != 3 || g.Role != "node" || g.Labels["zone"] != "a" {
		t.Errorf("%+v", g)
	}
	c.anchorPaths("/etc/mesh")
	if want := filepath.Join("/etc/mesh", "keys"); c.Gossip.KeyFile != want {
		t.Errorf("keyFile %q, want %q", c.Gossip.KeyFile, want)
	}
	c, problems = load(least + gossiping + "    enabled: false\n    fanout: 999\n")
	if problems != "" || c.Gossip.Enabled {
		t.Errorf("switched off: enabled %v, problems %s", c.Gossip.Enabled, problems)
	}
	if c, problems = load(least, "MESH_GOSSIP__LISTEN=127.0.0.1:1", "MESH_GOSSIP__PLAINTEXT=true"); problems != "" || !c.Gossip.Enabled {
		t.Errorf("by the environment alone: enabled %v, problems %s", c.Gossip.Enabled, problems)
	}
}

// Each case is what is appended to a good block, and what each problem must say.
func TestGossipProblems(t *testing.T) {
	long := strings.Repeat("x", 250)
	for name, tc := range map[string]struct {
		text, env string
		want      []string
	}{
		"unknown key":      {text: "    sseds: []\n", want: []string{"node.yaml:11: mesh.gossip.sseds: unknown key; did you mean seeds?"}},
		"unknown variable": {env: "MESH_GOSSIP__FANOUTS=3", want: []string{"environment MESH_GOSSIP__FANOUTS: overrides no setting; did you mean fanout?"}},
		"wrong variable":   {env: "MESH_GOSSIP__FANOUT=99", want: []string{"environment MESH_GOSSIP__FANOUT: mesh.gossip.fanout: 99 is out of bounds; from 1 to 16 is right"}},
		"several at once": {text: "    interval: 1ms\n    suspicion: 0\n    region: 'a b'\n    minMeshVersion: latest\n",
			want: []string{"node.yaml:11: mesh.gossip.interval: 1ms is out of bounds; from 10ms to 1m0s is right", "node.yaml:12: mesh.gossip.suspicion: 0 is out of bounds",
				`node.yaml:13: mesh.gossip.region: "a b" has a byte`, `node.yaml:14: mesh.gossip.minMeshVersion: "latest" is no version; write up to three numbers`}},
		"probe timeout": {text: "    probeTimeout: 2s\n", want: []string{"probeTimeout: 2s is out of bounds; from 10ms to 999ms is right"}},
		"seed":          {text: "    seeds: ['a']\n", want: []string{`seeds[0]: "a" is no address`}},
		"both keys":     {text: "    plaintext: true\n", want: []string{"mesh.gossip.plaintext: is true, but there is a keyFile; keep one of them"}},
		"metadata":      {text: "    labels: {a: " + long + ", b: " + long + "}\n", want: []string{"mesh.gossip.labels: with them this node says 55", "at most 512 fit into a packet"}},
		"no key":        {env: "MESH_GOSSIP__KEYFILE=", want: []string{"mesh.gossip.keyFile: is missing"}},
		"taken":         {env: "MESH_GOSSIP__LISTEN=127.0.0.1:7413", want: []string{"127.0.0.1:7413 is the address of mesh.leadership.listeners.peer too"}},
		"everywhere":    {env: "MESH_GOSSIP__LISTEN=:7414", want: []string{"mesh.gossip.advertise: is missing; write host:port at which the others reach this node"}},
	} {
		t.Run(name, func(t *testing.T) {
			_, got := load(least+gossiping+tc.text, tc.env)
			for _, want := range tc.want {
				if !strings.Contains(got, want) {
					t.Errorf("have\n%s\nwant it to contain\n%s", got, want)
				}
			}
			if strings.Count(got, "\n") >= len(tc.want) {
				t.Errorf("more lines than problems:\n%s", got)
			}
		})
	}
}

func TestPlaintextOnlyOnLoopback(t *testing.T) {
	for listen, want := range map[string]string{
		"127.0.0.1:1": "", "'[::1]:1'": "",
		"10.0.0.1:1":  `mesh.gossip.plaintext: is true, but "10.0.0.1:1" is no loopback address; name a keyFile`,
		"localhost:1": "is no loopback address", // a name may lead anywhere
	} {
		_, got := load(least + "  gossip: {listen: " + listen + ", plaintext: true}\n")
		if want == "" && got != "" || !strings.Contains(got, want) {
			t.Errorf("%s: have %q, want %q", listen, got, want)
		}
	}
}

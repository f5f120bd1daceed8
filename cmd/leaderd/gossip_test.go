package main

import (
	"fmt"
	"slices"
	"testing"

	"google.golang.org/protobuf/proto"

	"github.com/omnirelay/leadership/adapters/config"
	"github.com/omnirelay/leadership/adapters/gossip"
	"github.com/omnirelay/leadership/adapters/telemetry"
	"github.com/omnirelay/leadership/core"
	"github.com/omnirelay/leadership/core/logpb"
)

// What config calls the defaults are those of the adapter, and telemetry knows all that
// gossip counts by.
func TestDefaultsOfGossipAgree(t *testing.T) {
	g := config.Default().Gossip
	if g.Interval != gossip.DefaultInterval || g.Fanout != gossip.DefaultFanout || g.ProbeInterval != gossip.DefaultProbeInterval ||
		g.ProbeTimeout != gossip.DefaultProbeTimeout || g.Suspicion != gossip.DefaultSuspicion || g.Retransmit != gossip.DefaultRetransmit ||
		g.PushPullInterval != gossip.DefaultPushPullInterval || g.WatchPeriod != gossip.DefaultWatchPeriod || g.WatchMisses != gossip.DefaultWatchMisses ||
		g.MeshVersion != gossip.MeshVersion {
		t.Errorf("config has %+v", g)
	}
	if config.MaxGossipSeeds != gossip.MaxSeeds || config.MaxGossipFanout != gossip.MaxFanout || config.MaxGossipMultiplier != gossip.MaxMultiplier ||
		config.MaxWatchMisses != gossip.MaxWatchMisses || config.MaxGossipRole != gossip.MaxRole || config.MaxGossipRegion != gossip.MaxRegion ||
		config.MaxGossipMetadata != gossip.MaxMetadata || config.MinGossipInterval != gossip.MinInterval || config.MaxGossipInterval != gossip.MaxInterval {
		t.Error("config has other bounds than gossip")
	}
	for i, s := range gossip.Statuses {
		if telemetry.GossipStatuses[i] != string(s) {
			t.Errorf("telemetry has %v", telemetry.GossipStatuses)
		}
	}
	for i, r := range gossip.Refusals {
		if telemetry.GossipRefusals[i] != r {
			t.Errorf("telemetry has %v", telemetry.GossipRefusals)
		}
	}
}

// The nodes of leaderd dev gossip with each other, under one key file, each on a port of
// its own.
func TestDevNodesGossip(t *testing.T) {
	cluster, err := newDevCluster(&devOptions{nodes: 3, dir: t.TempDir(), basePort: 7400}, &devStore{kind: config.StoreRaft})
	if err != nil {
		t.Fatal(err)
	}
	var want []string
	for i := range cluster.nodes {
		want = append(want, fmt.Sprintf("127.0.0.1:%d", 7400+10*(i+1)+4))
	}
	for i, n := range cluster.nodes {
		c, err := config.Load(n.config, nil)
		if err != nil {
			t.Fatal(err)
		}
		if g := c.Gossip; !g.Enabled || g.Listen != want[i] || !slices.Equal(g.Seeds, want) || g.Plaintext {
			t.Errorf("%s: %+v", n.id, g)
		}
		if keys, err := gossip.ListKeys(c.Gossip.KeyFile); err != nil || len(keys) != 1 {
			t.Errorf("%s: keys %v, %v", n.id, keys, err)
		}
	}
}

// Who leads a fast scope is watched, and who may; nobody else.
func TestFastMembers(t *testing.T) {
	for name, tc := range map[string]struct {
		selector *logpb.Selector
		want     bool
	}{
		"its id":        {&logpb.Selector{Id: "shard/x/1"}, true},
		"its kind":      {&logpb.Selector{Kind: core.KindShard}, true},
		"its namespace": {&logpb.Selector{Namespace: "x"}, true},
		"everything":    {&logpb.Selector{Labels: map[string]string{"a": "b"}}, true},
		"another id":    {&logpb.Selector{Id: "shard/x/2"}, false},
		"another kind":  {&logpb.Selector{Kind: core.KindCustom}, false},
		"another one":   {&logpb.Selector{Namespace: "y"}, false},
	} {
		spec, err := core.NewScopeSpec("shard/x/1")
		if err != nil {
			t.Fatal(err)
		}
		if got := mayPick(tc.selector, proto.CloneOf(spec)); got != tc.want {
			t.Errorf("%s: %v", name, got)
		}
	}
	g := core.NewRegistry(0)
	if got := fastMembers(g); got != nil {
		t.Errorf("of an empty registry: %v", got)
	}
}

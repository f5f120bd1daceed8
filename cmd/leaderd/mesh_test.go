package main

import (
	"fmt"
	"testing"

	"github.com/omnirelay/leadership/adapters/config"
	"github.com/omnirelay/leadership/core"
)

// Members are sent to the nodes that there are, not to those that once were written down.
func TestNeighbours(t *testing.T) {
	c := &config.Config{NodeID: "a", Peers: []config.Peer{{ID: "a", Address: "a:1"}, {ID: "b", Address: "b:1", GRPC: "b:2"}, {ID: "c", Address: "c:1", GRPC: "c:2"}}}
	voter := func(name string) core.NodeInfo {
		return core.NodeInfo{Name: name, PeerAddress: name + ":1", GRPCAddress: name + ":9", Stage: core.NodeVoter}
	}
	learner, leaving := voter("e"), voter("b")
	learner.Stage, leaving.Stage = core.NodeLearner, core.NodeLeaving
	for label, tc := range map[string]struct {
		nodes   []core.NodeInfo
		removed []string
		want    string
	}{
		"no table yet":   {nil, nil, "[b=b:2 c=c:2]"},
		"nameless":       {[]core.NodeInfo{{ID: 1, Stage: core.NodeVoter}}, nil, "[b=b:2 c=c:2]"},
		"as written":     {[]core.NodeInfo{voter("a"), voter("b"), voter("c")}, nil, "[b=b:9 c=c:9]"},
		"one replaced":   {[]core.NodeInfo{voter("a"), voter("b"), voter("d")}, []string{"c"}, "[b=b:9 d=d:9]"},
		"one on its way": {[]core.NodeInfo{voter("a"), leaving, voter("c"), learner}, nil, "[c=c:9]"},
	} {
		var have []string
		for _, p := range neighboursOf(c, tc.nodes, tc.removed) {
			have = append(have, p.ID+"="+p.GRPC)
		}
		if fmt.Sprint(have) != tc.want {
			t.Errorf("%s: %v, want %s", label, have, tc.want)
		}
	}
}

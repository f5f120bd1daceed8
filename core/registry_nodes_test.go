package core

import (
	"testing"

	"github.com/omnirelay/leadership/core/logpb"
)

// A node that knows no address of its own to announce keeps those that it was added with,
// and adding it again is the same as before.
func TestAnAnnouncementLeavesWhatItDoesNotKnow(t *testing.T) {
	b := newRegistryBench(t)
	node := &logpb.Node{Name: "n4", PeerAddress: "10.0.0.4:7413", HttpAddress: "10.0.0.4:7411", GrpcAddress: "10.0.0.4:7412"}
	add := func() {
		t.Helper()
		c := &logpb.Command{Kind: &logpb.Command_AddNode{AddNode: &logpb.AddNode{Node: node}}}
		if err := CompleteCommand(c); err != nil {
			t.Fatal(err)
		}
		if r := b.do(c); r.Code != "" {
			t.Fatalf("%+v", r)
		}
	}
	add()
	b.do(&logpb.Command{Kind: &logpb.Command_AnnounceVersion{AnnounceVersion: &logpb.AnnounceVersion{
		Replica: uint64(NodeIDOf("n4")), MaxVersion: ProtocolVersion, Node: &logpb.Node{Name: "n4", PeerAddress: "10.0.0.5:7413"},
	}}})
	n, _ := b.g.Node("n4")
	if n.PeerAddress != "10.0.0.5:7413" || n.HTTPAddress != node.HttpAddress || n.GRPCAddress != node.GrpcAddress {
		t.Errorf("%+v", n)
	}
	node.PeerAddress = "10.0.0.5:7413"
	add()
}

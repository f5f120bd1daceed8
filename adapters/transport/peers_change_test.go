package transport

import (
	"testing"
	"time"

	"github.com/omnirelay/leadership/core"
)

// openNode starts a node that knows of some others, admits whose name gives its id, and
// tells its own address.
func openNode(t *testing.T, a *Authority, name string, knows ...*testNode) *testNode {
	t.Helper()
	l := listen(t, "127.0.0.1:0")
	n := &testNode{t: t, id: core.NodeIDOf(name), files: nodeFiles(t, a, name), addr: l.Addr().String(),
		inbox: make(chan core.Message, 100_000), unreachable: make(chan core.NodeID, 100_000)}
	n.removed = make(chan struct{}, 1000)
	addrs, names := map[core.NodeID]string{}, map[core.NodeID]string{}
	for _, k := range knows {
		addrs[k.id], names[k.id] = k.addr, k.name
	}
	n.name = name
	var err error
	n.peers, err = NewPeers(PeersOptions{
		ClusterID: testCluster, Self: n.id, Address: n.addr, Open: true, Addrs: addrs, Names: names, Certificates: load(t, n.files),
		Deliver: func(m core.Message) { n.inbox <- m }, Unreachable: func(id core.NodeID) { n.unreachable <- id },
		Removed: func() {
			select {
			case n.removed <- struct{}{}:
			default:
			}
		},
		Logger: n.logger(),
	})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		n.stop()
		if err := n.peers.Close(); err != nil {
			t.Error(err)
		}
	})
	n.serve(l)
	return n
}

// A node answers one that it never heard of, since that one told where it is reached.
func TestANodeThatJoinsIsAnswered(t *testing.T) {
	a := authority(t, testCluster)
	old := openNode(t, a, "old")
	joiner := openNode(t, a, "joiner", old)
	joiner.sendUntilReceived(old, 1)
	old.sendUntilReceived(joiner, 2)
}

// The registry's table brings nodes together, and follows one that moved.
func TestTheTableConnects(t *testing.T) {
	a := authority(t, testCluster)
	one, two := openNode(t, a, "one"), openNode(t, a, "two")
	one.peers.o.Address = "" // or two would come back and tell the address that it has left
	table := []PeerNode{{ID: one.id, Name: "one", Address: one.addr}, {ID: two.id, Name: "two", Address: two.addr}}
	one.peers.SetNodes(table, nil)
	one.sendUntilReceived(two, 1)

	moved := listen(t, "127.0.0.1:0")
	two.stop()
	two.serve(moved)
	table[1].Address = moved.Addr().String()
	one.peers.SetNodes(table, nil)
	one.sendUntilReceived(two, 2)
	// What a table of before says again is not news.
	one.peers.SetNodes(table, nil)
	one.sendUntilReceived(two, 3)
}

// A node that was removed is told so, while its stream is open and when it comes again.
func TestARemovedNodeIsTold(t *testing.T) {
	a := authority(t, testCluster)
	stays := openNode(t, a, "stays")
	goes := openNode(t, a, "goes", stays)
	goes.sendUntilReceived(stays, 1)
	stays.peers.SetNodes(nil, []core.NodeID{goes.id})
	receive(t, goes.removed)
	for len(goes.removed) > 0 {
		<-goes.removed
	}
	receive(t, goes.removed) // at its next attempt, too
	stays.peers.SetNodes([]PeerNode{{ID: goes.id, Name: "goes", Address: goes.addr}}, nil)
	stays.peers.mu.RLock()
	defer stays.peers.mu.RUnlock()
	if stays.peers.peers[goes.id] != nil {
		t.Error("a table of before brings a removed node back")
	}
}

// A certificate of the cluster is not enough to speak under the id of another name.
func TestAnUnknownNodeSpeaksAsItselfOnly(t *testing.T) {
	a := authority(t, testCluster)
	n := openNode(t, a, "node")
	stranger := openNode(t, a, "stranger")
	if err := n.peers.directory.admit(stranger.id+1, Identity{Kind: KindNode, Cluster: testCluster, Name: "stranger"}); err == nil {
		t.Error("admitted under another id")
	}
	if err := n.peers.directory.admit(stranger.id, Identity{Kind: KindNode, Cluster: testCluster, Name: "stranger"}); err != nil {
		t.Error(err)
	}
}

// Peers may be closed while they change.
func TestPeersChangeWhileTheyClose(t *testing.T) {
	a := authority(t, testCluster)
	n := openNode(t, a, "node")
	done := make(chan struct{})
	go func() {
		defer close(done)
		for i := range 50 {
			n.peers.SetNodes([]PeerNode{{ID: core.NodeID(i + 1), Name: nameOf(core.NodeID(i + 1)), Address: "127.0.0.1:1"}}, []core.NodeID{core.NodeID(i)})
		}
	}()
	if err := n.peers.Close(); err != nil {
		t.Error(err)
	}
	select {
	case <-done:
	case <-time.After(patience):
		t.Error("SetNodes hangs")
	}
}

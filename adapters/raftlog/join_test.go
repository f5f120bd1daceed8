package raftlog

import (
	"fmt"
	"path/filepath"
	"testing"
	"time"

	"github.com/omnirelay/leadership/core"
	"github.com/omnirelay/leadership/core/logpb"
)

// change asks for a change of nodes through the registrar, until it is done.
func (n *network) change(command *logpb.Command) {
	n.t.Helper()
	n.tags++
	command.RequestId = fmt.Sprint("change-", n.tags)
	for _, w := range n.worlds {
		if w.drive == nil || !w.replica.Status().OfficeOpen {
			continue
		}
		w.inbox = append(w.inbox, core.Input{Request: &core.RequestInput{Tag: n.tags, Command: command}})
		n.run(time.Second)
		if result := w.done[n.tags]; result == nil || result.Code != "" {
			n.t.Fatalf("%v: %v", command.Kind, result)
		}
		return
	}
	n.t.Fatal("no registrar")
}

// restart closes every log and opens it again.
func (n *network) restart() {
	for _, w := range n.worlds {
		if w.drive != nil {
			w.stop()
			w.start()
		}
	}
	n.run(3 * time.Second)
}

// TestANodeJoinsOnItsLog lets a node join with an empty log, restarts it before it got
// anything and all of them afterwards, and has it take the place of another.
func TestANodeJoinsOnItsLog(t *testing.T) {
	n := &network{t: t, now: 1}
	base := memoryDir(t)
	for id := core.NodeID(1); id <= 4; id++ {
		n.worlds = append(n.worlds, &world{net: n, id: id, dir: filepath.Join(base, fmt.Sprint(id)), done: map[uint64]*core.Result{}, joins: id == 4})
	}
	for _, w := range n.worlds[:3] {
		w.start()
	}
	n.run(3 * time.Second)
	for i := range 15 {
		n.declare(fmt.Sprintf("shard/mesh.test/%02d", i))
	}
	joiner := n.worlds[3]
	joiner.start()
	if err := joiner.log.Persist(core.Batch{HardState: hardState(7, 0, 0)}); err != nil { // it heard of a term, and of nothing else
		t.Fatal(err)
	}
	joiner.stop()
	joiner.start()
	if joiner.replica.Status().Ready {
		t.Error("a node that has nothing says that it is ready")
	}
	node := &logpb.Node{Name: "node-4", Id: 4, PeerAddress: "127.0.0.1:4"}
	n.change(&logpb.Command{Kind: &logpb.Command_AddNode{AddNode: &logpb.AddNode{Node: node}}})
	n.run(3 * time.Second)
	n.restart()
	n.declare("shard/mesh.again/00")
	n.change(&logpb.Command{Kind: &logpb.Command_RemoveNode{RemoveNode: &logpb.RemoveNode{Name: "node-1"}}})
	n.run(3 * time.Second)
	if n.worlds[0].drive != nil {
		t.Error("node 1 does not notice that it was removed")
	}
	n.restart()
	n.declare("shard/mesh.again/01")
	n.run(time.Second)
	for _, w := range n.worlds[1:] {
		if m := w.replica.Members(); fmt.Sprint(m) != "{[2 3 4] [] []}" || !w.replica.Status().Ready {
			t.Errorf("node %d counts %v", w.id, m)
		}
	}
}

// TestALogOfAJoinerIsNotStartedAsAnother: what waits to be let in must not begin a log.
func TestALogOfAJoinerIsNotStartedAsAnother(t *testing.T) {
	o := Options{Dir: memoryDir(t), ClusterID: "mesh.test", NodeID: 4}
	log, _, err := Open(o)
	if err != nil {
		t.Fatal(err)
	}
	if err := log.Persist(core.Batch{HardState: hardState(7, 0, 0)}); err != nil {
		t.Fatal(err)
	}
	mustClose(t, log)
	log, boot, err := Open(o)
	if err != nil {
		t.Fatal(err)
	}
	defer mustClose(t, log)
	if _, err := core.NewReplica(core.Config{ID: 4, Voters: []core.NodeID{1, 2, 4}, ClusterID: "mesh.test"}, boot, 1); err == nil {
		t.Error("it starts as one of the first voters")
	}
}

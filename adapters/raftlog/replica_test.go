package raftlog

import (
	"errors"
	"fmt"
	"path/filepath"
	"testing"
	"time"

	"github.com/omnirelay/leadership/core"
	"github.com/omnirelay/leadership/core/logpb"
)

// world is one replica with a perfect network to the others and a clock they share.
type world struct {
	net     *network
	id      core.NodeID
	dir     string
	log     *Log
	replica *core.Replica
	drive   *core.Drive
	inbox   []core.Input
	done    map[uint64]*core.Result
	joins   bool
}

type network struct {
	t      *testing.T
	now    core.Time
	worlds []*world // of node i+1; a stopped one has no drive
	tags   uint64
}

func (w *world) Drain() []core.Input {
	in := w.inbox
	w.inbox = nil
	return in
}

func (w *world) Now() core.Time { return w.net.now }
func (w *world) Wall() int64    { return int64(w.net.now) }

func (w *world) Emit(e core.Emission) {
	for _, m := range e.Messages {
		if to := w.net.worlds[m.To-1]; to.drive != nil {
			to.inbox = append(to.inbox, core.Input{Message: &m})
		}
	}
	for _, d := range e.Requests {
		w.done[d.Tag] = d.Result
	}
}

func (w *world) start() {
	log, boot, err := Open(Options{Dir: w.dir, ClusterID: "mesh.test", NodeID: w.id})
	if err != nil {
		w.net.t.Fatalf("node %d: %v", w.id, err)
	}
	w.log = log
	w.net.t.Cleanup(func() { _ = log.Close() })
	w.replica, err = core.NewReplica(core.Config{
		ID: w.id, Voters: []core.NodeID{1, 2, 3}, Join: w.joins, Addresses: core.NodeAddresses{Peer: fmt.Sprintf("127.0.0.1:%d", w.id)}, ClusterID: "mesh.test", Seed: uint64(w.net.now) + uint64(w.id), SnapshotEntries: 10,
	}, boot, w.net.now)
	if err != nil {
		w.net.t.Fatalf("node %d: %v", w.id, err)
	}
	w.drive = core.NewDrive(w.replica, log, w)
}

func (w *world) stop() {
	mustClose(w.net.t, w.log)
	w.drive, w.inbox = nil, nil
}

func (n *network) run(d time.Duration) {
	for end := n.now.Add(d); n.now < end; n.now = n.now.Add(time.Millisecond) {
		for _, w := range n.worlds {
			if w.drive == nil || (len(w.inbox) == 0 && w.drive.Deadline() > n.now) {
				continue
			}
			if err := w.drive.Turn(); errors.Is(err, core.ErrRemoved) {
				w.stop()
			} else if err != nil {
				n.t.Fatalf("node %d: %v", w.id, err)
			}
		}
	}
}

// declare declares a scope through whichever replica is registrar; each one
// leaves an audit record.
func (n *network) declare(scope string) {
	n.t.Helper()
	n.tags++
	command := &logpb.Command{RequestId: fmt.Sprint("declare-", n.tags), Kind: &logpb.Command_DeclareScopes{
		DeclareScopes: &logpb.DeclareScopes{Scopes: []*logpb.ScopeSpec{{Id: scope}}}}}
	for _, w := range n.worlds {
		if w.drive == nil || !w.replica.Status().OfficeOpen {
			continue
		}
		w.inbox = append(w.inbox, core.Input{Request: &core.RequestInput{Tag: n.tags, Command: command}})
		for range 200 {
			n.run(5 * time.Millisecond)
			if result := w.done[n.tags]; result != nil && result.Code == "" {
				return
			}
		}
	}
	n.t.Fatalf("%s was not declared", scope)
}

// TestReplicasOnTheirLogs lets core's own replicas write, compact, catch up by
// snapshot, and restart from what was stored.
func TestReplicasOnTheirLogs(t *testing.T) {
	n := &network{t: t, now: 1}
	base := memoryDir(t)
	for id := core.NodeID(1); id <= 3; id++ {
		n.worlds = append(n.worlds, &world{net: n, id: id, dir: filepath.Join(base, fmt.Sprint(id)), done: map[uint64]*core.Result{}})
	}
	late := n.worlds[2]
	n.worlds[0].start()
	n.worlds[1].start()
	n.run(3 * time.Second)
	for i := range 40 {
		n.declare(fmt.Sprintf("shard/mesh.test/%02d", i))
	}
	late.start()
	n.run(3 * time.Second)
	if late.replica.Status().SnapshotInstalls == 0 {
		t.Error("the late replica caught up without a snapshot")
	}
	for i := 40; i < 60; i++ {
		n.declare(fmt.Sprintf("shard/mesh.test/%02d", i))
	}
	n.run(time.Second)
	for round := range 3 {
		for _, w := range n.worlds {
			w.stop()
		}
		for _, w := range n.worlds {
			w.start()
		}
		n.run(3 * time.Second)
		n.declare(fmt.Sprintf("shard/mesh.again/%02d", round))
	}
	n.run(time.Second)
	for _, w := range n.worlds {
		n.compare(w)
	}
}

// compare holds a replica and its stored audit trail against the first one's.
func (n *network) compare(w *world) {
	first := n.worlds[0]
	if w.replica.Registry().Hash() != first.replica.Registry().Hash() {
		n.t.Errorf("node %d differs from node %d", w.id, first.id)
	}
	records, err := w.log.Records(0, MaxRecordsRead)
	if err != nil {
		n.t.Fatal(err)
	}
	if err := core.VerifyChain(nil, records); err != nil {
		n.t.Errorf("node %d: %v", w.id, err)
	}
	want, err := first.log.Records(0, MaxRecordsRead)
	if err != nil {
		n.t.Fatal(err)
	}
	if d := recordsDifference(records, want); d != "" || len(records) < 63 {
		n.t.Errorf("node %d: %d records; %s", w.id, len(records), d)
	}
}

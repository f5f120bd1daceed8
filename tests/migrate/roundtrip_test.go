package migrate_test

import (
	"bytes"
	"encoding/hex"
	"errors"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/omnirelay/leadership/adapters/config"
	"github.com/omnirelay/leadership/adapters/raftlog"
	"github.com/omnirelay/leadership/adapters/storeserver"
	"github.com/omnirelay/leadership/core"
	"github.com/omnirelay/leadership/tests/cluster/harness"
)

// journey is a cluster whose registry moves from place to place.
type journey struct {
	t       *testing.T
	cluster *harness.Cluster
	at      *place
	inRaft  []string // the nodes' first configurations
	configs []string // of the nodes, at the place
	fences  map[string]uint64
	trail   []*core.Record // as it was read last
}

// TestRoundTrip moves a registry through all four kinds of stores and back, with the
// same data directories, and lets leaders be elected at each.
func TestRoundTrip(t *testing.T) {
	c := harness.New(t, harness.Options{Settings: settings})
	j := &journey{t: t, cluster: c, at: inRaft, fences: map[string]uint64{}}
	for _, n := range c.Nodes {
		j.inRaft = append(j.inRaft, n.Config)
	}
	j.configs = j.inRaft
	j.see()
	for _, kind := range []storeserver.Kind{storeserver.Postgres, storeserver.Redis, storeserver.Etcd} {
		j.move(newPlace(t, kind))
		j.see()
	}
	j.move(inRaft)
	j.see()
	j.stop()
	j.compareRaftTrail()
}

// see waits for leaders, and looks at fences and at the audit trail that nodes tell.
func (j *journey) see() {
	j.t.Helper()
	grown(j.t, j.fences, j.cluster.AwaitSettled(harness.StartWithin))
	told := j.cluster.AwaitTrail(10 * time.Second)
	must(j.t, told.Verify())
	if len(told) <= len(j.trail) {
		j.t.Fatalf("at %s the nodes tell of %d audit records, there were %d", j.at.kind, len(told), len(j.trail))
	}
	for i, r := range j.trail {
		if told[i].Hash != hex.EncodeToString(r.Hash) {
			j.t.Fatalf("at %s the nodes tell another audit record %d", j.at.kind, r.Seq)
		}
	}
}

// move takes the registry to another place. Nodes on a store go on running meanwhile.
func (j *journey) move(to *place) {
	j.t.Helper()
	var next []string
	for i, n := range j.cluster.Nodes {
		next = append(next, to.config(n, j.inRaft[i]))
	}
	if j.at.kind == harness.Raft {
		refusedBy(j.t, "uses this data directory", append([]string{"migrate", "--yes", "--to", next[0]}, each("--from", j.configs)...)...)
		j.stop()
	}
	args := append([]string{"migrate", "--yes"}, append(each("--from", j.configs), each("--to", next)...)...)
	if to.kind == harness.Raft {
		refusedBy(j.t, "uses this data directory", args...)
		j.stop()
	}
	begun := time.Now()
	text := leaderd(j.t, args...)
	j.t.Logf("leaderd migrate, in %v\n%s", time.Since(begun).Round(time.Millisecond), text)
	j.oldEndRefuses()
	for _, n := range j.cluster.Nodes {
		n.Kill() // those that wait at the old end
	}
	if to.kind != harness.Raft {
		j.compareStoreTrail(to)
		leaderd(j.t, append([]string{"migrate", "--adopt"}, each("--to", next)...)...)
	}
	// What was done is done: run again, it says so.
	if text := leaderd(j.t, args...); !strings.Contains(text, "done: the registry is at") {
		j.t.Errorf("run again, it says\n%s", text)
	}
	j.at, j.configs = to, next
	for i, n := range j.cluster.Nodes {
		n.Config = next[i]
		n.Start()
	}
}

// stopWithin is more than a node takes to hand over.
const stopWithin = 15 * time.Second

// stop stops the nodes in order.
func (j *journey) stop() {
	j.t.Helper()
	for _, n := range j.cluster.Nodes {
		if n.Running() {
			n.Terminate()
		}
	}
	for _, n := range j.cluster.Nodes {
		n.AwaitExit(stopWithin)
	}
}

// oldEndRefuses sees that nobody serves from where the registry was.
func (j *journey) oldEndRefuses() {
	j.t.Helper()
	if j.at.kind != harness.Raft {
		if j.cluster.Nodes[0].Running() {
			awaitNotReady(j.t, j.cluster.Nodes, "moved to")
		}
		if closed := j.at.lead(j.t).Closed; !strings.HasPrefix(closed, "moved to ") {
			j.t.Errorf("%s is closed by %q", j.at.kind, closed)
		}
		return
	}
	for _, path := range j.configs {
		refusedBy(j.t, "registry.store is raft", "serve", "--config", path)
	}
}

// compareStoreTrail reads the trail that the registry brought to a place.
func (j *journey) compareStoreTrail(at *place) {
	j.t.Helper()
	j.compare(at.trail(j.t))
	if j.at.kind != harness.Raft {
		left := j.at.trail(j.t)
		if i := len(left) - 1; !bytes.Equal(left[i].Hash, j.trail[i].Hash) {
			j.t.Errorf("%s was left with another trail", j.at.kind)
		}
	}
}

// compareRaftTrail reads the trail in the data directory of each node.
func (j *journey) compareRaftTrail() {
	j.t.Helper()
	before := j.trail
	for _, n := range j.cluster.Nodes {
		log, _, err := raftlog.Open(raftlog.Options{Dir: n.DataDir, ClusterID: clusterID, NodeID: config.Peer{ID: n.ID}.Replica()})
		must(j.t, err)
		var records []*core.Record
		for page := []*core.Record{{}}; len(page) > 0 && err == nil; records = append(records, page...) {
			page, err = log.Records(uint64(len(records)), 1000)
		}
		must(j.t, errors.Join(err, log.Close()))
		j.trail = before
		j.compare(records)
	}
}

// compare holds a whole trail against the one before it.
func (j *journey) compare(records []*core.Record) {
	j.t.Helper()
	must(j.t, core.VerifyChain(nil, records))
	if len(records) <= len(j.trail) || records[0].Seq != 1 {
		j.t.Fatalf("%d audit records from %d on, there were %d", len(records), records[0].Seq, len(j.trail))
	}
	if !slices.EqualFunc(j.trail, records[:len(j.trail)], func(a, b *core.Record) bool { return bytes.Equal(a.Hash, b.Hash) }) {
		j.t.Fatal("the audit trail does not go on where it ended")
	}
	j.trail = records
}

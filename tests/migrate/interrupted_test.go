package migrate_test

import (
	"bufio"
	"errors"
	"fmt"
	"io"
	"math/rand/v2"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/omnirelay/leadership/adapters/config"
	"github.com/omnirelay/leadership/adapters/raftlog"
	"github.com/omnirelay/leadership/adapters/storeserver"
	"github.com/omnirelay/leadership/tests/cluster/harness"
)

// steps are what leaderd migrate says before each of its steps.
var steps = []string{
	"closing the source", "reading the source", "filling the target", "reading the target back",
	"noting at the source", "opening the target", "done:",
}

// crossing moves one registry, again and again, from a fresh copy of where it was.
type crossing struct {
	t     *testing.T
	nodes []*harness.Node
	redis *place
	data  string // copies of the nodes' data directories
	tries int

	// Of one try:
	from, to *place
	dirs     []string
	configs  map[*place][]string
}

// TestKilledMigrationGoesOn kills leaderd migrate at each of its steps, and at random
// moments: never do both ends serve, and run again, it ends what was begun.
func TestKilledMigrationGoesOn(t *testing.T) {
	c := harness.New(t, harness.Options{Settings: settings})
	x := &crossing{t: t, nodes: c.Nodes, redis: newPlace(t, storeserver.Redis), data: t.TempDir()}
	for _, n := range c.Nodes {
		n.Kill()
		must(t, os.CopyFS(filepath.Join(x.data, n.ID), os.DirFS(n.DataDir)))
	}
	for _, back := range []bool{false, true} {
		for _, step := range steps {
			x.begin(back)
			x.killAt(func(line string) bool { return strings.HasPrefix(line, step) }, 0)
			x.end()
		}
		x.begin(back)
		x.killAt(func(line string) bool { return strings.HasPrefix(line, steps[3]) }, 0)
		x.takeBack()
		x.end()
		for range 3 {
			x.begin(back)
			x.killAt(func(line string) bool { return strings.HasPrefix(line, steps[0]) }, time.Duration(rand.IntN(120))*time.Millisecond)
			x.end()
		}
	}
}

// begin lays a fresh registry at the source, in raft or, back, in Redis.
func (x *crossing) begin(back bool) {
	x.t.Helper()
	x.tries++
	there := &place{kind: "redis", address: x.redis.address, name: fmt.Sprintf("try-%d", x.tries)}
	root := filepath.Join(x.t.TempDir(), fmt.Sprint(x.tries))
	x.dirs, x.configs = nil, map[*place][]string{}
	for _, n := range x.nodes {
		dir := filepath.Join(root, n.ID)
		must(x.t, os.CopyFS(dir, os.DirFS(filepath.Join(x.data, n.ID))))
		x.dirs = append(x.dirs, dir)
		x.configs[inRaft] = append(x.configs[inRaft], n.Rewrite(n.DataDir, dir))
		x.configs[there] = append(x.configs[there], n.Rewrite(n.DataDir, dir, raftBlock, there.block()))
	}
	x.from, x.to = inRaft, there
	if back {
		leaderd(x.t, x.args()...)
		x.from, x.to = there, inRaft
	}
}

func (x *crossing) args() []string {
	return append([]string{"migrate", "--yes"}, append(each("--from", x.configs[x.from]), each("--to", x.configs[x.to])...)...)
}

// killAt kills a run some time after it has written a line.
func (x *crossing) killAt(at func(line string) bool, later time.Duration) {
	x.t.Helper()
	cmd := harness.Leaderd(x.args()...)
	out, in, err := os.Pipe()
	must(x.t, err)
	defer out.Close()
	cmd.Stdout, cmd.Stderr = in, in
	run := harness.Start(x.t, cmd)
	must(x.t, in.Close())
	lines := bufio.NewScanner(out)
	for lines.Scan() && !at(lines.Text()) {
	}
	if later > 0 {
		_, err := run.AwaitExit(later)
		_ = err // it may have ended before
	}
	run.Kill()
	_, _ = io.Copy(io.Discard, out)
}

// end sees that not both ends serve, runs the migration again and sees that it is done.
func (x *crossing) end() {
	x.t.Helper()
	if x.serves(x.from) && x.serves(x.to) {
		x.t.Fatalf("try %d: both ends serve", x.tries)
	}
	text := leaderd(x.t, x.args()...)
	if x.serves(x.from) || !x.serves(x.to) {
		x.t.Fatalf("try %d: after the second run the source serves: %t, the target: %t\n%s", x.tries, x.serves(x.from), x.serves(x.to), text)
	}
	refusedBy(x.t, refusal[x.from.kind], "migrate", "--reopen", "--yes", "--from", x.configs[x.from][0], "--from", x.configs[x.from][1])
}

// takeBack opens the source of a killed run again.
func (x *crossing) takeBack() {
	x.t.Helper()
	if x.serves(x.from) {
		x.t.Fatalf("try %d: the source serves", x.tries)
	}
	if x.from.kind == harness.Raft {
		refusedBy(x.t, "is sealed: moving to redis at "+x.to.address, "serve", "--config", x.configs[x.from][0])
	}
	leaderd(x.t, append([]string{"migrate", "--reopen", "--yes"}, each("--from", x.configs[x.from])...)...)
	if !x.serves(x.from) || x.serves(x.to) {
		x.t.Fatalf("try %d: the source was not taken back", x.tries)
	}
}

// refusal is why a source that moved is not opened again: of raft, the directories
// are Redis's by now.
var refusal = map[string]string{harness.Raft: "registry.store is raft", "redis": "or was about to be"}

// serves reports whether nodes could serve from a place.
func (x *crossing) serves(p *place) bool {
	x.t.Helper()
	if p.kind != harness.Raft {
		lead := p.lead(x.t)
		return lead != nil && lead.Closed == ""
	}
	startable := 0
	for i, n := range x.nodes {
		log, boot, err := raftlog.Open(raftlog.Options{Dir: x.dirs[i], ClusterID: clusterID, NodeID: config.Peer{ID: n.ID}.Replica()})
		var refusal *raftlog.Refusal
		switch {
		case err == nil && boot.HardState != nil:
			startable++
			fallthrough
		case err == nil:
			must(x.t, log.Close())
		case !errors.As(err, &refusal) || (refusal.Reason != raftlog.ReasonSealed && refusal.Reason != raftlog.ReasonOtherStore):
			x.t.Fatal(err)
		}
	}
	return startable > len(x.nodes)/2
}

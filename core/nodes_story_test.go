package core

import (
	"errors"
	"fmt"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/cockroachdb/datadriven"

	"github.com/omnirelay/leadership/core/logpb"
)

// nodeStory is a cluster of a story about nodes that come and go.
type nodeStory struct {
	*bench
	told int // records that were written down
}

func nodeName(id NodeID) string { return fmt.Sprintf("n%d", id) }

func nodeAddresses(id NodeID) NodeAddresses {
	return NodeAddresses{Peer: fmt.Sprintf("10.0.0.%d:7413", id), HTTP: fmt.Sprintf("10.0.0.%d:7411", id), GRPC: fmt.Sprintf("10.0.0.%d:7412", id)}
}

func newNodeStory(t *testing.T, nodes int, snapshotEntries uint64) *nodeStory {
	return &nodeStory{bench: newBench(t, nodes, func(c *Config) {
		c.Name, c.Addresses, c.SnapshotEntries = nodeName(c.ID), nodeAddresses(c.ID), snapshotEntries
	})}
}

// node finds a node of the story by its name.
func (s *nodeStory) node(name string) *benchNode {
	s.t.Helper()
	var id NodeID
	if _, err := fmt.Sscanf(name, "n%d", &id); err != nil || s.nodes[id] == nil {
		s.t.Fatalf("no node is called %q", name)
	}
	return s.nodes[id]
}

// boot starts a new node that joins, with an empty disk.
func (s *nodeStory) boot(name string) {
	var id NodeID
	if _, err := fmt.Sscanf(name, "n%d", &id); err != nil {
		s.t.Fatal(err)
	}
	cfg := Config{ID: id, Join: true, ClusterID: "bench", Seed: uint64(id) * 77, Name: name, Addresses: nodeAddresses(id), SnapshotEntries: s.nodes[1].cfg.SnapshotEntries}
	s.nodes[id] = &benchNode{b: s.bench, id: id, cfg: cfg, log: &benchLog{}, down: true, mayHalt: true, done: map[uint64]*Result{}, reads: map[uint64]*Error{}, seen: map[uint64]uint64{}}
	s.start(id)
}

func (s *nodeStory) joining(name string) *logpb.Node {
	var id NodeID
	if _, err := fmt.Sscanf(name, "n%d", &id); err != nil {
		s.t.Fatal(err)
	}
	a := nodeAddresses(id)
	return &logpb.Node{Id: uint64(id), Name: name, PeerAddress: a.Peer, HttpAddress: a.HTTP, GrpcAddress: a.GRPC}
}

// command builds a command about nodes from its line.
func (s *nodeStory) command(l storyLine) *logpb.Command {
	s.tag++
	c := &logpb.Command{RequestId: l.str("id", fmt.Sprint("story-", s.tag)), Actor: l.str("actor", "ops"), Why: l.str("why", ""), CorrelationId: fmt.Sprint("cause-", l.verb, "-", l.at(0))}
	switch l.verb {
	case "add":
		n := s.joining(l.at(0))
		n.PeerAddress = l.str("peer", n.PeerAddress)
		c.Kind = &logpb.Command_AddNode{AddNode: &logpb.AddNode{Node: n}}
	case "remove":
		c.Kind = &logpb.Command_RemoveNode{RemoveNode: &logpb.RemoveNode{Name: l.at(0)}}
	case "replace":
		c.Kind = &logpb.Command_ReplaceNode{ReplaceNode: &logpb.ReplaceNode{Name: l.at(0), By: s.joining(l.at(1))}}
	case "move":
		to := l.at(0)
		if to == "any" {
			to = ""
		}
		c.Kind = &logpb.Command_MoveRegistrar{MoveRegistrar: &logpb.MoveRegistrar{To: to}}
	default:
		s.t.Fatalf("no command %q", l.verb)
	}
	return c
}

// play does what one line of a story says, and returns what is to be seen of it.
//
//	cluster N snapshot=K      run D        boot NAME        settle
//	add NAME peer=ADDRESS     remove NAME  replace OLD NEW  move NAME|any     (at=NAME, why=, id=)
//	crash NAME|registrar      start NAME   cut NAME         mend NAME         told-removed NAME
//	nodes                     records      registrar
func (s *nodeStory) play(l storyLine) string {
	switch l.verb {
	case "run":
		d, err := time.ParseDuration(l.at(0))
		if err != nil {
			s.t.Fatal(err)
		}
		s.run(d)
	case "boot":
		s.boot(l.at(0))
	case "crash":
		n := s.named(l.at(0))
		n.down = true
	case "start":
		s.start(s.node(l.at(0)).id)
	case "cut", "mend":
		s.isolate(s.node(l.at(0)).id, l.verb == "cut")
	case "told-removed":
		n := s.node(l.at(0))
		n.mayHalt = true
		n.inbox = append(n.inbox, Input{Removed: true})
	case "settle":
		return s.settle()
	case "nodes":
		return s.table()
	case "registrar":
		return nodeName(s.registrar().id)
	case "records":
		return s.nodeRecords()
	default:
		at := s.registrar()
		if name := l.str("at", ""); name != "" {
			at = s.node(name)
		}
		for _, n := range s.nodes {
			n.mayHalt = true // it may be the one that is removed
		}
		if len(l.pos) > 0 && l.pos[0] == "registrar" {
			l.pos[0] = nodeName(at.id)
		}
		r := s.doAt(at, s.command(l))
		if r.Code == "" {
			return "done"
		}
		return fmt.Sprintf("%s %s: %s", r.Code, r.Field, r.Message)
	}
	return ""
}

func (s *nodeStory) named(name string) *benchNode {
	if name == "registrar" {
		return s.registrar()
	}
	return s.node(name)
}

// settle runs until everything that was asked for is done, or says what waits.
func (s *nodeStory) settle() string {
	for end := s.now.Add(10 * time.Second); s.now < end; {
		s.run(10 * time.Millisecond)
		if g := s.newest(); g != nil && !g.replica.registry.changingNodes() && len(g.replica.journal.(*raftJournal).confState.GetVotersOutgoing()) == 0 {
			s.same()
			return s.table()
		}
	}
	var b strings.Builder
	b.WriteString("not settled\n" + s.table())
	for _, p := range s.registrar().replica.Status().Nodes {
		if p.Waits != "" {
			fmt.Fprintf(&b, "\n%s: %s", nodeName(p.ID), p.Waits)
		}
	}
	return b.String()
}

// newest is the registrar, nil while there is none.
func (s *nodeStory) newest() *benchNode {
	for _, id := range sortedKeys(s.nodes) {
		if n := s.nodes[id]; !n.down && !n.cut && n.replica.Status().OfficeOpen {
			return n
		}
	}
	return nil
}

// table is what every node that is up must agree on.
func (s *nodeStory) table() string {
	n := s.registrar()
	var b strings.Builder
	for _, i := range n.replica.Registry().Nodes() {
		fmt.Fprintf(&b, "%s %s %s", i.Name, i.Stage, i.PeerAddress)
		if i.Replaces != "" {
			fmt.Fprintf(&b, " replaces %s", i.Replaces)
		}
		b.WriteByte('\n')
	}
	m := membersOf(n.replica.journal.(*raftJournal).confState)
	fmt.Fprintf(&b, "the log counts %v", m.Voters)
	if len(m.Learners) > 0 {
		fmt.Fprintf(&b, ", learners %v", m.Learners)
	}
	if gone := n.replica.Registry().RemovedNodes(); len(gone) > 0 {
		fmt.Fprintf(&b, "\nremoved: %s", strings.Join(gone, " "))
	}
	for _, id := range sortedKeys(s.nodes) {
		if o := s.nodes[id]; errors.Is(o.halted, ErrRemoved) {
			fmt.Fprintf(&b, "\n%s knows that it was removed", nodeName(id))
		} else if o.halted != nil {
			fmt.Fprintf(&b, "\n%s halted: %v", nodeName(id), o.halted)
		}
	}
	return b.String()
}

// nodeRecords writes down the records about nodes that were not written down yet.
func (s *nodeStory) nodeRecords() string {
	var lines []string
	all, _ := s.registrar().replica.Registry().History().AfterSeq(0, MaxHistory)
	for _, r := range all[s.told:] {
		if k := EventKind(r.Kind); slices.Contains([]EventKind{EventNodeAdded, EventNodePromoted, EventNodeRemoved, EventRegistrarMoved}, k) {
			lines = append(lines, strings.TrimSpace(fmt.Sprintf("%s %s by %s (%s) %s", k, r.Subject, r.Actor, r.CorrelationId, r.Why)))
		}
	}
	s.told = len(all)
	return strings.Join(lines, "\n")
}

// What the registry is by a log alone, changes of its members among the entries, is what
// the replica had made of it.
func TestARaftLogWithChangesOfNodesIsRead(t *testing.T) {
	s := newNodeStory(t, 3, 10_000)
	s.run(3 * time.Second)
	for _, n := range s.nodes {
		n.mayHalt = true
	}
	for _, line := range []string{"boot n4", "add n4", "settle", "boot n5", "replace n1 n5", "settle", "remove n2", "settle"} {
		s.play(parseStoryLine(t, line))
	}
	n := s.registrar()
	boot := n.log.boot
	boot.Snapshot = nil
	g, _, index, err := ReadRaftLog(boot)
	if err != nil {
		t.Fatal(err)
	}
	if index != n.replica.Registry().Revision() || g.Hash() != n.replica.Registry().Hash() || g.ChangingVoters() {
		t.Errorf("read up to %d with the voters %v, want %d with %v", index, g.Voters(), n.replica.Registry().Revision(), n.replica.Registry().Voters())
	}
}

func TestNodeStories(t *testing.T) {
	datadriven.Walk(t, "testdata/nodes", func(t *testing.T, path string) {
		var s *nodeStory
		datadriven.RunTest(t, path, func(t *testing.T, d *datadriven.TestData) string {
			var out strings.Builder
			lines := append([]string{d.Cmd}, strings.Split(strings.TrimSpace(d.Input), "\n")...)
			if d.Cmd != "story" {
				t.Fatalf("%s: a block begins with story", d.Pos)
			}
			for _, line := range lines[1:] {
				l := parseStoryLine(t, line)
				if l.verb == "cluster" {
					s = newNodeStory(t, int(l.numAt(0)), uint64(l.num("snapshot", 10_000)))
					s.run(3 * time.Second)
					continue
				}
				if said := s.play(l); said != "" {
					fmt.Fprintf(&out, "%s\n", said)
				}
			}
			if out.Len() == 0 {
				return "ok\n"
			}
			return out.String()
		})
	})
}

// Over an external store the registrar gives its office up when it is asked to, and there
// are no voters to change.
func TestNodesOverAStore(t *testing.T) {
	s := &nodeStory{bench: newBench(t, 3, func(c *Config) {
		c.Store, c.Name, c.Addresses = true, nodeName(c.ID), nodeAddresses(c.ID)
	})}
	s.run(5 * time.Second)
	for _, line := range []string{"add n4", "remove n2", "replace n1 n4"} {
		if r := s.do(s.command(parseStoryLine(t, line))); r.Code != string(CodeUnsupported) || !strings.Contains(r.Message, "external store") {
			t.Errorf("%s: %v", line, r)
		}
	}
	before := s.registrar()
	if nodes := before.replica.Registry().Nodes(); len(nodes) != 3 || nodes[0].Name != "n1" {
		t.Errorf("nodes %v", nodes)
	}
	if r := s.do(s.command(parseStoryLine(t, "move any"))); r.Code != "" {
		t.Fatal(r)
	}
	s.until(5*time.Second, "another registrar", func() bool {
		n := s.newest()
		return n != nil && n != before
	})
}

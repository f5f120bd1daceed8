package logtest

import (
	"context"
	"errors"
	"fmt"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/omnirelay/leadership/adapters/storeserver"
	"github.com/omnirelay/leadership/core"
)

// Replicas runs replicas over the log of a kind of store, and over raft's, and holds
// them to one result.
func Replicas(t *testing.T, f Factory) {
	t.Helper()
	options := f.Server
	options.Dir = filepath.Join(t.TempDir(), "server")
	server, err := storeserver.Start(t.Context(), options)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(server.Kill)
	over := func(t *testing.T, place string, edit func(*core.Config)) *cluster {
		return newCluster(t, &f, server, place, 3, edit)
	}
	t.Run("agreement", func(t *testing.T) { agreement(t, &f, server) })
	replicasOver(t, over)
	t.Run("server restarted", func(t *testing.T) { serverRestarted(t, over(t, "restarted", nil)) })
	t.Run("server set back", func(t *testing.T) { serverSetBack(t, over(t, "setback", nil)) })
}

// RaftReplicas runs those of the cases of Replicas that need no store over raft's
// log.
func RaftReplicas(t *testing.T) {
	t.Helper()
	replicasOver(t, func(t *testing.T, place string, edit func(*core.Config)) *cluster {
		return newCluster(t, nil, nil, place, 3, edit)
	})
}

type clusterOf func(t *testing.T, place string, edit func(*core.Config)) *cluster

func replicasOver(t *testing.T, over clusterOf) {
	t.Helper()
	t.Run("registrar replaced", func(t *testing.T) { registrarReplaced(t, over(t, "replaced", nil)) })
	t.Run("registrar cut off", func(t *testing.T) { registrarCutOff(t, over(t, "cutoff", nil)) })
	t.Run("follower behind a trim", func(t *testing.T) {
		followerBehind(t, over(t, "behind", func(c *core.Config) { c.SnapshotEntries = 25 }))
	})
}

// agreement: the same commands have the same answers and events over raft and over
// the store, and the very entries of raft's log, copied into the store, give the
// replicas there the same state hash and the same events.
func agreement(t *testing.T, f *Factory, server *storeserver.Server) {
	t.Helper()
	raft := newCluster(t, nil, nil, "raft", 3, nil)
	store := newCluster(t, f, server, "agreement", 3, nil)
	want, got := raft.play(), store.play()
	mustEqual(t, "answers", got, want)
	for _, c := range []*cluster{raft, store} {
		revision, hash := c.agree()
		trace := c.trace()
		c.close()
		entries := c.entries()
		entries = entries[:slices.IndexFunc(entries, func(e entry) bool { return e.index == revision })+1]
		replayed, told := replay(t, entries)
		if replayed != hash {
			t.Errorf("%s: the log replays to another state hash at %d than the replicas had", c.kind(), revision)
		}
		mustEqual(t, "events replayed over "+c.kind(), told, trace)
	}
	mustEqual(t, "events", store.trace(), raft.trace())
	t.Logf("%d answers and %d events are equal over raft and %s", len(want), len(raft.trace()), store.kind())
	copied(t, f, server, raft)
}

// copied writes raft's entries into the store and lets replicas read them there.
func copied(t *testing.T, f *Factory, server *storeserver.Server, raft *cluster) {
	t.Helper()
	entries := raft.entries()
	// No replica is to stand for the office: what is copied is the whole log.
	passive := func(c *core.Config) { c.ElectionTimeout, c.MaxElectionWindow = time.Hour, 2*time.Hour }
	c := &cluster{t: t, dir: t.TempDir(), factory: f, server: server, place: "copied", edit: passive,
		cut: map[core.NodeID]bool{}, records: map[uint64]*core.Record{}}
	t.Cleanup(c.close)
	// By a writer that is none of them: the holder of the office would take it anew.
	w := newWriter(c.client(), 9)
	if err := errors.Join(w.takeOver(), copyEntries(w, entries)); err != nil {
		t.Fatal(err)
	}
	for i := range 2 {
		c.nodes = append(c.nodes, &node{c: c, id: core.NodeID(i + 1)})
	}
	for _, n := range c.nodes {
		n.start()
	}
	last := entries[len(entries)-1].index
	c.await("the replicas at the end of the copied log", func() bool {
		for _, n := range c.nodes {
			if revision, _ := n.state(); revision < last {
				return false
			}
		}
		return true
	})
	hash, _ := replay(t, entries)
	if revision, got := c.agree(); revision != last || got != hash {
		t.Errorf("over %s the entries of raft give state hash %x at %d, want %x at %d", c.kind(), got, revision, hash, last)
	}
	mustEqual(t, "events of the copied log", c.trace(), raft.trace())
}

// copyEntries appends entries as they are: at their places, under their terms. What the
// place of the first leaves open in front holds nothing.
func copyEntries(w *writer, entries []entry) error {
	for w.lead.Last+1 < entries[0].index {
		if err := w.write(""); err != nil {
			return err
		}
	}
	for _, e := range entries {
		a := w.compose(false, e.data)
		a.Lead.Term, a.Entries[0].Term = e.term, e.term
		a.Lead.Chain = core.ChainEntry(w.lead.Chain, e.index, e.term, e.data)
		a.Entries[0].Chain = a.Lead.Chain
		if a.Lead.Last != e.index {
			return fmt.Errorf("entry %d would be copied to %d", e.index, a.Lead.Last)
		}
		if err := w.append(a); err != nil {
			return err
		}
	}
	return nil
}

func mustEqual(t *testing.T, what string, got, want []string) {
	t.Helper()
	for i := range max(len(got), len(want)) {
		var g, w string
		if i < len(got) {
			g = got[i]
		}
		if i < len(want) {
			w = want[i]
		}
		if g != w {
			t.Fatalf("%s: number %d is\n%s\nwant\n%s", what, i, g, w)
		}
	}
}

// fences checks that no fence was given twice, nor a smaller one later.
func (c *cluster) fences() {
	c.t.Helper()
	c.mu.Lock()
	defer c.mu.Unlock()
	newest := uint64(0)
	for seq := uint64(1); c.records[seq] != nil; seq++ {
		if r := c.records[seq]; core.EventKind(r.Kind) == core.EventElected {
			if r.Fence <= newest {
				c.t.Fatalf("fence %d after %d", r.Fence, newest)
			}
			newest = r.Fence
		}
	}
	if newest == 0 {
		c.t.Fatal("nothing was elected")
	}
}

// registrarReplaced: the registrar is stopped without a word; another takes over, and
// the one that comes back catches up. Twice.
func registrarReplaced(t *testing.T, c *cluster) {
	t.Helper()
	c.play()
	for round := range 2 {
		former := c.registrar(c.nodes...)
		former.end()
		next := c.registrar(c.nodes...)
		c.fill(next, fmt.Sprintf("round %d", round), 5)
		c.do(next, fmt.Sprintf("round %d/open", round), openSession(fmt.Sprintf("new-%d", round), 1))
		c.do(next, fmt.Sprintf("round %d/declare", round), declareShards(20+round, 21+round))
		former.start()
		c.agree()
	}
	c.trace()
	c.fences()
}

// registrarCutOff: the registrar loses the others and the store, still believing in its
// office. Another takes over; what is asked of the former is not acknowledged, and
// takes effect once when it is asked again.
func registrarCutOff(t *testing.T, c *cluster) {
	t.Helper()
	c.play()
	former := c.registrar(c.nodes...)
	c.isolate(former, true)
	lost := declareShards(30, 31)(nil)
	lost.RequestId, lost.CorrelationId, lost.Actor = "lost", "cause/lost", "logtest"
	ctx, cancel := context.WithTimeout(t.Context(), 300*time.Millisecond)
	defer cancel()
	if result, err := former.host.Do(ctx, lost); err == nil {
		t.Fatalf("a registrar that is cut off acknowledged: %v", result)
	}
	next := c.registrar(c.others(former)...)
	c.fill(next, "while cut off", 5)
	before := former.status()
	c.do(next, "lost", declareShards(30, 31)) // the client asks somebody else
	if after := former.status(); after.Applied != before.Applied {
		t.Errorf("cut off, it applied up to %d, before up to %d", after.Applied, before.Applied)
	}
	c.isolate(former, false)
	c.await("the former registrar deposed", func() bool { return !former.status().IsRegistrar || !next.status().IsRegistrar })
	c.do(former, "lost", declareShards(30, 31))
	c.fill(former, "rejoined", 3)
	c.agree()
	c.trace()
	c.fences()
	declared := 0
	for _, r := range c.records {
		if r.Scope == shard(30) && core.EventKind(r.Kind) == core.EventScopeDeclared {
			declared++
		}
	}
	if declared != 1 {
		t.Errorf("a command that was asked three times took effect %d times", declared)
	}
}

// followerBehind: a follower is cut off, and another one stopped, while the log is
// trimmed beyond where they stood; they come back over a snapshot, with the whole
// audit chain.
func followerBehind(t *testing.T, c *cluster) {
	t.Helper()
	c.play()
	registrar := c.registrar(c.nodes...)
	away := c.others(registrar)[0]
	stood, _ := c.agree()
	c.isolate(away, true)
	c.fill(registrar, "away", 80)
	c.do(registrar, "away/declare", declareShards(40, 44))
	c.await("a checkpoint", func() bool { return registrar.status().Checkpoints > 0 })
	c.trimmedBeyond(stood)
	c.isolate(away, false)
	c.agree()
	if s := away.status(); s.SnapshotInstalls == 0 {
		t.Errorf("it stood at %d and came back without a snapshot: %+v", stood, s)
	}
	away.end()
	c.fill(registrar, "stopped", 40)
	stood, _ = registrar.state()
	away.start()
	c.fill(away, "back", 3)
	if revision, _ := c.agree(); revision <= stood {
		t.Errorf("all agree at %d, want more than %d", revision, stood)
	}
	c.trace()
}

// trimmedBeyond waits until a store's log begins behind index.
func (c *cluster) trimmedBeyond(index uint64) {
	c.t.Helper()
	if c.factory == nil {
		return // replicas trim their own logs when they make checkpoints
	}
	client := c.client()
	c.await("the log trimmed", func() bool {
		r, err := client.must(&core.StoreCall{Fetch: &core.StoreFetch{After: 1 << 40, MaxBytes: 1}})
		if err != nil {
			c.t.Fatal(err)
		}
		return r.First > index+1
	})
}

// serverRestarted: the store is killed and comes back; the replicas find their marks
// in it and go on by themselves.
func serverRestarted(t *testing.T, c *cluster) {
	t.Helper()
	c.play()
	for round := range 2 {
		_, term := c.office()
		c.server.Kill()
		if err := c.server.Restart(t.Context()); err != nil {
			t.Fatal(err)
		}
		begun := time.Now()
		c.do(c.nodes[round], fmt.Sprintf("round %d/open", round), openSession(fmt.Sprintf("new-%d", round), 1))
		c.do(c.nodes[round], fmt.Sprintf("round %d/declare", round), declareShards(20+round, 21+round))
		_, after := c.office()
		t.Logf("two commands %v after the server was back; term %d, before %d", time.Since(begun).Round(time.Millisecond), after, term)
		c.agree()
	}
	c.trace()
	c.fences()
}

// serverSetBack: the server comes back with an older copy of its data. The replicas
// find that their marks are not in it, close the log and serve no more, with a reason;
// nothing is elected on it.
func serverSetBack(t *testing.T, c *cluster) {
	t.Helper()
	c.play()
	copied := filepath.Join(t.TempDir(), "copy")
	c.server.Stop()
	if err := errors.Join(c.server.Copy(copied), c.server.Restart(t.Context())); err != nil {
		t.Fatal(err)
	}
	c.do(c.nodes[0], "lost/declare", declareShards(20, 24))
	c.do(c.nodes[0], "lost/open", openSession("lost", 1))
	c.agree()
	before := c.trace()
	c.server.Kill()
	if err := errors.Join(c.server.RestoreFrom(copied), c.server.Restart(t.Context())); err != nil {
		t.Fatal(err)
	}
	c.stopping = true
	client := c.client()
	c.await("the log closed, for a reason", func() bool {
		r, err := client.call(&core.StoreCall{Timeout: shortCall, Confirm: &core.StoreConfirm{}})
		if err != nil {
			t.Fatal(err)
		}
		return r.Status == core.StoreOK && r.Lead.GetClosed() != ""
	})
	c.await("every replica stopped or out of service, with the reason", func() bool {
		for _, n := range c.nodes {
			// All say what the operator can do about it.
			if s := n.status(); s.Ready || !strings.Contains(s.NotReadyReason, "fence jump") {
				return false
			}
		}
		return true
	})
	for _, n := range c.nodes {
		t.Logf("replica %d: %s", n.id, n.status().NotReadyReason)
		ctx, cancel := context.WithTimeout(t.Context(), 300*time.Millisecond)
		command := declareShards(30, 31)(nil)
		command.RequestId = "after the loss"
		if result, err := n.host.Do(ctx, command); err == nil {
			t.Errorf("replica %d acknowledged on a log that lost what was acknowledged: %v", n.id, result)
		}
		cancel()
	}
	mustEqual(t, "events", c.trace(), before)
}

func (c *cluster) office() (*node, uint64) {
	c.t.Helper()
	n := c.registrar(c.nodes...)
	return n, n.status().RaftTerm
}

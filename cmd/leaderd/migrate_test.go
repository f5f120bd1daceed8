package main

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"strings"
	"testing"

	"go.etcd.io/raft/v3/raftpb"
	"google.golang.org/protobuf/proto"

	"github.com/omnirelay/leadership/adapters/config"
	"github.com/omnirelay/leadership/adapters/raftlog"
	"github.com/omnirelay/leadership/core"
)

// raftBatch is a log of entries of which all but the last is committed, and the records
// that they made audited up to some entries before.
func raftBatch(entries []*core.StoredEntry, records []*core.Record) core.Batch {
	b := core.Batch{HardState: &raftpb.HardState{Term: proto.Uint64(1), Commit: proto.Uint64(entries[len(entries)-2].Index)}}
	for _, e := range entries {
		b.Entries = append(b.Entries, &raftpb.Entry{Term: proto.Uint64(e.Term), Index: proto.Uint64(e.Index), Data: e.Data})
	}
	b.AuditedTo = entries[len(entries)-3].Index
	for _, r := range records {
		if r.Revision <= b.AuditedTo {
			b.Records = append(b.Records, r)
		}
	}
	return b
}

// mustHold checks that an end holds all of a history, and more by nothing but the move.
func mustHold(t testing.TB, h *history, e end) {
	t.Helper()
	ctx := context.Background()
	err := e.copies(ctx, func(c *copied) error {
		g := c.registry
		if nextFence(g) != nextFence(h.last) || len(g.Scopes()) != len(h.last.Scopes()) || g.Revision() <= h.last.Revision() {
			return fmt.Errorf("%s: next fence %d, %d scopes, revision %d", c.name, nextFence(g), len(g.Scopes()), g.Revision())
		}
		if len(g.Sessions()) != 0 || g.Wait() == 0 {
			return fmt.Errorf("%s: %d sessions go on, elections wait for %v", c.name, len(g.Sessions()), g.Wait())
		}
		var all []*core.Record
		s, err := (&trail{page: c.page, history: core.NewRegistry(0).History()}).each(ctx, func(page []*core.Record) error {
			all = append(all, page...)
			return nil
		})
		if len(all) <= len(h.records) {
			return fmt.Errorf("%s: a trail of %d records of %d: %w", c.name, len(all), len(h.records), err)
		}
		for i, r := range h.records {
			if !bytes.Equal(all[i].Hash, r.Hash) {
				return fmt.Errorf("%s: record %d is another", c.name, r.Seq)
			}
		}
		if head, hash := g.History().Head(); s.last != head || !bytes.Equal(hash, all[len(all)-1].Hash) {
			return fmt.Errorf("%s: the trail ends at %d, the registry at %d", c.name, s.last, head)
		}
		return core.VerifyChain(nil, all)
	})
	if err != nil {
		t.Fatal(err)
	}
}

// A migration between stores is ended at each of its calls, before and behind its
// effect, and run again: never are both ends open, and nothing is missing at the end.
func TestMigrationEndedAtEveryCall(t *testing.T) {
	h := newHistory(t, 20)
	a, b := storeConfig("a:1"), storeConfig("b:1")
	for ends := 1; ; ends++ {
		for _, behind := range []bool{false, true} {
			source, target := newModelStore("server-a"), newModelStore("server-b")
			h.writeStore(t, source)
			// The calls on both together count.
			shared := &countdown{left: ends, behind: behind}
			err := runMigration(&storeEnd{config: a, store: shared.on(source)}, &storeEnd{config: b, store: shared.on(target)})
			if err == nil && !shared.ended {
				if source.open(t) || !target.open(t) {
					t.Fatal("a whole run does not end as it should")
				}
				t.Logf("%d calls", ends-1)
				return
			}
			if source.open(t) && target.open(t) {
				t.Fatalf("ended at call %d (behind %t), both ends are open", ends, behind)
			}
			opened := target.open(t)
			reopenErr := reopenModel(source, a)
			switch {
			case opened && reopenErr == nil:
				t.Fatalf("ended at call %d (behind %t), the source was taken back though the target was opened", ends, behind)
			case reopenErr == nil && !source.open(t):
				t.Fatalf("ended at call %d (behind %t), the source was not taken back", ends, behind)
			}
			if err := runMigration(source.end(a), target.end(b)); err != nil {
				t.Fatalf("ended at call %d (behind %t), run again: %v", ends, behind, err)
			}
			if source.open(t) || !target.open(t) {
				t.Fatalf("ended at call %d (behind %t), the second run did not finish", ends, behind)
			}
			mustHold(t, h, target.end(b))
			if err := runMigration(source.end(a), target.end(b)); err != nil {
				t.Fatalf("a third run: %v", err)
			}
		}
	}
}

// countdown ends a process at a call on any of its stores.
type countdown struct {
	left   int
	behind bool
	ended  bool
}

type countedStore struct {
	*modelStore
	process *countdown
}

func (c *countdown) on(s *modelStore) *countedStore { return &countedStore{modelStore: s, process: c} }

func (s *countedStore) Do(ctx context.Context, c *core.StoreCall) *core.StoreReply {
	p := s.process
	if p.left--; p.left > 0 {
		return s.modelStore.Do(ctx, c)
	}
	if p.left == 0 && p.behind {
		s.modelStore.Do(ctx, c)
	}
	p.ended = true
	return &core.StoreReply{ID: c.ID, Status: core.StoreFailed, Text: "the process ended"}
}

func reopenModel(s *modelStore, c *config.Config) error {
	f := &migrateFlags{yes: true}
	return f.reopenSource(context.Background(), quietCommand(), s.end(c))
}

// From raft to a store and back, ended at each call on the store.
func TestMigrationFromAndToRaftEndedAtEveryCall(t *testing.T) {
	h := newHistory(t, 20)
	b := storeConfig("b:1")
	for _, back := range []bool{false, true} {
		for ends, whole := 1, false; !whole; ends++ {
			dir := t.TempDir()
			configs := raftConfigs(dir)
			there := newModelStore("server-b")
			if back {
				h.writeStore(t, there)
			} else {
				h.writeRaft(t, configs)
			}
			once := func(s store) error {
				raft, err := raftOf(configs, back)
				if err != nil {
					t.Fatal(err)
				}
				defer func() { _ = raft.release() }() // done already, at the end of a run
				if back {
					return runMigration(&storeEnd{config: b, store: s}, raft, configs...)
				}
				return runMigration(raft, &storeEnd{config: b, store: s})
			}
			shared := &countdown{left: ends, behind: ends%2 == 0}
			err := once(shared.on(there))
			whole = err == nil && !shared.ended
			if serving := startable(t, configs); serving > 1 && there.open(t) {
				t.Fatalf("ended at call %d, %d nodes and the store serve", ends, serving)
			}
			if err := once(there); err != nil {
				t.Fatalf("ended at call %d, run again: %v", ends, err)
			}
			if serving := startable(t, configs); (serving == 3) != back || there.open(t) == back {
				t.Fatalf("ended at call %d: %d nodes serve, the store: %t", ends, serving, there.open(t))
			}
			if back {
				raft, err := raftOf(configs, true)
				if err != nil {
					t.Fatal(err)
				}
				mustHold(t, h, raft)
			} else {
				mustHold(t, h, there.end(b))
			}
		}
	}
}

func raftOf(configs []*config.Config, target bool) (*raftEnd, error) {
	if target {
		return newRaftTarget(configs)
	}
	return newRaftSource(configs)
}

// startable counts the nodes that hold a registry and would start.
func startable(t testing.TB, configs []*config.Config) (n int) {
	t.Helper()
	for _, c := range configs {
		there, err := raftlog.Exists(c.DataDir)
		if err != nil {
			t.Fatal(err)
		}
		if !there {
			continue
		}
		log, _, err := raftlog.Open(logOptions(c, c.DataDir, config.StoreRaft, false))
		var refusal *raftlog.Refusal
		switch {
		case err == nil:
			n++
			if err := log.Close(); err != nil {
				t.Fatal(err)
			}
		case !errors.As(err, &refusal) || refusal.Reason != raftlog.ReasonSealed:
			t.Fatal(err)
		}
	}
	return n
}

// Ended between the data directories, in each step that is made in each of them.
func TestMigrationEndedBetweenDirectories(t *testing.T) {
	h := newHistory(t, 10)
	b := storeConfig("b:1")
	ctx := context.Background()
	configs := raftConfigs(t.TempDir())
	h.writeRaft(t, configs)
	there := newModelStore("server-b")

	moving := note{kind: noteMoving, place: "elsewhere", id: randomID()}
	sealOne(t, configs[2], moving)
	if n := startable(t, configs); n != 2 {
		t.Fatalf("%d nodes can start", n)
	}
	// Up to the opening, which is not made.
	source := mustSource(t, configs)
	if err := runMigration(source, &storeEnd{config: b, store: refusing{there}}); err == nil {
		t.Fatal("opened")
	}
	if err := source.release(); err != nil {
		t.Fatal(err)
	}
	moved, _ := parseNote(sealOf(t, configs[0]))
	if moved.kind != noteMoved || moved.id != moving.id {
		t.Fatalf("sealed by %q", moved)
	}
	if n, _ := parseNote(there.lead(t).Closed); n.kind != noteFilling || n.id != moving.id {
		t.Fatalf("the target is closed by %q", n)
	}
	// As if only the first was told so: a majority with it must not be opened again.
	sealOne(t, configs[1], moving)
	sealOne(t, configs[2], moving)
	reopen := &migrateFlags{yes: true}
	source = mustSource(t, configs[:2])
	err := reopen.reopenSource(ctx, quietCommand(), source)
	if err == nil || !strings.Contains(err.Error(), "or was about to be") {
		t.Fatalf("reopened: %v", err)
	}
	if err := source.release(); err != nil {
		t.Fatal(err)
	}
	if err := runMigration(mustSource(t, configs), there.end(b)); err != nil {
		t.Fatal(err)
	}
	for _, c := range configs {
		if n, _ := parseNote(sealOf(t, c)); n.kind != noteMoved {
			t.Errorf("%s is sealed by %q", c.NodeID, n)
		}
	}

	// And back, into the same directories: ended when the first was opened.
	back := &raftEnd{configs: configs}
	if err := runMigration(there.end(b), &openingOne{back}); err == nil {
		t.Fatal("opened")
	}
	if n := startable(t, configs); n != 1 {
		t.Fatalf("%d nodes can start", n)
	}
	if err := runMigration(there.end(b), back, configs...); err != nil {
		t.Fatal(err)
	}
	if n := startable(t, configs); n != 3 {
		t.Fatalf("%d nodes can start", n)
	}
}

func mustSource(t testing.TB, configs []*config.Config) *raftEnd {
	t.Helper()
	e, err := newRaftSource(configs)
	if err != nil {
		t.Fatal(err)
	}
	return e
}

func sealOne(t testing.TB, c *config.Config, why note) {
	t.Helper()
	log, _, err := openSealed(c, config.StoreRaft)
	if err != nil {
		t.Fatal(err)
	}
	if err := errors.Join(log.Seal(why.String()), log.Close()); err != nil {
		t.Fatal(err)
	}
}

func sealOf(t testing.TB, c *config.Config) string {
	t.Helper()
	log, _, err := openSealed(c, config.StoreRaft)
	if err != nil {
		t.Fatal(err)
	}
	reason, err := log.Sealed()
	if err := errors.Join(err, log.Close()); err != nil {
		t.Fatal(err)
	}
	return reason
}

// refusing is a store that is never opened.
type refusing struct{ *modelStore }

func (s refusing) Do(ctx context.Context, c *core.StoreCall) *core.StoreReply {
	if c.Close != nil && c.Close.Reason == "" {
		return &core.StoreReply{ID: c.ID, Status: core.StoreFailed, Text: "the process ended"}
	}
	return s.modelStore.Do(ctx, c)
}

// openingOne opens the first directory and ends.
type openingOne struct{ *raftEnd }

func (e *openingOne) open(ctx context.Context) error {
	one := &raftEnd{configs: e.configs[:1]}
	return errors.Join(one.open(ctx), errors.New("the process ended"))
}

// The registry goes to a place where it was before, and takes up the audit trail there.
func TestMigrationGoesBackToAStore(t *testing.T) {
	h := newHistory(t, 10)
	a, b := storeConfig("a:1"), storeConfig("b:1")
	first, second := newModelStore("server-a"), newModelStore("server-b")
	h.writeStore(t, first)
	for i := range 4 {
		from, to := first.end(a), second.end(b)
		if i%2 == 1 {
			from, to = to, from
		}
		if err := runMigration(from, to); err != nil {
			t.Fatalf("move %d: %v", i, err)
		}
		mustHold(t, h, to)
	}
	if g := first.lead(t).Generation; g != h.last.Revision()+4 {
		t.Errorf("generation %d", g)
	}
}

// A source that dropped its oldest audit records moves with what it has.
func TestMigrationOfATrailThatBeginsLate(t *testing.T) {
	h := newHistory(t, 20)
	a, b := storeConfig("a:1"), storeConfig("b:1")
	source, target := newModelStore("server-a"), newModelStore("server-b")
	h.writeStoreFrom(t, source, 9)
	if err := runMigration(source.end(a), target.end(b)); err != nil {
		t.Fatal(err)
	}
	e := target.end(b)
	err := e.copies(context.Background(), func(c *copied) error {
		s, err := (&trail{page: c.page, history: c.registry.History()}).whole(context.Background())
		if s.first != 10 {
			t.Errorf("%v", s)
		}
		return err
	})
	if err != nil {
		t.Error(err)
	}
}

func TestMigrationRefuses(t *testing.T) {
	h := newHistory(t, 2)
	a, b := storeConfig("a:1"), storeConfig("b:1")
	for _, c := range []struct {
		name, want string
		spoil      func(from, to *modelStore)
	}{
		{"nothing to move", "holds no registry", func(from, _ *modelStore) { *from = *newModelStore("server-a") }},
		{"a target in use", "holds something already", func(_, to *modelStore) { newHistory(t, 1).writeStore(t, to) }},
		{"a target that was closed", "holds something already (closed: the store forgot)", func(_, to *modelStore) {
			newHistory(t, 1).writeStore(t, to)
			to.Do(context.Background(), &core.StoreCall{Close: &core.StoreClose{Reason: "the store forgot"}})
		}},
		{"a source that waits for a jump", "Jump the fence first", func(from, _ *modelStore) {
			from.Do(context.Background(), &core.StoreCall{Close: &core.StoreClose{Reason: "the store forgot"}})
		}},
		{"a source on another server", "restarted or replaced", func(from, _ *modelStore) { from.server = "server-c" }},
		{"a source that is being filled", "is itself being filled from", func(from, _ *modelStore) {
			why := note{kind: noteFilling, place: "x", id: randomID()}
			from.Do(context.Background(), &core.StoreCall{Close: &core.StoreClose{Reason: why.String()}})
		}},
		{"a registry that is elsewhere", "does not hold it", func(from, _ *modelStore) {
			why := note{kind: noteMoved, place: "x", id: randomID(), generation: 100}
			from.Do(context.Background(), &core.StoreCall{Close: &core.StoreClose{Reason: why.String()}})
		}},
		{"a registry of before", "is not the beginning of this one", func(_, to *modelStore) {
			newHistory(t, 9).writeStore(t, to)
			why := note{kind: noteMoved, place: "x", id: randomID(), generation: 100}
			to.Do(context.Background(), &core.StoreCall{Close: &core.StoreClose{Reason: why.String()}})
		}},
	} {
		from, to := newModelStore("server-a"), newModelStore("server-b")
		h.writeStore(t, from)
		c.spoil(from, to)
		before := to.lead(t)
		err := runMigration(from.end(a), to.end(b))
		if err == nil || !strings.Contains(err.Error(), c.want) {
			t.Errorf("%s: %v, want %q", c.name, err, c.want)
		}
		if !proto.Equal(before, to.lead(t)) {
			t.Errorf("%s: the target was changed", c.name)
		}
	}
	from := newModelStore("server-a")
	if err := runMigration(from.end(a), from.end(a)); err == nil || !strings.Contains(err.Error(), "the same place") {
		t.Errorf("onto itself: %v", err)
	}
}

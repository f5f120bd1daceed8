package main

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"golang.org/x/sys/unix"
	"google.golang.org/protobuf/proto"

	"github.com/omnirelay/leadership/adapters/config"
	"github.com/omnirelay/leadership/adapters/raftlog"
	"github.com/omnirelay/leadership/core"
)

func closeLog(s *modelStore, reason string) {
	s.Do(context.Background(), &core.StoreCall{Close: &core.StoreClose{Reason: reason}})
}

// runJump jumps, and returns what was printed.
func runJump(s store, force bool) (string, error) {
	var out bytes.Buffer
	cmd := quietCommand()
	cmd.SetOut(&out)
	c := storeConfig("a:1")
	c.LeaseDuration = 3 * time.Second
	err := (&jump{cmd: cmd, config: c, store: s, force: force, yes: true}).run(context.Background())
	return out.String(), err
}

func TestJumpGoesOnFarAhead(t *testing.T) {
	h := newHistory(t, 10)
	s := newModelStore("server-a")
	h.writeStore(t, s)
	s.server = "server-b"
	closeLog(s, "the store forgot")
	before := s.lead(t)
	text, err := runJump(s, false)
	if err != nil {
		t.Fatal(err)
	}
	for _, want := range []string{"the store forgot", "server-b; the log was accepted on server-a", "elections    wait until members of before cannot believe any more that they lead: at least 3s"} {
		if !strings.Contains(text, want) {
			t.Errorf("%q is not told:\n%s", want, text)
		}
	}
	after := s.lead(t)
	if after.Closed != "" || after.Term != before.Term+1 || after.Generation <= before.Generation || after.Identity != "server-b" {
		t.Errorf("%v", after)
	}
	log, err := readLog(context.Background(), s)
	if err != nil {
		t.Fatal(err)
	}
	g := log.registry
	if got, least := nextFence(g), nextFence(h.last)+core.JumpAhead; got < least || got >= maxFence {
		t.Errorf("next fence %d, want at least %d", got, least)
	}
	if g.Wait() != 3*time.Second || g.Revision() < core.JumpAhead {
		t.Errorf("elections wait for %v, revision %d", g.Wait(), g.Revision())
	}
	e := s.end(storeConfig("a:1"))
	sum, err := (&trail{page: e.page, history: core.NewRegistry(0).History()}).each(context.Background(), func([]*core.Record) error { return nil })
	if head, hash := g.History().Head(); sum.first != 1 || sum.last != head || !bytes.Equal(sum.hash, hash) {
		t.Errorf("the trail has %v, the log made %d: %v", sum, head, err)
	}
}

// The published trail may tell of entries that are gone: those records go too.
func TestJumpDropsRecordsOfLostEntries(t *testing.T) {
	long, short := newHistory(t, 20), newHistory(t, 3)
	s := newModelStore("server-a")
	long.writeStore(t, s)
	lead, snapshot, err := short.last.StoredLog(2, 0, "server-a")
	if err != nil {
		t.Fatal(err)
	}
	lead.Closed = "the store forgot"
	at := core.Position{Term: 1, Last: long.last.Revision()}
	r := s.Do(context.Background(), &core.StoreCall{Replace: &core.StoreReplace{Guard: at, Lead: lead, Snapshot: snapshot, Published: uint64(len(long.records))}})
	if r.Status != core.StoreOK {
		t.Fatal(r.Text)
	}
	text, err := runJump(s, false)
	if err != nil {
		t.Fatal(err)
	}
	if want := fmt.Sprintf("in the log up to record %d, in the log up to %d", len(short.records), len(short.records)); !strings.Contains(text, want) {
		t.Errorf("%q is not told:\n%s", want, text)
	}
	mustVerify(t, s)
}

func mustVerify(t *testing.T, s *modelStore) {
	t.Helper()
	log, err := readLog(context.Background(), s)
	if err != nil {
		t.Fatal(err)
	}
	e := s.end(storeConfig("a:1"))
	if _, err := (&trail{page: e.page, history: log.registry.History()}).whole(context.Background()); err != nil {
		t.Error(err)
	}
}

func TestJumpRefuses(t *testing.T) {
	why := func(kind noteKind) string {
		return note{kind: kind, place: "x", id: randomID(), generation: 9}.String()
	}
	for _, c := range []struct {
		name, want string
		force      bool
		spoil      func(*modelStore)
	}{
		{"an open log", "nothing waits for a jump", false, func(*modelStore) {}},
		{"a part of a registry", "holds only a part of it", true, func(s *modelStore) { closeLog(s, why(noteFilling)) }},
		{"a source that moves", "take it back with leaderd migrate --reopen", true, func(s *modelStore) { closeLog(s, why(noteMoving)) }},
		{"a source that moved", "gone for good", false, func(s *modelStore) { closeLog(s, why(noteMoved)) }},
		{"no log", "holds no registry", true, func(s *modelStore) { *s = *newModelStore("server-a") }},
		{"a log that lost all but its first office", "nothing is left to go on from", true, func(s *modelStore) {
			cluster := s.lead(t).ClusterId
			*s = *newModelStore("server-a")
			chain := core.ChainEntry(nil, 1, 1, nil)
			r := s.Do(context.Background(), &core.StoreCall{Append: &core.StoreAppend{
				Lead:    &core.Lead{Schema: core.StoreSchema, ClusterId: cluster, Term: 1, Holder: 1, Last: 1, Chain: chain, AppendId: []byte("a"), Identity: "server-a"},
				Entries: []*core.StoredEntry{{Index: 1, Term: 1, Chain: chain}},
			}})
			if r.Status != core.StoreOK {
				t.Fatal(r.Text)
			}
			closeLog(s, "the store forgot")
		}},
	} {
		s := newModelStore("server-a")
		newHistory(t, 2).writeStore(t, s)
		c.spoil(s)
		before := s.lead(t)
		if _, err := runJump(s, c.force); err == nil || !strings.Contains(err.Error(), c.want) {
			t.Errorf("%s: %v, want %q", c.name, err, c.want)
		}
		if !proto.Equal(before, s.lead(t)) {
			t.Errorf("%s: the log was changed", c.name)
		}
	}
	for _, spoil := range []func(*modelStore){func(*modelStore) {}, func(s *modelStore) { closeLog(s, why(noteMoved)) }} {
		s := newModelStore("server-a")
		newHistory(t, 2).writeStore(t, s)
		spoil(s)
		if _, err := runJump(s, true); err != nil || !s.open(t) {
			t.Errorf("with force: %v", err)
		}
	}
}

// A server that waits for a replica which is gone for good is jumped without having
// been closed.
func TestJumpOnAnotherServer(t *testing.T) {
	s := newModelStore("server-a")
	newHistory(t, 2).writeStore(t, s)
	s.server = "server-b"
	if _, err := runJump(s, false); err != nil {
		t.Fatal(err)
	}
	if got := s.lead(t).Identity; got != "server-b" {
		t.Errorf("the log is on %s", got)
	}
}

// unfitStore says that it must not be used.
type unfitStore struct{ *modelStore }

func (unfitStore) Do(_ context.Context, c *core.StoreCall) *core.StoreReply {
	return &core.StoreReply{ID: c.ID, Status: core.StoreUnfit, Text: "entry 7 does not decode"}
}

func TestJumpSaysWhatAnUnfitStoreNeeds(t *testing.T) {
	_, err := runJump(unfitStore{newModelStore("server-a")}, true)
	for _, want := range []string{"entry 7 does not decode", "Nothing was changed", "restore a backup"} {
		if err == nil || !strings.Contains(err.Error(), want) {
			t.Errorf("%v, want %q", err, want)
		}
	}
}

// Only the word yes agrees, and only on a terminal.
func TestConfirm(t *testing.T) {
	for answer, agreed := range map[string]bool{"yes\n": true, "y\n": false, "no\n": false, "\n": false} {
		terminal, keyboard := openTerminal(t)
		if _, err := keyboard.WriteString(answer); err != nil {
			t.Fatal(err)
		}
		cmd := quietCommand()
		cmd.SetIn(terminal)
		if err := confirm(cmd, false); (err == nil) != agreed {
			t.Errorf("%q: %v", answer, err)
		}
	}
	read, write, err := os.Pipe()
	if err != nil {
		t.Fatal(err)
	}
	defer func() { _ = errors.Join(read.Close(), write.Close()) }()
	if _, err := write.WriteString("yes\n"); err != nil {
		t.Fatal(err)
	}
	cmd := quietCommand()
	cmd.SetIn(read)
	if err := confirm(cmd, false); err == nil || !strings.Contains(err.Error(), "add --yes") {
		t.Errorf("a pipe agrees: %v", err)
	}
	if err := confirm(cmd, true); err != nil {
		t.Error(err)
	}
}

// openTerminal returns a terminal and who types at it.
func openTerminal(t *testing.T) (terminal, keyboard *os.File) {
	t.Helper()
	keyboard, err := os.OpenFile("/dev/ptmx", os.O_RDWR|unix.O_NOCTTY, 0)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = keyboard.Close() })
	if err := unix.IoctlSetPointerInt(int(keyboard.Fd()), unix.TIOCSPTLCK, 0); err != nil {
		t.Fatal(err)
	}
	n, err := unix.IoctlGetInt(int(keyboard.Fd()), unix.TIOCGPTN)
	if err != nil {
		t.Fatal(err)
	}
	terminal, err = os.OpenFile(fmt.Sprintf("/dev/pts/%d", n), os.O_RDWR|unix.O_NOCTTY, 0)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = terminal.Close() })
	return terminal, keyboard
}

// spoiled is a store whose entries are not what was written.
type spoiled struct {
	*modelStore
	spoil func(*core.StoreReply)
}

func (s spoiled) Do(ctx context.Context, c *core.StoreCall) *core.StoreReply {
	r := s.modelStore.Do(ctx, c)
	if c.Fetch != nil {
		s.spoil(r)
	}
	return r
}

func TestJumpLeavesDamageAlone(t *testing.T) {
	for name, spoil := range map[string]func(*core.StoreReply){
		"a changed entry": func(r *core.StoreReply) {
			r.Entries = append([]*core.StoredEntry{}, r.Entries...)
			r.Entries[3] = proto.CloneOf(r.Entries[3])
			r.Entries[3].Data[0] ^= 1
		},
		"a missing entry": func(r *core.StoreReply) {
			r.Entries = append(append([]*core.StoredEntry{}, r.Entries[:4]...), r.Entries[5:]...)
		},
		"no entries": func(r *core.StoreReply) { r.Entries = nil },
		"a snapshot that is none": func(r *core.StoreReply) {
			r.Snapshot = &core.StoredSnapshot{Index: r.Lead.Last, Data: []byte("not a snapshot")}
		},
	} {
		s := newModelStore("server-a")
		newHistory(t, 5).writeStore(t, s)
		closeLog(s, "the store forgot")
		before := s.lead(t)
		_, err := runJump(spoiled{s, spoil}, true)
		for _, want := range []string{"is damaged", "Nothing was changed", "Restore a backup"} {
			if err == nil || !strings.Contains(err.Error(), want) {
				t.Errorf("%s: %v, want %q", name, err, want)
			}
		}
		if !proto.Equal(before, s.lead(t)) {
			t.Errorf("%s: the log was changed", name)
		}
	}
}

func TestJumpOfRaftIsRefused(t *testing.T) {
	c := storeConfig("")
	c.Registry = config.Registry{Store: config.StoreRaft}
	if err := (&jump{cmd: quietCommand(), config: c}).start(context.Background()); err == nil || !strings.Contains(err.Error(), "registry.store is raft") {
		t.Error(err)
	}
}

// A data directory is adopted only for a later life of the registry that it knows.
func TestDirectoriesAreAdopted(t *testing.T) {
	h := newHistory(t, 3)
	s := newModelStore("server-a")
	h.writeStore(t, s)
	log, err := readLog(context.Background(), s)
	if err != nil {
		t.Fatal(err)
	}
	log.lead.Generation = 40
	mark := func(generation uint64) *core.StoreMark {
		return &core.StoreMark{ClusterId: benchCluster, Generation: generation, NextFence: 7}
	}
	for _, c := range []struct {
		name, store, want string
		batch             core.Batch
		seal              string
	}{
		{"a raft log that moved", "raft", "", raftBatch(h.entries, h.records), note{kind: noteMoved, place: "x", id: randomID(), generation: 40}.String()},
		{"a raft log that moved later", "raft", "as generation 41", raftBatch(h.entries, h.records), note{kind: noteMoved, place: "x", id: randomID(), generation: 41}.String()},
		{"a raft log that moves", "raft", "no migration closed", raftBatch(h.entries, h.records), note{kind: noteMoving, place: "x", id: randomID()}.String()},
		{"a raft log in service", "raft", "no migration closed", raftBatch(h.entries, h.records), ""},
		{"an earlier mark", "etcd", "", core.Batch{Mark: mark(39)}, ""},
		{"a mark as late", "etcd", "it is no later one", core.Batch{Mark: mark(40)}, ""},
		{"a mark of nothing", "etcd", "", core.Batch{}, ""},
	} {
		dir := filepath.Join(t.TempDir(), "data")
		node := storeConfig("a:1")
		node.DataDir = dir
		before, _, err := raftlog.Open(logOptions(node, dir, c.store, false))
		if err != nil {
			t.Fatal(err)
		}
		if err := before.Persist(c.batch); err != nil {
			t.Fatal(err)
		}
		if c.seal != "" {
			if err := before.Seal(c.seal); err != nil {
				t.Fatal(err)
			}
		}
		if err := before.Close(); err != nil {
			t.Fatal(err)
		}
		_, err = adopt(node, log)
		if c.want != "" {
			if err == nil || !strings.Contains(err.Error(), c.want) {
				t.Errorf("%s: %v, want %q", c.name, err, c.want)
			}
			continue
		}
		if err != nil {
			t.Errorf("%s: %v", c.name, err)
			continue
		}
		after, boot, err := raftlog.Open(logOptions(node, dir, config.StoreRedis, false))
		if err != nil {
			t.Fatalf("%s: %v", c.name, err)
		}
		if m := boot.Mark; m.GetGeneration() != 40 || m.NextFence != nextFence(h.last) || m.Index != h.last.Revision() {
			t.Errorf("%s: mark %v", c.name, m)
		}
		if err := after.Close(); err != nil {
			t.Fatal(err)
		}
		if _, err := adopt(node, log); err != nil {
			t.Errorf("%s: again: %v", c.name, err)
		}
	}
}

func TestNotesAreReadAsWritten(t *testing.T) {
	for _, n := range []note{
		{kind: noteMoving, place: "redis at a:1 (not b)", id: randomID()},
		{kind: noteMoved, place: strings.Repeat("é", maxNotePlace), id: randomID(), generation: 1<<64 - 1},
		{kind: noteFilling, place: "", id: randomID()},
	} {
		got, ok := parseNote(n.String())
		if n.place = got.place; !ok || got != n || len(n.String()) > raftlog.MaxSeal {
			t.Errorf("%q is read as %+v", n, got)
		}
	}
	for _, text := range []string{"", "the store forgot", "moved to x (migration 0123456789abcdef)", "moving to x (migration 0123456789abcdef, generation 3)", "moved to x (migration 0123456789abcdef, generation 99999999999999999999)"} {
		if n, ok := parseNote(text); ok {
			t.Errorf("%q is read as %+v", text, n)
		}
	}
}

package raftlog

import (
	"errors"
	"fmt"
	"math/rand/v2"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"testing"
	"time"

	"go.etcd.io/bbolt"
	"go.etcd.io/raft/v3/raftpb"
	"google.golang.org/protobuf/proto"

	"github.com/omnirelay/leadership/core"
)

func markOptions(dir string) Options {
	o := options(dir)
	o.Store = "postgres"
	return o
}

// markAt is the mark of step n: its content depends on n alone.
func markAt(n uint64) *core.StoreMark {
	return &core.StoreMark{
		ClusterId: "mesh.test", Identity: fmt.Sprintf("server-%d", n/40), Generation: n / 100, Index: n * 3, Chain: recordHash(n * 3),
		Term: 1 + n/10, NextFence: 7 + n*2, NextSession: 5 + n, Round: n / 10,
	}
}

func mustOpenMark(t testing.TB, dir string) (*Log, core.Boot) {
	t.Helper()
	log, boot, err := Open(markOptions(dir))
	if err != nil {
		t.Fatalf("open: %v", err)
	}
	return log, boot
}

// writeMarks stores the marks of steps 1 to n and a session, and returns the file.
func writeMarks(t testing.TB, dir string, n uint64) []byte {
	t.Helper()
	log, _ := mustOpenMark(t, dir)
	for i := uint64(1); i <= n; i++ {
		if err := log.Persist(core.Batch{Mark: markAt(i)}); err != nil {
			t.Fatalf("mark %d: %v", i, err)
		}
	}
	if err := log.SetSession(77); err != nil {
		t.Fatal(err)
	}
	mustClose(t, log)
	data, err := os.ReadFile(filepath.Join(dir, fileName))
	if err != nil {
		t.Fatal(err)
	}
	return data
}

func TestMarkIsKept(t *testing.T) {
	dir := memoryDir(t)
	log, boot := mustOpenMark(t, dir)
	if boot.Mark != nil || boot.HardState != nil {
		t.Errorf("a new directory holds %+v", boot)
	}
	mustClose(t, log)
	writeMarks(t, dir, 250)
	log, boot = mustOpenMark(t, dir)
	defer mustClose(t, log)
	if !proto.Equal(boot.Mark, markAt(250)) || log.LastSession() != 77 {
		t.Errorf("mark %v, session %d", boot.Mark, log.LastSession())
	}
	if boot.HardState != nil || boot.Snapshot != nil || len(boot.Entries) > 0 || boot.LastRecord != nil {
		t.Errorf("beside the mark there is %+v", boot)
	}
}

// Marks that may not follow the one of step 50, and batches that are none.
func TestMarkNeverGoesBack(t *testing.T) {
	with := func(change func(*core.StoreMark)) core.Batch {
		m := markAt(50)
		change(m)
		return core.Batch{Mark: m}
	}
	for want, batch := range map[string]core.Batch{
		"mark: generation 0 after 1":                    {},
		"mark: index 149 after 150 in generation 0":     with(func(m *core.StoreMark) { m.Index-- }),
		"mark: term 5 after 6 in generation 0":          with(func(m *core.StoreMark) { m.Term-- }),
		"mark: next session 54 after 55":                with(func(m *core.StoreMark) { m.NextSession-- }),
		"mark: round 4 after 5":                         with(func(m *core.StoreMark) { m.Round-- }),
		"mark: next fence 106 after 107":                with(func(m *core.StoreMark) { m.NextFence-- }),
		"mark: next fence 1 after 107":                  with(func(m *core.StoreMark) { m.Generation++; m.NextFence = 1 }),
		"mark: another entry 150 than before":           with(func(m *core.StoreMark) { m.Chain = recordHash(1) }),
		`mark: of cluster "other", this is "mesh.test"`: with(func(m *core.StoreMark) { m.ClusterId = "other" }),
		"at most 8192 are stored":                       with(func(m *core.StoreMark) { m.Identity = strings.Repeat("x", maxMark) }),
		errOnlyMark.Error():                             {HardState: hardState(1, 1, 2), Entries: []*raftpb.Entry{entry(2, 1, nil)}},
		errOnlyMark.Error() + " ":                       {Mark: markAt(51), Checkpoint: snapshot(5, 1, nil)},
	} {
		dir := memoryDir(t)
		steps := uint64(50)
		if strings.Contains(want, "generation 0 after 1") {
			steps, batch = 100, core.Batch{Mark: markAt(99)}
		}
		writeMarks(t, dir, steps)
		log, _ := mustOpenMark(t, dir)
		if err := log.Persist(batch); err == nil || !strings.Contains(err.Error(), strings.TrimSpace(want)) {
			t.Errorf("%v, want %q", err, want)
		}
		if again := log.Persist(core.Batch{Mark: markAt(steps + 1)}); !errors.Is(again, ErrShut) {
			t.Errorf("after %q: %v, want it shut", want, again)
		}
		mustClose(t, log)
		log, boot := mustOpenMark(t, dir)
		if !proto.Equal(boot.Mark, markAt(steps)) {
			t.Errorf("after %q the mark is %v", want, boot.Mark)
		}
		mustClose(t, log)
	}
}

// In a later generation the log may be shorter; its fences are never smaller.
func TestLaterGenerationMayBeShorter(t *testing.T) {
	log, _ := mustOpenMark(t, memoryDir(t))
	defer mustClose(t, log)
	later := markAt(50)
	later.Generation, later.Index, later.Term, later.NextSession = 9, 1, 1, 1
	for _, m := range []*core.StoreMark{markAt(50), markAt(50), later} {
		if err := log.Persist(core.Batch{Mark: m}); err != nil {
			t.Error(err)
		}
	}
}

func TestRaftLogTakesNoMark(t *testing.T) {
	log := mustOpen(t, memoryDir(t))
	defer mustClose(t, log)
	if err := log.Persist(core.Batch{Mark: markAt(1)}); !errors.Is(err, errNoMark) {
		t.Errorf("%v, want %v", err, errNoMark)
	}
}

// Each case spoils a directory that holds the mark of ten steps.
var markRefusals = []struct {
	name   string
	reason Reason
	spoil  func(t *testing.T, dir string)
	alter  func(*Options)
}{
	{"a mark for raft", ReasonOtherStore, nil, func(o *Options) { o.Store = "" }},
	{"a mark for another store", ReasonOtherStore, nil, func(o *Options) { o.Store = "etcd" }},
	{"another node", ReasonOtherOwner, nil, func(o *Options) { o.NodeID = 3 }},
	{"another cluster", ReasonOtherOwner, nil, func(o *Options) { o.ClusterID = "mesh.other" }},
	{"the file gone", ReasonDamaged, func(t *testing.T, dir string) { remove(t, dir, fileName) }, nil},
	{"the mark gone", ReasonDamaged, func(t *testing.T, dir string) {
		editBucket(t, dir, metaBucket, func(b *bbolt.Bucket) error { return b.Delete(markKey) })
	}, nil},
	{"a flipped byte in the mark", ReasonDamaged, func(t *testing.T, dir string) {
		editValue(t, dir, metaBucket, markKey, func(v []byte) []byte { return changed(v, 9, v[9]^1) })
	}, nil},
	{"the mark under another key", ReasonDamaged, func(t *testing.T, dir string) {
		editBucket(t, dir, metaBucket, func(b *bbolt.Bucket) error { return b.Put(markKey, b.Get(stateKey)) })
	}, nil},
	{"something else for the mark", ReasonDamaged, func(t *testing.T, dir string) {
		edit(t, dir, func(tx *bbolt.Tx) error { return put(tx, metaBucket, markKey, []byte{0xFF}) })
	}, nil},
	{"a hard state beside the mark", ReasonDamaged, func(t *testing.T, dir string) {
		editState(t, dir, func(s *state) { s.hard, s.term, s.commit = 1, 1, 1 })
	}, nil},
}

// TestMarkRefusals holds every message against testdata/markrefusals.txt; -rewrite
// renews it.
func TestMarkRefusals(t *testing.T) {
	base := memoryDir(t)
	var seen strings.Builder
	for i, c := range markRefusals {
		dir := filepath.Join(base, strconv.Itoa(i))
		writeMarks(t, dir, 10)
		o := markOptions(dir)
		if c.alter != nil {
			c.alter(&o)
		}
		if c.spoil != nil {
			c.spoil(t, dir)
		}
		log, _, err := Open(o)
		if err == nil {
			mustClose(t, log)
			t.Errorf("%s: opened", c.name)
			continue
		}
		var refusal *Refusal
		if !errors.As(err, &refusal) || refusal.Reason != c.reason {
			t.Errorf("%s: %#v, want reason %d", c.name, err, c.reason)
		}
		fmt.Fprintf(&seen, "%s\n  %s\n", c.name, strings.ReplaceAll(withoutMachine(err.Error(), dir), markRemedy, "REMEDY"))
	}
	compareFile(t, "testdata/markrefusals.txt", seen.String())
}

// Every flipped byte of the file is refused or without effect.
func TestFlippedBytesOfAMark(t *testing.T) {
	dir := memoryDir(t)
	file := writeMarks(t, filepath.Join(dir, "sound"), 20)
	rng := rand.New(rand.NewPCG(7, 8))
	refused := 0
	const flips = 1500
	for i := range flips {
		at := rng.IntN(len(file))
		spoiled := filepath.Join(dir, strconv.Itoa(i))
		if err := os.MkdirAll(spoiled, 0o700); err != nil {
			t.Fatal(err)
		}
		overwrite(t, spoiled, changed(file, at, file[at]^byte(1<<rng.IntN(8))))
		log, boot, err := Open(markOptions(spoiled))
		var refusal *Refusal
		switch {
		case errors.As(err, &refusal):
			refused++
		case err != nil:
			t.Fatalf("byte %d: %v", at, err)
		case !proto.Equal(boot.Mark, markAt(20)) || log.LastSession() != 77:
			t.Fatalf("byte %d: opened with %v and session %d", at, boot.Mark, log.LastSession())
		default:
			if err := log.Persist(core.Batch{Mark: markAt(21)}); err != nil {
				t.Fatalf("byte %d: opened, but cannot go on: %v", at, err)
			}
			mustClose(t, log)
		}
		if err := os.RemoveAll(spoiled); err != nil {
			t.Fatal(err)
		}
	}
	t.Logf("%d pages, %d flips: %d refused", len(file)/pageSize, flips, refused)
	if refused == 0 || refused == flips {
		t.Errorf("%d of %d refused", refused, flips)
	}
}

// runMarkChild continues the marks where the directory ends, until it is killed.
func runMarkChild(dir string) int {
	log, boot, err := Open(markOptions(dir))
	if err != nil {
		fmt.Println("open", err)
		return 1
	}
	for i := boot.Mark.GetIndex()/3 + 1; i <= childSteps; i++ {
		if err := log.Persist(core.Batch{Mark: markAt(i)}); err != nil {
			fmt.Println("failed", i, err)
			return 1
		}
		fmt.Println("ack", i)
	}
	return 0
}

// A writer of marks is killed by SIGKILL again and again: the mark found is the last
// one acknowledged, or the one that was under way.
func TestKilledMarkWriter(t *testing.T) {
	dir := t.TempDir()
	rng := rand.New(rand.NewPCG(9, 10))
	t.Setenv(childMark, "1")
	for round := range 15 {
		c := startChild(t, dir, "")
		for acks := 1 + rng.IntN(10); acks > 0; acks-- {
			if !c.next(t) {
				t.Fatalf("round %d: the writer ended: %s %s", round, c.failed, c.stderr)
			}
		}
		time.Sleep(time.Duration(rng.IntN(2000)) * time.Microsecond) // the random moment itself
		if err := c.cmd.Process.Kill(); err != nil {
			t.Fatal(err)
		}
		c.finish(t)
		log, boot := mustOpenMark(t, dir)
		end := boot.Mark.GetIndex() / 3
		if end < c.acked || end > c.acked+1 || !proto.Equal(boot.Mark, markAt(end)) {
			t.Fatalf("round %d: %d acknowledged, found %v", round, c.acked, boot.Mark)
		}
		mustClose(t, log)
	}
}

// Every sync from the n-th on fails: the log is shut, and what was acknowledged is there.
func TestMarkSyncFails(t *testing.T) {
	t.Setenv(childMark, "1")
	for _, n := range []uint64{1, 2, 5, 6} {
		dir := memoryDir(t)
		log, _ := mustOpenMark(t, dir)
		mustClose(t, log)
		c := startFailing(t, dir, "fdatasync", n)
		c.finish(t)
		if !strings.Contains(c.failed, "input/output error") || c.acked != (n-1)/2 {
			t.Fatalf("sync %d: %d acknowledged, failed with %q", n, c.acked, c.failed)
		}
		log, boot := mustOpenMark(t, dir)
		if end := boot.Mark.GetIndex() / 3; end != n/2 {
			t.Errorf("sync %d: the mark is of step %d, want %d", n, end, n/2)
		}
		mustClose(t, log)
	}
}

// BenchmarkPersistMark is what stands between an answer of the store and what rests
// on it.
func BenchmarkPersistMark(b *testing.B) {
	log, _ := mustOpenMark(b, b.TempDir())
	defer mustClose(b, log)
	i := uint64(0)
	for b.Loop() {
		i++
		if err := log.Persist(core.Batch{Mark: markAt(i)}); err != nil {
			b.Fatal(err)
		}
	}
}

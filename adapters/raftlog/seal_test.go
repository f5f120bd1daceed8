package raftlog

import (
	"errors"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"go.etcd.io/bbolt"

	"github.com/omnirelay/leadership/core"
)

const testSeal = "moved to elsewhere"

// sealed writes a log of ten steps and seals it.
func sealed(t *testing.T) (dir string) {
	t.Helper()
	dir = memoryDir(t)
	writeStory(t, dir, 10)
	log := mustOpen(t, dir)
	if err := errors.Join(log.Seal("moving"), log.Seal(testSeal)); err != nil {
		t.Fatal(err)
	}
	mustClose(t, log)
	return dir
}

func refusedAs(t *testing.T, o Options, reason Reason) (text string) {
	t.Helper()
	log, _, err := Open(o)
	if err == nil {
		mustClose(t, log)
	}
	var refusal *Refusal
	if !errors.As(err, &refusal) || refusal.Reason != reason {
		t.Fatalf("%v, want a refusal with reason %d", err, reason)
	}
	return refusal.Error()
}

func TestSealedLogIsRefusedUntilUnsealed(t *testing.T) {
	dir := sealed(t)
	before, err := os.ReadFile(filepath.Join(dir, fileName))
	if err != nil {
		t.Fatal(err)
	}
	o := options(dir)
	if text := refusedAs(t, o, ReasonSealed); !strings.Contains(text, testSeal) {
		t.Errorf("%s: want the reason of the seal", text)
	}
	o.Store = "postgres" // where it went matters more than that it is another store
	refusedAs(t, o, ReasonSealed)
	if after, _ := os.ReadFile(filepath.Join(dir, fileName)); string(after) != string(before) {
		t.Error("the refusals changed the file")
	}

	o = options(dir)
	o.Sealed = true
	log, boot, err := Open(o)
	if err != nil {
		t.Fatal(err)
	}
	if reason, err := log.Sealed(); reason != testSeal || err != nil {
		t.Errorf("sealed by %q, %v", reason, err)
	}
	if got, want := storyEnd(boot), uint64(10); got != want {
		t.Errorf("the sealed log ends at step %d, want %d", got, want)
	}
	if err := log.Unseal(); err != nil {
		t.Fatal(err)
	}
	mustClose(t, log)
	log = mustOpen(t, dir)
	defer mustClose(t, log)
	if reason, err := log.Sealed(); reason != "" || err != nil {
		t.Errorf("sealed by %q, %v", reason, err)
	}
	if err := log.Persist(storyBatch(11)); err != nil {
		t.Errorf("the log does not go on: %v", err)
	}
}

// A program of before seals reads the layout's version first.
func TestSealedLogIsOfANewerLayout(t *testing.T) {
	schemaOf := func(dir string) (id identity) {
		edit(t, dir, func(tx *bbolt.Tx) error {
			payload, err := get(tx, metaBucket, identityKey)
			if err == nil {
				id, err = decodeIdentity(payload)
			}
			return err
		})
		return id
	}
	dir := sealed(t)
	if id := schemaOf(dir); id.schema <= schemaRaft || id.store != storeRaft {
		t.Errorf("%+v: want a raft log that an older program refuses", id)
	}
	o := options(dir)
	o.Sealed = true
	log, _, err := Open(o)
	if err != nil {
		t.Fatal(err)
	}
	if err := log.Unseal(); err != nil {
		t.Fatal(err)
	}
	mustClose(t, log)
	if id := schemaOf(dir); id.schema != schemaRaft {
		t.Errorf("%+v: want the layout of before", id)
	}
}

func TestDamagedSealIsRefused(t *testing.T) {
	for at := range len(testSeal) + checksumBytes {
		dir := sealed(t)
		editValue(t, dir, metaBucket, sealKey, func(v []byte) []byte { return changed(v, at, v[at]^1) })
		for _, allowed := range []bool{false, true} {
			o := options(dir)
			o.Sealed = allowed
			refusedAs(t, o, ReasonDamaged)
		}
	}
}

func TestSealWantsAReason(t *testing.T) {
	log := mustOpen(t, memoryDir(t))
	defer mustClose(t, log)
	for _, reason := range []string{"", strings.Repeat("x", MaxSeal+1)} {
		if log.Seal(reason) == nil {
			t.Errorf("a reason of %d bytes was taken", len(reason))
		}
	}
	if err := log.Seal(strings.Repeat("x", MaxSeal)); err != nil {
		t.Error(err)
	}
}

func TestInstalledLogReplacesTheOneBefore(t *testing.T) {
	dir := memoryDir(t)
	writeStory(t, dir, 10)
	for attempt := range 2 { // the second one as after an interruption
		staged := filepath.Join(dir, "incoming")
		if err := os.RemoveAll(staged); err != nil {
			t.Fatal(err)
		}
		log, _ := mustOpenMark(t, staged)
		if err := log.Persist(core.Batch{Mark: markAt(3)}); err != nil {
			t.Fatal(err)
		}
		mustClose(t, log)
		if err := Install(dir, staged, "raft.db.before"); err != nil {
			t.Fatalf("attempt %d: %v", attempt, err)
		}
	}
	refusedAs(t, options(dir), ReasonOtherStore)
	log, boot := mustOpenMark(t, dir)
	mustClose(t, log)
	if boot.Mark.GetIndex() != markAt(3).Index {
		t.Errorf("mark %v", boot.Mark)
	}
	if err := os.Rename(filepath.Join(dir, "raft.db.before"), filepath.Join(dir, fileName)); err != nil {
		t.Fatal(err)
	}
	log, boot, err := Open(options(dir))
	if err != nil || storyEnd(boot) != 10 {
		t.Fatalf("what was put aside is not the log of before: %v", err)
	}
	mustClose(t, log)
}

func TestNothingIsInstalledWhereALogIsInUse(t *testing.T) {
	dir := memoryDir(t)
	log := mustOpen(t, dir)
	defer mustClose(t, log)
	var refusal *Refusal
	if err := Install(dir, filepath.Join(dir, "incoming"), "aside"); !errors.As(err, &refusal) || refusal.Reason != ReasonInUse {
		t.Errorf("%v, want that the directory is in use", err)
	}
}

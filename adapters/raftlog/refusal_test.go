package raftlog

import (
	"errors"
	"flag"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"regexp"
	"strconv"
	"strings"
	"syscall"
	"testing"

	"go.etcd.io/bbolt"

	"github.com/omnirelay/leadership/core"
)

var rewrite = flag.Bool("rewrite", false, "rewrite testdata with what was seen")

// Each case spoils a directory that holds a log of ten steps, or makes one.
var refusals = []struct {
	name   string
	reason Reason
	spoil  func(t *testing.T, dir string)
	alter  func(*Options)
}{
	{"another cluster", ReasonOtherOwner, nil, func(o *Options) { o.ClusterID = "mesh.other" }},
	{"another node", ReasonOtherOwner, nil, func(o *Options) { o.NodeID = 3 }},
	{"a raft log for another store", ReasonOtherStore, nil, func(o *Options) { o.Store = "postgres" }},
	{"newer schema", ReasonNewer, func(t *testing.T, dir string) {
		edit(t, dir, func(tx *bbolt.Tx) error {
			return put(tx, metaBucket, identityKey, append(position(3)[4:], "laid out in a way not known here"...))
		})
	}, nil},
	{"a directory in its place", ReasonForeign, func(t *testing.T, dir string) {
		remove(t, dir, fileName)
		if err := os.Mkdir(filepath.Join(dir, fileName), 0o700); err != nil {
			t.Fatal(err)
		}
	}, nil},
	{"a text file", ReasonForeign, func(t *testing.T, dir string) {
		remove(t, dir, lockName)
		overwrite(t, dir, []byte("nodes:\n- a\n"))
	}, nil},
	{"garbage over a log", ReasonDamaged, func(t *testing.T, dir string) { overwrite(t, dir, content(1, 50_000)) }, nil},
	{"a bbolt file of another program", ReasonForeign, func(t *testing.T, dir string) {
		edit(t, dir, func(tx *bbolt.Tx) error { return tx.DeleteBucket(metaBucket) })
	}, nil},
	{"an empty file", ReasonDamaged, func(t *testing.T, dir string) { overwrite(t, dir, nil) }, nil},
	{"the file gone", ReasonDamaged, func(t *testing.T, dir string) { remove(t, dir, fileName) }, nil},
	{"half the file", ReasonDamaged, func(t *testing.T, dir string) {
		if err := os.Truncate(filepath.Join(dir, fileName), 5*pageSize); err != nil {
			t.Fatal(err)
		}
	}, nil},
	{"a flipped byte in an entry", ReasonDamaged, func(t *testing.T, dir string) {
		editValue(t, dir, entriesBucket, position(7), func(v []byte) []byte { return changed(v, 9, v[9]^1) })
	}, nil},
	{"a flipped byte in an audit record", ReasonDamaged, func(t *testing.T, dir string) {
		editValue(t, dir, recordsBucket, position(2), func(v []byte) []byte { return changed(v, 20, v[20]^1) })
	}, nil},
	{"a flipped byte in the state", ReasonDamaged, func(t *testing.T, dir string) {
		editValue(t, dir, metaBucket, stateKey, func(v []byte) []byte { return changed(v, 20, v[20]^1) })
	}, nil},
	{"an entry that poses as another", ReasonDamaged, func(t *testing.T, dir string) {
		editBucket(t, dir, entriesBucket, func(b *bbolt.Bucket) error { return b.Put(position(7), b.Get(position(8))) })
	}, nil},
	{"a gap in the entries", ReasonDamaged, func(t *testing.T, dir string) {
		editBucket(t, dir, entriesBucket, func(b *bbolt.Bucket) error { return b.Delete(position(7)) })
	}, nil},
	{"the last entry gone", ReasonDamaged, func(t *testing.T, dir string) {
		editBucket(t, dir, entriesBucket, func(b *bbolt.Bucket) error { return b.Delete(position(11)) })
	}, nil},
	{"an entry too many", ReasonDamaged, func(t *testing.T, dir string) {
		edit(t, dir, func(tx *bbolt.Tx) error { return putMessage(tx, entriesBucket, 12, entry(12, 1, nil)) })
	}, nil},
	{"terms that go backwards", ReasonDamaged, func(t *testing.T, dir string) {
		edit(t, dir, func(tx *bbolt.Tx) error { return putMessage(tx, entriesBucket, 7, entry(7, 0, nil)) })
	}, nil},
	{"a gap in the audit trail", ReasonDamaged, func(t *testing.T, dir string) {
		editBucket(t, dir, recordsBucket, func(b *bbolt.Bucket) error { return b.Delete(position(2)) })
	}, nil},
	{"a broken audit chain", ReasonDamaged, func(t *testing.T, dir string) {
		forged := record(2, 5)
		forged.Hash = []byte("another")
		edit(t, dir, func(tx *bbolt.Tx) error { return putMessage(tx, recordsBucket, 2, forged) })
	}, nil},
	{"a commit index beyond the entries", ReasonDamaged, func(t *testing.T, dir string) {
		editState(t, dir, func(s *state) { s.commit = 12 })
	}, nil},
	{"a gap after the snapshot", ReasonDamaged, func(t *testing.T, dir string) {
		editState(t, dir, func(s *state) { s.first = 3 })
	}, nil},
	{"the state gone", ReasonDamaged, func(t *testing.T, dir string) {
		editBucket(t, dir, metaBucket, func(b *bbolt.Bucket) error { return b.Delete(stateKey) })
	}, nil},
	{"a bucket gone", ReasonDamaged, func(t *testing.T, dir string) {
		edit(t, dir, func(tx *bbolt.Tx) error { return tx.DeleteBucket(recordsBucket) })
	}, nil},
	{"an entry that calls itself another", ReasonDamaged, func(t *testing.T, dir string) {
		edit(t, dir, func(tx *bbolt.Tx) error { return putMessage(tx, entriesBucket, 7, entry(8, 1, nil)) })
	}, nil},
	{"the hard state gone", ReasonDamaged, func(t *testing.T, dir string) {
		editState(t, dir, func(s *state) { s.hard = 0 })
	}, nil},
	{"the snapshot gone", ReasonDamaged, func(t *testing.T, dir string) {
		checkpoint(t, dir)
		editBucket(t, dir, snapshotBucket, func(b *bbolt.Bucket) error { return b.Delete(snapshotKey) })
	}, nil},
	{"the snapshot of another index", ReasonDamaged, func(t *testing.T, dir string) {
		checkpoint(t, dir)
		editState(t, dir, func(s *state) { s.snapIndex = 6 })
	}, nil},
	{"a file that a tool of bbolt has open", ReasonInUse, func(t *testing.T, dir string) {
		db, err := bbolt.Open(filepath.Join(dir, fileName), 0o600, nil)
		if err != nil {
			t.Fatal(err)
		}
		t.Cleanup(func() { _ = db.Close() })
	}, nil},
	{"a second opener", ReasonInUse, func(t *testing.T, dir string) {
		log := mustOpen(t, dir)
		t.Cleanup(func() { mustClose(t, log) })
	}, nil},
	{"a file for a directory", ReasonInvalid, func(t *testing.T, dir string) {
		if err := errors.Join(os.RemoveAll(dir), os.WriteFile(dir, nil, 0o600)); err != nil {
			t.Fatal(err)
		}
	}, nil},
}

// TestRefusals holds every message against testdata/refusals.txt; -rewrite renews it.
func TestRefusals(t *testing.T) {
	base := memoryDir(t)
	var seen strings.Builder
	for i, c := range refusals {
		dir := filepath.Join(base, strconv.Itoa(i))
		writeStory(t, dir, 10)
		o := options(dir)
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
		fmt.Fprintf(&seen, "%s\n  %s\n", c.name, withoutMachine(err.Error(), dir))
	}
	compareFile(t, "testdata/refusals.txt", seen.String())
}

func withoutMachine(text, dir string) string {
	text = strings.ReplaceAll(text, dir, "DIR")
	text = strings.ReplaceAll(text, replaceRemedy, "REPLACE")
	return regexp.MustCompile(`process \d+`).ReplaceAllString(text, "process PID")
}

func compareFile(t *testing.T, path, got string) {
	t.Helper()
	if *rewrite {
		if err := os.WriteFile(path, []byte(got), 0o644); err != nil {
			t.Fatal(err)
		}
	}
	want, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	if got != string(want) {
		t.Errorf("%s differs (-rewrite renews it); got\n%s", path, got)
	}
}

func TestRefusedOptions(t *testing.T) {
	_, _, err := Open(Options{ClusterID: strings.Repeat("x", MaxClusterID+1)})
	for _, field := range []string{"Dir", "ClusterID", "NodeID"} {
		if err == nil || !strings.Contains(err.Error(), field) {
			t.Errorf("%v: want %s named", err, field)
		}
	}
}

// What the operating system refuses is no damage, and must not be treated as one.
func TestSystemErrorsAreNotDamage(t *testing.T) {
	l := &Log{path: "DIR/raft.db"}
	for errno, remedy := range map[syscall.Errno]string{
		syscall.EACCES: "let the user that runs this node", syscall.EROFS: "let the user that runs this node",
		syscall.ENOSPC: "make room", syscall.EMFILE: "look at the disk",
	} {
		err := l.openRefusal("DIR", &fs.PathError{Op: "open", Path: l.path, Err: errno})
		var refusal *Refusal
		if !errors.As(err, &refusal) || refusal.Reason != ReasonInvalid || !strings.Contains(refusal.Remedy, remedy) {
			t.Errorf("%v: %v, want %q", errno, err, remedy)
		}
	}
}

// A refused directory is left as it is.
func TestRefusalChangesNothing(t *testing.T) {
	dir := memoryDir(t)
	file := writeStory(t, dir, 10)
	o := options(dir)
	o.NodeID = 9
	if _, _, err := Open(o); err == nil {
		t.Fatal("opened as another node")
	}
	after, err := os.ReadFile(filepath.Join(dir, fileName))
	if err != nil || string(after) != string(file) {
		t.Errorf("the file changed: %v", err)
	}
	log, boot, err := Open(options(dir))
	if err != nil {
		t.Fatal(err)
	}
	defer mustClose(t, log)
	if d := difference(boot, storyTwin(10).boot()); d != "" {
		t.Error(d)
	}
}

// A crash while a log is created leaves a directory that is still new.
func TestHalfCreatedFileIsNotALog(t *testing.T) {
	dir := memoryDir(t)
	if err := os.WriteFile(filepath.Join(dir, newName), content(1, 9000), 0o600); err != nil {
		t.Fatal(err)
	}
	log, boot, err := Open(options(dir))
	if err != nil {
		t.Fatal(err)
	}
	defer mustClose(t, log)
	if boot.HardState != nil || boot.Entries != nil || log.LastSession() != 0 {
		t.Errorf("a new log holds %+v", boot)
	}
	for name, want := range map[string]os.FileMode{fileName: 0o600, lockName: 0o600} {
		if info, err := os.Stat(filepath.Join(dir, name)); err != nil || info.Mode().Perm() != want {
			t.Errorf("%s: mode %v, %v; want %v", name, info.Mode(), err, want)
		}
	}
	if _, err := os.Stat(filepath.Join(dir, newName)); !errors.Is(err, os.ErrNotExist) {
		t.Errorf("%s is left over: %v", newName, err)
	}
}

func TestNewDirectoryIsPrivate(t *testing.T) {
	dir := filepath.Join(memoryDir(t), "a", "b")
	mustClose(t, mustOpen(t, dir))
	if info, err := os.Stat(dir); err != nil || info.Mode().Perm() != 0o700 {
		t.Errorf("mode %v, %v; want 0700", info.Mode(), err)
	}
}

func checkpoint(t *testing.T, dir string) {
	t.Helper()
	log := mustOpen(t, dir)
	if err := log.Persist(core.Batch{Checkpoint: snapshot(5, 1, nil), CompactTo: 3}); err != nil {
		t.Fatal(err)
	}
	mustClose(t, log)
}

func edit(t *testing.T, dir string, fn func(*bbolt.Tx) error) {
	t.Helper()
	db, err := bbolt.Open(filepath.Join(dir, fileName), 0o600, nil)
	if err != nil {
		t.Fatal(err)
	}
	if err := errors.Join(db.Update(fn), db.Close()); err != nil {
		t.Fatal(err)
	}
}

func editBucket(t *testing.T, dir string, bucket []byte, fn func(*bbolt.Bucket) error) {
	t.Helper()
	edit(t, dir, func(tx *bbolt.Tx) error { return fn(tx.Bucket(bucket)) })
}

func editValue(t *testing.T, dir string, bucket, key []byte, fn func([]byte) []byte) {
	t.Helper()
	editBucket(t, dir, bucket, func(b *bbolt.Bucket) error { return b.Put(key, fn(b.Get(key))) })
}

func editState(t *testing.T, dir string, fn func(*state)) {
	t.Helper()
	edit(t, dir, func(tx *bbolt.Tx) error {
		payload, err := get(tx, metaBucket, stateKey)
		if err != nil {
			return err
		}
		s, err := decodeState(payload)
		if err != nil {
			return err
		}
		fn(&s)
		return put(tx, metaBucket, stateKey, s.encode())
	})
}

func overwrite(t *testing.T, dir string, data []byte) {
	t.Helper()
	if err := os.WriteFile(filepath.Join(dir, fileName), data, 0o600); err != nil {
		t.Fatal(err)
	}
}

func remove(t *testing.T, dir, name string) {
	t.Helper()
	if err := os.Remove(filepath.Join(dir, name)); err != nil {
		t.Fatal(err)
	}
}

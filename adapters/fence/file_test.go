package fence

import (
	"errors"
	"maps"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"pgregory.net/rapid"
)

func openFile(t *testing.T, path string) *File {
	t.Helper()
	f, err := OpenFile(path)
	ok(t, err)
	t.Cleanup(func() { _ = f.Close() }) // some are closed already
	return f
}

func TestFileOutlivesTheProcess(t *testing.T) {
	path := filepath.Join(t.TempDir(), "marks")
	f := openFile(t, path)
	g := newGuard(t, Options{Marks: f})
	ok(t, g.Admit(t.Context(), "s", 7))
	ok(t, g.Admit(t.Context(), "shard/mesh.demo/07", MaxFence))
	ok(t, f.Save(t.Context(), map[string]uint64{"s": 3})) // lowers nothing
	if _, err := OpenFile(path); err == nil || !strings.Contains(err.Error(), "another process") {
		t.Errorf("opened twice: %v", err)
	}
	ok(t, f.Close())
	g = newGuard(t, Options{Marks: openFile(t, path)})
	stale(t, g.Admit(t.Context(), "s", 6), 6, 7)
	ok(t, g.Admit(t.Context(), "s", 7))
	stale(t, g.Admit(t.Context(), "shard/mesh.demo/07", 8), 8, MaxFence)
}

// A crash between the two files leaves the old one, and the new is begun again.
func TestHalfWrittenFileIsNotRead(t *testing.T) {
	path := filepath.Join(t.TempDir(), "marks")
	f := openFile(t, path)
	ok(t, f.Save(t.Context(), map[string]uint64{"s": 7}))
	ok(t, f.Close())
	ok(t, os.WriteFile(path+".new", []byte("leadership-marks 1 half"), 0o600))
	f = openFile(t, path)
	ok(t, f.Save(t.Context(), map[string]uint64{"t": 1}))
	got, err := f.Load(t.Context())
	ok(t, err)
	if !maps.Equal(got, map[string]uint64{"s": 7, "t": 1}) {
		t.Errorf("%v", got)
	}
}

func TestDamagedFileIsRefused(t *testing.T) {
	dir := t.TempDir()
	path := filepath.Join(dir, "marks")
	f := openFile(t, path)
	ok(t, f.Save(t.Context(), map[string]uint64{"a": 7, "b": 12}))
	ok(t, f.Close())
	good, err := os.ReadFile(path)
	ok(t, err)
	// Every bit counts, and every length.
	for i := range good {
		bad := append([]byte(nil), good...)
		bad[i] ^= 1
		if marks, err := parseFile(bad); err == nil {
			t.Errorf("byte %d changed to %q: %v", i, bad[i], marks)
		}
		if marks, err := parseFile(good[:i]); err == nil {
			t.Errorf("%d bytes of it: %v", i, marks)
		}
	}
	ok(t, os.WriteFile(path, good[:len(good)-1], 0o600))
	if _, err := OpenFile(path); err == nil || !strings.Contains(err.Error(), "damaged") {
		t.Errorf("%v", err)
	}
	ok(t, os.WriteFile(path, make([]byte, maxFile+1), 0o600))
	if _, err := OpenFile(path); err == nil || !strings.Contains(err.Error(), "larger") {
		t.Errorf("%v", err)
	}
	if _, err := OpenFile(filepath.Join(dir, "none", "marks")); !errors.Is(err, os.ErrNotExist) {
		t.Errorf("%v", err)
	}
}

// A disk that cannot be written to admits nobody new.
func TestFileThatCannotBeWritten(t *testing.T) {
	path := filepath.Join(t.TempDir(), "marks")
	f := openFile(t, path)
	g := newGuard(t, Options{Marks: f})
	ok(t, g.Admit(t.Context(), "s", 5))
	ok(t, os.Mkdir(path+".new", 0o700)) // where the new file would be written
	refusedAs[*NotReadyError](t, g.Admit(t.Context(), "s", 6))
	ok(t, os.Remove(path+".new"))
	until(t, "the disk is tried again", func() bool { return g.Admit(t.Context(), "s", 6) == nil })
}

func TestFileSaysWhatItIsGiven(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		marks := rapid.MapOf(rapid.SampledFrom(scopes), rapid.Uint64Range(1, MaxFence)).Draw(t, "marks")
		got, err := parseFile(formatFile(marks))
		if err != nil || !maps.Equal(got, marks) {
			t.Fatalf("%v became %v, %v", marks, got, err)
		}
	})
}

var scopes = []string{"a", "b", "global-control", "shard/mesh.demo/00", "shard/mesh.demo/01", strings.Repeat("x/", 7) + "x"}

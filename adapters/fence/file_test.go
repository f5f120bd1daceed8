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

// A process on its way out does not take away what the next one saved.
func TestFileIsNotSavedAfterClose(t *testing.T) {
	path := filepath.Join(t.TempDir(), "marks")
	old := openFile(t, path)
	ok(t, old.Save(t.Context(), map[string]uint64{"s": 5}))
	ok(t, old.Close())
	f := openFile(t, path)
	ok(t, f.Save(t.Context(), map[string]uint64{"s": 7}))
	if err := old.Save(t.Context(), map[string]uint64{"t": 1}); err == nil {
		t.Error("saved after it was closed")
	}
	ok(t, f.Close())
	got, err := openFile(t, path).Load(t.Context())
	ok(t, err)
	if !maps.Equal(got, map[string]uint64{"s": 7}) {
		t.Errorf("%v", got)
	}
}

// A file has one lock, by whatever links it is found, and stays where it is.
func TestFileBehindALink(t *testing.T) {
	dir := t.TempDir()
	data, links := filepath.Join(dir, "data"), filepath.Join(dir, "links")
	ok(t, os.Mkdir(data, 0o700))
	ok(t, os.Symlink(data, links))
	path, link := filepath.Join(data, "marks"), filepath.Join(dir, "marks")
	ok(t, os.Symlink(path, link))
	if _, err := OpenFile(link); err == nil {
		t.Error("opened a link that leads to no file")
	}
	f := openFile(t, filepath.Join(links, "marks")) // made there
	ok(t, f.Save(t.Context(), map[string]uint64{"s": 5}))
	for _, name := range []string{path, link, filepath.Join(links, "marks")} {
		if _, err := OpenFile(name); err == nil {
			t.Errorf("opened twice, as %s", name)
		}
	}
	ok(t, f.Close())
	f = openFile(t, link)
	ok(t, f.Save(t.Context(), map[string]uint64{"s": 9}))
	ok(t, f.Close())
	got, err := openFile(t, path).Load(t.Context())
	ok(t, err)
	if !maps.Equal(got, map[string]uint64{"s": 9}) {
		t.Errorf("by its own name it holds %v", got)
	}
}

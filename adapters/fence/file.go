package fence

import (
	"bufio"
	"bytes"
	"context"
	"errors"
	"fmt"
	"hash/crc32"
	"io"
	"maps"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync"

	"github.com/omnirelay/leadership/core"
)

// fileHead begins a file of marks: its format and the checksum of all that follows,
// one line for each scope: its fence, a space, its id.
const fileHead = "leadership-marks 1 %08x\n"

// maxFile bounds the file that is read: every mark at its longest.
const maxFile = 64 + core.MaxGuardScopes*(maxDigits+2+core.MaxScopeID)

var castagnoli = crc32.MakeTable(crc32.Castagnoli)

// File keeps marks in a file. Each Save writes the whole of it anew, syncs it and
// its directory, and puts it in the place of the one before: a crash leaves one of the
// two. What a guard calls at once is saved at once, so this costs one sync per round of
// elections and not per action. Safe for concurrent use.
type File struct {
	path string
	lock *os.File

	mu     sync.Mutex
	marks  map[string]uint64
	closed bool
}

// OpenFile opens the file of marks at path, or makes an empty one where there is none:
// so whoever deletes it lets stale leaders in, and a Seeder beside it keeps them
// out. A damaged file is refused, and one that another process has open, where the
// system can tell (Unix).
func OpenFile(path string) (*File, error) {
	path, err := target(path)
	if err != nil {
		return nil, fmt.Errorf("fence: %w", err)
	}
	lock, err := lockFile(path + ".lock")
	if err != nil {
		return nil, fmt.Errorf("fence: %w", err)
	}
	f := &File{path: path, lock: lock, marks: map[string]uint64{}}
	switch err := f.read(); {
	case errors.Is(err, os.ErrNotExist):
		err = f.write()
		if err != nil {
			lock.Close()
			return nil, fmt.Errorf("fence: %w", err)
		}
	case err != nil:
		lock.Close()
		return nil, fmt.Errorf("fence: the marks in %s cannot be used: %w; restore the file, or delete it and name a Seeder", path, err)
	}
	return f, nil
}

// target is the file itself, where path leads by links: who opens it by another name
// must find the same lock, and a Save must not put a file in the place of a link.
func target(path string) (string, error) {
	real, err := filepath.EvalSymlinks(path)
	if !errors.Is(err, os.ErrNotExist) {
		return real, err
	}
	if _, err := os.Lstat(path); err == nil {
		return "", fmt.Errorf("%s leads to no file: make it, or remove the link", path)
	}
	dir, err := filepath.EvalSymlinks(filepath.Dir(path))
	return filepath.Join(dir, filepath.Base(path)), err
}

// Close lets another process open the file. It waits for a Save under way; what comes
// later is refused, since it would take away what the next process saved.
func (f *File) Close() error {
	f.mu.Lock()
	defer f.mu.Unlock()
	f.closed = true
	return f.lock.Close()
}

// Load returns the marks in the file.
func (f *File) Load(context.Context) (map[string]uint64, error) {
	f.mu.Lock()
	defer f.mu.Unlock()
	return maps.Clone(f.marks), nil
}

// Save raises marks and returns when they are on the disk. It does not heed its
// context: a write that was begun is brought to its end.
func (f *File) Save(_ context.Context, raised map[string]uint64) error {
	f.mu.Lock()
	defer f.mu.Unlock()
	if f.closed {
		return fmt.Errorf("fence: %s is closed: close it after the last action", f.path)
	}
	before := f.marks
	f.marks = maps.Clone(before)
	for scope, n := range raised {
		f.marks[scope] = max(f.marks[scope], n)
	}
	if err := f.write(); err != nil {
		// What is in the file is unknown: the old or the new. Both may be gone on from.
		f.marks = before
		return fmt.Errorf("fence: %w", err)
	}
	return nil
}

// formatFile is the content of a file of marks.
func formatFile(marks map[string]uint64) []byte {
	var body bytes.Buffer
	for _, scope := range slices.Sorted(maps.Keys(marks)) {
		fmt.Fprintf(&body, "%d %s\n", marks[scope], scope)
	}
	return append(fmt.Appendf(nil, fileHead, crc32.Checksum(body.Bytes(), castagnoli)), body.Bytes()...)
}

func (f *File) write() error {
	data := formatFile(f.marks)
	fresh := f.path + ".new"
	if err := writeSynced(fresh, data); err != nil {
		return err
	}
	if err := os.Rename(fresh, f.path); err != nil {
		return err
	}
	return syncDir(filepath.Dir(f.path))
}

func writeSynced(path string, data []byte) error {
	file, err := os.OpenFile(path, os.O_CREATE|os.O_WRONLY|os.O_TRUNC, 0o600)
	if err != nil {
		return err
	}
	_, err = file.Write(data)
	if err == nil {
		err = file.Sync()
	}
	return errors.Join(err, file.Close())
}

func (f *File) read() error {
	file, err := os.Open(f.path)
	if err != nil {
		return err
	}
	defer file.Close()
	data, err := io.ReadAll(io.LimitReader(file, maxFile+1))
	if err != nil {
		return err
	}
	if len(data) > maxFile {
		return fmt.Errorf("it is larger than %d bytes", maxFile)
	}
	f.marks, err = parseFile(data)
	return err
}

// parseFile reads what write wrote.
func parseFile(data []byte) (map[string]uint64, error) {
	var sum uint32
	head, body, _ := bytes.Cut(data, []byte("\n"))
	if _, err := fmt.Sscanf(string(head)+"\n", fileHead, &sum); err != nil || fmt.Sprintf(fileHead, sum) != string(head)+"\n" {
		return nil, errors.New("it does not begin as a file of marks does")
	}
	if crc32.Checksum(body, castagnoli) != sum {
		return nil, errors.New("it is damaged: its checksum is another")
	}
	marks := map[string]uint64{}
	lines := bufio.NewScanner(bytes.NewReader(body))
	for lines.Scan() {
		number, scope, _ := strings.Cut(lines.Text(), " ")
		n, err := parseNumber("fence", number)
		if err == nil {
			err = core.ParseScopeID(scope)
		}
		if err != nil || n == 0 {
			return nil, fmt.Errorf("line %q is no mark", lines.Text())
		}
		if _, twice := marks[scope]; twice {
			return nil, fmt.Errorf("scope %q has two marks", scope)
		}
		marks[scope] = n
	}
	return marks, lines.Err()
}

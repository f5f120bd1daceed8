package raftlog

import (
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"syscall"
	"time"

	"go.etcd.io/bbolt"
)

const (
	fileName = "raft.db"
	newName  = "raft.db.new" // a file being created, not yet a log
	lockName = "lock"

	ownerWidth = 20 // digits of a process id in the lock file, and to spare

	fileMode = 0o600
	dirMode  = 0o700

	// pageSize is fixed, so that a file can be moved to a machine with other pages.
	pageSize = 4096
)

// makeDirectory creates dir when it is missing and sees to it that it is still
// there after a power failure.
func makeDirectory(dir string) error {
	info, err := os.Stat(dir)
	if err == nil && !info.IsDir() {
		return &Refusal{Reason: ReasonInvalid, Path: dir, Found: "the data directory is a file",
			Remedy: "name a directory, or a path where one can be created"}
	}
	if err == nil {
		return nil
	}
	if err := os.MkdirAll(dir, dirMode); err != nil {
		return unusable(dir, err)
	}
	return syncDirectory(filepath.Dir(dir))
}

// unusable is a refusal for what the operating system does not let us do.
func unusable(path string, err error) *Refusal {
	remedy := "look at the disk and at the system's own log"
	switch {
	case noRoom(err):
		remedy = "make room and start again"
	case errors.Is(err, fs.ErrPermission), errors.Is(err, syscall.EROFS):
		remedy = "let the user that runs this node read and write it"
	}
	return &Refusal{Reason: ReasonInvalid, Path: path, Found: "the data directory cannot be used", Err: bare(err), Remedy: remedy}
}

func noRoom(err error) bool { return errors.Is(err, syscall.ENOSPC) || errors.Is(err, syscall.EDQUOT) }

// bare drops the path from err: the refusal names it already.
func bare(err error) error {
	var pathErr *fs.PathError
	if errors.As(err, &pathErr) {
		return pathErr.Err
	}
	return err
}

func syncDirectory(dir string) error {
	d, err := os.Open(dir)
	if err != nil {
		return unusable(dir, err)
	}
	defer d.Close()
	if err := d.Sync(); err != nil {
		return unusable(dir, err)
	}
	return nil
}

// lock is this process's hold on a data directory. The kernel ends it with the
// process, however that ends: whoever has it knows that no earlier owner lives.
type lock struct {
	file *os.File
	path string
}

func takeLock(dir string) (*lock, error) {
	path := filepath.Join(dir, lockName)
	file, err := os.OpenFile(path, os.O_RDWR|os.O_CREATE, fileMode)
	if err != nil {
		return nil, unusable(path, err)
	}
	l := &lock{file: file, path: path}
	err = syscall.Flock(int(file.Fd()), syscall.LOCK_EX|syscall.LOCK_NB)
	if err == nil {
		return l, nil
	}
	defer file.Close()
	if !errors.Is(err, syscall.EWOULDBLOCK) {
		return nil, unusable(path, err)
	}
	return nil, inUse(dir, l.owner())
}

func inUse(dir, owner string) *Refusal {
	found := "another process uses this data directory"
	if owner != "" {
		found = fmt.Sprintf("process %s uses this data directory", owner)
	}
	return &Refusal{Reason: ReasonInUse, Path: dir, Found: found,
		Remedy: "stop it, or give this node a directory of its own"}
}

// owner is the process id of whoever opened a log here last, empty when nobody did.
func (l *lock) owner() string {
	text, err := io.ReadAll(io.NewSectionReader(l.file, 0, ownerWidth))
	if err != nil {
		return ""
	}
	owner := strings.TrimSpace(string(text))
	if _, err := strconv.ParseUint(owner, 10, 63); err != nil {
		return ""
	}
	return owner
}

// sign notes who holds the lock. It also marks the directory as used. The width is
// fixed, so that it is written in place and needs no room on a full disk.
func (l *lock) sign() error {
	if _, err := l.file.WriteAt(fmt.Appendf(nil, "%*d\n", ownerWidth, os.Getpid()), 0); err != nil {
		return unusable(l.path, err)
	}
	return nil
}

func (l *lock) release() error { return l.file.Close() }

// findFile looks for the log file. It returns false when the directory never held
// one, and refuses what cannot be a log.
func findFile(path string, used bool) (bool, error) {
	info, err := os.Lstat(path)
	switch {
	case errors.Is(err, fs.ErrNotExist) && used:
		return false, damaged(path, "the log is gone from a directory that was in use")
	case errors.Is(err, fs.ErrNotExist):
		return false, nil
	case err != nil:
		return false, unusable(path, err)
	case !info.Mode().IsRegular():
		return false, foreign(path, "not a regular file")
	case info.Size() == 0:
		return false, damaged(path, "the file is empty")
	}
	return true, nil
}

// openFile opens the log file with bbolt. The returned file is bbolt's own: when
// bbolt panicked, its locks may be held, and only the file can still be closed.
func openFile(path string) (db *bbolt.DB, file *os.File, err error) {
	options := &bbolt.Options{
		// Our own lock is held already; this one only keeps bbolt's tools out.
		Timeout:  time.Second,
		PageSize: pageSize,
		// The map finds free pages in constant time. The free list is stored: without
		// it bbolt rebuilds it at opening in a goroutine of its own, where a panic or
		// a fault ends the process.
		FreelistType:   bbolt.FreelistMapType,
		NoFreelistSync: false,
		NoStatistics:   true,
		OpenFile: func(name string, flag int, mode os.FileMode) (*os.File, error) {
			file, err = os.OpenFile(name, flag, mode)
			return file, err
		},
	}
	err = shield(func() error {
		db, err = bbolt.Open(path, fileMode, options)
		return err
	})
	if err != nil && file != nil {
		file.Close() // a second close of what bbolt closed does nothing
	}
	return db, file, err
}

// createFile makes a new, empty log. It appears under its name only when it is
// complete, so that a crash in between leaves nothing half made.
func createFile(dir string, id identity) error {
	path, temp := filepath.Join(dir, fileName), filepath.Join(dir, newName)
	if err := os.Remove(temp); err != nil && !errors.Is(err, fs.ErrNotExist) {
		return unusable(temp, err)
	}
	db, _, err := openFile(temp)
	if err != nil {
		return unusable(temp, err)
	}
	err = shield(func() error { return db.Update(func(tx *bbolt.Tx) error { return writeEmpty(tx, id) }) })
	if err = errors.Join(err, db.Close()); err != nil {
		return unusable(temp, err)
	}
	if err := os.Rename(temp, path); err != nil {
		return unusable(path, err)
	}
	return syncDirectory(dir)
}

func writeEmpty(tx *bbolt.Tx, id identity) error {
	for _, name := range [][]byte{metaBucket, snapshotBucket, entriesBucket, recordsBucket} {
		if _, err := tx.CreateBucket(name); err != nil {
			return err
		}
	}
	if err := put(tx, metaBucket, identityKey, id.encode()); err != nil {
		return err
	}
	if id.store != storeRaft {
		// There from the start: a mark that is missing later was lost.
		if err := put(tx, metaBucket, markKey, nil); err != nil {
			return err
		}
	}
	return put(tx, metaBucket, stateKey, (&state{}).encode())
}

package storeserver

import (
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path/filepath"
	"syscall"
)

// Copy copies the server's data to the directory dst, which must not exist: a
// backup, taken while the server is stopped or killed.
func (s *Server) Copy(dst string) error {
	if err := s.mustRest("copying its data"); err != nil {
		return err
	}
	return copyTree(filepath.Join(s.options.Dir, "data"), dst)
}

// RestoreFrom replaces the server's data by a copy that Copy made. The server must be
// stopped or killed; Restart then goes on from there.
func (s *Server) RestoreFrom(src string) error {
	if err := s.mustRest("restoring a copy"); err != nil {
		return err
	}
	data := filepath.Join(s.options.Dir, "data")
	if err := os.RemoveAll(data); err != nil {
		return fmt.Errorf("storeserver: %w", err)
	}
	if err := copyTree(src, data); err != nil {
		return err
	}
	// PostgreSQL's lock of the process that was killed before the copy was taken: by
	// now its number may be another's.
	if err := os.Remove(filepath.Join(data, "postmaster.pid")); err != nil && !errors.Is(err, fs.ErrNotExist) {
		return fmt.Errorf("storeserver: %w", err)
	}
	return nil
}

func (s *Server) mustRest(what string) error {
	s.mu.Lock()
	defer s.mu.Unlock()
	if !s.process.ended() {
		return fmt.Errorf("storeserver: %s still runs: stop it before %s", s.options.Kind, what)
	}
	return nil
}

// copyTree copies folders, files and symbolic links with their modes and owners.
func copyTree(src, dst string) error {
	if _, err := os.Lstat(dst); err == nil {
		return fmt.Errorf("storeserver: %s exists already: copy to a new place", dst)
	}
	err := filepath.WalkDir(src, func(path string, d fs.DirEntry, err error) error {
		if err != nil {
			return err
		}
		rel, err := filepath.Rel(src, path)
		if err != nil {
			return err
		}
		return copyOne(path, filepath.Join(dst, rel), d)
	})
	if err != nil {
		return fmt.Errorf("storeserver: copying %s: %w", src, err)
	}
	return nil
}

func copyOne(src, dst string, d fs.DirEntry) error {
	info, err := d.Info()
	if err != nil {
		return err
	}
	switch {
	case d.IsDir():
		err = os.Mkdir(dst, info.Mode().Perm())
	case d.Type().IsRegular():
		err = copyFile(src, dst, info.Mode().Perm())
	case d.Type()&fs.ModeSymlink != 0:
		var target string
		if target, err = os.Readlink(src); err == nil {
			err = os.Symlink(target, dst)
		}
	default:
		return nil // sockets and pipes are made again by whoever needs them
	}
	if err != nil {
		return err
	}
	owner, ok := info.Sys().(*syscall.Stat_t)
	if !ok || os.Geteuid() != 0 {
		return nil
	}
	return os.Lchown(dst, int(owner.Uid), int(owner.Gid))
}

func copyFile(src, dst string, mode fs.FileMode) error {
	from, err := os.Open(src)
	if err != nil {
		return err
	}
	defer from.Close()
	to, err := os.OpenFile(dst, os.O_CREATE|os.O_EXCL|os.O_WRONLY, mode)
	if err != nil {
		return err
	}
	_, err = io.Copy(to, from)
	return errors.Join(err, to.Close())
}

// makeData makes the folder for a server's data, for its owner alone.
func makeData(dir string) error {
	if err := os.MkdirAll(filepath.Join(dir, "data"), 0o700); err != nil {
		return fmt.Errorf("storeserver: %w", err)
	}
	return nil
}

// empty removes what is in a folder.
func empty(dir string) error {
	entries, err := os.ReadDir(dir)
	for _, e := range entries {
		err = errors.Join(err, os.RemoveAll(filepath.Join(dir, e.Name())))
	}
	if err != nil {
		return fmt.Errorf("storeserver: %w", err)
	}
	return nil
}

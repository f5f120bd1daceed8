//go:build unix

package fence

import (
	"errors"
	"fmt"
	"os"
	"syscall"
)

// lockFile keeps a second process out for as long as the file is open.
func lockFile(path string) (*os.File, error) {
	file, err := os.OpenFile(path, os.O_CREATE|os.O_RDWR, 0o600)
	if err != nil {
		return nil, err
	}
	if err := syscall.Flock(int(file.Fd()), syscall.LOCK_EX|syscall.LOCK_NB); err != nil {
		file.Close()
		if errors.Is(err, syscall.EWOULDBLOCK) {
			return nil, fmt.Errorf("another process keeps its marks by %s: give each a file of its own, or check the fence in the transaction of the effect", path)
		}
		return nil, err
	}
	return file, nil
}

// syncDir makes a rename durable.
func syncDir(path string) error {
	dir, err := os.Open(path)
	if err != nil {
		return err
	}
	return errors.Join(dir.Sync(), dir.Close())
}

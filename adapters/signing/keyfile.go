package signing

import (
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path/filepath"
)

// The private set lies in a file that only its owner may read. It is changed by
// writing FILE.new beside it and renaming that, so a reader, also after a crash,
// finds the old or the new set whole; FILE.new can be made by one process only, so
// two changes at once cannot lose one of them.

// keyFileMode is the mode of a private key file, and the most it may allow.
const keyFileMode fs.FileMode = 0o600

// CreateKeyFile writes a new private key file. It refuses to replace one.
func CreateKeyFile(path string, s *KeySet) error {
	return replace(path, func() (*KeySet, error) {
		if _, err := os.Lstat(path); !errors.Is(err, fs.ErrNotExist) {
			return nil, fmt.Errorf("%s: is there already; a new key set would end every token of the old one", path)
		}
		return s, nil
	})
}

// ChangeKeyFile lets change work on the set in the file and writes it back, unless
// change fails.
func ChangeKeyFile(path string, change func(*KeySet) error) error {
	path, err := filepath.EvalSymlinks(path) // what a link points to is replaced, not the link
	if err != nil {
		return err
	}
	return replace(path, func() (*KeySet, error) {
		s, err := ReadKeyFile(path)
		if err != nil {
			return nil, err
		}
		return s, change(s)
	})
}

// ReadKeyFile reads a private key file. It refuses one that others than its owner
// may read or write.
func ReadKeyFile(path string) (*KeySet, error) {
	f, err := os.Open(path)
	if err != nil {
		return nil, err
	}
	defer f.Close()
	info, err := f.Stat()
	if err != nil {
		return nil, err
	}
	if info.Mode().Perm()&^keyFileMode != 0 {
		return nil, fmt.Errorf("%s: mode %04o lets others at the private keys, want %04o: chmod 600 %s", path, info.Mode().Perm(), keyFileMode, path)
	}
	data, err := readLimited(f)
	if err != nil {
		return nil, fmt.Errorf("%s: %w", path, err)
	}
	s, err := ParseKeySet(data)
	if err != nil {
		return nil, fmt.Errorf("%s: %w", path, err)
	}
	return s, nil
}

// readLimited reads a key set, private or published.
func readLimited(r io.Reader) ([]byte, error) {
	data, err := io.ReadAll(io.LimitReader(r, MaxKeySetBytes+1))
	if err != nil {
		return nil, err
	}
	if len(data) > MaxKeySetBytes {
		return nil, fmt.Errorf("larger than the %d bytes a key set may have", MaxKeySetBytes)
	}
	return data, nil
}

// replace holds path's one FILE.new, asks for the set to write, and puts it in the
// place of path, durably.
func replace(path string, content func() (*KeySet, error)) (err error) {
	fresh := path + ".new"
	f, err := os.OpenFile(fresh, os.O_WRONLY|os.O_CREATE|os.O_EXCL, keyFileMode)
	if errors.Is(err, fs.ErrExist) {
		return fmt.Errorf("%s: is there: another change is under way; if none is, one was cut off: remove that file", fresh)
	}
	if err != nil {
		return err
	}
	defer func() {
		if err != nil {
			_ = f.Close()
			_ = os.Remove(fresh)
		}
	}()
	set, err := content()
	if err != nil {
		return err
	}
	data, err := set.JSON()
	if err != nil {
		return err
	}
	if err := errors.Join(f.Chmod(keyFileMode), writeDurably(f, data)); err != nil {
		return err
	}
	if err := os.Rename(fresh, path); err != nil {
		return err
	}
	return syncDirectory(filepath.Dir(path))
}

func writeDurably(f *os.File, data []byte) error {
	if _, err := f.Write(data); err != nil {
		return err
	}
	if err := f.Sync(); err != nil {
		return err
	}
	return f.Close()
}

func syncDirectory(path string) error {
	d, err := os.Open(path)
	if err != nil {
		return err
	}
	defer d.Close()
	return d.Sync()
}

package raftlog

import (
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"

	"go.etcd.io/bbolt"
)

// A log is sealed while the registry in it must not be served: it has moved
// elsewhere, or is still being moved in. Open refuses it, whoever asks; only the
// command that moves registries opens it (Options.Sealed).

// MaxSeal bounds the reason of a seal, in bytes.
const MaxSeal = 1024

var sealKey = []byte("seal")

// Seal makes Open refuse this log from now on, with the reason: 1 to MaxSeal bytes.
// The reason of an earlier seal is replaced. It is durable when Seal returns.
func (l *Log) Seal(reason string) error {
	if reason == "" || len(reason) > MaxSeal {
		return fmt.Errorf("a seal's reason has %d bytes: want 1 to %d", len(reason), MaxSeal)
	}
	return l.update("seal", func(s *step) error {
		// A program that does not know seals refuses the newer layout instead.
		newer := s.id
		newer.schema = schema
		if err := put(s.tx, metaBucket, identityKey, newer.encode()); err != nil {
			return err
		}
		return put(s.tx, metaBucket, sealKey, []byte(reason))
	})
}

// Unseal lets Open open this log again. It is durable when Unseal returns.
func (l *Log) Unseal() error {
	return l.update("unseal", func(s *step) error {
		if err := put(s.tx, metaBucket, identityKey, s.id.encode()); err != nil {
			return err
		}
		return s.tx.Bucket(metaBucket).Delete(sealKey)
	})
}

// Sealed is the reason of the seal, empty when there is none.
func (l *Log) Sealed() (reason string, err error) {
	l.mu.Lock()
	defer l.mu.Unlock()
	if l.err != nil {
		return "", l.err
	}
	err = shield(func() error {
		return l.db.View(func(tx *bbolt.Tx) error {
			reason, err = sealOf(tx)
			return err
		})
	})
	if err != nil {
		return "", l.shut("read the seal", err)
	}
	return reason, nil
}

func sealOf(tx *bbolt.Tx) (string, error) {
	if tx.Bucket(metaBucket).Get(sealKey) == nil {
		return "", nil
	}
	reason, err := get(tx, metaBucket, sealKey)
	return string(reason), err
}

// seal refuses a sealed log.
func (r *reader) seal() error {
	reason, err := sealOf(r.tx)
	if err != nil || reason == "" || r.sealed {
		return err
	}
	return &Refusal{Reason: ReasonSealed, Path: r.path, Found: "this log is sealed: " + reason,
		Remedy: "serve the registry where it is now; a data directory of a registry that moved is of use to leaderd migrate only"}
}

// Exists reports whether a data directory holds, or held, a log.
func Exists(dir string) (bool, error) {
	_, err := os.Lstat(filepath.Join(dir, fileName))
	if errors.Is(err, fs.ErrNotExist) {
		return false, nil
	}
	if err != nil {
		return false, unusable(dir, err)
	}
	return true, nil
}

// Install makes the log in the directory staged, which is closed, the log of dir, all
// at once. What dir held before stays beside it under the name aside. Both must be on one file
// system, and nobody may use either.
func Install(dir, staged, aside string) error {
	if err := makeDirectory(dir); err != nil {
		return err
	}
	lock, err := takeLock(dir)
	if err != nil {
		return err
	}
	err = lock.sign()
	if err == nil {
		err = install(dir, staged, aside)
	}
	return errors.Join(err, lock.release())
}

func install(dir, staged, aside string) error {
	path, kept := filepath.Join(dir, fileName), filepath.Join(dir, aside)
	err := os.Link(path, kept)
	// What is there under that name was put aside by an attempt that was interrupted.
	if err != nil && !errors.Is(err, fs.ErrNotExist) && !errors.Is(err, fs.ErrExist) {
		return unusable(kept, err)
	}
	if err := os.Rename(filepath.Join(staged, fileName), path); err != nil {
		return unusable(path, err)
	}
	return syncDirectory(dir)
}

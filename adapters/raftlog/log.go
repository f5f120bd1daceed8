// Package raftlog is the durable log of one replica: raft's hard state, entries
// and snapshot, and the audit trail, in one bbolt file of a data directory that
// one process holds at a time. Of a replica whose registry lies in an external store
// it holds the mark of what that replica saw there, and nothing else.
//
// It believes nothing it reads back. Every value carries a checksum, the state
// holds the extent of everything else, the pages are walked before bbolt maps
// them, and a panic of bbolt is an error. What does not add up is refused with a
// Refusal; nothing is repaired by guessing. The one thing it cannot notice is an
// older copy of a whole data directory, sound in itself: never restore one for a
// voter.
package raftlog

import (
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"sync"
	"syscall"

	"go.etcd.io/bbolt"
	bbolterrors "go.etcd.io/bbolt/errors"

	"github.com/omnirelay/leadership/core"
)

const (
	// MaxClusterID bounds Options.ClusterID, in bytes.
	MaxClusterID = 128
	// MaxStore bounds Options.Store, in bytes.
	MaxStore = 32
	// MaxRecordsRead bounds what one call of Records returns.
	MaxRecordsRead = 1_000
)

// Options says which log to open.
type Options struct {
	Dir       string      // the data directory; created when missing
	ClusterID string      // 1 to MaxClusterID bytes
	NodeID    core.NodeID // not 0
	// Store names where the registry is kept, at most MaxStore bytes. Empty or raft:
	// in this log. A directory of one store is refused for another.
	Store string
	// Sealed opens a sealed log too: see Seal.
	Sealed bool
}

func (o Options) validate() error {
	var errs []error
	if o.Dir == "" {
		errs = append(errs, errors.New("Dir is empty: name the data directory"))
	}
	if o.ClusterID == "" || len(o.ClusterID) > MaxClusterID {
		errs = append(errs, fmt.Errorf("ClusterID has %d bytes: want 1 to %d", len(o.ClusterID), MaxClusterID))
	}
	if o.NodeID == 0 {
		errs = append(errs, errors.New("NodeID is 0: want the id of this replica, 1 or more"))
	}
	if len(o.Store) > MaxStore {
		errs = append(errs, fmt.Errorf("Store has %d bytes: want at most %d", len(o.Store), MaxStore))
	}
	return errors.Join(errs...)
}

func (o Options) identity() identity {
	id := identity{schema: schemaRaft, node: o.NodeID, cluster: o.ClusterID, store: storeRaft}
	if o.Store != "" && o.Store != storeRaft {
		id.schema, id.store = schema, o.Store
	}
	return id
}

// Log is an open log. It is a core.Log. Its methods may be called from several
// goroutines; they wait for each other.
type Log struct {
	path string
	id   identity
	lock *lock
	file *os.File
	db   *bbolt.DB

	mu    sync.Mutex
	state state // what is durable
	err   error // the first storage error, or ErrClosed
}

var _ core.Log = (*Log)(nil)

// Open opens the log in a data directory, or makes a new one in a directory that
// never held one, and returns what it holds. It reads and verifies all of it. A
// directory it cannot vouch for is left as it is; the error is then a *Refusal.
func Open(o Options) (*Log, core.Boot, error) {
	if err := o.validate(); err != nil {
		return nil, core.Boot{}, err
	}
	if err := makeDirectory(o.Dir); err != nil {
		return nil, core.Boot{}, err
	}
	lock, err := takeLock(o.Dir)
	if err != nil {
		return nil, core.Boot{}, err
	}
	l := &Log{path: filepath.Join(o.Dir, fileName), lock: lock, id: o.identity()}
	boot, err := l.open(o)
	if err != nil {
		_ = l.release(err) // what closing says beside err would only hide it
		return nil, core.Boot{}, l.id.refusal(err)
	}
	return l, boot, nil
}

// refusal is err with the remedy for this kind of log.
func (i identity) refusal(err error) error {
	var r *Refusal
	if errors.As(err, &r) && r.Reason == ReasonDamaged && i.store != storeRaft {
		r.Remedy = markRemedy
	}
	return err
}

func (l *Log) open(o Options) (core.Boot, error) {
	found, err := findFile(l.path, l.lock.owner() != "")
	if err != nil {
		return core.Boot{}, err
	}
	if !found {
		if err := createFile(o.Dir, l.id); err != nil {
			return core.Boot{}, err
		}
	}
	if err := l.checkFile(); err != nil {
		return core.Boot{}, err
	}
	if l.db, l.file, err = openFile(l.path); err != nil {
		return core.Boot{}, l.openRefusal(o.Dir, err)
	}
	boot, err := l.load(l.id, o.Sealed)
	if err != nil {
		return core.Boot{}, err
	}
	return boot, l.lock.sign()
}

func (l *Log) openRefusal(dir string, err error) error {
	var errno syscall.Errno
	switch {
	case errors.Is(err, bbolterrors.ErrTimeout):
		return inUse(dir, "")
	case errors.As(err, &errno): // nothing is said about the content
		return unusable(l.path, err)
	}
	r := damaged(l.path, "bbolt cannot open it")
	r.Err = err
	return r
}

// checkFile walks the pages of the file.
func (l *Log) checkFile() error {
	file, err := os.Open(l.path)
	if err != nil {
		return unusable(l.path, err)
	}
	defer file.Close()
	info, err := file.Stat()
	if err != nil {
		return unusable(l.path, err)
	}
	err = checkStructure(file, info.Size())
	switch {
	case errors.Is(err, notBolt{}) && l.lock.owner() != "":
		return damaged(l.path, "the start of the file was overwritten")
	case errors.Is(err, notBolt{}):
		return foreign(l.path, "not a bbolt file")
	case err != nil:
		r := damaged(l.path, "its pages do not add up")
		r.Err = err
		return r
	}
	return nil
}

// LastSession is the session that SetSession noted last, 0 when none. Right after
// Open it is the session of an earlier process, which is dead: this one holds its
// lock.
func (l *Log) LastSession() uint64 {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.state.session
}

// SetSession makes the id of this process's session durable, so that the next
// process can name the session it replaces. Call it before the session is used.
func (l *Log) SetSession(id uint64) error {
	return l.update("note the session", func(s *step) error {
		s.session = id
		return nil
	})
}

// update runs one transaction: fn's changes and the state become durable
// together, or the log is shut. After a failed sync of the meta page bbolt shows
// the failed transaction as committed, and later ones succeed on top of it: so
// nothing is written or read any more after the first error.
func (l *Log) update(doing string, fn func(*step) error) error {
	l.mu.Lock()
	defer l.mu.Unlock()
	if l.err != nil {
		return l.err
	}
	next := &step{state: l.state, id: l.id}
	err := shield(func() error {
		return l.db.Update(func(tx *bbolt.Tx) error {
			next.tx = tx
			if err := fn(next); err != nil {
				return err
			}
			if err := next.check(); err != nil {
				return err
			}
			return put(tx, metaBucket, stateKey, next.encode())
		})
	})
	if err != nil {
		return l.shut(doing, err)
	}
	l.state = next.state
	return nil
}

// shut latches the log on its first error and returns that error as the caller
// sees it; every later call returns it again, wrapped.
func (l *Log) shut(doing string, err error) error {
	hint := ""
	if noRoom(err) {
		hint = " (make room, then restart the node: what was acknowledged is kept)"
	}
	first := fmt.Errorf("%s: %s: %w%s", l.path, doing, err, hint)
	l.err = fmt.Errorf("%w: %w", ErrShut, first)
	return first
}

// Close gives the data directory free. Later calls of any method return ErrClosed.
func (l *Log) Close() error {
	l.mu.Lock()
	defer l.mu.Unlock()
	if errors.Is(l.err, ErrClosed) {
		return nil
	}
	cause := l.err
	l.err = ErrClosed
	return l.release(cause)
}

// release closes the file and the lock. After a panic bbolt may hold locks of its
// own for ever: then only the file is closed, and its map stays until the process
// ends.
func (l *Log) release(cause error) error {
	var gaveUp *panicError
	var err error
	switch {
	case l.db == nil:
	case errors.As(cause, &gaveUp):
		err = l.file.Close()
	default:
		err = l.db.Close()
	}
	return errors.Join(err, l.lock.release())
}

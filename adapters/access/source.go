package access

import (
	"context"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"os"
	"strings"
	"sync"
	"time"
)

// keySource has the keys in force.
type keySource interface {
	// find returns the keys for a token's header. It may wait for them, until ctx ends
	// or for fetchWithin.
	find(ctx context.Context, id, algorithm string) []verifyKey
	close()
}

// keyFile reads keys from a file, again whenever it changed. What cannot be read
// leaves the last good keys in force.
type keyFile struct {
	path   string
	logger *slog.Logger

	mu      sync.Mutex
	seen    os.FileInfo // of the keys in force
	failed  os.FileInfo // of what could not be read; logged once
	missing bool        // the file was not there; logged once
	keys    *keySet
}

func newKeyFile(path string, logger *slog.Logger) (*keyFile, error) {
	f := &keyFile{path: path, logger: logger}
	var err error
	if f.keys, f.seen, err = f.read(); err != nil {
		return nil, err
	}
	return f, nil
}

func (f *keyFile) close() {}

func (f *keyFile) find(_ context.Context, id, algorithm string) []verifyKey {
	f.mu.Lock()
	defer f.mu.Unlock()
	f.look()
	return f.keys.find(id, algorithm)
}

func (f *keyFile) look() {
	info, err := os.Stat(f.path)
	switch {
	case err != nil:
		if !f.missing {
			f.logger.Warn("the keys of bearer tokens cannot be read; the last good ones stay in force", "error", err)
		}
		f.missing = true
		return
	case sameFile(info, f.seen), sameFile(info, f.failed):
		return
	}
	f.missing = false
	keys, seen, err := f.read()
	if err != nil {
		f.failed = info
		f.logger.Warn("the keys of bearer tokens cannot be read; the last good ones stay in force", "error", err)
		return
	}
	f.keys, f.seen, f.failed = keys, seen, nil
	f.logger.Info("the keys of bearer tokens were read again", "file", f.path, "keys", len(keys.keys))
}

// sameFile reports whether nothing was written between two looks. The file itself is
// compared too: two replacements may share a tick of the clock.
func sameFile(a, b os.FileInfo) bool {
	return a != nil && b != nil && os.SameFile(a, b) && a.ModTime().Equal(b.ModTime()) && a.Size() == b.Size()
}

// read returns the keys and the state of the file they were read from.
func (f *keyFile) read() (*keySet, os.FileInfo, error) {
	file, err := os.Open(f.path)
	if err != nil {
		return nil, nil, err
	}
	defer file.Close()
	info, err := file.Stat()
	if err != nil {
		return nil, nil, err
	}
	keys, err := readKeys(file)
	if err != nil {
		return nil, nil, fmt.Errorf("%s: %w", f.path, err)
	}
	return keys, info, nil
}

// readKeys reads one byte more than allowed, so that the excess is seen.
func readKeys(r io.Reader) (*keySet, error) {
	data, err := io.ReadAll(io.LimitReader(r, maxKeySetBytes+1))
	if err != nil {
		return nil, err
	}
	return parseKeySet(data)
}

// Times of keys that are fetched.
const (
	fetchWithin = 5 * time.Second  // one fetch
	fetchEvery  = 5 * time.Minute  // while nobody misses a key
	fetchPause  = 10 * time.Second // between two fetches, whatever asks for them
)

// keyURL fetches keys, when they are old and when a token names one that is not
// known. Tokens with made-up names cause no more than one fetch every fetchPause.
// While fetching fails the last good keys stay in force.
type keyURL struct {
	fetch  func(ctx context.Context) (*keySet, error)
	now    func() time.Time
	logger *slog.Logger
	ctx    context.Context // ends with close
	stop   context.CancelFunc
	work   sync.WaitGroup

	mu      sync.Mutex
	keys    *keySet       // nil: none was ever fetched
	tried   time.Time     // when the last fetch began
	failed  bool          // the last one did
	running chan struct{} // closed when the fetch under way ends; nil: none is
}

func newKeyURL(fetch func(ctx context.Context) (*keySet, error), now func() time.Time, logger *slog.Logger) *keyURL {
	u := &keyURL{fetch: fetch, now: now, logger: logger}
	u.ctx, u.stop = context.WithCancel(context.Background())
	u.mu.Lock()
	defer u.mu.Unlock()
	u.begin()
	return u
}

// close ends a fetch under way and waits for it.
func (u *keyURL) close() {
	u.mu.Lock()
	u.stop()
	u.mu.Unlock()
	u.work.Wait()
}

func (u *keyURL) find(ctx context.Context, id, algorithm string) []verifyKey {
	u.mu.Lock()
	found := u.keys.find(id, algorithm)
	age := u.now().Sub(u.tried)
	due := age >= fetchEvery || len(found) == 0 && age >= fetchPause || age < 0
	if due && u.running == nil && u.ctx.Err() == nil {
		u.begin()
	}
	running := u.running
	u.mu.Unlock()
	if len(found) > 0 || running == nil {
		return found
	}
	select {
	case <-running:
	case <-ctx.Done():
	}
	u.mu.Lock()
	defer u.mu.Unlock()
	return u.keys.find(id, algorithm)
}

// begin starts a fetch. u.mu is held.
func (u *keyURL) begin() {
	u.tried = u.now()
	done := make(chan struct{})
	u.running = done
	u.work.Go(func() {
		defer close(done)
		ctx, cancel := context.WithTimeout(u.ctx, fetchWithin)
		defer cancel()
		keys, err := u.fetch(ctx)
		u.mu.Lock()
		defer u.mu.Unlock()
		u.running = nil
		u.take(keys, err)
	})
}

func (u *keyURL) take(keys *keySet, err error) {
	switch {
	case err == nil:
		if u.failed {
			u.logger.Info("the keys of bearer tokens were fetched again", "keys", len(keys.keys))
		}
		u.keys, u.failed = keys, false
	case !errors.Is(err, context.Canceled):
		if !u.failed {
			u.logger.Warn("the keys of bearer tokens cannot be fetched; the last good ones stay in force", "error", err)
		}
		u.failed = true
	}
}

// newKeySource opens what Options name.
func newKeySource(o Options) (keySource, error) {
	if !strings.Contains(o.Bearer.JWKS, "://") {
		f, err := newKeyFile(o.Bearer.JWKS, o.Logger)
		if err != nil {
			return nil, fmt.Errorf("the keys of bearer tokens: %w", err)
		}
		return f, nil
	}
	fetch := o.fetch
	if fetch == nil {
		var err error
		if fetch, err = newFetch(o.Bearer.JWKS, o.Bearer.CA); err != nil {
			return nil, err
		}
	}
	return newKeyURL(fetch, o.now, o.Logger), nil
}

package signing

import (
	"log/slog"
	"os"
	"sync"
	"time"
)

const (
	// lookEvery is how often at most a file is asked whether it changed.
	lookEvery = time.Second
	// settled is how old a file's time must be when it is read, so that a later
	// change cannot leave it with the same one.
	settled = 2 * time.Second
)

// watched is the content of a file, read again when the file changes. While the file
// cannot be used the last good content stays in force.
type watched[T any] struct {
	path   string
	read   func(path string) (T, error)
	logger *slog.Logger
	now    func() time.Time

	mu      sync.Mutex
	looked  time.Time
	readAt  time.Time
	seen    os.FileInfo // of the file as it was read last, good or bad; nil: it was missing
	problem string      // of the last reading; logged once
	content T
}

// watch reads the file and fails when it cannot be used now.
func watch[T any](path string, read func(string) (T, error), logger *slog.Logger, now func() time.Time) (*watched[T], error) {
	if logger == nil {
		logger = slog.New(slog.DiscardHandler)
	}
	if now == nil {
		now = time.Now
	}
	w := &watched[T]{path: path, read: read, logger: logger, now: now, looked: now(), readAt: now()}
	w.seen, _ = os.Stat(path) // a missing file is read's to report
	content, err := read(path)
	if err != nil {
		return nil, err
	}
	w.content = content
	return w, nil
}

// get returns what is in force, after a look at the file if the last is a while ago.
func (w *watched[T]) get() T {
	w.mu.Lock()
	defer w.mu.Unlock()
	now := w.now()
	// A clock that was set back must not stop the looking.
	if since := now.Sub(w.looked); since >= 0 && since < lookEvery {
		return w.content
	}
	w.looked = now
	info, _ := os.Stat(w.path)
	if w.unchanged(info) {
		return w.content
	}
	w.seen, w.readAt = info, now
	content, err := w.read(w.path)
	if err != nil {
		w.report(err)
		return w.content
	}
	w.content, w.problem = content, ""
	w.logger.Info("keys re-read", "file", w.path)
	return w.content
}

func (w *watched[T]) unchanged(info os.FileInfo) bool {
	if info == nil || w.seen == nil {
		return info == nil && w.seen == nil
	}
	return os.SameFile(info, w.seen) && info.Size() == w.seen.Size() && info.Mode() == w.seen.Mode() &&
		info.ModTime().Equal(w.seen.ModTime()) && w.readAt.Sub(info.ModTime()) >= settled
}

func (w *watched[T]) report(err error) {
	if err.Error() != w.problem {
		w.problem = err.Error()
		w.logger.Warn("keys cannot be re-read; the last good ones stay in force", "error", err)
	}
}

package main

import (
	"context"
	"fmt"
	"log/slog"
	"sync"
	"time"

	"github.com/omnirelay/leadership/adapters/config"
	"github.com/omnirelay/leadership/core"
)

const (
	// firstOpenWithin is how long a node waits for its store before it starts without.
	firstOpenWithin = 2 * time.Second
	openWithin      = 10 * time.Second
	openPause       = 200 * time.Millisecond // after the first failure, then longer
	maxOpenPause    = 2 * time.Second
)

// lateStore is a store that need not be reachable yet: a node comes up, says what it
// lacks, and goes on when the server is there.
type lateStore struct {
	open func(context.Context) (store, error)

	mu     sync.Mutex
	store  store
	reason error         // why it is not open
	there  chan struct{} // closed when it is
}

// newLateStore tries once to open the configured store. It refuses one that is unfit.
func newLateStore(c *config.Config, logger *slog.Logger) (*lateStore, error) {
	l := &lateStore{there: make(chan struct{}), open: func(ctx context.Context) (store, error) { return openStore(ctx, c, logger) }}
	err := l.try(context.Background(), firstOpenWithin)
	if isUnfit(err) {
		return nil, err
	}
	return l, nil
}

func (l *lateStore) try(ctx context.Context, within time.Duration) error {
	ctx, cancel := context.WithTimeout(ctx, within)
	defer cancel()
	s, err := l.open(ctx)
	l.mu.Lock()
	defer l.mu.Unlock()
	if l.reason = err; err == nil {
		l.store = s
		close(l.there)
	}
	return err
}

// run tries until the store is open or ctx ends. The error is that of a store which
// must not be used.
func (l *lateStore) run(ctx context.Context) error {
	for pause := openPause; !l.isOpen(); pause = min(2*pause, maxOpenPause) {
		select {
		case <-ctx.Done():
			return nil
		case <-time.After(pause):
		}
		if err := l.try(ctx, openWithin); isUnfit(err) {
			return fmt.Errorf("the store must not be used: %w", err)
		}
	}
	return nil
}

func (l *lateStore) isOpen() bool {
	select {
	case <-l.there:
		return true
	default:
		return false
	}
}

// Do waits for the store as long as the call may take.
func (l *lateStore) Do(ctx context.Context, c *core.StoreCall) *core.StoreReply {
	if l.isOpen() {
		return l.store.Do(ctx, c)
	}
	ctx, cancel := context.WithTimeout(ctx, c.Timeout)
	defer cancel()
	select {
	case <-l.there:
		return l.store.Do(ctx, c)
	case <-ctx.Done():
	}
	l.mu.Lock()
	defer l.mu.Unlock()
	return &core.StoreReply{ID: c.ID, Status: core.StoreFailed, Text: fmt.Sprintf("it could not be reached since this node started: %v", l.reason)}
}

// Close closes the store. run and all calls must have returned.
func (l *lateStore) Close() error {
	if !l.isOpen() {
		return nil
	}
	return l.store.Close()
}

// Package redislog is a log of a registry on Redis: the calls of core/store.go on a
// single primary that keeps everything it acknowledges (docs/redis.md).
//
// Each call is one Lua script, which Redis runs by itself from its begin to its end
// and writes to its append-only file as one transaction. Each script first finds out
// which server runs it (run_id and master_replid: a restart changes the first, a
// promotion the second) and whether that is a primary with an append-only file, then
// whether the call's guard holds, and only then writes.
package redislog

import (
	"context"
	"errors"
	"fmt"
	"sync"
	"time"

	"github.com/redis/go-redis/v9"

	"github.com/omnirelay/leadership/core"
)

const (
	openTimeout = 10 * time.Second
	// maxTimeout bounds a call, whatever its caller says.
	maxTimeout = 5 * time.Minute
)

// Store is a connected store. Its methods may be called concurrently.
type Store struct {
	options Options
	keys    keys
	calls   *redis.Client
	waits   *redis.Client // connections on which nothing but waiting is done
	fitness fitness

	ended context.Context // done when the store is closed
	end   context.CancelFunc
	mu    sync.Mutex // guards Add of work against Wait
	work  sync.WaitGroup
}

// Open connects to the server and checks that it is fit to keep the log: a single
// primary with AOF always, without Sentinel or Cluster, with no other cluster's or
// newer data under the prefix. ctx bounds the opening, at most 10 s. It changes nothing.
//
// When trying again cannot help (the server is unfit, or o is wrong), the error has
// the method Unfit() bool, and that returns true.
func Open(ctx context.Context, o Options) (*Store, error) {
	if err := o.validate(); err != nil {
		return nil, err
	}
	ctx, cancel := context.WithTimeout(ctx, openTimeout)
	defer cancel()
	s := &Store{options: o, keys: keysUnder(o.Prefix)}
	s.fitness.turn = make(chan struct{}, 1)
	s.ended, s.end = context.WithCancel(context.Background())
	s.calls = connect(o, callConnections, maxTimeout)
	s.waits = connect(o, waitConnections, maxBlock)
	if err := s.greet(ctx); err != nil {
		_ = s.Close() // what closing says beside the reason would only hide it
		return nil, fmt.Errorf("redis %s: %w", o.Address, err)
	}
	return s, nil
}

func (s *Store) greet(ctx context.Context) error {
	r := s.Do(ctx, &core.StoreCall{Timeout: openTimeout, Confirm: &core.StoreConfirm{}})
	switch r.Status {
	case core.StoreOK:
		return nil
	case core.StoreUnfit:
		return unfitError(r.Text)
	}
	return failedError(r.Text)
}

// Close ends all calls, which are answered with StoreFailed, and closes the
// connections. Later calls are answered with StoreFailed.
func (s *Store) Close() error {
	s.mu.Lock()
	s.end()
	s.mu.Unlock()
	// Closing the pools closes the connections under the calls that wait on them.
	err := errors.Join(s.calls.Close(), s.waits.Close())
	s.work.Wait()
	if errors.Is(err, redis.ErrClosed) {
		return nil
	}
	return err
}

// Do makes one call. It returns when the call was answered, and at the latest at
// its Timeout, at the end of ctx or when the store is closed, then with StoreFailed.
func (s *Store) Do(ctx context.Context, c *core.StoreCall) *core.StoreReply {
	ctx, cancel := context.WithTimeout(ctx, min(c.Timeout, maxTimeout))
	if !s.begin() {
		cancel()
		return failed(c, failedError("the store was closed"))
	}
	// The library looks at deadlines alone: a call whose ctx is cancelled goes on in
	// the background until its deadline, and what it says is dropped.
	answer := make(chan *core.StoreReply, 1)
	go func() {
		defer s.work.Done()
		defer cancel()
		answer <- s.call(ctx, c)
	}()
	select {
	case r := <-answer:
		return r
	case <-ctx.Done():
	case <-s.ended.Done():
	}
	select {
	case r := <-answer:
		return r
	default:
		return failed(c, failedError(fmt.Sprintf("no answer of %s in time", s.options.Address)))
	}
}

func (s *Store) begin() bool {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.ended.Err() != nil {
		return false
	}
	s.work.Add(1)
	return true
}

// call makes the call on a server that was found fit. The answer of another one
// counts only when that is fit as well.
func (s *Store) call(ctx context.Context, c *core.StoreCall) *core.StoreReply {
	if err := s.fit(ctx, ""); err != nil {
		return failed(c, err)
	}
	r, err := s.dispatch(ctx, c)
	if err == nil {
		err = s.fit(ctx, r.Identity)
	}
	if err != nil {
		return failed(c, err)
	}
	r.ID = c.ID
	return r
}

func (s *Store) dispatch(ctx context.Context, c *core.StoreCall) (*core.StoreReply, error) {
	switch {
	case c.Append != nil:
		return s.append(ctx, c.Append)
	case c.Confirm != nil:
		return s.confirm(ctx, c.Confirm)
	case c.Fetch != nil:
		return s.fetch(ctx, c.Fetch)
	case c.Publish != nil:
		return s.publish(ctx, c.Publish)
	case c.Checkpoint != nil:
		return s.checkpoint(ctx, c.Checkpoint)
	case c.Attest != nil:
		return s.attest(ctx, c.Attest)
	case c.Close != nil:
		return s.close(ctx, c.Close)
	case c.Replace != nil:
		return s.replace(ctx, c.Replace)
	case c.Trail != nil:
		return s.trail(ctx, c.Trail)
	}
	return nil, unfitError("the call names nothing to do: a fault of the caller")
}

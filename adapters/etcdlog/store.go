// Package etcdlog keeps a registry's log in an etcd cluster, version 3.4 or later:
// the calls of core/store.go, each as one transaction where it must be atomic.
//
// Time is core's alone: no etcd lease is used. No reply rests on anything that was
// remembered from an earlier call.
//
// What etcd must be set to: compaction has to come from somewhere, by
// --auto-compaction-retention or by an operator, since every write leaves an older
// revision behind; and --unsafe-no-fsync must not be set.
package etcdlog

import (
	"context"
	"fmt"
	"log/slog"
	"sync"
	"time"

	clientv3 "go.etcd.io/etcd/client/v3"

	"github.com/omnirelay/leadership/core"
)

const (
	openWithin   = 5 * time.Second
	statusWithin = 2 * time.Second // what every member is given to say how it is
	// defaultTimeout is for a call that names none.
	defaultTimeout = 10 * time.Second
)

// Store is a log in etcd. Its methods may be called concurrently.
type Store struct {
	options     Options
	keys        keys
	client      *clientv3.Client
	login       login
	connections connections
	lookout     *lookout
	partial     partial
	log         *slog.Logger
	trouble     trouble

	mu     sync.Mutex
	member int    // the endpoint that is asked
	server server // that answered last
}

// Open connects to etcd and checks that what lies below the prefix is this cluster's
// log or nothing. It waits 5 s at the longest. The error says what is wrong and what
// would be right; one for which trying again cannot help has the method Unfit() bool,
// and that returns true.
func Open(ctx context.Context, o Options) (*Store, error) {
	if err := o.Validate(); err != nil {
		return nil, unfitError{fmt.Errorf("etcdlog: %w", err)}
	}
	ctx, cancel := context.WithTimeout(ctx, openWithin)
	defer cancel()
	s := &Store{options: o, keys: keys{o.Prefix}, log: o.Logger}
	if s.log == nil {
		s.log = slog.New(slog.DiscardHandler)
	}
	if err := s.dial(); err != nil {
		return nil, unfitError{fmt.Errorf("etcdlog: %v: %w", o.Endpoints, err)}
	}
	s.lookout = newLookout(s.client, s.keys.head(nameLead))
	err := s.check(ctx)
	if err == nil {
		err = s.unfit(ctx)
	}
	if err != nil {
		s.client.Close() //nolint:errcheck // the error that counts is the one before
		return nil, s.opening(err)
	}
	return s, nil
}

// check looks for what is not ours.
func (s *Store) check(ctx context.Context) error {
	from, to := s.keys.entries()
	got, err := s.look(ctx, append(s.keys.strangers(), firstKey(from, to))...)
	if err != nil {
		return err
	}
	last := len(got.ranges) - 1
	for _, r := range got.ranges[:last] {
		for _, kv := range r.Kvs {
			return damaged(string(kv.Key), "is not of this log: choose a prefix with nothing below it")
		}
	}
	for _, kv := range got.ranges[last].Kvs {
		if got.lead == nil {
			return damaged(s.keys.head(nameLead), "is missing, but %s is there: restore etcd from a backup, or choose another prefix", kv.Key)
		}
	}
	return nil
}

// Close ends all connections. Calls under way fail.
func (s *Store) Close() error {
	err := s.client.Close()
	s.lookout.close()
	if err != nil {
		return fmt.Errorf("etcdlog: %w", err)
	}
	return nil
}

// Do makes one call and returns its reply, never nil, when it is known or the call's
// time, or ctx, is over.
func (s *Store) Do(ctx context.Context, c *core.StoreCall) *core.StoreReply {
	timeout := c.Timeout
	if timeout <= 0 {
		timeout = defaultTimeout
	}
	ctx, cancel := context.WithTimeout(ctx, timeout)
	defer cancel()
	reply, err := s.call(ctx, c)
	if err != nil {
		reply = s.verdict(err)
	}
	reply.ID = c.ID
	return reply
}

func (s *Store) call(ctx context.Context, c *core.StoreCall) (*core.StoreReply, error) {
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
	return nil, fail("the call names nothing to do")
}

package etcdlog

import (
	"context"
	"sync"

	clientv3 "go.etcd.io/etcd/client/v3"
)

// lookout watches the lead record, for all fetches that wait, and only tells them
// when to read again: nothing rests on its being complete. One watch is kept, not
// one per fetch, because each new stream of watches makes an etcd with passwords
// hash one.
type lookout struct {
	client *clientv3.Client
	key    string
	life   context.Context // ends with the store
	done   sync.WaitGroup

	mu      sync.Mutex
	stop    context.CancelFunc // of the watch there is; nil: there is none
	from    int64              // the first revision it watches
	latest  int64              // of the changes it told, 0: none yet
	changed chan struct{}      // closed, and replaced, with each change and at its end
}

func newLookout(client *clientv3.Client, key string) *lookout {
	return &lookout{client: client, key: key, life: client.Ctx(), changed: make(chan struct{})}
}

// after returns a channel that is closed when the lead record has changed after
// revision, or when that would not be noticed.
func (l *lookout) after(revision int64) <-chan struct{} {
	l.mu.Lock()
	defer l.mu.Unlock()
	if l.stop == nil {
		l.start(revision + 1)
	}
	if revision+1 < l.from || l.latest > revision {
		now := make(chan struct{})
		close(now)
		return now
	}
	return l.changed
}

func (l *lookout) start(from int64) {
	// A member without a leader would never hear of a change; it ends the watch then.
	ctx, cancel := context.WithCancel(clientv3.WithRequireLeader(l.life))
	l.stop, l.from, l.latest = cancel, from, 0
	l.done.Go(func() {
		defer cancel()
		l.run(l.client.Watch(ctx, l.key, clientv3.WithRev(from)), from)
	})
}

func (l *lookout) run(watch clientv3.WatchChan, from int64) {
	for response := range watch {
		if response.Err() != nil {
			break // the revision was compacted, there is no leader, or we may not watch
		}
		for _, event := range response.Events {
			l.tell(event.Kv.ModRevision)
		}
	}
	l.mu.Lock()
	defer l.mu.Unlock()
	l.stop = nil
	l.wake()
}

func (l *lookout) tell(revision int64) {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.latest = max(l.latest, revision)
	l.wake()
}

func (l *lookout) wake() {
	close(l.changed)
	l.changed = make(chan struct{})
}

// doubt ends a watch that did not tell what a read found, or told what it did not:
// its server hangs, or is another now. The next fetch starts a new one.
func (l *lookout) doubt() {
	l.mu.Lock()
	defer l.mu.Unlock()
	if l.stop != nil {
		l.stop()
	}
}

// close waits until the watch is gone. The client must be closed.
func (l *lookout) close() { l.done.Wait() }

package transport

import (
	"sync"
	"time"

	"google.golang.org/protobuf/proto"

	"github.com/omnirelay/leadership/wire/nodepb"
)

// queue holds what waits for one stream. Putting never blocks: when the queue is
// full the oldest goes. Newer messages supersede older ones (a heartbeat, a probe,
// a vote of a higher term), and a peer that wakes after a pause has no use for the
// past. For the same reason what has waited longer than maxAge is not sent: the
// protocol has repeated by then whatever still matters.
type queue struct {
	maxCount int
	maxBytes int
	maxAge   time.Duration

	mu     sync.Mutex
	items  []item
	bytes  int
	signal chan struct{} // holds a token while items may be there
}

type item struct {
	message *nodepb.Message
	size    int // encoded, in bytes
	at      time.Time
}

func newQueue(maxCount, maxBytes int, maxAge time.Duration) *queue {
	return &queue{maxCount: maxCount, maxBytes: maxBytes, maxAge: maxAge, signal: make(chan struct{}, 1)}
}

// put appends a message and returns how many were dropped for it.
func (q *queue) put(m *nodepb.Message, now time.Time) (dropped int) {
	size := proto.Size(m)
	q.mu.Lock()
	defer q.mu.Unlock()
	for len(q.items) > 0 && (len(q.items) == q.maxCount || q.bytes+size > q.maxBytes) {
		q.removeFirst()
		dropped++
	}
	q.items = append(q.items, item{message: m, size: size, at: now})
	q.bytes += size
	select {
	case q.signal <- struct{}{}:
	default:
	}
	return dropped
}

// take returns the oldest messages that fit into maxBytes together, at least one
// when any is young enough, and how many were dropped as too old.
func (q *queue) take(maxBytes int, now time.Time) (messages []*nodepb.Message, bytes, dropped int) {
	q.mu.Lock()
	defer q.mu.Unlock()
	for len(q.items) > 0 {
		next := q.items[0]
		if now.Sub(next.at) > q.maxAge {
			q.removeFirst()
			dropped++
			continue
		}
		if len(messages) > 0 && bytes+next.size > maxBytes {
			break
		}
		messages, bytes = append(messages, next.message), bytes+next.size
		q.removeFirst()
	}
	return messages, bytes, dropped
}

func (q *queue) removeFirst() {
	q.bytes -= q.items[0].size
	q.items[0] = item{}
	q.items = q.items[1:]
	if len(q.items) == 0 {
		q.items = nil
	}
}

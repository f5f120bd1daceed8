package telemetry

import (
	"context"
	"sync"

	"github.com/prometheus/client_golang/prometheus"

	"github.com/omnirelay/leadership/core"
)

// maxLines bounds the lines that wait for a log that does not take them: as many as
// the history keeps.
const maxLines = core.MaxHistory

// line is what one log line tells: a record, or that it raised an alarm.
type line struct {
	record *core.Record
	alarm  string // one of the Split constants; empty: none
}

// lines are log lines on their way. Records come from the loop that keeps the leases,
// and a log may block: its reader may have stopped. So a goroutine, there while lines
// are, writes them.
type lines struct {
	mu      sync.Mutex
	waiting []line
	idle    chan struct{} // closed when the writer has ended; nil: there is none
	dropped prometheus.Counter
}

// add never blocks. What is beyond maxLines is counted and lost to the log; the audit
// trail has it.
func (l *lines) add(more []line, write func(line)) {
	l.mu.Lock()
	defer l.mu.Unlock()
	room := min(len(more), maxLines-len(l.waiting))
	l.waiting = append(l.waiting, more[:room]...)
	l.dropped.Add(float64(len(more) - room))
	if l.idle == nil && len(l.waiting) > 0 {
		l.idle = make(chan struct{})
		go l.drain(write)
	}
}

func (l *lines) drain(write func(line)) {
	for {
		l.mu.Lock()
		batch := l.waiting
		l.waiting = nil
		if len(batch) == 0 {
			close(l.idle)
			l.idle = nil
			l.mu.Unlock()
			return
		}
		l.mu.Unlock()
		for _, one := range batch {
			write(one)
		}
	}
}

// flush waits until every line is written, or ctx ends.
func (l *lines) flush(ctx context.Context) {
	l.mu.Lock()
	idle := l.idle
	l.mu.Unlock()
	if idle == nil {
		return
	}
	select {
	case <-idle:
	case <-ctx.Done():
	}
}

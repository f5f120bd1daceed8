package host

import (
	"crypto/rand"
	"encoding/binary"
	"sync"
	"time"

	"github.com/omnirelay/leadership/core"
)

// inbox holds what has arrived for the loop.
type inbox struct {
	mu     sync.Mutex
	inputs []core.Input
	wake   chan struct{} // holds one token while there is something to take
}

// offer adds an input; false when the inbox is full.
func (b *inbox) offer(in core.Input) bool {
	b.mu.Lock()
	full := len(b.inputs) >= maxInbox
	if !full {
		b.inputs = append(b.inputs, in)
	}
	b.mu.Unlock()
	if full {
		return false
	}
	b.poke()
	return true
}

// force adds an input that must not be lost, however full the inbox is. Its number is
// bounded elsewhere.
func (b *inbox) force(in core.Input) {
	b.mu.Lock()
	b.inputs = append(b.inputs, in)
	b.mu.Unlock()
	b.poke()
}

func (b *inbox) poke() {
	select {
	case b.wake <- struct{}{}:
	default:
	}
}

func (b *inbox) waiting() bool {
	b.mu.Lock()
	defer b.mu.Unlock()
	return len(b.inputs) > 0
}

func (b *inbox) take(limit int) []core.Input {
	b.mu.Lock()
	defer b.mu.Unlock()
	if len(b.inputs) <= limit {
		taken := b.inputs
		b.inputs = nil
		return taken
	}
	taken := b.inputs[:limit:limit]
	b.inputs = append([]core.Input(nil), b.inputs[limit:]...)
	return taken
}

// world is what core's drive sees of the host.
type world struct{ h *Host }

func (w *world) Drain() []core.Input {
	inputs := w.h.inbox.take(core.MaxMessagesPerTurn)
	w.h.attachments.taken(inputs)
	return inputs
}

func (w *world) Now() core.Time { return w.h.clock.Now() }
func (w *world) Wall() int64    { return time.Now().UnixNano() }

// Emit hands out what a step of the replica made true. Nothing here blocks.
func (w *world) Emit(e core.Emission) {
	h := w.h
	if len(e.Messages) > 0 && h.o.Send != nil {
		h.o.Send(e.Messages)
	}
	for _, c := range e.Calls {
		h.store.start(&c)
	}
	for _, m := range e.Members {
		if m.Conn == ownConn {
			h.stepMember(m.Message)
		} else {
			h.attachments.give(m)
		}
	}
	if len(e.Records) > 0 && h.o.OnRecords != nil {
		h.o.OnRecords(e.Records)
	}
	for _, d := range e.Requests {
		if h.o.OnCommand != nil {
			h.o.OnCommand(core.Code(d.Result.Code))
		}
		h.calls.finishRequest(d)
	}
	for _, d := range e.Reads {
		h.calls.finishRead(d)
	}
}

// lockedLog lets readers in while the log is being synced: a disk that hangs must
// not hang those who only look.
type lockedLog struct{ h *Host }

func (l *lockedLog) Persist(b core.Batch) error {
	l.h.mu.Unlock()
	defer l.h.mu.Lock()
	start := time.Now()
	err := l.h.o.Log.Persist(b)
	if l.h.o.OnPersist != nil {
		l.h.o.OnPersist(time.Since(start))
	}
	return err
}

// randomSeed seeds this life's randomness.
func randomSeed() uint64 {
	var b [8]byte
	_, _ = rand.Read(b[:]) // never fails: crypto/rand ends the program instead
	return binary.LittleEndian.Uint64(b[:])
}

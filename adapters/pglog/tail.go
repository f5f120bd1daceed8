package pglog

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"sync"
	"time"

	"github.com/jackc/pgx/v5"
)

// relisten is the pause before a listener that lost its connection tries again.
const relisten = time.Second

// tail wakes fetches that wait, when the server tells that something was written. It
// only saves time: what it misses is found by polling.
type tail struct {
	config *pgx.ConnConfig
	schema string
	logger *slog.Logger
	cancel context.CancelFunc
	done   chan struct{}

	mu    sync.Mutex
	woken chan struct{} // closed by the next wake
}

func listen(config *pgx.ConnConfig, o Options) *tail {
	ctx, cancel := context.WithCancel(context.Background())
	t := &tail{config: config.Copy(), schema: o.Schema, logger: o.Logger, cancel: cancel, done: make(chan struct{}), woken: make(chan struct{})}
	go t.run(ctx)
	return t
}

// next is closed when something may have been written after this call.
func (t *tail) next() <-chan struct{} {
	t.mu.Lock()
	defer t.mu.Unlock()
	return t.woken
}

func (t *tail) wake() {
	t.mu.Lock()
	defer t.mu.Unlock()
	close(t.woken)
	t.woken = make(chan struct{})
}

func (t *tail) close() {
	t.cancel()
	<-t.done
}

var errPooled = errors.New("a pooler stands in between")

func (t *tail) run(ctx context.Context) {
	defer close(t.done)
	for ctx.Err() == nil {
		err := t.follow(ctx)
		switch {
		case errors.Is(err, errPooled):
			t.logger.Info("behind a pooler: looking for new entries by polling alone", "schema", t.schema)
			return
		case ctx.Err() == nil:
			t.logger.Warn("notifications of new entries are interrupted: polling meanwhile", "schema", t.schema, "error", err)
		}
		select {
		case <-ctx.Done():
		case <-time.After(relisten):
		}
	}
}

// follow listens on a connection of its own until it ends.
func (t *tail) follow(ctx context.Context) error {
	conn, err := pgx.ConnectConfig(ctx, t.config)
	if err != nil {
		return err
	}
	defer func() { // at once, also when ctx is over
		_ = conn.PgConn().Conn().Close()
		_ = conn.Close(ctx)
	}()
	// LISTEN is state of a session: behind a pooler it would be left to strangers.
	// There the process we were told at the start is the pooler's invention.
	var pid uint32
	if err := conn.QueryRow(ctx, "SELECT pg_backend_pid()").Scan(&pid); err != nil {
		return err
	}
	if pid != conn.PgConn().PID() {
		return errPooled
	}
	if _, err := conn.Exec(ctx, fmt.Sprintf("LISTEN %s_log", t.schema)); err != nil {
		return err
	}
	for {
		t.wake() // once listening: what was written before is found now
		if _, err := conn.WaitForNotification(ctx); err != nil {
			return err
		}
	}
}

package pglog

import (
	"context"
	"fmt"
	"sync"
	"time"

	"github.com/jackc/pgx/v5"
)

const (
	poolSize       = 6 // calls at once; the listener has a connection of its own
	connectTimeout = 5 * time.Second
	idleTime       = 5 * time.Minute
	lifetime       = time.Hour
)

// pool keeps connections between calls, the one used last on top.
type pool struct {
	config *pgx.ConnConfig
	places chan struct{} // one for each connection in use

	mu     sync.Mutex
	idle   []*pooled
	closed bool
}

type pooled struct {
	*pgx.Conn
	opened, used time.Time
}

func newPool(config *pgx.ConnConfig) *pool {
	return &pool{config: config, places: make(chan struct{}, poolSize)}
}

// take waits for a place and returns a connection.
func (p *pool) take(ctx context.Context) (*pooled, error) {
	select {
	case p.places <- struct{}{}:
	case <-ctx.Done():
		return nil, fmt.Errorf("%d calls are under way already: %w", poolSize, ctx.Err())
	}
	if c := p.kept(); c != nil {
		return c, nil
	}
	conn, err := pgx.ConnectConfig(ctx, p.config)
	if err != nil {
		<-p.places
		return nil, err
	}
	return &pooled{Conn: conn, opened: time.Now()}, nil
}

func (p *pool) kept() *pooled {
	p.mu.Lock()
	defer p.mu.Unlock()
	for len(p.idle) > 0 {
		c := p.idle[len(p.idle)-1]
		p.idle = p.idle[:len(p.idle)-1]
		if time.Since(c.used) < idleTime && time.Since(c.opened) < lifetime {
			return c
		}
		c.drop()
	}
	return nil
}

// give takes a connection back. One that broke takes those kept with it: most often
// it was the server or the network, and each of them would cost a call.
func (p *pool) give(c *pooled, broken bool) {
	defer func() { <-p.places }()
	p.mu.Lock()
	defer p.mu.Unlock()
	switch {
	case broken:
		c.drop()
		p.clear()
	case p.closed:
		c.drop()
	default:
		c.used = time.Now()
		p.idle = append(p.idle, c)
	}
}

func (p *pool) clear() {
	for _, c := range p.idle {
		c.drop()
	}
	p.idle = nil
}

func (p *pool) close() {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.closed = true
	p.clear()
}

// drop ends a connection at once, without a good-bye that could take long.
func (c *pooled) drop() {
	_ = c.PgConn().Conn().Close()
	ctx, cancel := context.WithTimeout(context.Background(), time.Second)
	defer cancel()
	_ = c.Conn.Close(ctx) // it is closed already: frees what pgx holds
}

package client

import (
	"context"
	"time"

	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"

	"github.com/omnirelay/leadership/core"
	"github.com/omnirelay/leadership/wire/controlpb"
)

const (
	// signWithin bounds one request for a signed token, where the lease lasts longer.
	signWithin = 2 * time.Second
	signPause  = 200 * time.Millisecond // after the first request that failed
	maxSign    = 10 * time.Second
	// maxSigning bounds the requests of one client under way at the same time.
	maxSigning = 4
)

// sign keeps a signed token in the authority of a leadership, a fresh one from half the
// life of the last. It returns with the first, or when it is clear that there will be
// none soon. The function it returns ends the keeping.
func (c *Client) sign(l *lead) (stop func()) {
	if c.o.UnsignedTokens {
		return func() {}
	}
	ctx, cancel := context.WithCancel(l.ctx)
	first, done := make(chan struct{}), make(chan struct{})
	go func() {
		defer close(done)
		c.keepSigned(ctx, l, first)
	}()
	select {
	case <-first:
	case <-done:
	case <-time.After(c.o.TTL / 4):
	}
	return func() {
		cancel()
		<-done
	}
}

func (c *Client) keepSigned(ctx context.Context, l *lead, first chan<- struct{}) {
	failed := 0
	for ctx.Err() == nil {
		pause, err := c.signOnce(ctx, l)
		switch {
		case err == nil && first != nil:
			close(first)
			first, failed = nil, 0
		case err == nil:
			failed = 0
		case status.Code(err) == codes.Unimplemented || reasonOf(err) == string(core.CodeUnsupported):
			c.logger.Debug("the cluster signs no tokens", "error", err)
			return
		case ctx.Err() == nil:
			failed++
			after, _ := advice(err)
			pause = max(jitter(backoff(signPause, maxSign, failed)), min(after, maxSign))
			c.logger.Warn("no signed token", "scope", l.token.Scope, "fence", l.token.Fence, "error", err)
		}
		select {
		case <-ctx.Done():
		case <-time.After(pause):
		}
	}
}

// signOnce fetches a token and returns when the next is due.
func (c *Client) signOnce(ctx context.Context, l *lead) (time.Duration, error) {
	select {
	case c.signing <- struct{}{}:
		defer func() { <-c.signing }()
	case <-ctx.Done():
		return 0, ctx.Err()
	}
	conn := c.conn()
	if conn == nil {
		return 0, status.Error(codes.Unavailable, "not attached to a node")
	}
	ctx, cancel := context.WithTimeout(ctx, min(signWithin, c.o.TTL))
	defer cancel()
	reply, err := controlpb.NewLeadershipMemberServiceClient(conn).SignToken(ctx, &controlpb.SignTokenRequest{
		Session: uint64(l.token.Session), Scope: l.token.Scope, FenceToken: l.token.Fence,
	})
	if err != nil {
		return 0, err
	}
	signed := reply.GetToken()
	l.ctx.signed.Store(&signed)
	return max(time.Until(reply.GetExpiresAt().AsTime())/2, time.Second), nil
}

// conn is the connection to the node that the client is attached to; nil: to none.
func (c *Client) conn() Conn {
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.link == nil {
		return nil
	}
	return c.link.conn
}

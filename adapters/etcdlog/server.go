package etcdlog

import (
	"context"
	"fmt"
	"sync/atomic"

	pb "go.etcd.io/etcd/api/v3/etcdserverpb"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/stats"
	"google.golang.org/grpc/status"
)

// identityOf is the id of the etcd cluster. A cluster that etcdctl makes from a
// backup has another one, unless the operator gives it the very members and token
// of the old; and a copy of a member's files, put back in its place, has the same. Neither
// can be told from the server's answers alone; the marks of the replicas tell.
func identityOf(header *pb.ResponseHeader) string { return fmt.Sprintf("%016x", header.ClusterId) }

// server is what is known of the server that answered last.
type server struct {
	identity   string // "": none answered yet
	revision   int64  // the highest seen
	connection int64  // the newest when it was asked
}

// connections counts connections: another server can only answer over a new one. A
// request can be pinned to the newest; it is not sent over a later one, whatever
// the client library repeats or makes wait.
type connections struct{ made atomic.Int64 }

// pin is the key of a context's value: the connection that a request may use.
type pin struct{}

// moved reports whether a request is pinned to a connection that is not the newest.
func (c *connections) moved(ctx context.Context) bool {
	pinned, ok := ctx.Value(pin{}).(int64)
	return ok && pinned != c.made.Load()
}

// GetRequestMetadata implements credentials.PerRPCCredentials. It is asked for each
// request when its connection is chosen and nothing is sent yet.
func (c *connections) GetRequestMetadata(ctx context.Context, _ ...string) (map[string]string, error) {
	if c.moved(ctx) {
		return nil, status.Error(codes.Unavailable, "the connection is another than the one the request is meant for")
	}
	return nil, nil
}

// RequireTransportSecurity implements credentials.PerRPCCredentials.
func (c *connections) RequireTransportSecurity() bool { return false }

// TagConn implements stats.Handler.
func (c *connections) TagConn(ctx context.Context, _ *stats.ConnTagInfo) context.Context { return ctx }

// TagRPC implements stats.Handler.
func (c *connections) TagRPC(ctx context.Context, _ *stats.RPCTagInfo) context.Context { return ctx }

// HandleRPC implements stats.Handler.
func (c *connections) HandleRPC(context.Context, stats.RPCStats) {}

// HandleConn implements stats.Handler.
func (c *connections) HandleConn(_ context.Context, event stats.ConnStats) {
	if _, ok := event.(*stats.ConnBegin); ok {
		c.made.Add(1)
	}
}

// standing is what is known before a question is asked.
func (s *Store) standing() server {
	s.mu.Lock()
	defer s.mu.Unlock()
	now := s.server
	now.connection = s.connections.made.Load()
	return now
}

// noteServer remembers who answered a question that was asked at before. A revision
// below the one known then is not possible unless older data were put in place of
// the server's. That is said, and no more: whether something of this log was lost is
// told by the marks of the replicas, who then close it.
func (s *Store) noteServer(header *pb.ResponseHeader, before server) {
	s.mu.Lock()
	defer s.mu.Unlock()
	identity := identityOf(header)
	switch {
	case before.identity != "" && before.identity != identity:
		s.log.Warn("another etcd cluster answers", "identity", identity, "before", before.identity)
	case header.Revision < before.revision:
		s.log.Warn("etcd went back to an older state: a backup was put in its place", "revision", header.Revision, "before", before.revision)
	case s.server.identity == identity:
		s.server.revision = max(s.server.revision, header.Revision)
		s.server.connection = max(s.server.connection, before.connection)
		return
	}
	s.server = server{identity: identity, revision: header.Revision, connection: before.connection}
}

// pinned returns a context whose requests reach the server known as identity or none.
// ok is false when it is not known that there is one.
func (s *Store) pinned(ctx context.Context, identity string) (pinned context.Context, ok bool) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.server.identity != identity || s.server.connection != s.connections.made.Load() {
		return ctx, false
	}
	return context.WithValue(ctx, pin{}, s.server.connection), true
}

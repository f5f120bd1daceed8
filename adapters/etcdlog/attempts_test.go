package etcdlog

import (
	"context"
	"log/slog"
	"net"
	"sync/atomic"
	"testing"

	pb "go.etcd.io/etcd/api/v3/etcdserverpb"
	"go.etcd.io/etcd/api/v3/v3rpc/rpctypes"
	clientv3 "go.etcd.io/etcd/client/v3"
	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"
)

// refuser answers every transaction with one error, and counts them.
type refuser struct {
	pb.UnimplementedKVServer
	err   error
	count atomic.Int64
}

func (r *refuser) Txn(context.Context, *pb.TxnRequest) (*pb.TxnResponse, error) {
	r.count.Add(1)
	return nil, r.err
}

// TestWritesAreSentOnce has a server answer with what leaves open whether a write took
// effect: neither we nor the client library may send it again. What was turned away
// for certain is sent again, and so is a read.
func TestWritesAreSentOnce(t *testing.T) {
	for name, c := range map[string]struct {
		err           error
		writes, reads int64
	}{
		"canceled by the server": {status.Error(codes.Canceled, "context canceled"), 1, 1},
		"its deadline":           {status.Error(codes.DeadlineExceeded, "too late"), 1, 1},
		"timed out":              {rpctypes.ErrGRPCTimeout, 1, minAttempts},
		"leader lost":            {rpctypes.ErrGRPCTimeoutDueToLeaderFail, 1, minAttempts},
		"leader changed":         {rpctypes.ErrGRPCLeaderChanged, 1, minAttempts},
		"server stopped":         {rpctypes.ErrGRPCStopped, 1, minAttempts},
		"unknown":                {status.Error(codes.Unknown, "?"), 1, 1},
		"too many requests":      {rpctypes.ErrGRPCRequestTooManyRequests, 1, 1},
		"no leader":              {rpctypes.ErrGRPCNoLeader, minAttempts, minAttempts},
		"learner":                {rpctypes.ErrGRPCNotSupportedForLearner, minAttempts, minAttempts},
		"unknown token":          {rpctypes.ErrGRPCInvalidAuthToken, minAttempts, minAttempts},
	} {
		t.Run(name, func(t *testing.T) {
			r := &refuser{err: c.err}
			s := refusedBy(t, r)
			if _, err := s.commit(t.Context(), nil, clientv3.OpPut("/x", "")); err == nil || r.count.Load() != c.writes {
				t.Errorf("a write was sent %d times, want %d; error %v", r.count.Load(), c.writes, err)
			}
			r.count.Store(0)
			if _, err := s.look(t.Context()); err == nil || r.count.Load() != c.reads {
				t.Errorf("a read was sent %d times, want %d; error %v", r.count.Load(), c.reads, err)
			}
		})
	}
}

// refusedBy is a store that was opened on a server before it became a refuser.
func refusedBy(t *testing.T, r *refuser) *Store {
	t.Helper()
	listener, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	server := grpc.NewServer()
	pb.RegisterKVServer(server, r)
	go server.Serve(listener) //nolint:errcheck // it ends with Stop
	t.Cleanup(server.Stop)
	s := &Store{options: options(listener.Addr().String()), keys: keys{testPrefix}, log: slog.New(slog.DiscardHandler)}
	if err := s.dial(); err != nil {
		t.Fatal(err)
	}
	s.lookout = newLookout(s.client, s.keys.head(nameLead))
	t.Cleanup(func() { s.Close() }) //nolint:errcheck // nothing rests on it
	return s
}

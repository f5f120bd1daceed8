package etcdlog

import (
	"context"
	"sync/atomic"
	"time"

	clientv3 "go.etcd.io/etcd/client/v3"
	"go.uber.org/zap"
	"google.golang.org/grpc"
	"google.golang.org/grpc/backoff"
)

const (
	// A connection whose last bytes were not acknowledged for this long is given up:
	// the client library hands it to the kernel as TCP_USER_TIMEOUT. It also bounds
	// the answer to a ping, which an idle connection gets every pingEvery; more often
	// an etcd server does not allow.
	deadAfter = 2 * time.Second
	pingEvery = 10 * time.Second
	// A server that comes back is found within this time.
	reconnectWithin = time.Second

	maxAttempts = 4
	attemptWait = 30 * time.Millisecond // before another attempt

	// maxAnswer is the largest answer taken, above that of the largest page asked for.
	maxAnswer = 32 << 20 // bytes
)

// dial makes a client. It does not wait for a connection, but for a token if there
// is a user.
func dial(ctx context.Context, o Options, trouble *trouble) (*clientv3.Client, error) {
	config := clientv3.Config{
		Endpoints: o.Endpoints, TLS: o.TLS, Username: o.Username, Password: o.Password,
		DialTimeout:       openWithin,
		DialKeepAliveTime: pingEvery, DialKeepAliveTimeout: deadAfter,
		MaxCallRecvMsgSize: maxAnswer,
		// One attempt: the library would also repeat a write that a server which is
		// shutting down answered with Canceled, although it may have taken effect.
		MaxUnaryRetries: 1,
		Logger:          zap.NewNop(), // what goes wrong is in the replies
		DialOptions: []grpc.DialOption{
			grpc.WithChainUnaryInterceptor(trouble.remember),
			grpc.WithConnectParams(grpc.ConnectParams{
				Backoff:           backoff.Config{BaseDelay: 100 * time.Millisecond, Multiplier: 1.6, Jitter: 0.2, MaxDelay: reconnectWithin},
				MinConnectTimeout: deadAfter,
			}),
		},
	}
	if end, ok := ctx.Deadline(); ok {
		config.DialTimeout = max(time.Millisecond, min(config.DialTimeout, time.Until(end)))
	}
	return clientv3.New(config)
}

// trouble remembers the latest error below the client library, which replaces it by
// a bare "deadline exceeded" where it says why no connection could be made.
type trouble struct{ latest atomic.Pointer[string] }

func (t *trouble) remember(ctx context.Context, method string, req, reply any, cc *grpc.ClientConn, invoke grpc.UnaryInvoker, opts ...grpc.CallOption) error {
	err := invoke(ctx, method, req, reply, cc, opts...)
	if err != nil {
		text := err.Error()
		t.latest.Store(&text)
	}
	return err
}

func (t *trouble) text() string {
	if text := t.latest.Load(); text != nil {
		return ": " + *text
	}
	return ""
}

// look reads ops and the head, all as of one instant between call and answer that no
// other write had overtaken: a transaction of nothing but reads, none of them
// serializable, is answered by etcd only after its leader has asked a quorum,
// begun after the request's arrival, whether it still leads (raft's ReadIndex), and
// after the answering member has applied what was committed by then. So the answer
// holds everything acknowledged before, through any member.
func (s *Store) look(ctx context.Context, ops ...clientv3.Op) (*answer, error) {
	return s.transact(ctx, harmless, nil, ops, nil)
}

// commit writes, if all of cmps hold, then, and reads the head either way, in one
// transaction. With an error other than one that was turned away at the door its
// outcome is unknown; it takes effect at most once.
func (s *Store) commit(ctx context.Context, cmps []clientv3.Cmp, then ...clientv3.Op) (*answer, error) {
	return s.transact(ctx, untouched, cmps, then, nil)
}

func (s *Store) transact(ctx context.Context, again func(error) bool, cmps []clientv3.Cmp, then, otherwise []clientv3.Op) (*answer, error) {
	// A member that has no leader then says so at once, and another is asked.
	ctx = clientv3.WithRequireLeader(ctx)
	from, to := within(s.keys.heads())
	readHead := clientv3.OpGet(from, clientv3.WithRange(to))
	then, otherwise = append(then[:len(then):len(then)], readHead), append(otherwise, readHead)
	for attempt := 1; ; attempt++ {
		seen := s.revision.Load()
		response, err := s.client.Txn(ctx).If(cmps...).Then(then...).Else(otherwise...).Commit()
		if err == nil {
			s.noteServer(response.Header, seen)
			return s.read(response)
		}
		if attempt == maxAttempts || !again(err) || !pause(ctx, attemptWait) {
			return nil, err
		}
	}
}

// pause waits, and reports whether there is time left.
func pause(ctx context.Context, d time.Duration) bool {
	timer := time.NewTimer(d)
	defer timer.Stop()
	select {
	case <-timer.C:
		return true
	case <-ctx.Done():
		return false
	}
}

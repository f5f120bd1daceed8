package etcdlog

import (
	"context"
	"errors"
	"slices"
	"sync/atomic"
	"time"

	clientv3 "go.etcd.io/etcd/client/v3"
	"go.uber.org/zap"
	"google.golang.org/grpc"
	"google.golang.org/grpc/backoff"
	"google.golang.org/grpc/codes"
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

	maxAttempts = 3
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
	if err == nil {
		t.latest.Store(nil)
		return nil
	}
	text := err.Error()
	t.latest.Store(&text)
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
//
// A member that hangs must not use up the time of the call: another is asked after a
// part of it.
func (s *Store) look(ctx context.Context, ops ...clientv3.Op) (*answer, error) {
	for attempt := 1; ; attempt++ {
		part, cancel := s.share(ctx, attempt)
		got, err := s.transact(part, nil, ops)
		cancel()
		again := untouched(err) || codeOf(err) == codes.Unavailable || errors.Is(err, context.DeadlineExceeded)
		if err == nil || attempt >= maxAttempts || !again || !pause(ctx, attemptWait) {
			return got, err
		}
	}
}

// share bounds an attempt by its part of the time left, when there is another
// member to ask.
func (s *Store) share(ctx context.Context, attempt int) (context.Context, context.CancelFunc) {
	end, ok := ctx.Deadline()
	if !ok || len(s.options.Endpoints) == 1 || attempt >= maxAttempts {
		return context.WithCancel(ctx)
	}
	return context.WithTimeout(ctx, time.Until(end)/time.Duration(maxAttempts-attempt+1))
}

// commit writes, if all of cmps hold, then, and reads the head either way, in one
// transaction. With an error other than one that was turned away at the door its
// outcome is unknown; it takes effect at most once.
func (s *Store) commit(ctx context.Context, cmps []clientv3.Cmp, then ...clientv3.Op) (*answer, error) {
	for attempt := 1; ; attempt++ {
		got, err := s.transact(ctx, cmps, then)
		if err == nil || attempt >= maxAttempts || !untouched(err) || !pause(ctx, attemptWait) {
			return got, err
		}
	}
}

func (s *Store) transact(ctx context.Context, cmps []clientv3.Cmp, then []clientv3.Op) (*answer, error) {
	seen := s.revision.Load()
	from, to := within(s.keys.heads())
	head := clientv3.OpGet(from, clientv3.WithRange(to))
	// A member that has no leader then says so at once, and another is asked.
	txn := s.client.Txn(clientv3.WithRequireLeader(ctx))
	response, err := txn.If(cmps...).Then(append(slices.Clip(then), head)...).Else(head).Commit()
	if err != nil {
		return nil, err
	}
	s.noteServer(response.Header, seen)
	return s.read(response)
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

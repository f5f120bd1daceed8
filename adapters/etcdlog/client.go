package etcdlog

import (
	"context"
	"errors"
	"fmt"
	"math/rand/v2"
	"slices"
	"sync/atomic"
	"time"

	clientv3 "go.etcd.io/etcd/client/v3"
	"go.uber.org/zap"
	"google.golang.org/grpc"
	"google.golang.org/grpc/backoff"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/peer"
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

	minAttempts = 3
	attemptWait = 30 * time.Millisecond // before another attempt

	// maxAnswer is the largest answer taken, above that of the largest page asked for.
	maxAnswer = 32 << 20 // bytes
)

// dial makes a client of one of the endpoints. It does not wait for a connection.
func (s *Store) dial() error {
	s.login.user, s.login.password = s.options.Username, s.options.Password
	s.member = rand.IntN(len(s.options.Endpoints)) // the replicas spread over them
	var err error
	s.client, err = clientv3.New(clientv3.Config{
		Endpoints: s.options.Endpoints[s.member : s.member+1], TLS: s.options.TLS,
		DialKeepAliveTime: pingEvery, DialKeepAliveTimeout: deadAfter,
		MaxCallRecvMsgSize: maxAnswer,
		// One attempt: the library would also repeat a write that a server which is
		// shutting down answered with Canceled, although it may have taken effect.
		MaxUnaryRetries: 1,
		Logger:          zap.NewNop(), // what goes wrong is in the replies
		DialOptions: []grpc.DialOption{
			grpc.WithPerRPCCredentials(&s.login),
			grpc.WithPerRPCCredentials(&s.connections), grpc.WithStatsHandler(&s.connections),
			grpc.WithChainUnaryInterceptor(s.trouble.intercept),
			grpc.WithConnectParams(grpc.ConnectParams{
				Backoff:           backoff.Config{BaseDelay: 100 * time.Millisecond, Multiplier: 1.6, Jitter: 0.2, MaxDelay: reconnectWithin},
				MinConnectTimeout: deadAfter,
			}),
		},
	})
	return err
}

// trouble remembers the latest error below the client library, which replaces it by
// a bare "deadline exceeded" where it says why no connection could be made.
type trouble struct{ latest atomic.Pointer[string] }

// unsent is the error of a request that no connection took.
type unsent struct{ error }

func (u unsent) Unwrap() error { return u.error }

func (t *trouble) intercept(ctx context.Context, method string, req, reply any, cc *grpc.ClientConn, invoke grpc.UnaryInvoker, opts ...grpc.CallOption) error {
	var connection peer.Peer // stays empty if there is none
	opts = append(slices.Clip(opts), grpc.Peer(&connection), grpc.WaitForReady(false))
	err := invoke(ctx, method, req, reply, cc, opts...)
	if err == nil {
		t.latest.Store(nil)
		return nil
	}
	text := err.Error()
	t.latest.Store(&text)
	if connection.Addr == nil {
		return unsent{err}
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
//
// A member that hangs must not use up the time of the call: another is asked after a
// part of it.
func (s *Store) look(ctx context.Context, ops ...clientv3.Op) (*answer, error) {
	for attempt := 1; ; attempt++ {
		part, cancel := s.share(ctx, attempt)
		got, err := s.transact(part, nil, ops)
		cancel()
		again := untouched(err) || codeOf(err) == codes.Unavailable || errors.Is(err, context.DeadlineExceeded)
		if err == nil || attempt >= s.attempts() || !again || !pause(ctx, attemptWait) {
			return got, err
		}
	}
}

// attempts is enough to ask every member, if one was asked twice for its token.
func (s *Store) attempts() int { return max(minAttempts, len(s.options.Endpoints)+1) }

// share bounds an attempt by its part of the time left, when there is another
// member to ask.
func (s *Store) share(ctx context.Context, attempt int) (context.Context, context.CancelFunc) {
	end, ok := ctx.Deadline()
	if !ok || len(s.options.Endpoints) == 1 || attempt >= minAttempts {
		return context.WithCancel(ctx)
	}
	return context.WithTimeout(ctx, time.Until(end)/time.Duration(minAttempts-attempt+1))
}

// commit writes, if all of cmps hold, then, and reads the head either way, in one
// transaction. Only what certainly changed nothing is tried again; with any error
// the outcome is unknown. It takes effect at most once.
func (s *Store) commit(ctx context.Context, cmps []clientv3.Cmp, then ...clientv3.Op) (*answer, error) {
	for attempt := 1; ; attempt++ {
		got, err := s.transact(ctx, cmps, then)
		if err == nil || attempt >= s.attempts() || !untouched(err) || s.connections.moved(ctx) || !pause(ctx, attemptWait) {
			return got, err
		}
	}
}

func (s *Store) transact(ctx context.Context, cmps []clientv3.Cmp, then []clientv3.Op) (*answer, error) {
	before := s.standing()
	token, member := s.login.current(), s.asked()
	from, to := within(s.keys.heads())
	head := clientv3.OpGet(from, clientv3.WithRange(to))
	// A member that has no leader then says so at once.
	txn := s.client.Txn(clientv3.WithRequireLeader(ctx))
	response, err := txn.If(cmps...).Then(append(slices.Clip(then), head)...).Else(head).Commit()
	switch {
	case err == nil:
		s.noteServer(response.Header, before)
		return s.read(response)
	case refusedToken(err):
		if renewed := s.login.renew(ctx, s.client, token); renewed != nil {
			return nil, renewed
		}
	case s.connections.moved(ctx):
	case codeOf(err) == codes.Unavailable || errors.Is(err, context.DeadlineExceeded) || untouched(err):
		s.moveOn(member)
	}
	return nil, fmt.Errorf("%s: %w", s.options.Endpoints[member], err)
}

func (s *Store) asked() int {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.member
}

// moveOn asks another member from now on. One is asked at a time, rather than all in
// turn: one that hangs then costs a call or two, and not every third until its
// connection is given up.
func (s *Store) moveOn(from int) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if len(s.options.Endpoints) == 1 || s.member != from {
		return
	}
	s.member = (from + 1) % len(s.options.Endpoints)
	s.client.SetEndpoints(s.options.Endpoints[s.member])
	s.lookout.doubt() // or it would hold on to the connection
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

package transport

import (
	"context"
	"errors"
	"io"
	"log/slog"
	"math/rand/v2"
	"time"

	"google.golang.org/grpc"
	"google.golang.org/grpc/backoff"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/connectivity"
	"google.golang.org/grpc/keepalive"
	"google.golang.org/grpc/status"
	"google.golang.org/protobuf/proto"

	"github.com/omnirelay/leadership/core"
	"github.com/omnirelay/leadership/wire"
	"github.com/omnirelay/leadership/wire/nodepb"
)

// outbound is the way to one peer.
type outbound struct {
	o         *PeersOptions
	id        core.NodeID
	name      string // in its certificate
	addr      string
	cancel    context.CancelFunc
	conn      *grpc.ClientConn // of the message stream
	messages  *queue
	snapshots chan core.Message
	reports   *reports
	logger    *slog.Logger
	failures  int // in a row
	complaint complaint
}

// complaint is the last failure that was logged.
type complaint struct {
	code codes.Code
	at   time.Time // zero: none since the connection was well
}

func newOutbound(o *PeersOptions, id core.NodeID, name, addr string, r *reports) (*outbound, error) {
	out := &outbound{
		o: o, id: id, name: name, addr: addr, reports: r,
		messages:  newQueue(maxQueued, maxQueuedBytes, maxQueuedAge),
		snapshots: make(chan core.Message, 1),
		logger:    o.Logger.With("peer", uint64(id), "name", name, "addr", addr),
	}
	var err error
	out.conn, err = out.dial()
	return out, err
}

func (out *outbound) dial() (*grpc.ClientConn, error) {
	return grpc.NewClient("passthrough:///"+out.addr,
		grpc.WithTransportCredentials(out.o.Certificates.Credentials(out.name)),
		grpc.WithAuthority(out.name),
		grpc.WithNoProxy(),
		grpc.WithDisableServiceConfig(), grpc.WithDisableRetry(),
		grpc.WithIdleTimeout(0),
		grpc.WithConnectParams(grpc.ConnectParams{
			Backoff:           backoff.Config{BaseDelay: minReconnect, Multiplier: 1.6, Jitter: 0.2, MaxDelay: maxReconnect},
			MinConnectTimeout: connectTimeout,
		}),
		grpc.WithKeepaliveParams(keepalive.ClientParameters{Time: pingInterval, Timeout: deadAfter, PermitWithoutStream: true}),
	)
}

// run keeps a stream to the peer until ctx ends.
func (out *outbound) run(ctx context.Context) {
	for ctx.Err() == nil {
		err := out.exchange(ctx)
		if ctx.Err() != nil {
			return
		}
		if status.Code(err) == codes.FailedPrecondition && out.o.Removed != nil {
			out.o.Removed()
		}
		out.complain("connection to peer failed", err)
		out.reports.add(out.id)
		out.rest(ctx)
	}
}

// complain logs a failure when it is of another kind than the one before, or lasts.
func (out *outbound) complain(what string, err error) {
	now, code := time.Now(), status.Code(err)
	if code == out.complaint.code && now.Sub(out.complaint.at) < complaintInterval {
		return
	}
	out.complaint = complaint{code: code, at: now}
	out.logger.Warn(what, "error", err)
}

// rest waits before the next attempt: while the connection is down, for grpc, which
// tries it again by itself; otherwise (the peer refused the stream) longer after
// every failure.
func (out *outbound) rest(ctx context.Context) {
	ctx, cancel := context.WithTimeout(ctx, pause(out.failures))
	defer cancel()
	out.failures++
	if out.conn.GetState() == connectivity.TransientFailure {
		out.conn.WaitForStateChange(ctx, connectivity.TransientFailure)
		return
	}
	<-ctx.Done()
}

// pause grows from minReconnect to maxReconnect, less up to a fifth: nodes that
// lost a peer together do not come back together.
func pause(failures int) time.Duration {
	d := min(minReconnect<<min(failures, 8), maxReconnect)
	return d - time.Duration(rand.Int64N(int64(d)/5))
}

// exchange runs one stream until it breaks.
func (out *outbound) exchange(ctx context.Context) error {
	ctx, cancel := context.WithCancelCause(ctx)
	defer cancel(nil)
	stream, err := out.open(ctx, out.conn)
	if err != nil {
		return err
	}
	ended := make(chan struct{})
	go func() {
		defer close(ended)
		cancel(verdict(stream.RecvMsg(&nodepb.ExchangeResponse{})))
	}()
	err = out.pump(ctx, stream)
	if errors.Is(err, io.EOF) {
		<-ended // the reason is there, not in Send's error
	}
	cause := context.Cause(ctx)
	cancel(nil)
	<-ended
	if cause != nil {
		return cause
	}
	return err
}

// verdict is why the peer ended a stream.
func verdict(err error) error {
	if err == nil {
		return errors.New("the peer ended the stream")
	}
	return err
}

func (out *outbound) open(ctx context.Context, conn *grpc.ClientConn) (nodepb.NodeService_ExchangeClient, error) {
	stream, err := nodepb.NewNodeServiceClient(conn).Exchange(ctx)
	if err != nil {
		return nil, err
	}
	hello := &nodepb.Hello{ClusterId: out.o.ClusterID, From: uint64(out.o.Self), To: uint64(out.id), Address: out.o.Address}
	if err := stream.Send(&nodepb.ExchangeRequest{Hello: hello}); err != nil && !errors.Is(err, io.EOF) {
		return nil, err
	}
	return stream, nil
}

// pump sends what is queued as it comes.
func (out *outbound) pump(ctx context.Context, stream nodepb.NodeService_ExchangeClient) error {
	opened := time.Now()
	for {
		select {
		case <-ctx.Done():
			return ctx.Err()
		case <-out.messages.signal:
		}
		if err := out.drain(stream); err != nil {
			return err
		}
		if out.failures > 0 && time.Since(opened) > maxReconnect {
			out.failures, out.complaint = 0, complaint{}
			out.logger.Info("connection to peer is back")
		}
	}
}

func (out *outbound) drain(stream nodepb.NodeService_ExchangeClient) error {
	for {
		messages, bytes, dropped := out.messages.take(batchBytes, time.Now())
		if dropped > 0 {
			out.reports.add(out.id)
		}
		if len(messages) == 0 {
			return nil
		}
		if err := sendBatch(stream, messages, bytes); err != nil {
			return err
		}
	}
}

func sendBatch(stream nodepb.NodeService_ExchangeClient, messages []*nodepb.Message, bytes int) error {
	if bytes > batchBytes {
		return sendParts(stream, messages[0])
	}
	return stream.Send(&nodepb.ExchangeRequest{Messages: messages})
}

// sendParts sends one message that is too large for a request.
func sendParts(stream nodepb.NodeService_ExchangeClient, m *nodepb.Message) error {
	data, err := proto.Marshal(m)
	if err != nil {
		return err
	}
	for {
		n := min(len(data), batchBytes)
		part := &nodepb.Part{Data: data[:n], Last: n == len(data)}
		if err := stream.Send(&nodepb.ExchangeRequest{Part: part}); err != nil || part.Last {
			return err
		}
		data = data[n:]
	}
}

// putSnapshot queues a snapshot behind the one that is being sent. One waits at
// most: the newer holds all that the older does.
func (out *outbound) putSnapshot(m core.Message) {
	for {
		select {
		case out.snapshots <- m:
			return
		default:
		}
		select {
		case <-out.snapshots:
			out.reports.add(out.id)
		default:
		}
	}
}

// runSnapshots sends each snapshot over a connection made for it.
func (out *outbound) runSnapshots(ctx context.Context) {
	for {
		select {
		case <-ctx.Done():
			return
		case m := <-out.snapshots:
			out.trySnapshot(ctx, m)
		}
	}
}

func (out *outbound) trySnapshot(ctx context.Context, m core.Message) {
	began := time.Now()
	bytes, err := out.sendSnapshot(ctx, m)
	if err != nil && ctx.Err() == nil {
		out.logger.Warn("snapshot not sent", "error", err)
		out.reports.add(out.id)
	}
	if err == nil {
		out.logger.Info("snapshot sent", "bytes", bytes, "took", time.Since(began))
	}
}

// sendSnapshot returns once the peer has taken the snapshot.
func (out *outbound) sendSnapshot(ctx context.Context, m core.Message) (bytes int, err error) {
	ctx, cancel := context.WithTimeout(ctx, snapshotTimeout)
	defer cancel()
	encoded, err := wire.EncodeMessage(&m)
	if err != nil {
		return 0, err
	}
	conn, err := out.dial()
	if err != nil {
		return 0, err
	}
	defer func() { err = errors.Join(err, conn.Close()) }()
	stream, err := out.open(ctx, conn)
	if err != nil {
		return 0, err
	}
	if err := sendParts(stream, encoded); err != nil && !errors.Is(err, io.EOF) {
		return 0, err
	}
	_, err = stream.CloseAndRecv()
	return proto.Size(encoded), err
}

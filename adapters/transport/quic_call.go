package transport

import (
	"context"
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"math"
	"net/http"
	"net/http/httptrace"
	"strings"
	"sync"

	"github.com/quic-go/quic-go/http3"
	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/credentials"
	"google.golang.org/grpc/metadata"
	"google.golang.org/grpc/peer"
	"google.golang.org/grpc/status"
	"google.golang.org/protobuf/proto"
)

// errNotBegun means that nothing of a call was sent: it may be begun elsewhere.
var errNotBegun = errors.New("the connection takes no more calls")

// quicCall is one grpc call in one HTTP/3 request, in grpc's own framing.
type quicCall struct {
	conn    *quicConn
	desc    *grpc.StreamDesc
	ctx     context.Context
	cancel  context.CancelFunc
	stop    func() bool // forgets the watch on ctx
	options callOptions
	sending *io.PipeWriter // messages, on their way into the request's body

	responded chan struct{} // closed when one of the next two is there
	response  *http.Response
	failed    error
	checked   sync.Once
	refused   error // why the response is none
	rejected  bool  // unary: the server has not looked at the call

	mu      sync.Mutex
	over    bool
	trailer metadata.MD
	err     error // nil: OK
}

// callOptions are those of grpc's call options that count here.
type callOptions struct {
	headers, trailers   []*metadata.MD
	peers               []*peer.Peer
	onFinish            []func(error)
	perRPC              []credentials.PerRPCCredentials
	maxReceive, maxSend int
}

func (o *callOptions) read(options []grpc.CallOption) error {
	for _, option := range options {
		switch v := option.(type) {
		case grpc.HeaderCallOption:
			o.headers = append(o.headers, v.HeaderAddr)
		case grpc.TrailerCallOption:
			o.trailers = append(o.trailers, v.TrailerAddr)
		case grpc.PeerCallOption:
			o.peers = append(o.peers, v.PeerAddr)
		case grpc.OnFinishCallOption:
			o.onFinish = append(o.onFinish, v.OnFinish)
		case grpc.PerRPCCredsCallOption:
			o.perRPC = append(o.perRPC, v.Creds)
		case grpc.MaxRecvMsgSizeCallOption:
			o.maxReceive = v.MaxRecvMsgSize
		case grpc.MaxSendMsgSizeCallOption:
			o.maxSend = v.MaxSendMsgSize
		case grpc.CompressorCallOption, grpc.ContentSubtypeCallOption, grpc.ForceCodecCallOption, grpc.ForceCodecV2CallOption:
			return status.Errorf(codes.Unimplemented, "%T is not available over HTTP/3", v)
		}
	}
	return nil
}

// newQUICCall sends the header of a call.
func newQUICCall(ctx context.Context, o *ChannelOptions, conn *quicConn, desc *grpc.StreamDesc, method string, options []grpc.CallOption) (_ *quicCall, err error) {
	c := &quicCall{conn: conn, desc: desc, options: callOptions{maxReceive: o.MessageBytes, maxSend: math.MaxInt32}}
	if err := c.options.read(options); err != nil {
		return nil, err
	}
	if o.PerRPC != nil {
		c.options.perRPC = append(c.options.perRPC, o.PerRPC)
	}
	request, err := newCallRequest(ctx, o, method, c.options.perRPC)
	if err != nil {
		return nil, err
	}
	c.ctx, c.cancel = context.WithCancel(ctx)
	if err := c.begin(conn, request); err != nil {
		c.cancel()
		return nil, err
	}
	for _, p := range c.options.peers {
		*p = peer.Peer{Addr: conn.RemoteAddr(), LocalAddr: conn.LocalAddr(), AuthInfo: conn.security()}
	}
	return c, nil
}

// begin returns when the header is on its way: before, the call can still be begun
// on another connection.
func (c *quicCall) begin(conn *quicConn, request *http.Request) error {
	var body *io.PipeReader
	body, c.sending = io.Pipe()
	c.stop = context.AfterFunc(c.ctx, func() { _ = c.sending.CloseWithError(c.ctx.Err()) })
	begun := make(chan struct{})
	var once sync.Once
	trace := &httptrace.ClientTrace{WroteHeaderField: func(string, []string) { once.Do(func() { close(begun) }) }}
	request = request.WithContext(httptrace.WithClientTrace(c.ctx, trace))
	request.Body = body
	c.responded = make(chan struct{})
	go func() {
		defer close(c.responded)
		if c.response, c.failed = conn.RoundTrip(request); c.failed != nil { //nolint:bodyclose // the end of c.ctx does
			_ = body.CloseWithError(c.failed)
		}
	}()
	select {
	case <-begun:
		return nil
	case <-c.responded:
	}
	select {
	case <-begun:
		return nil
	default:
		c.stop()
		return errors.Join(errNotBegun, c.failed)
	}
}

// finish ends the call with a status, once.
func (c *quicCall) finish(err error, trailer metadata.MD) {
	c.mu.Lock()
	if c.over {
		c.mu.Unlock()
		return
	}
	c.over, c.err, c.trailer = true, err, trailer
	c.mu.Unlock()
	c.stop()
	_ = c.sending.CloseWithError(errCallOver) // no effect on what was closed in order
	c.cancel()
	for _, t := range c.options.trailers {
		*t = trailer
	}
	if c.rejected {
		return // it is begun anew
	}
	for _, f := range c.options.onFinish {
		f(err)
	}
}

// ended returns the status of a call that is over, io.EOF for OK.
func (c *quicCall) ended() error {
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.over && c.err == nil {
		return io.EOF
	}
	return c.err
}

func (c *quicCall) isOver() bool {
	c.mu.Lock()
	defer c.mu.Unlock()
	return c.over
}

// invoke runs a unary call.
func (c *quicCall) invoke(args, reply any) error {
	if err := c.SendMsg(args); err != nil {
		return err
	}
	if err := c.CloseSend(); err != nil {
		return err
	}
	err := c.RecvMsg(reply)
	if errors.Is(err, io.EOF) {
		return status.Error(codes.Internal, "the server answered OK without a message")
	}
	return err
}

// Context is the call's; it ends with it.
func (c *quicCall) Context() context.Context { return c.ctx }

// Trailer is known once the call is over.
func (c *quicCall) Trailer() metadata.MD {
	c.mu.Lock()
	defer c.mu.Unlock()
	return c.trailer.Copy()
}

// CloseSend tells the server that no more messages come.
func (c *quicCall) CloseSend() error {
	return c.sending.Close()
}

// SendMsg sends one message and returns when it is on its way. io.EOF means that
// the call is over; RecvMsg tells how.
func (c *quicCall) SendMsg(m any) error {
	message, ok := m.(proto.Message)
	if !ok {
		return c.fail(status.Errorf(codes.Internal, "a message is a %T, not one of protobuf", m))
	}
	frame, err := proto.MarshalOptions{}.MarshalAppend(make([]byte, messagePrefix, messagePrefix+proto.Size(message)), message)
	if err != nil {
		return c.fail(status.Errorf(codes.Internal, "encoding a message: %v", err))
	}
	if size := len(frame) - messagePrefix; size > c.options.maxSend {
		return c.fail(status.Errorf(codes.ResourceExhausted, "a message of %d bytes is to be sent, at most %d are allowed", size, c.options.maxSend))
	}
	binary.BigEndian.PutUint32(frame[1:], uint32(len(frame)-messagePrefix)) //nolint:gosec // at most maxSend
	if _, err := c.sending.Write(frame); err != nil {
		if !c.desc.ClientStreams {
			return nil // generated code reads on, and finds the status
		}
		return io.EOF
	}
	return nil
}

// fail ends the call from this side and returns how it ended, which may have been
// before.
func (c *quicCall) fail(err error) error {
	c.finish(err, nil)
	return c.ended()
}

// Header blocks until the server has sent it.
func (c *quicCall) Header() (metadata.MD, error) {
	if err := c.await(); err != nil {
		return nil, err
	}
	return metadataOf(c.response.Header), nil
}

// await waits for the response's header.
func (c *quicCall) await() error {
	<-c.responded
	c.checked.Do(func() {
		err := c.failed
		if err == nil {
			err = checkResponse(c.response)
		}
		if err != nil {
			var h3 *http3.Error
			unary := !c.desc.ClientStreams && !c.desc.ServerStreams
			c.rejected = unary && errors.As(err, &h3) && h3.ErrorCode == http3.ErrCodeRequestRejected
			c.refused = c.fail(statusOf(c.ctx, err))
			return
		}
		for _, h := range c.options.headers {
			*h = metadataOf(c.response.Header)
		}
	})
	return c.refused
}

// checkResponse makes sure that grpc answers, and not some other server.
func checkResponse(r *http.Response) error {
	if r.StatusCode != http.StatusOK {
		return status.Errorf(codeOfHTTP(r.StatusCode), "the server answered HTTP status %d", r.StatusCode)
	}
	if t := r.Header.Get("Content-Type"); t != contentType && !strings.HasPrefix(t, contentType+"+") && !strings.HasPrefix(t, contentType+";") {
		return status.Errorf(codes.Unknown, "the server answered content type %q, want %s", t, contentType)
	}
	return nil
}

// RecvMsg reads one message. io.EOF means that the server ended the call with OK;
// every other error is the status of the call.
func (c *quicCall) RecvMsg(m any) error {
	if c.isOver() {
		return c.ended()
	}
	if err := c.await(); err != nil {
		return err
	}
	err := c.receive(m)
	if err == nil && !c.desc.ServerStreams {
		// There is one answer, and its status is wanted with it.
		if err := c.receive(nil); !errors.Is(err, io.EOF) {
			return err
		}
	}
	return err
}

// receive reads one message into m; nil wants the end.
func (c *quicCall) receive(m any) error {
	var prefix [messagePrefix]byte
	if _, err := io.ReadFull(c.response.Body, prefix[:]); errors.Is(err, io.EOF) {
		return c.conclude()
	} else if err != nil {
		return c.fail(statusOf(c.ctx, err))
	}
	size := binary.BigEndian.Uint32(prefix[1:])
	switch {
	case m == nil:
		return c.fail(status.Error(codes.Internal, "the server sent a second message where one is due"))
	case prefix[0] != 0:
		return c.fail(status.Error(codes.Internal, "the server sent a compressed message, and none was asked for"))
	case int64(size) > int64(c.options.maxReceive):
		return c.fail(status.Errorf(codes.ResourceExhausted, "a message of %d bytes arrives, at most %d are allowed", size, c.options.maxReceive))
	}
	message, ok := m.(proto.Message)
	if !ok {
		return c.fail(status.Errorf(codes.Internal, "a message is a %T, not one of protobuf", m))
	}
	data := make([]byte, size)
	if _, err := io.ReadFull(c.response.Body, data); err != nil {
		return c.fail(statusOf(c.ctx, err))
	}
	if err := proto.Unmarshal(data, message); err != nil {
		return c.fail(status.Errorf(codes.Internal, "decoding a message: %v", err))
	}
	return nil
}

// conclude reads the status of a call whose messages are over.
func (c *quicCall) conclude() error {
	from := c.response.Trailer
	if from.Get(headerStatus) == "" {
		from = c.response.Header // an answer without messages may have it there
	}
	st, err := readStatus(from)
	if err != nil {
		return c.fail(err)
	}
	c.finish(st.Err(), metadataOf(c.response.Trailer))
	return c.ended()
}

// statusOf turns what went wrong with a stream into a status.
func statusOf(ctx context.Context, err error) error {
	if err == nil {
		return nil
	}
	switch ctx.Err() {
	case context.Canceled:
		return status.Error(codes.Canceled, context.Canceled.Error())
	case context.DeadlineExceeded:
		return status.Error(codes.DeadlineExceeded, context.DeadlineExceeded.Error())
	}
	if _, ok := status.FromError(err); ok {
		return err
	}
	return status.Error(codes.Unavailable, fmt.Sprintf("over HTTP/3: %v", err))
}

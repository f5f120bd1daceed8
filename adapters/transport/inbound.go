package transport

import (
	"errors"
	"fmt"
	"io"
	"sync"

	"golang.org/x/time/rate"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"

	"github.com/omnirelay/leadership/core"
	"github.com/omnirelay/leadership/wire"
	"github.com/omnirelay/leadership/wire/nodepb"
)

// inbound is the receiving side: it serves the streams of the other nodes.
type inbound struct {
	nodepb.UnimplementedNodeServiceServer
	o         *PeersOptions
	directory *directory
	learn     func(id core.NodeID, name, addr string)

	refusals *rate.Limiter // of log lines: who has any certificate of the cluster can try without end

	mu      sync.Mutex
	closed  bool
	streams map[core.NodeID]int
	ending  chan struct{} // closed when the streams are to end
	tasks   sync.WaitGroup
}

func newInbound(o *PeersOptions, d *directory, learn func(core.NodeID, string, string)) *inbound {
	return &inbound{o: o, directory: d, learn: learn, refusals: rate.NewLimiter(1, 10), streams: map[core.NodeID]int{}, ending: make(chan struct{})}
}

func (in *inbound) enter(from core.NodeID) error {
	in.mu.Lock()
	defer in.mu.Unlock()
	if in.closed {
		return errEnding
	}
	if in.streams[from] == maxStreams {
		return status.Errorf(codes.ResourceExhausted, "node %d has %d streams here already", from, maxStreams)
	}
	in.streams[from]++
	in.tasks.Add(1)
	return nil
}

func (in *inbound) leave(from core.NodeID) {
	in.mu.Lock()
	defer in.mu.Unlock()
	if in.streams[from]--; in.streams[from] == 0 {
		delete(in.streams, from)
	}
	in.tasks.Done()
}

// close ends all streams, refuses new ones, and waits.
func (in *inbound) close() {
	in.mu.Lock()
	if !in.closed {
		in.closed = true
		close(in.ending)
	}
	in.mu.Unlock()
	in.tasks.Wait()
}

var errEnding = status.Error(codes.Unavailable, "this node is shutting down")

// Exchange serves one stream.
func (in *inbound) Exchange(stream nodepb.NodeService_ExchangeServer) error {
	from, err := in.admit(stream)
	if err == nil {
		err = in.enter(from)
	}
	if err != nil {
		if in.refusals.Allow() {
			in.o.Logger.Warn("stream refused", "error", err)
		}
		return err
	}
	ended := make(chan error, 1)
	go func() {
		defer in.leave(from)
		ended <- in.receive(from, stream)
	}()
	select {
	case err := <-ended:
		return err
	case <-in.directory.gone(from):
		return errRemoved
	case <-in.ending:
		return errEnding // which ends the stream, and with it receive
	}
}

// admit reads the hello and holds it against the certificate: a node speaks only
// as itself, and only to whom it means.
func (in *inbound) admit(stream nodepb.NodeService_ExchangeServer) (core.NodeID, error) {
	id, err := CallerIdentity(stream.Context())
	if err != nil {
		return 0, status.Error(codes.Unauthenticated, err.Error())
	}
	if err := expectNode(id, in.o.ClusterID, ""); err != nil {
		return 0, status.Error(codes.PermissionDenied, err.Error())
	}
	first, err := stream.Recv()
	if err != nil {
		return 0, fmt.Errorf("waiting for the hello of %s: %w", id, err)
	}
	return in.checkHello(id, first)
}

func (in *inbound) checkHello(id Identity, first *nodepb.ExchangeRequest) (core.NodeID, error) {
	h := first.GetHello()
	from := core.NodeID(h.GetFrom())
	switch {
	case h == nil || len(first.GetMessages()) > 0 || first.GetPart() != nil:
		return 0, status.Error(codes.InvalidArgument, "hello: the first request must hold it and nothing else")
	case h.GetClusterId() != in.o.ClusterID:
		return 0, status.Errorf(codes.PermissionDenied, "hello.cluster_id: %q was meant, this is %q", h.GetClusterId(), in.o.ClusterID)
	case core.NodeID(h.GetTo()) != in.o.Self:
		return 0, status.Errorf(codes.PermissionDenied, "hello.to: node %d was meant, this is node %d: check the addresses", h.GetTo(), in.o.Self)
	}
	if err := in.directory.admit(from, id); err != nil {
		return 0, err
	}
	if in.o.Open {
		in.learn(from, id.Name, h.GetAddress())
	}
	return from, nil
}

// receive delivers what arrives until the stream ends.
func (in *inbound) receive(from core.NodeID, stream nodepb.NodeService_ExchangeServer) error {
	r := receiver{from: from, self: in.o.Self, deliver: in.o.Deliver}
	for {
		request, err := stream.Recv()
		if errors.Is(err, io.EOF) {
			return stream.SendAndClose(&nodepb.ExchangeResponse{})
		}
		if err != nil {
			return err
		}
		if err := r.request(request); err != nil {
			in.o.Logger.Error("stream ended: a message is malformed", "peer", from, "error", err)
			return status.Error(codes.InvalidArgument, err.Error())
		}
	}
}

// receiver turns the requests of one stream into messages.
type receiver struct {
	from, self core.NodeID
	deliver    func(core.Message)
	parts      []byte // of the message that is being put together
}

func (r *receiver) request(request *nodepb.ExchangeRequest) error {
	if request.GetHello() != nil {
		return errors.New("hello: repeated within a stream")
	}
	if part := request.GetPart(); part != nil {
		if len(request.GetMessages()) > 0 {
			return errors.New("part: in one request with messages")
		}
		return r.part(part)
	}
	if r.parts != nil {
		return errors.New("part: the last one is missing")
	}
	for i, encoded := range request.GetMessages() {
		m, err := wire.DecodeMessage(encoded)
		if err == nil {
			err = r.take(m)
		}
		if err != nil {
			return fmt.Errorf("messages[%d].%w", i, err)
		}
	}
	return nil
}

func (r *receiver) part(part *nodepb.Part) error {
	if size := len(r.parts) + len(part.GetData()); size > wire.MaxMessageBytes {
		return fmt.Errorf("part: the message has %d bytes so far, at most %d are allowed", size, wire.MaxMessageBytes)
	}
	if len(part.GetData()) == 0 {
		return errors.New("part.data: is empty")
	}
	r.parts = append(r.parts, part.GetData()...)
	if !part.GetLast() {
		return nil
	}
	data := r.parts
	r.parts = nil
	m, err := wire.DecodeMessageBytes(data)
	if err == nil {
		err = r.take(m)
	}
	if err != nil {
		return fmt.Errorf("part.%w", err)
	}
	return nil
}

func (r *receiver) take(m core.Message) error {
	if m.From != r.from {
		return fmt.Errorf("from: node %d speaks as node %d", r.from, m.From)
	}
	if m.To != r.self {
		return fmt.Errorf("to: meant for node %d, this is node %d", m.To, r.self)
	}
	r.deliver(m)
	return nil
}

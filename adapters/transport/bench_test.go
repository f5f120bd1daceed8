package transport

import (
	"context"
	"crypto/tls"
	"encoding/binary"
	"fmt"
	"io"
	"slices"
	"sync"
	"syscall"
	"testing"
	"time"

	"github.com/quic-go/quic-go"
	testpb "google.golang.org/grpc/interop/grpc_testing"
	"google.golang.org/protobuf/proto"

	"github.com/omnirelay/leadership/wire"
	"github.com/omnirelay/leadership/wire/nodepb"
)

// The benchmarks here answer two questions of docs/transport.md: what nodes should
// speak among themselves, and what a delivered event costs on each protocol.

// lane carries messages one way; a pair of lanes joins two nodes.
type lane func(*nodepb.ExchangeRequest) error

// BenchmarkExchange is the traffic between three nodes: the registrar sends an entry
// to two, each answers, and the round is over when both have.
func BenchmarkExchange(b *testing.B) {
	for _, way := range []struct {
		name string
		join func(*benchSite, *testing.B, func(*nodepb.ExchangeRequest)) lane
	}{{"HTTP2", (*benchSite).overHTTP2}, {"HTTP3", (*benchSite).overHTTP3}, {"QUIC", (*benchSite).overQUIC}} {
		for _, size := range []int{200, 20_000} {
			b.Run(fmt.Sprintf("%s/%dB", way.name, size), func(b *testing.B) { exchangeRounds(b, size, way.join) })
		}
	}
}

func exchangeRounds(b *testing.B, size int, join func(*benchSite, *testing.B, func(*nodepb.ExchangeRequest)) lane) {
	s := newBenchSite(b)
	acks := make(chan struct{}, 2)
	entry := encoded(b, size)
	ack := encoded(b, 20)
	var lanes []lane
	for range 2 {
		back := join(s, b, func(*nodepb.ExchangeRequest) { acks <- struct{}{} })
		lanes = append(lanes, join(s, b, func(*nodepb.ExchangeRequest) {
			if err := back(ack); err != nil {
				b.Error(err)
			}
		}))
	}
	round := func() {
		for _, send := range lanes {
			if err := send(entry); err != nil {
				b.Fatal(err)
			}
		}
		for range lanes {
			<-acks
		}
	}
	round() // connects
	took := make([]time.Duration, 0, b.N)
	before := processorTime()
	b.ResetTimer()
	for b.Loop() {
		began := time.Now()
		round()
		took = append(took, time.Since(began))
	}
	b.StopTimer()
	slices.Sort(took)
	b.ReportMetric(float64(took[len(took)/2].Microseconds()), "p50-µs")
	b.ReportMetric(float64(took[len(took)*99/100].Microseconds()), "p99-µs")
	b.ReportMetric(float64((processorTime()-before).Microseconds())/float64(len(took)), "cpu-µs/round")
}

func encoded(b *testing.B, size int) *nodepb.ExchangeRequest {
	b.Helper()
	m := appMessage(1, 2, 1, make([]byte, size))
	out, err := wire.EncodeMessage(&m)
	if err != nil {
		b.Fatal(err)
	}
	return &nodepb.ExchangeRequest{Messages: []*nodepb.Message{out}}
}

// processorTime is what this process has used.
func processorTime() time.Duration {
	var u syscall.Rusage
	if err := syscall.Getrusage(syscall.RUSAGE_SELF, &u); err != nil {
		return 0
	}
	return time.Duration(u.Utime.Nano() + u.Stime.Nano())
}

// benchSite is where all three nodes get their certificates.
type benchSite struct{ certificates *Certificates }

func newBenchSite(b *testing.B) *benchSite {
	b.Helper()
	a, err := NewAuthority(testCluster)
	if err != nil {
		b.Fatal(err)
	}
	pair, err := a.IssueNode("server")
	if err != nil {
		b.Fatal(err)
	}
	dir := b.TempDir()
	f := Files{CA: dir + "/ca.pem", Cert: dir + "/cert.pem", Key: dir + "/key.pem"}
	if err := pair.Save(f.Cert, f.Key); err != nil {
		b.Fatal(err)
	}
	if err := WriteFile(f.CA, a.CertPEM(), 0o600); err != nil {
		b.Fatal(err)
	}
	c, err := LoadCertificates(f, nil)
	if err != nil {
		b.Fatal(err)
	}
	return &benchSite{certificates: c}
}

func (s *benchSite) options() FrontOptions {
	return FrontOptions{TLS: s.certificates.Server(Required, "h2")}
}

// exchange delivers what arrives.
type exchange struct {
	nodepb.UnimplementedNodeServiceServer
	deliver func(*nodepb.ExchangeRequest)
}

func (e *exchange) Exchange(stream nodepb.NodeService_ExchangeServer) error {
	for {
		r, err := stream.Recv()
		if err != nil {
			return nil //nolint:nilerr // the end of the benchmark
		}
		e.deliver(r)
	}
}

func (s *benchSite) overGRPC(b *testing.B, p Preference, deliver func(*nodepb.ExchangeRequest)) lane {
	b.Helper()
	front, err := NewGRPCFront(s.options())
	if err != nil {
		b.Fatal(err)
	}
	nodepb.RegisterNodeServiceServer(front.Server(), &exchange{deliver: deliver})
	c, stop := s.serve(b, front, p)
	stream, err := nodepb.NewNodeServiceClient(c).Exchange(b.Context())
	if err != nil {
		b.Fatal(err)
	}
	b.Cleanup(stop)
	return stream.Send
}

func (s *benchSite) serve(b *testing.B, front *GRPCFront, p Preference) (*Channel, func()) {
	b.Helper()
	d, err := ListenDual("127.0.0.1:0")
	if err != nil {
		b.Fatal(err)
	}
	served := make(chan error, 1)
	go func() { served <- front.Serve(d) }()
	c, err := NewChannel(ChannelOptions{Address: d.Addr(), TLS: s.tls, Prefer: p})
	if err != nil {
		b.Fatal(err)
	}
	return c, func() {
		_ = c.Close()
		front.stop()
		if err := <-served; err != nil {
			b.Error(err)
		}
	}
}

func (s *benchSite) overHTTP2(b *testing.B, deliver func(*nodepb.ExchangeRequest)) lane {
	return s.overGRPC(b, OnlyHTTP2, deliver)
}

func (s *benchSite) overHTTP3(b *testing.B, deliver func(*nodepb.ExchangeRequest)) lane {
	return s.overGRPC(b, OnlyHTTP3, deliver)
}

// overQUIC is the best that QUIC can do: one stream, a length before each message, no
// HTTP and no grpc.
func (s *benchSite) overQUIC(b *testing.B, deliver func(*nodepb.ExchangeRequest)) lane {
	b.Helper()
	l, err := quic.ListenAddr("127.0.0.1:0", s.certificates.Server(Required, "node"), nil)
	if err != nil {
		b.Fatal(err)
	}
	done := make(chan struct{})
	go func() {
		defer close(done)
		conn, err := l.Accept(context.Background())
		if err != nil {
			return
		}
		stream, err := conn.AcceptStream(context.Background())
		if err != nil {
			return
		}
		readLengths(stream, deliver)
	}()
	conn, err := quic.DialAddr(b.Context(), l.Addr().String(), s.certificates.Client("server", "node"), nil)
	if err != nil {
		b.Fatal(err)
	}
	stream, err := conn.OpenStream()
	if err != nil {
		b.Fatal(err)
	}
	b.Cleanup(func() {
		_ = conn.CloseWithError(0, "")
		_ = l.Close()
		<-done
	})
	return func(r *nodepb.ExchangeRequest) error {
		data, err := proto.MarshalOptions{}.MarshalAppend(make([]byte, 4), r)
		if err != nil {
			return err
		}
		binary.BigEndian.PutUint32(data, uint32(len(data)-4)) //nolint:gosec // small
		_, err = stream.Write(data)
		return err
	}
}

func readLengths(from io.Reader, deliver func(*nodepb.ExchangeRequest)) {
	for {
		var size [4]byte
		if _, err := io.ReadFull(from, size[:]); err != nil {
			return
		}
		data := make([]byte, binary.BigEndian.Uint32(size[:]))
		if _, err := io.ReadFull(from, data); err != nil {
			return
		}
		r := &nodepb.ExchangeRequest{}
		if err := proto.Unmarshal(data, r); err != nil {
			return
		}
		deliver(r)
	}
}

// BenchmarkDelivery is what an event costs that goes to a thousand subscribers, both
// ends together.
func BenchmarkDelivery(b *testing.B) {
	for name, p := range map[string]Preference{"HTTP2": OnlyHTTP2, "HTTP3": OnlyHTTP3} {
		for _, connections := range []int{10, 1000} {
			b.Run(fmt.Sprintf("%s/%d-connections", name, connections), func(b *testing.B) { deliver(b, p, connections, 1000) })
		}
	}
}

func deliver(b *testing.B, p Preference, connections, subscribers int) {
	s := newBenchSite(b)
	front, err := NewGRPCFront(s.options())
	if err != nil {
		b.Fatal(err)
	}
	source := &broadcast{event: &testpb.StreamingOutputCallResponse{Payload: &testpb.Payload{Body: make([]byte, 300)}}, next: make(chan struct{}), ready: make(chan struct{}, subscribers)}
	testpb.RegisterTestServiceServer(front.Server(), source)
	d, err := ListenDual("127.0.0.1:0")
	if err != nil {
		b.Fatal(err)
	}
	served := make(chan error, 1)
	go func() { served <- front.Serve(d) }()
	ctx, cancel := context.WithCancel(context.Background())
	var readers, arrived sync.WaitGroup
	channels := make([]*Channel, connections)
	for i := range subscribers {
		if i < connections {
			if channels[i], err = NewChannel(ChannelOptions{Address: d.Addr(), TLS: s.tls, Prefer: p, DeadAfter: 30 * time.Second}); err != nil {
				b.Fatal(err)
			}
		}
		subscribe(ctx, b, channels[i%connections], &readers, &arrived)
	}
	for range subscribers {
		<-source.ready
	}
	before := processorTime()
	b.ResetTimer()
	for b.Loop() {
		arrived.Add(subscribers)
		source.send()
		arrived.Wait()
	}
	b.StopTimer()
	b.ReportMetric(float64((processorTime()-before).Nanoseconds())/1000/float64(b.N)/float64(subscribers), "cpu-µs/event")
	cancel()
	readers.Wait()
	for _, c := range channels {
		_ = c.Close()
	}
	front.stop()
	if err := <-served; err != nil {
		b.Error(err)
	}
}

// subscribe reads events until ctx ends, and tells of each.
func subscribe(ctx context.Context, b *testing.B, c *Channel, readers, arrived *sync.WaitGroup) {
	b.Helper()
	stream, err := testpb.NewTestServiceClient(c).StreamingOutputCall(ctx, &testpb.StreamingOutputCallRequest{})
	if err != nil {
		b.Fatal(err)
	}
	readers.Go(func() {
		for {
			if _, err := stream.Recv(); err != nil {
				if ctx.Err() == nil {
					b.Error(err)
				}
				return
			}
			arrived.Done()
		}
	})
}

func (s *benchSite) tls() *tls.Config { return s.certificates.Client("server") }

// broadcast sends one event to all its streams at each call of send.
type broadcast struct {
	testpb.UnimplementedTestServiceServer
	event *testpb.StreamingOutputCallResponse
	ready chan struct{}

	mu   sync.Mutex
	next chan struct{} // closed when the next event is there
}

func (s *broadcast) wait() chan struct{} {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.next
}

func (s *broadcast) send() {
	s.mu.Lock()
	defer s.mu.Unlock()
	close(s.next)
	s.next = make(chan struct{})
}

func (s *broadcast) StreamingOutputCall(_ *testpb.StreamingOutputCallRequest, stream testpb.TestService_StreamingOutputCallServer) error {
	next := s.wait()
	s.ready <- struct{}{}
	for {
		select {
		case <-next:
		case <-stream.Context().Done():
			return nil
		}
		next = s.wait()
		if err := stream.Send(s.event); err != nil {
			return err
		}
	}
}

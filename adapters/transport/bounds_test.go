package transport

import (
	"context"
	"crypto/tls"
	"errors"
	"io"
	"net"
	"os"
	"os/exec"
	"runtime"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/quic-go/quic-go"
	"github.com/quic-go/quic-go/http3"
	testpb "google.golang.org/grpc/interop/grpc_testing"
)

// heap is what is in use after a collection.
func heap() int64 {
	runtime.GC()
	runtime.GC() // pools let go in the second
	var m runtime.MemStats
	runtime.ReadMemStats(&m)
	return int64(m.HeapAlloc) //nolint:gosec // far below
}

// TestAnUnreadStreamHoldsLittle: callers that send without end to handlers that do not
// read. What was sent is counted on the caller's side, so it holds all that lies
// anywhere.
func TestAnUnreadStreamHoldsLittle(t *testing.T) {
	bothWays(t, func(t *testing.T, p Preference, _ string) {
		const streams, size = 8, 60_000
		read := make(chan struct{})
		var got atomic.Int64
		s := serveGRPC(t, &testService{duplex: func(stream testpb.TestService_FullDuplexCallServer) error {
			select {
			case <-read:
			case <-stream.Context().Done():
				return stream.Context().Err()
			}
			for {
				r, err := stream.Recv()
				if errors.Is(err, io.EOF) {
					return nil
				}
				if err != nil {
					return err
				}
				got.Add(int64(len(r.GetPayload().GetBody())))
			}
		}}, Limits{})
		client := testpb.NewTestServiceClient(s.channel(only(p)))
		before := heap()
		var sent atomic.Int64
		var senders sync.WaitGroup
		stop := make(chan struct{})
		for range streams {
			stream, err := client.FullDuplexCall(patient(t))
			if err != nil {
				t.Fatal(err)
			}
			senders.Go(func() { sendUntil(t, stream, size, stop, &sent) })
		}
		// They send until nothing moves any more. Unbounded they would send on: some
		// hundred megabytes in this time.
		for last := int64(-1); sent.Load() != last; time.Sleep(500 * time.Millisecond) {
			if last = sent.Load(); last > 100<<20 {
				break
			}
		}
		held, grown := sent.Load(), heap()-before
		t.Logf("%d streams hold %d KiB, the heap grew by %d KiB", streams, held>>10, grown>>10)
		// A message of each stream, the connection's window, and a few messages of each
		// stream on its caller's side.
		if limit := int64(connectionWindow + streams*5*size); held > limit {
			t.Errorf("%d bytes were taken, want at most %d", held, limit)
		}
		if grown > 64<<20 {
			t.Errorf("the heap grew by %d bytes", grown)
		}
		close(stop)
		close(read)
		senders.Wait()
		if sent.Load() != got.Load() {
			t.Errorf("%d bytes were sent, %d arrived", sent.Load(), got.Load())
		}
	})
}

func sendUntil(t *testing.T, stream testpb.TestService_FullDuplexCallClient, size int, stop chan struct{}, sent *atomic.Int64) {
	for {
		select {
		case <-stop:
			if err := stream.CloseSend(); err != nil {
				t.Error(err)
			}
			if _, err := stream.Recv(); !errors.Is(err, io.EOF) {
				t.Error(err)
			}
			return
		default:
		}
		if err := stream.Send(duplexRequest(size)); err != nil {
			t.Error(err)
			return
		}
		sent.Add(int64(size))
	}
}

// TestResetStreamsKeepTheirPlace: a caller that begins calls and resets them at once
// does not get more handlers than it may have.
func TestResetStreamsKeepTheirPlace(t *testing.T) {
	t.Parallel()
	const streams, attempts = 5, 40
	var running, most atomic.Int32
	release := make(chan struct{})
	s := serveGRPC(t, &testService{duplex: func(testpb.TestService_FullDuplexCallServer) error {
		if n := running.Add(1); n > most.Load() {
			most.Store(n)
		}
		defer running.Add(-1)
		<-release // a handler that does not look at its context
		return nil
	}}, Limits{Streams: streams})
	client := testpb.NewTestServiceClient(s.channel(only(OnlyHTTP3)))
	for range attempts {
		ctx, cancel := context.WithCancel(patient(t))
		stream, err := client.FullDuplexCall(ctx)
		if err == nil {
			err = stream.Send(duplexRequest(1))
		}
		if err != nil {
			t.Fatal(err)
		}
		before := running.Load()
		for end := time.Now().Add(50 * time.Millisecond); running.Load() == before && time.Now().Before(end); {
			time.Sleep(time.Millisecond)
		}
		cancel()
	}
	if got := most.Load(); got != streams {
		t.Errorf("%d handlers ran at once, want %d", got, streams)
	}
	close(release)
	ctx := patient(t)
	stream, err := client.FullDuplexCall(ctx) // the places are free again
	if err != nil {
		t.Fatal(err)
	}
	if _, err := stream.Recv(); !errors.Is(err, io.EOF) {
		t.Error(err)
	}
}

// TestAReaderThatStops is cut, and holds up no graceful end.
func TestAReaderThatStops(t *testing.T) {
	t.Parallel()
	const timeout = 200 * time.Millisecond
	ended := make(chan error, 1)
	sent := make(chan struct{}, 1_000_000)
	s := serveGRPC(t, &testService{output: func(_ *testpb.StreamingOutputCallRequest, stream testpb.TestService_StreamingOutputCallServer) error {
		for {
			if err := stream.Send(&testpb.StreamingOutputCallResponse{Payload: payload(100_000)}); err != nil {
				ended <- err
				return err
			}
			sent <- struct{}{}
		}
	}}, Limits{WriteTimeout: timeout})
	stream, err := testpb.NewTestServiceClient(s.channel(only(OnlyHTTP3))).StreamingOutputCall(patient(t), &testpb.StreamingOutputCallRequest{})
	if err != nil {
		t.Fatal(err)
	}
	if _, err := stream.Recv(); err != nil {
		t.Fatal(err)
	}
	receive(t, sent)
	began := time.Now()
	s.grpc.Shutdown(patient(t))
	if took := time.Since(began); took > timeout+linger+soon {
		t.Errorf("the graceful end took %v", took)
	}
	if err := receive(t, ended); err == nil {
		t.Error("the handler was not told")
	}
}

// TestASlowReaderIsNotCut: the deadline is for each message, not for the stream.
func TestASlowReaderIsNotCut(t *testing.T) {
	t.Parallel()
	const timeout = 150 * time.Millisecond
	next := make(chan struct{})
	s := serveGRPC(t, &testService{output: func(_ *testpb.StreamingOutputCallRequest, stream testpb.TestService_StreamingOutputCallServer) error {
		for range next {
			if err := stream.Send(&testpb.StreamingOutputCallResponse{Payload: payload(10)}); err != nil {
				return err
			}
		}
		return nil
	}}, Limits{WriteTimeout: timeout})
	stream, err := testpb.NewTestServiceClient(s.channel(only(OnlyHTTP3))).StreamingOutputCall(patient(t), &testpb.StreamingOutputCallRequest{})
	if err != nil {
		t.Fatal(err)
	}
	for range 2 {
		next <- struct{}{}
		if _, err := stream.Recv(); err != nil {
			t.Fatal(err)
		}
		time.Sleep(2 * timeout) // longer than a write may take
	}
	close(next)
	if _, err := stream.Recv(); !errors.Is(err, io.EOF) {
		t.Errorf("the end after a silence: %v", err)
	}
}

// clientOf is how this test program is told to be a client, of an address.
const clientOf = "TRANSPORT_TEST_CLIENT_OF"

// beClient opens a stream, says so, and stays until it is killed.
func beClient() error {
	c, err := LoadCertificates(Files{CA: os.Getenv("CA"), Cert: os.Getenv("CERT"), Key: os.Getenv("KEY")}, nil)
	if err != nil {
		return err
	}
	channel, err := NewChannel(ChannelOptions{Address: os.Getenv(clientOf), Prefer: OnlyHTTP3,
		TLS: func() *tls.Config { return c.Client("server") }})
	if err != nil {
		return err
	}
	stream, err := testpb.NewTestServiceClient(channel).FullDuplexCall(context.Background())
	if err != nil {
		return err
	}
	if err := stream.Send(duplexRequest(1)); err != nil {
		return err
	}
	_, err = stream.Recv() // never comes
	return err
}

// TestAKilledClientIsNoticed within the idle time-out, not QUIC's usual half minute.
func TestAKilledClientIsNoticed(t *testing.T) {
	t.Parallel()
	reading, ended := make(chan struct{}), make(chan struct{})
	s := serveGRPC(t, &testService{duplex: func(stream testpb.TestService_FullDuplexCallServer) error {
		if _, err := stream.Recv(); err != nil {
			return err
		}
		close(reading)
		<-stream.Context().Done()
		close(ended)
		return nil
	}}, Limits{})
	pair, err := s.authority.IssueClient(RoleRead)
	files := save(t, s.authority, pair, err)
	client := exec.CommandContext(t.Context(), os.Args[0])
	client.Env = append(os.Environ(), clientOf+"="+s.address, "CA="+files.CA, "CERT="+files.Cert, "KEY="+files.Key)
	client.Stderr = t.Output()
	if err := client.Start(); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = client.Wait() })
	receive(t, reading)
	idle := Limits{}.withDefaults().IdleTimeout
	select { // alive although it says nothing
	case <-ended:
		t.Fatal("the call of a live client was ended")
	case <-time.After(idle * 3 / 2):
	}
	killed := time.Now()
	if err := client.Process.Kill(); err != nil {
		t.Fatal(err)
	}
	receive(t, ended)
	took := time.Since(killed)
	t.Logf("noticed after %v", took)
	if took > idle+soon {
		t.Errorf("noticed after %v, want %v", took, idle)
	}
}

// rawQUIC connects to a site as no browser would.
func (s *site) rawQUIC(change func(*tls.Config)) (*quic.Conn, error) {
	s.t.Helper()
	config := s.tls()()
	config.NextProtos = []string{http3.NextProtoH3}
	if change != nil {
		change(config)
	}
	conn, err := quic.DialAddr(patient(s.t), s.address, config, &quic.Config{KeepAlivePeriod: 100 * time.Millisecond})
	if err == nil {
		s.t.Cleanup(func() { _ = conn.CloseWithError(0, "") })
	}
	return conn, err
}

func (s *site) rawTCP() net.Conn {
	s.t.Helper()
	conn, err := net.Dial("tcp", s.address)
	if err != nil {
		s.t.Fatal(err)
	}
	s.t.Cleanup(func() { _ = conn.Close() })
	return conn
}

// closedWithin waits until the other end closes.
func closedWithin(t *testing.T, conn net.Conn, d time.Duration) {
	t.Helper()
	if err := conn.SetReadDeadline(time.Now().Add(d)); err != nil {
		t.Fatal(err)
	}
	_, err := io.Copy(io.Discard, conn)
	var timeout net.Error
	if errors.As(err, &timeout) && timeout.Timeout() {
		t.Errorf("still open after %v", d)
	}
}

func eventually(t *testing.T, what string, ok func() bool) {
	t.Helper()
	for end := time.Now().Add(patience); !ok(); time.Sleep(time.Millisecond) {
		if time.Now().After(end) {
			t.Fatalf("never: %s", what)
		}
	}
}

// TestConnectionsAreCountedTogether: TCP and QUIC share the limit, and a place is
// free again when its connection is over.
func TestConnectionsAreCountedTogether(t *testing.T) {
	t.Parallel()
	s := serveGRPC(t, &testService{}, Limits{Connections: 8, ConnectionsPerSource: 3})
	first, second := s.rawTCP(), s.rawTCP()
	eventually(t, "two connections", func() bool { return s.grpc.Stats().Connections == 2 })
	third, err := s.rawQUIC(nil)
	if err != nil {
		t.Fatal(err)
	}
	closedWithin(t, s.rawTCP(), soon)
	var refused *quic.TransportError
	if _, err := s.rawQUIC(nil); !errors.As(err, &refused) || refused.ErrorCode != quic.ConnectionRefused {
		t.Errorf("a fourth over QUIC: %v", err)
	}
	if got := s.grpc.Stats(); got.Connections != 3 || got.Refused < 2 {
		t.Errorf("have %+v", got)
	}
	_ = first.Close()
	_ = second.Close()
	_ = third.CloseWithError(0, "")
	eventually(t, "no connections", func() bool { return s.grpc.Stats().Connections == 0 })
	if _, err := s.rawQUIC(nil); err != nil {
		t.Error(err)
	}
}

func TestForgedSendersCannotUseUpAnothersQuota(t *testing.T) {
	a := newAdmission(Limits{Connections: 10, ConnectionsPerSource: 4})
	victim, other := &net.UDPAddr{IP: net.IPv4(10, 0, 0, 1), Port: 1}, &net.UDPAddr{IP: net.IPv4(10, 0, 0, 2), Port: 1}
	var leaves []func()
	for !a.crowded(victim) {
		leave, err := a.enter(victim)
		if err != nil {
			t.Fatal("the quota was used up by connections that proved nothing")
		}
		leaves = append(leaves, leave)
	}
	if len(leaves) != 2 || a.crowded(other) {
		t.Errorf("%d connections, another source crowded: %v", len(leaves), a.crowded(other))
	}
	if _, err := a.enter(victim); err != nil {
		t.Error("who proved its address is refused")
	}
	leaves[0]()
	leaves[0]() // does no harm
	if a.open() != 2 {
		t.Errorf("%d are counted", a.open())
	}
	six := func(s string) *net.UDPAddr { return &net.UDPAddr{IP: net.ParseIP(s), Port: 1} }
	if source(six("2001:db8::1")) != source(six("2001:db8::ffff:1")) || source(six("2001:db8::1")) == source(six("2001:db8:0:1::1")) {
		t.Error("an IPv6 source is its /64")
	}
	if source(six("::ffff:10.0.0.1")) != source(victim) {
		t.Error("an IPv4 address is the same however it is written")
	}
}

// TestHandshakesThatNeverEnd, on every way in.
func TestHandshakesThatNeverEnd(t *testing.T) {
	t.Parallel()
	const timeout = 300 * time.Millisecond
	sites := map[string]*site{
		"grpc": serveGRPC(t, &testService{}, Limits{HandshakeTimeout: timeout}),
		"web":  serveWeb(t, okHandler, Limits{HandshakeTimeout: timeout}),
	}
	for name, s := range sites {
		t.Run(name, func(t *testing.T) {
			silent, slow := s.rawTCP(), s.rawTCP()
			go func() { // one byte at a time, of a record that never ends
				for _, err := slow.Write([]byte{22}); err == nil; _, err = slow.Write([]byte{3}) {
					time.Sleep(20 * time.Millisecond)
				}
			}()
			closedWithin(t, silent, timeout+soon)
			closedWithin(t, slow, timeout+soon)

			socket, err := net.ListenUDP("udp4", nil)
			if err != nil {
				t.Fatal(err)
			}
			defer func() { _ = socket.Close() }()
			ctx, cancel := context.WithCancel(t.Context())
			defer cancel()
			mute := &quic.Transport{Conn: &muted{PacketConn: socket, left: 2}}
			defer func() { _ = mute.Close() }()
			target, err := net.ResolveUDPAddr("udp", s.address)
			if err != nil {
				t.Fatal(err)
			}
			config := s.tls()()
			config.NextProtos = []string{http3.NextProtoH3}
			dialed := make(chan struct{})
			go func() {
				defer close(dialed)
				_, _ = mute.Dial(ctx, target, config, nil)
			}()
			began := time.Now()
			eventually(t, "the handshake begins", func() bool { return s.stats().Connections == 1 })
			eventually(t, "it is given up", func() bool { return s.stats().Connections == 0 })
			if took := time.Since(began); took > timeout+soon {
				t.Errorf("given up after %v", took)
			}
			cancel()
			<-dialed
		})
	}
}

func (s *site) stats() FrontStats {
	if s.grpc != nil {
		return s.grpc.Stats()
	}
	return s.web.Stats()
}

// muted sends a few packets and swallows the rest.
type muted struct {
	net.PacketConn
	left int
}

func (m *muted) WriteTo(p []byte, to net.Addr) (int, error) {
	if m.left--; m.left < 0 {
		return len(p), nil
	}
	return m.PacketConn.WriteTo(p, to)
}

// TestAFloodOfHandshakes from senders that never hear the answer, as forged ones do
// not: they get half of the places, and an honest caller is let in beside them.
func TestAFloodOfHandshakes(t *testing.T) {
	t.Parallel()
	const places = 20
	s := serveGRPC(t, &testService{duplex: echo, unary: tellsProtocol}, Limits{Connections: places, FreeHandshakes: 10_000, HandshakeTimeout: 3 * time.Second})
	socket, err := net.ListenUDP("udp4", nil)
	if err != nil {
		t.Fatal(err)
	}
	flood := &quic.Transport{Conn: &deafened{PacketConn: socket}}
	target, err := net.ResolveUDPAddr("udp", s.address)
	if err != nil {
		t.Fatal(err)
	}
	config := s.tls()()
	config.NextProtos = []string{http3.NextProtoH3}
	ctx, cancel := context.WithCancel(t.Context())
	var dials sync.WaitGroup
	defer func() {
		cancel()
		dials.Wait()
		_ = flood.Close()
		_ = socket.Close()
	}()
	for range 5 * places {
		dials.Go(func() { _, _ = flood.Dial(ctx, target, config, nil) })
	}
	eventually(t, "half of the places are taken", func() bool { return s.grpc.Stats().Connections == places/2 })
	for range 5 {
		if protocol, _ := protocolOf(t, s.channel(only(OnlyHTTP3))); protocol != HTTP3 {
			t.Errorf("over %s", protocol)
		}
	}
	if got := s.grpc.Stats().Connections; got > places/2+5 {
		t.Errorf("%d connections", got)
	}
	cancel()
	dials.Wait()
}

// deafened hears nothing.
type deafened struct{ net.PacketConn }

func (d *deafened) ReadFrom(p []byte) (int, net.Addr, error) {
	for {
		if _, _, err := d.PacketConn.ReadFrom(p); err != nil {
			return 0, nil, err
		}
	}
}

// retries counts the packets that ask a sender to prove its address.
type retries struct {
	net.PacketConn
	n atomic.Int32
}

func (r *retries) ReadFrom(p []byte) (int, net.Addr, error) {
	n, from, err := r.PacketConn.ReadFrom(p)
	if n > 0 && p[0]&0xf0 == 0xf0 { // a long header of the type Retry
		r.n.Add(1)
	}
	return n, from, err
}

// TestAddressesAreProvedUnderLoad: beyond the free handshakes a caller must show that
// it receives where it sends from; it is served all the same.
func TestAddressesAreProvedUnderLoad(t *testing.T) {
	t.Parallel()
	s := serveGRPC(t, &testService{}, Limits{FreeHandshakes: 1})
	for _, wanted := range []bool{false, true} {
		socket, err := net.ListenUDP("udp4", nil)
		if err != nil {
			t.Fatal(err)
		}
		counted := &retries{PacketConn: socket}
		transport := &quic.Transport{Conn: counted}
		t.Cleanup(func() {
			_ = transport.Close()
			_ = socket.Close()
		})
		target, err := net.ResolveUDPAddr("udp", s.address)
		if err != nil {
			t.Fatal(err)
		}
		config := s.tls()()
		config.NextProtos = []string{http3.NextProtoH3}
		conn, err := transport.Dial(patient(t), target, config, nil)
		if err != nil {
			t.Fatal(err)
		}
		defer func() { _ = conn.CloseWithError(0, "") }()
		if asked := counted.n.Load() > 0; asked != wanted {
			t.Errorf("asked: %v, want %v", asked, wanted)
		}
	}
}

// TestConnectionsWithoutACallAreClosed, also one that began a call and never ends its
// header.
func TestConnectionsWithoutACallAreClosed(t *testing.T) {
	t.Parallel()
	const unused = 400 * time.Millisecond
	s := serveWeb(t, okHandler, Limits{UnusedTimeout: unused})
	silent, err := s.rawQUIC(nil)
	if err != nil {
		t.Fatal(err)
	}
	slow, err := s.rawQUIC(nil)
	if err != nil {
		t.Fatal(err)
	}
	stream, err := slow.OpenStream()
	if err != nil {
		t.Fatal(err)
	}
	if _, err := stream.Write([]byte{1, 100, 0}); err != nil { // HEADERS of 100 bytes, of which one comes
		t.Fatal(err)
	}
	for _, conn := range []*quic.Conn{silent, slow} {
		select {
		case <-conn.Context().Done():
		case <-time.After(unused + soon):
			t.Error("still open")
		}
	}
}

// TestNothingIsTakenEarly: a resumed connection whose first flight holds a request is
// served, but only after the handshake. The server's settings here allow resumption,
// which those of Certificates do not.
func TestNothingIsTakenEarly(t *testing.T) {
	s := newSite(t)
	o := s.options(Limits{})
	pair, err := tls.LoadX509KeyPair(s.server.Cert, s.server.Key)
	if err != nil {
		t.Fatal(err)
	}
	o.TLS = &tls.Config{MinVersion: tls.VersionTLS13, Certificates: []tls.Certificate{pair}, NextProtos: []string{"h2"}}
	if s.grpc, err = NewGRPCFront(o); err != nil {
		t.Fatal(err)
	}
	d := s.listen()
	go func() { s.served <- s.grpc.Serve(d) }()
	t.Cleanup(s.stop)

	stored := make(chan struct{}, 8)
	config := s.tls()()
	config.NextProtos = []string{http3.NextProtoH3}
	config.VerifyConnection = nil
	config.ClientSessionCache = &telling{ClientSessionCache: tls.NewLRUClientSessionCache(1), stored: stored}
	first, err := quic.DialAddrEarly(patient(t), s.address, config, nil)
	if err != nil {
		t.Fatal(err)
	}
	receive(t, stored)
	_ = first.CloseWithError(0, "")
	second, err := quic.DialAddrEarly(patient(t), s.address, config, nil)
	if err != nil {
		t.Fatal(err)
	}
	defer func() { _ = second.CloseWithError(0, "") }()
	receive(t, second.HandshakeComplete())
	state := second.ConnectionState()
	if !state.TLS.DidResume || state.Used0RTT {
		t.Errorf("resumed %v, early data %v", state.TLS.DidResume, state.Used0RTT)
	}
}

// telling tells when a session was stored.
type telling struct {
	tls.ClientSessionCache
	stored chan struct{}
}

func (c *telling) Put(key string, state *tls.ClientSessionState) {
	c.ClientSessionCache.Put(key, state)
	if state != nil {
		c.stored <- struct{}{}
	}
}

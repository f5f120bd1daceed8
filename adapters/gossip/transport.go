package gossip

import (
	"bufio"
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"net/netip"
	"sync"
	"time"

	"github.com/hashicorp/memberlist"
)

// Limits on what the outside can make this node hold.
const (
	maxPacket  = 64 << 10 // bytes of one packet
	maxStream  = 2 << 20  // bytes of one full exchange
	maxStreams = 32       // full exchanges at once
	// maxStreamsPerSource of them come from one address: whoever has no key holds a place
	// for as long as it may be silent, and must not hold them all.
	maxStreamsPerSource = 16
	receiveBuf          = 1 << 20 // bytes the kernel may keep until they are read
	// streamTimeout bounds one full exchange, its dialling included.
	streamTimeout = 5 * time.Second
	// headerTimeout is how long a connection may take to say what it is.
	headerTimeout = 2 * time.Second
)

// transport is memberlist's network: packets on UDP, full exchanges on TCP, at one port.
// It refuses what memberlist must not see and counts the rest.
type transport struct {
	udp       *net.UDPConn
	tcp       *net.TCPListener
	advertise netip.AddrPort
	seal      seal
	counts    *counters

	packets chan *memberlist.Packet
	streams chan net.Conn
	context context.Context // ends with the transport
	done    <-chan struct{}
	end     context.CancelFunc
	running sync.WaitGroup

	mu   sync.Mutex
	open map[net.Conn]bool
}

var _ memberlist.NodeAwareTransport = (*transport)(nil)

// listen takes one port on TCP and UDP. With port 0 it looks for one that is free on both.
func listen(address string, advertise string, s seal, counts *counters) (*transport, error) {
	t := &transport{
		seal: s, counts: counts, packets: make(chan *memberlist.Packet), streams: make(chan net.Conn),
		open: map[net.Conn]bool{},
	}
	t.context, t.end = context.WithCancel(context.Background())
	t.done = t.context.Done()
	if err := t.bind(address); err != nil {
		t.end()
		return nil, err
	}
	if err := t.settle(advertise); err != nil {
		t.end()
		t.unbind()
		return nil, err
	}
	t.running.Go(t.receive)
	t.running.Go(t.accept)
	return t, nil
}

func (t *transport) bind(address string) error {
	at, err := net.ResolveTCPAddr("tcp", address)
	if err != nil {
		return fmt.Errorf("listen %q: %w; write host:port", address, err)
	}
	const attempts = 10 // a port that is free on TCP may be taken on UDP
	for i := 0; ; i++ {
		if t.tcp, err = net.ListenTCP("tcp", at); err != nil {
			return err
		}
		bound := t.tcp.Addr().(*net.TCPAddr)
		t.udp, err = net.ListenUDP("udp", &net.UDPAddr{IP: at.IP, Port: bound.Port, Zone: at.Zone})
		if err == nil {
			break
		}
		_ = t.tcp.Close()
		if at.Port != 0 || i == attempts {
			return err
		}
	}
	_ = t.udp.SetReadBuffer(receiveBuf) // as much as the kernel allows
	return nil
}

func (t *transport) unbind() {
	_ = t.tcp.Close()
	_ = t.udp.Close()
}

// settle finds out at which address the others reach this node.
func (t *transport) settle(advertise string) error {
	if advertise == "" {
		t.advertise = t.tcp.Addr().(*net.TCPAddr).AddrPort()
		if t.advertise.Addr().IsUnspecified() {
			return fmt.Errorf("advertise is missing: %s is no address that others can reach", t.advertise)
		}
	} else {
		host, err := net.ResolveTCPAddr("tcp", advertise)
		if err != nil {
			return fmt.Errorf("advertise %q: %w; write host:port", advertise, err)
		}
		t.advertise = host.AddrPort()
	}
	t.advertise = netip.AddrPortFrom(t.advertise.Addr().Unmap(), t.advertise.Port())
	if t.advertise.Port() == 0 {
		t.advertise = netip.AddrPortFrom(t.advertise.Addr(), t.tcp.Addr().(*net.TCPAddr).AddrPort().Port())
	}
	return nil
}

// FinalAdvertiseAddr is part of memberlist's port.
func (t *transport) FinalAdvertiseAddr(string, int) (net.IP, int, error) {
	return t.advertise.Addr().AsSlice(), int(t.advertise.Port()), nil
}

// WriteTo is part of memberlist's port.
func (t *transport) WriteTo(b []byte, addr string) (time.Time, error) {
	to, err := netip.ParseAddrPort(addr) // never a name: a lookup would hold up what waits behind it
	if err != nil {
		return time.Time{}, err
	}
	_, err = t.udp.WriteToUDPAddrPort(b, to)
	if errors.Is(err, net.ErrClosed) {
		return time.Time{}, err
	}
	t.counts.sent(len(b))
	return time.Now(), err
}

// WriteToAddress is part of memberlist's port.
func (t *transport) WriteToAddress(b []byte, a memberlist.Address) (time.Time, error) {
	return t.WriteTo(b, a.Addr)
}

// PacketCh is part of memberlist's port.
func (t *transport) PacketCh() <-chan *memberlist.Packet { return t.packets }

// StreamCh is part of memberlist's port.
func (t *transport) StreamCh() <-chan net.Conn { return t.streams }

// DialTimeout is part of memberlist's port.
func (t *transport) DialTimeout(addr string, timeout time.Duration) (net.Conn, error) {
	ctx, cancel := context.WithTimeout(t.context, min(timeout, streamTimeout))
	defer cancel()
	conn, err := new(net.Dialer).DialContext(ctx, "tcp", addr)
	if err != nil {
		return nil, err
	}
	return t.track(conn, conn)
}

// DialAddressTimeout is part of memberlist's port.
func (t *transport) DialAddressTimeout(a memberlist.Address, timeout time.Duration) (net.Conn, error) {
	return t.DialTimeout(a.Addr, timeout)
}

// receive hands packets to memberlist. One that cannot be right is dropped here.
func (t *transport) receive() {
	buf := make([]byte, maxPacket)
	for {
		n, from, err := t.udp.ReadFromUDPAddrPort(buf)
		if errors.Is(err, net.ErrClosed) {
			return
		}
		if err != nil {
			continue // what an earlier packet met, such as a port that is closed
		}
		t.counts.received(n)
		if reason := t.seal.refusePacket(buf[:n]); reason != "" {
			t.counts.refuse(reason)
			continue
		}
		p := &memberlist.Packet{Buf: append([]byte(nil), buf[:n]...), From: net.UDPAddrFromAddrPort(from), Timestamp: time.Now()}
		select {
		case t.packets <- p:
		case <-t.done:
			return
		}
	}
}

// accept takes connections and lets each say what it is.
func (t *transport) accept() {
	places := places{bySource: map[string]int{}}
	for {
		conn, err := t.tcp.Accept()
		if errors.Is(err, net.ErrClosed) {
			return
		}
		if err != nil {
			select {
			case <-time.After(100 * time.Millisecond): // out of descriptors, for one
				continue
			case <-t.done:
				return
			}
		}
		leave, ok := places.enter(conn)
		if !ok {
			t.counts.refuse(refusedBusy)
			_ = conn.Close()
			continue
		}
		tracked, err := t.track(conn, &limitedConn{Conn: conn, leave: leave})
		if err != nil {
			leave()
			continue
		}
		t.running.Go(func() { t.admit(tracked) })
	}
}

// admit hands a connection whose beginning is right to memberlist.
func (t *transport) admit(conn *trackedConn) {
	_ = conn.SetDeadline(time.Now().Add(headerTimeout))
	r := bufio.NewReaderSize(conn.Conn, maxLabelHeader+streamHeader)
	if reason := t.seal.refuseStream(r); reason != "" {
		t.counts.refuse(reason)
		_ = conn.Close()
		return
	}
	conn.reader = io.LimitReader(r, maxStream+maxLabelHeader+streamHeader)
	select {
	case t.streams <- conn:
	case <-t.done:
		_ = conn.Close()
	}
}

// track remembers an open connection, so that a shutdown can end it.
func (t *transport) track(raw, conn net.Conn) (*trackedConn, error) {
	c := &trackedConn{Conn: conn, reader: conn, transport: t}
	t.mu.Lock()
	defer t.mu.Unlock()
	select {
	case <-t.done:
		_ = raw.Close()
		return nil, net.ErrClosed
	default:
	}
	t.open[c] = true
	return c, nil
}

// Shutdown is part of memberlist's port: it ends everything and waits for it.
func (t *transport) Shutdown() error {
	t.mu.Lock()
	t.end()
	open := make([]net.Conn, 0, len(t.open))
	for c := range t.open {
		open = append(open, c)
	}
	t.mu.Unlock()
	t.unbind()
	for _, c := range open {
		_ = c.Close()
	}
	t.running.Wait()
	return nil
}

// trackedConn counts its bytes and is forgotten when it is closed.
type trackedConn struct {
	net.Conn
	reader    io.Reader
	transport *transport
	closing   sync.Once
}

func (c *trackedConn) Read(b []byte) (int, error) {
	n, err := c.reader.Read(b)
	c.transport.counts.received(n)
	return n, err
}

func (c *trackedConn) Write(b []byte) (int, error) {
	n, err := c.Conn.Write(b)
	c.transport.counts.sent(n)
	return n, err
}

func (c *trackedConn) Close() (err error) {
	c.closing.Do(func() {
		c.transport.mu.Lock()
		delete(c.transport.open, c)
		c.transport.mu.Unlock()
		err = c.Conn.Close()
	})
	return err
}

// limitedConn holds one of the places for connections until it is closed.
type limitedConn struct {
	net.Conn
	leave   func()
	closing sync.Once
}

func (c *limitedConn) Close() error {
	c.closing.Do(c.leave)
	return c.Conn.Close()
}

// places counts the full exchanges under way.
type places struct {
	mu       sync.Mutex
	all      int
	bySource map[string]int
}

// enter takes a place until leave is called; ok is false when there is none.
func (p *places) enter(conn net.Conn) (leave func(), ok bool) {
	source := conn.RemoteAddr().String()
	if host, _, err := net.SplitHostPort(source); err == nil {
		source = host
	}
	p.mu.Lock()
	defer p.mu.Unlock()
	if p.all >= maxStreams || p.bySource[source] >= maxStreamsPerSource {
		return nil, false
	}
	p.all++
	p.bySource[source]++
	return func() {
		p.mu.Lock()
		defer p.mu.Unlock()
		p.all--
		if p.bySource[source]--; p.bySource[source] == 0 {
			delete(p.bySource, source)
		}
	}, true
}

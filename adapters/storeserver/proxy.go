package storeserver

import (
	"errors"
	"fmt"
	"io"
	"net"
	"sync"
	"time"
)

// Proxy is a network that misbehaves when told to: it listens on loopback and
// forwards TCP connections to a target. Its methods may be called concurrently and
// take effect at once, on the connections there are as well.
type Proxy struct {
	listener net.Listener
	wait     sync.WaitGroup

	mu      sync.Mutex
	changed chan struct{} // closed and replaced when anything below changes
	target  string
	now     weather
	links   map[*link]bool
	closed  bool
	lost    int64
	held    int64
}

// weather is how the network behaves.
type weather struct {
	refuse  bool
	swallow bool
	hold    bool
	delay   time.Duration
	rate    int // bytes per second and direction; 0: no limit
}

const (
	chunkBytes = 32 << 10
	chunksHeld = 256 // per direction of a connection: what a network buffers
)

// link is one connection of a client, forwarded.
type link struct {
	client, server *net.TCPConn
	gone           chan struct{} // closed when the link is cut
	once           sync.Once
	mutilated      bool // bytes of an answer are missing; guarded by Proxy.mu
}

// cut resets both connections, as a network that broke does.
func (l *link) cut() {
	l.once.Do(func() {
		close(l.gone)
		for _, c := range []*net.TCPConn{l.client, l.server} {
			_ = c.SetLinger(0)
			_ = c.Close()
		}
	})
}

// NewProxy listens on a free loopback port and forwards to target, host:port.
func NewProxy(target string) (*Proxy, error) {
	listener, err := net.Listen("tcp4", "127.0.0.1:0")
	if err != nil {
		return nil, fmt.Errorf("storeserver: proxy: %w", err)
	}
	p := &Proxy{listener: listener, target: target, changed: make(chan struct{}), links: map[*link]bool{}}
	p.wait.Go(p.accept)
	return p, nil
}

// Address is where clients connect: host:port.
func (p *Proxy) Address() string { return p.listener.Addr().String() }

// Close ends the proxy and all its connections, and waits until that is done.
func (p *Proxy) Close() {
	p.change(func() { p.closed = true })
	p.listener.Close()
	p.Cut()
	p.wait.Wait()
}

// SetTarget forwards new connections to another server.
func (p *Proxy) SetTarget(target string) { p.change(func() { p.target = target }) }

// Cut resets all connections now. What was on its way is lost.
func (p *Proxy) Cut() {
	p.mu.Lock()
	defer p.mu.Unlock()
	for l := range p.links {
		l.cut()
	}
}

// Refuse resets every new connection as soon as it is made.
func (p *Proxy) Refuse(on bool) { p.change(func() { p.now.refuse = on }) }

// Swallow lets requests through and loses the answers, from now on: what is asked is
// done, and nobody hears of it. Switched off, it cuts the connections that lost
// bytes, for what would follow makes no sense to the client.
func (p *Proxy) Swallow(on bool) {
	p.change(func() {
		p.now.swallow = on
		for l := range p.links {
			if l.mutilated {
				l.cut()
			}
		}
	})
}

// Swallowed is how many bytes of answers were lost so far: a caller waits for it to
// grow, to know that a request was answered.
func (p *Proxy) Swallowed() int64 {
	p.mu.Lock()
	defer p.mu.Unlock()
	return p.lost
}

// Hold stops all traffic in both directions, as a partition does, and keeps what is
// on its way. Switched off, that arrives, late, even if the client has hung up.
func (p *Proxy) Hold(on bool) { p.change(func() { p.now.hold = on }) }

// Held is how many bytes of requests were taken from clients and not forwarded, in all:
// a caller waits for it to grow, to know that a request is on its way.
func (p *Proxy) Held() int64 {
	p.mu.Lock()
	defer p.mu.Unlock()
	return p.held
}

// Delay lets everything arrive that much later, each way.
func (p *Proxy) Delay(d time.Duration) { p.change(func() { p.now.delay = d }) }

// Slow limits each direction of each connection to so many bytes per second; 0: no
// limit.
func (p *Proxy) Slow(rate int) { p.change(func() { p.now.rate = rate }) }

// Clear makes a good network of it again.
func (p *Proxy) Clear() {
	p.Swallow(false)
	p.change(func() { p.now = weather{} })
}

func (p *Proxy) change(f func()) {
	p.mu.Lock()
	defer p.mu.Unlock()
	f()
	close(p.changed)
	p.changed = make(chan struct{})
}

func (p *Proxy) accept() {
	for {
		client, err := p.listener.Accept()
		if errors.Is(err, net.ErrClosed) {
			return
		}
		if err != nil {
			continue // a client that hung up before it was accepted
		}
		p.wait.Go(func() { p.serve(client.(*net.TCPConn)) })
	}
}

func (p *Proxy) serve(client *net.TCPConn) {
	defer func() { _ = client.Close() }()
	p.mu.Lock()
	refuse, target := p.now.refuse || p.closed, p.target
	p.mu.Unlock()
	if refuse {
		_ = client.SetLinger(0)
		return
	}
	conn, err := net.DialTimeout("tcp", target, 5*time.Second)
	if err != nil {
		_ = client.SetLinger(0)
		return
	}
	defer func() { _ = conn.Close() }()
	l := &link{client: client, server: conn.(*net.TCPConn), gone: make(chan struct{})}
	if !p.add(l) {
		return
	}
	var both sync.WaitGroup
	both.Go(func() { p.forward(l, false) })
	both.Go(func() { p.forward(l, true) })
	both.Wait()
	p.mu.Lock()
	delete(p.links, l)
	p.mu.Unlock()
}

// add makes the link one that can be cut; false: the proxy was closed meanwhile.
func (p *Proxy) add(l *link) bool {
	p.mu.Lock()
	defer p.mu.Unlock()
	if p.closed {
		return false
	}
	p.links[l] = true
	return true
}

// chunk is some bytes and when they came.
type chunk struct {
	data []byte
	at   time.Time
}

// forward carries one direction until its sender is done and all arrived, or the
// link is cut.
func (p *Proxy) forward(l *link, answers bool) {
	from, to := l.client, l.server
	if answers {
		from, to = l.server, l.client
	}
	chunks := make(chan chunk, chunksHeld)
	var reader sync.WaitGroup
	reader.Go(func() {
		defer close(chunks)
		p.read(l, from, chunks, answers)
	})
	defer reader.Wait()
	deaf := false // the client hung up: what it asked still arrives, the answers do not
	for c := range chunks {
		if deaf || p.deliver(l, to, c, answers) == nil {
			continue
		}
		if deaf = answers; !deaf {
			l.cut()
			return
		}
	}
	_ = to.CloseWrite() // an end of stream; an error means that it is gone anyway
}

// read takes in what the sender sends.
func (p *Proxy) read(l *link, from *net.TCPConn, chunks chan<- chunk, answers bool) {
	for {
		data := make([]byte, chunkBytes)
		n, err := from.Read(data)
		if n > 0 {
			p.count(n, answers)
			select {
			case chunks <- chunk{data: data[:n], at: time.Now()}:
			case <-l.gone:
				return
			}
		}
		if err != nil {
			if answers && !errors.Is(err, io.EOF) {
				l.cut() // the server broke it off
			}
			return
		}
	}
}

// count counts what was taken from a client while everything is held.
func (p *Proxy) count(n int, answers bool) {
	p.mu.Lock()
	defer p.mu.Unlock()
	if !answers && p.now.hold {
		p.held += int64(n)
	}
}

// errCut is the end of a link that was cut.
var errCut = errors.New("cut")

// deliver waits until a chunk is due and then writes or loses it.
func (p *Proxy) deliver(l *link, to *net.TCPConn, c chunk, answers bool) error {
	for {
		p.mu.Lock()
		now, changed := p.now, p.changed
		early := time.Until(c.at.Add(now.delay))
		due := !now.hold && early <= 0
		if due && answers && now.swallow {
			l.mutilated = true
			p.lost += int64(len(c.data))
			p.mu.Unlock()
			return nil
		}
		p.mu.Unlock()
		if due {
			return write(l, to, c.data, now.rate)
		}
		var later <-chan time.Time
		if !now.hold {
			later = time.After(early)
		}
		select {
		case <-changed:
		case <-later:
		case <-l.gone:
			return errCut
		}
	}
}

// write writes at a rate, in pieces of about 50 ms.
func write(l *link, to *net.TCPConn, data []byte, rate int) error {
	for len(data) > 0 {
		n := len(data)
		if rate > 0 {
			n = min(n, max(1, rate/20))
		}
		if _, err := to.Write(data[:n]); err != nil {
			return err
		}
		data = data[n:]
		if rate > 0 {
			select {
			case <-time.After(time.Duration(n) * time.Second / time.Duration(rate)):
			case <-l.gone:
				return errCut
			}
		}
	}
	return nil
}

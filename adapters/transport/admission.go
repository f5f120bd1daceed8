package transport

import (
	"errors"
	"net"
	"net/netip"
	"sync"
	"sync/atomic"
)

// errCrowded means that a listener, or one source of its callers, has all the
// connections it may have.
var errCrowded = errors.New("too many connections")

// admission counts the connections of one listener, whatever carries them.
type admission struct {
	max, perSource int
	refused        atomic.Uint64

	mu      sync.Mutex
	total   int
	sources map[netip.Prefix]int
}

func newAdmission(l Limits) *admission {
	return &admission{max: l.Connections, perSource: l.ConnectionsPerSource, sources: map[netip.Prefix]int{}}
}

// source is whom an address is counted as: one IPv4 address, or the /64 of an IPv6
// one, which is what a single caller is given. The zero Prefix stands for all that
// have no IP address.
func source(addr net.Addr) netip.Prefix {
	at, err := netip.ParseAddrPort(addr.String())
	if err != nil {
		return netip.Prefix{}
	}
	ip := at.Addr().Unmap().WithZone("")
	bits := 32
	if ip.Is6() {
		bits = 64
	}
	prefix, err := ip.Prefix(bits)
	if err != nil {
		return netip.Prefix{}
	}
	return prefix
}

// enter counts a connection until leave is called, once or more often.
func (a *admission) enter(addr net.Addr) (leave func(), err error) {
	from := source(addr)
	a.mu.Lock()
	defer a.mu.Unlock()
	if a.total >= a.max || a.sources[from] >= a.perSource {
		a.refused.Add(1)
		return nil, errCrowded
	}
	a.total++
	a.sources[from]++
	return sync.OnceFunc(func() { a.leave(from) }), nil
}

func (a *admission) leave(from netip.Prefix) {
	a.mu.Lock()
	defer a.mu.Unlock()
	a.total--
	if a.sources[from]--; a.sources[from] == 0 {
		delete(a.sources, from)
	}
}

// crowded reports whether an address that nobody has proved to be its sender's may
// not be counted any more: the second half of every quota is for those who proved
// it, so that forged senders cannot use up another's.
func (a *admission) crowded(addr net.Addr) bool {
	from := source(addr)
	a.mu.Lock()
	defer a.mu.Unlock()
	return a.total >= (a.max+1)/2 || a.sources[from] >= (a.perSource+1)/2
}

// open is how many connections are counted.
func (a *admission) open() int {
	a.mu.Lock()
	defer a.mu.Unlock()
	return a.total
}

// admitting closes connections beyond the limit as they come. Accepting and closing
// tells the caller at once; not accepting would leave it, and everyone behind it, in
// the kernel's queue.
type admitting struct {
	net.Listener
	admission *admission
}

func (l *admitting) Accept() (net.Conn, error) {
	for {
		conn, err := l.Listener.Accept()
		if err != nil {
			return nil, err
		}
		leave, err := l.admission.enter(conn.RemoteAddr())
		if err != nil {
			_ = conn.Close()
			continue
		}
		return &admitted{Conn: conn, leave: leave}, nil
	}
}

// admitted is counted until it is closed.
type admitted struct {
	net.Conn
	leave func()
}

func (c *admitted) Close() error {
	defer c.leave()
	return c.Conn.Close()
}

// Limit bounds the connections of a listener that no front serves.
func Limit(l net.Listener, limits Limits) net.Listener {
	return &admitting{Listener: l, admission: newAdmission(limits.withDefaults())}
}

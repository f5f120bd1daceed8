package storeserver

import (
	"bufio"
	"errors"
	"io"
	"net"
	"os"
	"strings"
	"sync"
	"testing"
	"time"
)

// echo answers every line with the line and keeps what it got.
type echo struct {
	listener net.Listener
	mu       sync.Mutex
	got      []string
	wait     sync.WaitGroup
}

func newEcho(t *testing.T) *echo {
	t.Helper()
	l, err := net.Listen("tcp4", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	e := &echo{listener: l}
	e.wait.Go(e.serve)
	t.Cleanup(func() { l.Close(); e.wait.Wait() })
	return e
}

func (e *echo) serve() {
	for {
		conn, err := e.listener.Accept()
		if err != nil {
			return
		}
		e.wait.Go(func() {
			defer func() { _ = conn.Close() }()
			for r := bufio.NewReader(conn); ; {
				line, err := r.ReadString('\n')
				if err != nil {
					return
				}
				e.mu.Lock()
				e.got = append(e.got, strings.TrimSpace(line))
				e.mu.Unlock()
				if _, err := conn.Write([]byte(line)); err != nil {
					return
				}
			}
		})
	}
}

func (e *echo) lines() string {
	e.mu.Lock()
	defer e.mu.Unlock()
	return strings.Join(e.got, " ")
}

func mustProxy(t *testing.T) (*Proxy, *echo) {
	t.Helper()
	e := newEcho(t)
	p, err := NewProxy(e.listener.Addr().String())
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(p.Close)
	return p, e
}

type caller struct {
	t *testing.T
	net.Conn
	r *bufio.Reader
}

func dial(t *testing.T, p *Proxy) *caller {
	t.Helper()
	conn, err := net.Dial("tcp", p.Address())
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = conn.Close() })
	return &caller{t, conn, bufio.NewReader(conn)}
}

func (c *caller) say(line string) {
	c.t.Helper()
	if _, err := io.WriteString(c, line+"\n"); err != nil {
		c.t.Fatal(err)
	}
}

func (c *caller) hear(within time.Duration) (string, error) {
	_ = c.SetReadDeadline(time.Now().Add(within))
	line, err := c.r.ReadString('\n')
	return strings.TrimSpace(line), err
}

func (c *caller) mustHear(want string) {
	c.t.Helper()
	if got, err := c.hear(5 * time.Second); err != nil || got != want {
		c.t.Fatalf("heard %q, %v; want %q", got, err, want)
	}
}

func (c *caller) mustHearNothing(within time.Duration) {
	c.t.Helper()
	if got, err := c.hear(within); !errors.Is(err, os.ErrDeadlineExceeded) {
		c.t.Fatalf("heard %q, %v; want nothing", got, err)
	}
}

func (c *caller) mustBeCut() {
	c.t.Helper()
	if got, err := c.hear(5 * time.Second); err == nil || errors.Is(err, os.ErrDeadlineExceeded) {
		c.t.Fatalf("heard %q, %v; want a broken connection", got, err)
	}
}

func eventually(t *testing.T, what string, ok func() bool) {
	t.Helper()
	for end := time.Now().Add(20 * time.Second); !ok(); time.Sleep(time.Millisecond) {
		if time.Now().After(end) {
			t.Fatalf("never seen: %s", what)
		}
	}
}

func TestProxyForwards(t *testing.T) {
	p, _ := mustProxy(t)
	c := dial(t, p)
	long := strings.Repeat("x", 3*chunkBytes)
	for _, line := range []string{"a", long, "b"} {
		c.say(line)
		c.mustHear(line)
	}
	other := newEcho(t)
	p.SetTarget(other.listener.Addr().String())
	c.say("still there")
	c.mustHear("still there")
	d := dial(t, p)
	d.say("there")
	d.mustHear("there")
	if other.lines() != "there" {
		t.Errorf("the new target got %q", other.lines())
	}
}

func TestProxyCutsAndRefuses(t *testing.T) {
	p, _ := mustProxy(t)
	c := dial(t, p)
	c.say("a")
	c.mustHear("a")
	p.Refuse(true)
	p.Cut()
	c.mustBeCut()
	if conn, err := net.Dial("tcp", p.Address()); err == nil { // it may be cut before that returns
		refused := &caller{t, conn, bufio.NewReader(conn)}
		refused.mustBeCut()
		_ = conn.Close()
	}
	p.Refuse(false)
	d := dial(t, p)
	d.say("b")
	d.mustHear("b")
}

func TestProxySwallowsAnswers(t *testing.T) {
	p, e := mustProxy(t)
	c, quiet := dial(t, p), dial(t, p)
	c.say("a")
	c.mustHear("a")
	p.Swallow(true)
	c.say("b")
	eventually(t, "a lost answer", func() bool { return p.Swallowed() == 2 })
	if e.lines() != "a b" {
		t.Errorf("the server got %q, want a b", e.lines())
	}
	p.Swallow(false)
	c.mustBeCut()
	quiet.say("c") // it lost nothing
	quiet.mustHear("c")
}

func TestProxyHoldsAndDeliversLate(t *testing.T) {
	p, e := mustProxy(t)
	c, d := dial(t, p), dial(t, p)
	c.say("a")
	c.mustHear("a")
	p.Hold(true)
	c.say("b")
	_ = c.Close() // hung up, with the request on its way
	d.say("c")
	d.mustHearNothing(50 * time.Millisecond)
	eventually(t, "two held requests", func() bool { return p.Held() == 4 })
	if e.lines() != "a" {
		t.Errorf("the server got %q while all was held", e.lines())
	}
	p.Hold(false)
	d.mustHear("c")
	eventually(t, "the late request", func() bool { return strings.Contains(e.lines(), "b") })
}

func TestProxyDelaysAndSlows(t *testing.T) {
	p, _ := mustProxy(t)
	c := dial(t, p)
	p.Delay(60 * time.Millisecond)
	start := time.Now()
	c.say("a")
	c.mustHear("a")
	if took := time.Since(start); took < 120*time.Millisecond {
		t.Errorf("there and back took %v, want 120 ms or more", took)
	}
	p.Clear()
	p.Slow(100_000)
	start = time.Now()
	line := strings.Repeat("x", 20_000)
	c.say(line)
	c.mustHear(line)
	if took := time.Since(start); took < 180*time.Millisecond {
		t.Errorf("20 kB at 100 kB/s took %v, want 200 ms or more", took)
	}
}

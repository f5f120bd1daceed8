package transport

import (
	"crypto/tls"
	"net"
	"net/http"
	"strconv"
	"strings"
	"testing"
	"time"
)

func TestListenDualTakesOnePort(t *testing.T) {
	d, err := ListenDual("127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	if d.Addr() != d.UDP.LocalAddr().String() || !strings.HasSuffix(d.Addr(), ":"+strconv.Itoa(d.Port())) || d.Port() == 0 {
		t.Errorf("TCP %s, UDP %s, port %d", d.Addr(), d.UDP.LocalAddr(), d.Port())
	}
	if _, err := ListenDual(d.Addr()); err == nil {
		t.Error("the same port twice")
	}
	if err := d.TCP.Close(); err != nil {
		t.Fatal(err)
	}
	if _, err := ListenDual(d.Addr()); err == nil { // free on TCP alone
		t.Error("a port that is taken on UDP")
	}
	tcp, err := net.Listen("tcp", d.Addr())
	if err != nil {
		t.Fatalf("the attempt kept the TCP port: %v", err)
	}
	_ = tcp.Close()
	if err := d.Close(); err != nil {
		t.Errorf("closing what is closed: %v", err)
	}
	if _, err := ListenDual("nowhere"); err == nil || !strings.Contains(err.Error(), "want host:port") {
		t.Errorf("have %v", err)
	}
}

func TestLimitsNameAllProblems(t *testing.T) {
	if err := (Limits{}).Validate(); err != nil {
		t.Errorf("the defaults: %v", err)
	}
	err := Limits{Connections: 5, ConnectionsPerSource: 6, Streams: -1, HandshakeTimeout: time.Hour, MessageBytes: 1}.Validate()
	for _, want := range []string{"ConnectionsPerSource: 6, want 1 to 5", "Streams: -1", "HandshakeTimeout: 1h0m0s", "MessageBytes: 1, want"} {
		if err == nil || !strings.Contains(err.Error(), want) {
			t.Errorf("have %v\nwant it to say %s", err, want)
		}
	}
}

func TestFrontsAndClientsNameWhatIsMissing(t *testing.T) {
	check := func(err error, want string) {
		t.Helper()
		if err == nil || !strings.Contains(err.Error(), want) {
			t.Errorf("have %v, want it to say %s", err, want)
		}
	}
	_, err := NewGRPCFront(FrontOptions{Limits: Limits{Streams: -1}})
	check(err, "TLS: missing")
	check(err, "Limits.Streams: -1")
	_, err = NewGRPCFront(FrontOptions{TLS: &tls.Config{MinVersion: tls.VersionTLS12}}) //nolint:gosec // what is refused
	check(err, "TLS.MinVersion")
	_, err = NewWebFront(&http.Server{ReadHeaderTimeout: time.Second}, FrontOptions{TLS: &tls.Config{MinVersion: tls.VersionTLS13}})
	check(err, "server.Handler: missing")
	_, err = NewChannel(ChannelOptions{Address: "nowhere", Prefer: 7, DeadAfter: -1})
	for _, want := range []string{"Address", "want host:port", "TLS: missing", "Prefer: 7", "DeadAfter"} {
		check(err, want)
	}
	_, err = NewRoundTripper(RoundTripperOptions{})
	check(err, "TLS: missing")
}

// TestAFrontWithoutUDP offers no HTTP/3.
func TestAFrontWithoutUDP(t *testing.T) {
	s := newSite(t)
	var err error
	if s.web, err = NewWebFront(&http.Server{Handler: okHandler, ReadHeaderTimeout: patience}, s.options(Limits{})); err != nil {
		t.Fatal(err)
	}
	d, err := ListenTCP("127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	s.address = d.Addr()
	go func() { s.served <- s.web.Serve(d) }()
	t.Cleanup(s.stop)
	client := &http.Client{Transport: s.roundTripper(RoundTripperOptions{})}
	if header, body := get(t, client, "https://"+s.address); body != HTTP2 || header.Get("Alt-Svc") != "" {
		t.Errorf("over %s, Alt-Svc %q", body, header.Get("Alt-Svc"))
	}
}

// TestALimitedListener is for those that no front serves.
func TestALimitedListener(t *testing.T) {
	l := Limit(listen(t, "127.0.0.1:0"), Limits{Connections: 1})
	defer func() { _ = l.Close() }()
	accepted := make(chan net.Conn, 2)
	go func() {
		for {
			conn, err := l.Accept()
			if err != nil {
				close(accepted)
				return
			}
			accepted <- conn
		}
	}()
	dial := func() net.Conn {
		t.Helper()
		conn, err := net.Dial("tcp", l.Addr().String())
		if err != nil {
			t.Fatal(err)
		}
		t.Cleanup(func() { _ = conn.Close() })
		return conn
	}
	dial()
	first := receive(t, accepted)
	closedWithin(t, dial(), soon)
	_ = first.Close()
	dial()
	_ = receive(t, accepted).Close()
}

package transport

import (
	"crypto/tls"
	"fmt"
	"io"
	"net/http"
	"strings"
	"testing"

	"github.com/quic-go/quic-go/http3"
)

var okHandler = http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) { _, _ = io.WriteString(w, r.Proto) })

// get fetches a page and returns its header and body.
func get(t *testing.T, c *http.Client, url string) (http.Header, string) {
	t.Helper()
	r, err := http.NewRequestWithContext(patient(t), http.MethodGet, url, nil)
	if err != nil {
		t.Fatal(err)
	}
	response, err := c.Do(r)
	if err != nil {
		t.Fatal(err)
	}
	defer func() { _ = response.Body.Close() }()
	body, err := io.ReadAll(response.Body)
	if err != nil {
		t.Fatal(err)
	}
	return response.Header, string(body)
}

// TestPlainClientsOfTheWebFront: the clients of the standard library and of quic-go,
// as any user has them.
func TestPlainClientsOfTheWebFront(t *testing.T) {
	s := serveWeb(t, okHandler, Limits{})
	one := &http.Transport{TLSClientConfig: s.tls()(), TLSNextProto: map[string]func(string, *tls.Conn) http.RoundTripper{}}
	one.TLSClientConfig.NextProtos = []string{"http/1.1"}
	two := &http.Transport{TLSClientConfig: s.tls()(), ForceAttemptHTTP2: true}
	three := &http3.Transport{TLSClientConfig: s.tls()()}
	t.Cleanup(func() {
		one.CloseIdleConnections()
		two.CloseIdleConnections()
		_ = three.Close()
	})
	for protocol, transport := range map[string]http.RoundTripper{HTTP1: one, HTTP2: two, HTTP3: three} {
		header, body := get(t, &http.Client{Transport: transport}, "https://"+s.address)
		if body != protocol || header.Get(ProtocolHeader) != protocol {
			t.Errorf("over %s: body %q, header %q", protocol, body, header.Get(ProtocolHeader))
		}
		port := s.address[strings.LastIndexByte(s.address, ':'):]
		want := fmt.Sprintf(`h3=%q; ma=86400`, port)
		if protocol == HTTP3 {
			want = ""
		}
		if got := header.Get("Alt-Svc"); got != want {
			t.Errorf("over %s: Alt-Svc %q, want %q", protocol, got, want)
		}
	}
}

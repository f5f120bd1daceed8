package main

import (
	"crypto/tls"
	"net"
	"path/filepath"
	"strings"
	"testing"

	"github.com/omnirelay/leadership/adapters/transport"
)

// cert runs `omnirelay cert` and wants it to succeed.
func cert(t *testing.T, args ...string) {
	t.Helper()
	var out, problems strings.Builder
	if code := run(append([]string{"cert"}, args...), &out, &problems); code != exitDone {
		t.Fatalf("cert %v: exit code %d: %s", args, code, problems.String())
	}
}

func certificates(t *testing.T, dir, base string) *transport.Certificates {
	t.Helper()
	c, err := transport.LoadCertificates(transport.Files{
		CA: filepath.Join(dir, caCertFile), Cert: filepath.Join(dir, base+".pem"), Key: filepath.Join(dir, base+"-key.pem"),
	}, nil)
	if err != nil {
		t.Fatal(err)
	}
	return c
}

// connect returns whom each side of a connection sees.
func connect(t *testing.T, client, server *transport.Certificates) (seenByServer transport.Identity, serverSerial string) {
	t.Helper()
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer l.Close()
	states := make(chan tls.ConnectionState, 1)
	go func() {
		defer close(states)
		conn, err := l.Accept()
		if err != nil {
			return
		}
		defer func() { _ = conn.Close() }()
		s := tls.Server(conn, server.Server(transport.Required))
		if s.Handshake() == nil {
			states <- s.ConnectionState()
		}
	}()
	conn, err := tls.Dial("tcp", l.Addr().String(), client.Client("node-1"))
	if err != nil {
		t.Fatal(err)
	}
	defer func() { _ = conn.Close() }()
	state, ok := <-states
	if !ok {
		t.Fatal("the server refused")
	}
	id, err := transport.PeerIdentity(state)
	if err != nil {
		t.Fatal(err)
	}
	return id, conn.ConnectionState().PeerCertificates[0].SerialNumber.String()
}

// TestIssuedCertificatesConnect: what the commands write is what nodes and callers
// prove themselves with, and a rotation counts for the next connection.
func TestIssuedCertificatesConnect(t *testing.T) {
	dir := t.TempDir()
	cert(t, "ca", "mesh-demo", "--dir", dir)
	cert(t, "issue", "node", "node-1", "--dir", dir)
	cert(t, "issue", "member", "worker-1", "--dir", dir)
	node, member := certificates(t, dir, "node-node-1"), certificates(t, dir, "member-worker-1")
	id, before := connect(t, member, node)
	if want := (transport.Identity{Cluster: "mesh-demo", Kind: transport.KindMember, Name: "worker-1"}); id != want {
		t.Errorf("the member is seen as %+v", id)
	}
	if _, again := connect(t, member, node); again != before {
		t.Error("another certificate without a rotation")
	}
	cert(t, "key", "rotate", "node-node-1.pem", "--dir", dir)
	if _, after := connect(t, member, node); after == before {
		t.Error("the rotated certificate is not in force")
	}
}

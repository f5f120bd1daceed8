package transport

import (
	"crypto/tls"
	"errors"
	"net"
	"os"
	"path/filepath"
	"strings"
	"testing"
)

func TestKeysAreReadableByTheirOwnerOnly(t *testing.T) {
	f := nodeFiles(t, authority(t, testCluster), "node-1")
	info, err := os.Stat(f.Key)
	if err != nil {
		t.Fatal(err)
	}
	if info.Mode().Perm() != 0o600 {
		t.Errorf("mode %v", info.Mode())
	}
	left, err := filepath.Glob(filepath.Join(filepath.Dir(f.Key), ".*"))
	if err != nil || len(left) != 0 {
		t.Errorf("left behind: %v %v", left, err)
	}
}

func TestAFailedWriteLeavesTheOldFile(t *testing.T) {
	dir := t.TempDir()
	path := filepath.Join(dir, "taken")
	if err := os.MkdirAll(filepath.Join(path, "inside"), 0o755); err != nil {
		t.Fatal(err)
	}
	if err := WriteFile(path, []byte("x"), 0o600); err == nil {
		t.Fatal("a directory was replaced by a file")
	}
	entries, err := os.ReadDir(dir)
	if err != nil || len(entries) != 1 {
		t.Errorf("left behind: %v %v", entries, err)
	}
}

func TestAuthoritySurvivesItsFiles(t *testing.T) {
	dir := t.TempDir()
	certPath, keyPath := filepath.Join(dir, "ca.pem"), filepath.Join(dir, "ca-key.pem")
	a := authority(t, testCluster)
	if err := a.Save(certPath, keyPath); err != nil {
		t.Fatal(err)
	}
	again, err := LoadAuthority(certPath, keyPath)
	if err != nil {
		t.Fatal(err)
	}
	if again.Cluster() != testCluster {
		t.Errorf("cluster %q", again.Cluster())
	}
	pair, err := again.IssueNode("node-1")
	load(t, save(t, a, pair, err))

	if err := authority(t, testCluster).Save(filepath.Join(dir, "other.pem"), keyPath); err != nil {
		t.Fatal(err)
	}
	if _, err := LoadAuthority(certPath, keyPath); err == nil || !strings.Contains(err.Error(), "is not the key of") {
		t.Errorf("have %v", err)
	}
	leaf := nodeFiles(t, a, "node-1")
	if _, err := LoadAuthority(leaf.Cert, leaf.Key); err == nil || !strings.Contains(err.Error(), "is not a certificate authority") {
		t.Errorf("have %v", err)
	}
}

func TestIssueRefusesBadNames(t *testing.T) {
	a := authority(t, testCluster)
	for _, name := range []string{"", "a/b", "a b", strings.Repeat("n", 64), "-a"} {
		if _, err := a.IssueNode(name); err == nil || !strings.HasPrefix(err.Error(), "node: ") {
			t.Errorf("%q: have %v", name, err)
		}
	}
	if _, err := a.IssueClient("root"); err == nil || !strings.HasPrefix(err.Error(), "role: ") {
		t.Errorf("have %v", err)
	}
	if _, err := NewAuthority("Not A Cluster"); err == nil || !strings.HasPrefix(err.Error(), "cluster: ") {
		t.Errorf("have %v", err)
	}
}

func TestLoadCertificatesNamesTheFile(t *testing.T) {
	good := nodeFiles(t, authority(t, testCluster), "node-1")
	spoil := func(change func(f *Files)) Files {
		f := good
		change(&f)
		return f
	}
	other := nodeFiles(t, authority(t, testCluster), "node-1")
	missing := filepath.Join(t.TempDir(), "missing.pem")
	cases := map[string]Files{
		missing:          spoil(func(f *Files) { f.CA = missing }),
		good.Key:         spoil(func(f *Files) { f.CA = f.Key }),
		"does not match": spoil(func(f *Files) { f.Key = other.Key }),
	}
	for want, f := range cases {
		if _, err := LoadCertificates(f, nil); err == nil || !strings.Contains(err.Error(), want) {
			t.Errorf("have %v, want it to say %s", err, want)
		}
	}
}

func replace(t *testing.T, path string, data []byte) {
	t.Helper()
	if err := WriteFile(path, data, 0o600); err != nil {
		t.Fatal(err)
	}
}

func TestHalfAReplacementChangesNothing(t *testing.T) {
	a := authority(t, testCluster)
	f := nodeFiles(t, a, "node-1")
	c := load(t, f)
	before := c.now().pair.Leaf.SerialNumber
	fresh, err := a.IssueNode("node-1")
	if err != nil {
		t.Fatal(err)
	}
	replace(t, f.Key, fresh.Key)
	if c.now().pair.Leaf.SerialNumber.Cmp(before) != 0 {
		t.Fatal("a certificate came into force before its pair was whole")
	}
	replace(t, f.Cert, fresh.Cert)
	if c.now().pair.Leaf.SerialNumber.Cmp(before) == 0 {
		t.Fatal("the new pair is not in force")
	}
	if err := os.Remove(f.Cert); err != nil {
		t.Fatal(err)
	}
	if c.now().pair == nil || c.Identity().Name != "node-1" {
		t.Fatal("a removed file took the certificate away")
	}
}

// shake performs a handshake and returns what each side saw.
func shake(t *testing.T, client, server *tls.Config) (seen tls.ConnectionState, clientErr, serverErr error) {
	t.Helper()
	l := listen(t, "127.0.0.1:0")
	accepted := make(chan error, 1)
	go func() {
		conn, err := l.Accept()
		if err != nil {
			accepted <- err
			return
		}
		s := tls.Server(conn, server)
		err = s.Handshake()
		seen = s.ConnectionState()
		accepted <- errors.Join(err, s.Close(), ignoreClosed(l.Close()))
	}()
	conn, err := tls.Dial("tcp", l.Addr().String(), client)
	if err == nil {
		_, _ = conn.Read(make([]byte, 1)) // a refusal of the client's certificate comes here
		_ = conn.Close()
	}
	return seen, err, <-accepted
}

func ignoreClosed(err error) error {
	if errors.Is(err, net.ErrClosed) {
		return nil
	}
	return err
}

func TestOptionalListenersAdmitProbesButNoBadCertificate(t *testing.T) {
	a := authority(t, testCluster)
	server := load(t, nodeFiles(t, a, "node-1"))
	reader, err := a.IssueClient(RoleRead)
	client := load(t, save(t, a, reader, err))
	optional := server.Server(Optional, "h2", "http/1.1")

	probe := &tls.Config{MinVersion: tls.VersionTLS13, RootCAs: client.Client("").RootCAs, NextProtos: []string{"http/1.1"}}
	seen, clientErr, serverErr := shake(t, probe, optional)
	if clientErr != nil || serverErr != nil {
		t.Fatal(clientErr, serverErr)
	}
	if _, err := PeerIdentity(seen); !errors.Is(err, ErrNoCertificate) {
		t.Errorf("a probe is %v", err)
	}
	if seen.NegotiatedProtocol != "http/1.1" {
		t.Errorf("protocol %q", seen.NegotiatedProtocol)
	}

	seen, clientErr, serverErr = shake(t, client.Client("", "h2"), optional)
	if clientErr != nil || serverErr != nil {
		t.Fatal(clientErr, serverErr)
	}
	if id, err := PeerIdentity(seen); err != nil || id.Role != RoleRead || seen.NegotiatedProtocol != "h2" {
		t.Errorf("have %+v, %v over %q", id, err, seen.NegotiatedProtocol)
	}

	foreign, err := authority(t, testCluster).IssueClient(RoleAdmin)
	stranger := save(t, a, foreign, err)
	if _, _, serverErr = shake(t, load(t, stranger).Client(""), optional); serverErr == nil {
		t.Error("a certificate of another authority was admitted")
	}
	if _, _, serverErr = shake(t, probe, server.Server(Required)); serverErr == nil {
		t.Error("a listener that requires certificates admitted a probe")
	}
}

// TestAClientCertificateServesNobody: whoever may read must not pose as a node.
func TestAClientCertificateServesNobody(t *testing.T) {
	a := authority(t, testCluster)
	pair, err := a.IssueClient(RoleAdmin)
	impostor := load(t, save(t, a, pair, err))
	caller := load(t, nodeFiles(t, a, "node-1"))
	_, clientErr, _ := shake(t, caller.Client(""), impostor.Server(Required))
	if clientErr == nil {
		t.Fatal("admitted")
	}
}

func TestClientExpectsTheNodeItMeans(t *testing.T) {
	a := authority(t, testCluster)
	server := load(t, nodeFiles(t, a, "node-1")).Server(Required)
	caller := load(t, nodeFiles(t, a, "node-2"))
	if _, clientErr, serverErr := shake(t, caller.Client("node-1"), server); clientErr != nil || serverErr != nil {
		t.Error(clientErr, serverErr)
	}
	if _, clientErr, _ := shake(t, caller.Client("node-3"), server); clientErr == nil {
		t.Error("node-1 passed for node-3")
	}
}

package etcdlog

import (
	"context"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/tls"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/pem"
	"math/big"
	"net"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	clientv3 "go.etcd.io/etcd/client/v3"

	"github.com/omnirelay/leadership/adapters/storeserver"
	"github.com/omnirelay/leadership/core"
)

// withUsers turns authentication on: root, "mesh" who may use the test's prefix, and
// "guest" who may use another.
func withUsers(t *testing.T, server *storeserver.Server) {
	t.Helper()
	c, ctx := rawClient(t, server), t.Context()
	must := func(_ any, err error) {
		t.Helper()
		if err != nil {
			t.Fatal(err)
		}
	}
	grant := func(user, prefix string) {
		must(c.UserAdd(ctx, user, user+"-secret"))
		must(c.RoleAdd(ctx, user))
		must(c.RoleGrantPermission(ctx, user, prefix, clientv3.GetPrefixRangeEnd(prefix), clientv3.PermissionType(clientv3.PermReadWrite)))
		must(c.UserGrantRole(ctx, user, user))
	}
	must(c.UserAdd(ctx, "root", "root-secret"))
	must(c.UserGrantRole(ctx, "root", "root"))
	grant("mesh", testPrefix)
	grant("guest", "/guest/")
	must(c.AuthEnable(ctx))
}

func TestUsers(t *testing.T) {
	eachEtcd(t, func(t *testing.T, server *storeserver.Server) {
		withUsers(t, server)
		o := options(server.Address())
		refused(t, o, "set Username and Password")
		o.Username, o.Password = "mesh", "wrong"
		refused(t, o, `password of user "mesh"`)
		o.Username, o.Password = "guest", "guest-secret"
		refused(t, o, `denies user "guest"`, "grant-permission")
		o.Username, o.Password = "mesh", "mesh-secret"
		s := open(t, o)
		fill(t, s)
		forgetTokens(t, server)
		do(t, s, core.StoreOK, &core.StoreCall{Append: nextAppend(t, s, 2, []byte("after the token was forgotten"))})
		server.Kill()
		if err := server.Restart(t.Context()); err != nil {
			t.Fatal(err)
		}
		waitingFetchSees(t, s, func() {
			do(t, s, core.StoreOK, &core.StoreCall{Append: nextAppend(t, s, 3, []byte("after a restart"))})
		})
	})
}

// forgetTokens makes the server forget the tokens of "mesh", as it does when they
// expire.
func forgetTokens(t *testing.T, server *storeserver.Server) {
	t.Helper()
	root, err := clientv3.New(clientv3.Config{Endpoints: []string{server.Address()}, Username: "root", Password: "root-secret"})
	if err != nil {
		t.Fatal(err)
	}
	defer root.Close() //nolint:errcheck // nothing rests on it
	if _, err := root.UserChangePassword(t.Context(), "mesh", "mesh-secret"); err != nil {
		t.Fatal(err)
	}
}

// waitingFetchSees wants a fetch that waits to be answered with what happens.
func waitingFetchSees(t *testing.T, s *Store, happens func()) {
	t.Helper()
	last := do(t, s, core.StoreOK, &core.StoreCall{Confirm: &core.StoreConfirm{}}).Lead.Last
	reply := make(chan *core.StoreReply)
	go func() {
		reply <- s.Do(context.Background(), &core.StoreCall{Timeout: 2 * patience, Fetch: &core.StoreFetch{After: last, MaxBytes: 100, Wait: patience}})
	}()
	happens()
	if r := <-reply; r.Status != core.StoreOK || len(r.Entries) != 1 {
		t.Errorf("reply %+v", r)
	}
}

func TestTLS(t *testing.T) {
	dir := t.TempDir()
	ca := newAuthority(t, "ca")
	serverCert := ca.issue(t, "server")
	certFile, keyFile := writePEM(t, dir, "server", serverCert)
	caFile := filepath.Join(dir, "ca.pem")
	if err := os.WriteFile(caFile, pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: ca.cert.Raw}), 0o600); err != nil {
		t.Fatal(err)
	}
	for version, binary := range binaries {
		t.Run(version, func(t *testing.T) {
			server := startEtcd(t, storeserver.Options{Binary: binary, TLS: &storeserver.TLS{Cert: certFile, Key: keyFile, ClientCA: caFile}})
			o := Options{Endpoints: []string{"https://" + server.Address()}, Prefix: testPrefix, ClusterID: testCluster}
			o.TLS = &tls.Config{RootCAs: ca.pool(), Certificates: []tls.Certificate{ca.issue(t, "client")}, MinVersion: tls.VersionTLS12}
			s := open(t, o)
			fill(t, s)
			waitingFetchSees(t, s, func() {
				do(t, s, core.StoreOK, &core.StoreCall{Append: nextAppend(t, s, 2, []byte("x"))})
			})
			stranger := o
			stranger.TLS = &tls.Config{RootCAs: ca.pool(), MinVersion: tls.VersionTLS12}
			refused(t, stranger, "a client certificate")
			other := newAuthority(t, "other")
			distrusting := o
			distrusting.TLS = &tls.Config{RootCAs: other.pool(), Certificates: o.TLS.Certificates, MinVersion: tls.VersionTLS12}
			refused(t, distrusting, "certificate signed by unknown authority")
		})
	}
}

type authority struct {
	cert *x509.Certificate
	key  *ecdsa.PrivateKey
}

func newAuthority(t *testing.T, name string) *authority {
	t.Helper()
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	template := template(name)
	template.IsCA, template.BasicConstraintsValid, template.KeyUsage = true, true, x509.KeyUsageCertSign
	der, err := x509.CreateCertificate(rand.Reader, template, template, &key.PublicKey, key)
	if err != nil {
		t.Fatal(err)
	}
	cert, err := x509.ParseCertificate(der)
	if err != nil {
		t.Fatal(err)
	}
	return &authority{cert: cert, key: key}
}

func template(name string) *x509.Certificate {
	return &x509.Certificate{
		SerialNumber: big.NewInt(time.Now().UnixNano()), Subject: pkix.Name{CommonName: name},
		NotBefore: time.Now().Add(-time.Hour), NotAfter: time.Now().Add(time.Hour),
	}
}

func (a *authority) pool() *x509.CertPool {
	pool := x509.NewCertPool()
	pool.AddCert(a.cert)
	return pool
}

func (a *authority) issue(t *testing.T, name string) tls.Certificate {
	t.Helper()
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	template := template(name)
	template.IPAddresses = []net.IP{net.IPv4(127, 0, 0, 1)}
	template.ExtKeyUsage = []x509.ExtKeyUsage{x509.ExtKeyUsageServerAuth, x509.ExtKeyUsageClientAuth}
	der, err := x509.CreateCertificate(rand.Reader, template, a.cert, &key.PublicKey, a.key)
	if err != nil {
		t.Fatal(err)
	}
	return tls.Certificate{Certificate: [][]byte{der}, PrivateKey: key}
}

func writePEM(t *testing.T, dir, name string, c tls.Certificate) (certFile, keyFile string) {
	t.Helper()
	key, err := x509.MarshalPKCS8PrivateKey(c.PrivateKey)
	if err != nil {
		t.Fatal(err)
	}
	certFile, keyFile = filepath.Join(dir, name+".pem"), filepath.Join(dir, name+"-key.pem")
	for path, block := range map[string]*pem.Block{certFile: {Type: "CERTIFICATE", Bytes: c.Certificate[0]}, keyFile: {Type: "PRIVATE KEY", Bytes: key}} {
		if err := os.WriteFile(path, pem.EncodeToMemory(block), 0o600); err != nil {
			t.Fatal(err)
		}
	}
	return certFile, keyFile
}

// TestNoSpace wants the refusal of a full etcd to say what cures it, and the cure to
// work; reading goes on all the while.
func TestNoSpace(t *testing.T) {
	eachEtcd(t, func(t *testing.T, server *storeserver.Server) {
		s := open(t, options(server.Address()))
		fill(t, s)
		room, err := fillServer(t.Context(), server)
		if err != nil {
			t.Fatal(err)
		}
		a := nextAppend(t, s, 1, []byte("x"))
		for _, call := range []*core.StoreCall{{Append: a}, {Confirm: &core.StoreConfirm{Term: 1, Beat: true}}, {Publish: &core.StorePublish{Term: 1, After: 3, Records: []*core.Record{{Seq: 4}}}}} {
			r := do(t, s, core.StoreFailed, call)
			for _, cure := range []string{"compact", "defrag", "alarm disarm", "auto-compaction-retention"} {
				if !strings.Contains(r.Text, cure) {
					t.Errorf("text %q does not say %s", r.Text, cure)
				}
			}
		}
		if r := do(t, s, core.StoreOK, probe("fetch")); len(r.Entries) != 5 {
			t.Errorf("%d entries on a full server, want 5", len(r.Entries))
		}
		if err := room(t.Context()); err != nil {
			t.Fatal(err)
		}
		do(t, s, core.StoreOK, &core.StoreCall{Append: a})
	}, "--quota-backend-bytes=16777216")
}

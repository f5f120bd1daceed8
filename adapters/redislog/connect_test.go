package redislog

import (
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/tls"
	"crypto/x509"
	"encoding/pem"
	"math/big"
	"net"
	"os"
	"path/filepath"
	"regexp"
	"strings"
	"syscall"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"github.com/omnirelay/leadership/adapters/storeserver"
	"github.com/omnirelay/leadership/core"
	"github.com/omnirelay/leadership/core/logpb"
)

// The access list in docs/redis.md is enough for every call.
func TestDocumentedAccessListIsEnough(t *testing.T) {
	page, err := os.ReadFile("../../docs/redis.md")
	if err != nil {
		t.Fatal(err)
	}
	line := regexp.MustCompile(`(?m)^ACL SETUSER .*$`).FindString(string(page))
	var words []any
	for _, word := range strings.Fields(strings.ReplaceAll(line, "/leadership/demo/", "/leadership/test/")) {
		words = append(words, word)
	}
	server := startServer(t)
	operator := admin(t, server.Address())
	if command(t, operator, words...) != "OK" {
		t.Fatal(line)
	}
	o := testOptions(server.Address())
	o.Username, o.Password, o.DB, o.AuditRecords = "leadership", "password", 3, MinAuditRecords
	s := openStore(t, o)
	identity := identityOf(t, s)
	at := positionOf(mustDo(t, s, triple(core.Position{}, identity)))
	var records []*core.Record
	for seq := range uint64(MinAuditRecords + 1) {
		records = append(records, &core.Record{Seq: seq + 1})
	}
	for _, c := range []*core.StoreCall{
		{Confirm: &core.StoreConfirm{Term: at.Term, Beat: true}},
		{Fetch: &core.StoreFetch{After: at.Last, Wait: 10 * time.Millisecond}},
		{Publish: &core.StorePublish{Term: at.Term, Records: records}},
		{Publish: &core.StorePublish{Term: at.Term, After: uint64(len(records)), Records: []*core.Record{{Seq: uint64(len(records)) + 1}}}},
		checkpointAt(at, at.Last, 3),
		{Fetch: &core.StoreFetch{}},
		{Attest: &core.StoreAttest{Identity: identity, Node: 1}},
		{Close: &core.StoreClose{Reason: "a test"}},
		{Replace: &core.StoreReplace{Guard: at, Lead: triple(at, identity).Append.Lead, Published: 500, Snapshot: &logpb.StoredSnapshot{}}},
		{Trail: &core.StoreTrail{Limit: 10}},
	} {
		mustDo(t, s, c)
	}

	command(t, operator, "ACL", "SETUSER", "leadership", "-pubsub")
	mustRefuse(t, o, "whether a Sentinel watches it cannot be verified: allow PUBSUB NUMSUB")
	command(t, operator, "ACL", "SETUSER", "leadership", "+pubsub|numsub", "-xadd")
	r := do(s, triple(core.Position{Term: at.Term + 1, Last: at.Last + 3}, identity))
	if r.Status != core.StoreUnfit || !strings.Contains(r.Text, "docs/redis.md has its ACL") {
		t.Errorf("status %d %s", r.Status, r.Text)
	}
}

func TestTLS(t *testing.T) {
	dir := t.TempDir()
	files, pool := certificate(t, dir)
	server, err := storeserver.Start(t.Context(), storeserver.Options{
		Kind: storeserver.Redis, Dir: filepath.Join(dir, "server"), TLS: files,
	})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(server.Kill)
	o := testOptions(server.Address())
	o.TLS = &tls.Config{RootCAs: pool}
	s := openStore(t, o)
	mustDo(t, s, triple(core.Position{}, identityOf(t, s)))
	wholeLog(t, s)

	o.TLS = &tls.Config{RootCAs: x509.NewCertPool()}
	if s, err := Open(t.Context(), o); err == nil || !strings.Contains(err.Error(), "certificate") {
		if err == nil {
			_ = s.Close()
		}
		t.Errorf("an unknown authority: %v", err)
	}
}

// certificate makes one for 127.0.0.1, signed by itself.
func certificate(t *testing.T, dir string) (*storeserver.TLS, *x509.CertPool) {
	t.Helper()
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	template := &x509.Certificate{
		SerialNumber: big.NewInt(1), IPAddresses: []net.IP{net.IPv4(127, 0, 0, 1)}, IsCA: true, BasicConstraintsValid: true,
		NotBefore: time.Now().Add(-time.Hour), NotAfter: time.Now().Add(time.Hour),
	}
	der, err := x509.CreateCertificate(rand.Reader, template, template, key.Public(), key)
	if err != nil {
		t.Fatal(err)
	}
	private, err := x509.MarshalPKCS8PrivateKey(key)
	if err != nil {
		t.Fatal(err)
	}
	files := &storeserver.TLS{Cert: filepath.Join(dir, "cert.pem"), Key: filepath.Join(dir, "key.pem")}
	for path, block := range map[string]*pem.Block{
		files.Cert: {Type: "CERTIFICATE", Bytes: der}, files.Key: {Type: "PRIVATE KEY", Bytes: private},
	} {
		if err := os.WriteFile(path, pem.EncodeToMemory(block), 0o644); err != nil {
			t.Fatal(err)
		}
	}
	pool := x509.NewCertPool()
	if !pool.AppendCertsFromPEM(pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: der})) {
		t.Fatal("the certificate is none")
	}
	return files, pool
}

// A machine that is gone is noticed by the kernel: the options that make it so are set.
func TestConnectionsNoticeThatTheOtherIsGone(t *testing.T) {
	server := startServer(t)
	conn, err := dialer(nil)(t.Context(), "tcp", server.Address())
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = conn.Close() }) // only its options count
	raw, err := conn.(syscall.Conn).SyscallConn()
	if err != nil {
		t.Fatal(err)
	}
	for _, o := range []struct{ level, name, want int }{
		{unix.IPPROTO_TCP, unix.TCP_USER_TIMEOUT, 2_000},
		{unix.SOL_SOCKET, unix.SO_KEEPALIVE, 1},
		{unix.IPPROTO_TCP, unix.TCP_KEEPIDLE, 1},
		{unix.IPPROTO_TCP, unix.TCP_KEEPINTVL, 1},
		{unix.IPPROTO_TCP, unix.TCP_KEEPCNT, 1},
	} {
		var got int
		var outer error
		if err := raw.Control(func(fd uintptr) { got, outer = unix.GetsockoptInt(int(fd), o.level, o.name) }); err != nil || outer != nil {
			t.Fatal(err, outer)
		}
		if got != o.want {
			t.Errorf("option %d is %d, want %d", o.name, got, o.want)
		}
	}
}

func TestCloseEndsWaits(t *testing.T) {
	server := startServer(t)
	s := openStore(t, testOptions(server.Address()))
	operator := admin(t, server.Address())
	answer := make(chan *core.StoreReply)
	go func() {
		answer <- do(s, &core.StoreCall{Timeout: time.Minute, Fetch: &core.StoreFetch{Wait: time.Minute}})
	}()
	until(t, "the fetch waits", func() bool {
		return strings.Contains(operator.Info(t.Context(), "clients").Val(), "blocked_clients:1\r")
	})
	begin := time.Now()
	if err := s.Close(); err != nil {
		t.Fatal(err)
	}
	r := <-answer
	if took := time.Since(begin); r.Status != core.StoreFailed || took > time.Second {
		t.Errorf("status %d after %v", r.Status, took)
	}
	if r := do(s, &core.StoreCall{ID: 3, Confirm: &core.StoreConfirm{}}); r.Status != core.StoreFailed || r.ID != 3 || !strings.Contains(r.Text, "closed") {
		t.Errorf("after Close: %+v", r)
	}
}

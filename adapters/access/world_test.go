package access

import (
	"crypto"
	"crypto/ecdsa"
	"crypto/ed25519"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/rsa"
	"crypto/tls"
	"crypto/x509"
	"encoding/json"
	"encoding/pem"
	"errors"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/go-jose/go-jose/v4"
	"github.com/go-jose/go-jose/v4/jwt"
	"go.uber.org/goleak"

	"github.com/omnirelay/leadership/adapters/transport"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

const testCluster = "test.cluster"

// start is when these tests begin, by the clock they hand over.
var start = time.Date(2026, 5, 1, 12, 0, 0, 0, time.UTC)

// clock is a time that only tests move.
type clock struct {
	mu sync.Mutex
	t  time.Time
}

func newClock() *clock { return &clock{t: start} }

func (c *clock) now() time.Time {
	c.mu.Lock()
	defer c.mu.Unlock()
	return c.t
}

func (c *clock) pass(d time.Duration) {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.t = c.t.Add(d)
}

// signer is a private key and what a key set says of it.
type signer struct {
	id        string
	algorithm jose.SignatureAlgorithm
	key       crypto.Signer
}

func newSigner(t testing.TB, id string, algorithm jose.SignatureAlgorithm) signer {
	t.Helper()
	var key crypto.Signer
	var err error
	switch algorithm {
	case jose.EdDSA:
		_, key, err = ed25519.GenerateKey(rand.Reader)
	case jose.ES256:
		key, err = ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	default:
		key, err = rsa.GenerateKey(rand.Reader, 2048)
	}
	if err != nil {
		t.Fatal(err)
	}
	return signer{id: id, algorithm: algorithm, key: key}
}

func (s signer) public() jose.JSONWebKey {
	return jose.JSONWebKey{Key: s.key.Public(), KeyID: s.id, Algorithm: string(s.algorithm), Use: "sig"}
}

// sign signs the claims; headers replace those of a usual token.
func (s signer) sign(t testing.TB, claims any, headers map[jose.HeaderKey]any) string {
	t.Helper()
	options := (&jose.SignerOptions{}).WithType("JWT").WithHeader("kid", s.id)
	for name, value := range headers {
		options = options.WithHeader(name, value)
	}
	by, err := jose.NewSigner(jose.SigningKey{Algorithm: s.algorithm, Key: s.key}, options)
	if err != nil {
		t.Fatal(err)
	}
	text, err := jwt.Signed(by).Claims(claims).Serialize()
	if err != nil {
		t.Fatal(err)
	}
	return text
}

func keySetOf(t testing.TB, signers ...signer) []byte {
	t.Helper()
	set := jose.JSONWebKeySet{}
	for _, s := range signers {
		set.Keys = append(set.Keys, s.public())
	}
	data, err := json.Marshal(set)
	if err != nil {
		t.Fatal(err)
	}
	return data
}

func writeKeys(t testing.TB, path string, data []byte) {
	t.Helper()
	if err := transport.WriteFile(path, data, 0o600); err != nil {
		t.Fatal(err)
	}
}

// good are the claims of a token that everybody believes; changes replace some, nil
// takes one away.
func good(changes map[string]any) map[string]any {
	claims := map[string]any{
		"iss": "https://id.example", "sub": "alice", "aud": []string{testCluster},
		"exp": start.Add(time.Hour).Unix(), "nbf": start.Unix(), "iat": start.Unix(),
		"roles": []string{"mesh.operate"},
	}
	for name, value := range changes {
		if claims[name] = value; value == nil {
			delete(claims, name)
		}
	}
	return claims
}

// newAuthenticator fills in what every test wants, and closes it.
func newAuthenticator(t testing.TB, o Options) *Authenticator {
	t.Helper()
	o.Cluster = testCluster
	if o.now == nil {
		o.now = newClock().now
	}
	a, err := New(o)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(a.Close)
	return a
}

func withKeys(t testing.TB, signers ...signer) Options {
	t.Helper()
	path := filepath.Join(t.TempDir(), "keys.json")
	writeKeys(t, path, keySetOf(t, signers...))
	return Options{Bearer: Bearer{JWKS: path}}
}

func bearer(text string) Evidence {
	return Evidence{TLS: &tls.ConnectionState{}, Authorization: []string{"Bearer " + text}, Remote: "192.0.2.1:1234"}
}

// authority issues certificates that are in force at start.
type authority struct{ *transport.Authority }

func newAuthority(t testing.TB, cluster string) authority {
	t.Helper()
	a, err := transport.NewAuthority(cluster)
	if err != nil {
		t.Fatal(err)
	}
	return authority{a}
}

func (a authority) show(t testing.TB, id transport.Identity) Evidence {
	t.Helper()
	pair, err := a.Issue(transport.Request{Identity: id, From: start.Add(-time.Hour), Until: start.Add(24 * time.Hour)})
	if err != nil {
		t.Fatal(err)
	}
	block, _ := pem.Decode(pair.Cert)
	cert, err := x509.ParseCertificate(block.Bytes)
	if err != nil {
		t.Fatal(err)
	}
	return showing(cert)
}

// showing is a connection with a certificate that a handshake has verified.
func showing(cert *x509.Certificate) Evidence {
	return Evidence{TLS: &tls.ConnectionState{VerifiedChains: [][]*x509.Certificate{{cert}}}, Remote: "192.0.2.1:1234"}
}

func client(role transport.Role) transport.Identity {
	return transport.Identity{Kind: transport.KindClient, Role: role}
}

func memberNamed(name string) transport.Identity {
	return transport.Identity{Kind: transport.KindMember, Name: name}
}

// wantDenied checks a refusal's kind and words.
func wantDenied(t testing.TB, err error, unauthenticated bool, words string) {
	t.Helper()
	var d *Denied
	if !errors.As(err, &d) {
		t.Errorf("have %v, want a refusal that says %q", err, words)
		return
	}
	if d.Unauthenticated != unauthenticated || !strings.Contains(d.Message, words) || d.Want == "" || d.Have == "" {
		t.Errorf("have %+v, want unauthenticated %v and it to say %q", d, unauthenticated, words)
	}
	if (d.Reason() == "unauthenticated") != unauthenticated {
		t.Errorf("reason %s", d.Reason())
	}
}

func missing(t testing.TB) string {
	t.Helper()
	path := filepath.Join(t.TempDir(), "missing")
	if _, err := os.Stat(path); err == nil {
		t.Fatal("it is there")
	}
	return path
}

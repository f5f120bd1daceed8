package control

import (
	"crypto/ed25519"
	"encoding/json"
	"net/http"
	"os"
	"path/filepath"
	"testing"
	"time"

	"github.com/go-jose/go-jose/v4"
	"github.com/go-jose/go-jose/v4/jwt"

	"github.com/omnirelay/leadership/adapters/access"
)

// issuer signs bearer tokens of a site.
type issuer struct {
	signer jose.Signer
	file   string // with the public key
}

func newIssuer(t *testing.T) issuer {
	t.Helper()
	public, private, err := ed25519.GenerateKey(nil)
	if err != nil {
		t.Fatal(err)
	}
	signer, err := jose.NewSigner(jose.SigningKey{Algorithm: jose.EdDSA, Key: jose.JSONWebKey{Key: private, KeyID: "k"}}, nil)
	if err != nil {
		t.Fatal(err)
	}
	data, err := json.Marshal(jose.JSONWebKeySet{Keys: []jose.JSONWebKey{{Key: public, KeyID: "k", Algorithm: "EdDSA", Use: "sig"}}})
	if err != nil {
		t.Fatal(err)
	}
	i := issuer{signer, filepath.Join(t.TempDir(), "keys.json")}
	if err := os.WriteFile(i.file, data, 0o600); err != nil {
		t.Fatal(err)
	}
	return i
}

func (i issuer) token(t *testing.T, subject string, ends time.Time, roles ...string) string {
	t.Helper()
	text, err := jwt.Signed(i.signer).Claims(jwt.Claims{Subject: subject, Audience: jwt.Audience{"demo"}, Expiry: jwt.NewNumericDate(ends)}).
		Claims(map[string]any{"roles": roles}).Serialize()
	if err != nil {
		t.Fatal(err)
	}
	return "Bearer " + text
}

func TestBearerTokens(t *testing.T) {
	i := newIssuer(t)
	st := newSite(t, func(o *Options) {
		o.Gate = newGate(t, access.Options{Bearer: access.Bearer{JWKS: i.file}}, plenty)
	})
	for protocol, c := range map[string]*http.Client{http1: st.client(http1), http2: st.client(http2), http3: st.client(http3)} {
		header := map[string]string{"Authorization": i.token(t, "alice", time.Now().Add(time.Minute), "mesh.read")}
		if resp, text := st.do(c, http.MethodGet, "/control/scopes", header, nil); resp.StatusCode != http.StatusOK {
			t.Errorf("%s: %d %s", protocol, resp.StatusCode, text)
		}
		if _, caller := st.service.last(); caller.Name != "bearer/alice" || caller.Role != access.RoleRead {
			t.Errorf("%s: as %+v", protocol, caller)
		}
	}
	header := map[string]string{"Authorization": i.token(t, "bob", time.Now().Add(time.Minute))}
	if resp, text := st.do(st.client(http2), http.MethodGet, "/control/held", header, nil); resp.StatusCode != http.StatusForbidden {
		t.Errorf("a token without roles: %d %s", resp.StatusCode, text)
	}
}

// A stream does not outlast what let its reader in.
func TestAStreamEndsWithItsCredential(t *testing.T) {
	i := newIssuer(t)
	st := newSite(t, func(o *Options) {
		o.Gate = newGate(t, access.Options{Bearer: access.Bearer{JWKS: i.file}}, plenty)
	})
	ends := time.Now().Add(2 * time.Second)
	r := &reader{site: st, authorization: i.token(t, "alice", ends.Add(-access.Leeway), "mesh.read")}
	r.open(st.client(http2), "")
	r.want(t, "OBSERVED snapshot-end")
	for r.lines.Scan() {
	}
	if err := r.lines.Err(); err != nil {
		t.Errorf("ended by %v, want a clean end", err)
	}
	if time.Now().Before(ends.Truncate(time.Second)) {
		t.Error("it ended before the credential")
	}
}

package fuzz_test

import (
	"context"
	"crypto/tls"
	"encoding/json"
	"errors"
	"os"
	"path/filepath"
	"slices"
	"testing"
	"time"

	"github.com/omnirelay/leadership/adapters/access"
)

// A bearer token is believed only when an issuer signed it for this cluster and it has
// not ended, and it gives the roles it names and no others.
func FuzzBearerToken(f *testing.F) {
	k := newKey(f)
	file := filepath.Join(f.TempDir(), "jwks.json")
	if err := os.WriteFile(file, k.public, 0o600); err != nil {
		f.Fatal(err)
	}
	authenticator, err := access.New(access.Options{Cluster: "demo", Bearer: access.Bearer{JWKS: file}})
	if err != nil {
		f.Fatal(err)
	}
	f.Cleanup(authenticator.Close)
	header := `{"alg":"EdDSA","typ":"JWT","kid":"` + k.id + `"}`
	const end = `"exp":4102444800` // 2100
	claims := []string{
		`{"sub":"s","aud":"demo",` + end + `,"roles":["mesh.read"]}`,
		`{"sub":"s","aud":["x","demo"],"iss":"i","iat":1,"nbf":1,` + end + `,"roles":["mesh.member","mesh.operate"],"member":"m",` +
			`"grants":[{"kind":"shard","namespace":"n","labels":{"a":"b"},"maxPriority":5},{"id":"global-control"}]}`,
		`{"sub":"s","aud":"demo","exp":1,"roles":["mesh.admin"]}`,
		`{"sub":"s","aud":"other",` + end + `,"roles":["mesh.admin"]}`,
		`{"sub":"s","aud":"demo",` + end + `,"roles":["mesh.member"],"member":"m","grants":[{}]}`,
	}
	if _, err := believe(authenticator, "Bearer "+k.sign(header, claims[0])); err != nil {
		f.Fatalf("the first seed is refused: %v", err)
	}
	for _, c := range claims {
		f.Add(true, header, c)
	}
	f.Add(true, `{"alg":"none"}`, claims[0])
	f.Add(false, "Bearer "+k.sign(header, claims[0]), "")
	f.Add(false, "Basic dTpw", "")
	f.Fuzz(func(t *testing.T, signed bool, header, payload string) {
		value := header
		if signed {
			value = "Bearer " + k.sign(header, payload)
		}
		var c access.Caller
		var err error
		frugal(t, len(value), func() { c, err = believe(authenticator, value) })
		if err != nil {
			var denied *access.Denied
			if !errors.As(err, &denied) || !denied.Unauthenticated {
				t.Fatalf("a %T: %v", err, err)
			}
			wantLine(t, err.Error())
			return
		}
		wantCaller(t, c)
		if signed {
			wantClaimed(t, c, payload)
		}
	})
}

func believe(a *access.Authenticator, authorization string) (access.Caller, error) {
	return a.Authenticate(context.Background(), access.Evidence{TLS: &tls.ConnectionState{}, Authorization: []string{authorization}, Remote: "192.0.2.1:1"})
}

// wantClaimed reads the claims once more, by another decoder.
func wantClaimed(t *testing.T, c access.Caller, payload string) {
	t.Helper()
	var said struct {
		Audience any      `json:"aud"`
		Expires  float64  `json:"exp"`
		Roles    []string `json:"roles"`
		Member   string   `json:"member"`
		Grants   []any    `json:"grants"`
	}
	if err := json.Unmarshal([]byte(payload), &said); err != nil {
		t.Fatalf("believed, though it is no JSON: %v", err)
	}
	audience, _ := said.Audience.([]any)
	if said.Audience != "demo" && !slices.Contains(audience, any("demo")) {
		t.Fatalf("believed, though it is for %v", said.Audience)
	}
	if end := time.Unix(int64(min(said.Expires, 1<<40)), 0); !end.After(time.Now().Add(-access.Leeway - time.Second)) {
		t.Fatalf("believed, though it ended at %v", end)
	}
	if c.Role != "" && !slices.Contains(said.Roles, string(c.Role)) {
		t.Fatalf("has the role %s of %v", c.Role, said.Roles)
	}
	member := slices.Contains(said.Roles, string(access.RoleMember))
	if c.Member != "" && (!member || c.Member != said.Member) || len(c.Grants) > 0 && (!member || len(c.Grants) != len(said.Grants)) {
		t.Fatalf("is member %q with %d grants by %s", c.Member, len(c.Grants), payload)
	}
}

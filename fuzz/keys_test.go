package fuzz_test

import (
	"crypto"
	"crypto/ed25519"
	"encoding/base64"
	"encoding/json"
	"strings"
	"testing"
	"time"

	"github.com/go-jose/go-jose/v4"

	"github.com/omnirelay/leadership/adapters/signing"
)

// key is an issuer's, the same in every run.
type key struct {
	private ed25519.PrivateKey
	id      string
	public  []byte // JWK Set
}

func newKey(f testing.TB) key {
	f.Helper()
	k := key{private: ed25519.NewKeyFromSeed(make([]byte, ed25519.SeedSize))}
	sum, err := (&jose.JSONWebKey{Key: k.private.Public()}).Thumbprint(crypto.SHA256)
	if err != nil {
		f.Fatal(err)
	}
	k.id = base64.RawURLEncoding.EncodeToString(sum)
	k.public, err = json.Marshal(jose.JSONWebKeySet{Keys: []jose.JSONWebKey{{Key: k.private.Public(), KeyID: k.id}}})
	if err != nil {
		f.Fatal(err)
	}
	return k
}

// sign makes a JWS of whatever is in header and payload.
func (k key) sign(header, payload string) string {
	input := base64.RawURLEncoding.EncodeToString([]byte(header)) + "." + base64.RawURLEncoding.EncodeToString([]byte(payload))
	return input + "." + base64.RawURLEncoding.EncodeToString(ed25519.Sign(k.private, []byte(input)))
}

// A private key set means the same when it is written again, and never publishes what
// is private.
func FuzzPrivateKeySet(f *testing.F) {
	now := time.Unix(1_800_000_000, 0)
	set, err := signing.NewKeySet(now)
	if err != nil {
		f.Fatal(err)
	}
	data, err := set.JSON()
	if err != nil {
		f.Fatal(err)
	}
	f.Add(data)
	if err := set.Promote(set.Next(), now, 0); err != nil {
		f.Fatal(err)
	}
	if data, err = set.JSON(); err != nil {
		f.Fatal(err)
	}
	f.Add(data)
	f.Add([]byte(`{"keys":[{"kty":"OKP","crv":"Ed25519","d":"nWGxne_9WmC6hEr0kuwsxERJxWl7MmkZcDusAxyuf2A","x":"11qYAYKxCrfVS_7TyWQHOg7hcvPapiMlrwIaaPcHURo"}]}`))
	f.Fuzz(func(t *testing.T, data []byte) {
		var set *signing.KeySet
		var err error
		frugal(t, len(data), func() { set, err = signing.ParseKeySet(data) })
		if err != nil {
			wantLine(t, err.Error())
			return
		}
		written, err := set.JSON()
		if err != nil {
			t.Fatal(err)
		}
		again, err := signing.ParseKeySet(written)
		if err != nil {
			t.Fatalf("written again it is refused: %v", err)
		}
		if rewritten, err := again.JSON(); err != nil || string(rewritten) != string(written) {
			t.Fatalf("%s became %s: %v", written, rewritten, err)
		}
		public, err := json.Marshal(set.Public())
		if err != nil {
			t.Fatal(err)
		}
		if _, err := signing.ParseKeys(public); err != nil {
			t.Fatalf("what it publishes is refused: %v", err)
		}
	})
}

func FuzzPublishedKeys(f *testing.F) {
	f.Add(newKey(f).public)
	f.Add([]byte(`{"keys":[{"kty":"RSA","n":"AQAB","e":"AQAB"},{"kty":"EC","crv":"P-256","x":"AA","y":"AA"},{"kty":"oct","k":"AA"},{"kty":"new"}]}`))
	long := strings.Repeat("\xff\\u202e", 1000)
	f.Add([]byte(`{"` + long + `":1,"` + long + `":1}`))
	f.Add([]byte(`{"keys":[{"kty":"` + long + `","` + long + `":1,"` + long + `":1}]}`))
	f.Add([]byte(`{"keys":[{"kty":"OKP","crv":"Ed25519","x":"AA","x5c":["AA=="],"x5u":"%"}]}`))
	f.Fuzz(func(t *testing.T, data []byte) {
		var err error
		frugal(t, len(data), func() { _, err = signing.ParseKeys(data) })
		if err != nil {
			wantLine(t, err.Error())
		}
	})
}

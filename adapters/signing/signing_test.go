package signing

import (
	"bytes"
	"context"
	"crypto/ed25519"
	"crypto/hmac"
	"crypto/rand"
	"crypto/rsa"
	"crypto/sha256"
	"encoding/base64"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/go-jose/go-jose/v4"
	"go.uber.org/goleak"

	"github.com/omnirelay/leadership/core"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

// clock is a wall clock that a test moves.
type clock struct {
	mu sync.Mutex
	at time.Time
}

func newClock() *clock { return &clock{at: time.Unix(1_800_000_000, 0)} }

func (c *clock) now() time.Time {
	c.mu.Lock()
	defer c.mu.Unlock()
	return c.at
}

func (c *clock) advance(d time.Duration) {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.at = c.at.Add(d)
}

// site is a registry that signs and a resource that holds its published keys.
type site struct {
	t      testing.TB
	clock  *clock
	file   string
	signer *Signer
}

func newSite(t testing.TB) *site {
	s := &site{t: t, clock: newClock(), file: filepath.Join(t.TempDir(), "keys.json")}
	set, err := NewKeySet(s.clock.now())
	s.must(err)
	s.must(CreateKeyFile(s.file, set))
	s.signer, err = OpenSigner(SignerOptions{File: s.file, Cluster: "demo", Now: s.clock.now})
	s.must(err)
	return s
}

func (s *site) must(err error) {
	s.t.Helper()
	if err != nil {
		s.t.Fatal(err)
	}
}

func (s *site) sign(c Claims) string {
	s.t.Helper()
	token, err := s.signer.Sign(c)
	s.must(err)
	return token
}

// verifier knows the keys published now, and learns of no other.
func (s *site) verifier() *Verifier {
	s.t.Helper()
	keys, err := ParseKeys(s.signer.PublicJSON())
	s.must(err)
	v, err := NewVerifier(VerifierOptions{Cluster: "demo", Keys: keys, Now: s.clock.now})
	s.must(err)
	return v
}

func lead() Claims {
	return Claims{Leader: "member-1", Scope: "shard/mesh.demo/07", ScopeKind: "shard", Term: 3, Fence: 41, Session: 9, ID: "j"}
}

// wantReason fails unless err refuses a token for that reason.
func wantReason(t testing.TB, err error, want Reason) {
	t.Helper()
	var refused *TokenError
	if !errors.As(err, &refused) || refused.Reason != want {
		t.Errorf("got %v, want a refusal for %s", err, want)
	}
}

func TestATokenSaysWhatWasSigned(t *testing.T) {
	s := newSite(t)
	got, err := s.verifier().Verify(context.Background(), s.sign(lead()))
	s.must(err)
	want := lead()
	want.Cluster, want.IssuedAt, want.Expires = "demo", s.clock.now(), s.clock.now().Add(time.Hour)
	if got != want {
		t.Errorf("got  %+v\nwant %+v", got, want)
	}
	of := ClaimsOf(core.Token{Scope: "a", ScopeKind: "custom", LeaderID: "m", Session: 4, Term: 5, Fence: 6})
	if of != (Claims{Leader: "m", Scope: "a", ScopeKind: "custom", Session: 4, Term: 5, Fence: 6}) {
		t.Errorf("claims of a token: %+v", of)
	}
}

// Any JWT library can check a token: this one uses what RFC 7515 says and no code of
// the package.
func TestATokenIsAStandardJWT(t *testing.T) {
	s := newSite(t)
	token := s.sign(lead())
	parts := strings.Split(token, ".")
	header, _ := base64.RawURLEncoding.DecodeString(parts[0])
	key := s.signer.Public().Keys[0]
	for _, want := range []string{`"alg":"EdDSA"`, `"typ":"leadership+jwt"`, `"kid":"` + key.KeyID + `"`} {
		if !bytes.Contains(header, []byte(want)) {
			t.Errorf("header %s lacks %s", header, want)
		}
	}
	payload, _ := base64.RawURLEncoding.DecodeString(parts[1])
	want := `{"iss":"demo","sub":"member-1","iat":1800000000,"exp":1800003600,"jti":"j","scope":"shard/mesh.demo/07","scopeKind":"shard","term":3,"fence":41,"session":9}`
	if string(payload) != want {
		t.Errorf("claims %s\nwant   %s", payload, want)
	}
	signature, _ := base64.RawURLEncoding.DecodeString(parts[2])
	if !ed25519.Verify(key.Key.(ed25519.PublicKey), []byte(parts[0]+"."+parts[1]), signature) {
		t.Error("the signature is not Ed25519 over the first two parts")
	}
}

func TestEveryAlteredByteIsNoticed(t *testing.T) {
	s := newSite(t)
	v, token := s.verifier(), s.sign(lead())
	for i := range len(token) {
		for bit := range 8 {
			altered := []byte(token)
			altered[i] ^= 1 << bit
			if _, err := v.Verify(context.Background(), string(altered)); err == nil {
				t.Fatalf("bit %d of byte %d was flipped and the token accepted", bit, i)
			}
		}
		if _, err := v.Verify(context.Background(), token[:i]); err == nil {
			t.Fatalf("the first %d bytes were accepted", i)
		}
		for _, extra := range []string{"\n", "\r", " ", "=", ".", "A"} {
			if _, err := v.Verify(context.Background(), token[:i]+extra+token[i:]); err == nil {
				t.Fatalf("%q at %d was accepted", extra, i)
			}
		}
	}
}

// forge makes a token of the given header and claims with a signature of its own.
func forge(header, claims string, sign func(input []byte) []byte) string {
	input := base64.RawURLEncoding.EncodeToString([]byte(header)) + "." + base64.RawURLEncoding.EncodeToString([]byte(claims))
	return input + "." + base64.RawURLEncoding.EncodeToString(sign([]byte(input)))
}

// claimsText is a JWT body that is right at the site's time.
func claimsText(s *site) string {
	return fmt.Sprintf(`{"iss":"demo","sub":"m","iat":%d,"exp":%d,"scope":"a","scopeKind":"custom","term":1,"fence":9000,"session":1}`,
		s.clock.now().Unix(), s.clock.now().Unix()+3600)
}

func TestForgeriesAreRefused(t *testing.T) {
	s := newSite(t)
	v, kid := s.verifier(), s.signer.Public().Keys[0].KeyID
	public := s.signer.Public().Keys[0].Key.(ed25519.PublicKey)
	claims := claimsText(s)
	none := func([]byte) []byte { return nil }
	hs256 := func(input []byte) []byte { m := hmac.New(sha256.New, public); m.Write(input); return m.Sum(nil) }
	_, stranger, _ := ed25519.GenerateKey(rand.Reader)
	own := func(input []byte) []byte { return ed25519.Sign(stranger, input) }
	head := func(alg, more string) string {
		return fmt.Sprintf(`{"alg":%q,"typ":"leadership+jwt","kid":%q%s}`, alg, kid, more)
	}
	embedded, _ := (&jose.JSONWebKey{Key: stranger.Public()}).MarshalJSON()
	strangerID, _ := thumbprint(stranger.Public().(ed25519.PublicKey))
	for _, c := range []struct {
		name   string
		token  string
		reason Reason
	}{
		{"alg none", forge(head("none", ""), claims, none), Algorithm},
		{"alg None", forge(head("None", ""), claims, none), Algorithm},
		{"the public key as an HMAC secret", forge(head("HS256", ""), claims, hs256), Algorithm},
		{"Ed25519 by its other name", forge(head("Ed25519", ""), claims, own), Algorithm},
		{"no signature", forge(head("EdDSA", ""), claims, none), Signature},
		{"a stranger's key under our name", forge(head("EdDSA", ""), claims, own), Signature},
		{"a key that the token brings along", forge(head("EdDSA", `,"jwk":`+string(embedded)), claims, own), Malformed},
		{"a place to fetch keys from", forge(head("EdDSA", `,"jku":"https://example.com"`), claims, own), Malformed},
		{"unencoded payload", forge(head("EdDSA", `,"b64":false,"crit":["b64"]`), claims, own), Malformed},
		{"a second alg", forge(head("EdDSA", `,"alg":"none"`), claims, own), Malformed},
		{"a stranger's key under its own name", forge(strings.ReplaceAll(head("EdDSA", ""), kid, strangerID), claims, own), UnknownKey},
		{"no kid", forge(`{"alg":"EdDSA","typ":"leadership+jwt"}`, claims, own), Malformed},
		{"another typ", forge(`{"alg":"EdDSA","typ":"JWT","kid":"`+kid+`"}`, claims, own), Malformed},
		{"kid is a number", forge(`{"alg":"EdDSA","typ":"leadership+jwt","kid":1}`, claims, own), Malformed},
		{"empty", "", Malformed},
		{"two parts", "a.b", Malformed},
		{"JSON serialization", `{"payload":"e30","signatures":[]}`, Malformed},
		{"too long", strings.Repeat("a", MaxTokenBytes+1), Malformed},
	} {
		t.Run(c.name, func(t *testing.T) {
			_, err := v.Verify(context.Background(), c.token)
			wantReason(t, err, c.reason)
		})
	}
}

// Signed by the right key and still refused: a registry of a later version, or a
// bug, must not make a resource take nonsense.
func TestGenuineTokensAreHeldToTheirLimits(t *testing.T) {
	s := newSite(t)
	v := s.verifier()
	set, err := ReadKeyFile(s.file)
	s.must(err)
	genuine := func(claims string) string {
		return forge(`{"alg":"EdDSA","typ":"leadership+jwt","kid":"`+set.keys[0].ID+`"}`, claims,
			func(input []byte) []byte { return ed25519.Sign(set.keys[0].private, input) })
	}
	good := claimsText(s)
	if _, err := v.Verify(context.Background(), genuine(good)); err != nil {
		t.Fatalf("the pattern of all others is refused: %v", err)
	}
	now := s.clock.now().Unix()
	swap := func(old, new string) string {
		if !strings.Contains(good, old) {
			t.Fatalf("no %s in %s", old, good)
		}
		return strings.Replace(good, old, new, 1)
	}
	exp := fmt.Sprintf(`"exp":%d`, now+3600)
	iat := fmt.Sprintf(`"iat":%d`, now)
	for _, c := range []struct {
		name   string
		claims string
		reason Reason
		field  string
	}{
		{"another cluster", swap(`"iss":"demo"`, `"iss":"demo2"`), Foreign, "iss"},
		{"no cluster", swap(`"iss":"demo",`, ``), Foreign, "iss"},
		{"in upper case", swap(`"iss"`, `"ISS"`), Foreign, "iss"},
		{"no leader", swap(`"sub":"m"`, `"sub":""`), WrongClaims, "sub"},
		{"no scope", swap(`"scope":"a",`, ``), WrongClaims, "scope"},
		{"a wrong scope", swap(`"scope":"a"`, `"scope":"a//b"`), WrongClaims, "scope"},
		{"no kind", swap(`"custom"`, `""`), WrongClaims, "scopeKind"},
		{"fence 0", swap(`9000`, `0`), WrongClaims, "fence"},
		{"fence 2^53", swap(`9000`, `9007199254740992`), WrongClaims, "fence"},
		{"fence null", swap(`9000`, `null`), WrongClaims, "fence"},
		{"fence as text", swap(`9000`, `"9000"`), Malformed, "claims"},
		{"fence of a half", swap(`9000`, `1.5`), Malformed, "claims"},
		{"fence below nothing", swap(`9000`, `-1`), Malformed, "claims"},
		{"fence beyond 64 bits", swap(`9000`, `99999999999999999999`), Malformed, "claims"},
		{"fence twice", swap(`9000`, `1,"fence":9000`), Malformed, "claims"},
		{"fence twice, once in disguise", swap(`9000`, `1,"\u0066ence":9000`), Malformed, "claims"},
		{"an unknown claim twice", swap(`9000`, `9000,"x":1,"x":2`), Malformed, "claims"},
		{"term 0", swap(`"term":1`, `"term":0`), WrongClaims, "term"},
		{"session 0", swap(`"session":1`, `"session":0`), WrongClaims, "session"},
		{"no end", swap(exp+",", ``), WrongClaims, "exp"},
		{"ends before it begins", swap(exp, fmt.Sprintf(`"exp":%d`, now-1)), WrongClaims, "exp"},
		{"never ends", swap(exp, fmt.Sprintf(`"exp":%d`, now+1<<40)), WrongClaims, "exp"},
		{"no beginning", swap(iat+",", ``), WrongClaims, "iat"},
		{"begins later", swap(iat, fmt.Sprintf(`"iat":%d`, now+31)), NotYetValid, "iat"},
		{"valid later", swap(iat, fmt.Sprintf(`%s,"nbf":%d`, iat, now+31)), NotYetValid, "iat"},
		{"a long jti", swap(`"scope"`, `"jti":"`+strings.Repeat("j", maxID+1)+`","scope"`), WrongClaims, "jti"},
		{"not UTF-8", swap(`"m"`, "\"\xff\""), Malformed, "claims"},
		{"no object", `[1]`, Malformed, "claims"},
		{"something behind it", good + `{}`, Malformed, "claims"},
	} {
		t.Run(c.name, func(t *testing.T) {
			_, err := v.Verify(context.Background(), genuine(c.claims))
			wantReason(t, err, c.reason)
			var refused *TokenError
			if errors.As(err, &refused) && refused.Field != c.field {
				t.Errorf("field %q, want %q: %v", refused.Field, c.field, err)
			}
		})
	}
	for name, claims := range map[string]string{
		"a claim of a later version": swap(`9000`, `9000,"later":{"a":[1]}`),
		"clocks 30 s apart":          swap(iat, fmt.Sprintf(`"iat":%d,"nbf":%d`, now+30, now+30)),
	} {
		if _, err := v.Verify(context.Background(), genuine(claims)); err != nil {
			t.Errorf("%s: %v", name, err)
		}
	}
}

func TestATokenEnds(t *testing.T) {
	s := newSite(t)
	v, token := s.verifier(), s.sign(lead())
	s.clock.advance(s.signer.Life() + DefaultLeeway - time.Second)
	if _, err := v.Verify(context.Background(), token); err != nil {
		t.Errorf("a second before the end: %v", err)
	}
	s.clock.advance(time.Second)
	_, err := v.Verify(context.Background(), token)
	wantReason(t, err, Expired)
}

func TestWrongClaimsAreNotSigned(t *testing.T) {
	s := newSite(t)
	for field, spoil := range map[string]func(*Claims){
		"sub":       func(c *Claims) { c.Leader = "a b" },
		"scope":     func(c *Claims) { c.Scope = "" },
		"scopeKind": func(c *Claims) { c.ScopeKind = "" },
		"term":      func(c *Claims) { c.Term = 0 },
		"fence":     func(c *Claims) { c.Fence = 1 << 53 },
		"session":   func(c *Claims) { c.Session = 0 },
		"jti":       func(c *Claims) { c.ID = strings.Repeat("x", maxID+1) },
	} {
		c := lead()
		spoil(&c)
		var refused *core.Error
		if token, err := s.signer.Sign(c); !errors.As(err, &refused) || refused.Field != field {
			t.Errorf("%s: signed %q, %v", field, token, err)
		}
	}
}

// The longest claims there are must fit, or a leader of a long scope has no token.
func TestTheLongestTokenFits(t *testing.T) {
	s := newSite(t)
	segment := strings.Repeat("s", core.MaxScopeSegment)
	scope := strings.Repeat(segment+"/", 3) + segment[:62] + "/s"
	if len(scope) != core.MaxScopeID {
		t.Fatalf("a scope of %d bytes", len(scope))
	}
	c := Claims{Leader: strings.Repeat("m", core.MaxMemberID), Scope: scope, ScopeKind: segment,
		Term: maxNumber - 1, Fence: maxNumber - 1, Session: maxNumber - 1, ID: strings.Repeat("\x01", maxID)}
	token := s.sign(c)
	if len(token) > MaxTokenBytes {
		t.Fatalf("%d bytes", len(token))
	}
	if _, err := s.verifier().Verify(context.Background(), token); err != nil {
		t.Error(err)
	}
}

func TestNothingPrivateIsPublished(t *testing.T) {
	s := newSite(t)
	set, err := ReadKeyFile(s.file)
	s.must(err)
	published := string(s.signer.PublicJSON())
	if strings.Contains(published, `"d"`) {
		t.Errorf("a private member in %s", published)
	}
	for i, k := range set.keys {
		if strings.Contains(published, base64.RawURLEncoding.EncodeToString(k.private.Seed())) {
			t.Errorf("the private key %d is in %s", i, published)
		}
		key := s.signer.Public().Keys[i]
		if _, ok := key.Key.(ed25519.PublicKey); !ok || !key.IsPublic() || key.KeyID != k.ID {
			t.Errorf("key %d is published as %T %s", i, key.Key, key.KeyID)
		}
		if !strings.Contains(published, k.ID) {
			t.Errorf("key %d is not published", i)
		}
	}
	private, err := set.JSON()
	s.must(err)
	if _, err := ParseKeys(private); err == nil || !strings.Contains(err.Error(), "keys[0]: holds a private") {
		t.Errorf("a resource took the private keys: %v", err)
	}
}

func TestKeysOfOtherKindsArePassedOver(t *testing.T) {
	s := newSite(t)
	other, err := rsa.GenerateKey(rand.Reader, 2048)
	s.must(err)
	rsaKey, err := (&jose.JSONWebKey{Key: &other.PublicKey, KeyID: "r"}).MarshalJSON()
	s.must(err)
	set := `{"keys":[{"kty":"later"},` + string(rsaKey) + `,` + strings.TrimPrefix(string(s.signer.PublicJSON()), `{"keys":[`)
	keys, err := ParseKeys([]byte(set))
	s.must(err)
	if len(keys.keys) != 2 {
		t.Errorf("%d keys of 2", len(keys.keys))
	}
	for text, want := range map[string]string{
		`{}`:                                  "none of type OKP",
		`[]`:                                  "not a JWK Set",
		`{"keys":[{"kty":"later"}]}`:          "none of type OKP",
		`{"keys":[{"kty":"oct","k":"QUJD"}]}`: "keys[0]: holds a private or secret",
		strings.Replace(string(s.signer.PublicJSON()), `"kid":"`, `"kid":"x`, 1): "keys[0]: kid: want the RFC 7638",
		`{"keys":[` + strings.Repeat(`{},`, MaxKeys) + `{}]}`:                    "17; at most 16",
		strings.Repeat(" ", MaxKeySetBytes+1):                                    "at most",
	} {
		if _, err := ParseKeys([]byte(text)); err == nil || !strings.Contains(err.Error(), want) {
			t.Errorf("%.60s: %v, want %q", text, err, want)
		}
	}
}

func TestOptionsAreChecked(t *testing.T) {
	s := newSite(t)
	for want, o := range map[string]SignerOptions{
		"want 1m0s to 24h0m0s": {File: s.file, Cluster: "demo", Life: time.Second},
		"no cluster id":        {File: s.file},
		"no such file":         {File: s.file + "x", Cluster: "demo"},
	} {
		if _, err := OpenSigner(o); err == nil || !strings.Contains(err.Error(), want) {
			t.Errorf("%v, want %s", err, want)
		}
	}
	for want, o := range map[string]VerifierOptions{
		"no cluster id":      {Keys: &PublicKeys{}},
		"no keys":            {Cluster: "demo"},
		"want at most 10m0s": {Cluster: "demo", Keys: &PublicKeys{}, Leeway: time.Hour},
	} {
		if _, err := NewVerifier(o); err == nil || !strings.Contains(err.Error(), want) {
			t.Errorf("%v, want %s", err, want)
		}
	}
	for want, o := range map[string]URLOptions{
		"want https://":   {URL: "http://localhost/keys"},
		"timeout":         {URL: "https://localhost/keys", Timeout: -1},
		"invalid control": {URL: "https://a\x00"},
	} {
		if _, err := NewURLKeys(o); err == nil || !strings.Contains(err.Error(), want) {
			t.Errorf("%v, want %s", err, want)
		}
	}
}

func TestPlainFilesOfKeysWork(t *testing.T) {
	s := newSite(t)
	path := filepath.Join(t.TempDir(), "public.json")
	s.must(os.WriteFile(path, s.signer.PublicJSON(), 0o644))
	keys, err := openKeysFile(path, nil, s.clock.now)
	s.must(err)
	v, err := NewVerifier(VerifierOptions{Cluster: "demo", Keys: keys, Now: s.clock.now})
	s.must(err)
	_, err = v.Verify(context.Background(), s.sign(lead()))
	s.must(err)

	s.clock.advance(time.Minute)
	s.must(ChangeKeyFile(s.file, func(k *KeySet) error { // a key that the resource does not know yet
		id, err := k.Add(s.clock.now())
		return errors.Join(err, k.Promote(id, s.clock.now(), 0))
	}))
	_, err = v.Verify(context.Background(), s.sign(lead()))
	wantReason(t, err, UnknownKey)
	s.must(os.WriteFile(path, s.signer.PublicJSON(), 0o644))
	s.clock.advance(time.Second)
	_, err = v.Verify(context.Background(), s.sign(lead()))
	s.must(err)

	s.must(os.WriteFile(path, []byte("broken"), 0o644))
	s.clock.advance(time.Second)
	_, err = v.Verify(context.Background(), s.sign(lead()))
	s.must(err)
	if _, err := OpenKeysFile(path, nil); err == nil || !strings.Contains(err.Error(), path) {
		t.Errorf("a broken file at the start: %v", err)
	}
}

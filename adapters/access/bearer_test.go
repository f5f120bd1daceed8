package access

import (
	"bytes"
	"context"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/rsa"
	"crypto/x509"
	"encoding/base64"
	"encoding/json"
	"encoding/pem"
	"fmt"
	"os"
	"reflect"
	"strings"
	"testing"
	"time"

	"github.com/go-jose/go-jose/v4"
)

func TestBearerTokensOfEachAlgorithm(t *testing.T) {
	for _, algorithm := range algorithms {
		s := newSigner(t, "k1", algorithm)
		a := newAuthenticator(t, withKeys(t, s))
		c, err := a.Authenticate(t.Context(), bearer(s.sign(t, good(nil), nil)))
		if err != nil {
			t.Errorf("%s: %v", algorithm, err)
			continue
		}
		want := Caller{Name: "bearer/alice", Cluster: testCluster, Role: RoleOperate, Key: "bearer/https://id.example\x00alice", Expires: c.Expires}
		if !reflect.DeepEqual(c, want) || !c.Expires.Equal(start.Add(time.Hour+Leeway)) {
			t.Errorf("%s: have %+v, want %+v", algorithm, c, want)
		}
	}
}

// TestClaimsAreJudged: each case changes one claim of a good token.
func TestClaimsAreJudged(t *testing.T) {
	s := newSigner(t, "k1", jose.EdDSA)
	o := withKeys(t, s)
	o.Bearer.Issuer = "https://id.example"
	a := newAuthenticator(t, o)
	at := func(d time.Duration) int64 { return start.Add(d).Unix() }
	for name, tc := range map[string]struct {
		changes map[string]any
		want    string // empty: believed
	}{
		"as it should be":        {nil, ""},
		"one audience as text":   {map[string]any{"aud": testCluster}, ""},
		"one audience of many":   {map[string]any{"aud": []string{"other", testCluster}}, ""},
		"wrong audience":         {map[string]any{"aud": "other"}, "aud: it is for others"},
		"no audience":            {map[string]any{"aud": nil}, "aud: it is for others"},
		"audience by prefix":     {map[string]any{"aud": testCluster + ".evil"}, "aud: it is for others"},
		"wrong issuer":           {map[string]any{"iss": "https://id.evil"}, "iss: "},
		"no issuer":              {map[string]any{"iss": nil}, "iss: "},
		"no end":                 {map[string]any{"exp": nil}, "exp: is missing"},
		"null end":               {map[string]any{"exp": json.RawMessage("null")}, "exp: is missing"},
		"end as text":            {map[string]any{"exp": "tomorrow"}, "types"},
		"just ended":             {map[string]any{"exp": at(-Leeway)}, ""},
		"ended":                  {map[string]any{"exp": at(-Leeway - time.Second)}, "exp: it ended at 2026-05-01T11:59:29Z"},
		"ended long ago":         {map[string]any{"exp": 0}, "exp: it ended"},
		"before 1970":            {map[string]any{"exp": -1}, "between 1970 and 9999"},
		"beyond all time":        {map[string]any{"exp": 1e15}, "between 1970 and 9999"},
		"an end that overflows":  {map[string]any{"exp": json.RawMessage("1e300")}, "types"},
		"begins within leeway":   {map[string]any{"nbf": at(Leeway)}, ""},
		"begins later":           {map[string]any{"nbf": at(Leeway + time.Second)}, "nbf: it does not begin before"},
		"a beginning far away":   {map[string]any{"nbf": json.RawMessage("9e18")}, "types"},
		"no beginning":           {map[string]any{"nbf": nil}, ""},
		"issued in the future":   {map[string]any{"iat": at(time.Minute)}, "iat: it was issued in the future"},
		"no time of issue":       {map[string]any{"iat": nil}, ""},
		"no subject":             {map[string]any{"sub": nil}, "sub: want 1 to 128 bytes"},
		"a subject of two lines": {map[string]any{"sub": "alice\nlevel=info"}, "sub: "},
		"a long subject":         {map[string]any{"sub": strings.Repeat("a", 129)}, "sub: "},
		"roles as text":          {map[string]any{"roles": "mesh.admin"}, "types"},
		"member without id":      {map[string]any{"roles": []string{"mesh.member"}}, "mesh.member, but member"},
		"member of a bad name":   {map[string]any{"roles": []string{"mesh.member"}, "member": "a/b"}, "mesh.member, but member"},
	} {
		t.Run(name, func(t *testing.T) {
			_, err := a.Authenticate(t.Context(), bearer(s.sign(t, good(tc.changes), nil)))
			if tc.want == "" && err != nil {
				t.Fatal(err)
			}
			if tc.want != "" {
				wantDenied(t, err, true, tc.want)
			}
		})
	}
}

func TestRolesAndGrantsOfTokens(t *testing.T) {
	s := newSigner(t, "k1", jose.EdDSA)
	a := newAuthenticator(t, withKeys(t, s))
	one := func(grant any) map[string]any {
		return map[string]any{"roles": []string{"mesh.member"}, "member": "worker-1", "grants": []any{grant}}
	}
	for name, tc := range map[string]struct {
		changes map[string]any
		role    Role
		member  string
		grants  []Grant
		want    string
	}{
		"none":                   {map[string]any{"roles": nil}, "", "", nil, ""},
		"roles of others":        {map[string]any{"roles": []string{"admin", "MESH.ADMIN", "mesh.root", "mesh.admin "}}, "", "", nil, ""},
		"the highest counts":     {map[string]any{"roles": []string{"mesh.read", "mesh.admin", "mesh.operate"}}, RoleAdmin, "", nil, ""},
		"member and operator":    {map[string]any{"roles": []string{"mesh.member", "mesh.operate"}, "member": "w"}, RoleOperate, "w", nil, ""},
		"a member without role":  {map[string]any{"member": "w", "grants": []any{map[string]any{"id": "*"}}}, RoleOperate, "", nil, ""},
		"grants":                 {one(map[string]any{"kind": "shard", "namespace": "ns", "labels": map[string]any{"team": ""}, "maxPriority": 7}), "", "worker-1", []Grant{{Kind: "shard", Namespace: "ns", Labels: map[string]string{"team": ""}, MaxPriority: 7}}, ""},
		"every scope":            {one(map[string]any{"id": "*", "maxPriority": -7}), "", "worker-1", []Grant{{ID: EveryScope, MaxPriority: -7}}, ""},
		"an empty grant":         {one(map[string]any{}), "", "", nil, "grants[0]: a grant has no condition"},
		"a priority alone":       {one(map[string]any{"maxPriority": 7}), "", "", nil, "no condition"},
		"an empty condition":     {one(map[string]any{"kind": "shard", "namespace": ""}), "", "", nil, "namespace: has the wrong type, or is empty"},
		"a null condition":       {one(map[string]any{"kind": "shard", "namespace": nil}), "", "", nil, "namespace: has the wrong type"},
		"no labels":              {one(map[string]any{"kind": "shard", "labels": map[string]any{}}), "", "", nil, "labels: has the wrong type"},
		"labels that are none":   {one(map[string]any{"kind": "shard", "labels": map[string]any{"a": 1}}), "", "", nil, "labels: has the wrong type"},
		"a misspelt condition":   {one(map[string]any{"kind": "shard", "namspace": "ns"}), "", "", nil, `"namspace" is unknown`},
		"a condition in capital": {one(map[string]any{"kind": "shard", "Namespace": "ns"}), "", "", nil, `"Namespace" is unknown`},
		"half a priority":        {one(map[string]any{"id": "a", "maxPriority": 1.5}), "", "", nil, "maxPriority: has the wrong type"},
		"an absurd priority":     {one(map[string]any{"id": "a", "maxPriority": 1e9}), "", "", nil, "maxPriority: has the wrong type"},
		"every scope, but":       {one(map[string]any{"id": "*", "kind": "shard"}), "", "", nil, "has further conditions"},
		"a bad id":               {one(map[string]any{"id": "shard/ns"}), "", "", nil, "grants[0]: a grant: "},
		"a grant as text":        {one("*"), "", "", nil, "types"},
		"many grants": {map[string]any{"roles": []string{"mesh.member"}, "member": "w", "grants": slicesOf(65, map[string]any{"id": "a"})}, "", "", nil,
			"grants: 65; at most 64"},
	} {
		t.Run(name, func(t *testing.T) {
			c, err := a.Authenticate(t.Context(), bearer(s.sign(t, good(tc.changes), nil)))
			if tc.want != "" {
				wantDenied(t, err, true, tc.want)
				return
			}
			if err != nil {
				t.Fatal(err)
			}
			if len(c.Grants) == 0 {
				c.Grants = nil
			}
			if c.Role != tc.role || c.Member != tc.member || !reflect.DeepEqual(c.Grants, tc.grants) {
				t.Errorf("have %+v", c)
			}
		})
	}
}

func slicesOf(n int, v any) []any {
	all := make([]any, n)
	for i := range all {
		all[i] = v
	}
	return all
}

func encode(v any) string {
	data, err := json.Marshal(v)
	if err != nil {
		panic(err)
	}
	return base64.RawURLEncoding.EncodeToString(data)
}

// TestForgedTokens: no token counts that none of the keys has signed as it stands.
func TestForgedTokens(t *testing.T) {
	rs, ed, es := newSigner(t, "rs", jose.RS256), newSigner(t, "ed", jose.EdDSA), newSigner(t, "es", jose.ES256)
	a := newAuthenticator(t, withKeys(t, rs, ed, es))
	claims := good(map[string]any{"roles": []string{"mesh.admin"}})

	rsDER, err := x509.MarshalPKIXPublicKey(rs.key.Public())
	if err != nil {
		t.Fatal(err)
	}
	publicPEM := pem.EncodeToMemory(&pem.Block{Type: "PUBLIC KEY", Bytes: rsDER})
	hmacBy := func(secret []byte) string {
		by, err := jose.NewSigner(jose.SigningKey{Algorithm: jose.HS256, Key: secret}, (&jose.SignerOptions{}).WithType("JWT").WithHeader("kid", "rs"))
		if err != nil {
			t.Fatal(err)
		}
		payload, err := json.Marshal(claims)
		if err != nil {
			t.Fatal(err)
		}
		object, err := by.Sign(payload)
		if err != nil {
			t.Fatal(err)
		}
		text, err := object.CompactSerialize()
		if err != nil {
			t.Fatal(err)
		}
		return text
	}
	none := encode(map[string]any{"alg": "none", "typ": "JWT", "kid": "rs"}) + "." + encode(claims) + "."
	other := newSigner(t, "ed", jose.EdDSA)
	honest := ed.sign(t, good(nil), nil)
	parts := strings.Split(honest, ".")
	altered := parts[0] + "." + encode(claims) + "." + parts[2]
	confused := encode(map[string]any{"alg": "ES256", "kid": "ed"}) + "." + parts[1] + "." + parts[2]
	ps := signer{id: "rs", algorithm: jose.PS256, key: rs.key}
	rs512 := signer{id: "rs", algorithm: jose.RS512, key: rs.key}
	embedded := other.sign(t, claims, map[jose.HeaderKey]any{"kid": "", "jwk": other.public(), "jku": "https://evil.example/keys"})

	for name, tc := range map[string]struct{ token, want string }{
		"not signed":                    {none, "is no JSON Web Token signed by"},
		"not signed, other spelling":    {strings.Replace(none, encode(map[string]any{"alg": "none", "typ": "JWT", "kid": "rs"}), encode(map[string]any{"alg": "nOnE"}), 1), "is no JSON Web Token signed by"},
		"public key as secret, PEM":     {hmacBy(publicPEM), "is no JSON Web Token signed by"},
		"public key as secret, DER":     {hmacBy(rsDER), "is no JSON Web Token signed by"},
		"signed by a stranger":          {other.sign(t, claims, nil), "no known key has signed"},
		"brings its own key":            {embedded, "no known key has signed"},
		"other claims, old signature":   {altered, "no known key has signed"},
		"no signature":                  {parts[0] + "." + parts[1] + ".", "no known key has signed"},
		"algorithm of another key":      {confused, "no known key has signed"},
		"unknown kid":                   {signer{"nope", ed.algorithm, ed.key}.sign(t, claims, nil), `kid "nope"`},
		"kid of another key":            {signer{"es", ed.algorithm, ed.key}.sign(t, claims, nil), "no known key has signed"},
		"no kid and several keys":       {ed.sign(t, claims, map[jose.HeaderKey]any{"kid": ""}), "no known key has signed"},
		"PS256":                         {ps.sign(t, claims, nil), "is no JSON Web Token signed by"},
		"RS512":                         {rs512.sign(t, claims, nil), "is no JSON Web Token signed by"},
		"a leadership token":            {ed.sign(t, claims, map[jose.HeaderKey]any{"typ": "leadership+jwt"}), `of type "leadership+jwt"`},
		"a type that is no text":        {ed.sign(t, claims, map[jose.HeaderKey]any{"typ": 7}), "of type"},
		"a critical header":             {ed.sign(t, claims, map[jose.HeaderKey]any{"crit": []string{"mine"}, "mine": 1}), "crit"},
		"a payload that is not encoded": {ed.sign(t, claims, map[jose.HeaderKey]any{"b64": true, "crit": []string{"b64"}}), "header"},
		"huge":                          {ed.sign(t, good(map[string]any{"x": strings.Repeat("x", MaxBearer)}), nil), "at most 8192 are read"},
		"text":                          {"token", "is no JSON Web Token"},
		"dots":                          {"..", "is no JSON Web Token"},
		"five parts":                    {honest + ".a.b", "is no JSON Web Token"},
		"JSON":                          {`{"payload":"e30","signatures":[]}`, "is no JSON Web Token"},
		"claims that are no JSON":       {signRaw(t, ed, `[1]`), "types"},
		"claims given twice":            {twice(t, ed), "types"},
	} {
		t.Run(name, func(t *testing.T) {
			c, err := a.Authenticate(t.Context(), bearer(tc.token))
			wantDenied(t, err, true, tc.want)
			if !reflect.DeepEqual(c, Caller{}) {
				t.Errorf("refused, yet %+v", c)
			}
		})
	}
	if _, err := a.Authenticate(t.Context(), bearer(honest)); err != nil {
		t.Errorf("the honest one: %v", err)
	}
}

// twice is a token whose payload says aud and roles two times.
func twice(t *testing.T, s signer) string {
	return signRaw(t, s, fmt.Sprintf(`{"sub":"a","exp":%d,"aud":"other","aud":%q,"roles":[],"roles":["mesh.admin"]}`, start.Add(time.Hour).Unix(), testCluster))
}

// signRaw signs a payload as it is.
func signRaw(t *testing.T, s signer, payload string) string {
	t.Helper()
	by, err := jose.NewSigner(jose.SigningKey{Algorithm: s.algorithm, Key: s.key}, (&jose.SignerOptions{}).WithHeader("kid", s.id))
	if err != nil {
		t.Fatal(err)
	}
	object, err := by.Sign([]byte(payload))
	if err != nil {
		t.Fatal(err)
	}
	text, err := object.CompactSerialize()
	if err != nil {
		t.Fatal(err)
	}
	return text
}

func TestTheHeaderIsReadStrictly(t *testing.T) {
	s := newSigner(t, "k1", jose.EdDSA)
	a := newAuthenticator(t, withKeys(t, s))
	token := s.sign(t, good(nil), nil)
	for _, tc := range []struct {
		values []string
		want   string
	}{
		{[]string{"Bearer " + token}, ""},
		{[]string{"bearer " + token}, ""},
		{[]string{"Bearer  " + token}, "malformed"},
		{[]string{"Bearer " + token + " "}, "malformed"},
		{[]string{"Bearer"}, "malformed"},
		{[]string{"Bearer "}, "malformed"},
		{[]string{""}, "another scheme"},
		{[]string{token}, "another scheme"},
		{[]string{"Basic YTpi"}, "another scheme"},
		{[]string{"Bearer " + token, "Bearer " + token}, "given 2 times"},
		{[]string{"Bearer " + token + ",Bearer x"}, "no JSON Web Token"},
	} {
		e := bearer("")
		e.Authorization = tc.values
		_, err := a.Authenticate(t.Context(), e)
		if tc.want == "" && err != nil {
			t.Errorf("%q: %v", tc.values, err)
		}
		if tc.want != "" {
			wantDenied(t, err, true, tc.want)
		}
	}
	clear := bearer(token)
	clear.TLS = nil
	_, err := a.Authenticate(t.Context(), clear)
	wantDenied(t, err, true, "not encrypted")
	_, err = newAuthenticator(t, Options{AnonymousRead: true}).Authenticate(t.Context(), bearer(token))
	wantDenied(t, err, true, "bearer tokens are not accepted here")
}

func TestKeySets(t *testing.T) {
	ed, es := newSigner(t, "ed", jose.EdDSA), newSigner(t, "es", jose.ES256)
	p384, err := ecdsa.GenerateKey(elliptic.P384(), rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	pair := func(key any, id string) jose.JSONWebKey { return jose.JSONWebKey{Key: key, KeyID: id} }
	set := func(keys ...jose.JSONWebKey) []byte {
		data, err := json.Marshal(jose.JSONWebKeySet{Keys: keys})
		if err != nil {
			t.Fatal(err)
		}
		return data
	}
	encryption := es.public()
	encryption.Use = "enc"
	wrong := ed.public()
	wrong.Algorithm = "ES256"
	foreign := []byte(`{"keys":[{"kty":"future","kid":"f"},{"kty":"EC","crv":"P-256"},` + strings.TrimPrefix(string(keySetOf(t, ed)), `{"keys":[`))
	for name, tc := range map[string]struct {
		data []byte
		keys int
		want string
	}{
		"two":                         {keySetOf(t, ed, es), 2, ""},
		"one of an other kind":        {foreign, 1, ""},
		"other curve, use, algorithm": {set(ed.public(), pair(p384.Public(), "p"), encryption, wrong), 1, ""},
		"none":                        {[]byte(`{"keys":[]}`), 0, "has no key"},
		"no set":                      {[]byte(`[]`), 0, "is no JSON Web Key Set"},
		"no JSON":                     {[]byte(`keys`), 0, "is no JSON Web Key Set"},
		"empty":                       {nil, 0, "is no JSON Web Key Set"},
		"a private key":               {set(ed.public(), pair(ed.key, "p")), 0, "key 1: is a private or symmetric key"},
		"a symmetric key":             {set(ed.public(), pair([]byte("secret secret secret secret secr"), "p")), 0, "is a private or symmetric key"},
		"a key of no shape":           {[]byte(`{"keys":[7]}`), 0, "key 0: is no JSON object"},
		"many":                        {[]byte(`{"keys":[` + strings.Repeat(`{},`, maxKeys) + `{}]}`), 0, "has 65 keys"},
		"huge":                        {bytes.Repeat([]byte(" "), maxKeySetBytes+1), 0, "has more than 262144 bytes"},
		"a long id":                   {set(pair(ed.key.Public(), strings.Repeat("x", maxKeyID+1))), 0, "has no key"},
	} {
		s, err := parseKeySet(tc.data)
		if tc.want == "" && (err != nil || len(s.keys) != tc.keys) {
			t.Errorf("%s: %+v, %v", name, s, err)
		}
		if tc.want != "" && (err == nil || !strings.Contains(err.Error(), tc.want)) {
			t.Errorf("%s: %v, want it to say %q", name, err, tc.want)
		}
	}
	weak, err := rsa.GenerateKey(rand.Reader, 2048)
	if err != nil {
		t.Fatal(err)
	}
	weak.PublicKey.N.Rsh(weak.PublicKey.N, 1024)
	if _, ok := verifying(&jose.JSONWebKey{Key: &weak.PublicKey}); ok {
		t.Error("a key of 1024 bits is trusted")
	}
	alone := newAuthenticator(t, withKeys(t, ed))
	if _, err := alone.Authenticate(t.Context(), bearer(ed.sign(t, good(nil), map[jose.HeaderKey]any{"kid": ""}))); err != nil {
		t.Errorf("one key needs no name: %v", err)
	}
}

// TestTwoKeysOfOneName: during a rotation some services name two keys alike.
func TestTwoKeysOfOneName(t *testing.T) {
	before, after := newSigner(t, "k", jose.EdDSA), newSigner(t, "k", jose.EdDSA)
	a := newAuthenticator(t, withKeys(t, before, after))
	for i, s := range []signer{before, after} {
		if _, err := a.Authenticate(t.Context(), bearer(s.sign(t, good(nil), nil))); err != nil {
			t.Errorf("%d: %v", i, err)
		}
	}
}

// FuzzBearer signs whatever claims it is given: no claims make a caller that breaks
// the rules, and no token makes one that was not signed.
func FuzzBearer(f *testing.F) {
	s := newSigner(f, "k1", jose.EdDSA)
	path := f.TempDir() + "/keys.json"
	if err := os.WriteFile(path, keySetOf(f, s), 0o600); err != nil {
		f.Fatal(err)
	}
	a, err := New(Options{Cluster: testCluster, now: newClock().now, Bearer: Bearer{JWKS: path}})
	if err != nil {
		f.Fatal(err)
	}
	f.Cleanup(a.Close)
	for _, changes := range []map[string]any{nil, {"exp": nil}, {"aud": []any{7}}, {"roles": []string{"mesh.member"}, "member": "w", "grants": []any{map[string]any{"id": "*", "maxPriority": 3}}}} {
		data, err := json.Marshal(good(changes))
		if err != nil {
			f.Fatal(err)
		}
		f.Add(data, s.sign(f, good(changes), nil))
	}
	f.Add([]byte(`{"sub":"a","sub":"b","exp":1e300}`), "a.b.c")
	f.Add([]byte(`{"Roles":["mesh.admin"],"SUB":"a"}`), "Bearer eyJhbGciOiJub25lIn0.e30.")
	by, err := jose.NewSigner(jose.SigningKey{Algorithm: s.algorithm, Key: s.key}, (&jose.SignerOptions{}).WithHeader("kid", s.id))
	if err != nil {
		f.Fatal(err)
	}
	f.Fuzz(func(t *testing.T, payload []byte, token string) {
		object, err := by.Sign(payload)
		if err != nil {
			t.Fatal(err)
		}
		text, err := object.CompactSerialize()
		if err != nil {
			return
		}
		judge(t, a, text)
		judge(t, a, token)
	})
}

// judge holds the caller of an accepted token against what a token may say at most.
func judge(t *testing.T, a *Authenticator, token string) {
	t.Helper()
	c, err := a.Authenticate(context.Background(), bearer(token))
	if err != nil {
		if !reflect.DeepEqual(c, Caller{}) {
			t.Fatalf("refused, yet %+v", c)
		}
		return
	}
	if c.Name == "" || len(c.Name) > 200 || printable(c.Name) != c.Name || c.Key == "" || c.Cluster != testCluster {
		t.Fatalf("a caller without a decent name: %+v", c)
	}
	if !c.Expires.After(start) || c.Role != "" && roleRank[c.Role] == 0 || c.Member == "" && len(c.Grants) > 0 {
		t.Fatalf("a caller beyond the rules: %+v", c)
	}
	for _, g := range c.Grants {
		if err := g.check(); err != nil {
			t.Fatalf("a grant beyond the rules: %v", err)
		}
	}
}

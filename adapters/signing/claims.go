// Package signing makes leadership verifiable without asking anybody: the registry
// signs tokens that name a leader and its fence, and a resource checks them offline
// against the registry's published keys. A forged or altered fence is refused before
// it can lock the true leader out.
//
// A token is a JWT (RFC 7519) signed with Ed25519 (RFC 8037), of the type
// leadership+jwt; keys are published as a JWK Set (RFC 7517).
package signing

import (
	"encoding/base64"
	"fmt"
	"strings"
	"time"
	"unicode/utf8"

	"github.com/go-jose/go-jose/v4"
	"github.com/go-jose/go-jose/v4/json"

	"github.com/omnirelay/leadership/core"
)

const (
	// TokenType is the typ header of every token, so that no other JWT signed with
	// the same keys is taken for one (RFC 8725, section 3.11).
	TokenType = "leadership+jwt"
	// ContentType is the media type of a published key set.
	ContentType = "application/jwk-set+json"
	// MaxTokenBytes bounds a token. The longest that Sign makes is a quarter of it.
	MaxTokenBytes = 4 << 10

	maxID     = 128     // bytes of jti
	maxNumber = 1 << 53 // numbers of claims stay below it: JavaScript's are exact up to there
)

// Claims are what a token says: this leader leads this scope under this fence.
type Claims struct {
	Cluster   string // iss: the cluster that signed. Sign fills it in
	Leader    string // sub: member id
	Scope     string
	ScopeKind string
	Term      uint64 // at least 1, as Fence and Session; all below 2^53
	Fence     uint64
	Session   uint64
	IssuedAt  time.Time // whole seconds. Sign fills them in
	Expires   time.Time
	ID        string // jti; optional, at most 128 bytes
}

// ClaimsOf are the claims of a leadership.
func ClaimsOf(t core.Token) Claims {
	return Claims{Leader: t.LeaderID, Scope: t.Scope, ScopeKind: t.ScopeKind, Term: t.Term, Fence: t.Fence, Session: uint64(t.Session)}
}

// body is Claims as they are written.
type body struct {
	Issuer    string `json:"iss"`
	Subject   string `json:"sub"`
	IssuedAt  int64  `json:"iat"`
	NotBefore int64  `json:"nbf,omitempty"`
	Expires   int64  `json:"exp"`
	ID        string `json:"jti,omitempty"`
	Scope     string `json:"scope"`
	ScopeKind string `json:"scopeKind"`
	Term      uint64 `json:"term"`
	Fence     uint64 `json:"fence"`
	Session   uint64 `json:"session"`
}

func (c Claims) body() body {
	return body{Issuer: c.Cluster, Subject: c.Leader, IssuedAt: c.IssuedAt.Unix(), Expires: c.Expires.Unix(), ID: c.ID,
		Scope: c.Scope, ScopeKind: c.ScopeKind, Term: c.Term, Fence: c.Fence, Session: c.Session}
}

func (b body) claims() Claims {
	return Claims{Cluster: b.Issuer, Leader: b.Subject, IssuedAt: time.Unix(b.IssuedAt, 0), Expires: time.Unix(b.Expires, 0), ID: b.ID,
		Scope: b.Scope, ScopeKind: b.ScopeKind, Term: b.Term, Fence: b.Fence, Session: b.Session}
}

// check holds a body to its limits; the times are the verifier's matter.
func (b body) check() error {
	if err := core.CheckMemberID("sub", b.Subject); err != nil {
		return err
	}
	if err := core.ParseScopeID(b.Scope); err != nil {
		return err
	}
	if err := core.CheckMemberID("scopeKind", b.ScopeKind); err != nil {
		return err
	}
	for _, n := range []struct {
		name  string
		value uint64
	}{{"term", b.Term}, {"fence", b.Fence}, {"session", b.Session}} {
		if n.value == 0 || n.value >= maxNumber {
			return claimError(n.name, "%d; want at least 1 and less than 2^53", n.value)
		}
	}
	for _, n := range []struct {
		name  string
		value int64
	}{{"iat", b.IssuedAt}, {"exp", b.Expires}} {
		if n.value <= 0 || n.value >= maxNumber {
			return claimError(n.name, "%d; want seconds since 1970", n.value)
		}
	}
	if b.NotBefore < 0 || b.NotBefore >= maxNumber {
		return claimError("nbf", "%d; want seconds since 1970", b.NotBefore)
	}
	if b.Expires <= b.IssuedAt {
		return claimError("exp", "%d, not after iat, which is %d", b.Expires, b.IssuedAt)
	}
	if !utf8.ValidString(b.ID) || len(b.ID) > maxID {
		return claimError("jti", "want at most %d bytes of UTF-8", maxID)
	}
	return nil
}

func claimError(field, format string, args ...any) error {
	return &core.Error{Code: core.CodeInvalid, Field: field, Message: fmt.Sprintf(format, args...)}
}

// split returns the decoded header of a token that is written in the one way it can
// be: without the line breaks and loose last bits that decoders let pass. So two
// tokens that differ in a byte differ in what they say.
func split(token string) (header []byte, err error) {
	if len(token) > MaxTokenBytes {
		return nil, refuse(Malformed, "", "%d bytes long; at most %d are allowed", len(token), MaxTokenBytes)
	}
	parts := strings.SplitN(token, ".", 4)
	if len(parts) != 3 {
		return nil, refuse(Malformed, "", "want the 3 parts of a signed JWT, with a dot between each")
	}
	for i, text := range parts {
		data, err := base64.RawURLEncoding.DecodeString(text)
		if err != nil || base64.RawURLEncoding.EncodeToString(data) != text {
			return nil, refuse(Malformed, "", "part %d is not base64url without padding", i+1)
		}
		if i == 0 {
			header = data
		}
	}
	return header, nil
}

// header is everything a token's header may hold. Names of keys and places to fetch
// them from are not among it: a token does not bring its own judge.
type header struct {
	Algorithm string `json:"alg"`
	Type      string `json:"typ"`
	KeyID     string `json:"kid"`
}

func parseHeader(data []byte) (header, error) {
	var members map[string]any
	if err := json.Unmarshal(data, &members); err != nil {
		return header{}, refuse(Malformed, "header", "%s", brief(err.Error()))
	}
	for _, name := range []string{"alg", "typ", "kid"} {
		if _, ok := members[name].(string); !ok {
			return header{}, refuse(Malformed, "header", "%s is not a text", name)
		}
	}
	if len(members) != 3 {
		return header{}, refuse(Malformed, "header", "%d members; want alg, typ and kid", len(members))
	}
	h := header{Algorithm: members["alg"].(string), Type: members["typ"].(string), KeyID: members["kid"].(string)}
	if h.Algorithm != string(jose.EdDSA) {
		return header{}, refuse(Algorithm, "alg", "%q; want %s", brief(h.Algorithm), jose.EdDSA)
	}
	if h.Type != TokenType {
		return header{}, refuse(Malformed, "typ", "%q; want %s", brief(h.Type), TokenType)
	}
	return h, nil
}

// parseBody reads claims. Duplicate names are refused by the decoder, which also
// tells upper from lower case; claims it does not know are passed over, so that
// later versions can add some.
func parseBody(data []byte) (body, error) {
	if !utf8.Valid(data) {
		return body{}, refuse(Malformed, "claims", "not UTF-8")
	}
	var b body
	if err := json.Unmarshal(data, &b); err != nil {
		return body{}, refuse(Malformed, "claims", "%s", brief(err.Error()))
	}
	if err := b.check(); err != nil {
		return body{}, wrongClaim(err)
	}
	return b, nil
}

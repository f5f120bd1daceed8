package access

import (
	"context"
	"errors"
	"fmt"
	"math"
	"slices"
	"strings"
	"time"

	"github.com/go-jose/go-jose/v4"
	"github.com/go-jose/go-jose/v4/jwt"

	"github.com/omnirelay/leadership/core"
)

// Bounds of a bearer token.
const (
	// MaxBearer is the most bytes of a token.
	MaxBearer = 8 << 10
	// Leeway is how far clocks may be apart when a token's times are judged.
	Leeway = 30 * time.Second
	// maxSubject bounds sub, which names the caller in audit records.
	maxSubject = 128
	maxGrants  = 64
	// lastSecond is the last one of year 9999: a later one was not meant.
	lastSecond = 253402300799
)

// algorithms are those that verify with a public key and that we trust. None of them
// can be mistaken for another: every key has one.
var algorithms = []jose.SignatureAlgorithm{jose.EdDSA, jose.ES256, jose.RS256}

// tokenTypes are those of access tokens. A signed leadership token is of another and
// says who leads, not who calls.
var tokenTypes = []string{"", "jwt", "at+jwt", "application/at+jwt"}

// bearerRules say which tokens are believed.
type bearerRules struct {
	keys     keySource
	cluster  string
	issuer   string // empty: any
	audience string
	now      func() time.Time
}

// claims is what a token says. What is under other names does not concern us.
type claims struct {
	jwt.Claims
	Roles  []string         `json:"roles"`
	Member string           `json:"member"`
	Grants []map[string]any `json:"grants"`
}

// bearerOf takes the token out of the header's values. Empty: there is none.
func bearerOf(values []string) (string, error) {
	if len(values) == 0 {
		return "", nil
	}
	if len(values) > 1 {
		return "", fmt.Errorf("the authorization header was given %d times; want it once", len(values))
	}
	scheme, token, _ := strings.Cut(values[0], " ")
	switch {
	case !strings.EqualFold(scheme, "Bearer"):
		return "", errors.New("the authorization header has another scheme; want Bearer and a JSON Web Token")
	case len(token) > MaxBearer:
		return "", fmt.Errorf("the bearer token has %d bytes; at most %d are read", len(token), MaxBearer)
	case token == "" || strings.Trim(token, " ") != token:
		return "", errors.New("the authorization header is malformed; want Bearer, one space and a JSON Web Token")
	}
	return token, nil
}

// caller verifies a token and says who shows it.
func (b *bearerRules) caller(ctx context.Context, text string) (Caller, error) {
	token, err := jwt.ParseSigned(text, algorithms)
	if err != nil || len(token.Headers) != 1 {
		return Caller{}, errors.New("the bearer token is no JSON Web Token signed by EdDSA, ES256 or RS256")
	}
	header := token.Headers[0]
	if err := checkHeader(header); err != nil {
		return Caller{}, err
	}
	for _, key := range b.keys.find(ctx, header.KeyID, header.Algorithm) {
		var c claims
		switch err := token.Claims(key.key, &c); {
		case err == nil:
			return b.believe(&c)
		case !errors.Is(err, jose.ErrCryptoFailure):
			return Caller{}, errors.New("the claims of the bearer token do not have the types they should")
		}
	}
	return Caller{}, fmt.Errorf("no known key has signed the bearer token (%s, kid %q)", header.Algorithm, clip(header.KeyID))
}

// checkHeader refuses tokens of another purpose, and those that want to be read in a
// way of their own.
func checkHeader(header jose.Header) error {
	kind, typed := header.ExtraHeaders[jose.HeaderType]
	text, isText := kind.(string)
	if typed && !isText || !slices.Contains(tokenTypes, strings.ToLower(text)) {
		return fmt.Errorf("the bearer token is of type %q; want JWT or at+jwt", clip(fmt.Sprint(kind)))
	}
	for _, name := range []jose.HeaderKey{"crit", "b64"} {
		if _, there := header.ExtraHeaders[name]; there {
			return fmt.Errorf("the bearer token has the header %s; want none", name)
		}
	}
	return nil
}

// believe judges claims whose signature is good.
func (b *bearerRules) believe(c *claims) (Caller, error) {
	if err := b.judge(c); err != nil {
		return Caller{}, fmt.Errorf("the bearer token: %w", err)
	}
	caller := Caller{
		Name: "bearer/" + c.Subject, Cluster: b.cluster,
		Key: "bearer/" + c.Issuer + "\x00" + c.Subject, Expires: c.Expiry.Time().Add(Leeway),
	}
	for _, r := range c.Roles {
		caller.Role = higher(caller.Role, Role(r)) // roles of other services count for nothing
	}
	if !slices.Contains(c.Roles, string(RoleMember)) {
		return caller, nil // member and grants are the member's
	}
	if err := core.CheckMemberID("member", c.Member); err != nil {
		return Caller{}, fmt.Errorf("the bearer token has %s, but %s", RoleMember, plain(err))
	}
	grants, err := claimedGrants(c.Grants)
	if err != nil {
		return Caller{}, fmt.Errorf("the bearer token: %w", err)
	}
	caller.Member, caller.Grants = c.Member, grants
	return caller, nil
}

// judge checks for whom the token is, from whom, and when.
func (b *bearerRules) judge(c *claims) error {
	switch {
	case !c.Audience.Contains(b.audience):
		return fmt.Errorf("aud: it is for others; want %q among them", b.audience)
	case b.issuer != "" && c.Issuer != b.issuer:
		return fmt.Errorf("iss: %q; want %q", clip(c.Issuer), b.issuer)
	case c.Subject == "" || len(c.Subject) > maxSubject || printable(c.Subject) != c.Subject:
		return fmt.Errorf("sub: want 1 to %d bytes of printable text", maxSubject)
	case c.Expiry == nil:
		return errors.New("exp: is missing; a token must end")
	}
	for _, t := range []*jwt.NumericDate{c.Expiry, c.NotBefore, c.IssuedAt} {
		if t != nil && (*t < 0 || *t > lastSecond) {
			return errors.New("exp, nbf or iat: is no time between 1970 and 9999")
		}
	}
	switch now := b.now(); {
	case now.Add(-Leeway).After(c.Expiry.Time()):
		return fmt.Errorf("exp: it ended at %s", c.Expiry.Time().UTC().Format(time.RFC3339))
	case c.NotBefore != nil && now.Add(Leeway).Before(c.NotBefore.Time()):
		return fmt.Errorf("nbf: it does not begin before %s", c.NotBefore.Time().UTC().Format(time.RFC3339))
	case c.IssuedAt != nil && now.Add(Leeway).Before(c.IssuedAt.Time()):
		return errors.New("iat: it was issued in the future; compare the clocks")
	}
	return nil
}

// claimedGrants reads the claim grants: objects with id, kind, namespace, labels and
// maxPriority. A condition that we do not know, or that is empty, refuses the token:
// without it the grant would cover more than was meant.
func claimedGrants(raw []map[string]any) ([]Grant, error) {
	if len(raw) > maxGrants {
		return nil, fmt.Errorf("grants: %d; at most %d are read", len(raw), maxGrants)
	}
	grants := make([]Grant, 0, len(raw))
	for i, members := range raw {
		g, err := claimedGrant(members)
		if err != nil {
			return nil, fmt.Errorf("grants[%d]: %w", i, err)
		}
		grants = append(grants, g)
	}
	return grants, nil
}

func claimedGrant(members map[string]any) (g Grant, err error) {
	for name, value := range members {
		var ok bool
		switch name {
		case "id":
			g.ID, ok = condition(value)
		case "kind":
			g.Kind, ok = condition(value)
		case "namespace":
			g.Namespace, ok = condition(value)
		case "labels":
			g.Labels, ok = claimedLabels(value)
		case "maxPriority":
			g.MaxPriority, ok = claimedPriority(value)
		default:
			return Grant{}, fmt.Errorf("%q is unknown; want id, kind, namespace, labels, maxPriority", clip(name))
		}
		if !ok {
			return Grant{}, fmt.Errorf("%s: has the wrong type, or is empty", name)
		}
	}
	return g, g.check()
}

func condition(value any) (string, bool) {
	text, ok := value.(string)
	return text, ok && text != ""
}

func claimedLabels(value any) (map[string]string, bool) {
	members, ok := value.(map[string]any)
	if !ok || len(members) == 0 {
		return nil, false
	}
	labels := make(map[string]string, len(members))
	for name, v := range members {
		if labels[name], ok = v.(string); !ok {
			return nil, false
		}
	}
	return labels, true
}

func claimedPriority(value any) (int32, bool) {
	n, ok := value.(float64)
	if !ok || n != math.Trunc(n) || n < -core.MaxPriority || n > core.MaxPriority {
		return 0, false
	}
	return int32(n), true
}

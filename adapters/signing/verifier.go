package signing

import (
	"context"
	"crypto/ed25519"
	"errors"
	"fmt"
	"time"

	"github.com/go-jose/go-jose/v4"
)

// DefaultLeeway is how far the clocks of signer and verifier may be apart.
const DefaultLeeway = 30 * time.Second

// maxLeeway keeps a token from outliving its key.
const maxLeeway = 10 * time.Minute

// Keys finds the public key of the given name. It returns a *TokenError with
// UnknownKey or NoKeys when it has none.
type Keys interface {
	Key(ctx context.Context, kid string) (ed25519.PublicKey, error)
}

// VerifierOptions say whose tokens a Verifier accepts.
type VerifierOptions struct {
	Cluster string           // the one accepted issuer
	Keys    Keys             // *PublicKeys, *FileKeys or *URLKeys
	Leeway  time.Duration    // allowed difference of clocks, up to 10 minutes; 0: DefaultLeeway
	Now     func() time.Time // wall clock; nil: time.Now
}

// Verifier checks tokens against published keys, without asking the registry. A
// token that passes tells who was given which fence; that the fence is still the
// highest is the guard's to say. Safe for concurrent use.
type Verifier struct {
	cluster string
	keys    Keys
	leeway  time.Duration
	now     func() time.Time
}

// NewVerifier returns a verifier of one cluster's tokens.
func NewVerifier(o VerifierOptions) (*Verifier, error) {
	if o.Cluster == "" {
		return nil, errors.New("no cluster id: a token of any cluster would be accepted")
	}
	if o.Keys == nil {
		return nil, errors.New("no keys to verify with")
	}
	if o.Leeway == 0 {
		o.Leeway = DefaultLeeway
	}
	if o.Leeway < 0 || o.Leeway > maxLeeway {
		return nil, fmt.Errorf("a leeway of %v; want at most %v", o.Leeway, maxLeeway)
	}
	if o.Now == nil {
		o.Now = time.Now
	}
	return &Verifier{cluster: o.Cluster, keys: o.Keys, leeway: o.Leeway, now: o.Now}, nil
}

// Verify returns what a token says if the cluster's registry signed it and it is
// valid now, and a *TokenError otherwise. ctx bounds the wait for keys that are not
// at hand; with those that are, nothing waits.
func (v *Verifier) Verify(ctx context.Context, token string) (Claims, error) {
	head, err := split(token)
	if err != nil {
		return Claims{}, err
	}
	h, err := parseHeader(head)
	if err != nil {
		return Claims{}, err
	}
	key, err := v.keys.Key(ctx, h.KeyID)
	if err != nil {
		return Claims{}, err
	}
	payload, err := open(token, key)
	if err != nil {
		return Claims{}, refuse(Signature, "", "forged or altered: key %s did not sign it: %s", brief(h.KeyID), brief(err.Error()))
	}
	b, err := parseBody(payload)
	if err != nil {
		return Claims{}, err
	}
	if err := v.judge(b); err != nil {
		return Claims{}, err
	}
	return b.claims(), nil
}

// open returns the payload that key signed.
func open(token string, key ed25519.PublicKey) ([]byte, error) {
	signed, err := jose.ParseSignedCompact(token, []jose.SignatureAlgorithm{jose.EdDSA})
	if err != nil {
		return nil, err
	}
	return signed.Verify(key)
}

// judge holds what a genuine token says against the verifier's cluster and clock.
func (v *Verifier) judge(b body) error {
	if b.Issuer != v.cluster {
		return refuse(Foreign, "iss", "%q; want %q", brief(b.Issuer), v.cluster)
	}
	now, leeway := v.now().Unix(), int64(v.leeway/time.Second)
	if b.Expires <= now-leeway {
		return refuse(Expired, "exp", "ended %v ago; ask the registry for a fresh one", time.Duration(now-b.Expires)*time.Second)
	}
	if from := max(b.IssuedAt, b.NotBefore); from > now+leeway {
		return refuse(NotYetValid, "iat", "valid only in %d s; compare the clocks of registry and resource", from-now)
	}
	if life := b.Expires - b.IssuedAt; life > int64(MaxLife/time.Second) {
		return refuse(WrongClaims, "exp", "a life of %d s; at most %v is allowed", life, MaxLife)
	}
	return nil
}

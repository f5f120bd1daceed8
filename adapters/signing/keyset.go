package signing

import (
	"bytes"
	"crypto"
	"crypto/ed25519"
	"crypto/rand"
	"encoding/base64"
	"errors"
	"fmt"
	"slices"
	"time"

	"github.com/go-jose/go-jose/v4"
	"github.com/go-jose/go-jose/v4/json"
)

const (
	// MaxKeys bounds the keys of one set, private or published.
	MaxKeys = 16
	// MaxKeySetBytes bounds an encoded key set.
	MaxKeySetBytes = 64 << 10
)

// KeySet is the private side: the first key signs, all are published. A key is
// added long before it signs, so that resources have learned it, and stays long
// after, so that what it signed can still be checked. Not safe for concurrent use.
type KeySet struct {
	keys []Key
}

// Key is one key of a set.
type Key struct {
	ID      string    // RFC 7638 thumbprint, base64url
	Created time.Time // zero: not known
	Retired time.Time // when it ceased to sign; zero: it has not, or never signed
	private ed25519.PrivateKey
}

// NewKeySet returns a set of two new keys: one that signs, and the next one, which
// resources learn meanwhile.
func NewKeySet(now time.Time) (*KeySet, error) {
	s := &KeySet{}
	for range 2 {
		if _, err := s.Add(now); err != nil {
			return nil, err
		}
	}
	return s, nil
}

// Keys lists the keys, the signing one first.
func (s *KeySet) Keys() []Key { return slices.Clone(s.keys) }

// Add publishes a new key, which does not sign before it is promoted, and returns
// its id.
func (s *KeySet) Add(now time.Time) (string, error) {
	if len(s.keys) >= MaxKeys {
		return "", fmt.Errorf("the set holds %d keys already; drop retired ones first", len(s.keys))
	}
	_, private, err := ed25519.GenerateKey(rand.Reader)
	if err != nil {
		return "", err
	}
	id, err := thumbprint(private.Public().(ed25519.PublicKey))
	if err != nil {
		return "", err
	}
	s.keys = append(s.keys, Key{ID: id, Created: now, private: private})
	return id, nil
}

// Next is the oldest key that has not signed yet, "" when there is none.
func (s *KeySet) Next() string {
	for _, k := range s.keys[1:] {
		if k.Retired.IsZero() {
			return k.ID
		}
	}
	return ""
}

// Promote makes the key sign from now on. It refuses one that has been published
// for less than the given time: resources that refresh their copy of the keys more
// seldom would refuse what it signs.
func (s *KeySet) Promote(id string, now time.Time, published time.Duration) error {
	i := s.find(id)
	switch {
	case i < 0:
		return fmt.Errorf("no key %s in the set", id)
	case i == 0:
		return fmt.Errorf("key %s signs already", id)
	case !s.keys[i].Retired.IsZero():
		return fmt.Errorf("key %s has signed before; promote one that has not", id)
	}
	if age := now.Sub(s.keys[i].Created); age < published {
		return fmt.Errorf("key %s has been published for %v, want %v, or resources may not know it yet; wait until %s",
			id, age.Round(time.Second), published, s.keys[i].Created.Add(published).UTC().Format(time.RFC3339))
	}
	next := s.keys[i]
	s.keys[0].Retired = now
	s.keys = slices.Insert(slices.Delete(s.keys, i, i+1), 0, next)
	return nil
}

// Drop removes one key that does not sign: what it signed is refused from then on.
func (s *KeySet) Drop(id string) error {
	switch i := s.find(id); {
	case i < 0:
		return fmt.Errorf("no key %s in the set", id)
	case i == 0:
		return fmt.Errorf("key %s signs; promote another one first", id)
	default:
		s.keys = slices.Delete(s.keys, i, i+1)
		return nil
	}
}

// DropRetired removes the keys that ceased to sign at or before the given time and
// returns their ids.
func (s *KeySet) DropRetired(before time.Time) []string {
	var dropped []string
	for _, k := range s.Keys() {
		if !k.Retired.IsZero() && !k.Retired.After(before) && s.Drop(k.ID) == nil {
			dropped = append(dropped, k.ID)
		}
	}
	return dropped
}

func (s *KeySet) find(id string) int {
	return slices.IndexFunc(s.keys, func(k Key) bool { return k.ID == id })
}

// Public is what may be published: no private part.
func (s *KeySet) Public() jose.JSONWebKeySet {
	var out jose.JSONWebKeySet
	for _, k := range s.keys {
		out.Keys = append(out.Keys, jose.JSONWebKey{Key: k.private.Public().(ed25519.PublicKey),
			KeyID: k.ID, Algorithm: string(jose.EdDSA), Use: "sig"})
	}
	return out
}

// thumbprint names a key by its RFC 7638 hash.
func thumbprint(public ed25519.PublicKey) (string, error) {
	sum, err := (&jose.JSONWebKey{Key: public}).Thumbprint(crypto.SHA256)
	if err != nil {
		return "", err
	}
	return base64.RawURLEncoding.EncodeToString(sum), nil
}

// keyFile is the JSON of a private set: JWKs with the times that rotation needs.
// iat is the one of OpenID Federation; retired is ours.
type keyFile struct {
	Keys []keyEntry `json:"keys"`
}

type keyEntry struct {
	Type      string `json:"kty"`
	Curve     string `json:"crv"`
	Public    string `json:"x"`
	Private   string `json:"d"`
	ID        string `json:"kid,omitempty"`
	Use       string `json:"use,omitempty"`
	Algorithm string `json:"alg,omitempty"`
	Created   int64  `json:"iat,omitempty"`
	Retired   int64  `json:"retired,omitempty"`
}

// ParseKeySet reads a private JWK Set. Errors name the key by its place and member,
// never by its content.
func ParseKeySet(data []byte) (*KeySet, error) {
	if len(data) > MaxKeySetBytes {
		return nil, fmt.Errorf("%d bytes; a key set has at most %d", len(data), MaxKeySetBytes)
	}
	var file keyFile
	if err := json.Unmarshal(data, &file); err != nil {
		return nil, fmt.Errorf("not a JWK Set: %s", brief(err.Error()))
	}
	if len(file.Keys) == 0 {
		return nil, errors.New("keys: none; want at least one, the one that signs")
	}
	if len(file.Keys) > MaxKeys {
		return nil, fmt.Errorf("keys: %d; at most %d are allowed", len(file.Keys), MaxKeys)
	}
	s := &KeySet{}
	for i, entry := range file.Keys {
		key, err := entry.key()
		if err != nil {
			return nil, fmt.Errorf("keys[%d].%w", i, err)
		}
		if s.find(key.ID) >= 0 {
			return nil, fmt.Errorf("keys[%d].x: the same key a second time", i)
		}
		s.keys = append(s.keys, key)
	}
	if !s.keys[0].Retired.IsZero() {
		return nil, errors.New("keys[0].retired: the first key signs, so it is not retired")
	}
	return s, nil
}

func (e keyEntry) key() (Key, error) {
	if e.Type != "OKP" || e.Curve != "Ed25519" {
		return Key{}, fmt.Errorf("kty: %q with crv %q; want OKP with Ed25519", brief(e.Type), brief(e.Curve))
	}
	if e.Use != "" && e.Use != "sig" {
		return Key{}, fmt.Errorf("use: %q; want sig", brief(e.Use))
	}
	if e.Algorithm != "" && e.Algorithm != string(jose.EdDSA) {
		return Key{}, fmt.Errorf("alg: %q; want %s", brief(e.Algorithm), jose.EdDSA)
	}
	if e.Created < 0 || e.Created >= maxNumber || e.Retired < 0 || e.Retired >= maxNumber {
		return Key{}, errors.New("iat: want seconds since 1970, and so for retired")
	}
	seed, err := base64.RawURLEncoding.Strict().DecodeString(e.Private)
	if err != nil || len(seed) != ed25519.SeedSize {
		return Key{}, fmt.Errorf("d: want the private key, %d bytes in base64url", ed25519.SeedSize)
	}
	key := Key{private: ed25519.NewKeyFromSeed(seed), Created: fromUnix(e.Created), Retired: fromUnix(e.Retired)}
	public := key.private.Public().(ed25519.PublicKey)
	if x, err := base64.RawURLEncoding.Strict().DecodeString(e.Public); err != nil || !bytes.Equal(x, public) {
		return Key{}, errors.New("x: not the public key of d")
	}
	if key.ID, err = thumbprint(public); err != nil {
		return Key{}, err
	}
	if e.ID != "" && e.ID != key.ID {
		return Key{}, fmt.Errorf("kid: want the RFC 7638 thumbprint, %s", key.ID)
	}
	return key, nil
}

// JSON encodes the set with its private keys: for a file of mode 0600 and nothing
// else.
func (s *KeySet) JSON() ([]byte, error) {
	var file keyFile
	for _, k := range s.keys {
		file.Keys = append(file.Keys, keyEntry{Type: "OKP", Curve: "Ed25519", ID: k.ID, Use: "sig", Algorithm: string(jose.EdDSA),
			Public:  base64.RawURLEncoding.EncodeToString(k.private.Public().(ed25519.PublicKey)),
			Private: base64.RawURLEncoding.EncodeToString(k.private.Seed()),
			Created: toUnix(k.Created), Retired: toUnix(k.Retired)})
	}
	data, err := json.MarshalIndent(file, "", "  ")
	if err != nil {
		return nil, err
	}
	return append(data, '\n'), nil
}

func fromUnix(s int64) time.Time {
	if s == 0 {
		return time.Time{}
	}
	return time.Unix(s, 0)
}

func toUnix(t time.Time) int64 {
	if t.IsZero() {
		return 0
	}
	return t.Unix()
}

package access

import (
	"crypto/ecdsa"
	"crypto/ed25519"
	"crypto/elliptic"
	"crypto/rsa"
	"errors"
	"fmt"

	"github.com/go-jose/go-jose/v4"
	"github.com/go-jose/go-jose/v4/json"
)

// Bounds of a set of keys.
const (
	maxKeySetBytes = 256 << 10
	maxKeys        = 64
	maxKeyID       = 256 // bytes
	minRSABits     = 2048
	maxRSABits     = 8192
)

// keySet is the keys that bearer tokens are verified with.
type keySet struct{ keys []verifyKey }

// verifyKey is a public key and the one algorithm it is used with.
type verifyKey struct {
	id        string
	algorithm jose.SignatureAlgorithm
	key       any
}

// parseKeySet reads a JSON Web Key Set (RFC 7517). Keys of kinds we do not verify
// with are left out, as the RFC wants; a secret one among them refuses the whole set:
// whoever wrote it published it.
func parseKeySet(data []byte) (*keySet, error) {
	if len(data) > maxKeySetBytes {
		return nil, fmt.Errorf("has more than %d bytes", maxKeySetBytes)
	}
	var raw struct {
		Keys []json.RawMessage `json:"keys"`
	}
	if err := json.Unmarshal(data, &raw); err != nil {
		return nil, fmt.Errorf("is no JSON Web Key Set: %w", err)
	}
	if len(raw.Keys) > maxKeys {
		return nil, fmt.Errorf("has %d keys; at most %d are read", len(raw.Keys), maxKeys)
	}
	set := &keySet{}
	for i, text := range raw.Keys {
		if err := refuseSecret(text); err != nil {
			return nil, fmt.Errorf("key %d: %w", i, err)
		}
		var jwk jose.JSONWebKey
		if jwk.UnmarshalJSON(text) != nil {
			continue // of a kind that we do not know
		}
		if k, ok := verifying(&jwk); ok {
			set.keys = append(set.keys, k)
		}
	}
	if len(set.keys) == 0 {
		return nil, errors.New("has no key to verify EdDSA, ES256 or RS256 with")
	}
	return set, nil
}

// refuseSecret looks for the members of a key that only its owner may have.
func refuseSecret(text []byte) error {
	var members map[string]json.RawMessage
	if err := json.Unmarshal(text, &members); err != nil {
		return fmt.Errorf("is no JSON object: %w", err)
	}
	for _, name := range []string{"d", "p", "q", "dp", "dq", "qi", "oth", "k", "priv"} {
		if _, secret := members[name]; secret {
			return errors.New("is a private or symmetric key; publish public keys only")
		}
	}
	return nil
}

// verifying says what a key verifies, if we use it.
func verifying(jwk *jose.JSONWebKey) (verifyKey, bool) {
	k := verifyKey{id: jwk.KeyID, key: jwk.Key}
	switch key := jwk.Key.(type) {
	case ed25519.PublicKey:
		k.algorithm = jose.EdDSA
	case *ecdsa.PublicKey:
		if key.Curve != elliptic.P256() {
			return k, false
		}
		k.algorithm = jose.ES256
	case *rsa.PublicKey:
		if bits := key.N.BitLen(); bits < minRSABits || bits > maxRSABits {
			return k, false
		}
		k.algorithm = jose.RS256
	default:
		return k, false
	}
	wrongUse := jwk.Use != "" && jwk.Use != "sig"
	wrongAlgorithm := jwk.Algorithm != "" && jwk.Algorithm != string(k.algorithm)
	return k, jwk.Valid() && !wrongUse && !wrongAlgorithm && len(k.id) <= maxKeyID
}

// find returns the keys that a token with this header may be signed by: those of that
// id, or without an id the only one there is. The algorithm must be the key's own.
func (s *keySet) find(id string, algorithm string) (found []verifyKey) {
	if s == nil || (id == "" && len(s.keys) != 1) {
		return nil
	}
	for _, k := range s.keys {
		if (id == "" || k.id == id) && string(k.algorithm) == algorithm {
			found = append(found, k)
		}
	}
	return found
}

package signing

import (
	"context"
	"crypto/ed25519"
	"errors"
	"fmt"
	"log/slog"
	"os"
	"time"

	"github.com/go-jose/go-jose/v4"
	"github.com/go-jose/go-jose/v4/json"
)

// PublicKeys are published keys by name. They never change.
type PublicKeys struct {
	keys map[string]ed25519.PublicKey
}

// ParseKeys reads a published JWK Set. Keys of other types are passed over; one with
// a private part is refused, since it is one no longer.
func ParseKeys(jwks []byte) (*PublicKeys, error) {
	if len(jwks) > MaxKeySetBytes {
		return nil, fmt.Errorf("%d bytes; a key set has at most %d", len(jwks), MaxKeySetBytes)
	}
	var set struct {
		Keys []json.RawMessage `json:"keys"`
	}
	if err := json.Unmarshal(jwks, &set); err != nil {
		return nil, fmt.Errorf("not a JWK Set: %s", brief(err.Error()))
	}
	if len(set.Keys) > MaxKeys {
		return nil, fmt.Errorf("keys: %d; at most %d are allowed", len(set.Keys), MaxKeys)
	}
	p := &PublicKeys{keys: make(map[string]ed25519.PublicKey, len(set.Keys))}
	for i, data := range set.Keys {
		if err := p.add(data); err != nil {
			return nil, fmt.Errorf("keys[%d]: %w", i, err)
		}
	}
	if len(p.keys) == 0 {
		return nil, errors.New("keys: none of type OKP with Ed25519")
	}
	return p, nil
}

func (p *PublicKeys) add(data []byte) error {
	var key jose.JSONWebKey
	if err := json.Unmarshal(data, &key); errors.Is(err, jose.ErrUnsupportedKeyType) {
		return nil
	} else if err != nil {
		return errors.New(brief(err.Error()))
	}
	if !key.IsPublic() {
		return errors.New("holds a private or secret part; publish what omnirelay keys public prints")
	}
	public, ok := key.Key.(ed25519.PublicKey)
	if !ok || len(public) != ed25519.PublicKeySize || key.Use != "" && key.Use != "sig" {
		return nil
	}
	id, err := thumbprint(public)
	if err != nil {
		return err
	}
	if key.KeyID != "" && key.KeyID != id {
		return fmt.Errorf("kid: want the RFC 7638 thumbprint, %s", id)
	}
	p.keys[id] = public
	return nil
}

// Key finds a key by name.
func (p *PublicKeys) Key(_ context.Context, kid string) (ed25519.PublicKey, error) {
	if key, ok := p.keys[kid]; ok {
		return key, nil
	}
	return nil, unknownKey(kid)
}

func unknownKey(kid string) error {
	return refuse(UnknownKey, "kid", "%q is not among the published keys", brief(kid))
}

// FileKeys are published keys in a file that is read again when it changes.
type FileKeys struct {
	file *watched[*PublicKeys]
}

// OpenKeysFile reads the file. It fails when that cannot be used now; a file that
// becomes unusable later leaves the last good keys in force and is logged. A nil
// logger is silent.
func OpenKeysFile(path string, logger *slog.Logger) (*FileKeys, error) {
	return openKeysFile(path, logger, time.Now)
}

func openKeysFile(path string, logger *slog.Logger, now func() time.Time) (*FileKeys, error) {
	file, err := watch(path, readPublicKeys, logger, now)
	if err != nil {
		return nil, fmt.Errorf("published keys: %w", err)
	}
	return &FileKeys{file: file}, nil
}

func readPublicKeys(path string) (*PublicKeys, error) {
	f, err := os.Open(path)
	if err != nil {
		return nil, err
	}
	defer f.Close()
	data, err := readLimited(f)
	if err != nil {
		return nil, fmt.Errorf("%s: %w", path, err)
	}
	keys, err := ParseKeys(data)
	if err != nil {
		return nil, fmt.Errorf("%s: %w", path, err)
	}
	return keys, nil
}

// Key finds a key by name, in the file as it was within the last second.
func (f *FileKeys) Key(ctx context.Context, kid string) (ed25519.PublicKey, error) {
	return f.file.get().Key(ctx, kid)
}

package signing

import (
	"errors"
	"fmt"
	"log/slog"
	"time"

	"github.com/go-jose/go-jose/v4"
	"github.com/go-jose/go-jose/v4/json"
)

// Bounds of a token's life. A leader asks for a fresh token when half of it is over.
const (
	DefaultLife = time.Hour
	MinLife     = time.Minute
	MaxLife     = 24 * time.Hour
)

// SignerOptions say with what a Signer signs.
type SignerOptions struct {
	File    string           // private JWK Set, mode 0600; re-read when it changes
	Cluster string           // the issuer
	Life    time.Duration    // of a token, MinLife to MaxLife in whole seconds; 0: DefaultLife
	Logger  *slog.Logger     // nil: silent
	Now     func() time.Time // wall clock; nil: time.Now
}

// Signer signs tokens with the first key of a file. Safe for concurrent use.
type Signer struct {
	cluster string
	life    time.Duration
	now     func() time.Time
	file    *watched[*signingKeys]
}

// signingKeys are a key file made ready for use; never changed.
type signingKeys struct {
	signer jose.Signer
	public jose.JSONWebKeySet
	json   []byte // of public
}

// OpenSigner reads the key file. It fails when that cannot be used now; a file that
// becomes unusable later leaves the last good keys in force and is logged.
func OpenSigner(o SignerOptions) (*Signer, error) {
	if o.Life == 0 {
		o.Life = DefaultLife
	}
	if o.Life < MinLife || o.Life > MaxLife || o.Life%time.Second != 0 {
		return nil, fmt.Errorf("a token's life of %v; want %v to %v in whole seconds", o.Life, MinLife, MaxLife)
	}
	if o.Cluster == "" {
		return nil, errors.New("no cluster id: it is the issuer of every token")
	}
	if o.Now == nil {
		o.Now = time.Now
	}
	file, err := watch(o.File, readSigningKeys, o.Logger, o.Now)
	if err != nil {
		return nil, fmt.Errorf("signing keys: %w", err)
	}
	return &Signer{cluster: o.Cluster, life: o.Life, now: o.Now, file: file}, nil
}

func readSigningKeys(path string) (*signingKeys, error) {
	set, err := ReadKeyFile(path)
	if err != nil {
		return nil, err
	}
	first := set.keys[0]
	options := (&jose.SignerOptions{}).WithType(TokenType).WithHeader("kid", first.ID)
	signer, err := jose.NewSigner(jose.SigningKey{Algorithm: jose.EdDSA, Key: first.private}, options)
	if err != nil {
		return nil, err
	}
	public := set.Public()
	data, err := json.Marshal(public)
	if err != nil {
		return nil, err
	}
	return &signingKeys{signer: signer, public: public, json: data}, nil
}

// Life is how long a token is valid after it was signed.
func (s *Signer) Life() time.Duration { return s.life }

// Sign makes a token of c, issued by the cluster now and valid for Life. It returns
// a *core.Error when a claim breaks a limit.
func (s *Signer) Sign(c Claims) (token string, err error) {
	c.Cluster, c.IssuedAt = s.cluster, s.now()
	c.Expires = c.IssuedAt.Add(s.life)
	b := c.body()
	if err := b.check(); err != nil {
		return "", err
	}
	payload, err := json.Marshal(b)
	if err != nil {
		return "", err
	}
	signed, err := s.file.get().signer.Sign(payload)
	if err != nil {
		return "", err
	}
	return signed.CompactSerialize()
}

// Public is what resources verify with: all keys of the file, without their private
// parts.
func (s *Signer) Public() jose.JSONWebKeySet {
	public := s.file.get().public
	return jose.JSONWebKeySet{Keys: append([]jose.JSONWebKey(nil), public.Keys...)}
}

// PublicJSON is Public as the body of an answer of ContentType.
func (s *Signer) PublicJSON() []byte { return append([]byte(nil), s.file.get().json...) }

package transport

import (
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/pem"
	"errors"
	"fmt"
	"math/big"
	"net"
	"net/url"
	"os"
	"path/filepath"
	"strings"
	"time"
)

// Validity of what an Authority issues. Long enough for a cluster that is left
// running on a desk, short enough that nobody builds on it.
const (
	AuthorityValidity   = 365 * 24 * time.Hour
	CertificateValidity = 30 * 24 * time.Hour
	// clockSkew is how far behind the issuer's a verifier's clock may be.
	clockSkew = 5 * time.Minute
)

// Authority is a small certificate authority of one cluster, for development and
// tests: its key lies in a file.
type Authority struct {
	cluster string
	cert    *x509.Certificate
	key     *ecdsa.PrivateKey
	pair    Pair
}

// Pair is a certificate and its key, both PEM.
type Pair struct {
	Cert, Key []byte
}

// Request says what a certificate is wanted for.
type Request struct {
	Identity Identity // its Cluster is the authority's
	// Hosts are further host names and IP addresses of a node. Loopback addresses,
	// localhost and the node's own name are always in.
	Hosts []string
	From  time.Time // zero: now
	Until time.Time // zero: CertificateValidity after From
}

// NewAuthority makes an authority for the cluster, good for AuthorityValidity.
func NewAuthority(cluster string) (*Authority, error) {
	return NewAuthorityUntil(cluster, time.Now().Add(AuthorityValidity))
}

// NewAuthorityUntil makes an authority for the cluster that ends then, and with it all
// that it has issued.
func NewAuthorityUntil(cluster string, until time.Time) (*Authority, error) {
	if err := (Identity{Cluster: cluster, Kind: KindNode, Name: "n"}).validate(); err != nil {
		return nil, err
	}
	now := time.Now()
	template := &x509.Certificate{
		Subject:   pkix.Name{CommonName: cluster + " authority"},
		URIs:      []*url.URL{{Scheme: "spiffe", Host: cluster}},
		NotBefore: now.Add(-clockSkew), NotAfter: until,
		KeyUsage: x509.KeyUsageCertSign, BasicConstraintsValid: true, IsCA: true, MaxPathLenZero: true,
	}
	pair, cert, key, err := sign(template, nil, nil)
	if err != nil {
		return nil, err
	}
	return &Authority{cluster: cluster, cert: cert, key: key, pair: pair}, nil
}

// LoadAuthority reads what Save wrote.
func LoadAuthority(certPath, keyPath string) (*Authority, error) {
	certPEM, err := os.ReadFile(certPath)
	if err != nil {
		return nil, err
	}
	keyPEM, err := os.ReadFile(keyPath)
	if err != nil {
		return nil, err
	}
	cert, err := parseCertificate(certPEM)
	if err != nil {
		return nil, fmt.Errorf("%s: %w", certPath, err)
	}
	key, err := parseKey(keyPEM)
	if err != nil {
		return nil, fmt.Errorf("%s: %w", keyPath, err)
	}
	if !cert.IsCA || len(cert.URIs) != 1 || cert.URIs[0].Scheme != "spiffe" {
		return nil, fmt.Errorf("%s: is not a certificate authority of a cluster", certPath)
	}
	if !key.PublicKey.Equal(cert.PublicKey) {
		return nil, fmt.Errorf("%s: is not the key of %s", keyPath, certPath)
	}
	return &Authority{cluster: cert.URIs[0].Host, cert: cert, key: key, pair: Pair{Cert: certPEM, Key: keyPEM}}, nil
}

// Cluster is the cluster whose members the authority vouches for.
func (a *Authority) Cluster() string { return a.cluster }

// Certificate is the authority's own certificate.
func (a *Authority) Certificate() *x509.Certificate { return a.cert }

// CertPEM is the authority's own certificate, which verifiers trust.
func (a *Authority) CertPEM() []byte { return a.pair.Cert }

// KeyPEM is the authority's key, with which anybody can issue.
func (a *Authority) KeyPEM() []byte { return a.pair.Key }

// Save writes the authority's certificate and key; see Pair.Save.
func (a *Authority) Save(certPath, keyPath string) error { return a.pair.Save(certPath, keyPath) }

// IssueNode issues a certificate that a node serves and calls other nodes with.
func (a *Authority) IssueNode(name string, hosts ...string) (Pair, error) {
	return a.Issue(Request{Identity: Identity{Kind: KindNode, Name: name}, Hosts: hosts})
}

// IssueClient issues a certificate that the API admits in a role.
func (a *Authority) IssueClient(role Role) (Pair, error) {
	return a.Issue(Request{Identity: Identity{Kind: KindClient, Name: string(role), Role: role}})
}

// IssueMember issues a certificate that the API admits as the member with this id.
func (a *Authority) IssueMember(id string) (Pair, error) {
	return a.Issue(Request{Identity: Identity{Kind: KindMember, Name: id}})
}

// Issue issues a certificate.
func (a *Authority) Issue(r Request) (Pair, error) {
	id := r.Identity
	id.Cluster = a.cluster
	if err := id.validate(); err != nil {
		return Pair{}, err
	}
	from, until := r.From, r.Until
	if from.IsZero() {
		from = time.Now().Add(-clockSkew)
	}
	if until.IsZero() {
		until = from.Add(CertificateValidity)
	}
	template := &x509.Certificate{
		Subject: pkix.Name{CommonName: commonName(id.Name)}, URIs: []*url.URL{id.uri()},
		NotBefore: from, NotAfter: until, BasicConstraintsValid: true,
		KeyUsage: x509.KeyUsageDigitalSignature, ExtKeyUsage: []x509.ExtKeyUsage{x509.ExtKeyUsageClientAuth},
	}
	if id.Kind == KindNode {
		template.ExtKeyUsage = append(template.ExtKeyUsage, x509.ExtKeyUsageServerAuth)
		addHosts(template, append([]string{"127.0.0.1", "::1", "localhost", id.Name}, r.Hosts...))
	}
	pair, _, _, err := sign(template, a.cert, a.key)
	return pair, err
}

// commonName keeps to the 64 bytes that X.520 allows. Who it is, the URI says.
func commonName(name string) string { return strings.ToValidUTF8(name[:min(len(name), 64)], "") }

func addHosts(template *x509.Certificate, hosts []string) {
	for _, h := range hosts {
		if ip := net.ParseIP(h); ip != nil {
			template.IPAddresses = append(template.IPAddresses, ip)
		} else {
			template.DNSNames = append(template.DNSNames, h)
		}
	}
}

// sign makes a key and a certificate for it; a nil parent signs itself.
func sign(template, parent *x509.Certificate, parentKey *ecdsa.PrivateKey) (Pair, *x509.Certificate, *ecdsa.PrivateKey, error) {
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		return Pair{}, nil, nil, err
	}
	if parent == nil {
		parent, parentKey = template, key
	}
	template.SerialNumber, err = rand.Int(rand.Reader, new(big.Int).Lsh(big.NewInt(1), 127))
	if err != nil {
		return Pair{}, nil, nil, err
	}
	der, err := x509.CreateCertificate(rand.Reader, template, parent, &key.PublicKey, parentKey)
	if err != nil {
		return Pair{}, nil, nil, err
	}
	cert, err := x509.ParseCertificate(der)
	if err != nil {
		return Pair{}, nil, nil, err
	}
	keyDER, err := x509.MarshalPKCS8PrivateKey(key)
	if err != nil {
		return Pair{}, nil, nil, err
	}
	return Pair{
		Cert: pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: der}),
		Key:  pem.EncodeToMemory(&pem.Block{Type: "PRIVATE KEY", Bytes: keyDER}),
	}, cert, key, nil
}

func parseCertificate(data []byte) (*x509.Certificate, error) {
	block, _ := pem.Decode(data)
	if block == nil || block.Type != "CERTIFICATE" {
		return nil, errors.New("holds no PEM certificate")
	}
	return x509.ParseCertificate(block.Bytes)
}

func parseKey(data []byte) (*ecdsa.PrivateKey, error) {
	block, _ := pem.Decode(data)
	if block == nil || block.Type != "PRIVATE KEY" {
		return nil, errors.New("holds no PEM private key")
	}
	key, err := x509.ParsePKCS8PrivateKey(block.Bytes)
	if err != nil {
		return nil, err
	}
	ec, ok := key.(*ecdsa.PrivateKey)
	if !ok {
		return nil, fmt.Errorf("holds a %T, want an ECDSA key", key)
	}
	return ec, nil
}

// Save replaces both files, each atomically, the key readable by its owner only.
// Between the two a reader sees a pair that does not match; Certificates waits for
// the second.
func (p Pair) Save(certPath, keyPath string) error {
	if err := WriteFile(keyPath, p.Key, 0o600); err != nil {
		return err
	}
	return WriteFile(certPath, p.Cert, 0o644)
}

// WriteFile replaces path by data so that a reader, also after a crash, finds the
// old or the new content whole.
func WriteFile(path string, data []byte, mode os.FileMode) (err error) {
	f, err := os.CreateTemp(filepath.Dir(path), "."+filepath.Base(path)+".*")
	if err != nil {
		return err
	}
	defer func() {
		if err != nil {
			_ = f.Close()
			_ = os.Remove(f.Name())
		}
	}()
	if err = f.Chmod(mode); err != nil {
		return err
	}
	if _, err = f.Write(data); err != nil {
		return err
	}
	if err = f.Sync(); err != nil {
		return err
	}
	if err = f.Close(); err != nil {
		return err
	}
	return os.Rename(f.Name(), path)
}

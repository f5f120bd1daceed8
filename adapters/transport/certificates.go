package transport

import (
	"context"
	"crypto/tls"
	"crypto/x509"
	"errors"
	"fmt"
	"log/slog"
	"net"
	"os"
	"sync"
	"sync/atomic"
	"time"

	"google.golang.org/grpc/credentials"
)

// Files names the PEM files a process proves its identity with.
type Files struct {
	CA   string // certificates of the authorities it trusts
	Cert string
	Key  string
}

// Certificates are the current contents of Files. They are looked at again before
// every handshake, so a replaced certificate counts for the next connection;
// connections that stand are left alone. While the files do not fit each other, as
// between the two steps of a replacement, the last good ones stay in force.
type Certificates struct {
	files  Files
	logger *slog.Logger

	mu      sync.Mutex
	seen    stamps // of the files that current was read from
	failed  stamps // of the last files that could not be used; logged once
	current material
}

// stamps tell whether one of the files changed. nil stands for a missing file.
type stamps [3]os.FileInfo

func (s stamps) equal(t stamps) bool {
	for i, a := range s {
		b := t[i]
		if a == nil || b == nil {
			if a != b {
				return false
			}
			continue
		}
		// The file itself too: two replacements may share a tick of the clock.
		if !os.SameFile(a, b) || !a.ModTime().Equal(b.ModTime()) || a.Size() != b.Size() {
			return false
		}
	}
	return true
}

// material is what a handshake needs.
type material struct {
	pair  *tls.Certificate
	roots *x509.CertPool
}

// LoadCertificates reads the files. It fails when they cannot be used now. A nil
// logger discards what goes wrong later.
func LoadCertificates(files Files, logger *slog.Logger) (*Certificates, error) {
	if logger == nil {
		logger = slog.New(slog.DiscardHandler)
	}
	c := &Certificates{files: files, logger: logger}
	seen, err := c.look()
	if err != nil {
		return nil, err
	}
	c.seen = seen
	if c.current, err = read(files); err != nil {
		return nil, err
	}
	return c, nil
}

func read(files Files) (material, error) {
	ca, err := os.ReadFile(files.CA)
	if err != nil {
		return material{}, err
	}
	roots := x509.NewCertPool()
	if !roots.AppendCertsFromPEM(ca) {
		return material{}, fmt.Errorf("%s: holds no PEM certificate", files.CA)
	}
	pair, err := tls.LoadX509KeyPair(files.Cert, files.Key)
	if err != nil {
		return material{}, fmt.Errorf("%s and %s: %w", files.Cert, files.Key, err)
	}
	if _, err := identityOf(pair.Leaf); err != nil {
		return material{}, fmt.Errorf("%s: %w", files.Cert, err)
	}
	return material{pair: &pair, roots: roots}, nil
}

func (c *Certificates) look() (out stamps, err error) {
	for i, path := range [...]string{c.files.CA, c.files.Cert, c.files.Key} {
		info, statErr := os.Stat(path)
		if statErr != nil {
			err = errors.Join(err, statErr)
			continue
		}
		out[i] = info
	}
	return out, err
}

// now returns what is in force, after a look at the files.
func (c *Certificates) now() material {
	c.mu.Lock()
	defer c.mu.Unlock()
	seen, err := c.look()
	if err != nil {
		c.reportOnce(seen, err)
		return c.current
	}
	if seen.equal(c.seen) {
		return c.current
	}
	fresh, err := read(c.files)
	if err != nil {
		c.reportOnce(seen, err)
		return c.current
	}
	c.current, c.seen = fresh, seen
	c.logger.Info("certificates re-read", "cert", c.files.Cert, "notAfter", fresh.pair.Leaf.NotAfter)
	return fresh
}

func (c *Certificates) reportOnce(seen stamps, err error) {
	if !seen.equal(c.failed) {
		c.failed = seen
		c.logger.Warn("certificates cannot be re-read; the last good ones stay in force", "error", err)
	}
}

// Identity is whom the certificate in force names.
func (c *Certificates) Identity() Identity {
	id, err := identityOf(c.now().pair.Leaf)
	if err != nil {
		panic(err) // read checked it
	}
	return id
}

// ClientCertificates says whether a server wants its callers to have one.
type ClientCertificates bool

const (
	// Required refuses a connection without a certificate of a trusted authority.
	Required ClientCertificates = true
	// Optional admits connections without; a certificate that is presented must be
	// good. Every handler must then look at PeerIdentity itself.
	Optional ClientCertificates = false
)

// Server returns settings for a TLS 1.3 listener that offers the protocols in order
// of preference, such as "h2" and "http/1.1".
func (c *Certificates) Server(clients ClientCertificates, protocols ...string) *tls.Config {
	auth := tls.VerifyClientCertIfGiven
	if clients == Required {
		auth = tls.RequireAndVerifyClientCert
	}
	build := func() *tls.Config {
		m := c.now()
		return &tls.Config{
			MinVersion: tls.VersionTLS13, ClientAuth: auth, ClientCAs: m.roots,
			Certificates: []tls.Certificate{*m.pair}, NextProtos: protocols,
			// Every connection proves itself anew: nothing outlives a rotation.
			SessionTicketsDisabled: true,
		}
	}
	config := build()
	config.GetConfigForClient = func(*tls.ClientHelloInfo) (*tls.Config, error) { return build(), nil }
	return config
}

// Client returns settings for calls to nodes of the own cluster, to be used for one
// connection: trust is as it stands now. name is the node that must answer; empty
// for any, which the host name in the address then picks.
func (c *Certificates) Client(name string, protocols ...string) *tls.Config {
	m := c.now()
	cluster := c.Identity().Cluster
	return &tls.Config{
		MinVersion: tls.VersionTLS13, RootCAs: m.roots, ServerName: name, NextProtos: protocols,
		GetClientCertificate: func(*tls.CertificateRequestInfo) (*tls.Certificate, error) { return c.now().pair, nil },
		VerifyConnection: func(state tls.ConnectionState) error {
			id, err := PeerIdentity(state)
			if err != nil {
				return err
			}
			return expectNode(id, cluster, name)
		},
	}
}

// ServerCredentials are for a grpc server that requires certificates. Failed
// handshakes are logged, at most one a second: in TLS 1.3 the refused side often
// learns no more than that the connection broke.
func (c *Certificates) ServerCredentials() credentials.TransportCredentials {
	return &serverCredentials{TransportCredentials: credentials.NewTLS(c.Server(Required, "h2")), logger: c.logger}
}

type serverCredentials struct {
	credentials.TransportCredentials
	logger *slog.Logger
	logged atomic.Int64 // when the last failure was, Unix nanoseconds
}

func (s *serverCredentials) ServerHandshake(conn net.Conn) (net.Conn, credentials.AuthInfo, error) {
	out, info, err := s.TransportCredentials.ServerHandshake(conn)
	if err != nil {
		last, now := s.logged.Load(), time.Now().UnixNano()
		if now-last >= int64(time.Second) && s.logged.CompareAndSwap(last, now) {
			s.logger.Warn("connection refused", "remote", conn.RemoteAddr().String(), "error", err)
		}
	}
	return out, info, err
}

// expectNode refuses whoever is not that node of that cluster. An empty name stands
// for any node.
func expectNode(id Identity, cluster, name string) error {
	switch {
	case id.Kind != KindNode:
		return fmt.Errorf("%s has a client's certificate; only nodes may do this", id)
	case id.Cluster != cluster:
		return fmt.Errorf("%s belongs to cluster %q, this is cluster %q", id, id.Cluster, cluster)
	case name != "" && id.Name != name:
		return fmt.Errorf("%s is here, node/%s was meant", id, name)
	}
	return nil
}

// Credentials are for a grpc client that calls the node with this name, empty for
// any. Unlike Client's settings they serve any number of connections.
func (c *Certificates) Credentials(name string) credentials.TransportCredentials {
	return &nodeCredentials{certificates: c, name: name}
}

// nodeCredentials looks at the certificates before every handshake: a tls.Config
// alone cannot change whom it trusts.
type nodeCredentials struct {
	certificates *Certificates
	name         string
}

func (n *nodeCredentials) ClientHandshake(ctx context.Context, authority string, conn net.Conn) (net.Conn, credentials.AuthInfo, error) {
	return credentials.NewTLS(n.certificates.Client(n.name)).ClientHandshake(ctx, authority, conn)
}

func (n *nodeCredentials) ServerHandshake(net.Conn) (net.Conn, credentials.AuthInfo, error) {
	return nil, nil, errors.New("these credentials are for clients; use Server")
}

func (n *nodeCredentials) Info() credentials.ProtocolInfo {
	return credentials.ProtocolInfo{SecurityProtocol: "tls"}
}

func (n *nodeCredentials) Clone() credentials.TransportCredentials {
	clone := *n
	return &clone
}

// OverrideServerName is not supported: the name is part of the identity expected.
func (n *nodeCredentials) OverrideServerName(string) error {
	return errors.New("the name of the node is fixed")
}

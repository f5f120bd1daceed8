package client

import (
	"context"
	"crypto/tls"
	"crypto/x509"
	"errors"
	"fmt"
	"io"
	"os"
	"slices"
	"sync"

	"google.golang.org/grpc"

	"github.com/omnirelay/leadership/adapters/transport"
)

// Conn is a connection to one node. Close ends it and all its calls.
type Conn interface {
	grpc.ClientConnInterface
	io.Closer
}

// Dialer connects to a node's grpc listener. It need not wait until the connection is
// made: a call that cannot be made fails.
type Dialer func(endpoint string) (Conn, error)

// newDialer connects over HTTP/3 where that works, else HTTP/2.
func newDialer(o *Options) (Dialer, error) {
	proof, err := proofOf(o)
	if err != nil {
		return nil, fmt.Errorf("tls: %w", err)
	}
	return func(endpoint string) (Conn, error) {
		channel := transport.ChannelOptions{Address: endpoint, TLS: proof, Prefer: o.Prefer, MessageBytes: maxMessageBytes, Logger: o.Logger}
		if o.Bearer != nil {
			channel.PerRPC = bearer(o.Bearer)
		}
		return transport.NewChannel(channel)
	}, nil
}

// proofOf returns the settings of one connection, as the files stand then.
func proofOf(o *Options) (func() *tls.Config, error) {
	if o.TLS.Cert == "" && o.TLS.Key == "" {
		if _, err := rootsIn(o.TLS.CA); err != nil {
			return nil, err
		}
		return func() *tls.Config { return trustOnly(o.TLS.CA, o.Cluster) }, nil
	}
	certificates, err := transport.LoadCertificates(o.TLS, o.Logger)
	if err != nil {
		return nil, err
	}
	return func() *tls.Config { return certificates.Client("") }, nil
}

// trustOnly presents no certificate, and wants that of a node. While the file cannot be
// read it trusts nobody.
func trustOnly(ca, cluster string) *tls.Config {
	roots, err := rootsIn(ca)
	return &tls.Config{
		MinVersion: tls.VersionTLS13, RootCAs: roots,
		VerifyConnection: func(state tls.ConnectionState) error {
			id, idErr := transport.PeerIdentity(state)
			switch {
			case err != nil:
				return err
			case idErr != nil:
				return idErr
			case id.Kind != transport.KindNode:
				return fmt.Errorf("%s answered, want a node", id)
			case cluster != "" && id.Cluster != cluster:
				return fmt.Errorf("%s is of cluster %q, want %q", id, id.Cluster, cluster)
			}
			return nil
		},
	}
}

// rootsIn never returns nil: that would stand for the authorities of the system.
func rootsIn(path string) (*x509.CertPool, error) {
	roots := x509.NewCertPool()
	pem, err := os.ReadFile(path)
	if err != nil {
		return roots, fmt.Errorf("the authorities to trust: %w", err)
	}
	if !roots.AppendCertsFromPEM(pem) {
		return roots, fmt.Errorf("%s: holds no PEM certificate", path)
	}
	return roots, nil
}

// bearer sends a token with every call.
type bearer func(ctx context.Context) (string, error)

func (b bearer) GetRequestMetadata(ctx context.Context, _ ...string) (map[string]string, error) {
	token, err := b(ctx)
	if err != nil || token == "" {
		return nil, err
	}
	return map[string]string{"authorization": "Bearer " + token}, nil
}

// RequireTransportSecurity: a token is never sent in the clear.
func (b bearer) RequireTransportSecurity() bool { return true }

// connections are those to the nodes that the options name, kept since each remembers
// which protocol works.
type connections struct {
	dial  Dialer
	keep  []string
	mu    sync.Mutex
	kept  map[string]Conn
	ended bool
}

// to returns a connection, and what to do when it is not needed any more.
func (c *connections) to(address string) (Conn, func(), error) {
	if !slices.Contains(c.keep, address) {
		conn, err := c.dial(address)
		if err != nil {
			return nil, nil, err
		}
		return conn, func() { conn.Close() }, nil
	}
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.ended {
		return nil, nil, ErrClosed
	}
	conn := c.kept[address]
	if conn == nil {
		var err error
		if conn, err = c.dial(address); err != nil {
			return nil, nil, err
		}
		c.kept[address] = conn
	}
	return conn, func() {}, nil
}

func (c *connections) close() error {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.ended = true
	var all []error
	for _, conn := range c.kept {
		all = append(all, conn.Close())
	}
	clear(c.kept)
	return errors.Join(all...)
}

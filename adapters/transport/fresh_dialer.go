package transport

import (
	"context"
	"crypto/tls"
	"net"
)

// freshDialer asks for its settings before every handshake: an http.Transport alone
// cannot change whom it trusts.
type freshDialer struct {
	net    net.Dialer
	config func() *tls.Config
}

func (d *freshDialer) dial(ctx context.Context, network, address string) (net.Conn, error) {
	raw, err := d.net.DialContext(ctx, network, address)
	if err != nil {
		return nil, err
	}
	config := d.config().Clone()
	config.MinVersion = max(config.MinVersion, tls.VersionTLS13)
	config.NextProtos = []string{"h2", "http/1.1"}
	if config.ServerName == "" {
		if host, _, err := net.SplitHostPort(address); err == nil {
			config.ServerName = host
		}
	}
	conn := tls.Client(raw, config)
	if err := conn.HandshakeContext(ctx); err != nil {
		_ = raw.Close()
		return nil, err
	}
	return conn, nil
}

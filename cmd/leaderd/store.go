package main

import (
	"bufio"
	"context"
	"crypto/tls"
	"crypto/x509"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"os"

	"github.com/omnirelay/leadership/adapters/config"
	"github.com/omnirelay/leadership/adapters/etcdlog"
	"github.com/omnirelay/leadership/adapters/host"
	"github.com/omnirelay/leadership/adapters/pglog"
	"github.com/omnirelay/leadership/adapters/redislog"
)

// store is an external store that was opened and found fit.
type store interface {
	host.Store
	Close() error
}

// maxPassword bounds the first line of a passwordFile, in bytes.
const maxPassword = 1024

// openStore opens the configured store, once. Of an error, isUnfit tells whether
// another attempt may help.
func openStore(ctx context.Context, c *config.Config, logger *slog.Logger) (store, error) {
	switch c.Registry.Store {
	case config.StoreEtcd:
		return openEtcd(ctx, c, logger)
	case config.StorePostgres:
		return openPostgres(ctx, c, logger)
	case config.StoreRedis:
		return openRedis(ctx, c, logger)
	}
	return nil, unfit(fmt.Errorf("registry.store: %s is not built into this leaderd", c.Registry.Store))
}

func openEtcd(ctx context.Context, c *config.Config, logger *slog.Logger) (store, error) {
	e := c.Registry.Etcd
	password, err := readPassword(e.PasswordFile)
	if err != nil {
		return nil, unfit(fmt.Errorf("registry.etcd.passwordFile: %w", err))
	}
	t, err := storeTLS(e.TLS)
	if err != nil {
		return nil, unfit(fmt.Errorf("registry.etcd.tls: %w", err))
	}
	s, err := etcdlog.Open(ctx, etcdlog.Options{
		Endpoints: e.Endpoints, Prefix: e.Prefix, Username: e.Username, Password: password, TLS: t, ClusterID: c.ClusterID, Logger: logger,
	})
	return opened(s, err)
}

func openPostgres(ctx context.Context, c *config.Config, logger *slog.Logger) (store, error) {
	p := c.Registry.Postgres
	password, err := readPassword(p.PasswordFile)
	if err != nil {
		return nil, unfit(fmt.Errorf("registry.postgres.passwordFile: %w", err))
	}
	s, err := pglog.Open(ctx, pglog.Options{
		URL: p.URL, Password: password, Schema: p.Schema, ClusterID: c.ClusterID, Migrate: true, Logger: logger,
	})
	return opened(s, err)
}

func openRedis(ctx context.Context, c *config.Config, logger *slog.Logger) (store, error) {
	r := c.Registry.Redis
	password, err := readPassword(r.PasswordFile)
	if err != nil {
		return nil, unfit(fmt.Errorf("registry.redis.passwordFile: %w", err))
	}
	t, err := storeTLS(r.TLS)
	if err != nil {
		return nil, unfit(fmt.Errorf("registry.redis.tls: %w", err))
	}
	s, err := redislog.Open(ctx, redislog.Options{
		Address: r.Address, Username: r.Username, Password: password, DB: r.DB, Prefix: r.Prefix, TLS: t, ClusterID: c.ClusterID, Logger: logger,
	})
	return opened(s, err)
}

// opened keeps a nil pointer from being a store.
func opened[S store](s S, err error) (store, error) {
	if err != nil {
		return nil, err
	}
	return s, nil
}

// unfitError is a reason for which another attempt cannot help.
type unfitError struct{ error }

func (e unfitError) Unwrap() error { return e.error }

// Unfit tells isUnfit.
func (e unfitError) Unfit() bool { return true }

func unfit(err error) error { return unfitError{err} }

// isUnfit reports whether a store that could not be opened must not be used, rather
// than not being there.
func isUnfit(err error) bool {
	var u interface{ Unfit() bool }
	return errors.As(err, &u) && u.Unfit()
}

// readPassword returns the first line of a file; none is named: the empty text. The
// error never holds what the file does.
func readPassword(path string) (string, error) {
	if path == "" {
		return "", nil
	}
	file, err := os.Open(path)
	if err != nil {
		return "", err
	}
	defer file.Close()
	lines := bufio.NewScanner(io.LimitReader(file, 2*maxPassword))
	lines.Scan()
	if err := lines.Err(); err != nil {
		return "", err
	}
	if n := len(lines.Text()); n == 0 || n > maxPassword {
		return "", fmt.Errorf("%s: its first line has %d bytes; write a password of 1 to %d", path, n, maxPassword)
	}
	return lines.Text(), nil
}

// storeTLS is how a server is trusted and we are known to it; nil when nothing is
// written. A replaced certificate of ours counts from the next connection on.
func storeTLS(t config.TLS) (*tls.Config, error) {
	if t == (config.TLS{}) {
		return nil, nil
	}
	c := &tls.Config{MinVersion: tls.VersionTLS12}
	if t.CA != "" {
		authorities, err := os.ReadFile(t.CA)
		if err != nil {
			return nil, err
		}
		c.RootCAs = x509.NewCertPool()
		if !c.RootCAs.AppendCertsFromPEM(authorities) {
			return nil, fmt.Errorf("%s holds no certificate; name a PEM file of the server's authorities", t.CA)
		}
	}
	if t.Cert != "" {
		if _, err := tls.LoadX509KeyPair(t.Cert, t.Key); err != nil {
			return nil, err
		}
		c.GetClientCertificate = func(*tls.CertificateRequestInfo) (*tls.Certificate, error) {
			pair, err := tls.LoadX509KeyPair(t.Cert, t.Key)
			return &pair, err
		}
	}
	return c, nil
}

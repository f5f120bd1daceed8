package main

import (
	"log/slog"

	"github.com/omnirelay/leadership/adapters/access"
	"github.com/omnirelay/leadership/adapters/config"
	"github.com/omnirelay/leadership/adapters/signing"
)

// newGate recognizes callers and counts what they take, as the configuration says.
func newGate(c *config.Config, logger *slog.Logger) (access.Gate, error) {
	authenticator, err := access.New(access.Options{
		Cluster: c.ClusterID, AnonymousRead: c.Access.AnonymousRead, Entries: accessEntries(c), Logger: logger,
		Bearer: access.Bearer{JWKS: c.Access.Bearer.JWKS, CA: c.Access.Bearer.CA, Issuer: c.Access.Bearer.Issuer, Audience: c.Access.Bearer.Audience},
	})
	if err != nil {
		return access.Gate{}, err
	}
	l := c.Limits
	limiter, err := access.NewLimiter(access.Limits{
		RequestsPerSecond: l.RequestsPerSecond, Burst: l.Burst, StreamsPerCaller: l.StreamsPerCaller, SessionsPerMember: l.SessionsPerMember,
	})
	if err != nil {
		authenticator.Close()
		return access.Gate{}, err
	}
	return access.Gate{Authenticator: authenticator, Limiter: limiter}, nil
}

func accessEntries(c *config.Config) []access.Entry {
	entries := make([]access.Entry, 0, len(c.Access.Grants))
	for _, g := range c.Access.Grants {
		e := access.Entry{Match: g.Match, Member: g.Member}
		for _, r := range g.Roles {
			e.Roles = append(e.Roles, access.Role(r))
		}
		for _, s := range g.Scopes {
			e.Grants = append(e.Grants, access.Grant{
				ID: string(s.ID), Kind: string(s.Kind), Namespace: string(s.Namespace), Labels: s.Labels, MaxPriority: g.MaxPriority,
			})
		}
		entries = append(entries, e)
	}
	return entries
}

// newSigner signs tokens when the configuration names keys; nil otherwise.
func newSigner(c *config.Config, logger *slog.Logger) (*signing.Signer, error) {
	if c.Tokens.Keys == "" {
		return nil, nil
	}
	return signing.OpenSigner(signing.SignerOptions{File: c.Tokens.Keys, Cluster: c.ClusterID, Life: c.Tokens.Lifetime, Logger: logger})
}

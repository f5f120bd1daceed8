package access

import (
	"context"
	"crypto/sha256"
	"crypto/tls"
	"encoding/hex"
	"errors"
	"fmt"
	"log/slog"
	"net"
	"net/netip"
	"slices"
	"time"

	"github.com/omnirelay/leadership/adapters/transport"
	"github.com/omnirelay/leadership/core"
)

// Options say who is recognized.
type Options struct {
	// Cluster is the one that certificates must be of.
	Cluster string
	// AnonymousRead lets callers without any credential read.
	AnonymousRead bool
	// Entries give certificates more than they name themselves.
	Entries []Entry
	Bearer  Bearer
	// Logger is told when keys change or cannot be had. nil: silent.
	Logger *slog.Logger

	now   func() time.Time                       // nil: time.Now
	fetch func(context.Context) (*keySet, error) // nil: that of Bearer
}

// Bearer says which bearer tokens are believed.
type Bearer struct {
	// JWKS is a file or an https URL with the keys. Empty: no token is believed.
	JWKS string
	// CA is a PEM file of authorities for the URL. Empty: the system's.
	CA string
	// Issuer must be the token's iss. Empty: any whose key is in JWKS.
	Issuer string
	// Audience must be in the token's aud. Empty: the cluster.
	Audience string
}

// Evidence is what a call shows of who makes it.
type Evidence struct {
	// TLS is the state of the connection; nil when it is not encrypted.
	TLS *tls.ConnectionState
	// Authorization are all values of that header, in HTTP and gRPC alike.
	Authorization []string
	// Remote is the other end's address, with or without port. Callers that show no
	// credential are counted by it.
	Remote string
}

// Authenticator recognizes callers. Safe for concurrent use.
type Authenticator struct {
	options Options
	bearer  *bearerRules // nil: no token is believed
}

// New checks the options. A file of keys must be good now; a URL is asked in the
// background, so that a cluster starts without it. Close it.
func New(o Options) (*Authenticator, error) {
	if o.Logger == nil {
		o.Logger = slog.New(slog.DiscardHandler)
	}
	if o.now == nil {
		o.now = time.Now
	}
	if o.Cluster == "" {
		return nil, errors.New("access: no cluster; want the one whose certificates are admitted")
	}
	if len(o.Entries) > maxEntries {
		return nil, fmt.Errorf("access: %d grants; at most %d are read", len(o.Entries), maxEntries)
	}
	for i, e := range o.Entries {
		if err := e.check(o.Cluster); err != nil {
			return nil, fmt.Errorf("access: grants[%d]: %w", i, err)
		}
	}
	a := &Authenticator{options: o}
	if o.Bearer.JWKS == "" {
		return a, nil
	}
	keys, err := newKeySource(o)
	if err != nil {
		return nil, fmt.Errorf("access: %w", err)
	}
	a.bearer = &bearerRules{keys: keys, cluster: o.Cluster, issuer: o.Bearer.Issuer, audience: o.Bearer.Audience, now: o.now}
	if a.bearer.audience == "" {
		a.bearer.audience = o.Cluster
	}
	return a, nil
}

// Close ends what runs in the background.
func (a *Authenticator) Close() {
	if a.bearer != nil {
		a.bearer.keys.close()
	}
}

// Authenticate says who calls, or as *Denied why nobody is recognized. Bad evidence is
// refused also where none would be needed.
//
// A call with a certificate and a bearer token is the token's: the certificate adds
// nothing to it, so that a proxy's rights never mix with those of whom it serves. The
// certificate must be good nevertheless, and a member's certificate carries no token
// of another member.
func (a *Authenticator) Authenticate(ctx context.Context, e Evidence) (Caller, error) {
	shown, err := a.certificate(e)
	if err != nil {
		return Caller{}, err
	}
	token, err := bearerOf(e.Authorization)
	if err != nil {
		return Caller{}, unauthenticated("a credential", "%v", err)
	}
	switch {
	case token == "" && shown != nil:
		return *shown, nil
	case token == "":
		return a.anonymous(e)
	case a.bearer == nil:
		return Caller{}, unauthenticated("a certificate", "bearer tokens are not accepted here; want a client certificate")
	case e.TLS == nil:
		return Caller{}, unauthenticated("an encrypted connection", "the bearer token came over a connection that is not encrypted; want TLS, and another token")
	}
	caller, err := a.bearer.caller(ctx, token)
	if err != nil {
		return Caller{}, unauthenticated("a bearer token", "%v", err)
	}
	if shown != nil && shown.Member != "" && shown.Member != caller.Member {
		return Caller{}, refused("a certificate of the member "+clip(shown.Member), "a token of that member",
			"the certificate is of the member %s, the bearer token of %s; want both of one", clip(shown.Member), caller.named())
	}
	return caller, nil
}

func (a *Authenticator) anonymous(e Evidence) (Caller, error) {
	if !a.options.AnonymousRead {
		want := "no client certificate was presented; want one of a client or a member"
		if a.bearer != nil {
			want += ", or a bearer token"
		}
		return Caller{}, unauthenticated("a credential", "%s", want)
	}
	caller := Anonymous(e.Remote)
	caller.Cluster, caller.Role = a.options.Cluster, RoleRead
	return caller, nil
}

// Anonymous is a caller who shows nothing and may do nothing, counted by the network
// it calls from: an IPv4 address, or the first half of an IPv6 address, which is what
// one host is given whole.
func Anonymous(remote string) Caller {
	return Caller{Name: "anonymous", Anonymous: true, Key: "anonymous/" + network(remote)}
}

func network(remote string) string {
	host, _, err := net.SplitHostPort(remote)
	if err != nil {
		host = remote
	}
	addr, err := netip.ParseAddr(host)
	if err != nil {
		return "unknown"
	}
	addr = addr.Unmap().WithZone("")
	bits := 32
	if addr.Is6() {
		bits = 64
	}
	prefix, err := addr.Prefix(bits)
	if err != nil {
		return "unknown"
	}
	return prefix.String()
}

// certificate says whom the connection's certificate names. nil: there is none.
func (a *Authenticator) certificate(e Evidence) (*Caller, error) {
	if e.TLS == nil || len(e.TLS.VerifiedChains) == 0 || len(e.TLS.VerifiedChains[0]) == 0 {
		return nil, nil
	}
	leaf := e.TLS.VerifiedChains[0][0]
	// A connection outlives its handshake.
	if now := a.options.now(); now.After(leaf.NotAfter) {
		return nil, unauthenticated("a certificate in force", "the certificate ended at %s; connect again with a new one", leaf.NotAfter.UTC().Format(time.RFC3339))
	}
	var caller Caller
	var name string
	if hasSPIFFE(leaf) {
		id, err := transport.PeerIdentity(*e.TLS)
		if err != nil {
			return nil, refused("a certificate", "a client's or a member's", "%s", clipAt(400, err.Error()))
		}
		if caller, err = a.identified(id); err != nil {
			return nil, err
		}
		name = id.URI()
	} else {
		subject, err := subjectOf(leaf)
		if err != nil {
			return nil, refused("a certificate", "a client's or a member's", "%v", err)
		}
		name = subjectPrefix + subject
		caller = Caller{Name: "subject/" + clipName(subject), Key: name}
	}
	caller.Cluster, caller.Expires = a.options.Cluster, leaf.NotAfter
	known, err := a.apply(&caller, name)
	if err != nil {
		return nil, err
	}
	if !known && caller.Role == "" && caller.Member == "" {
		return nil, refused("a certificate", "one that is known here", "%s is not known here; want a certificate of a client or a member, or an entry for it under access.grants", caller.Name)
	}
	return &caller, nil
}

// identified is what a SPIFFE id says by itself.
func (a *Authenticator) identified(id transport.Identity) (Caller, error) {
	switch {
	case id.Cluster != a.options.Cluster:
		return Caller{}, refused("a certificate of cluster "+clip(id.Cluster), "one of this cluster",
			"the certificate is of cluster %q; this is %q", clip(id.Cluster), a.options.Cluster)
	case id.Kind == transport.KindNode:
		return Caller{}, refused("a node's certificate", "a client's or a member's",
			"%s is a node, and nodes call nodes; want a certificate of a client or a member", clip(id.String()))
	case id.Kind == transport.KindMember:
		return Caller{Name: id.String(), Key: id.String(), Member: id.Name}, nil
	}
	return Caller{Name: clipName(id.String()), Key: id.String(), Role: Role("mesh." + string(id.Role))}, nil
}

// apply adds what the entries give to certificates of that name.
func (a *Authenticator) apply(c *Caller, name string) (known bool, err error) {
	for _, e := range a.options.Entries {
		if !e.matches(name) {
			continue
		}
		known = true
		for _, r := range e.Roles {
			c.Role = higher(c.Role, r)
		}
		if slices.Contains(e.Roles, RoleMember) && e.Member != "" {
			if c.Member != "" && c.Member != e.Member {
				return true, refused("two members", "one", "access.grants make %s both %s and %s; want one", c.Name, clip(c.Member), clip(e.Member))
			}
			c.Member = e.Member
		}
		c.Grants = append(c.Grants, e.Grants...)
	}
	return known, nil
}

// clipName makes text fit for an actor in the audit. What does not fit keeps its
// beginning, and a digest by which it still differs from every other.
func clipName(text string) string {
	const most = core.MaxActor / 2
	fit := printable(text[:min(len(text), most)])
	if fit == text {
		return text
	}
	sum := sha256.Sum256([]byte(text))
	return fit + "~" + hex.EncodeToString(sum[:8])
}

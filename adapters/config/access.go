package config

import (
	"fmt"
	"net/url"
	"regexp"
	"slices"
	"strings"
	"time"

	"github.com/omnirelay/leadership/core"
	"github.com/omnirelay/leadership/core/logpb"
)

// Roles are what a caller may be. Each of read, operate and admin includes the ones
// before it; member includes read.
var Roles = []string{"mesh.read", "mesh.operate", "mesh.admin", "mesh.member"}

// EveryScope is the id, in a grant, that stands for all scopes there are.
const EveryScope = "*"

// Bounds of the settings of access, limits and tokens.
const (
	MaxAccessGrants      = 1024 // entries under access.grants
	MaxGrantScopes       = 64   // scopes of one entry
	MaxMatch             = 512  // bytes of what an entry matches
	MaxBearerText        = 1024 // bytes of an issuer or an audience
	MaxConnections       = 100_000
	MaxRequestsPerSecond = 1_000_000
	MaxSessionsPerMember = 64
	MinHandshakeTimeout  = 100 * time.Millisecond
	MaxHandshakeTimeout  = time.Minute
	MinRequestBytes      = 1 << 10
	MaxRequestBytes      = 1 << 20
	MinTokenLifetime     = time.Minute
	MaxTokenLifetime     = 24 * time.Hour
)

// Access settles who may call the public API, and what for.
type Access struct {
	// AnonymousRead lets callers read that show no credential at all. One that shows a
	// bad credential is refused all the same.
	AnonymousRead bool `koanf:"anonymousRead"`
	// Grants say what certificates are good for beyond what is written in them. All
	// entries that match a certificate count together.
	Grants []AccessGrant `koanf:"grants"`
	Bearer Bearer        `koanf:"bearer"`
}

// AccessGrant gives roles and scopes to the certificates it matches.
type AccessGrant struct {
	// Match is spiffe://CLUSTER/member/NAME or spiffe://CLUSTER/client/ROLE, whose last
	// segment may end with *, or subject: and the whole subject of a certificate without
	// a SPIFFE id, as RFC 2253 writes it: subject:CN=billing,O=Example.
	Match string `koanf:"match"`
	// Roles are given on top of the one that a SPIFFE id names.
	Roles []string `koanf:"roles"`
	// Member is the id that a caller with role mesh.member acts as. A certificate
	// spiffe://CLUSTER/member/NAME is NAME and nobody else.
	Member string `koanf:"member"`
	// Scopes are what the member may stand for.
	Scopes []GrantScope `koanf:"scopes"`
	// MaxPriority is the highest priority it may stand with.
	MaxPriority int32 `koanf:"maxPriority"`
}

// GrantScope names scopes. All conditions must hold for a scope, and there is at
// least one. A list may hold a bare id instead, and EveryScope for all scopes.
type GrantScope struct {
	ID        Condition         `koanf:"id"`
	Kind      Condition         `koanf:"kind"`
	Namespace Condition         `koanf:"namespace"`
	Labels    map[string]string `koanf:"labels"`
}

// Every reports whether all scopes are meant.
func (s GrantScope) Every() bool { return s.ID == EveryScope }

// Condition is a text that is compared. It cannot be written empty: a condition that
// was meant and got lost would let everything through.
type Condition string

// Bearer settles which JSON Web Tokens are believed.
type Bearer struct {
	// JWKS is the file or the https URL of the keys that sign. Empty: none is believed.
	JWKS string `koanf:"jwks"`
	// CA is a PEM file of authorities trusted for the URL. Empty: those of the system.
	CA string `koanf:"ca"`
	// Issuer must be the token's iss. Empty: any that has a key of JWKS.
	Issuer string `koanf:"issuer"`
	// Audience must be in the token's aud. Not written: clusterId.
	Audience string `koanf:"audience"`
}

// Remote reports whether the keys are fetched from a URL.
func (b Bearer) Remote() bool { return strings.Contains(b.JWKS, "://") }

// Limits bound what callers can take from this node. What goes beyond is refused.
type Limits struct {
	Connections           int           `koanf:"connections"`           // of each public listener at once
	ConnectionsPerAddress int           `koanf:"connectionsPerAddress"` // of those, from one address
	StreamsPerCaller      int           `koanf:"streamsPerCaller"`      // at once, HTTP and gRPC together
	RequestsPerSecond     int           `koanf:"requestsPerSecond"`     // of one caller, in the long run
	Burst                 int           `koanf:"burst"`                 // of one caller, at once
	SessionsPerMember     int           `koanf:"sessionsPerMember"`     // of one member, attached to this node at once
	HandshakeTimeout      time.Duration `koanf:"handshakeTimeout"`      // for TLS and the first bytes
	RequestBytes          int           `koanf:"requestBytes"`          // of one request or message
}

// Tokens settle the signing of leadership tokens.
type Tokens struct {
	// Keys is the file with the signing keys. Empty: tokens are not signed.
	Keys string `koanf:"keys"`
	// Lifetime is how long a signed token is good for.
	Lifetime time.Duration `koanf:"lifetime"`
}

func defaultLimits() Limits {
	return Limits{Connections: 4096, ConnectionsPerAddress: 512, StreamsPerCaller: 128, RequestsPerSecond: 200, Burst: 400,
		SessionsPerMember: 4, HandshakeTimeout: 5 * time.Second, RequestBytes: 64 << 10}
}

// derive sets what follows from the cluster's name and was not written itself.
func (b *Bearer) derive(clusterID string, written func(key string) bool) {
	if !written("access.bearer.audience") {
		b.Audience = clusterID
	}
}

// accessPaths are the settings of access and tokens that name files.
func (c *Config) accessPaths() []*string {
	paths := []*string{&c.Access.Bearer.CA, &c.Tokens.Keys}
	if !c.Access.Bearer.Remote() {
		paths = append(paths, &c.Access.Bearer.JWKS)
	}
	return paths
}

func (c *Config) judgeAccess(j *judge) {
	grants := c.Access.Grants
	if len(grants) > MaxAccessGrants {
		j.refuse("access.grants", fmt.Sprintf("%d entries", len(grants)), fmt.Sprintf("at most %d are right", MaxAccessGrants))
		grants = nil
	}
	for i, g := range grants {
		g.judge(j, fmt.Sprintf("access.grants[%d]", i), c.ClusterID)
	}
	c.Access.Bearer.judge(j)
	c.Limits.judge(j)
	j.duration("tokens.lifetime", c.Tokens.Lifetime, MinTokenLifetime, MaxTokenLifetime)
}

// The two ways to name a certificate.
var (
	spiffeMatch  = regexp.MustCompile(`^spiffe://([^/]*)/(member|client)/([A-Za-z0-9._-]*\*?)$`)
	subjectMatch = regexp.MustCompile(`^subject:[A-Za-z0-9.]+=.+$`)
)

func (g AccessGrant) judge(j *judge, key, clusterID string) {
	for i, role := range g.Roles {
		j.oneOf(fmt.Sprintf("%s.roles[%d]", key, i), role, Roles...)
	}
	if g.Member != "" {
		j.refuseError(key+".member", core.CheckMemberID("member", g.Member))
	}
	j.number(key+".maxPriority", int64(g.MaxPriority), -core.MaxPriority, core.MaxPriority)
	if len(g.Scopes) > MaxGrantScopes {
		j.refuse(key+".scopes", fmt.Sprintf("%d scopes", len(g.Scopes)), fmt.Sprintf("at most %d are right", MaxGrantScopes))
		return
	}
	for i, s := range g.Scopes {
		s.judge(j, fmt.Sprintf("%s.scopes[%d]", key, i))
	}
	if j.required(key+".match", g.Match, "write spiffe://CLUSTER/member/NAME, or subject:CN=NAME") {
		g.judgeMatch(j, key, clusterID)
	}
}

// judgeMatch holds what is given against whom it is given to.
func (g AccessGrant) judgeMatch(j *judge, key, clusterID string) {
	parts := spiffeMatch.FindStringSubmatch(g.Match)
	switch {
	case len(g.Match) > MaxMatch || parts == nil && !subjectMatch.MatchString(g.Match) || parts != nil && parts[3] == "":
		j.refuse(key+".match", fmt.Sprintf("%q matches nothing", clip(g.Match)), "write spiffe://CLUSTER/member/NAME, spiffe://CLUSTER/client/ROLE, either with * at the end, or subject:CN=NAME")
		return
	case parts != nil && parts[1] != clusterID:
		j.refuse(key+".match", fmt.Sprintf("%q is of another cluster", clip(g.Match)), fmt.Sprintf("this is spiffe://%s", clip(clusterID)))
	case len(g.Roles) == 0 && len(g.Scopes) == 0:
		j.refuse(key, "gives nothing", "write roles or scopes")
	}
	ownName := parts != nil && parts[2] == "member"
	member := slices.Contains(g.Roles, "mesh.member")
	switch {
	case ownName && g.Member != "":
		j.refuse(key+".member", "is written, but the certificate names the member", "leave it out")
	case !ownName && member && g.Member == "":
		j.refuse(key+".member", "is missing", "name the member that these certificates act as")
	case !ownName && !member && (g.Member != "" || len(g.Scopes) > 0):
		j.refuse(key+".roles", "has no mesh.member, but member or scopes are written", "add mesh.member, or leave them out")
	}
}

func (s GrantScope) judge(j *judge, key string) {
	conditions := s.Kind != "" || s.Namespace != "" || len(s.Labels) > 0
	switch {
	case s.Every() && conditions:
		j.refuse(key, "has every scope and conditions", `write "*", or the conditions`)
	case s.Every():
	case s.ID == "" && !conditions:
		j.refuse(key, "has no condition", `write an id, kind, namespace or labels, or "*" for every scope`)
	default:
		j.refuseError(key, core.ValidateSelector(&logpb.Selector{
			Id: string(s.ID), Kind: string(s.Kind), Namespace: string(s.Namespace), Labels: s.Labels}))
	}
}

func (b Bearer) judge(j *judge) {
	const key = "access.bearer"
	switch {
	case b.JWKS == "" && (b.Issuer != "" || b.CA != ""):
		j.refuse(key+".jwks", "is missing", "name the file or the https URL of the keys")
	case b.Remote():
		j.keysURL(key+".jwks", b.JWKS)
	case b.CA != "":
		j.refuse(key+".ca", "is written, but jwks is a file", "leave it out, or write an https URL")
	}
	for _, text := range []struct{ key, value string }{{"issuer", b.Issuer}, {"audience", b.Audience}} {
		if len(text.value) > MaxBearerText {
			j.refuse(key+"."+text.key, fmt.Sprintf("%d bytes", len(text.value)), fmt.Sprintf("at most %d are right", MaxBearerText))
		}
	}
	if b.JWKS != "" && b.Audience == "" {
		j.refuse(key+".audience", "is empty", "leave it out for clusterId: a token for anybody is good for nobody")
	}
}

// keysURL refuses whatever could be read or answered by someone on the way.
func (j *judge) keysURL(key, text string) {
	u, err := url.Parse(text)
	switch {
	case err != nil || len(text) > MaxStoreText || u.Scheme != "https" || u.Hostname() == "":
		j.refuse(key, fmt.Sprintf("%q is neither a file nor an https URL", clip(text)), "write one like https://id.example/keys.json")
	case u.User != nil || u.Fragment != "":
		j.refuse(key, "holds a user or a fragment", "write a plain https URL")
	}
}

func (l Limits) judge(j *judge) {
	for _, n := range []struct {
		key             string
		value, low, top int
	}{
		{"connections", l.Connections, 1, MaxConnections},
		{"connectionsPerAddress", l.ConnectionsPerAddress, 1, MaxConnections},
		{"streamsPerCaller", l.StreamsPerCaller, 1, MaxStreams},
		{"requestsPerSecond", l.RequestsPerSecond, 1, MaxRequestsPerSecond},
		{"burst", l.Burst, 1, MaxRequestsPerSecond},
		{"sessionsPerMember", l.SessionsPerMember, 1, MaxSessionsPerMember},
		{"requestBytes", l.RequestBytes, MinRequestBytes, MaxRequestBytes},
	} {
		j.number("limits."+n.key, int64(n.value), int64(n.low), int64(n.top))
	}
	j.duration("limits.handshakeTimeout", l.HandshakeTimeout, MinHandshakeTimeout, MaxHandshakeTimeout)
}

// parseCondition refuses the condition that every scope meets.
func parseCondition(text string) (any, error) {
	if text == "" {
		return nil, &wrong{"is empty", "write what is compared, or leave the key out"}
	}
	return Condition(text), nil
}

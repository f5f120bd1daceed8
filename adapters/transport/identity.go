// Package transport connects processes: certificates and the identities in them,
// TLS settings, and the streams between the nodes of a registry.
package transport

import (
	"context"
	"crypto/tls"
	"crypto/x509"
	"errors"
	"fmt"
	"net/url"
	"regexp"
	"slices"
	"strings"

	"google.golang.org/grpc/credentials"
	"google.golang.org/grpc/peer"

	"github.com/omnirelay/leadership/core"
)

// Kind says what a certificate lets its owner be. A node speaks for a replica of
// the registry; a client calls the API; a member calls it to lead. None may do
// another's part.
type Kind string

const (
	KindNode   Kind = "node"
	KindClient Kind = "client"
	KindMember Kind = "member"
)

// Role says what a client may do; each includes the ones before it.
type Role string

const (
	RoleRead    Role = "read"
	RoleOperate Role = "operate"
	RoleAdmin   Role = "admin"
)

var roles = []Role{RoleRead, RoleOperate, RoleAdmin}

// Identity is whom a verified certificate names, as a SPIFFE id:
// spiffe://CLUSTER/node/NAME, spiffe://CLUSTER/client/ROLE or
// spiffe://CLUSTER/member/NAME.
type Identity struct {
	Cluster string
	Kind    Kind
	Name    string // node: the node's name. member: its id. client: the certificate's common name, for logs and audit
	Role    Role   // client only
}

// String is how logs and audit records name the identity.
func (i Identity) String() string {
	if i.Kind == KindClient && i.Name != "" && i.Name != string(i.Role) {
		return string(i.Kind) + "/" + string(i.Role) + "/" + i.Name
	}
	return string(i.Kind) + "/" + i.lastSegment()
}

func (i Identity) lastSegment() string {
	if i.Kind == KindClient {
		return string(i.Role)
	}
	return i.Name
}

func (i Identity) uri() *url.URL {
	return &url.URL{Scheme: "spiffe", Host: i.Cluster, Path: "/" + string(i.Kind) + "/" + i.lastSegment()}
}

// ErrNoCertificate means that the peer presented no certificate.
var ErrNoCertificate = errors.New("no certificate was presented")

// PeerIdentity tells whom the other end of a TLS connection is. Only a verified
// chain counts. ErrNoCertificate when there is none.
func PeerIdentity(state tls.ConnectionState) (Identity, error) {
	if len(state.VerifiedChains) == 0 || len(state.VerifiedChains[0]) == 0 {
		return Identity{}, ErrNoCertificate
	}
	return identityOf(state.VerifiedChains[0][0])
}

// CallerIdentity tells whom a grpc call comes from. ErrNoCertificate when the
// caller's connection is encrypted but shows no certificate.
func CallerIdentity(ctx context.Context) (Identity, error) {
	caller, ok := peer.FromContext(ctx)
	if !ok {
		return Identity{}, errors.New("this is not the context of a grpc call")
	}
	info, ok := caller.AuthInfo.(credentials.TLSInfo)
	if !ok {
		return Identity{}, errors.New("the connection is not encrypted; want mutual TLS")
	}
	return PeerIdentity(info.State)
}

// IdentityOf tells whom a certificate names. It verifies nothing: for whom is at the
// other end of a connection there is PeerIdentity.
func IdentityOf(cert *x509.Certificate) (Identity, error) { return identityOf(cert) }

// URI is the identity as a SPIFFE id.
func (i Identity) URI() string { return i.uri().String() }

func identityOf(cert *x509.Certificate) (Identity, error) {
	if len(cert.URIs) != 1 {
		return Identity{}, fmt.Errorf("certificate %q: has %d URI names, want exactly one like spiffe://CLUSTER/node/NAME", cert.Subject.CommonName, len(cert.URIs))
	}
	uri := cert.URIs[0]
	parts := strings.Split(strings.TrimPrefix(uri.Path, "/"), "/")
	if uri.Scheme != "spiffe" || len(parts) != 2 {
		return Identity{}, misspelt(uri)
	}
	id := Identity{Cluster: uri.Host, Kind: Kind(parts[0])}
	switch id.Kind {
	case KindNode, KindMember:
		id.Name = parts[1]
	case KindClient:
		id.Name, id.Role = cert.Subject.CommonName, Role(parts[1])
	}
	if err := id.validate(); err != nil {
		return Identity{}, fmt.Errorf("certificate URI %q: %w", uri, err)
	}
	// One identity has one spelling: no escapes, query, user, port or double slash.
	if id.uri().String() != uri.String() {
		return Identity{}, misspelt(uri)
	}
	return id, nil
}

func misspelt(uri *url.URL) error {
	return fmt.Errorf("certificate URI %q: want spiffe://CLUSTER/node/NAME, spiffe://CLUSTER/client/ROLE or spiffe://CLUSTER/member/NAME", uri)
}

// The names SPIFFE allows, and for nodes what is also a DNS label.
var (
	clusterName = regexp.MustCompile(`^[a-z0-9][a-z0-9._-]{0,127}$`)
	nodeName    = regexp.MustCompile(`^[A-Za-z0-9]([A-Za-z0-9.-]{0,61}[A-Za-z0-9])?$`)
)

func (i Identity) validate() error {
	if !clusterName.MatchString(i.Cluster) {
		return fmt.Errorf("cluster: %q, want 1 to 128 of a-z 0-9 . _ -, beginning with a letter or digit", i.Cluster)
	}
	switch {
	case i.Kind == KindNode && !nodeName.MatchString(i.Name):
		return fmt.Errorf("node: %q, want 1 to 63 letters, digits, dots and dashes, as in a host name", i.Name)
	case i.Kind == KindClient && !slices.Contains(roles, i.Role):
		return fmt.Errorf("role: %q, want admin, operate or read", i.Role)
	case i.Kind == KindMember:
		return checkMember(i.Name)
	case i.Kind != KindNode && i.Kind != KindClient:
		return fmt.Errorf("kind: %q, want node, client or member", i.Kind)
	}
	return nil
}

// checkMember accepts the member ids that a path can hold: all but the two that
// name folders.
func checkMember(id string) error {
	if id == "." || id == ".." || core.CheckMemberID("member", id) != nil {
		return fmt.Errorf("member: %q, want 1 to %d letters, digits, '.', '_' or '-', and no folder's name", id, core.MaxMemberID)
	}
	return nil
}

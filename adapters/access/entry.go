package access

import (
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/asn1"
	"errors"
	"fmt"
	"slices"
	"strings"

	"github.com/omnirelay/leadership/adapters/transport"
	"github.com/omnirelay/leadership/core"
)

// Entry gives roles and grants to certificates, on top of what their SPIFFE id says.
type Entry struct {
	// Match is spiffe://CLUSTER/member/NAME or spiffe://CLUSTER/client/ROLE, where *
	// at the end stands for any rest; or subject: and the whole subject, as RFC 2253
	// writes it, of a certificate that has no SPIFFE id.
	Match string
	Roles []Role
	// Member is the id that RoleMember acts as. A member's own certificate names it.
	Member string
	Grants []Grant
}

const (
	spiffeScheme  = "spiffe://"
	subjectPrefix = "subject:"
	maxEntries    = 1024
)

// check refuses an entry that matches nothing or gives what cannot be used.
func (e Entry) check(cluster string) error {
	for _, r := range e.Roles {
		if err := checkRole(r); err != nil {
			return err
		}
	}
	for _, g := range e.Grants {
		if err := g.check(); err != nil {
			return err
		}
	}
	own, err := e.checkMatch(cluster)
	if err != nil {
		return err
	}
	acts := slices.Contains(e.Roles, RoleMember)
	switch {
	case own && e.Member != "":
		return errors.New("member: is given, but the certificate names the member; want none")
	case !own && acts:
		if err := core.CheckMemberID("member", e.Member); err != nil {
			return errors.New(plain(err))
		}
	case !own && (e.Member != "" || len(e.Grants) > 0):
		return fmt.Errorf("roles: member and grants are of use with %s only; add it", RoleMember)
	}
	return nil
}

// checkMatch says whether the entry is for certificates that name a member.
func (e Entry) checkMatch(cluster string) (own bool, err error) {
	pattern, isURI := strings.CutPrefix(e.Match, spiffeScheme+cluster+"/")
	subject, isSubject := strings.CutPrefix(e.Match, subjectPrefix)
	kind, name, _ := strings.Cut(pattern, "/")
	own = kind == string(transport.KindMember)
	name, rest, _ := strings.Cut(name, "*")
	switch {
	case isSubject && subject != "":
		return false, nil
	case isURI && (own || kind == string(transport.KindClient)) && len(pattern) > len(kind)+1 && rest == "" && !strings.Contains(name, "/"):
		return own, nil
	}
	return false, fmt.Errorf("match: %q matches nothing; want %s%s/member/NAME or .../client/ROLE, or subject:CN=NAME", clip(e.Match), spiffeScheme, cluster)
}

// matches compares name, as named writes it, with the entry.
func (e Entry) matches(name string) bool {
	if start, open := strings.CutSuffix(e.Match, "*"); open && strings.HasPrefix(e.Match, spiffeScheme) {
		return strings.HasPrefix(name, start)
	}
	return name == e.Match
}

// hasSPIFFE reports whether a certificate names itself by a SPIFFE id. Then its
// subject counts for nothing: our authority writes a member's own id there.
func hasSPIFFE(cert *x509.Certificate) bool {
	for _, uri := range cert.URIs {
		if strings.EqualFold(uri.Scheme, "spiffe") {
			return true
		}
	}
	return false
}

// MatchOf is what an Entry must have as its Match to mean this certificate alone.
func MatchOf(cert *x509.Certificate) (string, error) {
	if hasSPIFFE(cert) {
		id, err := transport.IdentityOf(cert)
		if err != nil {
			return "", err
		}
		return id.URI(), nil
	}
	subject, err := subjectOf(cert)
	if err != nil {
		return "", err
	}
	return subjectPrefix + subject, nil
}

// subjectOf writes a certificate's subject as RFC 2253 does. It reads what the
// authority signed rather than the fields of a pkix.Name, which lose repetitions.
func subjectOf(cert *x509.Certificate) (string, error) {
	var names pkix.RDNSequence
	rest, err := asn1.Unmarshal(cert.RawSubject, &names)
	if err != nil || len(rest) > 0 {
		return "", errors.New("the subject of the certificate is malformed")
	}
	return names.String(), nil
}

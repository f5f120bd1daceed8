package fuzz_test

import (
	"context"
	"crypto/ed25519"
	"crypto/tls"
	"crypto/x509"
	"crypto/x509/pkix"
	"errors"
	"math/big"
	"net/url"
	"strings"
	"testing"
	"time"

	"github.com/omnirelay/leadership/adapters/access"
	"github.com/omnirelay/leadership/adapters/transport"
	"github.com/omnirelay/leadership/core"
)

// certificate makes a real one with the given names, nil when none can be made.
func certificate(t testing.TB, uri, commonName string) *x509.Certificate {
	t.Helper()
	u, err := url.Parse(uri)
	if err != nil {
		return nil
	}
	key := ed25519.NewKeyFromSeed(make([]byte, ed25519.SeedSize))
	template := &x509.Certificate{SerialNumber: big.NewInt(1), Subject: pkix.Name{CommonName: commonName},
		NotBefore: time.Now().Add(-time.Hour), NotAfter: time.Now().Add(time.Hour)}
	if uri != "" {
		template.URIs = []*url.URL{u}
	}
	der, err := x509.CreateCertificate(nil, template, template, key.Public(), key)
	if err != nil {
		return nil
	}
	leaf, err := x509.ParseCertificate(der)
	if err != nil {
		return nil
	}
	return leaf
}

// A certificate names one identity in one spelling, and none becomes more than what it
// names: a node is never a client, a client of another cluster nobody.
func FuzzCertificateIdentity(f *testing.F) {
	for _, uri := range []string{"spiffe://demo/node/node-1", "spiffe://demo/client/admin", "spiffe://demo/member/m-1", "spiffe://other/client/admin",
		"spiffe://demo/client/ADMIN", "spiffe://demo/client/admin/", "spiffe://demo:1/client/read", "spiffe://u@demo/client/read", "spiffe://demo/member/%6d",
		"spiffe://demo/member/..", "spiffe://demo/client/read?x", "https://demo/client/admin", "SPIFFE://demo/client/admin", "spiffe:demo/client/admin", ""} {
		f.Add(uri, "somebody")
	}
	f.Add("spiffe://demo/client/read", "line\nbreak \u202e")
	f.Add("", "operator")
	f.Add("0", "operator")                      // a name that is no SPIFFE id: the subject counts
	f.Add("spiffe://demo/node/n-1", "operator") // one that is: it does not
	entries := []access.Entry{
		{Match: "spiffe://demo/member/op-*", Roles: []access.Role{access.RoleOperate}},
		{Match: "subject:CN=operator", Roles: []access.Role{access.RoleAdmin}},
	}
	authenticator, err := access.New(access.Options{Cluster: "demo", Entries: entries})
	if err != nil {
		f.Fatal(err)
	}
	f.Cleanup(authenticator.Close)
	f.Fuzz(func(t *testing.T, uri, commonName string) {
		leaf := certificate(t, uri, commonName)
		if leaf == nil {
			return
		}
		state := tls.ConnectionState{VerifiedChains: [][]*x509.Certificate{{leaf}}, PeerCertificates: []*x509.Certificate{leaf}}
		id, idErr := transport.PeerIdentity(state)
		if idErr == nil {
			last := id.Name
			if id.Kind == transport.KindClient {
				last = string(id.Role)
			}
			if want := "spiffe://" + id.Cluster + "/" + string(id.Kind) + "/" + last; !strings.EqualFold(uri[:len("spiffe")], "spiffe") || uri[len("spiffe"):] != want[len("spiffe"):] {
				t.Fatalf("%q was read as %q", uri, want)
			}
		}
		caller, err := authenticator.Authenticate(context.Background(), access.Evidence{TLS: &state, Remote: "192.0.2.1:1"})
		if err != nil {
			var denied *access.Denied
			if !errors.As(err, &denied) || denied.Want == "" {
				t.Fatalf("a %T that does not say what is wanted: %v", err, err)
			}
			wantLine(t, err.Error())
			return
		}
		wantCaller(t, caller)
		switch {
		case idErr != nil && (strings.HasPrefix(strings.ToLower(uri), "spiffe:") || leaf.Subject.String() != "CN=operator" || caller.Role != access.RoleAdmin || caller.Member != ""):
			t.Fatalf("%q of %q is let in as %+v", leaf.Subject, uri, caller)
		case idErr != nil:
		case id.Cluster != "demo" || id.Kind == transport.KindNode:
			t.Fatalf("%q is let in as %+v", uri, caller)
		case id.Kind == transport.KindClient && (caller.Member != "" || string(caller.Role) != "mesh."+string(id.Role)):
			t.Fatalf("%q has the role %s and is member %q", uri, caller.Role, caller.Member)
		case id.Kind == transport.KindMember && (caller.Member != id.Name || (caller.Role == access.RoleOperate) != strings.HasPrefix(id.Name, "op-") || caller.Role.Includes(access.RoleAdmin)):
			t.Fatalf("%q has the role %s and is member %q", uri, caller.Role, caller.Member)
		}
	})
}

// wantCaller fails unless c can be named in a log and counted by a limiter.
func wantCaller(t *testing.T, c access.Caller) {
	t.Helper()
	if c.Name == "" || len(c.Name) > core.MaxActor || c.Key == "" || c.Anonymous {
		t.Fatalf("let in as %+v", c)
	}
	wantLine(t, c.Name)
}

package transport

import (
	"crypto/tls"
	"crypto/x509"
	"crypto/x509/pkix"
	"errors"
	"net/url"
	"strings"
	"testing"
)

func TestIdentityRoundTripThroughACertificate(t *testing.T) {
	a := authority(t, testCluster)
	cases := map[string]Identity{
		"node/node-1":       {Cluster: testCluster, Kind: KindNode, Name: "node-1"},
		"client/admin":      {Cluster: testCluster, Kind: KindClient, Name: "admin", Role: RoleAdmin},
		"client/read":       {Cluster: testCluster, Kind: KindClient, Role: RoleRead},
		"client/read/wall7": {Cluster: testCluster, Kind: KindClient, Name: "wall7", Role: RoleRead},
	}
	for name, want := range cases {
		pair, err := a.Issue(Request{Identity: want})
		if err != nil {
			t.Fatal(err)
		}
		cert, err := parseCertificate(pair.Cert)
		if err != nil {
			t.Fatal(err)
		}
		got, err := PeerIdentity(tls.ConnectionState{VerifiedChains: [][]*x509.Certificate{{cert, a.cert}}})
		if err != nil || got != want {
			t.Errorf("have %+v, %v; want %+v", got, err, want)
		}
		if got.String() != name {
			t.Errorf("have %s, want %s", got, name)
		}
	}
}

func TestPeerIdentityTrustsOnlyAVerifiedChain(t *testing.T) {
	pair, err := authority(t, testCluster).IssueClient(RoleAdmin)
	if err != nil {
		t.Fatal(err)
	}
	cert, err := parseCertificate(pair.Cert)
	if err != nil {
		t.Fatal(err)
	}
	if _, err := PeerIdentity(tls.ConnectionState{PeerCertificates: []*x509.Certificate{cert}}); !errors.Is(err, ErrNoCertificate) {
		t.Errorf("have %v", err)
	}
}

func TestMalformedIdentitiesAreRefused(t *testing.T) {
	cases := map[string]string{
		"https://c/node/n":             "spiffe://CLUSTER",
		"spiffe://c/node":              "spiffe://CLUSTER",
		"spiffe://c/node/a/b":          "spiffe://CLUSTER",
		"spiffe://c/node/n?x=1":        "spiffe://CLUSTER",
		"spiffe://u@c/node/n":          "spiffe://CLUSTER",
		"spiffe://C/node/n":            "cluster",
		"spiffe:///node/n":             "cluster",
		"spiffe://c/node/":             "node",
		"spiffe://c/node/-n":           "node",
		"spiffe://c/client/superuser":  "role",
		"spiffe://c/client/":           "role",
		"spiffe://c/replica/n":         "kind",
		"spiffe://c.x/node/white%20sp": "node",
	}
	for text, want := range cases {
		uri, err := url.Parse(text)
		if err != nil {
			t.Fatal(err)
		}
		_, err = identityOf(&x509.Certificate{Subject: pkix.Name{CommonName: "x"}, URIs: []*url.URL{uri}})
		if err == nil || !strings.Contains(err.Error(), want) {
			t.Errorf("%s: have %v, want it to say %s", text, err, want)
		}
	}
	if _, err := identityOf(&x509.Certificate{}); err == nil {
		t.Error("a certificate without URI has an identity")
	}
}

func TestRolesIncludeTheLesserOnes(t *testing.T) {
	roles := []Role{RoleRead, RoleOperate, RoleAdmin}
	for i, have := range roles {
		for j, want := range roles {
			if have.Allows(want) != (i >= j) {
				t.Errorf("%s allows %s: %v", have, want, have.Allows(want))
			}
		}
	}
	if Role("").Allows(RoleRead) || RoleAdmin.Allows("") || Role("").Allows("") {
		t.Error("a role that is not one counts")
	}
}

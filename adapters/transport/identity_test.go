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
	longest := strings.Repeat("m", 128)
	cases := map[string]Identity{
		"node/node-1":       {Cluster: testCluster, Kind: KindNode, Name: "node-1"},
		"client/admin":      {Cluster: testCluster, Kind: KindClient, Name: "admin", Role: RoleAdmin},
		"client/read":       {Cluster: testCluster, Kind: KindClient, Role: RoleRead},
		"member/worker_1.a": {Cluster: testCluster, Kind: KindMember, Name: "worker_1.a"},
		"member/" + longest: {Cluster: testCluster, Kind: KindMember, Name: longest},
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
	long := strings.Repeat("m", 129)
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
		"spiffe://c/member/":           "member",
		"spiffe://c/member/..":         "member",
		"spiffe://c/member/a%2Fb":      "spiffe://CLUSTER",
		"spiffe://c/member/%61":        "spiffe://CLUSTER",
		"spiffe://c//member/a":         "spiffe://CLUSTER",
		"spiffe://c:1/member/a":        "cluster",
		"spiffe://c/member/a?":         "spiffe://CLUSTER",
		"spiffe://c/member/a b":        "member",
		"spiffe:c/member/a":            "spiffe://CLUSTER",
		"spiffe://c/member/" + long:    "member",
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

// TestAMemberIsNoNode: whoever may lead must not pose as a replica.
func TestAMemberIsNoNode(t *testing.T) {
	a := authority(t, testCluster)
	pair, err := a.IssueMember("node-1")
	impostor := load(t, save(t, a, pair, err))
	caller := load(t, nodeFiles(t, a, "node-1"))
	if _, clientErr, _ := shake(t, caller.Client(""), impostor.Server(Required)); clientErr == nil {
		t.Error("a member served as a node")
	}
	if err := expectNode(impostor.Identity(), testCluster, ""); err == nil {
		t.Error("a member was admitted among the nodes")
	}
}

// FuzzIdentity: what is accepted has one spelling, and reads back as itself.
func FuzzIdentity(f *testing.F) {
	for _, seed := range []string{"spiffe://c/node/n", "spiffe://c/client/admin", "spiffe://c/member/a_1", "spiffe://c/member/%61", "spiffe://c//member/a?#", "spiffe:c/member/a"} {
		f.Add(seed, "name")
	}
	f.Fuzz(func(t *testing.T, text, commonName string) {
		uri, err := url.Parse(text)
		if err != nil {
			return
		}
		id, err := identityOf(&x509.Certificate{Subject: pkix.Name{CommonName: commonName}, URIs: []*url.URL{uri}})
		if err != nil {
			if id != (Identity{}) {
				t.Errorf("%q: refused, but it names %+v", text, id)
			}
			return
		}
		if spelt := "spiffe://" + id.Cluster + "/" + string(id.Kind) + "/" + id.lastSegment(); uri.String() != spelt {
			t.Errorf("%q is a second spelling of %s", text, spelt)
		}
		if (id.Kind == KindClient) != (id.Role != "") || id.Kind == KindMember && id.Name != strings.TrimPrefix(uri.Path, "/member/") {
			t.Errorf("%q names %+v", text, id)
		}
	})
}

package access

import (
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/tls"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/asn1"
	"math/big"
	"net/url"
	"reflect"
	"strings"
	"testing"
	"time"

	"github.com/go-jose/go-jose/v4"

	"github.com/omnirelay/leadership/adapters/transport"
	"github.com/omnirelay/leadership/core"
	"github.com/omnirelay/leadership/core/logpb"
)

// selfSigned is a certificate of somebody else's authority, as if it were trusted.
func selfSigned(t testing.TB, template *x509.Certificate) *x509.Certificate {
	t.Helper()
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	template.SerialNumber, template.NotBefore, template.NotAfter = big.NewInt(1), start.Add(-time.Hour), start.Add(time.Hour)
	der, err := x509.CreateCertificate(rand.Reader, template, template, &key.PublicKey, key)
	if err != nil {
		t.Fatal(err)
	}
	cert, err := x509.ParseCertificate(der)
	if err != nil {
		t.Fatal(err)
	}
	return cert
}

var (
	shardGrant = Grant{Kind: "shard", Namespace: "ns", MaxPriority: 5}
	jobGrant   = Grant{ID: "job"}
)

// entries are the access.grants of these tests.
func entries() []Entry {
	return []Entry{
		{Match: "spiffe://test.cluster/member/worker-*", Grants: []Grant{shardGrant}},
		{Match: "spiffe://test.cluster/member/worker-1", Roles: []Role{RoleOperate}, Grants: []Grant{jobGrant}},
		{Match: "spiffe://test.cluster/client/operate", Roles: []Role{RoleMember}, Member: "console", Grants: []Grant{jobGrant}},
		{Match: "subject:CN=billing,O=Example", Roles: []Role{RoleRead}},
		{Match: "subject:CN=twice", Roles: []Role{RoleMember}, Member: "a"},
		{Match: "subject:CN=twice", Roles: []Role{RoleMember}, Member: "b"},
	}
}

func TestCertificates(t *testing.T) {
	a := newAuthority(t, testCluster)
	auth := newAuthenticator(t, Options{Entries: entries(), AnonymousRead: true})
	subject := func(name pkix.Name, uris ...string) Evidence {
		template := &x509.Certificate{Subject: name}
		for _, text := range uris {
			uri, err := url.Parse(text)
			if err != nil {
				t.Fatal(err)
			}
			template.URIs = append(template.URIs, uri)
		}
		return showing(selfSigned(t, template))
	}
	// Of two common names a pkix.Name keeps the last, and would read as CN=billing,O=Example.
	commonName, organization := asn1.ObjectIdentifier{2, 5, 4, 3}, asn1.ObjectIdentifier{2, 5, 4, 10}
	two := pkix.RDNSequence{{{Type: commonName, Value: "evil"}}, {{Type: organization, Value: "Example"}}, {{Type: commonName, Value: "billing"}}}
	rawTwo, err := asn1.Marshal(two)
	if err != nil {
		t.Fatal(err)
	}
	for name, tc := range map[string]struct {
		evidence Evidence
		want     Caller // without Cluster, Key and Expires
		refused  string
	}{
		"read":            {a.show(t, client(transport.RoleRead)), Caller{Name: "client/read", Role: RoleRead}, ""},
		"admin":           {a.show(t, client(transport.RoleAdmin)), Caller{Name: "client/admin", Role: RoleAdmin}, ""},
		"given a member":  {a.show(t, client(transport.RoleOperate)), Caller{Name: "client/operate", Role: RoleOperate, Member: "console", Grants: []Grant{jobGrant}}, ""},
		"a bare member":   {a.show(t, memberNamed("idle")), Caller{Name: "member/idle", Member: "idle"}, ""},
		"a worker":        {a.show(t, memberNamed("worker-2")), Caller{Name: "member/worker-2", Member: "worker-2", Grants: []Grant{shardGrant}}, ""},
		"entries add up":  {a.show(t, memberNamed("worker-1")), Caller{Name: "member/worker-1", Role: RoleOperate, Member: "worker-1", Grants: []Grant{shardGrant, jobGrant}}, ""},
		"almost a worker": {a.show(t, memberNamed("xworker-1")), Caller{Name: "member/xworker-1", Member: "xworker-1"}, ""},
		"a subject":       {subject(pkix.Name{CommonName: "billing", Organization: []string{"Example"}}), Caller{Name: "subject/CN=billing,O=Example", Role: RoleRead}, ""},

		"a node":                  {a.show(t, transport.Identity{Kind: transport.KindNode, Name: "node-1"}), Caller{}, "node/node-1 is a node, and nodes call nodes"},
		"another cluster":         {newAuthority(t, "other").show(t, client(transport.RoleAdmin)), Caller{}, `of cluster "other"`},
		"a member of another":     {newAuthority(t, "other").show(t, memberNamed("worker-1")), Caller{}, `of cluster "other"`},
		"an unknown subject":      {subject(pkix.Name{CommonName: "stranger"}), Caller{}, "is not known here"},
		"half a subject":          {subject(pkix.Name{CommonName: "billing"}), Caller{}, "is not known here"},
		"a subject and more":      {subject(pkix.Name{CommonName: "billing", Organization: []string{"Example"}, Country: []string{"XX"}}), Caller{}, "is not known here"},
		"a subject in one name":   {subject(pkix.Name{CommonName: "billing,O=Example"}), Caller{}, "is not known here"},
		"two common names":        {showing(selfSigned(t, &x509.Certificate{RawSubject: rawTwo})), Caller{}, "is not known here"},
		"a node with the subject": {subject(pkix.Name{CommonName: "billing", Organization: []string{"Example"}}, "spiffe://test.cluster/node/n"), Caller{}, "is a node"},
		"a foreign SPIFFE id":     {subject(pkix.Name{CommonName: "billing", Organization: []string{"Example"}}, "spiffe://test.cluster/ns/x"), Caller{}, `kind: "ns"`},
		"a second URI":            {subject(pkix.Name{CommonName: "x"}, "https://a.example", "spiffe://test.cluster/client/admin"), Caller{}, "want exactly one"},
		"a kind there is not":     {subject(pkix.Name{CommonName: "x"}, "spiffe://test.cluster/client/root"), Caller{}, "role"},
		"SPIFFE in capitals":      {subject(pkix.Name{CommonName: "billing", Organization: []string{"Example"}}, "SPIFFE://test.cluster/client/root"), Caller{}, "certificate"},
		"two members":             {subject(pkix.Name{CommonName: "twice"}), Caller{}, "make subject/CN=twice both a and b"},
	} {
		t.Run(name, func(t *testing.T) {
			got, err := auth.Authenticate(t.Context(), tc.evidence)
			if tc.refused != "" {
				wantDenied(t, err, false, tc.refused)
				return
			}
			if err != nil {
				t.Fatal(err)
			}
			if got.Cluster != testCluster || got.Key == "" || got.Expires != tc.evidence.TLS.VerifiedChains[0][0].NotAfter {
				t.Errorf("have %+v", got)
			}
			got.Cluster, got.Key, got.Expires = "", "", time.Time{}
			if !reflect.DeepEqual(got, tc.want) {
				t.Errorf("have %+v, want %+v", got, tc.want)
			}
		})
	}
}

// TestAMembersNameIsNoSubject: our authority writes a member's id as its subject, so
// whoever may choose that id must not choose a subject that is granted more.
func TestAMembersNameIsNoSubject(t *testing.T) {
	auth := newAuthenticator(t, Options{Entries: []Entry{{Match: "subject:CN=console", Roles: []Role{RoleAdmin}}}})
	c, err := auth.Authenticate(t.Context(), newAuthority(t, testCluster).show(t, memberNamed("console")))
	if err != nil || c.Role != "" || c.MayAdmin() == nil {
		t.Errorf("%+v, %v", c, err)
	}
}

// TestACertificateEndsOnAnOpenConnection: the handshake saw it good.
func TestACertificateEndsOnAnOpenConnection(t *testing.T) {
	c := newClock()
	auth := newAuthenticator(t, Options{now: c.now, AnonymousRead: true})
	e := newAuthority(t, testCluster).show(t, client(transport.RoleAdmin))
	if _, err := auth.Authenticate(t.Context(), e); err != nil {
		t.Fatal(err)
	}
	c.pass(24*time.Hour + time.Second)
	_, err := auth.Authenticate(t.Context(), e)
	wantDenied(t, err, true, "the certificate ended at 2026-05-02T12:00:00Z")
}

func TestAnonymous(t *testing.T) {
	closed, open := newAuthenticator(t, Options{}), newAuthenticator(t, Options{AnonymousRead: true})
	for _, e := range []Evidence{{}, {TLS: &tls.ConnectionState{}}} {
		_, err := closed.Authenticate(t.Context(), e)
		wantDenied(t, err, true, "no client certificate was presented")
		c, err := open.Authenticate(t.Context(), e)
		if err != nil || !c.Anonymous || c.MayRead() != nil || c.Cluster != testCluster {
			t.Errorf("%+v, %v", c, err)
		}
		wantDenied(t, c.MayOperate(), true, "anonymous has mesh.read; want mesh.operate")
		wantDenied(t, c.MayActAs("a"), true, "want mesh.member for a")
	}
	// A certificate that no handshake verified is none.
	e := newAuthority(t, testCluster).show(t, client(transport.RoleAdmin))
	e.TLS = &tls.ConnectionState{PeerCertificates: e.TLS.VerifiedChains[0]}
	_, err := closed.Authenticate(t.Context(), e)
	wantDenied(t, err, true, "no client certificate")
	// Bad evidence is no missing evidence.
	for _, e := range []Evidence{bearer("x"), {Authorization: []string{"Basic YTpi"}}} {
		if _, err := open.Authenticate(t.Context(), e); err == nil {
			t.Errorf("%+v may read", e)
		}
	}
}

func TestNetworksOfAnonymousCallers(t *testing.T) {
	for remote, want := range map[string]string{
		"192.0.2.7:4711": "192.0.2.7/32", "192.0.2.7": "192.0.2.7/32", "[::ffff:192.0.2.7]:1": "192.0.2.7/32",
		"[2001:db8:1:2:3:4:5:6]:443": "2001:db8:1:2::/64", "2001:db8:1:2::9": "2001:db8:1:2::/64", "[fe80::1%eth0]:1": "fe80::/64",
		"": "unknown", "pipe": "unknown", "@": "unknown", "localhost:1": "unknown",
	} {
		if got := Anonymous(remote).Key; got != "anonymous/"+want {
			t.Errorf("%q is counted as %s", remote, got)
		}
	}
}

// TestACertificateAndAToken: the token decides alone, and never for another member.
func TestACertificateAndAToken(t *testing.T) {
	s := newSigner(t, "k1", jose.EdDSA)
	o := withKeys(t, s)
	o.Entries = entries()
	auth := newAuthenticator(t, o)
	a := newAuthority(t, testCluster)
	memberClaims := func(name string) map[string]any {
		return map[string]any{"roles": []string{"mesh.member"}, "member": name, "grants": []any{map[string]any{"id": "job"}}}
	}
	both := func(e Evidence, changes map[string]any) Evidence {
		e.Authorization = []string{"Bearer " + s.sign(t, good(changes), nil)}
		return e
	}
	admin, worker, node := a.show(t, client(transport.RoleAdmin)), a.show(t, memberNamed("worker-1")), a.show(t, transport.Identity{Kind: transport.KindNode, Name: "n"})

	c, err := auth.Authenticate(t.Context(), both(admin, map[string]any{"roles": []string{"mesh.read"}}))
	if err != nil || c.Name != "bearer/alice" || c.Role != RoleRead {
		t.Errorf("a proxy's rights leak: %+v, %v", c, err)
	}
	c, err = auth.Authenticate(t.Context(), both(admin, memberClaims("w")))
	if err != nil || c.Member != "w" || c.Role != "" {
		t.Errorf("%+v, %v", c, err)
	}
	c, err = auth.Authenticate(t.Context(), both(worker, memberClaims("worker-1")))
	if err != nil || c.Member != "worker-1" || !reflect.DeepEqual(c.Grants, []Grant{jobGrant}) {
		t.Errorf("grants add up: %+v, %v", c, err)
	}
	_, err = auth.Authenticate(t.Context(), both(worker, memberClaims("worker-2")))
	wantDenied(t, err, false, "the certificate is of the member worker-1")
	_, err = auth.Authenticate(t.Context(), both(worker, nil))
	wantDenied(t, err, false, "the certificate is of the member worker-1")
	_, err = auth.Authenticate(t.Context(), both(node, nil))
	wantDenied(t, err, false, "is a node")
	_, err = auth.Authenticate(t.Context(), both(newAuthority(t, "other").show(t, client(transport.RoleAdmin)), nil))
	wantDenied(t, err, false, "of cluster")
	// A bad token is not made good by a certificate.
	_, err = auth.Authenticate(t.Context(), both(admin, map[string]any{"exp": 1}))
	wantDenied(t, err, true, "exp: it ended")
}

func TestBadOptionsAreRefused(t *testing.T) {
	const own = "spiffe://test.cluster/member/a"
	for name, tc := range map[string]struct {
		entry Entry
		want  string
	}{
		"nothing":           {Entry{}, "match: "},
		"a role":            {Entry{Match: own, Roles: []Role{"admin"}}, "role: "},
		"another cluster":   {Entry{Match: "spiffe://other/member/a"}, "match: "},
		"a longer cluster":  {Entry{Match: "spiffe://test.cluster.evil/member/a"}, "match: "},
		"a node":            {Entry{Match: "spiffe://test.cluster/node/a"}, "match: "},
		"no name":           {Entry{Match: "spiffe://test.cluster/member/"}, "match: "},
		"star in between":   {Entry{Match: "spiffe://test.cluster/member/*a"}, "match: "},
		"two stars":         {Entry{Match: "spiffe://test.cluster/member/a**"}, "match: "},
		"every kind":        {Entry{Match: "spiffe://test.cluster/*"}, "match: "},
		"deeper":            {Entry{Match: "spiffe://test.cluster/member/a/b"}, "match: "},
		"no subject":        {Entry{Match: "subject:"}, "match: "},
		"a second name":     {Entry{Match: own, Member: "b"}, "member: is given"},
		"no name to act as": {Entry{Match: "subject:CN=a", Roles: []Role{RoleMember}}, "member: "},
		"grants of nobody":  {Entry{Match: "subject:CN=a", Roles: []Role{RoleRead}, Grants: []Grant{jobGrant}}, "add it"},
		"an empty grant":    {Entry{Match: own, Grants: []Grant{{}}}, "no condition"},
		"a priority":        {Entry{Match: own, Grants: []Grant{{ID: "job", MaxPriority: core.MaxPriority + 1}}}, "maxPriority"},
	} {
		_, err := New(Options{Cluster: testCluster, Entries: []Entry{tc.entry}})
		if err == nil || !strings.HasPrefix(err.Error(), "access: grants[0]: ") || !strings.Contains(err.Error(), tc.want) {
			t.Errorf("%s: %v, want it to say %q", name, err, tc.want)
		}
	}
	if _, err := New(Options{}); err == nil {
		t.Error("no cluster is no problem")
	}
	if _, err := New(Options{Cluster: testCluster, Entries: make([]Entry, maxEntries+1)}); err == nil || !strings.Contains(err.Error(), "at most 1024") {
		t.Error(err)
	}
}

// TestWhoMayDoWhat is the table of docs/security.md: every credential against every
// operation.
func TestWhoMayDoWhat(t *testing.T) {
	s := newSigner(t, "k1", jose.EdDSA)
	o := withKeys(t, s)
	o.Entries, o.AnonymousRead = entries(), true
	auth := newAuthenticator(t, o)
	a := newAuthority(t, testCluster)
	token := func(changes map[string]any) Evidence { return bearer(s.sign(t, good(changes), nil)) }
	roles := func(names ...string) map[string]any { return map[string]any{"roles": names} }

	operations := []string{"read", "operate", "admin", "act as worker-2", "stand for shard/ns/1", "stand at priority 6", "stand for all", "stand for global-control"}
	for name, tc := range map[string]struct {
		evidence Evidence
		may      string // one letter for each operation
	}{
		"nobody":              {Evidence{}, "y-------"},
		"client/read":         {a.show(t, client(transport.RoleRead)), "y-------"},
		"client/operate":      {newAuthority(t, testCluster).show(t, transport.Identity{Kind: transport.KindClient, Role: transport.RoleOperate}), "yy------"},
		"client/admin":        {a.show(t, client(transport.RoleAdmin)), "yyy-----"},
		"member/worker-2":     {a.show(t, memberNamed("worker-2")), "y--yy---"},
		"member/worker-3":     {a.show(t, memberNamed("worker-3")), "y---y---"},
		"member/idle":         {a.show(t, memberNamed("idle")), "y-------"},
		"token without role":  {token(roles()), "--------"},
		"token mesh.read":     {token(roles("mesh.read")), "y-------"},
		"token mesh.operate":  {token(roles("mesh.operate")), "yy------"},
		"token mesh.admin":    {token(roles("mesh.admin")), "yyy-----"},
		"token mesh.member":   {token(memberToken("worker-2", map[string]any{"kind": "shard", "namespace": "ns"})), "y--yy---"},
		"token of everything": {token(memberToken("worker-2", map[string]any{"id": "*", "maxPriority": 10})), "y--yyyyy"},
		"token global":        {token(memberToken("boss", map[string]any{"id": "global-control"})), "y------y"},
	} {
		c, err := auth.Authenticate(t.Context(), tc.evidence)
		if err != nil {
			t.Errorf("%s: %v", name, err)
			continue
		}
		for i, err := range []error{
			c.MayRead(), c.MayOperate(), c.MayAdmin(), c.MayActAs("worker-2"), c.MayStand(&logpb.Selector{Id: "shard/ns/1"}, 0),
			c.MayStand(&logpb.Selector{Id: "shard/ns/1"}, 6), c.MayStand(nil, 0), c.MayStand(&logpb.Selector{Id: core.GlobalControl}, 0),
		} {
			if may := tc.may[i] == 'y'; may != (err == nil) {
				t.Errorf("%s: %s: %v, want allowed %v", name, operations[i], err, may)
			}
			if err != nil {
				wantDenied(t, err, c.Anonymous, c.Name+" has ")
			}
		}
	}
	worker := Caller{Name: "member/a", Member: "a", Grants: []Grant{{Kind: "custom"}}}
	wantDenied(t, worker.MayStand(&logpb.Selector{Id: "job"}, 0), false, "an id says nothing of kind and labels")
	if err := worker.MayStand(&logpb.Selector{Id: "job", Kind: "custom"}, 0); err != nil {
		t.Error(err)
	}
	var nobody Caller
	for _, err := range []error{nobody.MayRead(), nobody.MayOperate(), nobody.MayAdmin(), nobody.MayActAs(""), nobody.MayStand(nil, 0)} {
		wantDenied(t, err, true, "nobody has no role")
	}
	if _, ok := CallerFrom(t.Context()); ok {
		t.Error("a caller out of nothing")
	}
	if c, ok := CallerFrom(WithCaller(t.Context(), Caller{Name: "x"})); !ok || c.Name != "x" {
		t.Errorf("%+v", c)
	}
}

func memberToken(name string, grant map[string]any) map[string]any {
	return map[string]any{"roles": []string{"mesh.member"}, "member": name, "grants": []any{grant}}
}

// TestARefusalFillsNoLog: whatever a certificate or a caller says stays short and on
// one line.
func TestARefusalFillsNoLog(t *testing.T) {
	long := strings.Repeat("x\n", 5000)
	auth := newAuthenticator(t, Options{Entries: []Entry{{Match: "subject:CN=a", Roles: []Role{RoleRead}}}})
	cert := selfSigned(t, &x509.Certificate{Subject: pkix.Name{CommonName: long}})
	_, certErr := auth.Authenticate(t.Context(), showing(cert))
	c := Caller{Name: "member/a", Member: "a"}
	for _, err := range []error{certErr, c.MayActAs(long), c.MayStand(&logpb.Selector{Id: long, Kind: long, Namespace: long}, 0)} {
		if err == nil || len(err.Error()) > 700 || strings.Contains(err.Error(), "\n") {
			t.Errorf("%d bytes: %.100q", len(err.Error()), err)
		}
	}
	names := map[string]bool{}
	for _, name := range []string{"a\nb", "a?b", "a\tb"} {
		e := newAuthority(t, testCluster).show(t, transport.Identity{Kind: transport.KindClient, Role: transport.RoleRead, Name: name})
		got, err := auth.Authenticate(t.Context(), e)
		if err != nil || len(got.Name) > core.MaxActor || printable(got.Name) != got.Name {
			t.Errorf("%q, %v", got.Name, err)
		}
		names[got.Name] = true
	}
	for _, text := range []string{long, long + "x", strings.Repeat("ü", 300), strings.Repeat("ü", 301)} {
		name := clipName(text)
		if len(name) > core.MaxActor-len("subject/") || printable(name) != name {
			t.Errorf("%q", name)
		}
		names[name] = true
	}
	if len(names) != 7 {
		t.Errorf("callers that differ are named alike: %v", names)
	}
}

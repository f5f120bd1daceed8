package config

import (
	"os"
	"path/filepath"
	"reflect"
	"strings"
	"testing"
	"time"
)

func TestAccessDefaults(t *testing.T) {
	c, problems := load(least)
	if problems != "" {
		t.Fatal(problems)
	}
	want := Limits{Connections: 4096, ConnectionsPerAddress: 512, StreamsPerCaller: 128, RequestsPerSecond: 200, Burst: 400,
		SessionsPerMember: 4, HandshakeTimeout: 5 * time.Second, RequestBytes: 65536}
	if c.Limits != want || c.Access.AnonymousRead || len(c.Access.Grants) != 0 || c.Access.Bearer != (Bearer{Audience: "demo"}) ||
		c.Tokens != (Tokens{Lifetime: time.Hour}) || !c.Listeners.HTTP3 {
		t.Errorf("defaults %+v %+v %+v %+v", c.Access, c.Limits, c.Tokens, c.Listeners)
	}
	example, err := Load("testdata/example.yaml", nil)
	if err != nil {
		t.Fatal(err)
	}
	if example.Limits != want || example.Tokens.Lifetime != time.Hour || example.Listeners.HTTP3 != c.Listeners.HTTP3 {
		t.Errorf("the example shows other defaults: %+v %+v", example.Limits, example.Tokens)
	}
}

func TestAccessIsReadWhole(t *testing.T) {
	c, problems := load(least+`    access:
      anonymousRead: true
      grants:
        - match: spiffe://demo/member/worker-*
          scopes: [{kind: shard, namespace: ns, labels: {team: ""}}, billing/x, "*"]
          maxPriority: -3
        - {match: "subject:CN=a,O=b", roles: [mesh.member, mesh.operate], member: a_1}
      bearer: {jwks: keys.json, issuer: someone, audience: other}
    limits: {connections: 1, connectionsPerAddress: 2, streamsPerCaller: 3, requestsPerSecond: 4, burst: 5, sessionsPerMember: 6, handshakeTimeout: 7s, requestBytes: 8192}
    peers: [{id: node-1, address: "a:1", http: "b:2", grpc: "c:3"}]
`, "MESH_LEADERSHIP__TOKENS__KEYS=/k/tokens.json", "MESH_LEADERSHIP__TOKENS__LIFETIME=2h", "MESH_LEADERSHIP__LISTENERS__HTTP3=false")
	if problems != "" {
		t.Fatal(problems)
	}
	want := Access{AnonymousRead: true, Grants: []AccessGrant{
		{Match: "spiffe://demo/member/worker-*", MaxPriority: -3, Scopes: []GrantScope{
			{Kind: "shard", Namespace: "ns", Labels: map[string]string{"team": ""}}, {ID: "billing/x"}, {ID: "*"}}},
		{Match: "subject:CN=a,O=b", Roles: []string{"mesh.member", "mesh.operate"}, Member: "a_1"},
	}, Bearer: Bearer{JWKS: "keys.json", Issuer: "someone", Audience: "other"}}
	if !reflect.DeepEqual(c.Access, want) {
		t.Errorf("access %+v, want %+v", c.Access, want)
	}
	if (c.Limits != Limits{1, 2, 3, 4, 5, 6, 7 * time.Second, 8192}) || c.Tokens != (Tokens{"/k/tokens.json", 2 * time.Hour}) || c.Listeners.HTTP3 ||
		c.Peers[0] != (Peer{ID: "node-1", Address: "a:1", HTTP: "b:2", GRPC: "c:3"}) {
		t.Errorf("read %+v %+v %+v", c.Limits, c.Tokens, c.Peers)
	}
	c.anchorPaths("/etc/mesh")
	if c.Access.Bearer.JWKS != "/etc/mesh/keys.json" || c.Tokens.Keys != "/k/tokens.json" {
		t.Errorf("anchored %q %q", c.Access.Bearer.JWKS, c.Tokens.Keys)
	}
	c.Access.Bearer.JWKS = "https://id.example/keys"
	if c.anchorPaths("/etc/mesh"); c.Access.Bearer.JWKS != "https://id.example/keys" {
		t.Errorf("a URL was anchored: %q", c.Access.Bearer.JWKS)
	}
}

func TestAccessProblems(t *testing.T) {
	grant := func(text string) string { return "    access: {grants: [" + text + "]}\n" }
	bearer := func(text string) string { return "    access: {bearer: {" + text + "}}\n" }
	for text, want := range map[string]string{
		"    access: {anonymousread: true}\n":                                                                "node.yaml:8: mesh.leadership.access.anonymousread: unknown key; did you mean anonymousRead?",
		grant("{roles: [mesh.read]}"):                                                                        "access.grants[0].match: is missing",
		grant("{match: 'CN=a', roles: [mesh.read]}"):                                                         `match: "CN=a" matches nothing; write spiffe://`,
		grant("{match: 'spiffe://demo/member/', scopes: [a]}"):                                               "matches nothing",
		grant("{match: 'spiffe://demo/node/*', roles: [mesh.read]}"):                                         "matches nothing",
		grant("{match: 'spiffe://demo/member/*-a', scopes: [a]}"):                                            "matches nothing",
		grant("{match: 'spiffe://other/member/a', scopes: [a]}"):                                             "is of another cluster; this is spiffe://demo",
		grant("{match: 'spiffe://demo/member/a'}"):                                                           "access.grants[0]: gives nothing",
		grant("{match: 'spiffe://demo/member/a', member: b, scopes: [a]}"):                                   "member: is written, but the certificate names the member",
		grant("{match: 'subject:CN=a', roles: [mesh.member]}"):                                               "member: is missing; name the member",
		grant("{match: 'subject:CN=a', roles: [mesh.read], scopes: [a]}"):                                    "roles: has no mesh.member, but member or scopes are written",
		grant("{match: 'subject:CN=a', roles: [read]}"):                                                      `roles[0]: "read" is unknown; one of mesh.read, mesh.operate, mesh.admin, mesh.member`,
		grant("{match: 'subject:CN=a', roles: [mesh.member], member: 'a b'}"):                                `member: "a b" has a byte`,
		grant("{match: 'spiffe://demo/member/a', scopes: [{}]}"):                                             "scopes[0]: has no condition",
		grant("{match: 'spiffe://demo/member/a', scopes: [{labels: {}}]}"):                                   "scopes[0]: has no condition",
		grant("{match: 'spiffe://demo/member/a', scopes: [{id: ''}]}"):                                       "scopes[0].id: is empty",
		grant("{match: 'spiffe://demo/member/a', scopes: [{kind: shard, namespace: ''}]}"):                   "scopes[0].namespace: is empty; write what is compared",
		grant("{match: 'spiffe://demo/member/a', scopes: ['']}"):                                             "scopes[0]: is empty",
		grant("{match: 'spiffe://demo/member/a', scopes: [{id: '*', kind: a}]}"):                             "scopes[0]: has every scope and conditions",
		grant("{match: 'spiffe://demo/member/a', scopes: ['a//b']}"):                                         "scopes[0]: an empty name or segment",
		grant("{match: 'spiffe://demo/member/a', scopes: [a], maxPriority: 2000000}"):                        "maxPriority: 2000000 is out of bounds",
		grant("{match: 'spiffe://demo/member/a', scopes: [" + strings.Repeat("a, ", MaxGrantScopes) + "a]}"): "scopes: 65 scopes; at most 64 are right",
		grant(strings.Repeat("{match: 'spiffe://demo/member/a', scopes: [a]}, ", MaxAccessGrants) + "{}"):    "access.grants: 1025 entries; at most 1024 are right",
		bearer("issuer: a"):                                                  "access.bearer.jwks: is missing",
		bearer("jwks: 'http://id.example/keys'"):                             "is neither a file nor an https URL",
		bearer("jwks: 'https://u:secretword@id.example/k'"):                  "jwks: holds a user or a fragment",
		bearer("jwks: keys.json, ca: ca.pem"):                                "ca: is written, but jwks is a file",
		bearer("jwks: keys.json, audience: ''"):                              "audience: is empty",
		"    limits: {connections: 0}\n":                                     "limits.connections: 0 is out of bounds; from 1 to 100000 is right",
		"    limits: {requestsPerSecond: 0}\n":                               "limits.requestsPerSecond: 0 is out of bounds",
		"    limits: {burst: -1}\n":                                          "limits.burst: -1 is out of bounds",
		"    limits: {handshakeTimeout: 0s}\n":                               "limits.handshakeTimeout: 0s is out of bounds; from 100ms to 1m0s",
		"    limits: {requestBytes: 100}\n":                                  "limits.requestBytes: 100 is out of bounds; from 1024 to 1048576",
		"    tokens: {lifetime: 0s}\n":                                       "tokens.lifetime: 0s is out of bounds; from 1m0s to 24h0m0s",
		"    tokens: {key: a}\n":                                             "tokens.key: unknown key; did you mean keys?",
		"    peers: [{id: node-1, address: 'a:1', http: b}]\n":               `peers[0].http: "b" is no address`,
		"    peers: [{id: node-1, address: '127.0.0.1:7413', grpc: ':0'}]\n": `peers[0].grpc: ":0" cannot be reached`,
	} {
		_, got := load(least + text)
		if !strings.Contains(got, want) || strings.Contains(got, "secretword") {
			t.Errorf("%s: have\n%s\nwant it to contain\n%s", text, got, want)
		}
		if strings.Count(got, "\n") > 0 {
			t.Errorf("%s: one mistake, more problems:\n%s", text, got)
		}
	}
	_, got := load(least, "MESH_LEADERSHIP__ACCESS__GRANTS=[{match: 'spiffe://demo/member/a', scopes: [{kind: ''}]}]")
	if !strings.Contains(got, "access.grants[0].scopes[0].kind: is empty") {
		t.Errorf("through the environment an empty condition is taken: %q", got)
	}
}

// What the example shows of bearer tokens, uncommented, is valid.
func TestExampleBearerIsValid(t *testing.T) {
	data, err := os.ReadFile("testdata/example.yaml")
	if err != nil {
		t.Fatal(err)
	}
	text := string(data)
	for _, key := range []string{"bearer:", "  jwks:", "  ca:", "  issuer:", "  audience:", "keys:"} {
		if strings.Count(text, "      # "+key) != 1 {
			t.Fatalf("the example does not show %s", key)
		}
		text = strings.Replace(text, "      # "+key, "      "+key, 1)
	}
	path := filepath.Join(t.TempDir(), "node.yaml")
	if err := os.WriteFile(path, []byte(text), 0o600); err != nil {
		t.Fatal(err)
	}
	c, err := Load(path, nil)
	if err != nil {
		t.Fatal(err)
	}
	if b := c.Access.Bearer; !b.Remote() || b.Issuer == "" || b.Audience != c.ClusterID || c.Tokens.Keys == "" {
		t.Errorf("read %+v %+v", b, c.Tokens)
	}
}

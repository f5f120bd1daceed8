package cluster_test

import (
	"bytes"
	"crypto/tls"
	"errors"
	"io"
	"net/http"
	"regexp"
	"strings"
	"testing"
	"time"

	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/credentials"
	"google.golang.org/grpc/status"

	"github.com/omnirelay/leadership/adapters/transport"
	"github.com/omnirelay/leadership/tests/cluster/harness"
	"github.com/omnirelay/leadership/wire/controlpb"
)

// TestBadInput throws at a cluster what it must refuse. Each refusal is clear, and
// afterwards the cluster is as it was, and works.
func TestBadInput(t *testing.T) {
	c := harness.New(t, harness.Options{Settings: "rebalanceInterval: off\n"})
	before := c.AwaitSettled(20 * time.Second)
	t.Run("configurations", func(t *testing.T) { badConfigurations(t, c.Nodes[0]) })
	t.Run("requests", func(t *testing.T) { badRequests(t, c.Nodes[0]) })
	t.Run("garbage", func(t *testing.T) { badBytes(t, c.Nodes[0]) })
	t.Run("subscriptions", func(t *testing.T) { badSubscriptions(t, c) })
	t.Run("certificates", func(t *testing.T) { badCertificates(t, c) })
	t.Run("a second process", func(t *testing.T) { secondProcess(t, c) })

	after := c.AwaitSettled(20 * time.Second)
	if err := after.SameTokens(before); err != nil {
		t.Errorf("the leaders changed: %v", err)
	}
	// It still works: a node that ends hands over, and the registry moves on.
	n := c.Nodes[0]
	n.Terminate()
	if code := n.AwaitExit(15 * time.Second); code != 0 {
		t.Errorf("%s ended with code %d", n.ID, code)
	}
	harness.Await(t, 5*time.Second, n.ID+" succeeded in all its scopes", func() error { return succeeded(c.Others(n), n.ID, after) })
	n.Start()
	if last := c.AwaitSettled(20 * time.Second); last.Revision <= after.Revision {
		t.Errorf("the revision stayed at %d", last.Revision)
	}
	verifyAudit(t, c)
}

// badConfigurations are refused by config check and by serve, with file, line, key
// and what would be right.
func badConfigurations(t *testing.T, n *harness.Node) {
	for name, bad := range map[string]struct{ old, replacement, says string }{
		"unknown key":            {"nodeId:", "leaseDurations: 2s\n    nodeId:", `:3: mesh\.leadership\.leaseDurations: .*leaseDuration`},
		"unknown section":        {"mesh:", "meshes: {}\nmesh:", `:1: meshes: .*mesh`},
		"a day's lease":          {"nodeId:", "leaseDuration: 24h\n    nodeId:", `:3: mesh\.leadership\.leaseDuration: .*out of bounds; from 100ms to 1h`},
		"no lease at all":        {"nodeId:", "leaseDuration: 0s\n    nodeId:", `:3: mesh\.leadership\.leaseDuration: .*out of bounds`},
		"a negative lease":       {"nodeId:", "leaseDuration: -2s\n    nodeId:", `:3: mesh\.leadership\.leaseDuration: `},
		"no duration":            {"nodeId:", "leaseDuration: soon\n    nodeId:", `:3: mesh\.leadership\.leaseDuration: .*soon`},
		"a duration too far":     {"nodeId:", "leaseDuration: 99999999h\n    nodeId:", `:3: mesh\.leadership\.leaseDuration: `},
		"a window too short":     {"nodeId:", "maxElectionWindow: 3s\n    nodeId:", `:3: mesh\.leadership\.maxElectionWindow: 3s is shorter than .*at least`},
		"heartbeats too slow":    {"nodeId:", "heartbeatInterval: 500ms\n    nodeId:", `:3: mesh\.leadership\.heartbeatInterval: .*less than a third`},
		"a port out of range":    {n.HTTP, "127.0.0.1:77777", `mesh\.leadership\.listeners\.http: .*host:port`},
		"a node that is no peer": {"nodeId: node-1", "nodeId: node-9", `:3: mesh\.leadership\.nodeId: .*not among the peers`},
		"malformed YAML":         {"nodeId:", "nodeId: [\n    nodeId:", `yaml|YAML`},
	} {
		path := n.Rewrite(bad.old, bad.replacement)
		for _, args := range [][]string{{"config", "check", path}, {"serve", "--config", path}} {
			out, code := harness.Output(t, 10*time.Second, "leaderd", args...)
			if code == 0 || !regexp.MustCompile(bad.says).MatchString(out) || !strings.Contains(out, path) {
				t.Errorf("%s: leaderd %s ended with code %d and said %q, want %s", name, args[0], code, out, bad.says)
			}
		}
	}
	if out, code := harness.Output(t, 10*time.Second, "leaderd", "config", "check", n.Config); code != 0 {
		t.Errorf("config check refuses the configuration that is in use: %s", out)
	}
	if out, code := harness.Output(t, 10*time.Second, "leaderd", "serve", "--config", n.Config+".missing"); code == 0 || !strings.Contains(out, "no such file") {
		t.Errorf("a missing configuration: code %d, %s", code, out)
	}
}

// badRequests are answered by problem documents that name the field.
func badRequests(t *testing.T, n *harness.Node) {
	long := strings.Repeat("x", 5000)
	for name, bad := range map[string]struct {
		method, path string
		header       http.Header
		body         io.Reader
		status       int
		says         string
	}{
		"unknown scope":             {path: "/control/leaders?scope=nobody", status: 404, says: "nobody"},
		"malformed scope":           {path: "/control/leaders?scope=%00", status: 400, says: "scope"},
		"scope too long":            {path: "/control/leaders?scope=" + strings.Repeat("x", 300), status: 400, says: "scope"},
		"query too long":            {path: "/control/leaders?scope=" + long, status: 414, says: "query"},
		"unknown parameter":         {path: "/control/leaders?scopes=global-control", status: 400, says: "scopes"},
		"no truth":                  {path: "/control/leaders?linearizable=maybe", status: 400, says: "linearizable"},
		"events of unknown scope":   {path: "/control/events/leadership?scope=nobody", status: 404, says: "nobody"},
		"no cursor":                 {path: "/control/events/leadership", header: http.Header{"Last-Event-ID": {"first"}}, status: 400, says: "first"},
		"audit without bound":       {path: "/control/audit?limit=1000000", status: 400, says: "limit"},
		"audit of the past":         {path: "/control/audit?after=-1", status: 400, says: "after"},
		"unknown path":              {path: "/control/nothing", status: 404, says: "/control/nothing"},
		"method":                    {method: http.MethodDelete, path: "/control/leaders", status: 405, says: "GET"},
		"a body":                    {method: http.MethodGet, path: "/control/leaders", body: strings.NewReader("{}"), status: 413, says: "body"},
		"an oversize body":          {method: http.MethodPost, path: "/control/leaders", body: bytes.NewReader(make([]byte, 16<<20)), status: 405, says: "GET"},
		"unknown parameter of held": {path: "/control/held?scope=global-control", status: 400, says: "scope"},
	} {
		if bad.method == "" {
			bad.method = http.MethodGet
		}
		a, err := n.Ask(bad.method, bad.path, bad.body, bad.header)
		if err != nil {
			t.Errorf("%s: %v", name, err)
			continue
		}
		problem, err := a.Problem()
		if err != nil || a.Status != bad.status || problem.Status != bad.status || problem.Title == "" ||
			!strings.Contains(problem.Field+" "+problem.Detail+" "+problem.Title, bad.says) {
			t.Errorf("%s: status %d, %s (%v), want %d saying %q", name, a.Status, a.Body, err, bad.status, bad.says)
		}
	}
	large := http.Header{"X-Large": {strings.Repeat("x", 64<<10)}}
	a, err := n.AskHTTP1(http.MethodGet, "/control/leaders", large)
	if err != nil || a.Status != http.StatusRequestHeaderFieldsTooLarge {
		t.Errorf("a header of 64 KiB was answered with %+v, %v", a, err)
	}
}

// badBytes are no protocol at all: every listener closes such a connection.
func badBytes(t *testing.T, n *harness.Node) {
	for name, address := range map[string]string{"http": n.HTTP, "grpc": n.GRPC, "peer": n.Peer} {
		if err := harness.SendGarbage(address, bytes.Repeat([]byte("GET / HTTP/1.1\r\n\x00\xff"), 4096)); err != nil {
			t.Errorf("the %s listener: %v", name, err)
		}
	}
}

func badSubscriptions(t *testing.T, c *harness.Cluster) {
	creds := credentials.NewTLS(c.ClientTLS(issue(t, c.Authority, transport.RoleRead)))
	for name, bad := range map[string]struct {
		request *controlpb.LeadershipSubscribeRequest
		code    codes.Code
		says    string
	}{
		"unknown scope":          {&controlpb.LeadershipSubscribeRequest{Scope: "nobody"}, codes.NotFound, "nobody"},
		"malformed scope":        {&controlpb.LeadershipSubscribeRequest{Scope: "a b"}, codes.InvalidArgument, "scope"},
		"scope too long":         {&controlpb.LeadershipSubscribeRequest{Scope: strings.Repeat("x", 300)}, codes.InvalidArgument, "scope"},
		"an oversize request":    {&controlpb.LeadershipSubscribeRequest{Scope: strings.Repeat("x", 1<<20)}, codes.ResourceExhausted, "larger than max"},
		"ordinal, but no cursor": {&controlpb.LeadershipSubscribeRequest{FromOrdinal: 7}, codes.InvalidArgument, "from_revision"},
	} {
		_, err := harness.Subscribe(c.Nodes[0].GRPC, creds, bad.request)
		if status.Code(err) != bad.code || !strings.Contains(err.Error(), bad.says) {
			t.Errorf("%s: %v, want %v saying %q", name, err, bad.code, bad.says)
		}
	}
}

func issue(t *testing.T, a *transport.Authority, role transport.Role) transport.Pair {
	t.Helper()
	pair, err := a.IssueClient(role)
	if err != nil {
		t.Fatal(err)
	}
	return pair
}

// badCertificates: who is not of this cluster, or not who the listener is for, is
// not let in.
func badCertificates(t *testing.T, c *harness.Cluster) {
	n := c.Nodes[0]
	stranger, err := transport.NewAuthority(c.Authority.Cluster())
	if err != nil {
		t.Fatal(err)
	}
	nodeOfStranger, err := stranger.IssueNode("node-2")
	if err != nil {
		t.Fatal(err)
	}
	node, err := c.Authority.IssueNode("node-2")
	if err != nil {
		t.Fatal(err)
	}
	read, other, none := issue(t, c.Authority, transport.RoleRead), issue(t, stranger, transport.RoleRead), transport.Pair{}

	a, err := harness.Ask(c.ClientOf(none), 5*time.Second, http.MethodGet, n.URL+"/control/leaders", nil, nil)
	if err != nil {
		t.Fatal(err)
	}
	if problem, err := a.Problem(); err != nil || a.Status != http.StatusUnauthorized || problem.Code != "unauthenticated" {
		t.Errorf("HTTP without a certificate: status %d, %s", a.Status, a.Body)
	}
	if a, err = harness.Ask(c.ClientOf(none), 5*time.Second, http.MethodGet, n.URL+"/readyz", nil, nil); err != nil || a.Status != http.StatusOK {
		t.Errorf("a probe without a certificate: %v, %+v", err, a)
	}
	old := c.ClientTLS(read)
	old.MinVersion, old.MaxVersion = tls.VersionTLS12, tls.VersionTLS12
	ask := func(config *tls.Config) func() error { return func() error { return askTLS(t, n, config) } }
	subscribe := func(config *tls.Config) func() error { return func() error { return subscribeTLS(n, config) } }
	exchange := func(config *tls.Config) func() error { return func() error { return harness.Exchange(n.Peer, config) } }
	for _, refused := range []struct {
		what string
		call func() error
		says string
		logs string
	}{
		{"HTTP, another authority's", ask(c.ClientTLS(other)), "certificate", ""},
		{"HTTP, an old version of TLS", ask(old), "protocol version", ""},
		{"gRPC, no certificate", subscribe(c.ClientTLS(none)), "no client certificate was presented", ""},
		{"HTTP, a node's certificate", ask(c.ClientTLS(node)), "nodes call nodes", ""},
		{"gRPC, a node's certificate", subscribe(c.ClientTLS(node)), "nodes call nodes", ""},
		{"gRPC, another authority's", subscribe(c.ClientTLS(other)), "certificate", "certificate signed by unknown authority"},
		{"peer, no certificate", exchange(c.ClientTLS(none)), "certificate", "client didn't provide a certificate"},
		{"peer, another authority's", exchange(c.ClientTLS(nodeOfStranger)), "certificate", "certificate signed by unknown authority"},
		{"peer, a client's certificate", exchange(c.ClientTLS(read)), "client's certificate; only nodes may do this", ""},
		{"peer, an admin's certificate", exchange(c.ClientTLS(issue(t, c.Authority, transport.RoleAdmin))), "only nodes may do this", ""},
	} {
		refusedClearly(t, n, refused.what, refused.call, refused.says, refused.logs)
	}
}

// refusedClearly checks that a call is refused, again and again until it says why.
// In TLS 1.3 a client often sees no more than a broken connection: then the node's
// log, where such lines are rare on purpose, must say it.
func refusedClearly(t *testing.T, n *harness.Node, what string, call func() error, says, logs string) {
	t.Helper()
	before := n.LogSize()
	harness.Await(t, 10*time.Second, what+" refused clearly", func() error {
		err := call()
		if err == nil {
			t.Fatalf("%s: was let in", what)
		}
		if strings.Contains(err.Error(), says) || logs != "" && n.LoggedSince(before, logs) {
			return nil
		}
		return err
	})
}

func askTLS(t *testing.T, n *harness.Node, config *tls.Config) error {
	client := &http.Client{Transport: &http.Transport{TLSClientConfig: config}}
	t.Cleanup(client.CloseIdleConnections)
	a, err := harness.Ask(client, 5*time.Second, http.MethodGet, n.URL+"/control/leaders", nil, nil)
	if err == nil && a.Status != http.StatusOK {
		return errors.New(string(a.Body))
	}
	return err
}

func subscribeTLS(n *harness.Node, config *tls.Config) error {
	_, err := harness.Subscribe(n.GRPC, credentials.NewTLS(config), &controlpb.LeadershipSubscribeRequest{})
	return err
}

// secondProcess: neither the data nor the ports of a running node can be had.
func secondProcess(t *testing.T, c *harness.Cluster) {
	n := c.Nodes[0]
	refusesToServe(t, "the data of a running process", n.Config, "uses this data directory", "stop it")
	addresses := map[string]string{"http": n.HTTP, "grpc": n.GRPC, "peer": n.Peer}
	for key, taken := range addresses {
		rewrites := []string{n.DataDir, t.TempDir()}
		for other, address := range addresses {
			if other != key {
				rewrites = append(rewrites, address, c.FreeAddress())
			}
		}
		refusesToServe(t, "the "+key+" port of a running process", n.Rewrite(rewrites...), "listeners."+key, taken, "address already in use")
	}
}

// refusesToServe checks that leaderd serve ends with an error that says all this.
func refusesToServe(t *testing.T, what, config string, says ...string) (said string) {
	t.Helper()
	out, code := harness.Output(t, 10*time.Second, "leaderd", "serve", "--config", config)
	if code != 1 {
		t.Errorf("%s: code %d, want 1", what, code)
	}
	for _, text := range says {
		if !strings.Contains(out, text) {
			t.Errorf("%s: %s; want it to say %q", what, out, text)
		}
	}
	return out
}

func verifyAudit(t *testing.T, c *harness.Cluster) {
	t.Helper()
	if err := c.AwaitTrail(10 * time.Second).Verify(); err != nil {
		t.Errorf("audit: %v", err)
	}
}

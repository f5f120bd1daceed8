package observability_test

import (
	"context"
	"crypto/tls"
	"errors"
	"fmt"
	"net/http"
	"path/filepath"
	"testing"
	"time"

	"github.com/omnirelay/leadership/adapters/client"
	"github.com/omnirelay/leadership/adapters/transport"
	"github.com/omnirelay/leadership/tests/cluster/harness"
	"github.com/omnirelay/leadership/wire/controlpb"
)

// grants let members stand for the scope nightly.
const grants = `access:
  grants:
    - {match: "spiffe://cluster-test/member/*", scopes: [job/nightly], maxPriority: 100}
`

// nightly is a scope that only one member stands for: without it the scope is vacant.
const nightly = "job/nightly"

// load is what clients and operators do on a cluster.
type load struct {
	t        *testing.T
	c        *harness.Cluster
	read     *tls.Config
	registry controlpb.LeadershipRegistryServiceClient // as admin
}

func newLoad(t *testing.T, c *harness.Cluster, door *harness.Node) *load {
	t.Helper()
	l := &load{t: t, c: c, read: tlsOf(t, c, transport.RoleRead)}
	admin := tlsOf(t, c, transport.RoleAdmin)
	l.registry = controlpb.NewLeadershipRegistryServiceClient(l.channel(door, admin, transport.OnlyHTTP2))
	return l
}

// tlsOf proves itself by a certificate of the role.
func tlsOf(t *testing.T, c *harness.Cluster, role transport.Role) *tls.Config {
	t.Helper()
	pair, err := c.Authority.IssueClient(role)
	must(t, err)
	return c.ClientTLS(pair)
}

func (l *load) channel(n *harness.Node, config *tls.Config, prefer transport.Preference) *transport.Channel {
	l.t.Helper()
	channel, err := transport.NewChannel(transport.ChannelOptions{Address: n.GRPC, TLS: config.Clone, Prefer: prefer})
	must(l.t, err)
	l.t.Cleanup(func() { _ = channel.Close() })
	return channel
}

// follow opens an event stream for every API and protocol, and returns when each has
// told something.
func (l *load) follow(n *harness.Node) {
	l.t.Helper()
	began := make(chan string)
	ctx, cancel := context.WithCancel(context.Background())
	ended := make(chan struct{}, 8)
	want := 0
	open := func(name string, f func(ctx context.Context, first func()) error) {
		want++
		go func() {
			defer func() { ended <- struct{}{} }()
			told := false
			err := f(ctx, func() {
				if !told {
					told = true
					began <- name
				}
			})
			if !told && ctx.Err() == nil {
				began <- fmt.Sprintf("%s: %v", name, err)
			}
		}()
	}
	open("ok", l.grpcStream(n, transport.OnlyHTTP2))
	open("ok", l.grpcStream(n, transport.OnlyHTTP3))
	open("ok", l.sseStream(n, transport.OnlyHTTP2))
	open("ok", l.sseStream(n, transport.OnlyHTTP3))
	l.t.Cleanup(func() {
		cancel()
		for range want {
			<-ended
		}
	})
	for range want {
		if said := <-began; said != "ok" {
			l.t.Fatal(said)
		}
	}
	l.c.OpenEventSource(harness.SourceOptions{Pick: harness.Always(n), HTTP1: true})
}

func (l *load) grpcStream(n *harness.Node, prefer transport.Preference) func(context.Context, func()) error {
	channel := l.channel(n, l.read, prefer)
	return func(ctx context.Context, first func()) error {
		stream, err := controlpb.NewLeadershipControlServiceClient(channel).Subscribe(ctx, &controlpb.LeadershipSubscribeRequest{})
		for err == nil {
			if _, err = stream.Recv(); err == nil {
				first()
			}
		}
		return err
	}
}

func (l *load) sseStream(n *harness.Node, prefer transport.Preference) func(context.Context, func()) error {
	return func(ctx context.Context, first func()) error {
		rt, err := transport.NewRoundTripper(transport.RoundTripperOptions{TLS: l.read.Clone, Prefer: prefer})
		if err != nil {
			return err
		}
		defer func() { _ = rt.Close() }()
		req, err := http.NewRequestWithContext(ctx, http.MethodGet, n.URL+"/control/events/leadership", nil)
		if err != nil {
			return err
		}
		resp, err := (&http.Client{Transport: rt}).Do(req)
		if err != nil {
			return err
		}
		defer resp.Body.Close()
		buffer := make([]byte, 4096)
		for {
			read, err := resp.Body.Read(buffer)
			if read > 0 {
				first()
			}
			if err != nil {
				return err
			}
		}
	}
}

// refuse makes calls that every node refuses: of a stranger, and of a reader who
// wants to change something.
func (l *load) refuse(n *harness.Node) {
	l.t.Helper()
	stranger := l.c.ClientOf(transport.Pair{})
	for _, call := range []struct {
		client *http.Client
		method string
		path   string
		status int
	}{
		{stranger, http.MethodGet, "/control/leaders", http.StatusUnauthorized},
		{&http.Client{Transport: &http.Transport{TLSClientConfig: l.read.Clone()}}, http.MethodPost, "/control/members/node-1/cordon", http.StatusForbidden},
	} {
		header := http.Header{"Content-Type": {"application/json"}}
		a, err := harness.Ask(call.client, 5*time.Second, call.method, n.URL+call.path, nil, header)
		must(l.t, err)
		if a.Status != call.status {
			l.t.Errorf("%s %s: status %d, want %d: %s", call.method, call.path, a.Status, call.status, a.Body)
		}
		call.client.CloseIdleConnections()
	}
}

// declare declares the scope that only a client of ours stands for, and has it led.
// The function that it returns ends that member.
func (l *load) declare() (leave func()) {
	l.t.Helper()
	ctx, cancel := context.WithTimeout(context.Background(), 20*time.Second)
	defer cancel()
	_, err := l.registry.DeclareScopes(ctx, &controlpb.DeclareScopesRequest{RequestId: "nightly", Scopes: []*controlpb.ScopeSpec{
		{Id: nightly},
	}})
	must(l.t, err)
	m := l.member("nightly-1")
	leads, stop := context.WithCancel(context.Background())
	gained, result := make(chan struct{}, 1), make(chan error, 1)
	go func() {
		result <- m.Run(leads, []client.Scope{{ID: nightly}}, func(ctx context.Context, _ client.Token) error {
			gained <- struct{}{}
			<-ctx.Done()
			return nil
		})
	}()
	leave = func() {
		stop()
		if err := <-result; err != nil {
			l.t.Errorf("Run: %v", err)
		}
		must(l.t, m.Close())
	}
	select {
	case <-gained:
	case err := <-result:
		l.t.Fatalf("Run: %v", err)
	case <-ctx.Done():
		leave()
		l.t.Fatal("nobody led " + nightly)
	}
	return leave
}

func (l *load) member(id string) *client.Client {
	l.t.Helper()
	dir := l.t.TempDir()
	pair, err := l.c.Authority.IssueMember(id)
	must(l.t, err)
	files := transport.Files{CA: filepath.Join(dir, "ca.pem"), Cert: filepath.Join(dir, "cert.pem"), Key: filepath.Join(dir, "key.pem")}
	must(l.t, transport.WriteFile(files.CA, l.c.Authority.CertPEM(), 0o600))
	must(l.t, pair.Save(files.Cert, files.Key))
	o := client.Options{MemberID: id, TLS: files, Cluster: l.c.Authority.Cluster()}
	for _, n := range l.c.Nodes {
		o.Endpoints = append(o.Endpoints, n.GRPC)
	}
	m, err := client.New(o)
	must(l.t, err)
	return m
}

// drain moves everything away from the member. The function that it returns lets it be
// elected again.
func (l *load) drain(id string) (uncordon func()) {
	l.t.Helper()
	ctx, cancel := context.WithTimeout(context.Background(), 20*time.Second)
	defer cancel()
	harness.Await(l.t, 10*time.Second, "the registry's version knowing drains", func() error {
		_, err := l.registry.Cordon(ctx, &controlpb.CordonRequest{RequestId: "drain", MemberId: id, Drain: true, Why: "to be seen on the board"})
		return err
	})
	harness.Await(l.t, 10*time.Second, id+" drained", func() error {
		leaders, err := l.c.Node(id).Leaders()
		if err == nil && len(leaders.LedBy(id)) > 0 {
			err = errors.New("it leads " + fmt.Sprint(len(leaders.LedBy(id))))
		}
		return err
	})
	return func() {
		l.t.Helper()
		ctx, cancel := context.WithTimeout(context.Background(), 20*time.Second)
		defer cancel()
		_, err := l.registry.Uncordon(ctx, &controlpb.UncordonRequest{RequestId: "back", MemberId: id, Why: "seen"})
		must(l.t, err)
	}
}

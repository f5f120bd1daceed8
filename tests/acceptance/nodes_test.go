package acceptance_test

import (
	"context"
	"crypto/tls"
	"errors"
	"fmt"
	"path/filepath"
	"testing"
	"time"

	"github.com/omnirelay/leadership/adapters/client"
	"github.com/omnirelay/leadership/adapters/transport"
	"github.com/omnirelay/leadership/core"
	"github.com/omnirelay/leadership/tests/cluster/harness"
	"github.com/omnirelay/leadership/wire/controlpb"
)

// grants let every member stand for the shards.
const grants = `access:
  grants:
    - {match: "spiffe://cluster-test/member/*", scopes: [{kind: shard}], maxPriority: 100}
`

// shard is one that no node stands for.
const shard = "shard/acceptance/07"

// declare declares the shard.
func declare(t *testing.T, c *harness.Cluster) {
	t.Helper()
	pair, err := c.Authority.IssueClient(transport.RoleAdmin)
	if err != nil {
		t.Fatal(err)
	}
	channel, err := transport.NewChannel(transport.ChannelOptions{Address: c.Nodes[0].GRPC, TLS: func() *tls.Config { return c.ClientTLS(pair) }})
	if err != nil {
		t.Fatal(err)
	}
	defer channel.Close()
	ctx, cancel := context.WithTimeout(t.Context(), 10*time.Second)
	defer cancel()
	request := &controlpb.DeclareScopesRequest{RequestId: "declare", Scopes: []*controlpb.ScopeSpec{{Id: shard}}}
	if _, err := controlpb.NewLeadershipRegistryServiceClient(channel).DeclareScopes(ctx, request); err != nil {
		t.Fatal(err)
	}
}

// ledByOthers is nil when all that nodes led is led without one of them.
func ledByOthers(c *harness.Cluster, gone *harness.Node) error {
	leaders, err := c.Others(gone)[0].Leaders()
	if err != nil {
		return err
	}
	if n := len(leaders.LedBy(gone.ID)); n > 0 || len(leaders.ByScope) != harness.ScopeCount+1 {
		return fmt.Errorf("%d scopes are led, %d of them by %s", len(leaders.ByScope), n, gone.ID)
	}
	return nil
}

// member is a client with a certificate of the cluster's.
func member(t *testing.T, c *harness.Cluster, id string) *client.Client {
	t.Helper()
	dir := t.TempDir()
	pair, err := c.Authority.IssueMember(id)
	if err != nil {
		t.Fatal(err)
	}
	files := transport.Files{CA: filepath.Join(dir, "ca.pem"), Cert: filepath.Join(dir, "cert.pem"), Key: filepath.Join(dir, "key.pem")}
	if err := transport.WriteFile(files.CA, c.Authority.CertPEM(), 0o600); err != nil {
		t.Fatal(err)
	}
	if err := pair.Save(files.Cert, files.Key); err != nil {
		t.Fatal(err)
	}
	o := client.Options{MemberID: id, TLS: files, Cluster: c.Authority.Cluster()}
	for _, n := range c.Nodes {
		o.Endpoints = append(o.Endpoints, n.GRPC)
	}
	m, err := client.New(o)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = m.Close() }) // of a cluster that may be gone
	return m
}

// led is what a call of Run's function was given.
type led struct {
	ctx   context.Context
	token client.Token
}

// lead stands for the shard before all others, and returns the calls.
func lead(t *testing.T, m *client.Client) (begun, ended <-chan led) {
	t.Helper()
	calls, ends := make(chan led, 16), make(chan led, 16)
	ctx, stop := context.WithCancel(context.Background())
	result := make(chan error, 1)
	go func() {
		result <- m.Run(ctx, []client.Scope{{ID: shard, Priority: 100}}, func(ctx context.Context, token client.Token) error {
			calls <- led{ctx, token}
			<-ctx.Done()
			ends <- led{ctx, token}
			return nil
		})
	}()
	t.Cleanup(func() {
		stop()
		if err := <-result; err != nil {
			t.Errorf("Run: %v", err)
		}
	})
	return calls, ends
}

func first(t *testing.T, calls <-chan led) led {
	t.Helper()
	select {
	case l := <-calls:
		return l
	case <-time.After(harness.StartWithin):
		t.Fatal("the member was not elected")
		return led{}
	}
}

// TestASessionOutlivesTheNodesThatItIsAttachedTo restarts every node, one after the
// other, by kill, by SIGTERM and by a pause: the member goes on under the same fence.
func TestASessionOutlivesTheNodesThatItIsAttachedTo(t *testing.T) {
	c := harness.New(t, harness.Options{Settings: grants})
	declare(t, c)
	m := member(t, c, "keeper")
	calls, ended := lead(t, m)
	begun := first(t, calls)
	for i, n := range c.Nodes {
		switch i {
		case 0:
			n.Kill()
		case 1:
			n.Terminate()
			n.AwaitExit(30 * time.Second)
		default:
			n.Pause()
		}
		harness.Await(t, 10*time.Second, "all led without "+n.ID, func() error { return ledByOthers(c, n) })
		if i == 2 {
			n.Resume()
		} else {
			n.Start()
		}
		harness.Await(t, harness.StartWithin, n.ID+" ready again", n.Ready)
		select {
		case l := <-ended:
			t.Fatalf("without %s the leadership ended: %v", n.ID, context.Cause(l.ctx))
		default:
		}
		if token, holds := m.Holds(shard); !holds || token.Fence != begun.token.Fence {
			t.Fatalf("without %s it went from %+v to %+v, %t", n.ID, begun.token, token, holds)
		}
	}
}

// TestALeadershipIsLostByTheOwnClockWhenAllNodesAreGone: nothing tells it but the clock.
func TestALeadershipIsLostByTheOwnClockWhenAllNodesAreGone(t *testing.T) {
	c := harness.New(t, harness.Options{Settings: grants})
	declare(t, c)
	m := member(t, c, "keeper")
	calls, ended := lead(t, m)
	first(t, calls)
	gone := time.Now()
	for _, n := range c.Nodes {
		n.Pause()
	}
	select {
	case l := <-ended:
		if took := time.Since(gone); took > core.DefaultTTL {
			t.Errorf("it took %v, longer than the lease", took)
		}
		if cause := context.Cause(l.ctx); !errors.Is(cause, client.ErrLeaseLapsed) {
			t.Errorf("it ended since %v", cause)
		}
	case <-time.After(2 * core.DefaultTTL):
		t.Fatal("it goes on")
	}
	for _, n := range c.Nodes {
		n.Resume()
	}
	again := first(t, calls)
	if token, holds := m.Holds(shard); !holds || token.Fence != again.token.Fence {
		t.Errorf("it leads again with %+v and holds %+v, %t", again.token, token, holds)
	}
}

// TestAMemberIsRefusedWhatIsNotGranted: nobody takes global-control by asking loudly.
func TestAMemberIsRefusedWhatIsNotGranted(t *testing.T) {
	c := harness.New(t, harness.Options{Settings: grants, Nodes: 1})
	declare(t, c)
	m := member(t, c, "upstart")
	ctx, cancel := context.WithTimeout(t.Context(), 20*time.Second)
	defer cancel()
	for name, scope := range map[string]client.Scope{
		"another scope":     {ID: core.GlobalControl},
		"a higher priority": {ID: shard, Priority: 101},
	} {
		err := m.Run(ctx, []client.Scope{scope}, func(context.Context, client.Token) error {
			t.Errorf("%s: it leads", name)
			return nil
		})
		if err == nil {
			t.Errorf("%s: Run went on until it was stopped", name)
		}
		t.Logf("%s: %v", name, err)
	}
}

package figures

import (
	"bufio"
	"context"
	"crypto/tls"
	"fmt"
	"io"
	"net/http"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"google.golang.org/grpc"

	"github.com/omnirelay/leadership/adapters/transport"
	"github.com/omnirelay/leadership/tests/cluster/harness"
	"github.com/omnirelay/leadership/wire/controlpb"
)

// subscribers is how many streams are open at the same time, each on a connection of
// its own.
const subscribers = 1000

// subscriberSettings let one caller open them.
const subscriberSettings = `streams: {max: 4000}
limits: {connections: 8192, connectionsPerAddress: 8192, streamsPerCaller: 4000, requestsPerSecond: 10000, burst: 10000, handshakeTimeout: 60s}
leaseDuration: 10s
maxElectionWindow: 20s
log: {level: warn}
`

// opening is how many streams are opened at the same time: handshakes are not what is
// measured.
const opening = 16

// BenchmarkDelivery measures what one event costs a node, for each subscriber that it
// is delivered to: processor time of leaderd over events received. One operation is
// one scope declared and retired again, two events.
func BenchmarkDelivery(b *testing.B) {
	for _, kind := range []struct {
		name   string
		follow func(b *testing.B, s *site) func(ctx context.Context, got func()) error
	}{
		{"grpc-http2", grpcOver(transport.OnlyHTTP2)},
		{"grpc-http3", grpcOver(transport.OnlyHTTP3)},
		{"sse-http2", sseOver(transport.OnlyHTTP2)},
		{"sse-http3", sseOver(transport.OnlyHTTP3)},
	} {
		b.Run(kind.name, func(b *testing.B) { deliver(b, kind.follow) })
	}
}

// site is a single node and how it is called.
type site struct {
	node        *harness.Node
	read, admin *tls.Config
}

func newSite(b *testing.B) *site {
	c := harness.New(b, harness.Options{Nodes: 1, Settings: subscriberSettings})
	config := func(role transport.Role) *tls.Config {
		pair, err := c.Authority.IssueClient(role)
		if err != nil {
			b.Fatal(err)
		}
		return c.ClientTLS(pair)
	}
	return &site{c.Nodes[0], config(transport.RoleRead), config(transport.RoleAdmin)}
}

func deliver(b *testing.B, kind func(*testing.B, *site) func(context.Context, func()) error) {
	s := newSite(b)
	follow := kind(b, s)
	ctx, cancel := context.WithCancel(b.Context())
	defer cancel()
	var received atomic.Int64
	var running sync.WaitGroup
	failed := make(chan error, subscribers)
	doors := make(chan struct{}, opening)
	for range subscribers {
		running.Go(func() {
			doors <- struct{}{}
			open := sync.OnceFunc(func() { <-doors })
			defer open()
			err := follow(ctx, func() {
				received.Add(1)
				open()
			})
			if err != nil && ctx.Err() == nil {
				failed <- err
			}
		})
	}
	await := func(n int64) {
		for deadline := time.Now().Add(2 * time.Minute); received.Load() < n; time.Sleep(time.Millisecond) {
			select {
			case err := <-failed:
				b.Fatal(err)
			default:
			}
			if time.Now().After(deadline) {
				b.Fatalf("%d events of %d arrived", received.Load(), n)
			}
		}
	}
	const snapshot = harness.ScopeCount + 1 // and the mark at its end
	await(subscribers * snapshot)
	admin := channel(b, s.node.GRPC, s.admin, transport.OnlyHTTP2)
	registry := controlpb.NewLeadershipRegistryServiceClient(admin)
	before := s.node.CPU()
	const scope = "job/delivered"
	for i := range b.N {
		_, err := registry.DeclareScopes(ctx, &controlpb.DeclareScopesRequest{Scopes: []*controlpb.ScopeSpec{{Id: scope}}})
		if err == nil {
			_, err = registry.RetireScopes(ctx, &controlpb.RetireScopesRequest{Scopes: []string{scope}})
		}
		if err != nil {
			b.Fatal(err)
		}
		await(subscribers * (snapshot + int64(i+1)*2))
	}
	events := subscribers * 2 * float64(b.N)
	b.ReportMetric(float64((s.node.CPU()-before).Nanoseconds())/events/1000, "cpu-us/event")
	cancel()
	running.Wait()
}

func channel(b *testing.B, address string, config *tls.Config, prefer transport.Preference) *transport.Channel {
	ch, err := transport.NewChannel(transport.ChannelOptions{Address: address, TLS: config.Clone, Prefer: prefer, DeadAfter: time.Minute})
	if err != nil {
		b.Fatal(err)
	}
	b.Cleanup(func() { _ = ch.Close() })
	return ch
}

func grpcOver(prefer transport.Preference) func(*testing.B, *site) func(context.Context, func()) error {
	return func(b *testing.B, s *site) func(context.Context, func()) error {
		return func(ctx context.Context, got func()) error {
			client := controlpb.NewLeadershipControlServiceClient(channel(b, s.node.GRPC, s.read, prefer))
			var stream grpc.ServerStreamingClient[controlpb.LeadershipEvent]
			stream, err := client.Subscribe(ctx, &controlpb.LeadershipSubscribeRequest{})
			for err == nil {
				if _, err = stream.Recv(); err == nil {
					got()
				}
			}
			return err
		}
	}
}

func sseOver(prefer transport.Preference) func(*testing.B, *site) func(context.Context, func()) error {
	return func(b *testing.B, s *site) func(context.Context, func()) error {
		return func(ctx context.Context, got func()) error {
			rt, err := transport.NewRoundTripper(transport.RoundTripperOptions{TLS: s.read.Clone, Prefer: prefer, DeadAfter: time.Minute})
			if err != nil {
				return err
			}
			defer func() { _ = rt.Close() }()
			req, err := http.NewRequestWithContext(ctx, http.MethodGet, s.node.URL+"/control/events/leadership", nil)
			if err != nil {
				return err
			}
			resp, err := (&http.Client{Transport: rt}).Do(req)
			if err != nil {
				return err
			}
			defer resp.Body.Close()
			if resp.StatusCode != http.StatusOK {
				text, _ := io.ReadAll(io.LimitReader(resp.Body, 1<<10))
				return fmt.Errorf("%s: %s", resp.Status, text)
			}
			lines := bufio.NewScanner(resp.Body)
			for lines.Scan() {
				if strings.HasPrefix(lines.Text(), "data:") {
					got()
				}
			}
			return lines.Err()
		}
	}
}

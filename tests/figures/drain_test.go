package figures

import (
	"context"
	"fmt"
	"path/filepath"
	"slices"
	"sync"
	"testing"
	"time"

	"github.com/omnirelay/leadership/adapters/client"
	"github.com/omnirelay/leadership/adapters/transport"
	"github.com/omnirelay/leadership/tests/cluster/harness"
	"github.com/omnirelay/leadership/wire/controlpb"
)

// drained is how many scopes a member leads that is drained.
const drained = 1000

// drainSettings let three members stand for them.
const drainSettings = `access:
  grants:
    - {match: "spiffe://cluster-test/member/*", scopes: [{kind: job}], maxPriority: 100}
log: {level: warn}
`

// BenchmarkDrain drains a member that leads a thousand scopes, attached like any other
// process to a cluster of three leaderd. What it reports is from the call of the operator
// until others act in every scope, and how long nobody acted in a scope: from the end of
// its leader's function to the beginning of its successor's.
func BenchmarkDrain(b *testing.B) {
	for range b.N { // all of it counts, so that there are few
		c := harness.New(b, harness.Options{Settings: drainSettings})
		registry := controlpb.NewLeadershipRegistryServiceClient(adminOf(b, c))
		declareJobs(b, registry)
		acts := &deeds{at: map[string][]deed{}}
		acts.lead(b, c, "drained", 100)
		acts.await(b, func(last map[string]deed) int { return countBy(last, "drained") })
		acts.lead(b, c, "left-1", 0)
		acts.lead(b, c, "left-2", 0)
		awaitStanding(b, registry, 3+3) // those of the nodes

		var start time.Time
		harness.Await(b, 20*time.Second, "the registry's version knowing drains", func() error {
			start = time.Now()
			_, err := registry.Cordon(b.Context(), &controlpb.CordonRequest{RequestId: "drain", MemberId: "drained", Drain: true, Why: "to be measured"})
			return err
		})
		acts.await(b, func(last map[string]deed) int { return countBy(last, "left-1") + countBy(last, "left-2") })
		took, gaps := acts.since(b, start)
		b.ReportMetric(took.Seconds()*1000, "drain-ms")
		b.ReportMetric(float64(gaps[len(gaps)/2].Microseconds())/1000, "unled-p50-ms")
		b.ReportMetric(float64(gaps[len(gaps)*99/100].Microseconds())/1000, "unled-p99-ms")
		b.ReportMetric(float64(gaps[len(gaps)-1].Microseconds())/1000, "unled-max-ms")
	}
}

func must(t testing.TB, err error) {
	t.Helper()
	if err != nil {
		t.Fatal(err)
	}
}

func adminOf(b *testing.B, c *harness.Cluster) *transport.Channel {
	pair, err := c.Authority.IssueClient(transport.RoleAdmin)
	must(b, err)
	return channel(b, c.Nodes[0].GRPC, c.ClientTLS(pair), transport.OnlyHTTP2)
}

func declareJobs(b *testing.B, registry controlpb.LeadershipRegistryServiceClient) {
	jobs := &controlpb.DeclareScopesRequest{RequestId: "jobs"}
	for i := range drained {
		jobs.Scopes = append(jobs.Scopes, &controlpb.ScopeSpec{Id: fmt.Sprintf("job/%04d", i), Kind: "job"})
	}
	_, err := registry.DeclareScopes(b.Context(), jobs)
	must(b, err)
}

// awaitStanding waits until so many sessions stand for something.
func awaitStanding(b *testing.B, registry controlpb.LeadershipRegistryServiceClient, want int) {
	harness.Await(b, 20*time.Second, "every member standing", func() error {
		answer, err := registry.ListSessions(b.Context(), &controlpb.ListSessionsRequest{})
		if err != nil {
			return err
		}
		standing := 0
		for _, s := range answer.GetSessions() {
			if len(s.GetStands()) > 0 {
				standing++
			}
		}
		if standing != want {
			return fmt.Errorf("%d sessions stand, want %d", standing, want)
		}
		return nil
	})
}

// deed is the beginning or the end of one leader's acting in a scope.
type deed struct {
	member string
	begun  bool
	at     time.Time
}

// deeds are what all members did, by scope, in order.
type deeds struct {
	mu sync.Mutex
	at map[string][]deed
}

func (d *deeds) note(scope, member string, begun bool) {
	d.mu.Lock()
	defer d.mu.Unlock()
	d.at[scope] = append(d.at[scope], deed{member, begun, time.Now()})
}

// lead starts a member that stands for all jobs.
func (d *deeds) lead(b *testing.B, c *harness.Cluster, id string, priority int32) {
	m := memberOf(b, c, id)
	ctx, stop := context.WithCancel(context.Background())
	result := make(chan error, 1)
	go func() {
		result <- m.Run(ctx, []client.Scope{{Kind: "job", Priority: priority}}, func(ctx context.Context, token client.Token) error {
			d.note(token.Scope, id, true)
			<-ctx.Done()
			d.note(token.Scope, id, false)
			return nil
		})
	}()
	b.Cleanup(func() {
		stop()
		if err := <-result; err != nil {
			b.Errorf("%s: %v", id, err)
		}
		_ = m.Close() // its cluster may be gone
	})
}

func memberOf(b *testing.B, c *harness.Cluster, id string) *client.Client {
	dir := b.TempDir()
	pair, err := c.Authority.IssueMember(id)
	must(b, err)
	files := transport.Files{CA: filepath.Join(dir, "ca.pem"), Cert: filepath.Join(dir, "cert.pem"), Key: filepath.Join(dir, "key.pem")}
	must(b, transport.WriteFile(files.CA, c.Authority.CertPEM(), 0o600))
	must(b, pair.Save(files.Cert, files.Key))
	o := client.Options{MemberID: id, TLS: files, Cluster: c.Authority.Cluster(), UnsignedTokens: true}
	for _, n := range c.Nodes {
		o.Endpoints = append(o.Endpoints, n.GRPC)
	}
	m, err := client.New(o)
	must(b, err)
	return m
}

// await waits until the count of scopes, of what last happened in each, is that of all.
func (d *deeds) await(b *testing.B, count func(last map[string]deed) int) {
	harness.Await(b, time.Minute, "every scope acted in", func() error {
		d.mu.Lock()
		defer d.mu.Unlock()
		last := make(map[string]deed, len(d.at))
		for scope, all := range d.at {
			last[scope] = all[len(all)-1]
		}
		if n := count(last); n != drained {
			return fmt.Errorf("%d of %d are", n, drained)
		}
		return nil
	})
}

// countBy counts the scopes in which the member acts.
func countBy(last map[string]deed, member string) (n int) {
	for _, one := range last {
		if one.begun && one.member == member {
			n++
		}
	}
	return n
}

// since is the time from a call until the last successor acted, and the times in which
// nobody did, shortest first. Two at a time must never have acted.
func (d *deeds) since(b *testing.B, start time.Time) (took time.Duration, gaps []time.Duration) {
	d.mu.Lock()
	defer d.mu.Unlock()
	for scope, all := range d.at {
		for i, one := range all {
			switch {
			case one.begun != (i%2 == 0):
				b.Errorf("%s: two acted: %v", scope, all)
			case i > 0 && one.begun && all[i-1].at.After(start):
				gaps = append(gaps, one.at.Sub(all[i-1].at))
				took = max(took, one.at.Sub(start))
			}
		}
	}
	if len(gaps) < drained {
		b.Fatalf("%d hand-overs of %d scopes", len(gaps), drained)
	}
	slices.Sort(gaps)
	return took, gaps
}

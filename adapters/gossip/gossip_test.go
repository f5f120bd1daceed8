package gossip

import (
	"context"
	"fmt"
	"log/slog"
	"os"
	"path/filepath"
	"slices"
	"sync"
	"testing"
	"time"

	"go.uber.org/goleak"

	"github.com/omnirelay/leadership/core"
)

func TestMain(m *testing.M) {
	if role := os.Getenv(childVariable); role != "" {
		os.Exit(playRole(role))
	}
	// A probe of memberlist's that was under way ends at its time-out, also after a shutdown.
	goleak.VerifyTestMain(m, goleak.IgnoreAnyFunction("github.com/hashicorp/memberlist.(*Memberlist).probeNode"))
}

// within is how long anything may take on a machine that does much else besides.
const within = 20 * time.Second

// until waits for a condition.
func until(t testing.TB, what string, holds func() bool) {
	t.Helper()
	deadline := time.Now().Add(within)
	for !holds() {
		if time.Now().After(deadline) {
			t.Fatalf("not within %v: %s", within, what)
		}
		time.Sleep(2 * time.Millisecond)
	}
}

// mesh makes members of one cluster for a test.
type mesh struct {
	t       testing.TB
	keyFile string
}

func newMesh(t testing.TB) *mesh {
	t.Helper()
	m := &mesh{t: t, keyFile: filepath.Join(t.TempDir(), "keys")}
	if _, err := CreateKeyFile(m.keyFile); err != nil {
		t.Fatal(err)
	}
	return m
}

// member is one Gossip with what it delivered.
type member struct {
	*Gossip
	t    testing.TB
	stop func() // ends it at once, as a crash would

	mu     sync.Mutex
	news   []core.GossipNews
	claims []core.Claim
	lease  time.Duration
	watch  []string
}

// options are quick, for tests.
func (m *mesh) options(id string, seeds ...string) Options {
	return Options{
		Name: id, Metadata: Metadata{ClusterID: "demo", Role: "node", Region: "eu-1", HTTP3: true, Labels: map[string]string{"zone": "a"}},
		Listen: "127.0.0.1:0", Seeds: seeds, KeyFile: m.keyFile,
		Interval: 20 * time.Millisecond, ProbeInterval: 200 * time.Millisecond, ProbeTimeout: 100 * time.Millisecond, PushPullInterval: time.Second,
	}
}

func (m *mesh) start(o Options) *member {
	m.t.Helper()
	x := &member{t: m.t}
	o.Deliver = func(n core.GossipNews) bool {
		x.mu.Lock()
		defer x.mu.Unlock()
		x.news = append(x.news, n)
		return true
	}
	o.Claims = func() ([]core.Claim, time.Duration) {
		x.mu.Lock()
		defer x.mu.Unlock()
		return x.claims, x.lease
	}
	o.Watch = func() []string {
		x.mu.Lock()
		defer x.mu.Unlock()
		return x.watch
	}
	if o.Logger == nil {
		o.Logger = slog.New(slog.DiscardHandler)
	}
	g, err := New(o)
	if err != nil {
		m.t.Fatal(err)
	}
	if g.keys != nil {
		g.keys.every = 50 * time.Millisecond
	}
	x.Gossip, x.stop = g, m.run(g)
	return x
}

// run lets it run until the test ends, or the result is called.
func (m *mesh) run(g *Gossip) (stop func()) {
	stop = launch(m.t, g)
	m.t.Cleanup(stop)
	return stop
}

// launch lets it run until stop is called.
func launch(t testing.TB, g *Gossip) (stop func()) {
	ctx, cancel := context.WithCancel(context.Background())
	done := make(chan struct{})
	go func() { defer close(done); g.Run(ctx) }()
	return sync.OnceFunc(func() {
		cancel()
		if err := g.Close(); err != nil {
			t.Error(err)
		}
		<-done
	})
}

func (x *member) status(id string) Status {
	for _, p := range x.Peers() {
		if p.ID == id {
			return p.Status
		}
	}
	return ""
}

func (x *member) sees(id string, s Status) {
	x.t.Helper()
	until(x.t, fmt.Sprintf("%s sees %s %s, but %q", x.options.Name, id, s, x.status(id)), func() bool { return x.status(id) == s })
}

// told is all that was delivered of a member.
func (x *member) told(id string) []core.GossipNews {
	x.mu.Lock()
	defer x.mu.Unlock()
	return slices.DeleteFunc(slices.Clone(x.news), func(n core.GossipNews) bool { return n.MemberID != id })
}

// healths are the words of health that were delivered of a member, repetitions left out.
func (x *member) healths(id string) []core.Health {
	var found []core.Health
	for _, n := range x.told(id) {
		if len(found) == 0 || found[len(found)-1] != n.Health {
			found = append(found, n.Health)
		}
	}
	return found
}

func TestJoinLeaveRejoin(t *testing.T) {
	m := newMesh(t)
	a := m.start(m.options("a"))
	b := m.start(m.options("b", a.Address()))
	c := m.start(m.options("c", a.Address(), "127.0.0.1:1"))
	for _, x := range []*member{a, b, c} {
		for _, id := range []string{"a", "b", "c"} {
			x.sees(id, StatusAlive)
		}
	}
	got := c.Peers()[1]
	if got.ID != "b" || got.Role != "node" || got.ClusterID != "demo" || got.Region != "eu-1" || got.MeshVersion != MeshVersion ||
		!got.Supported || !got.HTTP3 || got.Labels["zone"] != "a" || got.Address != b.Address() || got.LastSeen.IsZero() {
		t.Errorf("c knows of b: %+v", got)
	}

	if err := b.Leave(5 * time.Second); err != nil {
		t.Fatal(err)
	}
	b.stop()
	a.sees("b", StatusLeft)
	c.sees("b", StatusLeft)
	until(t, "a is told that b left", func() bool { return slices.Contains(a.healths("b"), core.HealthLeft) })
	if slices.Contains(a.healths("b"), core.HealthDead) || slices.Contains(c.healths("b"), core.HealthDead) {
		t.Error("one who said farewell was called dead")
	}

	again := m.options("b", a.Address())
	b = m.start(again)
	a.sees("b", StatusAlive)
	c.sees("b", StatusAlive)
	b.sees("c", StatusAlive)
}

func TestKilledMemberIsDeadAndComesBack(t *testing.T) {
	m := newMesh(t)
	a := m.start(m.options("a"))
	b := m.start(m.options("b", a.Address()))
	a.sees("b", StatusAlive)
	address := b.Address()
	b.stop()
	a.sees("b", StatusDead)
	until(t, "a is told", func() bool {
		h := a.healths("b")
		return h[len(h)-1] == core.HealthDead
	})
	o := m.options("b", a.Address())
	o.Listen = address
	m.start(o)
	a.sees("b", StatusAlive)
}

func TestSeedThatComesUpLater(t *testing.T) {
	m := newMesh(t)
	first := m.start(m.options("a"))
	address := first.Address()
	first.stop()
	b := m.start(m.options("b", address))
	until(t, "b has tried in vain", func() bool { return b.Stats().JoinsFailed > 1 })
	o := m.options("a")
	o.Listen = address
	a := m.start(o)
	b.sees("a", StatusAlive)
	a.sees("b", StatusAlive)
}

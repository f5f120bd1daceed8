// Package migrate_test moves registries between real stores and lets real stores
// forget, with real processes of leaderd: what the commands of an operator must keep.
package migrate_test

import (
	"context"
	"fmt"
	"log/slog"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/omnirelay/leadership/adapters/etcdlog"
	"github.com/omnirelay/leadership/adapters/pglog"
	"github.com/omnirelay/leadership/adapters/redislog"
	"github.com/omnirelay/leadership/adapters/storeserver"
	"github.com/omnirelay/leadership/core"
	"github.com/omnirelay/leadership/tests/cluster/harness"
)

func TestMain(m *testing.M) { harness.Main(m) }

// commandWithin bounds one run of a command.
const commandWithin = 30 * time.Second

// settings make elections quick, and end with the block that a move replaces.
const settings = "leaseDuration: 1200ms\nformationWindow: 500ms\n" + raftBlock + "\n"

const raftBlock = "registry: {store: raft}"

// clusterID is that of the harness.
const clusterID = "cluster-test"

// place is where a registry may lie.
type place struct {
	kind    string
	address string // of its server, or of a proxy before it
	name    string // of the schema or prefix, a word
}

// inRaft is the nodes themselves.
var inRaft = &place{kind: harness.Raft}

// startServer starts a private server, which ends with the test.
func startServer(t testing.TB, kind storeserver.Kind, dir string, args ...string) *storeserver.Server {
	t.Helper()
	s, err := storeserver.Start(context.Background(), storeserver.Options{Kind: kind, Dir: dir, Args: args})
	if err != nil {
		t.Fatalf("%v (ci/setup installs what the tests need)", err)
	}
	t.Cleanup(s.Kill)
	return s
}

// newPlace starts a server for a registry.
func newPlace(t testing.TB, kind storeserver.Kind) *place {
	t.Helper()
	return &place{kind: string(kind), address: startServer(t, kind, filepath.Join(t.TempDir(), string(kind))).Address(), name: "leadership"}
}

func (p *place) prefix() string { return "/" + p.name + "/" + clusterID + "/" }

// block is what a configuration says of the place.
func (p *place) block() string {
	switch p.kind {
	case harness.Raft:
		return raftBlock
	case "etcd":
		return fmt.Sprintf("registry: {store: etcd, etcd: {endpoints: [%q], prefix: %s}}", "http://"+p.address, p.prefix())
	case "postgres":
		return fmt.Sprintf("registry: {store: postgres, postgres: {url: %q, schema: %s}}", storeserver.PostgresURL(p.address), p.name)
	}
	return fmt.Sprintf("registry: {store: redis, redis: {address: %q, prefix: %s}}", p.address, p.prefix())
}

// config writes a node's configuration for the place, from the one for raft, and
// returns its path.
func (p *place) config(n *harness.Node, inRaft string) string {
	now := n.Config
	defer func() { n.Config = now }()
	n.Config = inRaft
	return n.Rewrite(raftBlock, p.block())
}

// logStore is what every store adapter is.
type logStore interface {
	Do(ctx context.Context, c *core.StoreCall) *core.StoreReply
	Close() error
}

func (p *place) open(t testing.TB) logStore {
	t.Helper()
	ctx, cancel := context.WithTimeout(context.Background(), 10*time.Second)
	defer cancel()
	quiet := slog.New(slog.DiscardHandler)
	var s logStore
	var err error
	switch p.kind {
	case "etcd":
		s, err = etcdlog.Open(ctx, etcdlog.Options{Endpoints: []string{"http://" + p.address}, Prefix: p.prefix(), ClusterID: clusterID, Logger: quiet})
	case "postgres":
		s, err = pglog.Open(ctx, pglog.Options{URL: storeserver.PostgresURL(p.address), Schema: p.name, ClusterID: clusterID, Migrate: true, Logger: quiet})
	case "redis":
		s, err = redislog.Open(ctx, redislog.Options{Address: p.address, Prefix: p.prefix(), ClusterID: clusterID, Logger: quiet})
	}
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = s.Close() }) // it may be closed already
	return s
}

// ask makes a call that must be answered.
func ask(t testing.TB, s logStore, c *core.StoreCall) *core.StoreReply {
	t.Helper()
	c.Timeout = 10 * time.Second
	r := s.Do(context.Background(), c)
	if r.Status != core.StoreOK {
		t.Fatalf("%+v: %s", c, r.Text)
	}
	return r
}

// lead is the lead record at the place, nil when there is none.
func (p *place) lead(t testing.TB) *core.Lead {
	t.Helper()
	s := p.open(t)
	defer func() { _ = s.Close() }()
	return ask(t, s, &core.StoreCall{Confirm: &core.StoreConfirm{}}).Lead
}

// trail is the whole audit trail at the place.
func (p *place) trail(t testing.TB) (records []*core.Record) {
	t.Helper()
	s := p.open(t)
	defer func() { _ = s.Close() }()
	for after := uint64(0); ; after = records[len(records)-1].Seq {
		page := ask(t, s, &core.StoreCall{Trail: &core.StoreTrail{After: after, Limit: 500}}).Records
		if records = append(records, page...); len(page) == 0 {
			return records
		}
	}
}

// leaderd runs a command to its end, which must be good.
func leaderd(t testing.TB, args ...string) string {
	t.Helper()
	text, code := harness.Output(t, commandWithin, "leaderd", args...)
	if code != 0 {
		t.Fatalf("leaderd %s: exit %d\n%s", strings.Join(args, " "), code, text)
	}
	return text
}

// refusedBy runs a command that must fail, and say why.
func refusedBy(t testing.TB, want string, args ...string) {
	t.Helper()
	text, code := harness.Output(t, commandWithin, "leaderd", args...)
	if code != 1 || !strings.Contains(text, want) {
		t.Errorf("leaderd %s: exit %d, want 1 and %q\n%s", strings.Join(args, " "), code, want, text)
	}
}

// each puts a flag before every one of some paths.
func each(flag string, paths []string) (args []string) {
	for _, p := range paths {
		args = append(args, flag, p)
	}
	return args
}

// notReady is why a node says that it cannot serve; an error while it can.
func notReady(n *harness.Node, want string) error {
	a, err := n.Get("/readyz")
	if err != nil {
		return err
	}
	if a.Status != 503 || !strings.Contains(string(a.Body), want) {
		return fmt.Errorf("%s: /readyz answers %d: %s; want 503 and %q", n.ID, a.Status, a.Body, want)
	}
	return nil
}

// awaitNotReady waits until every node says that it cannot serve, and why.
func awaitNotReady(t testing.TB, nodes []*harness.Node, want string) {
	t.Helper()
	for _, n := range nodes {
		harness.Await(t, 10*time.Second, n.ID+" stops", func() error { return notReady(n, want) })
	}
}

// grown checks that no scope went back, and keeps its fences as the least from now on.
func grown(t testing.TB, least map[string]uint64, now harness.Leaders) {
	t.Helper()
	for scope, token := range now.ByScope {
		if token.FenceToken <= least[scope] {
			t.Errorf("%s went from fence %d to %d", scope, least[scope], token.FenceToken)
		}
		least[scope] = token.FenceToken
	}
}

func must(t testing.TB, err error) {
	t.Helper()
	if err != nil {
		t.Fatal(err)
	}
}

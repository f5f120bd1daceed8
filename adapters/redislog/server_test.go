package redislog

import (
	"context"
	"io"
	"log/slog"
	"testing"
	"time"

	"github.com/redis/go-redis/v9"
	"go.uber.org/goleak"

	"github.com/omnirelay/leadership/adapters/storeserver"
	"github.com/omnirelay/leadership/core"
	"github.com/omnirelay/leadership/core/logpb"
)

func TestMain(m *testing.M) {
	// storeserver keeps the thread that its servers are children of.
	goleak.VerifyTestMain(m, goleak.IgnoreAnyFunction("github.com/omnirelay/leadership/adapters/storeserver.init.func1.1"))
}

const testCluster = "test"

// startServer starts a Redis of its own for a test.
func startServer(t *testing.T, args ...string) *storeserver.Server {
	t.Helper()
	server, err := storeserver.Start(t.Context(), storeserver.Options{Kind: storeserver.Redis, Dir: t.TempDir(), Args: args})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(server.Kill)
	return server
}

func testOptions(address string) Options {
	return Options{
		Address: address, Prefix: "/leadership/test/", ClusterID: testCluster,
		Logger: slog.New(slog.NewTextHandler(io.Discard, nil)),
	}
}

func openStore(t *testing.T, o Options) *Store {
	t.Helper()
	s, err := Open(t.Context(), o)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := s.Close(); err != nil {
			t.Error(err)
		}
	})
	return s
}

// admin is a connection with which a test does what an operator would.
func admin(t *testing.T, address string) *redis.Client {
	t.Helper()
	silence()
	c := redis.NewClient(&redis.Options{Addr: address, Protocol: 2, DisableIdentity: true, MaxRetries: -1})
	t.Cleanup(func() {
		if err := c.Close(); err != nil {
			t.Error(err)
		}
	})
	return c
}

// command runs one command of an operator's.
func command(t *testing.T, c *redis.Client, words ...any) any {
	t.Helper()
	answer, err := c.Do(t.Context(), words...).Result()
	if err != nil {
		t.Fatalf("%v: %v", words, err)
	}
	return answer
}

// do makes a call that has plenty of time.
func do(s *Store, c *core.StoreCall) *core.StoreReply {
	if c.Timeout == 0 {
		c.Timeout = 10 * time.Second
	}
	return s.Do(context.Background(), c)
}

// mustDo makes a call that must take effect.
func mustDo(t *testing.T, s *Store, c *core.StoreCall) *core.StoreReply {
	t.Helper()
	r := do(s, c)
	if r.Status != core.StoreOK {
		t.Fatalf("%+v: status %d: %s", c, r.Status, r.Text)
	}
	return r
}

// appendOf is an append of one entry behind the position given, by the office term.
func appendOf(guard core.Position, term uint64, identity string, data []byte) *core.StoreCall {
	e := &logpb.StoredEntry{Index: guard.Last + 1, Term: term, Data: data}
	return &core.StoreCall{Append: &core.StoreAppend{Guard: guard, Entries: []*logpb.StoredEntry{e}, Lead: &logpb.Lead{
		Schema: core.StoreSchema, ClusterId: testCluster, Term: term, Holder: 1, Last: e.Index,
		AppendId: []byte{byte(e.Index), byte(e.Index >> 8), byte(term)}, Identity: identity,
	}}}
}

// identityOf is the identity of the server that answers.
func identityOf(t *testing.T, s *Store) string {
	t.Helper()
	return mustDo(t, s, &core.StoreCall{Confirm: &core.StoreConfirm{}}).Identity
}

package pglog_test

import (
	"context"
	"testing"
	"time"

	"github.com/omnirelay/leadership/adapters/pglog"
	"github.com/omnirelay/leadership/adapters/storeserver"
	"github.com/omnirelay/leadership/core"
)

func start(t *testing.T, args ...string) *storeserver.Server {
	t.Helper()
	s, err := storeserver.Start(t.Context(), storeserver.Options{Kind: storeserver.Postgres, Dir: t.TempDir(), Args: args})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(s.Kill)
	return s
}

func opened(t *testing.T, o pglog.Options) *pglog.Store {
	t.Helper()
	s, err := pglog.Open(t.Context(), o)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = s.Close() })
	return s
}

func do(t *testing.T, s *pglog.Store, want core.StoreStatus, c *core.StoreCall) *core.StoreReply {
	t.Helper()
	if c.Timeout == 0 {
		c.Timeout = 10 * time.Second
	}
	r := s.Do(context.Background(), c)
	if r.Status != want {
		t.Fatalf("%+v: status %d (%s), want %d", c, r.Status, r.Text, want)
	}
	return r
}

func TestOneOffice(t *testing.T) {
	server := start(t)
	s := opened(t, pglog.Options{URL: server.URL(), ClusterID: "one", Migrate: true})
	r := do(t, s, core.StoreOK, &core.StoreCall{Confirm: &core.StoreConfirm{}})
	if r.Lead != nil {
		t.Fatalf("lead %v in an empty store", r.Lead)
	}
	t.Log(r.Identity)
	lead := &core.Lead{Schema: 1, ClusterId: "one", Term: 1, Holder: 1, Last: 1, AppendId: []byte("a"), Identity: r.Identity}
	call := &core.StoreCall{Append: &core.StoreAppend{Lead: lead, Entries: []*core.StoredEntry{{Index: 1, Term: 1}}}}
	do(t, s, core.StoreOK, call)
	do(t, s, core.StoreOK, call)
	r = do(t, s, core.StoreOK, &core.StoreCall{Fetch: &core.StoreFetch{MaxBytes: 100}})
	t.Log(r)
}

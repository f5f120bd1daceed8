package pglog_test

import (
	"context"
	"fmt"
	"net"
	"os"
	"path/filepath"
	"strconv"
	"testing"
	"time"

	"github.com/jackc/pgx/v5"

	"github.com/omnirelay/leadership/adapters/pglog"
	"github.com/omnirelay/leadership/adapters/storeserver"
	"github.com/omnirelay/leadership/core"
)

const cluster = "one"

// start runs a private server with further settings, name=value.
func start(t testing.TB, settings ...string) *storeserver.Server {
	t.Helper()
	return startIn(t, t.TempDir(), 0, settings...)
}

func startIn(t testing.TB, dir string, port int, settings ...string) *storeserver.Server {
	t.Helper()
	var args []string
	for _, s := range settings {
		args = append(args, "-c", s)
	}
	s, err := storeserver.Start(t.Context(), storeserver.Options{Kind: storeserver.Postgres, Dir: dir, Port: port, Args: args})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(s.Kill)
	return s
}

func portOf(t *testing.T, server *storeserver.Server) int {
	t.Helper()
	_, text, err := net.SplitHostPort(server.Address())
	ok(t, err)
	port, err := strconv.Atoi(text)
	ok(t, err)
	return port
}

// standbyOf copies a server and starts the copy as its standby, which streams. The
// server is restarted for that.
func standbyOf(t *testing.T, primary *storeserver.Server) *storeserver.Server {
	t.Helper()
	dir := t.TempDir()
	primary.Stop()
	ok(t, primary.Copy(filepath.Join(dir, "data")))
	ok(t, os.WriteFile(filepath.Join(dir, "data", "standby.signal"), nil, 0o644))
	ok(t, primary.Restart(t.Context()))
	return startIn(t, dir, 0, "primary_conninfo="+primary.URL()+"&application_name=standby", "hot_standby=on")
}

// open opens the log as the superuser, and makes the schema.
func open(t testing.TB, server *storeserver.Server) *pglog.Store {
	t.Helper()
	return opened(t, pglog.Options{URL: server.URL(), ClusterID: cluster, Migrate: true})
}

func opened(t testing.TB, o pglog.Options) *pglog.Store {
	t.Helper()
	s, err := pglog.Open(t.Context(), o)
	ok(t, err)
	t.Cleanup(func() { _ = s.Close() })
	return s
}

// session connects as an application does, past the store.
func session(t *testing.T, url string) *pgx.Conn {
	t.Helper()
	conn, err := pgx.Connect(t.Context(), url)
	ok(t, err)
	t.Cleanup(func() { _ = conn.Close(context.Background()) })
	return conn
}

func query(t *testing.T, conn *pgx.Conn, sql string, args ...any) {
	t.Helper()
	if _, err := conn.Exec(t.Context(), sql, args...); err != nil {
		t.Fatalf("%s: %v", sql, err)
	}
}

// value is what a query with one answer says.
func value[T any](t *testing.T, conn *pgx.Conn, sql string, args ...any) T {
	t.Helper()
	var v T
	if err := conn.QueryRow(t.Context(), sql, args...).Scan(&v); err != nil {
		t.Fatalf("%s: %v", sql, err)
	}
	return v
}

func ok(t testing.TB, err error) {
	t.Helper()
	if err != nil {
		t.Fatal(err)
	}
}

// until waits for a condition.
func until(t *testing.T, what string, is func() bool) {
	t.Helper()
	for end := time.Now().Add(30 * time.Second); !is(); time.Sleep(10 * time.Millisecond) {
		if time.Now().After(end) {
			t.Fatalf("never seen: %s", what)
		}
	}
}

func try(s *pglog.Store, c *core.StoreCall) *core.StoreReply {
	if c.Timeout == 0 {
		c.Timeout = 10 * time.Second
	}
	return s.Do(context.Background(), c)
}

func do(t testing.TB, s *pglog.Store, want core.StoreStatus, c *core.StoreCall) *core.StoreReply {
	t.Helper()
	r := try(s, c)
	if r.Status != want {
		t.Fatalf("%+v: status %d (%s), want %d", c, r.Status, r.Text, want)
	}
	return r
}

func confirmed(t testing.TB, s *pglog.Store) *core.StoreReply {
	t.Helper()
	return do(t, s, core.StoreOK, &core.StoreCall{Confirm: &core.StoreConfirm{}})
}

func fetched(t *testing.T, s *pglog.Store, after uint64) *core.StoreReply {
	t.Helper()
	return do(t, s, core.StoreOK, &core.StoreCall{Fetch: &core.StoreFetch{After: after, MaxBytes: 1 << 20}})
}

// next is an append of one entry behind what r says, in the same office or, from an
// empty store, the first.
func next(r *core.StoreReply) *core.StoreCall {
	l := &core.Lead{Schema: core.StoreSchema, ClusterId: cluster, Term: max(r.Lead.GetTerm(), 1), Holder: 1, Last: r.Lead.GetLast() + 1,
		Identity: r.Identity, Generation: r.Lead.GetGeneration()}
	l.AppendId = fmt.Appendf(nil, "%d.%d", l.Term, l.Last)
	l.Chain = core.ChainEntry(r.Lead.GetChain(), l.Last, l.Term, nil)
	return &core.StoreCall{Append: &core.StoreAppend{
		Guard: core.Position{Term: r.Lead.GetTerm(), Last: r.Lead.GetLast()}, Lead: l,
		Entries: []*core.StoredEntry{{Index: l.Last, Term: l.Term, Chain: l.Chain}},
	}}
}

// write appends entries.
func write(t testing.TB, s *pglog.Store, entries int) *core.StoreReply {
	t.Helper()
	r := confirmed(t, s)
	for range entries {
		r = do(t, s, core.StoreOK, next(r))
	}
	return r
}

// elected is the record of an election.
func elected(seq uint64, scope, member string, fence uint64) *core.Record {
	return &core.Record{Seq: seq, Revision: seq, Ordinal: 1, Kind: uint32(core.EventElected), Scope: scope, ScopeKind: "custom",
		MemberId: member, Session: fence, Term: fence, Fence: fence, Labels: map[string]string{"zone": "a'\"\\b"},
		WallNs: 1_700_000_000_123_456_789, IssuedWallNs: 1_700_000_000_123_456_789, Hash: []byte{1, 2}, PrevHash: []byte{3}}
}

// vacated is the record of its end.
func vacated(seq uint64, scope, member string, fence uint64, kind core.EventKind) *core.Record {
	r := elected(seq, scope, member, fence)
	r.Kind = uint32(kind)
	return r
}

func publish(t *testing.T, s *pglog.Store, records ...*core.Record) {
	t.Helper()
	r := confirmed(t, s)
	do(t, s, core.StoreOK, &core.StoreCall{Publish: &core.StorePublish{
		Term: r.Lead.Term, After: records[0].Seq - 1, Records: records, Revision: records[len(records)-1].Revision}})
}

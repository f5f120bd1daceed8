package sqlfence_test

import (
	"context"
	"database/sql"
	"errors"
	"fmt"
	"os"
	"sync/atomic"
	"testing"
	"time"

	"go.uber.org/goleak"

	"github.com/omnirelay/leadership/adapters/fence/sqlfence"
	"github.com/omnirelay/leadership/adapters/storeserver"
	"github.com/omnirelay/leadership/core"
)

// server is what all tests share; each has a database of its own.
var server *storeserver.Server

func TestMain(m *testing.M) {
	dir, err := os.MkdirTemp("", "sqlfence")
	if err == nil {
		server, err = storeserver.Start(context.Background(), storeserver.Options{Kind: storeserver.Postgres, Dir: dir})
	}
	if err != nil {
		fmt.Fprintln(os.Stderr, err)
		os.Exit(1)
	}
	// Run by hand, so that the server is gone however the tests end.
	code := m.Run()
	server.Kill()
	if err := errors.Join(os.RemoveAll(dir), goleak.Find(goleak.IgnoreAnyFunction("github.com/omnirelay/leadership/adapters/storeserver.init.func1.1"))); err != nil {
		fmt.Fprintln(os.Stderr, err)
		code = 1
	}
	os.Exit(code)
}

var databases atomic.Int64

// newDatabase is an empty database.
func newDatabase(t testing.TB) *sql.DB {
	t.Helper()
	name := fmt.Sprintf("test%d", databases.Add(1))
	admin := connect(t, "postgres")
	query(t, admin, "CREATE DATABASE "+name)
	return connect(t, name)
}

func connect(t testing.TB, database string) *sql.DB {
	t.Helper()
	db := sql.OpenDB(connector{"postgres://postgres@" + server.Address() + "/" + database + "?sslmode=disable"})
	db.SetMaxOpenConns(40)
	t.Cleanup(func() { ok(t, db.Close()) })
	return db
}

// guarded is a database with the schema and a table of an application.
func guarded(t testing.TB) *sql.DB {
	t.Helper()
	db := newDatabase(t)
	migrate(t, db, sqlfence.DefaultSchema)
	query(t, db, "CREATE TABLE assignments (id text PRIMARY KEY, scope text, fence bigint, owner text)")
	return db
}

func migrate(t testing.TB, db *sql.DB, s sqlfence.Schema) {
	t.Helper()
	migration, err := s.Migration()
	ok(t, err)
	query(t, db, migration)
}

type executor interface {
	ExecContext(ctx context.Context, query string, args ...any) (sql.Result, error)
	QueryRowContext(ctx context.Context, query string, args ...any) *sql.Row
}

func query(t testing.TB, db executor, text string, args ...any) {
	t.Helper()
	if _, err := db.ExecContext(context.Background(), text, args...); err != nil {
		t.Fatalf("%s: %v", text, err)
	}
}

func value[T any](t testing.TB, db executor, text string, args ...any) (v T) {
	t.Helper()
	if err := db.QueryRowContext(context.Background(), text, args...).Scan(&v); err != nil {
		t.Fatalf("%s: %v", text, err)
	}
	return v
}

func ok(t testing.TB, err error) {
	t.Helper()
	if err != nil {
		t.Fatal(err)
	}
}

// stale fails unless err refuses the fence for lack of required.
func stale(t testing.TB, err error, scope string, fence, required uint64) {
	t.Helper()
	var s *core.StaleError
	if !errors.As(err, &s) || *s != (core.StaleError{Scope: scope, Fence: fence, Required: required}) {
		t.Fatalf("%v; want fence %d of %q refused, %d required", err, fence, scope, required)
	}
}

// malformed fails unless err is a refusal of a wrong scope or fence.
func malformed(t testing.TB, err error) {
	t.Helper()
	var e *core.Error
	if !errors.As(err, &e) || e.Code != core.CodeInvalid {
		t.Fatalf("%v; want it refused as malformed", err)
	}
}

// until waits for what another session brings about.
func until(t testing.TB, what string, holds func() bool) {
	t.Helper()
	for end := time.Now().Add(20 * time.Second); !holds(); time.Sleep(5 * time.Millisecond) {
		if time.Now().After(end) {
			t.Fatalf("never seen: %s", what)
		}
	}
}

// waiting is how many sessions of a database wait for a lock.
func waiting(t testing.TB, db *sql.DB) int {
	return value[int](t, db, "SELECT count(*) FROM pg_stat_activity WHERE datname = current_database() AND wait_event_type = 'Lock'")
}

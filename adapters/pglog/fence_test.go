package pglog_test

import (
	"context"
	"errors"
	"strings"
	"sync"
	"sync/atomic"
	"testing"

	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgconn"

	"github.com/omnirelay/leadership/adapters/pglog"
	"github.com/omnirelay/leadership/adapters/storeserver"
	"github.com/omnirelay/leadership/core"
)

// fenced starts a server with a log in office and a guarded table of an application.
func fenced(t *testing.T) (*storeserver.Server, *pglog.Store, *pgx.Conn) {
	t.Helper()
	server := start(t)
	s := open(t, server)
	write(t, s, 4)
	app := session(t, server.URL())
	query(t, app, "CREATE SCHEMA app")
	query(t, app, "CREATE TABLE app.assignments (id text PRIMARY KEY, scope text, fence bigint, owner text)")
	query(t, app, "SELECT leadership.guard('app.assignments', scope_column => 'scope', fence_column => 'fence')")
	return server, s, app
}

func code(err error) string {
	if err == nil {
		return ""
	}
	var e *pgconn.PgError
	if errors.As(err, &e) {
		return e.Code
	}
	return err.Error()
}

func rejected(t *testing.T, conn *pgx.Conn, want, text, sql string, args ...any) {
	t.Helper()
	_, err := conn.Exec(t.Context(), sql, args...)
	if code(err) != want || !strings.Contains(err.Error(), text) {
		t.Errorf("%s: %v, want %s with %q", sql, err, want, text)
	}
}

const (
	insert = "INSERT INTO app.assignments VALUES ($1, $2, $3, 'x')"
	update = "UPDATE app.assignments SET fence = $2, owner = 'y' WHERE id = $1"
)

func TestFenceOfRows(t *testing.T) {
	_, s, app := fenced(t)
	query(t, app, insert, "a", "s", 10)
	query(t, app, update, "a", 10)
	query(t, app, update, "a", 12)
	rejected(t, app, pglog.CodeStale, `stale leader of "s": fence 11, at least 12 is required`, update, "a", 11)
	rejected(t, app, pglog.CodeStale, "at least 12", insert, "b", "s", 10)
	rejected(t, app, pglog.CodeNoFence, "without a fence", insert, "b", "s", nil)
	rejected(t, app, pglog.CodeNoFence, "1 or more", insert, "b", "s", 0)
	rejected(t, app, pglog.CodeNoFence, "no scope", insert, "b", nil, 12)
	rejected(t, app, pglog.CodeNoFence, "cannot move", "UPDATE app.assignments SET scope = 'other'")
	query(t, app, insert, "o", "other", 3) // another scope has its own mark

	// Who deletes is not who wrote: its fence must be said.
	rejected(t, app, pglog.CodeNoFence, "DELETE", "DELETE FROM app.assignments WHERE id = 'a'")
	rejected(t, app, pglog.CodeNoFence, "TRUNCATE", "TRUNCATE app.assignments")
	for fence, want := range map[string]string{"11": pglog.CodeStale, "12": ""} {
		tx, err := app.Begin(t.Context())
		ok(t, err)
		_, err = tx.Exec(t.Context(), "SET LOCAL leadership.fence = '"+fence+"'")
		ok(t, err)
		if _, err = tx.Exec(t.Context(), "DELETE FROM app.assignments WHERE id = 'a'"); code(err) != want {
			t.Errorf("deleted under fence %s: %v", fence, err)
		}
		ok(t, tx.Rollback(t.Context()))
	}

	// The fence of a leader that never wrote counts as soon as it is published, and
	// is not forgotten when the scope is vacated and retired.
	publish(t, s, elected(1, "s", "m", 20), elected(2, "other", "m", 4))
	publish(t, s, vacated(3, "s", "m", 20, core.EventLost), vacated(4, "s", "", 0, core.EventScopeRetired))
	rejected(t, app, pglog.CodeStale, "at least 20", update, "a", 12)
	query(t, app, update, "a", 20)
	rejected(t, app, pglog.CodeStale, "at least 4", update, "o", 3)
}

func TestFenceOfTransactions(t *testing.T) {
	_, _, app := fenced(t)
	query(t, app, "CREATE TABLE app.plain (id int)")
	query(t, app, "SELECT leadership.guard('app.plain')")
	query(t, app, "CREATE TABLE app.constant (id int)")
	query(t, app, "CREATE TRIGGER t BEFORE INSERT ON app.constant FOR EACH ROW EXECUTE FUNCTION leadership.fenced('scope=global-control')")
	within := func(fence, sql string) error {
		tx, err := app.Begin(t.Context())
		ok(t, err)
		defer func() { _ = tx.Rollback(context.Background()) }()
		_, err = tx.Exec(t.Context(), "SELECT set_config('leadership.scope', 's', true), set_config('leadership.fence', $1, true)", fence)
		ok(t, err)
		if _, err = tx.Exec(t.Context(), sql); err == nil {
			err = tx.Commit(t.Context())
		}
		return err
	}
	ok(t, within("5", "INSERT INTO app.plain VALUES (1)"))
	ok(t, within("6", "TRUNCATE app.plain"))
	if err := within("5", "INSERT INTO app.plain VALUES (1)"); code(err) != pglog.CodeStale {
		t.Errorf("%v", err)
	}
	ok(t, within("3", "INSERT INTO app.constant VALUES (1)"))
	if mark := value[int64](t, app, "SELECT fence FROM leadership.mark WHERE scope = 'global-control'"); mark != 3 {
		t.Errorf("mark %d, want 3", mark)
	}
	// Nothing of it outlives the transaction.
	rejected(t, app, pglog.CodeNoFence, "without a fence", "INSERT INTO app.plain VALUES (1)")
	rejected(t, app, pglog.CodeNoFence, `no column "nope"`, "SELECT leadership.guard('app.plain', scope_column => 'nope')")
	rejected(t, app, pglog.CodeNoFence, "both given", "SELECT leadership.guard('app.plain', scope => 's', scope_column => 'id')")
}

// A stale transaction that began before the newer one comes before it, or fails.
func TestStaleTransactionComesBeforeOrFails(t *testing.T) {
	for _, isolation := range []pgx.TxIsoLevel{pgx.ReadCommitted, pgx.RepeatableRead, pgx.Serializable} {
		server, _, app := fenced(t)
		query(t, app, insert, "a", "s", 10)
		begin := func() pgx.Tx {
			tx, err := session(t, server.URL()).BeginTx(t.Context(), pgx.TxOptions{IsoLevel: isolation})
			ok(t, err)
			_, err = tx.Exec(t.Context(), "SELECT 1") // takes its snapshot
			ok(t, err)
			return tx
		}

		// Admitted first: the newer one waits until the older one ended.
		older, newer := begin(), begin()
		_, err := older.Exec(t.Context(), insert, "b", "s", 10)
		ok(t, err)
		done := make(chan error)
		go func() {
			_, err := newer.Exec(context.Background(), insert, "c", "s", 12)
			done <- err
		}()
		until(t, "a transaction that waits", func() bool {
			return value[int](t, app, "SELECT count(*) FROM pg_stat_activity WHERE wait_event_type = 'Lock'") == 1
		})
		ok(t, older.Commit(t.Context()))
		// Under a stricter isolation it has to be repeated.
		if err := <-done; err != nil && (isolation == pgx.ReadCommitted || code(err) != "40001") {
			t.Fatalf("%s: %v", isolation, err)
		}
		ok(t, newer.Rollback(t.Context()))

		// Begun first, but admitted later: it fails, whatever its snapshot shows.
		older, newer = begin(), begin()
		_, err = newer.Exec(t.Context(), insert, "c", "s", 12)
		ok(t, err)
		go func() {
			_, err := older.Exec(context.Background(), insert, "d", "s", 10)
			done <- err
		}()
		until(t, "a transaction that waits", func() bool {
			return value[int](t, app, "SELECT count(*) FROM pg_stat_activity WHERE wait_event_type = 'Lock'") == 1
		})
		ok(t, newer.Commit(t.Context()))
		if err := <-done; err == nil || code(err) != pglog.CodeStale && (isolation == pgx.ReadCommitted || code(err) != "40001") {
			t.Errorf("%s: a stale transaction went on after the newer one: %v", isolation, err)
		}
		ok(t, older.Rollback(t.Context()))
		server.Kill()
	}
}

// Many writers with rising fences: in the order of commits none is below one before
// it. Numbers are drawn under the lock that admit takes, so their order is that of
// the commits, for different fences.
func TestFencesUnderRaces(t *testing.T) {
	server, _, app := fenced(t)
	query(t, app, "CREATE TABLE app.log (n bigserial, fence bigint)")
	var wait sync.WaitGroup
	var won, stale atomic.Int64
	for worker := range 4 {
		conn := session(t, server.URL())
		wait.Go(func() {
			for i := range 150 {
				fence := i/3 + worker%2 + 1 // two under one fence, two ahead of them
				switch err := effect(conn, fence); code(err) {
				case "":
					won.Add(1)
				case pglog.CodeStale:
					stale.Add(1)
				default:
					t.Errorf("fence %d: %v", fence, err)
				}
			}
		})
	}
	wait.Wait()
	t.Logf("%d written, %d stale", won.Load(), stale.Load())
	if won.Load() == 0 || stale.Load() == 0 {
		t.Error("there was no race")
	}
	late := value[int](t, app, "SELECT count(*) FROM (SELECT fence, max(fence) OVER (ORDER BY n) AS before FROM app.log) x WHERE fence < before")
	if late != 0 {
		t.Errorf("%d writes came after one with a higher fence", late)
	}
}

func effect(conn *pgx.Conn, fence int) error {
	ctx := context.Background()
	return pgx.BeginFunc(ctx, conn, func(tx pgx.Tx) error {
		if _, err := tx.Exec(ctx, "SELECT leadership.admit('s', $1)", fence); err != nil {
			return err
		}
		_, err := tx.Exec(ctx, "INSERT INTO app.log (fence) VALUES ($1)", fence)
		return err
	})
}

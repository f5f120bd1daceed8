package sqlfence_test

import (
	"context"
	"database/sql"
	"errors"
	"fmt"
	"maps"
	"strings"
	"sync"
	"sync/atomic"
	"testing"

	"github.com/omnirelay/leadership/adapters/fence"
	"github.com/omnirelay/leadership/adapters/fence/sqlfence"
	"github.com/omnirelay/leadership/core"
)

func TestSchemaNames(t *testing.T) {
	for name, good := range map[string]bool{"a": true, "leadership_fence": true, "a9": true, "": false, "9a": false, "_a": false,
		"A": false, `a"`: false, "a b": false, "a;": false, strings.Repeat("a", 41): false, "ä": false} {
		s := sqlfence.Schema(name)
		_, err := s.Migration()
		_, err2 := s.Statement()
		_, err3 := s.Marks(nil)
		if good != (err == nil) || good != (err2 == nil) || good != (err3 == nil) {
			t.Errorf("%q: %v, %v, %v", name, err, err2, err3)
		}
	}
	if err := sqlfence.Schema("A").Admit(t.Context(), nil, "s", 1); err == nil {
		t.Error("admitted in no schema")
	}
}

// admitted runs one admitted transaction and commits it.
func admitted(db *sql.DB, scope string, fence uint64) error {
	return sqlfence.Run(context.Background(), db, nil, scope, fence, func(context.Context, *sql.Tx) error { return nil })
}

func TestAdmit(t *testing.T) {
	db := guarded(t)
	ok(t, admitted(db, "s", 5))
	ok(t, admitted(db, "s", 5))
	ok(t, admitted(db, "s", 7))
	stale(t, admitted(db, "s", 6), "s", 6, 7)
	ok(t, admitted(db, "shard/mesh.demo/07", 1))
	ok(t, admitted(db, "top", fence.MaxFence))
	stale(t, admitted(db, "top", fence.MaxFence-1), "top", fence.MaxFence-1, fence.MaxFence)
	malformed(t, admitted(db, "s", 0))
	malformed(t, admitted(db, "s", fence.MaxFence+1))
	malformed(t, admitted(db, "a b", 8))

	// What the database itself takes.
	for _, wrong := range []string{"NULL, 1", "'', 1", "'a b', 1", "'a//b', 1", "'s', NULL", "'s', 0", "'s', -1", "'s', 9007199254740992"} {
		_, err := db.ExecContext(t.Context(), "SELECT leadership_fence.admit("+wrong+")")
		malformed(t, sqlfence.Translate(err))
	}

	// A transaction that is given up has raised nothing.
	failed := errors.New("no effect")
	err := sqlfence.Run(t.Context(), db, nil, "s", 9, func(context.Context, *sql.Tx) error { return failed })
	if !errors.Is(err, failed) {
		t.Errorf("%v", err)
	}
	ok(t, admitted(db, "s", 8))

	// The schema is made again without a mark being lost, and stands beside others.
	migrate(t, db, sqlfence.DefaultSchema)
	migrate(t, db, "other")
	stale(t, admitted(db, "s", 7), "s", 7, 8)
	ok(t, sqlfence.Schema("other").Run(t.Context(), db, nil, "s", 1, func(context.Context, *sql.Tx) error { return nil }))
}

// A refused transaction cannot be committed by who overlooks the error.
func TestRefusalEndsTheTransaction(t *testing.T) {
	db := guarded(t)
	ok(t, admitted(db, "s", 7))
	tx, err := db.BeginTx(t.Context(), nil)
	ok(t, err)
	stale(t, sqlfence.Admit(t.Context(), tx, "s", 6), "s", 6, 7)
	if _, err := tx.ExecContext(t.Context(), "INSERT INTO assignments VALUES ('a')"); err == nil {
		t.Error("went on after the refusal")
	}
	if err := tx.Commit(); err == nil {
		t.Error("committed after the refusal")
	}
	if n := value[int](t, db, "SELECT count(*) FROM assignments"); n != 0 {
		t.Errorf("%d rows", n)
	}
}

var isolations = []sql.IsolationLevel{sql.LevelReadCommitted, sql.LevelRepeatableRead, sql.LevelSerializable}

// begin starts a transaction that has taken its snapshot.
func begin(t *testing.T, db *sql.DB, level sql.IsolationLevel) *sql.Tx {
	t.Helper()
	tx, err := db.BeginTx(t.Context(), &sql.TxOptions{Isolation: level})
	ok(t, err)
	query(t, tx, "SELECT 1")
	return tx
}

func repeated(err error) bool {
	var e interface{ SQLState() string }
	return errors.As(err, &e) && e.SQLState() == "40001"
}

// A stale transaction comes before its successor, or fails; never after.
func TestStaleTransactionComesBeforeOrFails(t *testing.T) {
	for _, level := range isolations {
		t.Run(level.String(), func(t *testing.T) {
			db := guarded(t)
			ok(t, admitted(db, "s", 5))
			older, newer, late := begin(t, db, level), begin(t, db, level), begin(t, db, level)
			ok(t, sqlfence.Admit(t.Context(), older, "s", 5))
			done := make(chan error, 1)
			go func() { done <- sqlfence.Admit(context.Background(), newer, "s", 6) }()
			until(t, "the successor waits", func() bool { return waiting(t, db) == 1 })

			// One more of the deposed leader waits behind its successor, and does not
			// join the one before: so they cannot keep it out for ever.
			lateDone := make(chan error, 1)
			go func() { lateDone <- sqlfence.Admit(context.Background(), late, "s", 5) }()
			until(t, "the late one waits", func() bool { return waiting(t, db) == 2 })

			ok(t, older.Commit())
			err := <-done
			if err != nil && (level == sql.LevelReadCommitted || !repeated(err)) {
				t.Fatal(err)
			}
			if err != nil { // the snapshot was taken before: to be repeated
				ok(t, newer.Rollback())
				newer = begin(t, db, level)
				ok(t, sqlfence.Admit(t.Context(), newer, "s", 6))
			}
			query(t, newer, "INSERT INTO assignments VALUES ('a', 's', 6)")
			ok(t, newer.Commit())
			if err := <-lateDone; err == nil {
				// It was let in between two tries of its successor, which then waited for it:
				// possible only where the successor had to be repeated.
				t.Errorf("a stale transaction was admitted behind its successor")
			} else if !errors.As(err, new(*core.StaleError)) && !repeated(err) {
				t.Error(err)
			}
			_ = late.Rollback()
			stale(t, admitted(db, "s", 5), "s", 5, 6)
		})
	}
}

// Those under one fence do not wait for each other.
func TestOneFenceIsShared(t *testing.T) {
	db := guarded(t)
	ok(t, admitted(db, "s", 5))
	for _, level := range isolations {
		a, b := begin(t, db, level), begin(t, db, level)
		ok(t, sqlfence.Admit(t.Context(), a, "s", 5))
		ok(t, sqlfence.Admit(t.Context(), b, "s", 5))
		other := begin(t, db, level)
		ok(t, sqlfence.Admit(t.Context(), other, "other", 9))
		ok(t, errors.Join(b.Commit(), a.Commit(), other.Commit()))
	}
}

// Hundreds of writers under rising fences: no effect comes after one with a higher
// fence, under each isolation level. Numbers are drawn while the admission is held, so
// for different fences their order is that of the commits.
func TestRaces(t *testing.T) {
	const writers, each = 300, 4
	for _, level := range []sql.IsolationLevel{sql.LevelReadCommitted, sql.LevelSerializable} {
		t.Run(level.String(), func(t *testing.T) {
			db := guarded(t)
			query(t, db, "CREATE TABLE effects (n bigserial, fence bigint)")
			var wait sync.WaitGroup
			var won, lost, gaveUp atomic.Int64
			for w := range writers {
				wait.Go(func() {
					for i := range each {
						fence := uint64(i*8 + w%16 + 1)
						err := sqlfence.Run(context.Background(), db, &sql.TxOptions{Isolation: level}, "s", fence, func(ctx context.Context, tx *sql.Tx) error {
							_, err := tx.ExecContext(ctx, "INSERT INTO effects (fence) VALUES ($1)", int64(fence))
							return err
						})
						switch {
						case err == nil:
							won.Add(1)
						case errors.As(err, new(*core.StaleError)):
							lost.Add(1)
						case repeated(err):
							gaveUp.Add(1)
						default:
							t.Errorf("fence %d: %v", fence, err)
						}
					}
				})
			}
			wait.Wait()
			t.Logf("%d written, %d stale, %d given up after %d tries", won.Load(), lost.Load(), gaveUp.Load(), sqlfence.MaxTries)
			if won.Load() == 0 || lost.Load() == 0 {
				t.Error("there was no race")
			}
			if n := value[int64](t, db, "SELECT count(*) FROM effects"); n != won.Load() {
				t.Errorf("%d effects of %d that were acknowledged", n, won.Load())
			}
			late := value[int](t, db, "SELECT count(*) FROM (SELECT fence, max(fence) OVER (ORDER BY n) AS before FROM effects) x WHERE fence < before")
			if late != 0 {
				t.Errorf("%d effects came after one with a higher fence", late)
			}
		})
	}
}

// within runs one statement in a transaction with settings, as psql would.
func within(db *sql.DB, scope, fence, statement string) error {
	tx, err := db.BeginTx(context.Background(), nil)
	if err != nil {
		return err
	}
	defer func() { _ = tx.Rollback() }() // after a commit it does nothing
	_, err = tx.ExecContext(context.Background(), "SELECT set_config('leadership.scope', $1, true), set_config('leadership.fence', $2, true)", scope, fence)
	if err == nil {
		_, err = tx.ExecContext(context.Background(), statement)
	}
	if err == nil {
		err = tx.Commit()
	}
	return sqlfence.Translate(err)
}

// One line puts the guard on a table that others write.
func TestTrigger(t *testing.T) {
	db := guarded(t)
	query(t, db, "SELECT leadership_fence.guard('assignments', scope_column => 'scope', fence_column => 'fence')")
	plain := func(statement string) error {
		_, err := db.ExecContext(t.Context(), statement)
		return sqlfence.Translate(err)
	}
	ok(t, plain("INSERT INTO assignments VALUES ('a', 's', 5)"))
	ok(t, plain("UPDATE assignments SET fence = 7, owner = 'x' WHERE id = 'a'"))
	stale(t, plain("UPDATE assignments SET fence = 6, owner = 'y' WHERE id = 'a'"), "s", 6, 7)
	stale(t, plain("INSERT INTO assignments VALUES ('b', 's', 6)"), "s", 6, 7)
	for _, wrong := range []string{
		"INSERT INTO assignments VALUES ('b', 's', NULL)",
		"INSERT INTO assignments VALUES ('b', NULL, 9)",
		"UPDATE assignments SET scope = 'other', fence = 9",
		"DELETE FROM assignments", // who deletes is not who wrote
		"TRUNCATE assignments",
		"SELECT leadership_fence.guard('assignments', scope_column => 'nope')",
		"SELECT leadership_fence.guard('assignments', scope => 's', scope_column => 'scope')",
	} {
		if err := plain(wrong); !errors.As(err, new(*core.Error)) {
			t.Errorf("%s: %v", wrong, err)
		}
	}
	stale(t, within(db, "s", "6", "DELETE FROM assignments WHERE id = 'a'"), "s", 6, 7)
	// The fence of one scope is none of another's.
	malformed(t, within(db, "other", "99", "DELETE FROM assignments WHERE id = 'a'"))
	malformed(t, within(db, "other", "99", "UPDATE assignments SET owner = 'z'"))
	if n := value[int](t, db, "SELECT count(*) FROM leadership_fence.mark WHERE fence > 7"); n != 0 {
		t.Error("a refused statement raised a mark")
	}
	ok(t, within(db, "s", "8", "DELETE FROM assignments WHERE id = 'a'"))
	query(t, db, "INSERT INTO assignments VALUES ('c', 's', 8)")
	malformed(t, plain("DELETE FROM assignments")) // nothing of it outlives the transaction

	// In an admitted transaction the statements need not say it again.
	ok(t, sqlfence.Run(t.Context(), db, nil, "s", 9, func(ctx context.Context, tx *sql.Tx) error {
		_, err := tx.ExecContext(ctx, "DELETE FROM assignments WHERE scope = 's'")
		return err
	}))
	stale(t, plain("INSERT INTO assignments VALUES ('d', 's', 8)"), "s", 8, 9)

	query(t, db, "CREATE TABLE fixed (id int)")
	query(t, db, "SELECT leadership_fence.guard('fixed', scope => 'global-control')")
	ok(t, within(db, "", "3", "INSERT INTO fixed VALUES (1)"))
	ok(t, within(db, "global-control", "4", "TRUNCATE fixed"))
	malformed(t, within(db, "s", "99", "INSERT INTO fixed VALUES (1)"))
	stale(t, within(db, "", "3", "INSERT INTO fixed VALUES (1)"), "global-control", 3, 4)
}

// An application needs to call admit and nothing else.
func TestRights(t *testing.T) {
	db := guarded(t)
	role := value[string](t, db, "SELECT 'app_' || current_database()")
	query(t, db, "SELECT leadership_fence.guard('assignments', scope_column => 'scope')")
	query(t, db, "CREATE ROLE "+role)
	query(t, db, "GRANT INSERT ON assignments TO "+role)
	query(t, db, "GRANT USAGE ON SCHEMA leadership_fence TO "+role)
	as := func(fence uint64, statement string) error {
		tx, err := db.BeginTx(t.Context(), nil)
		ok(t, err)
		defer func() { _ = tx.Rollback() }() // after a commit it does nothing
		query(t, tx, "SET LOCAL ROLE "+role)
		if err := sqlfence.Admit(t.Context(), tx, "s", fence); err != nil {
			return err
		}
		if _, err := tx.ExecContext(t.Context(), statement); err != nil {
			return err
		}
		return tx.Commit()
	}
	if err := as(5, "SELECT 1"); err == nil {
		t.Error("anybody may raise marks")
	}
	query(t, db, "GRANT EXECUTE ON FUNCTION leadership_fence.admit TO "+role)
	ok(t, as(5, "INSERT INTO assignments VALUES ('a', 's', 5)"))
	for _, denied := range []string{"UPDATE leadership_fence.mark SET fence = 1", "DELETE FROM leadership_fence.mark", `SELECT leadership_fence.keep('{"s": 99}')`} {
		if err := as(5, denied); err == nil || errors.As(err, new(*core.StaleError)) {
			t.Errorf("%s: %v", denied, err)
		}
	}
	stale(t, as(4, "SELECT 1"), "s", 4, 5)
}

func TestMarks(t *testing.T) {
	db := guarded(t)
	m, err := sqlfence.DefaultSchema.Marks(db)
	ok(t, err)
	ok(t, m.Save(t.Context(), map[string]uint64{"a": 5, "b": 7}))
	ok(t, m.Save(t.Context(), map[string]uint64{"a": 4, "b": 8, "c": fence.MaxFence}))
	got, err := m.Load(t.Context())
	ok(t, err)
	if want := map[string]uint64{"a": 5, "b": 8, "c": fence.MaxFence}; !maps.Equal(got, want) {
		t.Errorf("%v, want %v", got, want)
	}
	// A guard that is restarted goes on from them.
	for range 2 {
		g, err := fence.New(t.Context(), fence.Options{Marks: m})
		ok(t, err)
		stale(t, g.Admit(t.Context(), "b", 7), "b", 7, 8)
		ok(t, g.Admit(t.Context(), "b", 8))
		ok(t, g.Admit(t.Context(), "d", 1))
	}
	query(t, db, "INSERT INTO leadership_fence.mark SELECT 's' || n, 1 FROM generate_series(1, $1) n", core.MaxGuardScopes)
	if _, err := fence.New(t.Context(), fence.Options{Marks: m}); err == nil || !strings.Contains(err.Error(), "at most") {
		t.Errorf("%v", err)
	}
	if m.Save(t.Context(), map[string]uint64{"new": 0}) == nil {
		t.Error("a mark of 0 was saved")
	}
	query(t, db, "DROP SCHEMA leadership_fence CASCADE")
	_, err = m.Load(t.Context())
	if err2 := m.Save(t.Context(), map[string]uint64{"a": 9}); err == nil || err2 == nil {
		t.Errorf("%v, %v", err, err2)
	}
}

func TestTranslateLeavesOthersAlone(t *testing.T) {
	other := fmt.Errorf(`stale leader of "s": fence 1, at least 2 is required`)
	if err := sqlfence.Translate(other); !errors.Is(err, other) {
		t.Errorf("%v", err)
	}
	if err := sqlfence.Translate(nil); err != nil {
		t.Errorf("%v", err)
	}
}

// Nobody leads all scopes that a table holds rows of.
func TestTruncateOfAllScopes(t *testing.T) {
	db := guarded(t)
	query(t, db, "SELECT leadership_fence.guard('assignments', scope_column => 'scope', fence_column => 'fence')")
	query(t, db, "INSERT INTO assignments VALUES ('a', 's', 7)")
	err := sqlfence.Run(t.Context(), db, nil, "other", 1, func(ctx context.Context, tx *sql.Tx) error {
		_, err := tx.ExecContext(ctx, "TRUNCATE assignments")
		return err
	})
	malformed(t, err)
	if n := value[int](t, db, "SELECT count(*) FROM assignments"); n != 1 {
		t.Errorf("the leader of another scope removed the rows: %v", err)
	}
}

// A mark is on the disk when Save returns, whatever the database does by default.
func TestMarksAreDurable(t *testing.T) {
	db := guarded(t)
	name := value[string](t, db, "SELECT current_database()")
	query(t, db, "ALTER DATABASE "+name+" SET synchronous_commit = off")
	lazy := connect(t, name)
	lazy.SetMaxOpenConns(1)
	m, err := sqlfence.DefaultSchema.Marks(lazy)
	ok(t, err)
	bad := 0
	for i := range 20 {
		ok(t, m.Save(t.Context(), map[string]uint64{"s": uint64(i + 1)}))
		if !value[bool](t, lazy, "SELECT pg_current_wal_flush_lsn() >= pg_current_wal_insert_lsn()") {
			bad++
		}
	}
	if bad > 0 {
		t.Errorf("%d of 20 were not on disk when Save returned", bad)
	}
}

// A successor sees all that its predecessor did, under every isolation level.
func TestTheSuccessorSeesItsPredecessor(t *testing.T) {
	for _, level := range isolations {
		db := guarded(t)
		ok(t, admitted(db, "s", 5))
		old := begin(t, db, level)
		ok(t, sqlfence.Admit(t.Context(), old, "s", 5))
		done := make(chan error, 1)
		seen := -1
		go func() {
			done <- sqlfence.Run(context.Background(), db, &sql.TxOptions{Isolation: level}, "s", 6, func(ctx context.Context, tx *sql.Tx) error {
				return tx.QueryRowContext(ctx, "SELECT count(*) FROM assignments").Scan(&seen)
			})
		}()
		until(t, "the successor waits", func() bool { return waiting(t, db) == 1 })
		query(t, old, "INSERT INTO assignments VALUES ('a', 's', 5)")
		ok(t, old.Commit())
		ok(t, <-done)
		if seen != 1 {
			t.Errorf("%v: the successor sees %d rows of its predecessor", level, seen)
		}
	}
}

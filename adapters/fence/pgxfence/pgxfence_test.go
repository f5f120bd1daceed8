package pgxfence_test

import (
	"context"
	"errors"
	"fmt"
	"sync"
	"testing"

	"github.com/jackc/pgx/v5"
	"go.uber.org/goleak"

	"github.com/omnirelay/leadership/adapters/fence/pgxfence"
	"github.com/omnirelay/leadership/adapters/fence/sqlfence"
	"github.com/omnirelay/leadership/adapters/storeserver"
	"github.com/omnirelay/leadership/core"
)

func TestMain(m *testing.M) {
	goleak.VerifyTestMain(m, goleak.IgnoreAnyFunction("github.com/omnirelay/leadership/adapters/storeserver.init.func1.1"))
}

func ok(t *testing.T, err error) {
	t.Helper()
	if err != nil {
		t.Fatal(err)
	}
}

// The rules are those of sqlfence, whose tests show them: here, that they hold through pgx.
func TestPgx(t *testing.T) {
	server, err := storeserver.Start(t.Context(), storeserver.Options{Kind: storeserver.Postgres, Dir: t.TempDir()})
	ok(t, err)
	t.Cleanup(server.Kill)
	connect := func() *pgx.Conn {
		conn, err := pgx.Connect(t.Context(), server.URL())
		ok(t, err)
		t.Cleanup(func() { ok(t, conn.Close(context.Background())) })
		return conn
	}
	const schema sqlfence.Schema = "guards"
	db := connect()
	for _, s := range []sqlfence.Schema{sqlfence.DefaultSchema, schema} {
		migration, err := s.Migration()
		ok(t, err)
		_, err = db.Exec(t.Context(), migration)
		ok(t, err)
	}
	_, err = db.Exec(t.Context(), "CREATE TABLE effects (n bigserial, fence bigint); SELECT guards.guard('effects', scope => 's')")
	ok(t, err)

	const writers, each = 8, 40
	var wait sync.WaitGroup
	var mu sync.Mutex
	won, lost := 0, 0
	for w := range writers {
		conn := connect()
		wait.Go(func() {
			for i := range each {
				fence := uint64(i/2 + w%4 + 1)
				err := pgxfence.RunIn(context.Background(), schema, conn, pgx.TxOptions{}, "s", fence, func(ctx context.Context, tx pgx.Tx) error {
					_, err := tx.Exec(ctx, "INSERT INTO effects (fence) VALUES ($1)", fence)
					return err
				})
				mu.Lock()
				switch {
				case err == nil:
					won++
				case errors.As(err, new(*core.StaleError)):
					lost++
				default:
					t.Error(err)
				}
				mu.Unlock()
			}
		})
	}
	wait.Wait()
	var rows, late int
	ok(t, db.QueryRow(t.Context(), "SELECT count(*), count(*) FILTER (WHERE fence < before) FROM (SELECT fence, max(fence) OVER (ORDER BY n) AS before FROM effects) x").Scan(&rows, &late))
	if won == 0 || lost == 0 || rows != won || late != 0 {
		t.Errorf("%d written, %d rows, %d stale, %d late", won, rows, lost, late)
	}

	// The other schema knows nothing of it; a transaction that is not admitted writes nothing.
	ok(t, pgxfence.Run(t.Context(), db, pgx.TxOptions{IsoLevel: pgx.Serializable}, "s", 1, func(ctx context.Context, tx pgx.Tx) error {
		return pgxfence.Admit(ctx, tx, "other", 3)
	}))
	var refused *core.Error
	if _, err = db.Exec(t.Context(), "INSERT INTO effects (fence) VALUES (99)"); !errors.As(sqlfence.Translate(err), &refused) {
		t.Errorf("%v", err)
	}
	err = pgxfence.Run(t.Context(), db, pgx.TxOptions{}, "s", 0, func(context.Context, pgx.Tx) error { return nil })
	if !errors.As(err, &refused) {
		t.Errorf("%v", err)
	}
	// With a snapshot the mark is raised before it is taken, so also when nothing follows.
	failed := errors.New("no effect")
	for fence, level := range map[uint64]pgx.TxIsoLevel{20: pgx.RepeatableRead, 30: pgx.Serializable} {
		scope := fmt.Sprint("snapshot", fence)
		err := pgxfence.Run(t.Context(), db, pgx.TxOptions{IsoLevel: level}, scope, fence, func(context.Context, pgx.Tx) error { return failed })
		if !errors.Is(err, failed) {
			t.Errorf("%v", err)
		}
		err = pgxfence.Run(t.Context(), db, pgx.TxOptions{}, scope, fence-1, func(context.Context, pgx.Tx) error { return nil })
		if !errors.As(err, new(*core.StaleError)) {
			t.Errorf("%s: %v", level, err)
		}
	}
	if err := pgxfence.AdmitIn(t.Context(), `a"`, nil, "s", 1); err == nil {
		t.Error("admitted in no schema")
	}
}

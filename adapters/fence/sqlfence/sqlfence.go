// Package sqlfence checks and raises the fence of a leader in the transaction of its
// effect, in a PostgreSQL database (14 or newer), through database/sql and any driver
// for it whose errors tell their SQLSTATE (pgx, pq). Package pgxfence is the same for
// pgx by itself. MySQL and SQLite are not supported.
//
// What it promises: in the order in which transactions take effect, none that was
// admitted comes after one with a higher fence of the same scope, under every
// isolation level, among any number of processes and through restarts of all of
// them: the mark is a row beside the effect.
package sqlfence

import (
	"context"
	"database/sql"
	_ "embed"
	"encoding/json"
	"fmt"
	"strings"

	"github.com/omnirelay/leadership/adapters/fence"
	"github.com/omnirelay/leadership/core"
)

//go:embed fence.sql
var schemaSQL string

// Schema names the schema of the database that holds marks and functions: 1 to 40
// lower-case letters, digits and underscores, beginning with a letter.
type Schema string

// DefaultSchema is what Admit and Run of this package use.
const DefaultSchema Schema = "leadership_fence"

const maxSchema = 40 // PostgreSQL cuts names at 63 bytes

func (s Schema) check() error {
	if s == "" || len(s) > maxSchema || s[0] < 'a' || s[0] > 'z' || strings.Trim(string(s), "abcdefghijklmnopqrstuvwxyz0123456789_") != "" {
		return fmt.Errorf("sqlfence: schema %q: want 1 to %d lower-case letters, digits and underscores, beginning with a letter", string(s), maxSchema)
	}
	return nil
}

// Migration is what makes the schema: table mark, functions admit, guard, fenced and
// keep. Run it as one transaction, as the owner of the tables that are to be guarded;
// again after an upgrade of this package. Others need USAGE on the schema and EXECUTE
// on the function admit.
func (s Schema) Migration() (string, error) {
	if err := s.check(); err != nil {
		return "", err
	}
	return strings.NewReplacer("@schema@", `"`+string(s)+`"`, "@name@", string(s)).Replace(schemaSQL), nil
}

// Statement admits a transaction, given scope and fence as its two arguments. It
// also sets leadership.scope and leadership.fence for the transaction, where triggers
// of guarded tables find them.
func (s Schema) Statement() (string, error) {
	if err := s.check(); err != nil {
		return "", err
	}
	return `SELECT "` + string(s) + `".admit($1::text, $2::bigint), set_config('leadership.scope', $1::text, true), set_config('leadership.fence', $2::bigint::text, true)`, nil
}

// Admit lets a transaction of the scope's leader under fence go on, or fails it with
// a *core.StaleError. Call it first in the transaction: from then on one under a
// higher fence waits until this one has ended, so keep it short. A *core.Error says
// that scope or fence is malformed; anything else is the database's, and 40001 among
// it means that the transaction is to be repeated.
//
// Above READ COMMITTED a transaction that raises the mark may not see what its
// predecessor did last, although it waited for it: its snapshot is older. Raise it
// by a READ COMMITTED transaction before, as Run does.
func (s Schema) Admit(ctx context.Context, tx *sql.Tx, scope string, fence uint64) error {
	statement, err := s.Statement()
	if err == nil {
		err = Check(scope, fence)
	}
	if err != nil {
		return err
	}
	_, err = tx.ExecContext(ctx, statement, scope, int64(fence))
	return Translate(err)
}

// Admit is DefaultSchema.Admit.
func Admit(ctx context.Context, tx *sql.Tx, scope string, fence uint64) error {
	return DefaultSchema.Admit(ctx, tx, scope, fence)
}

// Run runs effect in a transaction that was admitted, and commits. It repeats both
// when the database says that it must: at most MaxTries times in all. The error of
// effect, and the others, are those of Admit.
//
// With an isolation above READ COMMITTED the fence is admitted by a transaction of its
// own first: the snapshot of effect is then younger than all that predecessors did.
func (s Schema) Run(ctx context.Context, db *sql.DB, o *sql.TxOptions, scope string, fence uint64, effect func(ctx context.Context, tx *sql.Tx) error) error {
	if o != nil && o.Isolation > sql.LevelReadCommitted {
		err := s.Run(ctx, db, &sql.TxOptions{Isolation: sql.LevelReadCommitted}, scope, fence, func(context.Context, *sql.Tx) error { return nil })
		if err != nil {
			return err
		}
	}
	return Repeat(ctx, func() error {
		tx, err := db.BeginTx(ctx, o)
		if err != nil {
			return err
		}
		if err = s.Admit(ctx, tx, scope, fence); err == nil {
			err = effect(ctx, tx)
		}
		if err == nil {
			return Translate(tx.Commit())
		}
		_ = tx.Rollback() // the error that led here tells more
		return Translate(err)
	})
}

// Run is DefaultSchema.Run.
func Run(ctx context.Context, db *sql.DB, o *sql.TxOptions, scope string, fence uint64, effect func(ctx context.Context, tx *sql.Tx) error) error {
	return DefaultSchema.Run(ctx, db, o, scope, fence, effect)
}

// Check refuses, as a *core.Error, what the database would refuse as malformed.
func Check(scope string, n uint64) error {
	if err := core.ParseScopeID(scope); err != nil {
		return err
	}
	if n == 0 || n > fence.MaxFence {
		return &core.Error{Code: core.CodeInvalid, Field: "fence", Message: fmt.Sprintf("%d; want 1 to %d", n, fence.MaxFence)}
	}
	return nil
}

// Marks keeps the marks of a fence.Guard in the schema's table, for effects that
// lie elsewhere. The schema belongs to that one guard.
func (s Schema) Marks(db *sql.DB) (fence.Marks, error) {
	if err := s.check(); err != nil {
		return nil, err
	}
	return &marks{db: db, schema: `"` + string(s) + `"`}, nil
}

type marks struct {
	db     *sql.DB
	schema string // quoted
}

// durably has the commit wait for the disk where the server's settings would not: what
// the mark guards is not in this database, and would outlive it.
const durably = "CASE WHEN current_setting('synchronous_commit') IN ('off', 'local', 'remote_write') THEN set_config('synchronous_commit', 'on', true) END"

func (m *marks) Load(ctx context.Context) (map[string]uint64, error) {
	rows, err := m.db.QueryContext(ctx, "SELECT scope, fence FROM "+m.schema+".mark LIMIT $1", core.MaxGuardScopes+1)
	if err != nil {
		return nil, fmt.Errorf("sqlfence: %w", err)
	}
	defer func() { _ = rows.Close() }() // Err tells more
	all := map[string]uint64{}
	for rows.Next() {
		var scope string
		var n int64
		if err := rows.Scan(&scope, &n); err != nil {
			return nil, fmt.Errorf("sqlfence: %w", err)
		}
		all[scope] = uint64(n)
	}
	return all, rows.Err()
}

func (m *marks) Save(ctx context.Context, raised map[string]uint64) error {
	text, err := json.Marshal(raised)
	if err != nil {
		return fmt.Errorf("sqlfence: %w", err)
	}
	if _, err := m.db.ExecContext(ctx, "SELECT "+m.schema+".keep($1::json), "+durably, string(text)); err != nil {
		return fmt.Errorf("sqlfence: %w", err)
	}
	return nil
}

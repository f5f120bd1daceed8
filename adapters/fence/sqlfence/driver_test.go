package sqlfence_test

import (
	"context"
	"database/sql"
	"database/sql/driver"
	"errors"
	"io"

	"github.com/jackc/pgx/v5"
)

// connector is as much of a database/sql driver as the tests need, over pgx: pgx's
// own would bring its pool, which nothing here uses.
type connector struct{ url string }

func (c connector) Connect(ctx context.Context) (driver.Conn, error) {
	conn, err := pgx.Connect(ctx, c.url)
	return &connection{conn}, err
}

func (c connector) Driver() driver.Driver { return nil }

type connection struct{ *pgx.Conn }

func (c *connection) Close() error              { return c.Conn.Close(context.Background()) }
func (c *connection) Begin() (driver.Tx, error) { return nil, errors.New("want BeginTx") }
func (c *connection) IsValid() bool             { return !c.IsClosed() }

func (c *connection) Prepare(string) (driver.Stmt, error) {
	return nil, errors.New("want no statement that outlives a transaction")
}

func (c *connection) BeginTx(ctx context.Context, o driver.TxOptions) (driver.Tx, error) {
	levels := map[sql.IsolationLevel]pgx.TxIsoLevel{sql.LevelReadCommitted: pgx.ReadCommitted, sql.LevelRepeatableRead: pgx.RepeatableRead, sql.LevelSerializable: pgx.Serializable}
	tx, err := c.Conn.BeginTx(ctx, pgx.TxOptions{IsoLevel: levels[sql.IsolationLevel(o.Isolation)]})
	return transaction{tx}, err
}

type transaction struct{ pgx.Tx }

func (t transaction) Commit() error   { return t.Tx.Commit(context.Background()) }
func (t transaction) Rollback() error { return t.Tx.Rollback(context.Background()) }

func (c *connection) ExecContext(ctx context.Context, query string, args []driver.NamedValue) (driver.Result, error) {
	tag, err := c.Exec(ctx, query, values(args)...)
	return driver.RowsAffected(tag.RowsAffected()), err
}

func (c *connection) QueryContext(ctx context.Context, query string, args []driver.NamedValue) (driver.Rows, error) {
	r, err := c.Query(ctx, query, values(args)...)
	return &rows{r}, err
}

func values(args []driver.NamedValue) []any {
	all := make([]any, len(args))
	for i, a := range args {
		all[i] = a.Value
	}
	return all
}

type rows struct{ pgx.Rows }

func (r *rows) Columns() []string {
	var names []string
	for _, f := range r.FieldDescriptions() {
		names = append(names, f.Name)
	}
	return names
}

func (r *rows) Close() error {
	r.Rows.Close()
	return r.Err()
}

func (r *rows) Next(dest []driver.Value) error {
	if !r.Rows.Next() {
		if err := r.Err(); err != nil {
			return err
		}
		return io.EOF
	}
	all, err := r.Values()
	for i, v := range all {
		if n, small := v.(int32); small {
			v = int64(n)
		}
		dest[i] = v
	}
	return err
}

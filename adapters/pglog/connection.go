package pglog

import (
	"context"
	"errors"
	"fmt"
	"net"
	"strconv"
	"time"

	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgconn"
	"github.com/jackc/pgx/v5/pgtype"
)

// connConfig is how connections are made. Statements are never prepared by name:
// behind a pooler the next transaction may be on another server connection.
func connConfig(o Options) (*pgx.ConnConfig, error) {
	c, err := pgx.ParseConfig(o.URL)
	if err != nil {
		return nil, err
	}
	if o.Password != "" {
		c.Password = o.Password
	}
	c.DefaultQueryExecMode = pgx.QueryExecModeExec
	c.StatementCacheCapacity, c.DescriptionCacheCapacity = 0, 0
	if c.ConnectTimeout == 0 || c.ConnectTimeout > connectTimeout {
		c.ConnectTimeout = connectTimeout
	}
	if c.RuntimeParams["application_name"] == "" {
		c.RuntimeParams["application_name"] = "leaderd"
	}
	if c.ValidateConnect == nil && severalHosts(c) {
		c.ValidateConnect = pgconn.ValidateConnectTargetSessionAttrsReadWrite
	}
	c.OnNotice = noteWarning
	c.AfterNetConnect = func(_ context.Context, _ *pgconn.Config, conn net.Conn) (net.Conn, error) {
		return uncancelled{conn}, nil
	}
	return c, nil
}

func severalHosts(c *pgx.ConnConfig) bool {
	for _, f := range c.Fallbacks { // one host can be there twice: with TLS and without
		if f.Host != c.Host || f.Port != c.Port {
			return true
		}
	}
	return false
}

// uncancelled is a connection whose server cannot be asked to cancel. pgx asks
// whenever it gives a connection up. But a commit that waits for its synchronous
// standby, once cancelled, is shown to all although no standby has it. What runs
// too long ends by statement_timeout, which spares commits.
type uncancelled struct{ net.Conn }

func (uncancelled) RemoteAddr() net.Addr { return nowhere{} }

type nowhere struct{}

func (nowhere) Network() string { return "none" }
func (nowhere) String() string  { return "not to be asked to cancel" }

// A warning during a call means that the commit may be less than was asked for:
// "canceling wait for synchronous replication" is one, in the server's language.
const warningKey = "pglog.warning"

func noteWarning(conn *pgconn.PgConn, n *pgconn.Notice) {
	if n.SeverityUnlocalized == "WARNING" {
		conn.CustomData()[warningKey] = n.Message
	}
}

// statement is one call of an SQL function, which answers with one row.
type statement struct {
	sql  string
	args []any // int64, string, []byte, bool, []int64, []string, [][]byte
}

// row is the answer to a statement.
type row struct {
	types  *pgtype.Map
	fields []pgconn.FieldDescription
	values [][]byte
}

// The settings of a transaction, which end with it. Locks are given up earlier than
// the whole, so that the caller learns what was waited for. Warnings must come.
const limits = `SELECT set_config('statement_timeout', $1, true), set_config('lock_timeout', $2, true),
	set_config('client_min_messages', 'warning', true)`

// ask runs a statement as one transaction, in one round trip: limits and statement
// are sent together and commit together. It returns when the commit has been
// answered, not before.
func (s *Store) ask(ctx context.Context, st statement) (row, error) {
	conn, err := s.pool.take(ctx)
	if err != nil {
		return row{}, fmt.Errorf("no connection: %w", err)
	}
	r, err := conn.ask(ctx, st)
	s.pool.give(conn, conn.IsClosed() || conn.PgConn().IsBusy() || isStandby(err))
	return r, err
}

func (c *pooled) ask(ctx context.Context, st statement) (row, error) {
	notes := c.PgConn().CustomData()
	delete(notes, warningKey)
	types := pgtype.NewMap() // of this call: it is not for several goroutines
	batch, err := compose(types, time.Until(deadline(ctx)), st)
	if err != nil {
		return row{}, err
	}
	results, err := c.PgConn().ExecBatch(ctx, batch).ReadAll()
	if err != nil {
		return row{}, err
	}
	if w, ok := notes[warningKey].(string); ok {
		return row{}, fmt.Errorf("the server warned, so the commit may be on the primary alone: %s", w)
	}
	last := results[len(results)-1]
	if len(last.Rows) != 1 {
		return row{}, fmt.Errorf("%d rows came back, want 1", len(last.Rows))
	}
	return row{types: types, fields: last.FieldDescriptions, values: last.Rows[0]}, nil
}

func deadline(ctx context.Context) time.Time {
	if t, ok := ctx.Deadline(); ok {
		return t
	}
	return time.Now().Add(openTimeout)
}

func compose(types *pgtype.Map, left time.Duration, st statement) (*pgconn.Batch, error) {
	batch := &pgconn.Batch{}
	ms := max(left.Milliseconds(), 1)
	for _, part := range []statement{
		{sql: limits, args: []any{strconv.FormatInt(ms, 10), strconv.FormatInt(max(ms*3/4, 1), 10)}},
		st,
	} {
		values := make([][]byte, len(part.args))
		oids := make([]uint32, len(part.args))
		formats := make([]int16, len(part.args))
		for i, a := range part.args {
			oids[i], formats[i] = oidOf(a), pgtype.BinaryFormatCode
			value, err := types.Encode(oids[i], pgtype.BinaryFormatCode, a, []byte{})
			if err != nil {
				return nil, fmt.Errorf("argument %d: %w", i+1, err)
			}
			values[i] = value
		}
		batch.ExecParams(part.sql, values, oids, formats, []int16{pgtype.BinaryFormatCode})
	}
	return batch, nil
}

func oidOf(arg any) uint32 {
	switch arg.(type) {
	case int64:
		return pgtype.Int8OID
	case bool:
		return pgtype.BoolOID
	case []byte:
		return pgtype.ByteaOID
	case []int64:
		return pgtype.Int8ArrayOID
	case []string:
		return pgtype.TextArrayOID
	case [][]byte:
		return pgtype.ByteaArrayOID
	}
	return pgtype.TextOID
}

// scan reads the columns in order. NULL leaves the zero value.
func (r row) scan(targets ...any) error {
	if len(targets) != len(r.fields) {
		return fmt.Errorf("%d columns came back, want %d", len(r.fields), len(targets))
	}
	for i, target := range targets {
		if r.values[i] == nil {
			continue
		}
		if err := r.types.Scan(r.fields[i].DataTypeOID, r.fields[i].Format, r.values[i], target); err != nil {
			return fmt.Errorf("column %s: %w", r.fields[i].Name, err)
		}
	}
	return nil
}

// isStandby reports that the server does not take writes: the next connection may
// find the one that does.
func isStandby(err error) bool {
	var e *pgconn.PgError
	return errors.As(err, &e) && (e.Code == codeStandby || e.Code == codeReadOnly)
}

package pglog

import (
	"bytes"
	"context"
	"crypto/sha256"
	"embed"
	"errors"
	"fmt"
	"io/fs"
	"strconv"
	"strings"

	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgconn"
)

//go:embed migrations/*.sql
var files embed.FS

// minServer is the oldest server version that will do, as server_version_num.
const minServer = 140000

// migration is one step of the schema. A step that was released is never changed.
type migration struct {
	version int
	name    string
	sql     string // with placeholders
}

func (m migration) checksum() []byte {
	sum := sha256.Sum256([]byte(m.sql))
	return sum[:]
}

// migrations returns all steps in order.
func migrations() []migration {
	names, err := fs.Glob(files, "migrations/[0-9]*.sql")
	if err != nil {
		panic(err) // the pattern is malformed
	}
	var all []migration
	for _, path := range names {
		name := strings.TrimSuffix(strings.TrimPrefix(path, "migrations/"), ".sql")
		version, err := strconv.Atoi(name[:4])
		if err != nil || version != len(all)+1 {
			panic("migrations are not numbered one by one: " + name)
		}
		all = append(all, migration{version: version, name: name, sql: file(path)})
	}
	return all
}

func file(path string) string {
	b, err := files.ReadFile(path)
	if err != nil {
		panic(err) // not in this program
	}
	return string(b)
}

// fill puts the schema's name in: as an identifier, and as a part of other names.
func fill(sql, schema string) string {
	return strings.NewReplacer("@schema@", `"`+schema+`"`, "@name@", schema).Replace(sql)
}

// IF NOT EXISTS would ask for the right to create one even if it exists.
const schemaMade = `DO $do$ BEGIN
  IF to_regnamespace('@schema@') IS NULL THEN CREATE SCHEMA @schema@; END IF;
END $do$;
`

const migrationTable = `CREATE TABLE @schema@.migration (
  version     integer PRIMARY KEY,
  name        text NOT NULL,
  checksum    bytea NOT NULL,
  applied_at  timestamptz NOT NULL DEFAULT now()
);
`

// RoleSQL returns the statements that make the roles of a schema: for an
// administrator of the server, to be run once in the database of the log, before
// SchemaSQL or the first Open with Migrate.
func RoleSQL(schema string) (string, error) {
	if err := checkSchema(schema); err != nil {
		return "", err
	}
	return fill(file("migrations/roles.sql"), schema), nil
}

// SchemaSQL returns the statements that bring a schema from version 0 (none) up to
// date: for its owner, to be run as one transaction where leaderd may not migrate.
func SchemaSQL(schema string, version int) (string, error) {
	if err := checkSchema(schema); err != nil {
		return "", err
	}
	all := migrations()
	if version < 0 || version > len(all) {
		return "", fmt.Errorf("version is %d: want 0 to %d", version, len(all))
	}
	var b strings.Builder
	b.WriteString("SET LOCAL search_path = @schema@, pg_temp;\n")
	if version == 0 {
		b.WriteString(schemaMade + migrationTable)
	}
	for _, m := range all[version:] {
		b.WriteString(m.sql)
		fmt.Fprintf(&b, "INSERT INTO migration (version, name, checksum) VALUES (%d, '%s', '\\x%x');\n", m.version, m.name, m.checksum())
	}
	b.WriteString(file("migrations/grants.sql"))
	return fill(b.String(), schema), nil
}

// migrate checks the schema, and brings it up to date if it may. One at a time does:
// the others wait for the lock of the transaction, and find it done.
func migrate(ctx context.Context, conn *pgx.Conn, o Options) error {
	tx, err := conn.Begin(ctx)
	if err != nil {
		return err
	}
	defer func() { _ = tx.Rollback(ctx) }() // after the commit it does nothing
	if _, err := tx.Exec(ctx, "SELECT pg_advisory_xact_lock(hashtextextended($1, 0))", "leadership schema "+o.Schema); err != nil {
		return err
	}
	version, err := applied(ctx, tx, o.Schema)
	if err != nil || version == len(migrations()) {
		return err
	}
	if !o.Migrate {
		return unfit("schema %s is at version %d of %d, and this process may not migrate: start leaderd once as a member of %s_owner, or run there what leaderd postgres schema prints",
			o.Schema, version, len(migrations()), o.Schema)
	}
	return upgrade(ctx, tx, o.Schema, version)
}

// applied is the version of the schema, 0 when there is none. It must be a part of
// our own history.
func applied(ctx context.Context, tx pgx.Tx, schema string) (int, error) {
	var exists bool
	if err := tx.QueryRow(ctx, "SELECT to_regclass($1) IS NOT NULL", fill("@schema@.migration", schema)).Scan(&exists); err != nil || !exists {
		return 0, err
	}
	rows, err := tx.Query(ctx, fill("SELECT version, checksum FROM @schema@.migration ORDER BY version", schema))
	if err != nil {
		return 0, err
	}
	defer rows.Close()
	all := migrations()
	n := 0
	for ; rows.Next(); n++ {
		var version int
		var checksum []byte
		if err := rows.Scan(&version, &checksum); err != nil {
			return 0, err
		}
		if version > len(all) {
			return 0, unfit("schema %s is at version %d, newer than %d: use a newer leaderd", schema, version, len(all))
		}
		if version != n+1 || !bytes.Equal(checksum, all[n].checksum()) {
			return 0, unfit("schema %s: its version %d is not the one of this program: it was made by another; use a schema of its own", schema, version)
		}
	}
	return n, rows.Err()
}

func upgrade(ctx context.Context, tx pgx.Tx, schema string, version int) error {
	sql, err := SchemaSQL(schema, version)
	if err != nil {
		return err
	}
	// All belongs to the role of owners, if there is one, whoever migrates.
	var owner bool
	err = tx.QueryRow(ctx, "SELECT EXISTS (SELECT FROM pg_roles WHERE rolname = $1 AND pg_has_role(oid, 'MEMBER'))", schema+"_owner").Scan(&owner)
	if err != nil {
		return err
	}
	if owner {
		sql = fmt.Sprintf("SET LOCAL ROLE %s_owner;\n%s", schema, sql)
	}
	// Several statements: the simple protocol, on the connection of the transaction.
	if _, err := tx.Conn().PgConn().Exec(ctx, sql).ReadAll(); err != nil {
		return cannotMigrate(err, schema, version)
	}
	return tx.Commit(ctx)
}

func cannotMigrate(err error, schema string, version int) error {
	var e *pgconn.PgError
	switch {
	case !errors.As(err, &e) || !strings.HasPrefix(e.Code, "42"):
		return fmt.Errorf("cannot migrate schema %s from version %d: %w", schema, version, err)
	case e.Code == codeForbidden:
		return unfit("cannot migrate schema %s from version %d: %s: run RoleSQL as an administrator, and migrate as a member of %s_owner", schema, version, e.Message, schema)
	}
	return unfit("cannot migrate schema %s from version %d: %s: it holds something else; use a schema of its own", schema, version, e.Message)
}

// checkServer refuses a server that cannot keep a log. The functions of the schema
// look again at every call at what can change.
func checkServer(ctx context.Context, conn *pgx.Conn) error {
	var version int
	var encoding, fsync, pages string
	var standby bool
	err := conn.QueryRow(ctx, `SELECT current_setting('server_version_num')::int, current_setting('server_encoding'),
		current_setting('fsync'), current_setting('full_page_writes'), pg_is_in_recovery()`).Scan(&version, &encoding, &fsync, &pages, &standby)
	switch {
	case err != nil:
		return err
	case version < minServer:
		return unfit("the server is PostgreSQL %d.%d: want 14 or newer", version/10000, version%10000)
	case encoding != "UTF8":
		return unfit("the database is encoded in %s: create one with ENCODING UTF8", encoding)
	case standby:
		return fmt.Errorf("the server is a standby, not the primary: name the primary, or all servers, in URL")
	case fsync != "on":
		return unfit("fsync is off: a crash loses what was acknowledged; set fsync = on")
	case pages != "on":
		return unfit("full_page_writes is off: a crash can tear pages; set full_page_writes = on")
	}
	return nil
}

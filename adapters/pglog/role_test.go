package pglog_test

import (
	"net/url"
	"slices"
	"strings"
	"testing"

	"github.com/jackc/pgx/v5"

	"github.com/omnirelay/leadership/adapters/pglog"
	"github.com/omnirelay/leadership/adapters/storeserver"
	"github.com/omnirelay/leadership/core"
)

// as is a server's URL for another user.
func as(t *testing.T, server *storeserver.Server, name string) string {
	t.Helper()
	u, err := url.Parse(server.URL())
	ok(t, err)
	u.User = url.User(name)
	return u.String()
}

// withRoles is a server with the roles of the default schema and a user of each.
func withRoles(t *testing.T) (*storeserver.Server, *pgx.Conn) {
	t.Helper()
	server := start(t)
	admin := session(t, server.URL())
	sql, err := pglog.RoleSQL(pglog.DefaultSchema)
	ok(t, err)
	for range 2 { // again does no harm
		if _, err := admin.PgConn().Exec(t.Context(), sql).ReadAll(); err != nil {
			t.Fatal(err)
		}
	}
	for _, role := range []string{"owner", "runtime", "reader", "app"} {
		query(t, admin, "CREATE ROLE the_"+role+" LOGIN IN ROLE leadership_"+role)
	}
	query(t, admin, "CREATE ROLE stranger LOGIN")
	return server, admin
}

func TestRuntimeRoleSuffices(t *testing.T) {
	server, admin := withRoles(t)
	o := pglog.Options{URL: as(t, server, "the_runtime"), ClusterID: cluster}
	refusedOpen(t, o, "version 0 of 3, and this process may not migrate")
	o.Migrate = true
	refusedOpen(t, o, "run RoleSQL as an administrator, and migrate as a member of leadership_owner")
	owner := opened(t, pglog.Options{URL: as(t, server, "the_owner"), ClusterID: cluster, Migrate: true})
	ok(t, owner.Close())
	if n := value[int](t, admin, "SELECT count(*) FROM pg_class WHERE relnamespace = 'leadership'::regnamespace AND relowner <> 'leadership_owner'::regrole"); n != 0 {
		t.Errorf("%d things do not belong to leadership_owner", n)
	}

	s := opened(t, pglog.Options{URL: as(t, server, "the_runtime"), ClusterID: cluster})
	r := write(t, s, 3)
	publish(t, s, elected(1, "s", "m", 5), elected(2, "v", "n", 6), vacated(3, "v", "n", 6, core.EventExpired))
	for _, c := range []*core.StoreCall{
		{Fetch: &core.StoreFetch{MaxBytes: 1}},
		{Confirm: &core.StoreConfirm{Term: 1, Beat: true}},
		{Attest: &core.StoreAttest{Identity: r.Identity, Node: 1}},
		{Checkpoint: &core.StoreCheckpoint{Term: 1, Snapshot: &core.StoredSnapshot{Index: 2, Term: 1}, TrimTo: 2}},
		{Close: &core.StoreClose{Reason: "x"}},
		{Replace: &core.StoreReplace{Guard: core.Position{Term: 1, Last: 3}, Published: 3, Snapshot: &core.StoredSnapshot{Index: 9, Term: 1},
			Lead: &core.Lead{ClusterId: cluster, Term: 2, Last: 9, Identity: r.Identity}}},
	} {
		do(t, s, core.StoreOK, c)
	}
	if records := do(t, s, core.StoreOK, &core.StoreCall{Trail: &core.StoreTrail{Limit: 9}}).Records; len(records) != 3 {
		t.Errorf("%d records, want 3", len(records))
	}
	reads(t, session(t, as(t, server, "the_reader")))
}

// reads looks at what was published, as a reader may.
func reads(t *testing.T, reader *pgx.Conn) {
	t.Helper()
	const leaders = "SELECT concat_ws('|', scope, scope_kind, coalesce(leader_id, '-'), coalesce(session, 0), term, fence, coalesce(extract(epoch FROM since), 0), applied_index) FROM leadership.leaders WHERE scope = $1"
	if got := value[string](t, reader, leaders, "s"); got != "s|custom|m|5|5|5|1700000000.123456|1" {
		t.Errorf("%s", got)
	}
	if got := value[string](t, reader, leaders, "v"); got != "v|custom|-|0|6|6|0|3" {
		t.Errorf("%s", got)
	}
	if got := value[string](t, reader, "SELECT string_agg(kind, ' ' ORDER BY seq) || ' ' || min(labels->>'zone') FROM leadership.audit"); got != `ELECTED ELECTED EXPIRED a'"\b` {
		t.Errorf("%s", got)
	}
	if got := value[int64](t, reader, "SELECT applied_index FROM leadership.applied"); got != 3 {
		t.Errorf("applied index %d, want 3", got)
	}
}

// Nobody may more than its role is for.
func TestRolesMayNothingElse(t *testing.T) {
	server, admin := withRoles(t)
	s := opened(t, pglog.Options{URL: as(t, server, "the_owner"), ClusterID: cluster, Migrate: true})
	write(t, s, 1)
	var tables, functions []string
	rows, err := admin.Query(t.Context(), "SELECT oid::regclass::text FROM pg_class WHERE relnamespace = 'leadership'::regnamespace AND relkind = 'r'")
	ok(t, err)
	tables, err = pgx.CollectRows(rows, pgx.RowTo[string])
	ok(t, err)
	rows, err = admin.Query(t.Context(), "SELECT oid::regprocedure::text FROM pg_proc WHERE pronamespace = 'leadership'::regnamespace")
	ok(t, err)
	functions, err = pgx.CollectRows(rows, pgx.RowTo[string])
	ok(t, err)
	if len(tables) < 8 || len(functions) < 15 {
		t.Fatalf("only %d tables and %d functions were found", len(tables), len(functions))
	}
	may := map[string]func(name, privilege string) bool{
		"the_runtime": func(name, privilege string) bool {
			return name == "leadership.migration" && privilege == "SELECT" || strings.HasPrefix(name, "leadership.log_")
		},
		"the_reader": func(name, privilege string) bool {
			return privilege == "SELECT" && slices.Contains([]string{"leadership.leaders", "leadership.audit", "leadership.applied"}, name)
		},
		"the_app": func(name, _ string) bool {
			return strings.HasPrefix(name, "leadership.admit(") || strings.HasPrefix(name, "leadership.fenced(") || strings.HasPrefix(name, "leadership.guard(")
		},
		"stranger": func(string, string) bool { return false },
	}
	for role, allowed := range may {
		for _, table := range tables {
			for _, privilege := range []string{"SELECT", "INSERT", "UPDATE", "DELETE", "TRUNCATE", "REFERENCES", "TRIGGER"} {
				if value[bool](t, admin, "SELECT has_table_privilege($1, $2, $3)", role, table, privilege) != allowed(table, privilege) {
					t.Errorf("%s, %s on %s: not as meant", role, privilege, table)
				}
			}
		}
		for _, function := range functions {
			if value[bool](t, admin, "SELECT has_function_privilege($1, $2, 'EXECUTE')", role, function) != allowed(function, "EXECUTE") {
				t.Errorf("%s, %s: not as meant", role, function)
			}
		}
		if value[bool](t, admin, "SELECT has_schema_privilege($1, 'leadership', 'CREATE')", role) {
			t.Errorf("%s may create things in the schema", role)
		}
		if value[bool](t, admin, "SELECT has_schema_privilege($1, 'leadership', 'USAGE')", role) != (role != "stranger") {
			t.Errorf("%s: USAGE of the schema is not as meant", role)
		}
	}
	refusedOpen(t, pglog.Options{URL: as(t, server, "stranger"), ClusterID: cluster}, "grant the role leadership_runtime")
}

// An application needs no more than its role to guard a table of its own.
func TestAppRoleGuardsItsTable(t *testing.T) {
	server, admin := withRoles(t)
	s := opened(t, pglog.Options{URL: as(t, server, "the_owner"), ClusterID: cluster, Migrate: true})
	write(t, s, 1)
	query(t, admin, "CREATE SCHEMA app AUTHORIZATION the_app")
	app := session(t, as(t, server, "the_app"))
	query(t, app, "CREATE TABLE app.assignments (id text PRIMARY KEY, scope text, fence bigint, owner text)")
	query(t, app, "SELECT leadership.guard('app.assignments', scope_column => 'scope', fence_column => 'fence')")
	query(t, app, insert, "a", "s", 10)
	rejected(t, app, pglog.CodeStale, "at least 10", insert, "b", "s", 9)
	rejected(t, app, "42501", "permission denied", "DELETE FROM leadership.mark")
}

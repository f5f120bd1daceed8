package pglog_test

import (
	"testing"

	"github.com/omnirelay/leadership/adapters/pglog"
)

func TestMigrationsByHandAndByProgramAreTheSame(t *testing.T) {
	server := start(t)
	sql, err := pglog.SchemaSQL("by_hand", 0)
	ok(t, err)
	admin := session(t, server.URL())
	query(t, admin, "BEGIN")
	if _, err := admin.PgConn().Exec(t.Context(), sql).ReadAll(); err != nil {
		t.Fatal(err)
	}
	query(t, admin, "COMMIT")
	s := opened(t, pglog.Options{URL: server.URL(), Schema: "by_hand", ClusterID: cluster})
	write(t, s, 1)
	for _, bad := range []string{"", "a-b", "Ab", "pg_a", "1a"} {
		if _, err := pglog.SchemaSQL(bad, 0); err == nil {
			t.Errorf("schema %q is accepted", bad)
		}
	}
}

// All replicas start at once.
func TestMigrationsAtOnce(t *testing.T) {
	server := start(t)
	errs := make(chan error)
	for range 5 {
		go func() {
			s, err := pglog.Open(t.Context(), pglog.Options{URL: server.URL(), ClusterID: cluster, Migrate: true})
			if err == nil {
				err = s.Close()
			}
			errs <- err
		}()
	}
	for range 5 {
		if err := <-errs; err != nil {
			t.Error(err)
		}
	}
}

// A schema that is somebody else's is left as it is.
func TestForeignSchema(t *testing.T) {
	server := start(t)
	admin := session(t, server.URL())
	query(t, admin, "CREATE SCHEMA leadership")
	query(t, admin, "CREATE TABLE leadership.lead (mine int)")
	refusedOpen(t, pglog.Options{URL: server.URL(), ClusterID: cluster, Migrate: true}, "it holds something else")
	if n := value[int](t, admin, "SELECT count(*) FROM pg_class WHERE relnamespace = 'leadership'::regnamespace AND relkind = 'r'"); n != 1 {
		t.Errorf("%d tables, want the one that was there", n)
	}
	refusedOpen(t, pglog.Options{URL: server.URL() + "&dbname=nowhere", ClusterID: cluster}, "does not exist")
}

package pglog_test

import (
	"context"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"syscall"
	"testing"

	"github.com/jackc/pgx/v5"

	"github.com/omnirelay/leadership/adapters/logtest"
	"github.com/omnirelay/leadership/adapters/pglog"
	"github.com/omnirelay/leadership/adapters/storeserver"
)

// The contract of core/store.go, on a real server.
func TestConformance(t *testing.T) { logtest.Store(t, factory()) }

// TestReplicas runs replicas over the store.
func TestReplicas(t *testing.T) { logtest.Replicas(t, factory()) }

func factory() logtest.Factory {
	return logtest.Factory{
		Server: storeserver.Options{Kind: storeserver.Postgres},
		Open: func(ctx context.Context, at logtest.Site) (logtest.LogStore, error) {
			return pglog.Open(ctx, pglog.Options{
				URL: storeserver.PostgresURL(at.Address), Schema: at.Place, ClusterID: at.ClusterID, Migrate: true,
			})
		},
		Damages: []logtest.Damage{
			damage("a newer layout", `UPDATE %s.lead SET schema = 9`, "use a newer leaderd"),
			damage("a newer schema", `INSERT INTO %s.migration VALUES (99, 'x', '')`, "use a newer leaderd"),
			damage("another history", `UPDATE %s.migration SET checksum = '' WHERE version = 1`, "made by another"),
			damage("no lead record", `DELETE FROM %s.lead`, "the row of lead is gone"),
			damage("no entries", `DELETE FROM %s.entry`, "lacks entry"),
		},
		Fill: fill,
	}
}

func damage(name, sql, want string) logtest.Damage {
	return logtest.Damage{Name: name, Want: want, Do: func(ctx context.Context, at logtest.Site) error {
		return administer(ctx, storeserver.PostgresURL(at.Address), fmt.Sprintf(sql, at.Place))
	}}
}

func administer(ctx context.Context, url, sql string) error {
	conn, err := pgx.Connect(ctx, url)
	if err != nil {
		return err
	}
	defer func() { _ = conn.Close(ctx) }()
	_, err = conn.Exec(ctx, sql)
	return err
}

// fill lets no file of the server grow beyond 20 MiB, as if the disk ended there: more
// than a segment of its write-ahead log, less than the suite writes.
func fill(ctx context.Context, s *storeserver.Server) (func(context.Context) error, error) {
	return func(ctx context.Context) error { return limitFiles(ctx, s, "unlimited") }, limitFiles(ctx, s, "20971520")
}

// limitFiles sets the limit for the server's first process, of which all later ones
// have it, and for those that serve clients already.
func limitFiles(ctx context.Context, s *storeserver.Server, bytes string) error {
	conn, err := pgx.Connect(ctx, s.URL())
	if err != nil {
		return err
	}
	defer func() { _ = conn.Close(ctx) }()
	rows, err := conn.Query(ctx, "SELECT pid FROM pg_stat_activity WHERE backend_type = 'client backend'")
	if err != nil {
		return err
	}
	pids, err := pgx.CollectRows(rows, pgx.RowTo[int])
	for _, pid := range append(pids, s.PID()) {
		err = errors.Join(err, limitProcess(ctx, pid, bytes))
	}
	return err
}

func limitProcess(ctx context.Context, pid int, bytes string) error {
	info, err := os.Stat(fmt.Sprintf("/proc/%d", pid))
	if err != nil {
		return err
	}
	cmd := exec.CommandContext(ctx, "prlimit", fmt.Sprintf("--pid=%d", pid), "--fsize="+bytes+":") // the soft limit
	if os.Geteuid() == 0 {
		// Root without all its capabilities may not; the server's own user may.
		owner := info.Sys().(*syscall.Stat_t)
		cmd.SysProcAttr = &syscall.SysProcAttr{Credential: &syscall.Credential{Uid: owner.Uid, Gid: owner.Gid}}
	}
	if out, err := cmd.CombinedOutput(); err != nil {
		return fmt.Errorf("prlimit: %w: %s", err, out)
	}
	return nil
}

package main

import (
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"

	"github.com/jackc/pgx/v5"

	"github.com/omnirelay/leadership/adapters/config"
	"github.com/omnirelay/leadership/adapters/pglog"
	"github.com/omnirelay/leadership/adapters/storeserver"
)

// devStore is the private server that keeps the registry of leaderd dev. The zero
// value is none: raft keeps it.
type devStore struct {
	kind   string
	server *storeserver.Server
	log    *os.File
	block  string // of a node's configuration
}

// startDevStore starts the server in a folder of its own inside dir. Its data stays
// there, as the nodes' does.
func startDevStore(ctx context.Context, o *devOptions, dir string) (*devStore, error) {
	s := &devStore{kind: o.store}
	if o.store == config.StoreRaft {
		return s, nil
	}
	if o.store == config.StorePostgres && os.Geteuid() == 0 {
		// PostgreSQL runs as another user then, and must get through. What lies in the
		// folder stays closed to it.
		if err := os.Chmod(dir, 0o711); err != nil {
			return nil, err
		}
	}
	path := filepath.Join(dir, o.store+".log")
	var err error
	if s.log, err = os.OpenFile(path, os.O_CREATE|os.O_WRONLY|os.O_APPEND, 0o600); err != nil {
		return nil, err
	}
	options := storeserver.Options{Kind: storeserver.Kind(o.store), Dir: filepath.Join(dir, o.store), Port: o.basePort, Log: s.log}
	if o.store == config.StoreEtcd {
		// Every beat is a revision: kept for ever they fill etcd's quota in weeks.
		options.Args = []string{"--auto-compaction-mode=periodic", "--auto-compaction-retention=5m"}
	}
	s.server, err = storeserver.Start(ctx, options)
	if err == nil {
		s.block, err = s.prepare(ctx)
	}
	if err != nil {
		s.stop()
		return nil, fmt.Errorf("%w; see %s", err, path)
	}
	return s, nil
}

// prepare makes on the server what nodes cannot make themselves, and returns how
// they are configured.
func (s *devStore) prepare(ctx context.Context) (block string, err error) {
	address := s.server.Address()
	switch s.kind {
	case config.StoreEtcd:
		return fmt.Sprintf("etcd: {endpoints: [\"http://%s\"]}", address), nil
	case config.StoreRedis:
		return fmt.Sprintf("redis: {address: %q}", address), nil
	}
	if err := preparePostgres(ctx, s.server.URL()); err != nil {
		return "", err
	}
	return fmt.Sprintf("postgres: {url: \"postgres://%s@%s/postgres?sslmode=disable\"}", devRole, address), nil
}

// devRole is who the nodes are to PostgreSQL: it may make calls on the log, no more.
const devRole = "leaderd"

// preparePostgres makes roles and schema as an administrator would.
func preparePostgres(ctx context.Context, url string) error {
	roles, err := pglog.RoleSQL(pglog.DefaultSchema)
	if err != nil {
		return err
	}
	conn, err := pgx.Connect(ctx, url)
	if err != nil {
		return err
	}
	_, err = conn.PgConn().Exec(ctx, roles+fmt.Sprintf(`
DO $do$ BEGIN
  IF NOT EXISTS (SELECT FROM pg_roles WHERE rolname = '%[1]s') THEN
    CREATE ROLE %[1]s LOGIN IN ROLE %[2]s_runtime;
  END IF;
END $do$;`, devRole, pglog.DefaultSchema)).ReadAll()
	if err = errors.Join(err, conn.Close(ctx)); err != nil {
		return fmt.Errorf("making roles in PostgreSQL: %w", err)
	}
	store, err := pglog.Open(ctx, pglog.Options{URL: url, ClusterID: devClusterID, Migrate: true})
	if err != nil {
		return err
	}
	return store.Close()
}

// registry is what the configuration of every node says of it.
func (s *devStore) registry() string {
	if s.server == nil {
		return ""
	}
	return fmt.Sprintf("    registry:\n      store: %s\n      %s\n", s.kind, s.block)
}

// stop stops the server; the nodes have stopped before.
func (s *devStore) stop() {
	if s.server != nil {
		s.server.Stop()
	}
	if s.log != nil {
		_ = s.log.Close() // nothing of ours is in it
	}
}

func (s *devStore) print(out io.Writer) {
	if s.server != nil {
		fmt.Fprintf(out, "\nthe registry is kept in %s at %s (pid %d, log %s)\n", s.kind, s.server.Address(), s.server.PID(), s.log.Name())
	}
}

// manifestStore is the server that keeps the registry, in cluster.json.
type manifestStore struct {
	Kind    string `json:"kind"`
	Address string `json:"address"`
	PID     int    `json:"pid"`
}

func (s *devStore) manifest() *manifestStore {
	if s.server == nil {
		return nil
	}
	return &manifestStore{Kind: s.kind, Address: s.server.Address(), PID: s.server.PID()}
}

package harness

import (
	"context"
	"fmt"
	"os"
	"path/filepath"
	"testing"

	"github.com/omnirelay/leadership/adapters/storeserver"
)

// Raft is the store of a cluster that has no server for it.
const Raft = "raft"

// Stores are all that can keep a cluster's registry.
var Stores = append([]string{Raft}, ExternalStores...)

// ExternalStores are those that need a server.
var ExternalStores = []string{string(storeserver.Etcd), string(storeserver.Postgres), string(storeserver.Redis)}

// Store is the private server that keeps a cluster's registry.
type Store struct {
	*storeserver.Server
	t testing.TB
}

// startStore starts a server; nil for raft. It ends with the test, after the nodes.
func startStore(t testing.TB, dir, kind string) *Store {
	t.Helper()
	if kind == "" || kind == Raft {
		return nil
	}
	log, err := os.Create(filepath.Join(dir, kind+".log"))
	must(t, err)
	t.Cleanup(func() { _ = log.Close() })
	server, err := storeserver.Start(context.Background(), storeserver.Options{Kind: storeserver.Kind(kind), Dir: filepath.Join(dir, kind), Log: log})
	if err != nil {
		t.Fatalf("%v (ci/setup installs what the tests need)", err)
	}
	t.Cleanup(server.Kill)
	return &Store{Server: server, t: t}
}

// Restart starts the killed server on its data and returns when it answers.
func (s *Store) Restart() {
	s.t.Helper()
	must(s.t, s.Server.Restart(context.Background()))
}

// settings is the block of a node's configuration.
func (s *Store) settings() string {
	if s == nil {
		return ""
	}
	var block string
	switch s.Kind() {
	case storeserver.Etcd:
		block = fmt.Sprintf("etcd: {endpoints: [\"http://%s\"], prefix: /leadership/cluster-test/}", s.Address())
	case storeserver.Postgres:
		block = fmt.Sprintf("postgres: {url: %q}", s.URL())
	case storeserver.Redis:
		block = fmt.Sprintf("redis: {address: %q, prefix: /leadership/cluster-test/}", s.Address())
	}
	return fmt.Sprintf("registry:\n  store: %s\n  %s\n", s.Kind(), block)
}

package etcdlog

import (
	"context"
	"path/filepath"
	"strings"
	"testing"
	"time"

	clientv3 "go.etcd.io/etcd/client/v3"
	"go.uber.org/zap"

	"github.com/omnirelay/leadership/adapters/storeserver"
	"github.com/omnirelay/leadership/core"
)

const (
	testPrefix  = "/leadership/test/"
	testCluster = "test"
	patience    = 20 * time.Second
)

// binaries are the servers every test runs against: the system's, which is 3.4, and
// the newest, which ci/tools builds.
var binaries = map[string]string{"3.4": "etcd", "3.7": filepath.Join("..", "..", ".tools", "bin", "etcd")}

// eachEtcd runs a test against a server of each version.
func eachEtcd(t *testing.T, test func(t *testing.T, server *storeserver.Server), args ...string) {
	t.Helper()
	for version, binary := range binaries {
		t.Run(version, func(t *testing.T) {
			t.Parallel()
			test(t, startEtcd(t, storeserver.Options{Binary: binary, Args: args}))
		})
	}
}

func startEtcd(t *testing.T, o storeserver.Options) *storeserver.Server {
	t.Helper()
	o.Kind, o.Dir = storeserver.Etcd, t.TempDir()
	o.Binary = realBinary(t, o.Binary)
	server, err := storeserver.Start(t.Context(), o)
	if err != nil {
		t.Fatalf("%v\n(ci/tools etcd builds the newest, ci/setup installs the system's)", err)
	}
	t.Cleanup(server.Kill)
	return server
}

// realBinary finds one of binaries wherever the server is started.
func realBinary(t *testing.T, binary string) string {
	t.Helper()
	if !strings.Contains(binary, "/") {
		return binary
	}
	path, err := filepath.Abs(binary)
	if err != nil {
		t.Fatal(err)
	}
	return path
}

func options(addresses ...string) Options {
	o := Options{Prefix: testPrefix, ClusterID: testCluster}
	for _, a := range addresses {
		o.Endpoints = append(o.Endpoints, "http://"+a)
	}
	return o
}

func open(t *testing.T, o Options) *Store {
	t.Helper()
	s, err := Open(t.Context(), o)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { s.Close() }) //nolint:errcheck // the client was closed by the test itself in some
	return s
}

// rawClient is a client of no store.
func rawClient(t *testing.T, server *storeserver.Server) *clientv3.Client {
	t.Helper()
	c, err := clientv3.New(clientv3.Config{Endpoints: []string{server.Address()}, Logger: zap.NewNop()})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { c.Close() }) //nolint:errcheck // nothing rests on it
	return c
}

// do makes a call that must be answered with status.
func do(t *testing.T, s *Store, want core.StoreStatus, c *core.StoreCall) *core.StoreReply {
	t.Helper()
	if c.Timeout == 0 {
		c.Timeout = patience
	}
	r := s.Do(context.Background(), c)
	if r.Status != want {
		t.Fatalf("status %d (%s), want %d, of %+v", r.Status, r.Text, want, c)
	}
	return r
}

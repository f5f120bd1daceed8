package etcdlog

import (
	"context"
	"path/filepath"
	"testing"
	"time"

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
			test(t, startEtcd(t, storeserver.Options{Binary: binary, Args: args}))
		})
	}
}

func startEtcd(t *testing.T, o storeserver.Options) *storeserver.Server {
	t.Helper()
	o.Kind, o.Dir = storeserver.Etcd, t.TempDir()
	if o.Binary != "etcd" {
		path, err := filepath.Abs(o.Binary)
		if err != nil {
			t.Fatal(err)
		}
		o.Binary = path
	}
	server, err := storeserver.Start(t.Context(), o)
	if err != nil {
		t.Fatalf("%v\n(ci/tools etcd builds the newest, ci/setup installs the system's)", err)
	}
	t.Cleanup(server.Kill)
	return server
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

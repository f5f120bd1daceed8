package etcdlog

import (
	"context"
	"errors"
	"strings"
	"testing"

	"go.etcd.io/etcd/api/v3/v3rpc/rpctypes"
	clientv3 "go.etcd.io/etcd/client/v3"
	"go.uber.org/zap"

	"github.com/omnirelay/leadership/adapters/logtest"
	"github.com/omnirelay/leadership/adapters/storeserver"
)

// TestConformance holds the store to the contract, on servers of both versions.
func TestConformance(t *testing.T) {
	for version, binary := range binaries {
		t.Run(version, func(t *testing.T) {
			t.Parallel() // they mostly wait
			logtest.Store(t, factory(t, binary))
		})
	}
}

// TestReplicas runs replicas over the store.
func TestReplicas(t *testing.T) {
	for version, binary := range binaries {
		t.Run(version, func(t *testing.T) {
			t.Parallel()
			logtest.Replicas(t, factory(t, binary))
		})
	}
}

func factory(t *testing.T, binary string) logtest.Factory {
	return logtest.Factory{
		Server: storeserver.Options{
			Kind: storeserver.Etcd, Binary: realBinary(t, binary),
			Args: []string{"--quota-backend-bytes=268435456", "--auto-compaction-mode=revision", "--auto-compaction-retention=1000"},
		},
		Open: func(ctx context.Context, at logtest.Site) (logtest.LogStore, error) {
			return Open(ctx, optionsAt(at))
		},
		SameAfterRestart: true,
		Damages: []logtest.Damage{
			breakage("entry missing", keys.entry, 3, func(ctx context.Context, c *clientv3.Client, key string) error {
				_, err := c.Delete(ctx, key)
				return err
			}, "is missing"),
			breakage("entry not ours", keys.entry, 3, func(ctx context.Context, c *clientv3.Client, key string) error {
				_, err := c.Put(ctx, key, "\xff")
				return err
			}, "is not entry 3"),
			breakage("no lead record", func(k keys, _ uint64) string { return k.head(nameLead) }, 0, func(ctx context.Context, c *clientv3.Client, key string) error {
				_, err := c.Delete(ctx, key)
				return err
			}, "is missing"),
		},
		Fill: fillServer,
	}
}

func optionsAt(at logtest.Site) Options {
	return Options{Endpoints: []string{"http://" + at.Address}, Prefix: "/" + at.Place + "/", ClusterID: at.ClusterID}
}

func breakage(name string, key func(keys, uint64) string, n uint64, do func(context.Context, *clientv3.Client, string) error, want string) logtest.Damage {
	return logtest.Damage{Name: name, Want: want, Do: func(ctx context.Context, at logtest.Site) error {
		o := optionsAt(at)
		return withClient(at.Address, func(c *clientv3.Client) error { return do(ctx, c, key(keys{o.Prefix}, n)) })
	}}
}

func withClient(address string, do func(*clientv3.Client) error) error {
	c, err := clientv3.New(clientv3.Config{Endpoints: []string{address}, Logger: zap.NewNop()})
	if err != nil {
		return err
	}
	return errors.Join(do(c), c.Close())
}

// fillServer writes until etcd refuses for want of space. Making room is what the
// refusal of a store tells an operator to do.
func fillServer(ctx context.Context, s *storeserver.Server) (func(context.Context) error, error) {
	err := withClient(s.Address(), func(c *clientv3.Client) error {
		for {
			_, err := c.Put(ctx, "/filling", strings.Repeat("x", 1<<20))
			if errors.Is(err, rpctypes.ErrNoSpace) {
				return nil
			}
			if err != nil {
				return err
			}
		}
	})
	return func(ctx context.Context) error {
		return withClient(s.Address(), func(c *clientv3.Client) error { return makeRoom(ctx, c, s.Address()) })
	}, err
}

func makeRoom(ctx context.Context, c *clientv3.Client, address string) error {
	deleted, err := c.Delete(ctx, "/filling")
	if err != nil {
		return err
	}
	if _, err := c.Compact(ctx, deleted.Header.Revision, clientv3.WithCompactPhysical()); err != nil {
		return err
	}
	if _, err := c.Defragment(ctx, address); err != nil {
		return err
	}
	_, err = c.AlarmDisarm(ctx, new(clientv3.AlarmMember))
	return err
}

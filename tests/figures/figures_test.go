// Package figures measures the four logs side by side, in one run.
package figures

import (
	"context"
	"log/slog"
	"path/filepath"
	"testing"

	"github.com/omnirelay/leadership/adapters/etcdlog"
	"github.com/omnirelay/leadership/adapters/logtest"
	"github.com/omnirelay/leadership/adapters/pglog"
	"github.com/omnirelay/leadership/adapters/redislog"
	"github.com/omnirelay/leadership/adapters/storeserver"
)

// BenchmarkLogs is run by make bench. The figures of one run may be compared with
// each other, not with those of another machine.
func BenchmarkLogs(b *testing.B) {
	etcd, err := filepath.Abs("../../.tools/bin/etcd")
	if err != nil {
		b.Fatal(err)
	}
	b.Run("raft", func(b *testing.B) { logtest.Figures(b, nil) })
	b.Run("etcd", func(b *testing.B) {
		logtest.Figures(b, &logtest.Factory{
			Server: storeserver.Options{Kind: storeserver.Etcd, Binary: etcd},
			Open: func(ctx context.Context, at logtest.Site) (logtest.LogStore, error) {
				return etcdlog.Open(ctx, etcdlog.Options{Endpoints: []string{"http://" + at.Address}, Prefix: "/" + at.Place + "/", ClusterID: at.ClusterID, Logger: slog.New(slog.DiscardHandler)})
			},
		})
	})
	b.Run("postgres", func(b *testing.B) {
		logtest.Figures(b, &logtest.Factory{
			Server: storeserver.Options{Kind: storeserver.Postgres},
			Open: func(ctx context.Context, at logtest.Site) (logtest.LogStore, error) {
				return pglog.Open(ctx, pglog.Options{URL: storeserver.PostgresURL(at.Address), Schema: at.Place, ClusterID: at.ClusterID, Migrate: true, Logger: slog.New(slog.DiscardHandler)})
			},
		})
	})
	b.Run("redis", func(b *testing.B) {
		logtest.Figures(b, &logtest.Factory{
			Server: storeserver.Options{Kind: storeserver.Redis},
			Open: func(ctx context.Context, at logtest.Site) (logtest.LogStore, error) {
				return redislog.Open(ctx, redislog.Options{Address: at.Address, Prefix: "/" + at.Place + "/", ClusterID: at.ClusterID, Logger: slog.New(slog.DiscardHandler)})
			},
		})
	})
}

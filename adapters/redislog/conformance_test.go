package redislog

import (
	"context"
	"errors"
	"testing"

	"github.com/redis/go-redis/v9"

	"github.com/omnirelay/leadership/adapters/logtest"
	"github.com/omnirelay/leadership/adapters/storeserver"
)

func TestConformance(t *testing.T) { logtest.Store(t, factory()) }

// TestReplicas runs replicas over the store.
func TestReplicas(t *testing.T) { logtest.Replicas(t, factory()) }

func factory() logtest.Factory {
	return logtest.Factory{
		Server: storeserver.Options{Kind: storeserver.Redis},
		Open: func(ctx context.Context, at logtest.Site) (logtest.LogStore, error) {
			return Open(ctx, siteOptions(at))
		},
		Damages: []logtest.Damage{
			damage("a foreign key", "lead is a string, where a hash is right", func(k keys) [][]any {
				return [][]any{{"DEL", k.lead}, {"SET", k.lead, "mine"}}
			}),
			damage("no lead record", "lead is missing although a log is there", func(k keys) [][]any {
				return [][]any{{"DEL", k.lead}}
			}),
			damage("half a lead record", "lead lacks the field chain", func(k keys) [][]any {
				return [][]any{{"HDEL", k.lead, "chain"}}
			}),
			damage("an entry missing", "entries: found the entry 4 behind 2", func(k keys) [][]any {
				return [][]any{{"XDEL", k.entries, "3-0"}}
			}),
			damage("an entry not ours", "entries: found a value that cannot be decoded", func(k keys) [][]any {
				return [][]any{{"XDEL", k.entries, "4-0"}, {"XADD", k.entries, "4-1", "entry", "\xff", "size", "1"}}
			}),
			damage("a newer schema", "has schema 2", func(k keys) [][]any {
				return [][]any{{"HSET", k.lead, "schema", digits(2)}}
			}),
			damage("another cluster", "is of the cluster other", func(k keys) [][]any {
				return [][]any{{"HSET", k.lead, "cluster_id", "other"}}
			}),
		},
		Fill: func(ctx context.Context, s *storeserver.Server) (func(context.Context) error, error) {
			limit := func(ctx context.Context, bytes string) error {
				return order(ctx, s.Address(), []any{"CONFIG", "SET", "maxmemory", bytes})
			}
			return func(ctx context.Context) error { return limit(ctx, "0") }, limit(ctx, "1")
		},
	}
}

func siteOptions(at logtest.Site) Options {
	o := testOptions(at.Address)
	o.Prefix, o.ClusterID = "/"+at.Place+"/", at.ClusterID
	return o
}

func damage(name, want string, commands func(keys) [][]any) logtest.Damage {
	return logtest.Damage{Name: name, Want: want, Do: func(ctx context.Context, at logtest.Site) error {
		return order(ctx, at.Address, commands(keysUnder("/"+at.Place+"/"))...)
	}}
}

// order has the server run commands.
func order(ctx context.Context, address string, commands ...[]any) (err error) {
	c := redis.NewClient(&redis.Options{Addr: address, Protocol: 2, DisableIdentity: true, MaxRetries: -1})
	defer func() { err = errors.Join(err, c.Close()) }()
	for _, words := range commands {
		if err := c.Do(ctx, words...).Err(); err != nil {
			return err
		}
	}
	return nil
}

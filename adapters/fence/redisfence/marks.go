package redisfence

import (
	"context"
	_ "embed"
	"errors"
	"fmt"
	"strconv"

	"github.com/redis/go-redis/v9"

	"github.com/omnirelay/leadership/adapters/fence"
	"github.com/omnirelay/leadership/core"
)

//go:embed keep.lua
var keepLua string

var keep = redis.NewScript(keepLua)

// load is a script since clients send reads to replicas if they are told so, and one
// that lags would let stale leaders in. nil: there are too many.
var load = redis.NewScript(`if redis.call('HLEN', KEYS[1]) > tonumber(ARGV[1]) then return false end
return redis.call('HGETALL', KEYS[1])`)

// keepAtMost is how many marks one script raises.
const keepAtMost = 1_000

// Marks keeps the marks of a fence.Guard in a hash of this Redis, for effects that lie
// elsewhere. The prefix belongs to that one guard. Durable is what Fit says it is.
func (g *Guard) Marks() fence.Marks { return &marks{g} }

type marks struct{ g *Guard }

func (m *marks) key() string { return m.g.prefix + "marks" }

func (m *marks) Load(ctx context.Context) (map[string]uint64, error) {
	kept, err := load.Run(ctx, m.g.client, []string{m.key()}, core.MaxGuardScopes).StringSlice()
	if errors.Is(err, redis.Nil) {
		return nil, fmt.Errorf("redisfence: %s holds too many marks; at most %d are taken", m.key(), core.MaxGuardScopes)
	}
	if err != nil {
		return nil, fmt.Errorf("redisfence: %w", err)
	}
	all := make(map[string]uint64, len(kept)/2)
	for i := 0; i+1 < len(kept); i += 2 {
		scope, text := kept[i], kept[i+1]
		if all[scope], err = strconv.ParseUint(text, 10, 64); err != nil {
			return nil, fmt.Errorf("redisfence: %s holds %q for %q; want a fence", m.key(), text, scope)
		}
	}
	return all, nil
}

func (m *marks) Save(ctx context.Context, raised map[string]uint64) error {
	args := make([]any, 0, 2*min(len(raised), keepAtMost))
	send := func() error {
		if len(args) == 0 {
			return nil
		}
		err := keep.Run(ctx, m.g.client, []string{m.key()}, args...).Err()
		args = args[:0]
		return err
	}
	for scope, n := range raised {
		if err := check(scope, n); err != nil {
			return err
		}
		args = append(args, scope, strconv.FormatUint(n, 10))
		if len(args) == 2*keepAtMost {
			if err := send(); err != nil {
				return fmt.Errorf("redisfence: %w", err)
			}
		}
	}
	if err := send(); err != nil {
		return fmt.Errorf("redisfence: %w", err)
	}
	return nil
}

package redisfence

import (
	"context"
	_ "embed"
	"fmt"
	"strconv"

	"github.com/redis/go-redis/v9"

	"github.com/omnirelay/leadership/adapters/fence"
	"github.com/omnirelay/leadership/core"
)

//go:embed keep.lua
var keepLua string

var keep = redis.NewScript(keepLua)

// keepAtMost is how many marks one script raises.
const keepAtMost = 1_000

// Marks keeps the marks of a fence.Guard in a hash of this Redis, for effects that lie
// elsewhere. The prefix belongs to that one guard. Durable is what Fit says it is.
func (g *Guard) Marks() fence.Marks { return &marks{g} }

type marks struct{ g *Guard }

func (m *marks) key() string { return m.g.prefix + "marks" }

func (m *marks) Load(ctx context.Context) (map[string]uint64, error) {
	n, err := m.g.client.HLen(ctx, m.key()).Result()
	if err != nil {
		return nil, fmt.Errorf("redisfence: %w", err)
	}
	if n > core.MaxGuardScopes {
		return nil, fmt.Errorf("redisfence: %s holds %d marks; at most %d are taken", m.key(), n, core.MaxGuardScopes)
	}
	kept, err := m.g.client.HGetAll(ctx, m.key()).Result()
	if err != nil {
		return nil, fmt.Errorf("redisfence: %w", err)
	}
	all := make(map[string]uint64, len(kept))
	for scope, text := range kept {
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

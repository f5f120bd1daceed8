package redisfence

import (
	"context"
	"errors"
	"fmt"
	"strings"
)

// Fit says whether the server keeps marks as they must be kept: all that it forgets of
// them a stale leader may do. It returns everything that is wrong, and what would be
// right; also that it could not find out. Of a cluster it asks one node.
func (g *Guard) Fit(ctx context.Context) error {
	var all []error
	for _, want := range []struct {
		setting string
		fit     func(string) bool
		problem string
	}{
		{"appendonly", is("yes"), "a restart forgets marks; set appendonly yes"},
		{"appendfsync", is("always"), "a crash forgets the last second's marks; set appendfsync always"},
		{"maxmemory-policy", func(v string) bool { return !strings.HasPrefix(v, "allkeys") }, "marks may be evicted; set noeviction, or a policy for keys that expire"},
	} {
		values, err := g.client.ConfigGet(ctx, want.setting).Result()
		switch value, told := values[want.setting]; {
		case err != nil:
			all = append(all, fmt.Errorf("redisfence: %s cannot be read: %w", want.setting, err))
		case !told:
			all = append(all, fmt.Errorf("redisfence: %s is not told", want.setting))
		case !want.fit(value):
			all = append(all, fmt.Errorf("redisfence: %s is %s: %s", want.setting, value, want.problem))
		}
	}
	return errors.Join(all...)
}

func is(want string) func(string) bool { return func(v string) bool { return v == want } }

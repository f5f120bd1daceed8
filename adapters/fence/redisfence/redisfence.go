// Package redisfence checks and raises the fence of a leader in the same script as its
// effect, in Redis 6 or newer.
//
// What it promises: a script runs alone, so no effect comes after one with a
// higher fence of the same scope, among any number of processes. That holds as long as
// Redis keeps what it acknowledged: Fit looks whether it does. A fail-over to a
// replica that lags loses marks and effects alike, as Redis does; where that must not
// be, keep what is guarded in a database that waits for its standby.
package redisfence

import (
	"context"
	_ "embed"
	"errors"
	"fmt"
	"strconv"
	"strings"

	"github.com/redis/go-redis/v9"

	"github.com/omnirelay/leadership/adapters/fence"
	"github.com/omnirelay/leadership/core"
)

//go:embed admit.lua
var admitLua string

//go:embed commands.lua
var commandsLua string

var (
	nothing  = NewEffect("return redis.status_reply('OK')")
	commands = NewEffect(commandsLua)
)

const (
	maxPrefix = 128 // bytes
	// MaxCommands and MaxWords bound one call of Do: words in all, names and keys
	// among them. A script keeps everybody else waiting.
	MaxCommands = 1_000
	MaxWords    = 5_000
)

// Guard admits effects in one Redis, or Redis Cluster. Safe for concurrent use.
type Guard struct {
	client redis.UniversalClient
	prefix string
}

// New returns a guard whose keys begin with prefix: up to 128 bytes without braces. The
// client is its owner's to close. A script that was sent and not answered may have
// been executed; under the same fence it may be sent again if its effect may.
func New(client redis.UniversalClient, prefix string) (*Guard, error) {
	if prefix == "" || len(prefix) > maxPrefix || strings.ContainsAny(prefix, "{}") {
		return nil, fmt.Errorf("redisfence: prefix %q: want 1 to %d bytes without braces", prefix, maxPrefix)
	}
	return &Guard{client: client, prefix: prefix}, nil
}

// Key is the name of a key that may be touched under a fence of scope: in a cluster it
// lies where the scope's mark does.
func (g *Guard) Key(scope, name string) string { return g.prefix + "{" + scope + "}:" + name }

func (g *Guard) mark(scope string) string { return g.prefix + "{" + scope + "}#fence" }

// Admit raises the scope's mark to fence without an effect, or refuses with a
// *core.StaleError, or a *core.Error when scope or fence are malformed.
func (g *Guard) Admit(ctx context.Context, scope string, fence uint64) error {
	_, err := nothing.Run(ctx, g, scope, fence, nil)
	return err
}

// Command is a command on one key, such as {"HSET", key, {"field", "value"}}.
type Command struct {
	Name string
	Key  string // in a cluster: one that Guard.Key made
	Args []any  // what go-redis takes for arguments
}

// Do executes commands as the scope's leader under fence, all or, if it is refused,
// none, and returns their replies; a reply of nil ends the list, as in every Lua
// table. A command that Redis itself refuses ends the script, and those
// before it stay done. Errors are those of Admit and of Redis.
func (g *Guard) Do(ctx context.Context, scope string, fence uint64, all ...Command) ([]any, error) {
	keys, args := make([]string, 0, len(all)), []any{}
	for _, c := range all {
		keys = append(keys, c.Key)
		args = append(args, len(c.Args)+2, c.Name, c.Key)
		args = append(args, c.Args...)
	}
	if len(all) > MaxCommands || len(args) > MaxWords {
		return nil, fmt.Errorf("redisfence: %d commands of %d words; at most %d of %d go into one script", len(all), len(args), MaxCommands, MaxWords)
	}
	reply, err := commands.Run(ctx, g, scope, fence, keys, args...)
	if err != nil {
		return nil, err
	}
	replies, ok := reply.([]any)
	if !ok {
		return nil, fmt.Errorf("redisfence: a reply of type %T; want a list", reply)
	}
	return replies, nil
}

// Effect is an effect written in Lua. It finds its keys and arguments in the tables
// keys and args, from 1, and its return value is the reply.
type Effect struct{ script *redis.Script }

// NewEffect prepares an effect, once for all its runs.
func NewEffect(lua string) *Effect { return &Effect{redis.NewScript(admitLua + lua)} }

// Run runs the effect as the scope's leader under fence, or refuses it: see Guard.Admit.
func (e *Effect) Run(ctx context.Context, g *Guard, scope string, n uint64, keys []string, args ...any) (any, error) {
	if err := check(scope, n); err != nil {
		return nil, err
	}
	reply, err := e.script.Run(ctx, g.client, append([]string{g.mark(scope)}, keys...), append([]any{strconv.FormatUint(n, 10)}, args...)...).Result()
	return reply, translate(err, scope, n)
}

func check(scope string, n uint64) error {
	if err := core.ParseScopeID(scope); err != nil {
		return err
	}
	if n == 0 || n > fence.MaxFence {
		return &core.Error{Code: core.CodeInvalid, Field: "fence", Message: fmt.Sprintf("%d; want 1 to %d", n, fence.MaxFence)}
	}
	return nil
}

// translate turns the script's refusal into a *core.StaleError.
func translate(err error, scope string, n uint64) error {
	var e redis.Error
	if !errors.As(err, &e) || errors.Is(err, redis.Nil) {
		return err
	}
	if mark, found := strings.CutPrefix(e.Error(), "STALEFENCE "); found {
		if required, err := strconv.ParseUint(mark, 10, 64); err == nil {
			return &core.StaleError{Scope: scope, Fence: n, Required: required}
		}
	}
	return err
}

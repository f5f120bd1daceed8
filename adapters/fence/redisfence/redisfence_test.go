package redisfence_test

import (
	"context"
	"errors"
	"fmt"
	"maps"
	"strconv"
	"strings"
	"sync"
	"sync/atomic"
	"testing"

	"github.com/redis/go-redis/v9"
	"go.uber.org/goleak"

	"github.com/omnirelay/leadership/adapters/fence"
	"github.com/omnirelay/leadership/adapters/fence/redisfence"
	"github.com/omnirelay/leadership/adapters/storeserver"
	"github.com/omnirelay/leadership/core"
)

func TestMain(m *testing.M) {
	goleak.VerifyTestMain(m, goleak.IgnoreAnyFunction("github.com/omnirelay/leadership/adapters/storeserver.init.func1.1"))
}

func ok(t *testing.T, err error) {
	t.Helper()
	if err != nil {
		t.Fatal(err)
	}
}

func start(t *testing.T, args ...string) *storeserver.Server {
	t.Helper()
	server, err := storeserver.Start(t.Context(), storeserver.Options{Kind: storeserver.Redis, Dir: t.TempDir(), Args: args})
	ok(t, err)
	t.Cleanup(server.Kill)
	return server
}

func connect(t *testing.T, server *storeserver.Server) (*redis.Client, *redisfence.Guard) {
	t.Helper()
	client := redis.NewClient(&redis.Options{Addr: server.Address(), Protocol: 2, DisableIdentity: true})
	t.Cleanup(func() { ok(t, client.Close()) })
	g, err := redisfence.New(client, "app:")
	ok(t, err)
	return client, g
}

// stale fails unless err refuses the fence for lack of required.
func stale(t *testing.T, err error, fence, required uint64) {
	t.Helper()
	var s *core.StaleError
	if !errors.As(err, &s) || *s != (core.StaleError{Scope: "s", Fence: fence, Required: required}) {
		t.Fatalf("%v; want fence %d refused, %d required", err, fence, required)
	}
}

func TestAdmit(t *testing.T) {
	server := start(t)
	client, g := connect(t, server)
	ctx := t.Context()
	ok(t, g.Admit(ctx, "s", 9)) // of more digits is not of more: 9 < 10
	ok(t, g.Admit(ctx, "s", 10))
	ok(t, g.Admit(ctx, "s", 10))
	stale(t, g.Admit(ctx, "s", 9), 9, 10)
	ok(t, g.Admit(ctx, "shard/mesh.demo/07", 1))
	ok(t, g.Admit(ctx, "s", fence.MaxFence-1))
	ok(t, g.Admit(ctx, "s", fence.MaxFence))
	stale(t, g.Admit(ctx, "s", fence.MaxFence-1), fence.MaxFence-1, fence.MaxFence)
	for scope, n := range map[string]uint64{"s": 0, "a b": 1, "t": fence.MaxFence + 1, "": 1, "{}": 1} {
		if err := g.Admit(ctx, scope, n); !errors.As(err, new(*core.Error)) {
			t.Errorf("%q, %d: %v", scope, n, err)
		}
	}
	// What is no mark admits nobody.
	mark := "app:{odd}#fence"
	ok(t, client.Set(ctx, mark, "x", 0).Err())
	if err := g.Admit(ctx, "odd", 5); err == nil || !strings.Contains(err.Error(), "holds no fence") {
		t.Errorf("%v", err)
	}
	ok(t, client.Del(ctx, mark).Err())
	ok(t, client.LPush(ctx, mark, "x").Err())
	if g.Admit(ctx, "odd", 5) == nil {
		t.Error("a list was taken for a mark")
	}
	for _, prefix := range []string{"", "a{b", "}", strings.Repeat("p", 129)} {
		if _, err := redisfence.New(client, prefix); err == nil {
			t.Errorf("the prefix %q was taken", prefix)
		}
	}

	// Through a kill of the server, and with its scripts forgotten.
	server.Kill()
	ok(t, server.Restart(ctx))
	stale(t, g.Admit(ctx, "s", 10), 10, fence.MaxFence)
	ok(t, client.ScriptFlush(ctx).Err())
	stale(t, g.Admit(ctx, "s", 10), 10, fence.MaxFence)
}

func TestEffects(t *testing.T) {
	client, g := connect(t, start(t))
	ctx := t.Context()
	hash, list := g.Key("s", "hash"), g.Key("s", "list")
	replies, err := g.Do(ctx, "s", 5,
		redisfence.Command{Name: "HSET", Key: hash, Args: []any{"a b", "\x00\xff", "n", 7}},
		redisfence.Command{Name: "RPUSH", Key: list, Args: []any{"x", "", "y"}},
		redisfence.Command{Name: "HGET", Key: hash, Args: []any{"a b"}})
	ok(t, err)
	if fmt.Sprintf("%q", replies) != `['\x02' '\x03' "\x00\xff"]` {
		t.Errorf("%q", replies)
	}
	if got := client.LRange(ctx, list, 0, -1).Val(); fmt.Sprint(got) != "[x  y]" {
		t.Errorf("%q", got)
	}
	// Refused as a whole.
	ok(t, g.Admit(ctx, "s", 6))
	_, err = g.Do(ctx, "s", 5, redisfence.Command{Name: "DEL", Key: hash}, redisfence.Command{Name: "DEL", Key: list})
	stale(t, err, 5, 6)
	if n := client.Exists(ctx, hash, list).Val(); n != 2 {
		t.Errorf("%d of 2 keys are left", n)
	}
	// The error of a command is Redis's own, and comes after the admission.
	if _, err = g.Do(ctx, "s", 7, redisfence.Command{Name: "INCR", Key: list}); err == nil || errors.As(err, new(*core.StaleError)) || !strings.Contains(err.Error(), "WRONGTYPE") {
		t.Errorf("%v", err)
	}
	stale(t, g.Admit(ctx, "s", 6), 6, 7)
	if r, err := g.Do(ctx, "s", 7); err != nil || len(r) != 0 {
		t.Errorf("%v, %v", r, err)
	}
	if _, err = g.Do(ctx, "s", 7, make([]redisfence.Command, redisfence.MaxCommands+1)...); err == nil {
		t.Error("too many commands were taken")
	}
	if _, err = g.Do(ctx, "s", 7, redisfence.Command{Name: "RPUSH", Key: list, Args: make([]any, redisfence.MaxWords)}); err == nil {
		t.Error("too many words were taken")
	}
	// As many words as may be fit into one command.
	many := redisfence.Command{Name: "RPUSH", Key: g.Key("s", "many")}
	for range redisfence.MaxWords - 3 {
		many.Args = append(many.Args, "x")
	}
	_, err = g.Do(ctx, "s", 7, many)
	ok(t, err)

	half := redisfence.NewEffect(`
		if redis.call('GET', keys[1]) == args[1] then
			redis.call('SET', keys[1], args[2])
			return 'swapped'
		end
		return false`)
	register := g.Key("s", "register")
	ok(t, client.Set(ctx, register, "old", 0).Err())
	r, err := half.Run(ctx, g, "s", 7, []string{register}, "old", "new")
	if r != "swapped" || err != nil {
		t.Errorf("%v, %v", r, err)
	}
	if _, err = half.Run(ctx, g, "s", 7, []string{register}, "old", "newer"); !errors.Is(err, redis.Nil) {
		t.Errorf("%v", err)
	}
	_, err = half.Run(ctx, g, "s", 6, []string{register}, "new", "stale")
	stale(t, err, 6, 7)
	if v := client.Get(ctx, register).Val(); v != "new" {
		t.Errorf("the register holds %q", v)
	}
}

// Hundreds of writers under rising fences: no effect comes after one with a higher
// fence.
func TestRaces(t *testing.T) {
	const writers, each = 300, 20
	client, g := connect(t, start(t, "--appendfsync", "no")) // what is tested is the order
	log := g.Key("s", "log")
	var wait sync.WaitGroup
	var won, lost atomic.Int64
	for w := range writers {
		wait.Go(func() {
			for i := range each {
				fence := uint64(i*8 + w%16 + 1)
				_, err := g.Do(context.Background(), "s", fence, redisfence.Command{Name: "RPUSH", Key: log, Args: []any{fence}})
				switch {
				case err == nil:
					won.Add(1)
				case errors.As(err, new(*core.StaleError)):
					lost.Add(1)
				default:
					t.Error(err)
				}
			}
		})
	}
	wait.Wait()
	t.Logf("%d written, %d stale", won.Load(), lost.Load())
	effects := client.LRange(t.Context(), log, 0, -1).Val()
	if won.Load() == 0 || lost.Load() == 0 || len(effects) != int(won.Load()) {
		t.Errorf("%d effects, %d acknowledged, %d stale", len(effects), won.Load(), lost.Load())
	}
	highest := uint64(0)
	for _, text := range effects {
		fence, err := strconv.ParseUint(text, 10, 64)
		ok(t, err)
		if fence < highest {
			t.Errorf("fence %d after %d", fence, highest)
		}
		highest = max(highest, fence)
	}
}

func TestMarks(t *testing.T) {
	client, guard := connect(t, start(t, "--appendfsync", "no"))
	m := guard.Marks()
	ctx := t.Context()
	ok(t, m.Save(ctx, nil))
	ok(t, m.Save(ctx, map[string]uint64{"a": 9, "b": 7}))
	ok(t, m.Save(ctx, map[string]uint64{"a": 10, "b": 6, "c": fence.MaxFence}))
	got, err := m.Load(ctx)
	ok(t, err)
	if want := map[string]uint64{"a": 10, "b": 7, "c": fence.MaxFence}; !maps.Equal(got, want) {
		t.Errorf("%v, want %v", got, want)
	}
	for range 2 {
		g, err := fence.New(ctx, fence.Options{Marks: m})
		ok(t, err)
		if err := g.Admit(ctx, "a", 9); !errors.As(err, new(*core.StaleError)) {
			t.Errorf("%v", err)
		}
		ok(t, g.Admit(ctx, "d", 1))
	}
	if m.Save(ctx, map[string]uint64{"e": 0}) == nil {
		t.Error("a mark of 0 was saved")
	}
	many := map[string]uint64{}
	for i := range core.MaxGuardScopes + 1 {
		many[fmt.Sprintf("s%d", i)] = uint64(i) + 1
	}
	ok(t, m.Save(ctx, many))
	if _, err := m.Load(ctx); err == nil || !strings.Contains(err.Error(), "at most") {
		t.Errorf("%v", err)
	}
	ok(t, client.Del(ctx, "app:marks").Err())
	ok(t, client.HSet(ctx, "app:marks", "s", "x").Err())
	if _, err := m.Load(ctx); err == nil || !strings.Contains(err.Error(), "want a fence") {
		t.Errorf("%v", err)
	}
}

func TestFit(t *testing.T) {
	client, g := connect(t, start(t))
	ctx := t.Context()
	ok(t, g.Fit(ctx))
	for setting, value := range map[string]string{"appendonly": "no", "appendfsync": "everysec", "maxmemory-policy": "allkeys-lru"} {
		before := client.ConfigGet(ctx, setting).Val()[setting]
		ok(t, client.ConfigSet(ctx, setting, value).Err())
		if err := g.Fit(ctx); err == nil || !strings.Contains(err.Error(), setting+" is "+value) {
			t.Errorf("%s %s: %v", setting, value, err)
		}
		ok(t, client.ConfigSet(ctx, setting, before).Err())
	}
	ok(t, client.Do(ctx, "ACL", "SETUSER", "default", "-config").Err())
	if err := g.Fit(ctx); err == nil || !strings.Contains(err.Error(), "cannot be read") {
		t.Errorf("%v", err)
	}
}

// reads notes the commands that a client may send to a replica.
type reads struct {
	info  map[string]*redis.CommandInfo
	names []string
}

func (r *reads) DialHook(next redis.DialHook) redis.DialHook { return next }

func (r *reads) ProcessPipelineHook(next redis.ProcessPipelineHook) redis.ProcessPipelineHook {
	return next
}

func (r *reads) ProcessHook(next redis.ProcessHook) redis.ProcessHook {
	return func(ctx context.Context, cmd redis.Cmder) error {
		if info := r.info[cmd.Name()]; info != nil && info.ReadOnly {
			r.names = append(r.names, cmd.Name())
		}
		return next(ctx, cmd)
	}
}

// Nothing of the guard is read from a replica, which may lag.
func TestNothingIsReadFromAReplica(t *testing.T) {
	client, guard := connect(t, start(t))
	info, err := client.Command(t.Context()).Result()
	ok(t, err)
	if !info["hgetall"].ReadOnly {
		t.Fatal("the server does not tell what reads")
	}
	r := &reads{info: info}
	client.AddHook(r)
	ok(t, guard.Admit(t.Context(), "s", 7))
	_, err = guard.Do(t.Context(), "s", 7, redisfence.Command{Name: "SET", Key: guard.Key("s", "k"), Args: []any{"v"}})
	ok(t, err)
	ok(t, guard.Marks().Save(t.Context(), map[string]uint64{"s": 7}))
	kept, err := guard.Marks().Load(t.Context())
	ok(t, err)
	if len(r.names) != 0 || kept["s"] != 7 {
		t.Errorf("%v may go to a replica; marks %v", r.names, kept)
	}
}

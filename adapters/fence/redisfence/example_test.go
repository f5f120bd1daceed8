package redisfence_test

import (
	"context"
	"fmt"
	"os"

	"github.com/redis/go-redis/v9"

	"github.com/omnirelay/leadership/adapters/fence/redisfence"
	"github.com/omnirelay/leadership/adapters/storeserver"
)

// The fence is checked and raised in the script of the effect.
func ExampleGuard_Do() {
	ctx := context.Background()
	dir, err := os.MkdirTemp("", "redis")
	if err != nil {
		panic(err)
	}
	defer os.RemoveAll(dir)
	server, err := storeserver.Start(ctx, storeserver.Options{Kind: storeserver.Redis, Dir: dir})
	if err != nil {
		panic(err)
	}
	defer server.Kill()
	client := redis.NewClient(&redis.Options{Addr: server.Address(), DisableIdentity: true})
	defer func() { _ = client.Close() }()

	guard, err := redisfence.New(client, "app:")
	if err != nil {
		panic(err)
	}
	if err := guard.Fit(ctx); err != nil { // does this Redis keep what it acknowledged?
		panic(err)
	}
	const scope = "shard/demo/07"
	assign := func(fence uint64, worker string) error {
		_, err := guard.Do(ctx, scope, fence,
			redisfence.Command{Name: "HSET", Key: guard.Key(scope, "assignment"), Args: []any{"worker", worker}})
		return err
	}
	fmt.Println(assign(41, "w1"))
	fmt.Println(assign(42, "w2"))
	fmt.Println(assign(41, "w3"))
	fmt.Println(client.HGet(ctx, guard.Key(scope, "assignment"), "worker").Val())
	// Output:
	// <nil>
	// <nil>
	// stale leader of "shard/demo/07": fence 41, at least 42 is required
	// w2
}

package sqlfence_test

import (
	"context"
	"database/sql"
	"fmt"

	"github.com/omnirelay/leadership/adapters/fence/sqlfence"
)

// The fence is checked and raised in the transaction of the effect.
func ExampleRun() {
	ctx := context.Background()
	db := sql.OpenDB(connector{server.URL()}) // sql.Open("pgx", url) with pgx's own driver
	defer func() { _ = db.Close() }()
	schema, err := sqlfence.DefaultSchema.Migration() // once, with your own migrations
	if err == nil {
		_, err = db.ExecContext(ctx, schema)
	}
	if err == nil {
		_, err = db.ExecContext(ctx, "CREATE TABLE assignment (shard text PRIMARY KEY, worker text)")
	}
	if err != nil {
		panic(err)
	}

	assign := func(fence uint64, worker string) error {
		return sqlfence.Run(ctx, db, nil, "shard/demo/07", fence, func(ctx context.Context, tx *sql.Tx) error {
			_, err := tx.ExecContext(ctx, "INSERT INTO assignment VALUES ('07', $1) ON CONFLICT (shard) DO UPDATE SET worker = excluded.worker", worker)
			return err
		})
	}
	fmt.Println(assign(41, "w1"))
	fmt.Println(assign(42, "w2"))
	fmt.Println(assign(41, "w3"))
	// Output:
	// <nil>
	// <nil>
	// stale leader of "shard/demo/07": fence 41, at least 42 is required
}

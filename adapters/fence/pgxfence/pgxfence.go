// Package pgxfence is package sqlfence for pgx without database/sql: the fence of a
// leader is checked and raised in the transaction of its effect.
package pgxfence

import (
	"context"

	"github.com/jackc/pgx/v5"

	"github.com/omnirelay/leadership/adapters/fence/sqlfence"
)

// Admit lets a transaction of the scope's leader under fence go on, or fails it with a
// *core.StaleError: see sqlfence.Schema.Admit. tx is a transaction that has begun.
func Admit(ctx context.Context, tx pgx.Tx, scope string, fence uint64) error {
	return AdmitIn(ctx, sqlfence.DefaultSchema, tx, scope, fence)
}

// AdmitIn is Admit with a schema of another name.
func AdmitIn(ctx context.Context, s sqlfence.Schema, tx pgx.Tx, scope string, fence uint64) error {
	statement, err := s.Statement()
	if err == nil {
		err = sqlfence.Check(scope, fence)
	}
	if err != nil {
		return err
	}
	_, err = tx.Exec(ctx, statement, scope, int64(fence))
	return sqlfence.Translate(err)
}

// Beginner begins transactions: a *pgx.Conn or a *pgxpool.Pool.
type Beginner interface {
	BeginTx(ctx context.Context, o pgx.TxOptions) (pgx.Tx, error)
}

// Run runs effect in a transaction that was admitted, and commits: see
// sqlfence.Schema.Run.
func Run(ctx context.Context, db Beginner, o pgx.TxOptions, scope string, fence uint64, effect func(ctx context.Context, tx pgx.Tx) error) error {
	return RunIn(ctx, sqlfence.DefaultSchema, db, o, scope, fence, effect)
}

// RunIn is Run with a schema of another name.
func RunIn(ctx context.Context, s sqlfence.Schema, db Beginner, o pgx.TxOptions, scope string, fence uint64, effect func(ctx context.Context, tx pgx.Tx) error) error {
	if o.IsoLevel != "" && o.IsoLevel != pgx.ReadCommitted {
		err := RunIn(ctx, s, db, pgx.TxOptions{IsoLevel: pgx.ReadCommitted}, scope, fence, func(context.Context, pgx.Tx) error { return nil })
		if err != nil {
			return err
		}
	}
	return sqlfence.Repeat(ctx, func() error {
		err := pgx.BeginTxFunc(ctx, db, o, func(tx pgx.Tx) error {
			if err := AdmitIn(ctx, s, tx, scope, fence); err != nil {
				return err
			}
			return effect(ctx, tx)
		})
		return sqlfence.Translate(err)
	})
}

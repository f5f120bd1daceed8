package main

import (
	"context"

	"github.com/omnirelay/leadership/core"
)

// end is one end of a migration: a place where a registry lies or is to lie. None of
// its methods opens it to be served but open and reopen.
type end interface {
	// name says which place it is.
	name() string
	// voters are the replicas that serve from it.
	voters() []core.NodeID
	// look tells what is there now.
	look(ctx context.Context) (standing, error)

	// Of a source. close keeps it from being served, with a note, and settle replaces the
	// note. read is what it holds; it must be closed. page is its audit trail.
	close(ctx context.Context, why note) error
	read(ctx context.Context) (*core.Registry, error)
	page(ctx context.Context, after uint64) ([]*core.Record, error)
	settle(ctx context.Context, why note) error
	reopen(ctx context.Context) error

	// Of a target. fill puts a registry and its whole audit trail there, so that it is
	// not served; copies reads back all that was written; open lets it be served.
	fill(ctx context.Context, in *filling) error
	copies(ctx context.Context, visit func(*copied) error) error
	open(ctx context.Context) error

	// release lets go of what the end holds.
	release() error
}

// standing is what an end holds.
type standing struct {
	present bool   // a registry, or a part of one
	open    bool   // it may be served
	closed  string // why it may not
	note    note   // when a migration closed it
	// generation tells a log from those before it, at the same place or others.
	generation uint64
	// doubtful says why what it holds may be less than was acknowledged; empty: it is all.
	doubtful string
}

// byMigration reports whether a migration left a note of this kind.
func (s *standing) byMigration(kind noteKind) bool { return s.note.kind == kind }

// filling is what a target is filled with.
type filling struct {
	registry   *core.Registry
	generation uint64
	why        note
	trail      *trail
}

// copied is what was read back from a target.
type copied struct {
	name     string
	registry *core.Registry
	page     func(ctx context.Context, after uint64) ([]*core.Record, error)
}

// trailPage is how many audit records are moved at once.
const trailPage = 1_000

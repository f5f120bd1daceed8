// Package pglog keeps the log in a schema of a PostgreSQL database (version 14 or
// newer). Each call of core.StoreCall is one call of an SQL function, which is one
// transaction: see migrations. Nothing rests on the state of a session, so a pooler
// in transaction mode may stand in between.
//
// Whatever is acknowledged was committed synchronously. A commit whose answer did
// not come is reported as unknown, and never repeated here: the caller repeats it,
// and the guards tell whether it took effect.
package pglog

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"regexp"
	"time"

	"github.com/jackc/pgx/v5"
)

// Limits and defaults of Options.
const (
	DefaultSchema   = "leadership"
	MaxSchema       = 40 // bytes
	MaxClusterID    = 128
	MaxURL          = 4096 // bytes
	DefaultTailPoll = 100 * time.Millisecond
	MinTailPoll     = 10 * time.Millisecond
	MaxTailPoll     = 10 * time.Second
)

const openTimeout = 30 * time.Second // for Open, when its context has no nearer end

// Options says which log to use.
type Options struct {
	// URL is postgres://user@host:port/database?options, or options as key=value.
	// Several hosts may be named: the one that takes writes is used.
	URL      string
	Password string // overrides that of URL; empty: as URL and the environment say
	Schema   string // a-z, 0-9 and _, at most MaxSchema; empty: DefaultSchema
	// ClusterID is the cluster whose log this is; another's is refused.
	ClusterID string
	// Migrate creates the schema, or brings it up to date, if the role may.
	Migrate bool
	// TailPoll is how often a waiting fetch looks by itself, beside being notified:
	// the delay behind a pooler that does not pass notifications on. 0:
	// DefaultTailPoll.
	TailPoll time.Duration
	Logger   *slog.Logger // nil: nothing is logged
}

var schemaName = regexp.MustCompile(`^[a-z_][a-z0-9_]*$`)

func (o *Options) complete() error {
	if o.Schema == "" {
		o.Schema = DefaultSchema
	}
	if o.TailPoll == 0 {
		o.TailPoll = DefaultTailPoll
	}
	if o.Logger == nil {
		o.Logger = slog.New(slog.DiscardHandler)
	}
	var errs []error
	if o.URL == "" || len(o.URL) > MaxURL {
		errs = append(errs, fmt.Errorf("URL has %d bytes: want postgres://user@host:port/database, at most %d", len(o.URL), MaxURL))
	}
	if err := checkSchema(o.Schema); err != nil {
		errs = append(errs, err)
	}
	if o.ClusterID == "" || len(o.ClusterID) > MaxClusterID {
		errs = append(errs, fmt.Errorf("ClusterID has %d bytes: want 1 to %d", len(o.ClusterID), MaxClusterID))
	}
	if o.TailPoll < MinTailPoll || o.TailPoll > MaxTailPoll {
		errs = append(errs, fmt.Errorf("TailPoll is %s: want %s to %s", o.TailPoll, MinTailPoll, MaxTailPoll))
	}
	return errors.Join(errs...)
}

func checkSchema(name string) error {
	if !schemaName.MatchString(name) || len(name) > MaxSchema || len(name) > 2 && name[:3] == "pg_" {
		return fmt.Errorf("Schema is %q: want at most %d of a-z, 0-9 and _, no digit first, and not pg_ first", name, MaxSchema)
	}
	return nil
}

// Store is a log in a database. Its methods may be called from several goroutines.
type Store struct {
	options Options
	pool    *pool
	tail    *tail
	life    context.Context // ends with Close
	end     context.CancelFunc
}

// Open connects, brings the schema up to date if it may, and checks that the server
// is fit to keep a log. The error says what is not, and what would be right; it is
// a *Refusal when trying again cannot help.
func Open(ctx context.Context, o Options) (*Store, error) {
	if err := o.complete(); err != nil {
		return nil, fmt.Errorf("pglog: %w", &Refusal{Text: err.Error()})
	}
	config, err := connConfig(o)
	if err != nil {
		return nil, fmt.Errorf("pglog: URL: %w", &Refusal{Text: err.Error()})
	}
	ctx, cancel := context.WithTimeout(ctx, openTimeout)
	defer cancel()
	if err := prepare(ctx, config, o); err != nil {
		return nil, fmt.Errorf("pglog: %w", sorted(err, o.Schema))
	}
	s := &Store{options: o, pool: newPool(config), tail: listen(config, o)}
	s.life, s.end = context.WithCancel(context.Background())
	return s, nil
}

// prepare makes the store ready for its first call.
func prepare(ctx context.Context, config *pgx.ConnConfig, o Options) error {
	conn, err := pgx.ConnectConfig(ctx, config)
	if err != nil {
		return fmt.Errorf("cannot connect: %w", err)
	}
	defer func() { _ = conn.Close(ctx) }()
	if err := checkServer(ctx, conn); err != nil {
		return err
	}
	return migrate(ctx, conn, o)
}

// Close ends all connections. Calls under way fail.
func (s *Store) Close() error {
	s.end()
	s.tail.close()
	s.pool.close()
	return nil
}

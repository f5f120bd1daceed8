package main

import (
	"context"
	"errors"
	"fmt"
	"net/url"
	"slices"
	"strings"
	"time"

	"github.com/omnirelay/leadership/adapters/config"
	"github.com/omnirelay/leadership/core"
)

// What the commands of an operator do on a log in an external store.

const (
	// callWithin bounds a call of an operator's command, bulkWithin one that moves a
	// whole snapshot.
	callWithin = 15 * time.Second
	bulkWithin = 2 * time.Minute
	// fetchesOnce bounds how often a log is fetched from until its end is reached.
	fetchesOnce = 10_000
)

// errDamaged is wrapped by what is wrong with the content of a log that was read, and
// errUnfit by what a store says of itself: its settings, its role, or what lies in it.
var (
	errDamaged = errors.New("what lies in the store is damaged")
	errUnfit   = errors.New("the store must not be used")
)

// refusedError is a call whose guard did not hold: it changed nothing.
type refusedError struct{ text string }

func (e *refusedError) Error() string { return "the store refused: " + e.text }

// ask makes one call; every status but StoreOK is an error.
func ask(ctx context.Context, s store, c *core.StoreCall) (*core.StoreReply, error) {
	if c.Timeout = callWithin; c.Replace != nil || c.Fetch != nil {
		c.Timeout = bulkWithin
	}
	reply := s.Do(ctx, c)
	switch reply.Status {
	case core.StoreOK:
		return reply, nil
	case core.StoreRefused:
		return reply, &refusedError{reply.Text}
	case core.StoreUnfit:
		return reply, fmt.Errorf("%w: %s", errUnfit, reply.Text)
	}
	return reply, fmt.Errorf("the store does not answer, and may have done it or still do it: %s", reply.Text)
}

// standingLog is a log as it was read.
type standingLog struct {
	registry *core.Registry
	lead     *core.Lead
	identity string // of the server that answered
}

func (l *standingLog) position() core.Position {
	return core.Position{Term: l.lead.Term, Last: l.lead.Last}
}

// readLog reads the whole log.
func readLog(ctx context.Context, s store) (*standingLog, error) {
	reader := core.NewLogReader()
	for range fetchesOnce {
		reply, err := ask(ctx, s, &core.StoreCall{Fetch: reader.Next()})
		if err != nil {
			return nil, err
		}
		if reply.Lead == nil {
			return nil, errors.New("the store holds no registry: check the configuration; after a loss of everything, restore a backup of the store")
		}
		done, err := reader.Take(reply)
		if err != nil {
			return nil, fmt.Errorf("%w: %w", errDamaged, err)
		}
		if done {
			l := &standingLog{}
			l.registry, l.lead, l.identity = reader.Registry()
			return l, nil
		}
	}
	return nil, errors.New("the log grows faster than it can be read: stop the nodes first")
}

// recordAt is the published audit record with this number, nil when there is none.
func recordAt(ctx context.Context, s store, seq uint64) (*core.Record, error) {
	reply, err := ask(ctx, s, &core.StoreCall{Trail: &core.StoreTrail{After: seq - 1, Limit: 1}})
	if err != nil || len(reply.Records) == 0 || reply.Records[0].Seq != seq {
		return nil, err
	}
	return reply.Records[0], nil
}

// newestPublished is the number of the newest published audit record.
func newestPublished(ctx context.Context, s store, lead *core.Lead) (uint64, error) {
	reply, err := ask(ctx, s, &core.StoreCall{Fetch: &core.StoreFetch{After: lead.GetLast(), MaxBytes: 1}})
	if err != nil {
		return 0, err
	}
	return reply.Published, nil
}

// publish adds audit records behind the one with the number after. Every transition
// up to revision is in them.
func publish(ctx context.Context, s store, term, after uint64, records []*core.Record, revision uint64) error {
	_, err := ask(ctx, s, &core.StoreCall{Publish: &core.StorePublish{Term: term, After: after, Records: records, Revision: revision}})
	return err
}

// placeOf names where the registry of a configuration lies, for people: it holds no
// password.
func placeOf(c *config.Config) string {
	r := &c.Registry
	switch r.Store {
	case config.StoreEtcd:
		return fmt.Sprintf("etcd at %s, prefix %s", strings.Join(slices.Sorted(slices.Values(r.Etcd.Endpoints)), " "), r.Etcd.Prefix)
	case config.StorePostgres:
		return fmt.Sprintf("postgres at %s, schema %s", databaseOf(r.Postgres.URL), r.Postgres.Schema)
	case config.StoreRedis:
		return fmt.Sprintf("redis at %s, database %d, prefix %s", r.Redis.Address, r.Redis.DB, r.Redis.Prefix)
	}
	var ids []string
	for _, p := range c.Peers {
		ids = append(ids, p.ID)
	}
	slices.Sort(ids)
	return "raft of " + strings.Join(ids, " ")
}

// databaseOf is host and database of a URL.
func databaseOf(text string) string {
	u, err := url.Parse(text)
	if err != nil {
		return "?"
	}
	return u.Host + u.Path
}

package main

import (
	"bytes"
	"context"
	"errors"
	"fmt"

	"google.golang.org/protobuf/proto"

	"github.com/omnirelay/leadership/adapters/config"
	"github.com/omnirelay/leadership/core"
)

// storeEnd is an external store.
type storeEnd struct {
	config *config.Config
	store  store

	// As it was read while closed: where it stood, and all of it.
	closed   *core.Lead
	snapshot *core.StoredSnapshot
}

func (e *storeEnd) name() string { return placeOf(e.config) }

func (e *storeEnd) voters() []core.NodeID { return votersOf(e.config) }

// votersOf are the replicas of a configuration.
func votersOf(c *config.Config) (voters []core.NodeID) {
	for _, p := range c.Peers {
		voters = append(voters, p.Replica())
	}
	return voters
}

func (e *storeEnd) release() error { return e.store.Close() }

// lead reads the lead record, nil when there is no log, and who answered.
func (e *storeEnd) lead(ctx context.Context) (*core.Lead, string, error) {
	reply, err := ask(ctx, e.store, &core.StoreCall{Confirm: &core.StoreConfirm{}})
	if err != nil {
		return nil, "", fmt.Errorf("%s: %w", e.name(), err)
	}
	return reply.Lead, reply.Identity, nil
}

func (e *storeEnd) look(ctx context.Context) (standing, error) {
	lead, identity, err := e.lead(ctx)
	if err != nil || lead == nil {
		return standing{}, err
	}
	s := standing{present: true, open: lead.Closed == "", closed: lead.Closed, generation: lead.Generation}
	s.note, _ = parseNote(lead.Closed)
	// What a migration closed was whole at that time, and a server keeps what it was told
	// in order: one that still knows of the closing knows all before it.
	if s.open && lead.Identity != identity {
		s.doubtful = "the server was restarted or replaced since the log was last used: start the nodes until they are ready, which proves that nothing is missing, or jump the fence (leaderd fence jump)"
	}
	return s, nil
}

func (e *storeEnd) close(ctx context.Context, why note) error {
	_, err := ask(ctx, e.store, &core.StoreCall{Close: &core.StoreClose{Reason: why.String()}})
	var refused *refusedError
	if errors.As(err, &refused) { // closed already, by whom?
		s, lookErr := e.look(ctx)
		if lookErr == nil && s.closed == why.String() {
			return nil
		}
	}
	return err
}

func (e *storeEnd) read(ctx context.Context) (*core.Registry, error) {
	log, err := readLog(ctx, e.store)
	if err != nil {
		return nil, fmt.Errorf("%s: %w", e.name(), err)
	}
	if log.lead.Closed == "" {
		return nil, fmt.Errorf("%s was opened again by somebody else", e.name())
	}
	_, e.snapshot, err = log.registry.StoredLog(log.lead.Term, log.lead.Generation, log.lead.Identity)
	e.closed = log.lead
	return log.registry, err
}

func (e *storeEnd) page(ctx context.Context, after uint64) ([]*core.Record, error) {
	reply, err := ask(ctx, e.store, &core.StoreCall{Trail: &core.StoreTrail{After: after, Limit: trailPage}})
	if err != nil {
		return nil, fmt.Errorf("%s: %w", e.name(), err)
	}
	return reply.Records, nil
}

// settle writes the same log again with another note, as a snapshot, and under the
// next term: so whoever wanted to open the log as it was is refused.
func (e *storeEnd) settle(ctx context.Context, why note) error {
	if e.closed == nil { // an earlier run has done it
		s, err := e.look(ctx)
		if err == nil && s.closed != why.String() {
			err = fmt.Errorf("%s is not %q any more but %q", e.name(), why, s.closed)
		}
		return err
	}
	lead := proto.CloneOf(e.closed)
	lead.Term, lead.Holder, lead.AppendId, lead.Closed = lead.Term+1, 0, nil, why.String()
	snapshot := &core.StoredSnapshot{Index: lead.Last, Term: e.closed.Term, Chain: lead.Chain, Data: e.snapshot.Data}
	published, err := newestPublished(ctx, e.store, e.closed)
	if err != nil {
		return err
	}
	_, err = ask(ctx, e.store, &core.StoreCall{Replace: &core.StoreReplace{
		Guard: core.Position{Term: e.closed.Term, Last: e.closed.Last}, Lead: lead, Snapshot: snapshot, Published: published,
	}})
	return err
}

func (e *storeEnd) reopen(ctx context.Context) error { return e.setOpen(ctx, noteMoving) }

func (e *storeEnd) open(ctx context.Context) error { return e.setOpen(ctx, noteFilling) }

// setOpen opens the log if a note of this kind closes it.
func (e *storeEnd) setOpen(ctx context.Context, kind noteKind) error {
	lead, _, err := e.lead(ctx)
	if err != nil {
		return err
	}
	if n, _ := parseNote(lead.GetClosed()); n.kind != kind {
		return fmt.Errorf("%s is not %q any more but %q", e.name(), kind, lead.GetClosed())
	}
	at := core.Position{Term: lead.Term, Last: lead.Last}
	_, err = ask(ctx, e.store, &core.StoreCall{Close: &core.StoreClose{Guard: &at}})
	return err
}

func (e *storeEnd) fill(ctx context.Context, in *filling) error {
	lead, identity, err := e.lead(ctx)
	if err != nil {
		return err
	}
	next, snapshot, err := in.registry.StoredLog(lead.GetTerm()+1, in.generation, identity)
	if err != nil {
		return err
	}
	next.Closed = in.why.String()
	keep, err := e.common(ctx, lead, in.trail)
	if err != nil {
		return err
	}
	_, err = ask(ctx, e.store, &core.StoreCall{Replace: &core.StoreReplace{
		Guard: core.Position{Term: lead.GetTerm(), Last: lead.GetLast()}, Lead: next, Snapshot: snapshot, Published: keep,
	}})
	if err != nil {
		return err
	}
	_, err = in.trail.each(ctx, func(records []*core.Record) error {
		for len(records) > 0 && records[0].Seq <= keep {
			records = records[1:]
		}
		if len(records) == 0 {
			return nil
		}
		after, last := keep, records[len(records)-1]
		keep = last.Seq
		return publish(ctx, e.store, next.Term, after, records, coveredBy(in.registry, last))
	})
	return err
}

// coveredBy is the revision up to which every transition is told when last was.
func coveredBy(g *core.Registry, last *core.Record) uint64 {
	if head, _ := g.History().Head(); last.Seq == head {
		return g.Revision()
	}
	return last.Revision - 1
}

// common is the number of the last audit record that the target has already: of an
// earlier attempt, or of the time when the registry lay there before.
func (e *storeEnd) common(ctx context.Context, lead *core.Lead, t *trail) (uint64, error) {
	newest, err := newestPublished(ctx, e.store, lead)
	if err != nil {
		return 0, err
	}
	head, _ := t.history.Head()
	if newest = min(newest, head); newest == 0 {
		return 0, nil
	}
	there, err := recordAt(ctx, e.store, newest)
	if err != nil {
		return 0, err
	}
	ours, err := t.next(ctx, newest-1)
	if err != nil {
		return 0, err
	}
	switch n, _ := parseNote(lead.GetClosed()); {
	case there != nil && len(ours) > 0 && bytes.Equal(there.Hash, ours[0].Hash):
		return newest, nil
	case n.kind == noteFilling:
		return 0, nil // of another attempt; it is all written again
	}
	return 0, fmt.Errorf("%s holds another audit trail, which is not the beginning of this one: name an empty place", e.name())
}

func (e *storeEnd) copies(ctx context.Context, visit func(*copied) error) error {
	log, err := readLog(ctx, e.store)
	if err != nil {
		return fmt.Errorf("%s: %w", e.name(), err)
	}
	return visit(&copied{name: e.name(), registry: log.registry, page: e.page})
}

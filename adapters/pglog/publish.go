package pglog

import (
	"context"
	"encoding/json"
	"fmt"

	"google.golang.org/protobuf/proto"

	"github.com/omnirelay/leadership/core"
)

// maxTrail bounds what one call reads, in records.
const maxTrail = core.MaxHistory

func (s *Store) publish(ctx context.Context, p *core.StorePublish) (*core.StoreReply, error) {
	var t trailColumns
	for i, rec := range p.Records {
		if first := p.Records[0].Seq; rec.Seq != first+uint64(i) || first <= p.After {
			return nil, fmt.Errorf("malformed publish: record %d behind %d, want consecutive ones", rec.Seq, p.After)
		}
		if err := t.add(rec); err != nil {
			return nil, err
		}
	}
	var newest int64
	r, err := s.call(ctx, "log_publish", []any{int64(p.Term), int64(p.After), signed(p.Revision),
		t.seqs, t.revisions, t.ordinals, t.kinds, t.scopes, t.scopeKinds, t.labels, t.members, t.sessions, t.terms, t.fences,
		t.reasons, t.correlations, t.actors, t.walls, t.issued, t.hashes, t.records}, ", a.newest", &newest)
	if err == nil {
		r.Published = uint64(newest)
	}
	return r, err
}

// trailColumns are audit records, column by column.
type trailColumns struct {
	seqs, revisions, ordinals, sessions, terms, fences, walls, issued         []int64
	kinds, scopes, scopeKinds, labels, members, reasons, correlations, actors []string
	hashes, records                                                           [][]byte
}

func (t *trailColumns) add(r *core.Record) error {
	labels, err := json.Marshal(r.Labels)
	if err != nil {
		return fmt.Errorf("labels of audit record %d: %w", r.Seq, err)
	}
	if r.Labels == nil {
		labels = []byte("{}")
	}
	record, err := proto.MarshalOptions{Deterministic: true}.Marshal(r)
	if err != nil {
		return fmt.Errorf("audit record %d: %w", r.Seq, err)
	}
	t.seqs, t.revisions, t.ordinals = append(t.seqs, int64(r.Seq)), append(t.revisions, int64(r.Revision)), append(t.ordinals, int64(r.Ordinal))
	t.kinds, t.scopes, t.scopeKinds = append(t.kinds, core.EventKind(r.Kind).String()), append(t.scopes, r.Scope), append(t.scopeKinds, r.ScopeKind)
	t.labels, t.members, t.sessions = append(t.labels, string(labels)), append(t.members, r.MemberId), append(t.sessions, int64(r.Session))
	t.terms, t.fences = append(t.terms, int64(r.Term)), append(t.fences, int64(r.Fence))
	t.reasons, t.correlations, t.actors = append(t.reasons, r.Reason), append(t.correlations, r.CorrelationId), append(t.actors, r.Actor)
	t.walls, t.issued = append(t.walls, r.WallNs), append(t.issued, r.IssuedWallNs)
	t.hashes, t.records = append(t.hashes, full(r.Hash)), append(t.records, record)
	return nil
}

func (s *Store) trail(ctx context.Context, t *core.StoreTrail) (*core.StoreReply, error) {
	args := []any{signed(t.After), int64(min(max(t.Limit, 0), maxTrail))}
	var records [][]byte
	r, err := s.call(ctx, "log_trail", args, ", a.records", &records)
	if err != nil {
		return nil, err
	}
	for _, b := range records {
		rec := &core.Record{}
		if err := proto.Unmarshal(b, rec); err != nil {
			return nil, unfit("schema %s: an audit record after %d is damaged: %v: restore a backup of this schema", s.options.Schema, t.After, err)
		}
		r.Records = append(r.Records, rec)
	}
	return r, nil
}

package redislog

import (
	"context"
	"fmt"

	"github.com/redis/go-redis/v9"
	"google.golang.org/protobuf/proto"

	"github.com/omnirelay/leadership/core"
	"github.com/omnirelay/leadership/core/logpb"
)

func (s *Store) append(ctx context.Context, a *core.StoreAppend) (*core.StoreReply, error) {
	if err := s.ours(a.Lead); err != nil {
		return nil, err
	}
	args := []any{digits(a.Guard.Term), digits(a.Guard.Last), flag(a.Adopt), len(a.Voters)}
	for _, v := range a.Voters {
		args = append(args, digits(uint64(v)))
	}
	args = append(args, leadFields(a.Lead)...)
	for _, e := range a.Entries {
		value, err := encode(e)
		if err != nil {
			return nil, err
		}
		args = append(args, item(e.Index), len(e.Data), value)
	}
	return s.plain(ctx, appendScript, args...)
}

// confirm reads, or beats, on the one server there is, which shows nobody what it
// has not made durable (see wanted): so an answer is as good as an append's.
//
// A primary that was replaced without being told would answer as well, and does no
// harm. Another server can be written only under its own identity; before the first
// append there, every replica must have attested that identity, and having attested
// it believes no server that was adopted in that round or an earlier one. So a registrar that still believes the old primary
// has not attested the new one, hence nothing was acknowledged there that the old
// one lacks.
func (s *Store) confirm(ctx context.Context, c *core.StoreConfirm) (*core.StoreReply, error) {
	return s.plain(ctx, confirmScript, digits(c.Term), flag(c.Beat))
}

func (s *Store) publish(ctx context.Context, p *core.StorePublish) (*core.StoreReply, error) {
	var newest uint64
	if n := len(p.Records); n > 0 {
		newest = p.Records[n-1].Revision
	}
	args := []any{digits(p.Term), digits(p.After), s.options.auditRecords(), digits(newest)}
	for _, r := range p.Records {
		value, err := encode(r)
		if err != nil {
			return nil, err
		}
		args = append(args, item(r.Seq), value)
	}
	r, rest, err := s.run(ctx, publishScript, args...)
	if err != nil {
		return nil, err
	}
	d := &decoder{place: "the key " + s.keys.audit}
	r.Published = d.number(d.at(rest, 0))
	return r, d.err
}

func (s *Store) attest(ctx context.Context, a *core.StoreAttest) (*core.StoreReply, error) {
	return s.plain(ctx, attestScript, a.Identity, digits(uint64(a.Node)), digits(a.Round))
}

func (s *Store) close(ctx context.Context, c *core.StoreClose) (*core.StoreReply, error) {
	var guard core.Position
	if c.Guard != nil {
		guard = *c.Guard
	}
	return s.plain(ctx, closeScript, flag(c.Guard != nil), digits(guard.Term), digits(guard.Last), c.Identity, c.Reason)
}

// plain runs a script whose reply says nothing besides.
func (s *Store) plain(ctx context.Context, sc *redis.Script, args ...any) (*core.StoreReply, error) {
	r, _, err := s.run(ctx, sc, args...)
	return r, err
}

// trailPiece is how many audit records one script reads: about a megabyte.
const trailPiece = 1_000

func (s *Store) trail(ctx context.Context, t *core.StoreTrail) (*core.StoreReply, error) {
	var records []*core.Record
	for after := t.After; ; after = records[len(records)-1].Seq {
		piece := max(0, min(trailPiece, t.Limit-len(records)))
		// Nothing lies behind the largest number; "(" leaves out the number itself.
		r, rest, err := s.run(ctx, trailScript, "("+item(after), piece)
		if err != nil {
			return nil, err
		}
		found, err := s.decodeRecords(rest)
		if err != nil {
			return nil, err
		}
		records = append(records, found...)
		if len(found) < piece || len(records) >= t.Limit {
			r.Records = records
			return r, nil
		}
	}
}

func (s *Store) decodeRecords(rest []any) ([]*core.Record, error) {
	d := &decoder{place: "the key " + s.keys.audit}
	var records []*core.Record
	list := d.list(rest, 0)
	for i := 0; i+1 < len(list) && d.err == nil; i += 2 {
		r := &core.Record{}
		d.message(d.at(list, i+1), r)
		if d.at(list, i) != item(r.Seq) {
			d.fail("the record %d at the item %s", r.Seq, d.at(list, i))
		}
		records = append(records, r)
	}
	return records, d.err
}

// ours refuses a lead record that this store would not read again.
func (s *Store) ours(l *logpb.Lead) error {
	if l.GetClusterId() != s.options.ClusterID {
		return unfitError(fmt.Sprintf("the caller's log is of the cluster %q, the store of %q: a fault of the caller", l.GetClusterId(), s.options.ClusterID))
	}
	return nil
}

func encode(m proto.Message) ([]byte, error) {
	value, err := proto.Marshal(m)
	if err != nil {
		return nil, unfitError(fmt.Sprintf("the call cannot be encoded (%v): a fault of the caller", err))
	}
	return value, nil
}

func flag(set bool) string {
	if set {
		return "1"
	}
	return "0"
}

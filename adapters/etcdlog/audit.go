package etcdlog

import (
	"context"
	"errors"

	"go.etcd.io/etcd/api/v3/mvccpb"
	"go.etcd.io/etcd/api/v3/v3rpc/rpctypes"
	clientv3 "go.etcd.io/etcd/client/v3"
	"google.golang.org/protobuf/proto"

	"github.com/omnirelay/leadership/core"
)

// MaxTrail is the most audit records that one StoreTrail returns.
const MaxTrail = 10_000

const (
	trailPage = 256      // records read at once
	maxRecord = 64 << 10 // bytes; those that core makes have a few hundred, and 10 KiB at most
)

// publish writes the records in pieces, since etcd's transactions are limited. Each
// piece moves head/published along and is guarded by it and by the term, so what is
// visible is always whole up to head/published. The contract wants all or nothing of
// one call; a call that was cut short between pieces is answered with StoreFailed,
// its outcome being unknown, and what it left is what a shorter call of the same
// office would have left. The repeat is refused, since After lies behind, and its reply's
// Published tells where to go on. Records are the same from whoever publishes them.
func (s *Store) publish(ctx context.Context, p *core.StorePublish) (*core.StoreReply, error) {
	pieces, err := s.pieces(p)
	if err != nil {
		return nil, err
	}
	if len(pieces) == 0 {
		return s.publishNothing(ctx, p)
	}
	var got *answer
	for i, piece := range pieces {
		got, err = s.commit(ctx, []clientv3.Cmp{s.inOffice(p.Term), s.publishedIs(piece.after)}, piece.ops...)
		switch {
		case err != nil:
			return nil, err
		case !got.took && i == 0:
			return published(got.refuse("the office is of term %d, and audit record %d is the newest", got.lead.GetTerm(), got.published), got), nil
		case !got.took:
			return nil, fail("another took the office over while audit records were published; those up to %d are", got.published)
		}
	}
	return published(got.reply(), got), nil
}

func published(r *core.StoreReply, got *answer) *core.StoreReply {
	r.Published = got.head.published
	return r
}

func (s *Store) publishNothing(ctx context.Context, p *core.StorePublish) (*core.StoreReply, error) {
	got, err := s.look(ctx)
	if err != nil {
		return nil, err
	}
	if got.lead.GetTerm() != p.Term || got.published != p.After {
		return published(got.refuse("the office is of term %d, and audit record %d is the newest", got.lead.GetTerm(), got.published), got), nil
	}
	return published(got.reply(), got), nil
}

func (s *Store) publishedIs(seq uint64) clientv3.Cmp {
	key := s.keys.head(namePublished)
	if seq == 0 {
		return clientv3.Compare(clientv3.CreateRevision(key), "=", 0)
	}
	return clientv3.Compare(clientv3.Value(key), "=", decimal(seq))
}

// piece is what one transaction publishes.
type piece struct {
	after, last uint64
	ops         []clientv3.Op
	size        int
}

func (s *Store) pieces(p *core.StorePublish) ([]*piece, error) {
	if len(p.Records) > core.MaxPublishRecords {
		return nil, fail("%d audit records are published at once; %d is the limit", len(p.Records), core.MaxPublishRecords)
	}
	most := int(min(maxOps, s.options.auditRecords()))
	var pieces []*piece
	for i, r := range p.Records {
		if r.Seq != p.After+1+uint64(i) {
			return nil, fail("audit record %d follows %d; %d is right", r.Seq, p.After+uint64(i), p.After+1+uint64(i))
		}
		value, err := proto.Marshal(r)
		if err != nil || len(value) > maxRecord {
			return nil, fail("audit record %d of %d bytes cannot be stored: %v", r.Seq, len(value), err)
		}
		if n := len(pieces); n == 0 || len(pieces[n-1].ops) == most || pieces[n-1].size+len(value) > maxRequest {
			pieces = append(pieces, &piece{after: r.Seq - 1})
		}
		last := pieces[len(pieces)-1]
		last.ops = append(last.ops, clientv3.OpPut(s.keys.audit(r.Seq), string(value)))
		last.last, last.size = r.Seq, last.size+len(value)
	}
	for _, piece := range pieces {
		piece.ops = append(piece.ops, s.sealPiece(piece)...)
	}
	return pieces, nil
}

// sealPiece moves the mark and drops as many old records as came, and as many again
// at most. When more are too old, because AuditRecords was lowered, the next
// checkpoint drops them.
func (s *Store) sealPiece(p *piece) []clientv3.Op {
	ops := []clientv3.Op{clientv3.OpPut(s.keys.head(namePublished), decimal(p.last))}
	if keep := s.options.auditRecords(); p.last > keep {
		end := p.last - keep + 1
		start := end - min(end, 2*(p.last-p.after))
		ops = append(ops, clientv3.OpDelete(s.keys.audit(start), clientv3.WithRange(s.keys.audit(end))))
	}
	return ops
}

// trail reads pages as of one revision, and starts over when that was compacted.
func (s *Store) trail(ctx context.Context, t *core.StoreTrail) (*core.StoreReply, error) {
	for {
		reply, err := s.trailOnce(ctx, t)
		if !errors.Is(err, rpctypes.ErrCompacted) {
			return reply, err
		}
	}
}

func (s *Store) trailOnce(ctx context.Context, t *core.StoreTrail) (*core.StoreReply, error) {
	limit := max(0, min(t.Limit, MaxTrail))
	page := func(after uint64, have int, options ...clientv3.OpOption) clientv3.Op {
		_, end := s.keys.audits()
		options = append(options, clientv3.WithRange(end), clientv3.WithLimit(int64(max(1, min(trailPage, limit-have)))))
		return clientv3.OpGet(s.keys.audit(after)+"\x00", options...)
	}
	got, err := s.look(ctx, page(t.After, 0))
	if err != nil {
		return nil, err
	}
	reply, more := got.reply(), got.ranges[0]
	for {
		for _, kv := range more.Kvs {
			if len(reply.Records) == limit {
				break
			}
			if reply.Records, err = addRecord(reply.Records, kv); err != nil {
				return nil, err
			}
		}
		if n := len(reply.Records); n == 0 || n == limit || !more.More {
			return reply, s.checkTrail(reply.Records, limit, t.After, got.head)
		}
		next, err := s.look(ctx, page(reply.Records[len(reply.Records)-1].Seq, len(reply.Records), clientv3.WithRev(got.revision)))
		if err != nil {
			return nil, err
		}
		more = next.ranges[0]
	}
}

func addRecord(records []*core.Record, kv *mvccpb.KeyValue) ([]*core.Record, error) {
	seq, err := numberOf(kv.Key)
	if err != nil {
		return nil, err
	}
	r := new(core.Record)
	if err := proto.Unmarshal(kv.Value, r); err != nil || r.Seq != seq {
		return nil, damaged(string(kv.Key), "is not audit record %d (%v): restore etcd from a backup", seq, err)
	}
	if n := len(records); n > 0 && records[n-1].Seq+1 != seq {
		return nil, damaged(string(kv.Key), "follows audit record %d: those between are missing; restore etcd from a backup", records[n-1].Seq)
	}
	return append(records, r), nil
}

// checkTrail checks that the records that were asked for end where the trail does.
func (s *Store) checkTrail(records []*core.Record, limit int, after uint64, h *head) error {
	last := after
	if n := len(records); n > 0 {
		last = records[n-1].Seq
	}
	if last > h.published && len(records) > 0 {
		return damaged(s.keys.audit(last), "lies beyond %s, which says %d: restore etcd from a backup", s.keys.head(namePublished), h.published)
	}
	if len(records) < limit && last < h.published {
		return damaged(s.keys.audit(last+1), "is missing, but %s says %d: restore etcd from a backup", s.keys.head(namePublished), h.published)
	}
	return nil
}

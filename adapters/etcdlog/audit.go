package etcdlog

import (
	"context"
	"errors"
	"strconv"

	"go.etcd.io/etcd/api/v3/mvccpb"
	"go.etcd.io/etcd/api/v3/v3rpc/rpctypes"
	clientv3 "go.etcd.io/etcd/client/v3"
	"google.golang.org/protobuf/proto"

	"github.com/omnirelay/leadership/core"
)

// MaxTrail is the most audit records that one StoreTrail returns.
const MaxTrail = 10_000

const (
	trailPage = 256 // records read at once
	maxJumps  = 1_000
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
		got, err = s.commit(ctx, append(s.holdsEntry(p), s.inOffice(p.Term), s.publishedIs(piece.after)), piece.ops...)
		switch {
		case err != nil:
			return nil, err
		case !got.took && i == 0:
			return refusePublish(p, got), nil
		case !got.took:
			return nil, fail("another took the office over while audit records were published; those up to %d are", got.published)
		}
	}
	return published(got.reply(), got), nil
}

func refusePublish(p *core.StorePublish, got *answer) *core.StoreReply {
	return published(got.refuse("the log stands at term %d, entry %d, and audit record %d is the newest; not at term %d and record %d, with entry %d",
		got.lead.GetTerm(), got.lead.GetLast(), got.head.published, p.Term, p.After, newestOf(p)), got)
}

// newestOf is the revision of the newest record.
func newestOf(p *core.StorePublish) uint64 {
	if len(p.Records) == 0 {
		return 0
	}
	return p.Records[len(p.Records)-1].Revision
}

// holdsEntry holds as long as the entries that the records are about are in the log.
func (s *Store) holdsEntry(p *core.StorePublish) []clientv3.Cmp {
	newest := newestOf(p)
	if newest == 0 {
		return nil
	}
	return []clientv3.Cmp{clientv3.Compare(clientv3.Value(s.keys.head(nameLast)), ">", number(newest-1))}
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
		return refusePublish(p, got), nil
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
	before := p.After
	for i, r := range p.Records {
		if r.Seq <= before || i > 0 && r.Seq != before+1 {
			return nil, fail("audit record %d follows %d; %d is right", r.Seq, before, before+1)
		}
		value, err := proto.Marshal(r)
		if err != nil || len(value) > maxRecord {
			return nil, fail("audit record %d of %d bytes cannot be stored: %v", r.Seq, len(value), err)
		}
		if n := len(pieces); n == 0 || len(pieces[n-1].ops) == most || pieces[n-1].size+len(value) > maxRequest {
			pieces = append(pieces, &piece{after: before})
		}
		last := pieces[len(pieces)-1]
		before = r.Seq
		last.ops = append(last.ops, clientv3.OpPut(s.keys.audit(r.Seq), string(value)))
		last.last, last.size = r.Seq, last.size+len(value)
	}
	for _, piece := range pieces {
		piece.ops = append(piece.ops, s.sealPiece(piece)...)
	}
	if len(pieces) > 0 && p.Records[0].Seq != p.After+1 {
		// Later readers must not take what is not there for what was lost.
		pieces[0].ops = append(pieces[0].ops, clientv3.OpPut(s.keys.jump(p.Records[0].Seq), decimal(p.After)))
	}
	return pieces, nil
}

// sealPiece moves the mark and drops old records, a few more at most than came. When
// more are too old, because AuditRecords was lowered, the next checkpoint drops them.
func (s *Store) sealPiece(p *piece) []clientv3.Op {
	ops := []clientv3.Op{clientv3.OpPut(s.keys.head(namePublished), decimal(p.last))}
	if keep := s.options.auditRecords(); p.last > keep {
		end := p.last - keep + 1
		start := end - min(end, 2*maxOps)
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
	from, to := s.keys.jumps()
	got, err := s.look(ctx, page(t.After, 0), clientv3.OpGet(from, clientv3.WithRange(to), clientv3.WithLimit(maxJumps)))
	if err != nil {
		return nil, err
	}
	jumps, err := jumpsOf(got.ranges[1].Kvs)
	if err != nil {
		return nil, err
	}
	reply, more := got.reply(), got.ranges[0]
	for {
		for _, kv := range more.Kvs {
			if len(reply.Records) == limit {
				break
			}
			if reply.Records, err = addRecord(reply.Records, kv, jumps); err != nil {
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

// jumpsOf are the records that do not follow the number before theirs, and which
// they follow instead.
func jumpsOf(kvs []*mvccpb.KeyValue) (map[uint64]uint64, error) {
	jumps := map[uint64]uint64{}
	for _, kv := range kvs {
		seq, err := numberOf(kv.Key)
		if err != nil {
			return nil, err
		}
		if jumps[seq], err = strconv.ParseUint(string(kv.Value), 10, 64); err != nil {
			return nil, damaged(string(kv.Key), "holds %.40q; a decimal number is right", kv.Value)
		}
	}
	return jumps, nil
}

func addRecord(records []*core.Record, kv *mvccpb.KeyValue, jumps map[uint64]uint64) ([]*core.Record, error) {
	seq, err := numberOf(kv.Key)
	if err != nil {
		return nil, err
	}
	r := new(core.Record)
	if err := proto.Unmarshal(kv.Value, r); err != nil || r.Seq != seq {
		return nil, damaged(string(kv.Key), "is not audit record %d (%v): restore etcd from a backup", seq, err)
	}
	before, jumped := jumps[seq]
	if !jumped {
		before = seq - 1
	}
	if n := len(records); n > 0 && records[n-1].Seq != before {
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
		return damaged(s.keys.audit(h.published), "is missing, but %s says %d: restore etcd from a backup", s.keys.head(namePublished), h.published)
	}
	return nil
}

package etcdlog

import (
	"context"

	clientv3 "go.etcd.io/etcd/client/v3"
	"google.golang.org/protobuf/proto"

	"github.com/omnirelay/leadership/core"
)

// close writes the lead record anew, as long as it is the one that was read.
func (s *Store) close(ctx context.Context, c *core.StoreClose) (*core.StoreReply, error) {
	got, err := s.look(ctx)
	for {
		if err != nil {
			return nil, err
		}
		if reply := judgeClose(c, got.head); reply != nil {
			return reply, nil
		}
		lead := proto.CloneOf(got.lead)
		lead.Closed = c.Reason
		ops, err := s.putLead(lead)
		if err != nil {
			return nil, err
		}
		if got, err = s.commit(ctx, s.same(got.head, nameLead), ops...); err != nil {
			return nil, err
		}
		if got.took {
			return got.reply(), nil
		}
	}
}

func judgeClose(c *core.StoreClose, h *head) *core.StoreReply {
	switch {
	case h.lead == nil:
		return h.refuse("there is no log")
	case c.Guard != nil && (c.Guard.Term != h.lead.Term || c.Guard.Last != 0 && c.Guard.Last != h.lead.Last):
		return h.refuse("the log stands at term %d, entry %d", h.lead.Term, h.lead.Last)
	case c.Identity != "" && c.Identity != h.identity:
		return h.refuse("the server is %s, not %.100q", h.identity, c.Identity)
	case c.Reason != "" && h.lead.Closed != "":
		return h.refuse("the log is closed: %s", h.lead.Closed)
	}
	return nil
}

// replace writes the chunks, and then everything else in one transaction.
func (s *Store) replace(ctx context.Context, r *core.StoreReplace) (*core.StoreReply, error) {
	if err := s.checkLead(r.Lead); err != nil {
		return nil, err
	}
	got, err := s.look(ctx)
	if err != nil {
		return nil, err
	}
	if got.position() != r.Guard {
		return got.refuse("the log stands at term %d, entry %d", got.lead.GetTerm(), got.lead.GetLast()), nil
	}
	var p *pointer
	if r.Snapshot != nil {
		if p, _, err = s.writeChunks(ctx, r.Snapshot, nil); err != nil {
			return nil, err
		}
	}
	done, err := s.replaceHead(ctx, r, got, p)
	if err != nil || !done.took {
		if err == nil {
			return done.refuse("the log stands at term %d, entry %d", done.lead.GetTerm(), done.lead.GetLast()), nil
		}
		return nil, err
	}
	if err := s.sweepChunks(ctx, s.same(done.head, nameSnapshot, nameLead), p); err != nil {
		s.log.Warn("the snapshot that was replaced is not all dropped yet; the next checkpoint drops it", "error", s.explain(err))
	}
	return done.reply(), nil
}

// replaceHead tries until the head is what it was when it was looked at: a registrar
// may beat meanwhile.
func (s *Store) replaceHead(ctx context.Context, r *core.StoreReplace, got *answer, p *pointer) (*answer, error) {
	for {
		ops, err := s.replaceOps(ctx, r, got.head, p)
		if err != nil {
			return nil, err
		}
		cmps := s.same(got.head, nameLead, nameBeat, nameSnapshot, namePublished)
		if p != nil {
			cmps = append(cmps, s.whole(p)...)
		}
		before := got
		if got, err = s.commit(ctx, cmps, ops...); err != nil || got.took || got.position() != r.Guard {
			return got, err
		}
		if unchanged(before.head, got.head) {
			return nil, fail("chunks of the snapshot were removed while it was written: a registrar is at work; close the log first, or try again")
		}
	}
}

func unchanged(a, b *head) bool {
	for _, name := range []string{nameLead, nameBeat, nameSnapshot, namePublished} {
		if a.changed[name] != b.changed[name] {
			return false
		}
	}
	return true
}

func (s *Store) replaceOps(ctx context.Context, r *core.StoreReplace, h *head, p *pointer) ([]clientv3.Op, error) {
	ops, err := s.putLead(r.Lead)
	if err != nil {
		return nil, err
	}
	from, to := s.keys.entries()
	attests, attestsEnd := within(s.keys.prefix + "attest/")
	ops = append(ops, s.putTerm(r.Lead),
		clientv3.OpDelete(attests, clientv3.WithRange(attestsEnd)),
		// The version of the key will be one more, and counts: see readBeat.
		clientv3.OpPut(s.keys.head(nameBeat), decimal(r.Lead.Beat-h.beats)),
		clientv3.OpDelete(from, clientv3.WithRange(to)))
	if p == nil {
		ops = append(ops, clientv3.OpDelete(s.keys.head(nameSnapshot)))
	} else {
		value, err := p.encode()
		if err != nil {
			return nil, err
		}
		ops = append(ops, clientv3.OpPut(s.keys.head(nameSnapshot), value))
	}
	if h.published > r.Published {
		newest, err := s.newestUpTo(ctx, r.Published)
		if err != nil {
			return nil, err
		}
		ops = append(ops, s.unpublish(newest)...)
	}
	return ops, nil
}

// newestUpTo is the number of the newest audit record that is kept and not above seq,
// 0 when there is none.
func (s *Store) newestUpTo(ctx context.Context, seq uint64) (uint64, error) {
	from, _ := s.keys.audits()
	got, err := s.look(ctx, clientv3.OpGet(from, clientv3.WithRange(s.keys.audit(seq)+"\x00"),
		clientv3.WithSort(clientv3.SortByKey, clientv3.SortDescend), clientv3.WithLimit(1), clientv3.WithKeysOnly()))
	if err != nil || len(got.ranges[0].Kvs) == 0 {
		return 0, err
	}
	return numberOf(got.ranges[0].Kvs[0].Key)
}

// unpublish drops the audit records behind seq.
func (s *Store) unpublish(seq uint64) []clientv3.Op {
	_, end := s.keys.audits()
	_, jumpsEnd := s.keys.jumps()
	mark := clientv3.OpPut(s.keys.head(namePublished), decimal(seq))
	if seq == 0 {
		mark = clientv3.OpDelete(s.keys.head(namePublished))
	}
	return []clientv3.Op{
		mark, clientv3.OpDelete(s.keys.audit(seq)+"\x00", clientv3.WithRange(end)),
		clientv3.OpDelete(s.keys.jump(seq)+"\x00", clientv3.WithRange(jumpsEnd)),
	}
}

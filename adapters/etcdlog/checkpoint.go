package etcdlog

import (
	"context"

	clientv3 "go.etcd.io/etcd/client/v3"

	"github.com/omnirelay/leadership/core"
)

// dropPiece is how many keys are deleted at once: etcd does nothing else meanwhile.
const dropPiece = 256

// checkpoint writes the chunks, then the pointer, then drops what nobody needs. Once
// the pointer is written the call has taken effect; what is not dropped in its time
// is dropped by the next.
func (s *Store) checkpoint(ctx context.Context, c *core.StoreCheckpoint) (*core.StoreReply, error) {
	if c.TrimTo > c.Snapshot.Index {
		return nil, fail("a checkpoint drops entries up to %d; up to %d, the snapshot's, is right", c.TrimTo, c.Snapshot.Index)
	}
	got, err := s.look(ctx)
	if err != nil {
		return nil, err
	}
	if reply := judgeCheckpoint(c, got.head); reply != nil {
		return reply, nil
	}
	// What half-written checkpoints left is in the way: each can be 64 MiB.
	office := []clientv3.Cmp{s.inOffice(c.Term)}
	if err := s.sweepChunks(ctx, append(s.same(got.head, nameSnapshot), office...), got.pointer); err != nil {
		return nil, err
	}
	p, stopped, err := s.writeChunks(ctx, c.Snapshot, office)
	if err != nil {
		return nil, err
	}
	if stopped != nil {
		return stopped.refuse("another took the office over while the snapshot was written"), nil
	}
	value, err := p.encode()
	if err != nil {
		return nil, err
	}
	cmps := append(append(s.whole(p), office...), s.same(got.head, nameSnapshot)...)
	done, err := s.commit(ctx, cmps, clientv3.OpPut(s.keys.head(nameSnapshot), value))
	if err != nil {
		return nil, err
	}
	if !done.took {
		if reply := judgeCheckpoint(c, done.head); reply != nil {
			return reply, nil
		}
		return nil, fail("chunks of the snapshot were removed while it was written; the next checkpoint writes it again")
	}
	if err := s.trim(ctx, c, done, p); err != nil {
		s.log.Warn("what a checkpoint replaced is not all dropped yet; the next one drops it", "error", s.explain(err))
	}
	return done.reply(), nil
}

func judgeCheckpoint(c *core.StoreCheckpoint, h *head) *core.StoreReply {
	switch {
	case h.lead.GetTerm() != c.Term:
		return h.refuse("the office is of term %d", h.lead.GetTerm())
	case c.Snapshot.Index > h.lead.GetLast():
		return h.refuse("the snapshot covers entries up to %d, but the newest is %d", c.Snapshot.Index, h.lead.GetLast())
	case c.Snapshot.Index <= h.pointer.index():
		return h.refuse("there is a snapshot that covers entries up to %d", h.pointer.index())
	}
	return nil
}

// trim drops what the snapshot that p points to replaced, as long as it is in force:
// a late deletion must not reach into a log that replaced this one.
func (s *Store) trim(ctx context.Context, c *core.StoreCheckpoint, done *answer, p *pointer) error {
	inForce := s.same(done.head, nameSnapshot)
	if err := s.sweepChunks(ctx, append(inForce, s.inOffice(c.Term)), p); err != nil {
		return err
	}
	from, _ := s.keys.entries()
	if err := s.drop(ctx, inForce, from, s.keys.entry(c.TrimTo)+"\x00"); err != nil {
		return err
	}
	keep := s.options.auditRecords()
	if done.published <= keep {
		return nil
	}
	oldest := done.published - keep
	from, _ = s.keys.audits()
	if err := s.drop(ctx, inForce, from, s.keys.audit(oldest)+"\x00"); err != nil {
		return err
	}
	from, _ = s.keys.jumps()
	return s.drop(ctx, inForce, from, s.keys.jump(oldest)+"\x00")
}

// sweepChunks drops every chunk that keep does not point to. Another's checkpoint
// that is being written loses its chunks too, and finds out when it would count.
func (s *Store) sweepChunks(ctx context.Context, guard []clientv3.Cmp, keep *pointer) error {
	from, to := s.keys.chunks()
	if keep == nil {
		return s.drop(ctx, guard, from, to)
	}
	keepFrom, keepTo := within(s.keys.chunksOf(keep.Name))
	if err := s.drop(ctx, guard, from, keepFrom); err != nil {
		return err
	}
	return s.drop(ctx, guard, keepTo, to)
}

// drop deletes a range from its beginning, in pieces, while guard holds.
func (s *Store) drop(ctx context.Context, guard []clientv3.Cmp, from, to string) error {
	for {
		got, err := s.look(ctx, clientv3.OpGet(from, clientv3.WithRange(to), clientv3.WithKeysOnly(), clientv3.WithLimit(dropPiece)))
		if err != nil {
			return err
		}
		kvs := got.ranges[0].Kvs
		if len(kvs) == 0 {
			return nil
		}
		end := string(kvs[len(kvs)-1].Key) + "\x00"
		done, err := s.commit(ctx, guard, clientv3.OpDelete(from, clientv3.WithRange(end)))
		if err != nil || !done.took {
			return err
		}
	}
}

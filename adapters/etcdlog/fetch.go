package etcdlog

import (
	"context"
	"errors"
	"strconv"
	"time"

	pb "go.etcd.io/etcd/api/v3/etcdserverpb"
	"go.etcd.io/etcd/api/v3/mvccpb"
	"go.etcd.io/etcd/api/v3/v3rpc/rpctypes"
	clientv3 "go.etcd.io/etcd/client/v3"
	"google.golang.org/grpc/codes"
	"google.golang.org/protobuf/proto"

	"github.com/omnirelay/leadership/core"
)

const (
	// A page begins with firstPage entries, which fit into maxAnswer at any size, and
	// grows with small entries. etcd limits a range by count, not by bytes.
	firstPage = 16
	maxPage   = 512
	pageBytes = 1 << 20 // what a page should hold
)

// fetch reads everything as of the revision of its first read. Waiting, it is told
// when to read again by the lookout; were that to miss something, the read when Wait
// is over would find it.
func (s *Store) fetch(ctx context.Context, f *core.StoreFetch) (*core.StoreReply, error) {
	until := time.Now().Add(f.Wait)
	var before *head
	told := false
	for {
		got, reply, err := s.fetchOnce(ctx, f)
		if errors.Is(err, rpctypes.ErrCompacted) {
			continue // it took so long that the revision is gone
		}
		if err != nil {
			return nil, err
		}
		changed := before != nil && before.changed[nameLead] != got.changed[nameLead]
		if before != nil && changed != told {
			s.lookout.doubt()
		}
		left := time.Until(until)
		if left <= 0 || changed || len(reply.Entries) > 0 || reply.Snapshot != nil || got.lead.GetLast() < f.After {
			return reply, nil
		}
		if told && !pause(ctx, min(left, attemptWait)) { // for nothing
			return reply, nil
		}
		before, told = got.head, s.await(ctx, got.revision, left)
	}
}

// await waits until the lead record has changed after revision, and reports whether
// it was told so.
func (s *Store) await(ctx context.Context, revision int64, wait time.Duration) bool {
	timer := time.NewTimer(wait)
	defer timer.Stop()
	select {
	case <-s.lookout.after(revision):
		return true
	case <-timer.C:
	case <-ctx.Done():
	}
	return false
}

func (s *Store) fetchOnce(ctx context.Context, f *core.StoreFetch) (*answer, *core.StoreReply, error) {
	_, end := s.keys.entries()
	start, _ := s.keys.entries()
	identity := s.standing().identity
	got, err := s.look(ctx,
		firstKey(start, end),
		s.entriesAfter(f.After, firstPage),
		s.attestedBy(identity))
	if err != nil {
		return nil, nil, err
	}
	reply := got.reply()
	reply.Published = got.published
	if reply.First, err = s.first(got.head, got.ranges[0]); err != nil {
		return nil, nil, err
	}
	if reply.Attested, err = s.attestations(ctx, got, identity); err != nil {
		return nil, nil, err
	}
	tail := &tail{keys: s.keys, next: f.After + 1, last: got.lead.GetLast(), max: f.MaxBytes}
	page := got.ranges[1]
	if f.After < reply.First && tail.next < reply.First {
		if reply.Snapshot, err = s.readSnapshot(ctx, got.head, reply.First); err != nil {
			return nil, nil, err
		}
		tail.next, page = reply.Snapshot.Index+1, nil
	}
	reply.Entries, err = s.readTail(ctx, got, tail, page)
	return got, reply, err
}

// halfOver reports whether half of the time that was left at began is used up.
func halfOver(ctx context.Context, began time.Time) bool {
	end, ok := ctx.Deadline()
	return ok && time.Since(began) > time.Until(end)
}

func (s *Store) entriesAfter(after uint64, limit int, options ...clientv3.OpOption) clientv3.Op {
	_, end := s.keys.entries()
	return clientv3.OpGet(s.keys.entry(after)+"\x00", append(options, clientv3.WithRange(end), clientv3.WithLimit(int64(limit)))...)
}

// first is the index of the oldest entry kept.
func (s *Store) first(h *head, oldest *pb.RangeResponse) (uint64, error) {
	if len(oldest.Kvs) == 0 {
		return h.lead.GetLast() + 1, nil
	}
	key := oldest.Kvs[0].Key
	first, err := numberOf(key)
	if err == nil && first > h.lead.GetLast() {
		err = damaged(string(key), "lies beyond the lead record, whose last entry is %d: restore etcd from a backup", h.lead.GetLast())
	}
	return first, err
}

func (s *Store) attestedBy(identity string, options ...clientv3.OpOption) clientv3.Op {
	from, to := within(s.keys.attests(identity))
	return clientv3.OpGet(from, append(options, clientv3.WithRange(to), clientv3.WithLimit(4*core.MaxReplicas))...)
}

// attestations takes the replicas that attested the server that answered, and the
// round of each. asked is the server that was expected to answer.
func (s *Store) attestations(ctx context.Context, got *answer, asked string) (map[core.NodeID]uint64, error) {
	found := got.ranges[2]
	if got.identity != asked {
		again, err := s.look(ctx, s.attestedBy(got.identity, clientv3.WithRev(got.revision)))
		if err != nil {
			return nil, err
		}
		found = again.ranges[0]
	}
	rounds := map[core.NodeID]uint64{}
	for _, kv := range found.Kvs {
		n, err := numberOf(kv.Key)
		if err != nil {
			return nil, err
		}
		if rounds[core.NodeID(n)], err = strconv.ParseUint(string(kv.Value), 10, 64); err != nil {
			return nil, damaged(string(kv.Key), "holds %.40q; the round as a decimal number is right", kv.Value)
		}
	}
	return rounds, nil
}

// readTail reads pages until enough is there. page is the first, if it was read.
func (s *Store) readTail(ctx context.Context, got *answer, t *tail, page *pb.RangeResponse) ([]*core.StoredEntry, error) {
	limit, began := firstPage, time.Now()
	for {
		if page == nil {
			next, err := s.look(ctx, s.entriesAfter(t.next-1, limit, clientv3.WithRev(got.revision)))
			if limit > firstPage && codeOf(err) == codes.ResourceExhausted {
				limit = firstPage // large ones follow the small ones
				continue
			}
			if err != nil {
				return nil, err
			}
			page = next.ranges[0]
		}
		for _, kv := range page.Kvs {
			if err := t.take(kv); err != nil {
				return nil, err
			}
		}
		if t.full || !page.More {
			return t.entries, t.complete()
		}
		if len(t.entries) > 0 && halfOver(ctx, began) {
			return t.entries, nil // the next fetch goes on
		}
		limit = max(1, min(maxPage, pageBytes/(t.size/len(t.entries)+1)))
		page = nil
	}
}

// tail collects entries and makes sure that none is missing.
type tail struct {
	keys    keys
	next    uint64 // the index that must come
	last    uint64 // of the log
	max     int    // bytes
	size    int
	full    bool
	entries []*core.StoredEntry
}

func (t *tail) take(kv *mvccpb.KeyValue) error {
	key := string(kv.Key)
	if t.full {
		return nil
	}
	index, err := numberOf(kv.Key)
	if err != nil {
		return err
	}
	e := new(core.StoredEntry)
	if err := proto.Unmarshal(kv.Value, e); err != nil || e.Index != index {
		return damaged(key, "is not entry %d (%v): restore etcd from a backup", index, err)
	}
	switch {
	case index > t.last:
		return damaged(key, "lies beyond the lead record, whose last entry is %d: restore etcd from a backup", t.last)
	case index != t.next:
		return damaged(t.keys.entry(t.next), "is missing, but the log goes to %d: restore etcd from a backup", t.last)
	}
	if size := t.size + len(e.Data); len(t.entries) > 0 && size > t.max {
		t.full = true
		return nil
	}
	t.entries = append(t.entries, e)
	t.size += len(e.Data)
	t.next++
	return nil
}

// complete checks that the log's last entry was among them.
func (t *tail) complete() error {
	if !t.full && t.next <= t.last {
		return damaged(t.keys.entry(t.next), "is missing, but the log goes to %d: restore etcd from a backup", t.last)
	}
	return nil
}

package redislog

import (
	"context"
	"errors"
	"math"
	"time"

	"github.com/redis/go-redis/v9"

	"github.com/omnirelay/leadership/core"
	"github.com/omnirelay/leadership/core/logpb"
)

const (
	// maxFetchEntries bounds what one fetch returns, and so how long it holds the
	// server up, when entries are small: about a tenth of a second.
	maxFetchEntries = 16_384
	// maxBlock is how long one blocking read lasts at most. A waiting fetch reads at
	// least that often, so it notices a server that is gone, or is another now.
	maxBlock = time.Second
	// slack is how long before its Timeout a waiting fetch stops waiting, to have its
	// answer in time.
	slack = 200 * time.Millisecond
)

// fetch reads, and when there is nothing new waits on the stream of entries and
// reads again. Being woken is only a hint: what is returned is read from where the
// caller is by one script, so nothing is skipped however late it comes.
func (s *Store) fetch(ctx context.Context, f *core.StoreFetch) (*core.StoreReply, error) {
	end := time.Now().Add(f.Wait)
	if deadline, ok := ctx.Deadline(); ok && deadline.Add(-slack).Before(end) {
		end = deadline.Add(-slack)
	}
	for {
		r, err := s.read(ctx, f)
		if err != nil || r.Snapshot != nil || r.Lead.GetLast() > f.After || !time.Now().Before(end) {
			return r, err
		}
		if err := s.wait(ctx, f.After, min(maxBlock, time.Until(end))); err != nil {
			return nil, err
		}
	}
}

// wait returns when there is an entry behind after, at the latest after the given
// time. It takes a connection of its own; when none is free, it waits for one.
func (s *Store) wait(ctx context.Context, after uint64, atMost time.Duration) error {
	if atMost < time.Millisecond {
		atMost = time.Millisecond // less would be for ever
	}
	ctx, cancel := context.WithTimeout(ctx, atMost+deadAfter)
	defer cancel()
	err := s.waits.XRead(ctx, &redis.XReadArgs{
		Streams: []string{s.keys.entries, item(after)}, Count: 1, Block: atMost,
	}).Err()
	if err == nil || errors.Is(err, redis.Nil) || errors.Is(err, redis.ErrPoolTimeout) {
		return nil
	}
	return s.failure(err)
}

// read makes one fetch without waiting. A snapshot is read in pieces; when it is
// replaced meanwhile, the fetch begins anew.
func (s *Store) read(ctx context.Context, f *core.StoreFetch) (*core.StoreReply, error) {
	next := f.After + 1
	if next == 0 {
		next = math.MaxUint64 // nothing lies there
	}
	for {
		r, rest, err := s.run(ctx, fetchScript, digits(next), max(0, f.MaxBytes), maxFetchEntries)
		if err != nil {
			return nil, err
		}
		pieces, err := s.decodeFetch(r, rest, f.After)
		if err != nil || r.Snapshot == nil {
			return r, err
		}
		if whole, err := s.download(ctx, pieces, r.Snapshot); whole || err != nil {
			return r, err
		}
	}
}

func (s *Store) decodeFetch(r *core.StoreReply, rest []any, after uint64) (snapshotPieces, error) {
	d := &decoder{place: "the reply of the server"}
	r.First = d.number(d.at(rest, 0))
	r.Published = d.number(d.at(rest, 1))
	attested := d.list(rest, 2)
	r.Attested = map[core.NodeID]uint64{}
	for i := 0; i+1 < len(attested); i += 2 {
		r.Attested[core.NodeID(d.number(d.at(attested, i)))] = d.number(d.at(attested, i+1))
	}
	var pieces snapshotPieces
	if meta := d.list(rest, 3); len(meta) > 0 {
		r.Snapshot, pieces = s.decodeSnapshot(d, meta)
		after = r.Snapshot.Index
	}
	r.Entries = s.decodeEntries(d, d.list(rest, 4))
	s.checkWhole(d, r, after)
	return pieces, d.err
}

func (s *Store) decodeEntries(d *decoder, list []any) []*logpb.StoredEntry {
	d = d.in("the key " + s.keys.entries)
	var entries []*logpb.StoredEntry
	for i := 0; i+1 < len(list) && d.err == nil; i += 2 {
		e := &logpb.StoredEntry{}
		d.message(d.at(list, i+1), e)
		if d.at(list, i) != item(e.Index) {
			d.fail("the entry %d at the item %s", e.Index, d.at(list, i))
		}
		entries = append(entries, e)
	}
	return entries
}

// checkWhole finds out whether something is missing from what follows after.
func (s *Store) checkWhole(d *decoder, r *core.StoreReply, after uint64) {
	d = d.in("the key " + s.keys.entries)
	for _, e := range r.Entries {
		if e.Index != after+1 {
			d.fail("the entry %d behind %d", e.Index, after)
		}
		after = e.Index
	}
	if len(r.Entries) == 0 && after < r.Lead.GetLast() {
		d.fail("nothing behind %d, although %s names %d as the last entry", after, s.keys.lead, r.Lead.GetLast())
	}
}

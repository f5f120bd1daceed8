package pglog

import (
	"context"
	"fmt"
	"time"

	"github.com/omnirelay/leadership/core"
)

// maxFetchEntries bounds the entries of one fetch, however small they are.
const maxFetchEntries = 16_384

const fetchColumns = `, a.first, a.published, a.nodes, a.rounds,
	a.snapshot_index, a.snapshot_term, a.snapshot_chain, a.snapshot_data, a.indexes, a.terms, a.datas, a.chains`

// fetch looks, and when nothing is there waits: until it is told that something was
// written, or until it is time to look again by itself, since it may not be told.
func (s *Store) fetch(ctx context.Context, f *core.StoreFetch) (*core.StoreReply, error) {
	end := time.NewTimer(f.Wait)
	defer end.Stop()
	for {
		woken := s.tail.next() // before looking: what is written after that wakes
		r, err := s.look(ctx, f)
		if err != nil || f.Wait <= 0 || len(r.Entries) > 0 || r.Snapshot != nil {
			return r, err
		}
		select {
		case <-woken:
		case <-time.After(s.options.TailPoll):
		case <-end.C:
			return s.look(ctx, f)
		case <-ctx.Done():
			return nil, fmt.Errorf("nothing was written after %d yet: %w", f.After, ctx.Err())
		}
	}
}

// look is one fetch without waiting.
func (s *Store) look(ctx context.Context, f *core.StoreFetch) (*core.StoreReply, error) {
	var first, published int64
	var nodes, rounds, indexes, terms []int64
	var snap struct {
		index       *int64
		term        int64
		chain, data []byte
	}
	var datas, chains [][]byte
	r, err := s.call(ctx, "log_fetch", []any{signed(f.After), int64(f.MaxBytes), int64(maxFetchEntries)}, fetchColumns,
		&first, &published, &nodes, &rounds, &snap.index, &snap.term, &snap.chain, &snap.data, &indexes, &terms, &datas, &chains)
	if err != nil {
		return nil, err
	}
	r.First, r.Published = uint64(first), uint64(published)
	r.Attested = map[core.NodeID]uint64{}
	for i, n := range nodes {
		r.Attested[core.NodeID(n)] = uint64(rounds[i])
	}
	if snap.index != nil {
		r.Snapshot = &core.StoredSnapshot{Index: uint64(*snap.index), Term: uint64(snap.term), Chain: snap.chain, Data: snap.data}
	}
	for i := range indexes {
		r.Entries = append(r.Entries, &core.StoredEntry{Index: uint64(indexes[i]), Term: uint64(terms[i]), Data: datas[i], Chain: chains[i]})
	}
	return r, s.whole(f.After, r)
}

// whole finds rows that are missing. Entries follow each other without a gap, up to
// where the lead record says the log ends, and from where the snapshot ends.
func (s *Store) whole(after uint64, r *core.StoreReply) error {
	if r.Lead == nil && len(r.Entries) == 0 {
		return nil
	}
	if r.Snapshot != nil {
		after = r.Snapshot.Index
	}
	for _, e := range r.Entries {
		if after++; e.Index != after {
			return s.missing(after)
		}
	}
	if last := r.Lead.GetLast(); after > last && len(r.Entries) > 0 {
		return unfit("schema %s holds entry %d, behind the end of its log at %d: restore a backup of this schema", s.options.Schema, after, last)
	} else if after < last && len(r.Entries) == 0 {
		return s.missing(after + 1)
	}
	return nil
}

func (s *Store) missing(index uint64) error {
	return unfit("schema %s lacks entry %d, and no snapshot holds it: rows were deleted; restore a backup of this schema", s.options.Schema, index)
}

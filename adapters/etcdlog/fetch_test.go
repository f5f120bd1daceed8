package etcdlog

import (
	"bytes"
	"context"
	"sync/atomic"
	"testing"
	"time"

	clientv3 "go.etcd.io/etcd/client/v3"

	"github.com/omnirelay/leadership/adapters/storeserver"
	"github.com/omnirelay/leadership/core"
)

// interrupted is a KV at which something happens before the nth transaction.
type interrupted struct {
	clientv3.KV
	count  atomic.Int64
	before func(n int64)
}

func (k *interrupted) Txn(ctx context.Context) clientv3.Txn {
	k.before(k.count.Add(1))
	return k.KV.Txn(ctx)
}

// interrupt makes do happen before the nth transaction from now on, once. The
// returned function says how many there were.
func interrupt(s *Store, nth int64, do func()) func() int64 {
	k := &interrupted{KV: s.client.KV}
	k.before = func(n int64) {
		if n == nth {
			do()
		}
	}
	s.client.KV = k
	return k.count.Load
}

// compact drops all revisions but the latest.
func compact(t *testing.T, raw *clientv3.Client) {
	t.Helper()
	put, err := raw.Put(t.Context(), "/compacted", "")
	if err == nil {
		_, err = raw.Compact(t.Context(), put.Header.Revision)
	}
	if err != nil {
		t.Error(err)
	}
}

// TestFetchInterrupted appends, replaces the snapshot and trims between two reads of
// one fetch, with and without compaction. The fetch answers as of one instant: that
// of its first read, or, when that one is compacted, of a later one.
func TestFetchInterrupted(t *testing.T) {
	old, fresh := bytes.Repeat([]byte("old"), 1<<20), bytes.Repeat([]byte("fresh"), 1<<20)
	eachEtcd(t, func(t *testing.T, server *storeserver.Server) {
		for name, c := range map[string]struct {
			after     uint64
			nth       int64 // transaction before which it happens
			compacted bool
			want      []byte // snapshot
			entries   uint64 // the index of the last
		}{
			"chunks":               {0, 3, false, old, 60},
			"chunks, compacted":    {0, 3, true, fresh, 61},
			"entries":              {20, 2, false, nil, 60},
			"entries, compacted":   {20, 2, true, fresh, 61},
			"not at all":           {20, 100, false, nil, 60},
			"behind the snapshots": {55, 2, true, nil, 60},
		} {
			t.Run(name, func(t *testing.T) {
				o := options(server.Address())
				o.Prefix = testPrefix + name + "/"
				writer, reader, raw := open(t, o), open(t, o), rawClient(t, server)
				for range 20 {
					do(t, writer, core.StoreOK, &core.StoreCall{Append: nextAppend(t, writer, 1, []byte("a"), []byte("b"), []byte("c"))})
				}
				do(t, writer, core.StoreOK, &core.StoreCall{Checkpoint: &core.StoreCheckpoint{Term: 1, Snapshot: &core.StoredSnapshot{Index: 10, Data: old}, TrimTo: 10}})
				count := interrupt(reader, c.nth, func() {
					do(t, writer, core.StoreOK, &core.StoreCall{Append: nextAppend(t, writer, 1, []byte("d"))})
					do(t, writer, core.StoreOK, &core.StoreCall{Checkpoint: &core.StoreCheckpoint{Term: 1, Snapshot: &core.StoredSnapshot{Index: 50, Data: fresh}, TrimTo: 50}})
					if c.compacted {
						compact(t, raw)
					}
				})
				r := do(t, reader, core.StoreOK, &core.StoreCall{Fetch: &core.StoreFetch{After: c.after, MaxBytes: 1 << 20}})
				if !bytes.Equal(r.Snapshot.GetData(), c.want) {
					t.Fatalf("a snapshot of index %d and %d bytes, want %d bytes", r.Snapshot.GetIndex(), len(r.Snapshot.GetData()), len(c.want))
				}
				next := max(c.after, r.Snapshot.GetIndex()) + 1
				for _, e := range r.Entries {
					if e.Index != next {
						t.Fatalf("entry %d, want %d", e.Index, next)
					}
					next++
				}
				if next != c.entries+1 || r.Lead.Last != c.entries {
					t.Errorf("entries up to %d and a log up to %d, want %d; %d reads", next-1, r.Lead.Last, c.entries, count())
				}
			})
		}
	})
}

// TestWaitingFetch sees an append while it waits; the lead record is changed under a
// watch that cannot begin, since its revision is compacted, and under one that ended.
func TestWaitingFetch(t *testing.T) {
	eachEtcd(t, func(t *testing.T, server *storeserver.Server) {
		s, raw := open(t, options(server.Address())), rawClient(t, server)
		do(t, s, core.StoreOK, &core.StoreCall{Append: nextAppend(t, s, 1, nil)})
		// The first read of each fetch is followed by what would be missed.
		for name, between := range map[string]func(){
			"watching":  func() {},
			"compacted": func() { compact(t, raw); s.lookout.doubt(); compact(t, raw) },
			"ended":     func() { s.lookout.doubt() },
		} {
			t.Run(name, func(t *testing.T) {
				before := do(t, s, core.StoreOK, &core.StoreCall{Confirm: &core.StoreConfirm{}}).Lead.Last
				reply := make(chan *core.StoreReply)
				began := time.Now()
				go func() {
					reply <- s.Do(context.Background(), &core.StoreCall{Timeout: 2 * patience, Fetch: &core.StoreFetch{After: before, MaxBytes: 100, Wait: patience}})
				}()
				between()
				do(t, s, core.StoreOK, &core.StoreCall{Append: nextAppend(t, s, 1, []byte(name))})
				r := <-reply
				if r.Status != core.StoreOK || len(r.Entries) != 1 || string(r.Entries[0].Data) != name {
					t.Fatalf("reply %+v", r)
				}
				if took := time.Since(began); took > patience/2 {
					t.Errorf("seen after %v", took)
				}
			})
		}
	})
}

// TestLookoutOnCompactedRevision must say at once that a change would not be noticed.
func TestLookoutOnCompactedRevision(t *testing.T) {
	eachEtcd(t, func(t *testing.T, server *storeserver.Server) {
		s, raw := open(t, options(server.Address())), rawClient(t, server)
		do(t, s, core.StoreOK, &core.StoreCall{Append: nextAppend(t, s, 1, nil)})
		compact(t, raw)
		select {
		case <-s.lookout.after(1):
		case <-time.After(patience):
			t.Error("a watch from a compacted revision is waited for")
		}
	})
}

// TestFetchSmallThenLarge has pages that grow with small entries meet large ones.
func TestFetchSmallThenLarge(t *testing.T) {
	eachEtcd(t, func(t *testing.T, server *storeserver.Server) {
		s := open(t, options(server.Address()))
		small := make([][]byte, core.MaxAppendEntries)
		for range 2 {
			do(t, s, core.StoreOK, &core.StoreCall{Append: nextAppend(t, s, 1, small...)})
		}
		large := bytes.Repeat([]byte("x"), core.MaxAppendBytes)
		for range 40 {
			do(t, s, core.StoreOK, &core.StoreCall{Append: nextAppend(t, s, 1, large)})
		}
		for after, fetches := uint64(0), 0; ; fetches++ {
			r := do(t, s, core.StoreOK, &core.StoreCall{Fetch: &core.StoreFetch{After: after, MaxBytes: core.MaxFetchBytes}})
			if len(r.Entries) == 0 {
				if after != 2*core.MaxAppendEntries+40 || fetches != 5 {
					t.Errorf("entries up to %d in %d fetches, want %d in 5", after, fetches, 2*core.MaxAppendEntries+40)
				}
				return
			}
			after = r.Entries[len(r.Entries)-1].Index
		}
	})
}

// TestSnapshotInParts reads a snapshot whose chunks take more time than one call has.
func TestSnapshotInParts(t *testing.T) {
	server := startEtcd(t, storeserver.Options{Binary: binaries["3.7"]})
	proxy, err := storeserver.NewProxy(server.Address())
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(proxy.Close)
	near, far := open(t, options(server.Address())), open(t, options(proxy.Address()))
	do(t, near, core.StoreOK, &core.StoreCall{Append: nextAppend(t, near, 1, nil)})
	data := bytes.Repeat([]byte("snapshot"), 1<<20)
	do(t, near, core.StoreOK, &core.StoreCall{Checkpoint: &core.StoreCheckpoint{Term: 1, Snapshot: &core.StoredSnapshot{Index: 1, Data: data}, TrimTo: 1}})
	proxy.Slow(4 << 20) // two seconds for all of it
	for calls := 1; ; calls++ {
		r := far.Do(t.Context(), &core.StoreCall{Timeout: 700 * time.Millisecond, Fetch: &core.StoreFetch{}})
		if r.Status == core.StoreFailed && calls < 20 {
			continue
		}
		if r.Status != core.StoreOK || !bytes.Equal(r.Snapshot.GetData(), data) || calls < 3 {
			t.Errorf("status %d (%s), %d bytes after %d calls; want all after several", r.Status, r.Text, len(r.Snapshot.GetData()), calls)
		}
		return
	}
}

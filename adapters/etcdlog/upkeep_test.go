package etcdlog

import (
	"bytes"
	"context"
	"runtime"
	"strings"
	"testing"
	"time"

	clientv3 "go.etcd.io/etcd/client/v3"

	"github.com/omnirelay/leadership/adapters/storeserver"
	"github.com/omnirelay/leadership/core"
)

// count is how many keys there are below a name.
func count(t *testing.T, raw *clientv3.Client, below string) int {
	t.Helper()
	got, err := raw.Get(t.Context(), testPrefix+below, clientv3.WithPrefix(), clientv3.WithCountOnly())
	if err != nil {
		t.Fatal(err)
	}
	return int(got.Count)
}

func records(after uint64, n int) []*core.Record {
	var all []*core.Record
	for i := range uint64(n) {
		all = append(all, &core.Record{Seq: after + 1 + i, Scope: "global-control"})
	}
	return all
}

func checkpointAt(term, index uint64, bytesEach int) *core.StoreCall {
	return &core.StoreCall{Checkpoint: &core.StoreCheckpoint{
		Term: term, Snapshot: &core.StoredSnapshot{Index: index, Term: 1, Data: bytes.Repeat([]byte("s"), bytesEach)}, TrimTo: index,
	}}
}

// TestHalfWrittenSnapshots interrupts checkpoints at every step: nothing half is ever
// visible, and the next checkpoint leaves nothing of them behind.
func TestHalfWrittenSnapshots(t *testing.T) {
	server := startEtcd(t, storeserver.Options{Binary: binaries["3.7"]})
	s, raw := open(t, options(server.Address())), rawClient(t, server)
	for range 10 {
		do(t, s, core.StoreOK, &core.StoreCall{Append: nextAppend(t, s, 1, make([][]byte, 30)...)})
	}
	plain := s.client.KV
	for nth := int64(1); ; nth++ {
		ctx, cancel := context.WithCancel(t.Context())
		interrupt(s, nth, cancel)
		call := checkpointAt(1, uint64(nth), 3<<20)
		call.Timeout = patience
		r := s.Do(ctx, call)
		cancel()
		interrupted := s.client.KV.(*interrupted).count.Load() >= nth
		s.client.KV = plain
		do(t, s, core.StoreOK, probe("fetch"))
		got, err := s.look(t.Context())
		if err != nil {
			t.Fatal(err)
		}
		inForce := 0
		if got.pointer != nil {
			inForce = got.pointer.Chunks
		}
		if left := count(t, raw, "chunk/") - inForce; left > 3 {
			t.Fatalf("interrupted at %d: %d chunks of more than one half-written snapshot are left", nth, left)
		}
		switch index := got.pointer.index(); {
		case r.Status == core.StoreOK && index != uint64(nth):
			t.Fatalf("interrupted at %d: acknowledged, and the snapshot is of %d", nth, index)
		case index > uint64(nth):
			t.Fatalf("the snapshot is of %d, ahead of %d", index, nth)
		}
		if !interrupted {
			break
		}
	}
	if chunks, entries := count(t, raw, "chunk/"), count(t, raw, "entry/"); chunks != 3 || entries > 299 {
		t.Errorf("%d chunks and %d entries are left, want 3 and those behind the snapshot", chunks, entries)
	}
}

// TestDeposedWhileWriting has another take the office while a snapshot is written.
func TestDeposedWhileWriting(t *testing.T) {
	eachEtcd(t, func(t *testing.T, server *storeserver.Server) {
		s, other, raw := open(t, options(server.Address())), open(t, options(server.Address())), rawClient(t, server)
		do(t, s, core.StoreOK, &core.StoreCall{Append: nextAppend(t, s, 1, []byte("a"), []byte("b"))})
		interrupt(s, 4, func() {
			do(t, other, core.StoreOK, &core.StoreCall{Append: nextAppend(t, other, 2, nil)})
		})
		r := do(t, s, core.StoreRefused, checkpointAt(1, 1, 3<<20))
		if n := count(t, raw, "chunk/"); n == 0 || r.Lead.Term != 2 {
			t.Errorf("%d chunks were left behind in the office of term %d; the test wants some, in 2", n, r.Lead.Term)
		}
		do(t, other, core.StoreOK, checkpointAt(2, 2, 10))
		if n := count(t, raw, "chunk/"); n != 1 {
			t.Errorf("%d chunks are left, want 1", n)
		}
	})
}

// TestReplaceMeetsSweep has a registrar sweep the chunks of a replacement that is
// being written, and beat meanwhile: nothing changes, then all of it.
func TestReplaceMeetsSweep(t *testing.T) {
	eachEtcd(t, func(t *testing.T, server *storeserver.Server) {
		s, registrar, raw := open(t, options(server.Address())), open(t, options(server.Address())), rawClient(t, server)
		fill(t, s)
		replace := &core.StoreReplace{Guard: core.Position{Term: 1, Last: 9}, Published: 2}
		replace.Lead = appendAt(do(t, s, core.StoreOK, probe("confirm")).Identity, core.Position{Last: 20}, 5).Lead
		replace.Lead.Generation, replace.Lead.Beat = 1, 77
		replace.Snapshot = &core.StoredSnapshot{Index: 20, Term: 5, Data: bytes.Repeat([]byte("r"), 2<<20)}
		interrupt(s, 3, func() { do(t, registrar, core.StoreOK, checkpointAt(1, 6, 10)) })
		r := do(t, s, core.StoreFailed, &core.StoreCall{Replace: replace})
		if !strings.Contains(r.Text, "close the log first") {
			t.Errorf("text %q", r.Text)
		}
		if now := do(t, s, core.StoreOK, probe("fetch")); now.Lead.Last != 9 || now.Snapshot.GetIndex() != 6 {
			t.Errorf("after a replacement that failed: %+v", now)
		}
		interrupt(s, 4, func() {
			do(t, registrar, core.StoreOK, &core.StoreCall{Confirm: &core.StoreConfirm{Term: 1, Beat: true}})
		})
		r = do(t, s, core.StoreOK, &core.StoreCall{Replace: replace})
		now := do(t, s, core.StoreOK, probe("fetch"))
		if r.Lead.Beat != 77 || now.Lead.Last != 20 || len(now.Entries) != 0 || now.Snapshot.GetIndex() != 20 || now.Published != 2 {
			t.Errorf("after a replacement: %+v, %+v", r, now)
		}
		if chunks, entries, audits := count(t, raw, "chunk/"), count(t, raw, "entry/"), count(t, raw, "audit/"); chunks != 2 || entries != 0 || audits != 2 {
			t.Errorf("%d chunks, %d entries, %d records are left, want 2, 0, 2", chunks, entries, audits)
		}
	})
}

// TestAuditTrailIsBounded keeps the newest records, also after their number was
// lowered.
func TestAuditTrailIsBounded(t *testing.T) {
	eachEtcd(t, func(t *testing.T, server *storeserver.Server) {
		o := options(server.Address())
		o.AuditRecords = 1500
		s, raw := open(t, o), rawClient(t, server)
		do(t, s, core.StoreOK, &core.StoreCall{Append: nextAppend(t, s, 1, make([][]byte, 50)...)})
		published := uint64(0)
		publish := func(s *Store, n int) {
			t.Helper()
			do(t, s, core.StoreOK, &core.StoreCall{Publish: &core.StorePublish{Term: 1, After: published, Records: records(published, n)}})
			published += uint64(n)
		}
		for range 3 {
			publish(s, core.MaxPublishRecords)
		}
		trail := func(s *Store, want int) {
			t.Helper()
			r := do(t, s, core.StoreOK, &core.StoreCall{Trail: &core.StoreTrail{Limit: MaxTrail}})
			if len(r.Records) != want || r.Records[want-1].Seq != published || count(t, raw, "audit/") != want {
				t.Errorf("%d records up to %d are kept, and %d keys; want %d up to %d", len(r.Records), r.Records[len(r.Records)-1].Seq, count(t, raw, "audit/"), want, published)
			}
		}
		trail(s, 1500)
		o.AuditRecords = 70
		fewer := open(t, o)
		publish(fewer, 100)
		do(t, fewer, core.StoreOK, checkpointAt(1, 10, 10))
		trail(fewer, 70)
	})
}

// TestTrailThatJumps publishes records that begin behind a gap, which is no damage,
// and loses one at the gap, which is.
func TestTrailThatJumps(t *testing.T) {
	eachEtcd(t, func(t *testing.T, server *storeserver.Server) {
		s, raw := open(t, options(server.Address())), rawClient(t, server)
		do(t, s, core.StoreOK, &core.StoreCall{Append: nextAppend(t, s, 1, nil)})
		do(t, s, core.StoreOK, &core.StoreCall{Publish: &core.StorePublish{Term: 1, After: 0, Records: records(4, 2)}})
		do(t, s, core.StoreOK, &core.StoreCall{Publish: &core.StorePublish{Term: 1, After: 6, Records: records(9, 2)}})
		if r := do(t, s, core.StoreOK, probe("trail")); len(r.Records) != 4 || r.Records[2].Seq != 10 {
			t.Errorf("records %v", r.Records)
		}
		change(t, raw, keys{testPrefix}.audit(6), nil)
		r := do(t, s, core.StoreUnfit, probe("trail"))
		if !strings.Contains(r.Text, "follows audit record 5") {
			t.Errorf("text %q", r.Text)
		}
	})
}

// TestPublishIsResumed interrupts a publication between its pieces; the repeat says
// where to go on.
func TestPublishIsResumed(t *testing.T) {
	eachEtcd(t, func(t *testing.T, server *storeserver.Server) {
		s := open(t, options(server.Address()))
		do(t, s, core.StoreOK, &core.StoreCall{Append: nextAppend(t, s, 1, nil)})
		plain := s.client.KV
		ctx, cancel := context.WithCancel(t.Context())
		interrupt(s, 4, cancel)
		all := records(0, core.MaxPublishRecords)
		r := s.Do(ctx, &core.StoreCall{Timeout: patience, Publish: &core.StorePublish{Term: 1, Records: all}})
		if r.Status != core.StoreFailed {
			t.Fatalf("an interrupted publication: %+v", r)
		}
		s.client.KV = plain
		r = do(t, s, core.StoreRefused, &core.StoreCall{Publish: &core.StorePublish{Term: 1, Records: all}})
		if r.Published != 3*maxOps {
			t.Errorf("published up to %d, want %d", r.Published, 3*maxOps)
		}
		r = do(t, s, core.StoreOK, &core.StoreCall{Publish: &core.StorePublish{Term: 1, After: r.Published, Records: all[r.Published:]}})
		if trail := do(t, s, core.StoreOK, probe("trail")); r.Published != core.MaxPublishRecords || len(trail.Records) != 100 {
			t.Errorf("published up to %d, %d records read", r.Published, len(trail.Records))
		}
	})
}

// TestCloseLeavesNothing wants every goroutine gone after Close, also those of a fetch
// that waits and of a watch.
func TestCloseLeavesNothing(t *testing.T) {
	server := startEtcd(t, storeserver.Options{Binary: binaries["3.7"]})
	before := ours()
	for range 3 {
		s, err := Open(t.Context(), options(server.Address()))
		if err != nil {
			t.Fatal(err)
		}
		reply := make(chan *core.StoreReply)
		go func() {
			reply <- s.Do(context.Background(), &core.StoreCall{Timeout: patience, Fetch: &core.StoreFetch{Wait: patience}})
		}()
		for ours() <= before+2 && s.standing().identity == "" {
			runtime.Gosched()
		}
		if err := s.Close(); err != nil {
			t.Fatal(err)
		}
		if r := <-reply; r.Status != core.StoreFailed {
			t.Errorf("a fetch that waited while the store was closed: %+v", r)
		}
	}
	for end := time.Now().Add(patience); ours() > before; runtime.Gosched() {
		if time.Now().After(end) {
			stacks := make([]byte, 1<<20)
			t.Fatalf("goroutines are left:\n%s", stacks[:runtime.Stack(stacks, true)])
		}
	}
}

// ours is how many goroutines there are of this package and its client.
func ours() int {
	stacks := make([]byte, 1<<20)
	n := 0
	for _, stack := range strings.Split(string(stacks[:runtime.Stack(stacks, true)]), "\n\n") {
		if strings.Contains(stack, "etcd/client") || strings.Contains(stack, "google.golang.org/grpc") || strings.Contains(stack, "(*lookout)") {
			n++
		}
	}
	return n
}

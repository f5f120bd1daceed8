package redislog

import (
	"encoding/binary"
	"fmt"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/omnirelay/leadership/core"
	"github.com/omnirelay/leadership/core/logpb"
)

func TestForeignAndDamagedDataIsUnfit(t *testing.T) {
	server := startServer(t)
	operator := admin(t, server.Address())
	for i, c := range []struct {
		name, reason string
		damage       []any // a command; %s is the prefix
	}{
		{"other type", "lead is a string, where a hash is right", []any{"SET", "%slead", "x"}},
		{"other type of a key not used yet", "audit is a list, where a stream is right", []any{"RPUSH", "%saudit", "x"}},
		{"no lead record", "lead is missing although a log is there", []any{"DEL", "%slead"}},
		{"no field", "lead lacks the field chain", []any{"HDEL", "%slead", "chain"}},
		{"no number", "lead has no number of 20 digits in the field term", []any{"HSET", "%slead", "term", "7"}},
		{"too large a number", "lead: found \"99999999999999999999\" where a number is right", []any{"HSET", "%slead", "holder", "99999999999999999999"}},
		{"newer schema", "has schema 2, this build knows 1", []any{"HSET", "%slead", "schema", digits(2)}},
		{"other cluster", "is of the cluster other, not of test", []any{"HSET", "%slead", "cluster_id", "other"}},
		{"gap", "entries: found the entry 3 behind 1", []any{"XDEL", "%sentries", "2-0"}},
		{"missing tail", "entries ends with the entry 00000000000000000002, but", []any{"XDEL", "%sentries", "3-0"}},
		{"all entries gone", "entries: found nothing behind 0, although", []any{"DEL", "%sentries"}},
		{"entry behind the last", "entries ends with the entry 00000000000000000004, but", []any{"XADD", "%sentries", "4-0", "entry", "", "size", "0"}},
		{"foreign item", "is no entry of a log", []any{"XADD", "%sentries", "3-1", "a", "b"}},
		{"foreign entry", "the entry 0 at the item 3-1", []any{"XADD", "%sentries", "3-1", "entry", "", "size", "0"}},
		{"undecodable entry", "a value that cannot be decoded", []any{"XADD", "%sentries", "3-1", "entry", "\xff", "size", "0"}},
	} {
		t.Run(c.name, func(t *testing.T) {
			o := testOptions(server.Address())
			o.Prefix = fmt.Sprintf("/damage/%d/", i)
			s := openStore(t, o)
			identity := identityOf(t, s)
			at := positionOf(mustDo(t, s, triple(core.Position{}, identity)))
			for i, word := range c.damage {
				if text, ok := word.(string); ok && strings.HasPrefix(text, "%s") {
					c.damage[i] = o.Prefix + text[2:]
				}
			}
			if c.name == "other type" {
				command(t, operator, "DEL", o.Prefix+"lead")
			}
			command(t, operator, c.damage...)
			r := do(s, &core.StoreCall{Fetch: &core.StoreFetch{MaxBytes: core.MaxFetchBytes, Wait: time.Minute}})
			if r.Status != core.StoreUnfit || !strings.Contains(r.Text, c.reason) || !strings.Contains(r.Text, o.Prefix) {
				t.Errorf("status %d %q, want %q", r.Status, r.Text, c.reason)
			}
			if c.name == "entry behind the last" {
				if r := do(s, triple(at, identity)); r.Status != core.StoreUnfit || !strings.Contains(r.Text, "something newer") {
					t.Errorf("append: status %d %q", r.Status, r.Text)
				}
			}
		})
	}
}

func TestDamagedSnapshotIsUnfit(t *testing.T) {
	server := startServer(t)
	operator := admin(t, server.Address())
	for i, c := range []struct{ reason, field, value string }{
		{"no text at place 1", "", "piece1"},
		{"holds no whole snapshot", "", "chain"},
		{"its pieces have", "piece0", "short"},
		{"a snapshot of 9999999999 bytes", "size", "9999999999"},
		{"in 7 pieces", "pieces", "7"},
	} {
		o := testOptions(server.Address())
		o.Prefix = fmt.Sprintf("/snapshot/%d/", i)
		s := openStore(t, o)
		at := positionOf(mustDo(t, s, triple(core.Position{}, identityOf(t, s))))
		mustDo(t, s, checkpointAt(at, at.Last, 2*pieceBytes))
		if c.field == "" {
			command(t, operator, "HDEL", o.Prefix+"snapshot", c.value)
		} else {
			command(t, operator, "HSET", o.Prefix+"snapshot", c.field, c.value)
		}
		r := do(s, &core.StoreCall{Fetch: &core.StoreFetch{}})
		if r.Status != core.StoreUnfit || !strings.Contains(r.Text, c.reason) || !strings.Contains(r.Text, o.Prefix+"snapshot") {
			t.Errorf("status %d %q, want %q", r.Status, r.Text, c.reason)
		}
	}
}

// checkpointAt is a checkpoint whose data say its index, over and over.
func checkpointAt(at core.Position, index uint64, size int) *core.StoreCall {
	data := make([]byte, 0, size)
	for len(data) < size {
		data = binary.BigEndian.AppendUint64(data, index)
	}
	return &core.StoreCall{Checkpoint: &core.StoreCheckpoint{Term: at.Term, TrimTo: index,
		Snapshot: &logpb.StoredSnapshot{Index: index, Term: at.Term, Data: data[:size]}}}
}

// While snapshots replace each other and entries are trimmed, each reader is given
// one snapshot, whole, and what follows it.
func TestSnapshotsReplacedUnderReaders(t *testing.T) {
	server := startServer(t)
	s := openStore(t, testOptions(server.Address()))
	identity := identityOf(t, s)
	at := positionOf(mustDo(t, s, appendOf(core.Position{}, 1, identity, nil)))
	mustDo(t, s, checkpointAt(at, at.Last, 3*pieceBytes))

	stop := make(chan struct{})
	var readers sync.WaitGroup
	office := at
	for range 3 {
		readers.Go(func() {
			for fetched := 0; ; fetched++ {
				select {
				case <-stop:
					if fetched == 0 {
						t.Error("nothing was fetched")
					}
					return
				default:
				}
				r := do(s, &core.StoreCall{Fetch: &core.StoreFetch{MaxBytes: 1 << 20}})
				if r.Status != core.StoreOK || r.Snapshot == nil {
					t.Errorf("status %d %s", r.Status, r.Text)
					return
				}
				want := checkpointAt(office, r.Snapshot.Index, 3*pieceBytes).Checkpoint.Snapshot.Data
				if string(r.Snapshot.Data) != string(want) || r.Snapshot.Index+uint64(len(r.Entries)) != r.Lead.Last {
					t.Errorf("a snapshot of %d with %d entries, the log ends at %d", r.Snapshot.Index, len(r.Entries), r.Lead.Last)
				}
			}
		})
	}
	for range 25 {
		at = positionOf(mustDo(t, s, appendOf(at, 1, identity, nil)))
		mustDo(t, s, checkpointAt(at, at.Last, 3*pieceBytes))
	}
	close(stop)
	readers.Wait()
	operator := admin(t, server.Address())
	if n := operator.XLen(t.Context(), s.keys.entries).Val(); n != 0 {
		t.Errorf("%d entries are left after the last checkpoint", n)
	}
	if n := operator.Exists(t.Context(), s.keys.upload).Val(); n != 0 {
		t.Error("the upload is left")
	}
}

// A checkpoint that lost its place to another is told so, and leaves no snapshot of
// both.
func TestUploadsDoNotMix(t *testing.T) {
	server := startServer(t)
	s := openStore(t, testOptions(server.Address()))
	at := positionOf(mustDo(t, s, triple(core.Position{}, identityOf(t, s))))
	first := checkpointAt(at, at.Last, 2*pieceBytes).Checkpoint
	id, refused, err := s.upload(t.Context(), first.Snapshot, [4]string{digits(at.Term), digits(at.Last)})
	if err != nil || refused != nil {
		t.Fatal(refused, err)
	}
	if _, _, err := s.upload(t.Context(), first.Snapshot, [4]string{digits(at.Term), digits(at.Last)}); err != nil {
		t.Fatal(err)
	}
	_, _, err = s.run(t.Context(), checkpointScript, append([]any{digits(at.Term), id, item(1)}, description(first.Snapshot)...)...)
	if err == nil || !strings.Contains(err.Error(), "another snapshot was being written") {
		t.Fatal(err)
	}
	mustDo(t, s, &core.StoreCall{Checkpoint: first})
}

func TestAuditTrailIsBounded(t *testing.T) {
	server := startServer(t)
	o := testOptions(server.Address())
	o.AuditRecords = MinAuditRecords
	s := openStore(t, o)
	publish := func(after, n uint64) {
		t.Helper()
		p := &core.StorePublish{After: after}
		for i := range n {
			p.Records = append(p.Records, &core.Record{Seq: after + 1 + i})
		}
		if r := mustDo(t, s, &core.StoreCall{Publish: p}); r.Published != after+n {
			t.Fatalf("published %d, want %d", r.Published, after+n)
		}
	}
	for after := uint64(0); after < 2_500; after += 500 {
		publish(after, 500)
	}
	trail := func(want ...uint64) {
		t.Helper()
		r := mustDo(t, s, &core.StoreCall{Trail: &core.StoreTrail{Limit: 5_000}})
		var got []uint64
		for i, rec := range r.Records {
			if i == 0 || i == len(r.Records)-1 {
				got = append(got, rec.Seq)
			}
			if i > 0 && rec.Seq != r.Records[i-1].Seq+1 {
				t.Fatalf("%d behind %d", rec.Seq, r.Records[i-1].Seq)
			}
		}
		if fmt.Sprint(got) != fmt.Sprint(want) {
			t.Fatalf("the trail holds %v, want %v", got, want)
		}
	}
	trail(1_501, 2_500)

	replace := func(guard core.Position, published uint64) core.Position {
		t.Helper()
		lead := appendOf(guard, guard.Term+1, "", nil).Append.Lead
		return positionOf(mustDo(t, s, &core.StoreCall{Replace: &core.StoreReplace{Guard: guard, Lead: lead, Published: published}}))
	}
	at := replace(core.Position{}, 2_000)
	trail(1_501, 2_000)
	at = replace(at, 700) // what the cap had dropped was published all the same
	trail()
	r := mustDo(t, s, &core.StoreCall{Fetch: &core.StoreFetch{After: at.Last}})
	if r.Published != 700 {
		t.Fatalf("published %d, want 700", r.Published)
	}
	mustDo(t, s, &core.StoreCall{Publish: &core.StorePublish{Term: at.Term, After: 700, Records: []*core.Record{{Seq: 701}}}})
	trail(701)
}

func TestAttestationsOfFormerServersAreDropped(t *testing.T) {
	server := startServer(t)
	s := openStore(t, testOptions(server.Address()))
	operator := admin(t, server.Address())
	for node := range core.NodeID(4) {
		identity := reopened(t, s).Identity
		for _, n := range []core.NodeID{node, 100 + node} {
			mustDo(t, s, &core.StoreCall{Attest: &core.StoreAttest{Identity: identity, Node: n, Round: uint64(node)}})
		}
		r := mustDo(t, s, &core.StoreCall{Fetch: &core.StoreFetch{}})
		if fmt.Sprint(r.Attested) != fmt.Sprint(map[core.NodeID]uint64{node: uint64(node), 100 + node: uint64(node)}) {
			t.Fatalf("attested: %v", r.Attested)
		}
		if n := operator.HLen(t.Context(), s.keys.attested).Val(); n != 2 {
			t.Fatalf("%d attestations are kept, want 2", n)
		}
		server.Kill()
		if err := server.Restart(t.Context()); err != nil {
			t.Fatal(err)
		}
	}
}

// More callers wait than there are connections for waiting: those with one have the
// entry at once, the others soon, and none has another first.
func TestAllWaitersAreWoken(t *testing.T) {
	server := startServer(t)
	s := openStore(t, testOptions(server.Address()))
	identity := identityOf(t, s)
	operator := admin(t, server.Address())
	const waiters = waitConnections + 4
	woken := make(chan time.Time, waiters)
	for range waiters {
		go func() {
			r := do(s, &core.StoreCall{Timeout: 20 * time.Second, Fetch: &core.StoreFetch{MaxBytes: 1, Wait: 10 * time.Second}})
			if r.Status != core.StoreOK || len(r.Entries) != 1 || r.Entries[0].Index != 1 {
				t.Errorf("status %d %s, entries %v", r.Status, r.Text, r.Entries)
			}
			woken <- time.Now()
		}()
	}
	until(t, "all connections for waiting are in use", func() bool {
		return strings.Contains(operator.Info(t.Context(), "clients").Val(), fmt.Sprintf("blocked_clients:%d\r", waitConnections))
	})
	begin := time.Now()
	mustDo(t, s, triple(core.Position{}, identity))
	for i := range waiters {
		took, most := (<-woken).Sub(begin), maxBlock/2
		if i >= waitConnections {
			most = 4 * maxBlock
		}
		if took > most {
			t.Errorf("waiter %d was woken after %v, want %v", i, took, most)
		}
	}
}

// Without something new a fetch returns at the end of its wait, with the beats that
// came meanwhile, and leaves time for its answer.
func TestWaitEndsInTime(t *testing.T) {
	server := startServer(t)
	s := openStore(t, testOptions(server.Address()))
	at := positionOf(mustDo(t, s, triple(core.Position{}, identityOf(t, s))))
	for _, c := range []struct{ wait, timeout, least, most time.Duration }{
		{300 * time.Millisecond, 10 * time.Second, 300 * time.Millisecond, 2 * time.Second},
		{1500 * time.Millisecond, 10 * time.Second, 1500 * time.Millisecond, 4 * time.Second},
		{10 * time.Second, time.Second, 700 * time.Millisecond, time.Second},
	} {
		begin := time.Now()
		answer := make(chan *core.StoreReply)
		go func() {
			answer <- do(s, &core.StoreCall{Timeout: c.timeout, Fetch: &core.StoreFetch{After: at.Last, Wait: c.wait}})
		}()
		beat := mustDo(t, s, &core.StoreCall{Confirm: &core.StoreConfirm{Term: at.Term, Beat: true}}).Lead.Beat
		r := <-answer
		took := time.Since(begin)
		if r.Status != core.StoreOK || r.Lead.Beat != beat || took < c.least || took > c.most {
			t.Errorf("wait %v of %v: status %d %s, beat %d of %d, after %v", c.wait, c.timeout, r.Status, r.Text, r.Lead.GetBeat(), beat, took)
		}
	}
}

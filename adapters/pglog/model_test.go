package pglog_test

import (
	"fmt"
	"math/rand/v2"
	"testing"
	"time"

	"google.golang.org/protobuf/proto"

	"github.com/omnirelay/leadership/adapters/pglog"
	"github.com/omnirelay/leadership/core"
)

// Random calls, each answered as the contract answers it.
func TestCallsEqualTheModel(t *testing.T) {
	server := start(t)
	for seed := range uint64(5) {
		s := opened(t, pglog.Options{URL: server.URL(), ClusterID: "one", Schema: fmt.Sprintf("seed%d", seed), Migrate: true})
		compare(t, s, rand.New(rand.NewPCG(seed, 0)), 300)
	}
}

func compare(t *testing.T, s *pglog.Store, r *rand.Rand, calls int) {
	model := core.NewStoreModel()
	identity := do(t, s, core.StoreOK, &core.StoreCall{Confirm: &core.StoreConfirm{}}).Identity
	var last *core.StoreReply = model.Do(identity, &core.StoreCall{Fetch: &core.StoreFetch{}})
	seen := map[core.StoreStatus]int{}
	for i := range calls {
		c := randomCall(r, identity, last, i)
		c.ID, c.Timeout = uint64(i), 10*time.Second
		want := model.Do(identity, c)
		got := s.Do(t.Context(), c)
		if got.Status != want.Status || !proto.Equal(got.Lead, want.Lead) || got.Identity != want.Identity || got.Text != want.Text ||
			!proto.Equal(got.Snapshot, want.Snapshot) || len(got.Entries) != len(want.Entries) || got.First != want.First ||
			fmt.Sprint(got.Attested) != fmt.Sprint(want.Attested) || got.Published != want.Published || len(got.Records) != len(want.Records) {
			t.Fatalf("call %d %+v:\n%+v, want\n%+v", i, c, got, want)
		}
		for j := range got.Entries {
			if !proto.Equal(got.Entries[j], want.Entries[j]) {
				t.Fatalf("call %d: entry %v, want %v", i, got.Entries[j], want.Entries[j])
			}
		}
		for j := range got.Records {
			if !proto.Equal(got.Records[j], want.Records[j]) {
				t.Fatalf("call %d: record %v, want %v", i, got.Records[j], want.Records[j])
			}
		}
		seen[got.Status]++
		last = model.Do(identity, &core.StoreCall{Fetch: &core.StoreFetch{}})
	}
	if seen[core.StoreRefused] < calls/10 || seen[core.StoreOK] < calls/10 {
		t.Fatalf("too one-sided to prove anything: %v", seen)
	}
}

func randomCall(r *rand.Rand, identity string, now *core.StoreReply, i int) *core.StoreCall {
	l := now.Lead
	term, last := l.GetTerm(), l.GetLast()
	about := func(v uint64) uint64 { // mostly right
		if r.IntN(6) == 0 {
			return v + uint64(r.IntN(3))
		}
		return v
	}
	switch r.IntN(12) {
	case 0, 1, 2, 3:
		g := core.Position{Term: about(term), Last: about(last)}
		lead := &core.Lead{Schema: 1, ClusterId: "one", Term: g.Term + uint64(r.IntN(2)), Holder: 1<<63 + 5, AppendId: []byte{byte(i), byte(i >> 8)}, Identity: identity, Generation: l.GetGeneration()}
		if r.IntN(10) == 0 {
			lead.AppendId = l.GetAppendId()
		}
		if r.IntN(20) == 0 {
			lead.Identity = "another"
		}
		a := &core.StoreAppend{Guard: g, Lead: lead, Adopt: r.IntN(2) == 0, Voters: []core.NodeID{1, 2}}
		for k := range 1 + r.IntN(4) {
			a.Entries = append(a.Entries, &core.StoredEntry{Index: g.Last + 1 + uint64(k), Term: lead.Term, Data: make([]byte, r.IntN(3000)), Chain: []byte{byte(k)}})
		}
		lead.Last = g.Last + uint64(len(a.Entries))
		return &core.StoreCall{Append: a}
	case 4:
		return &core.StoreCall{Confirm: &core.StoreConfirm{Term: about(term), Beat: r.IntN(2) == 0}}
	case 5, 6:
		return &core.StoreCall{Fetch: &core.StoreFetch{After: uint64(r.IntN(int(last) + 3)), MaxBytes: r.IntN(10_000)}}
	case 7, 8:
		p := &core.StorePublish{Term: about(term), After: about(now.Published), Revision: last}
		for k := range uint64(r.IntN(4)) {
			p.Records = append(p.Records, &core.Record{Seq: p.After + 1 + k, Kind: uint32(3 + r.IntN(9)), Scope: fmt.Sprintf("s%d", r.IntN(5)), Labels: map[string]string{"a": "b'\"", "c": "d"}, Fence: uint64(i), Hash: []byte{1}})
		}
		return &core.StoreCall{Publish: p}
	case 9:
		x := uint64(r.IntN(int(last) + 2))
		return &core.StoreCall{Checkpoint: &core.StoreCheckpoint{Term: about(term), TrimTo: uint64(r.IntN(int(x) + 1)), Snapshot: &core.StoredSnapshot{Index: x, Term: 1, Chain: []byte("c"), Data: make([]byte, 5000)}}}
	case 10:
		switch r.IntN(3) {
		case 0:
			return &core.StoreCall{Attest: &core.StoreAttest{Identity: []string{identity, "x"}[r.IntN(2)], Node: core.NodeID(r.IntN(3))}}
		case 1:
			return &core.StoreCall{Trail: &core.StoreTrail{After: uint64(r.IntN(20)), Limit: r.IntN(20)}}
		}
		if l == nil || r.IntN(3) > 0 {
			break
		}
		x := last + uint64(r.IntN(5))
		return &core.StoreCall{Replace: &core.StoreReplace{Guard: core.Position{Term: about(term), Last: last}, Published: about(now.Published) / 2,
			Lead: &core.Lead{Schema: 1, ClusterId: "one", Term: term + 1, Last: x, Beat: 7, Identity: identity, Generation: l.Generation + 1}, Snapshot: &core.StoredSnapshot{Index: x, Term: term, Data: []byte("whole")}}}
	}
	c := &core.StoreClose{Reason: []string{"", "", "for a reason"}[r.IntN(3)]}
	if r.IntN(2) == 0 {
		c.Guard = &core.Position{Term: about(term), Last: about(last)}
	}
	return &core.StoreCall{Close: c}
}

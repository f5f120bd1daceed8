package fuzz_test

import (
	"bytes"
	"slices"
	"testing"
	"time"

	"github.com/omnirelay/leadership/adapters/gossip"
	"github.com/omnirelay/leadership/core"
)

// FuzzGossipMetadata: what a member says of itself is refused or means something within
// bounds, which can be said again.
func FuzzGossipMetadata(f *testing.F) {
	for _, m := range []gossip.Metadata{
		{ClusterID: "demo", Role: "node", Life: 1},
		{ClusterID: "demo", Role: "node", Region: "eu-1", MeshVersion: "1.2.3-rc1", HTTP3: true, Life: 1 << 63, Labels: map[string]string{"zone": "a", "rack": "ä"}},
	} {
		data, err := m.Encode()
		if err != nil {
			f.Fatal(err)
		}
		f.Add(data)
		f.Add(append(slices.Clone(data), 200, 3, 'n', 'e', 'w'))
	}
	f.Fuzz(func(t *testing.T, data []byte) {
		m, err := gossip.DecodeMetadata(data)
		if err != nil {
			return
		}
		if len(data) > gossip.MaxMetadata || m.Life == 0 || m.ClusterID == "" || len(m.Labels) > core.MaxLabels {
			t.Fatalf("%q is read as %+v", data, m)
		}
		again, err := m.Encode()
		if err != nil {
			return // shorter lengths than ours were written: what fitted then may not now
		}
		same, err := gossip.DecodeMetadata(again)
		if err != nil {
			t.Fatalf("%+v is not read back: %v", m, err)
		}
		if third, err := same.Encode(); err != nil || !bytes.Equal(third, again) {
			t.Fatalf("%q came back as %q, %v", again, third, err)
		}
	})
}

// FuzzGossipWord: what a member claims is refused or lies within bounds.
func FuzzGossipWord(f *testing.F) {
	for _, w := range []gossip.Word{
		{Member: "a", Life: 1, Seq: 1, Set: 1, Parts: 1, Leaving: true},
		{Member: "node-1", Life: 1 << 63, Seq: 5, Set: 4, Part: 1, Parts: 2, Remaining: time.Second, Claims: []core.Claim{{Scope: "global-control", Fence: 3}, {Scope: "shard/x/00", Fence: 1 << 60}}},
	} {
		f.Add(w.Encode())
	}
	f.Fuzz(func(t *testing.T, data []byte) {
		w, err := gossip.DecodeWord(data)
		if err != nil {
			return
		}
		if len(w.Claims) > core.MaxClaims || w.Remaining < 0 || w.Remaining > core.MaxTTL || w.Part < 0 || w.Part >= w.Parts || w.Set > w.Seq || w.Set == 0 || w.Life == 0 {
			t.Fatalf("%q is read as %+v", data, w)
		}
		again, err := gossip.DecodeWord(w.Encode())
		if err != nil || again.Member != w.Member || again.Seq != w.Seq || again.Remaining != w.Remaining || !slices.Equal(again.Claims, w.Claims) {
			t.Fatalf("%+v came back as %+v, %v", w, again, err)
		}
	})
}

// FuzzGossipKeys: a key file is refused or has a few keys of a right size.
func FuzzGossipKeys(f *testing.F) {
	f.Add([]byte("# keys\nAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAA=\n\nBBBBBBBBBBBBBBBBBBBBBA==\n"))
	f.Fuzz(func(t *testing.T, data []byte) {
		keys, err := gossip.ParseKeys(data)
		if err != nil {
			return
		}
		if len(keys) == 0 || len(keys) > gossip.MaxKeys {
			t.Fatalf("%d keys", len(keys))
		}
		for _, k := range keys {
			if len(k) != 16 && len(k) != 24 && len(k) != 32 {
				t.Fatalf("a key of %d bytes", len(k))
			}
		}
	})
}

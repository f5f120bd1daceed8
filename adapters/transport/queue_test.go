package transport

import (
	"testing"
	"time"

	"google.golang.org/protobuf/proto"
	"pgregory.net/rapid"

	"github.com/omnirelay/leadership/wire/nodepb"
)

func raw(id uint64, size int) *nodepb.Message {
	return &nodepb.Message{From: id, To: 1, Kind: &nodepb.Message_Raft{Raft: make([]byte, size)}}
}

// TestQueueAgainstAListThatKeepsEverything: what comes out is what the naive list
// says, in order, and the bounds hold at every step.
func TestQueueAgainstAListThatKeepsEverything(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		maxCount := rapid.IntRange(1, 5).Draw(t, "maxCount")
		maxBytes := rapid.IntRange(1, 60).Draw(t, "maxBytes")
		q := newQueue(maxCount, maxBytes, time.Second)
		var naive []item
		now := time.Unix(1_000, 0)
		var next uint64
		total := func() (n int) {
			for _, i := range naive {
				n += i.size
			}
			return n
		}
		t.Repeat(map[string]func(*rapid.T){
			"put": func(t *rapid.T) {
				next++
				m := raw(next, rapid.IntRange(0, 30).Draw(t, "size"))
				naive = append(naive, item{message: m, size: proto.Size(m), at: now})
				want := 0
				for len(naive) > maxCount || (len(naive) > 1 && total() > maxBytes) {
					naive, want = naive[1:], want+1
				}
				if got := q.put(m, now); got != want {
					t.Fatalf("%d dropped, want %d", got, want)
				}
			},
			"take": func(t *rapid.T) {
				limit := rapid.IntRange(1, 80).Draw(t, "limit")
				messages, bytes, dropped := q.take(limit, now)
				for ; dropped > 0; dropped-- {
					if now.Sub(naive[0].at) <= time.Second {
						t.Fatal("dropped while young")
					}
					naive = naive[1:]
				}
				if bytes > limit && len(messages) != 1 {
					t.Fatalf("%d bytes in %d messages, limit %d", bytes, len(messages), limit)
				}
				if len(messages) == 0 && len(naive) > 0 {
					t.Fatal("nothing came out")
				}
				for _, m := range messages {
					if naive[0].message != m || now.Sub(naive[0].at) > time.Second {
						t.Fatalf("out of order or too old: %d", m.From)
					}
					naive = naive[1:]
				}
			},
			"wait": func(t *rapid.T) {
				now = now.Add(time.Duration(rapid.IntRange(0, 700).Draw(t, "ms")) * time.Millisecond)
			},
			"": func(t *rapid.T) {
				if len(q.items) != len(naive) || q.bytes != total() {
					t.Fatalf("%d items of %d bytes, want %d of %d", len(q.items), q.bytes, len(naive), total())
				}
			},
		})
	})
}

func TestPauseStaysWithinItsBounds(t *testing.T) {
	for failures := range 100 {
		for range 20 {
			if d := pause(failures); d < minReconnect*4/5 || d > maxReconnect {
				t.Fatalf("%v after %d failures", d, failures)
			}
		}
	}
}

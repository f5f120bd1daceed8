package raftlog

import (
	"fmt"
	"testing"

	"go.etcd.io/raft/v3/raftpb"

	"github.com/omnirelay/leadership/core"
)

// BenchmarkPersist is one acknowledged entry: two fdatasyncs of the real disk.
func BenchmarkPersist(b *testing.B) {
	for _, place := range []struct {
		name string
		dir  func() string
	}{{"disk", b.TempDir}, {"memory", func() string { return memoryDir(b) }}} {
		b.Run(place.name, func(b *testing.B) {
			log := mustOpen(b, place.dir())
			defer mustClose(b, log)
			data, i := content(1, 200), uint64(0)
			for b.Loop() {
				i++
				batch := core.Batch{HardState: hardState(1, 1, i), Entries: []*raftpb.Entry{entry(i+1, 1, data)}}
				if i%10_000 == 0 {
					batch.Checkpoint, batch.CompactTo = snapshot(i-1, 1, content(1, 100_000)), i-5_000
				}
				if err := log.Persist(batch); err != nil {
					b.Fatal(err)
				}
			}
		})
	}
}

// BenchmarkOpen verifies a whole log.
func BenchmarkOpen(b *testing.B) {
	for _, megabytes := range []int{1, 100} {
		b.Run(fmt.Sprintf("%dMB", megabytes), func(b *testing.B) {
			dir := memoryDir(b)
			log := mustOpen(b, dir)
			for m := range uint64(megabytes) {
				batch := core.Batch{HardState: hardState(1, 1, m*1000+1)}
				for i := range uint64(1000) {
					batch.Entries = append(batch.Entries, entry(m*1000+i+2, 1, content(i, 1000)))
				}
				if err := log.Persist(batch); err != nil {
					b.Fatal(err)
				}
			}
			mustClose(b, log)
			for b.Loop() {
				mustClose(b, mustOpen(b, dir))
			}
		})
	}
}

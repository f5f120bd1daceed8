package pglog_test

import (
	"testing"

	"github.com/omnirelay/leadership/core"
)

// One entry after another, as one registrar appends.
func BenchmarkAppend(b *testing.B) {
	s := open(b, start(b))
	r := confirmed(b, s)
	for b.Loop() {
		r = do(b, s, core.StoreOK, next(r))
	}
}

func BenchmarkBeat(b *testing.B) {
	s := open(b, start(b))
	write(b, s, 1)
	for b.Loop() {
		do(b, s, core.StoreOK, &core.StoreCall{Confirm: &core.StoreConfirm{Term: 1, Beat: true}})
	}
}

func BenchmarkFetchOfNothing(b *testing.B) {
	s := open(b, start(b))
	write(b, s, 1)
	for b.Loop() {
		do(b, s, core.StoreOK, &core.StoreCall{Fetch: &core.StoreFetch{After: 1, MaxBytes: 1}})
	}
}

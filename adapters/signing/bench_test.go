package signing

import (
	"context"
	"testing"
)

func BenchmarkSign(b *testing.B) {
	s := newSite(b)
	b.ReportAllocs()
	for b.Loop() {
		s.sign(lead())
	}
}

func BenchmarkVerify(b *testing.B) {
	s := newSite(b)
	v, token := s.verifier(), s.sign(lead())
	b.ReportAllocs()
	for b.Loop() {
		_, err := v.Verify(context.Background(), token)
		s.must(err)
	}
}

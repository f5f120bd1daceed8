// Package fuzz_test throws arbitrary input at everything that reads what comes from
// outside, through what packages export. Decoders that are not exported have their
// targets beside them; ci/fuzz runs all.
//
// Beyond that nothing panics, targets hold readers to: what is accepted means the same
// when it is written and read again, what is refused names a field, and no input makes
// its reader allocate out of proportion.
package fuzz_test

import (
	"errors"
	"runtime/metrics"
	"strings"
	"testing"
	"unicode/utf8"

	"google.golang.org/protobuf/proto"

	"github.com/omnirelay/leadership/core"
	"github.com/omnirelay/leadership/wire"
)

const (
	// perByte is how many bytes one byte of input may make a reader allocate: an empty
	// message inside another takes two bytes on the wire and a struct in memory.
	perByte = 256
	// besides is what any input may: the tables of a reader, and what the runtime's
	// counter lags behind.
	besides = 4 << 20
	// maxErrorBytes keeps a caller from having his input echoed at length into logs.
	maxErrorBytes = 2 << 10
)

// frugal fails when read allocates out of proportion to an input of n bytes.
func frugal(t *testing.T, n int, read func()) {
	t.Helper()
	before := allocated()
	read()
	if used := allocated() - before; used > uint64(n)*perByte+besides {
		t.Fatalf("%d bytes of input made it allocate %d bytes", n, used)
	}
}

func allocated() uint64 {
	sample := []metrics.Sample{{Name: "/gc/heap/allocs:bytes"}}
	metrics.Read(sample)
	return sample[0].Value.Uint64()
}

// wantField fails unless err names the field that is wrong, in a line of text that is
// fit for logs.
func wantField(t *testing.T, err error) {
	t.Helper()
	var refused *core.Error
	var malformed *wire.FieldError
	switch {
	case errors.As(err, &refused):
		if refused.Field == "" || refused.Message == "" {
			t.Fatalf("a refusal that does not say what is wrong where: %v", err)
		}
	case errors.As(err, &malformed):
		if malformed.Field == "" || malformed.Message == "" {
			t.Fatalf("a refusal that does not say what is wrong where: %v", err)
		}
	default:
		t.Fatalf("a %T, which names no field: %v", err, err)
	}
	wantLine(t, err.Error())
}

// wantLine fails unless text is short and has no line breaks or other controls.
func wantLine(t *testing.T, text string) {
	t.Helper()
	if len(text) > maxErrorBytes || !utf8.ValidString(text) || strings.ContainsFunc(text, func(r rune) bool { return r < ' ' || r == 0x7f }) {
		t.Fatalf("%d bytes that are unfit for a log: %.200q", len(text), text)
	}
}

func marshal(t testing.TB, m proto.Message) []byte {
	t.Helper()
	data, err := proto.MarshalOptions{Deterministic: true}.Marshal(m)
	if err != nil {
		t.Fatal(err)
	}
	return data
}

package fence

import (
	"bytes"
	"errors"
	"fmt"
	"hash/crc32"
	"io"
	"maps"
	"net/http"
	"strconv"
	"strings"
	"testing"

	"github.com/omnirelay/leadership/core"
	"github.com/omnirelay/leadership/wire"
)

// What is read of a call's headers lies within the limits, and says the same when it
// is stamped and read again.
func FuzzAuthority(f *testing.F) {
	f.Add("s", "5", "3", "m1", "a.b.c", uint8(0))
	f.Add("shard/mesh.demo/07", "9007199254740991", "", "", "", uint8(0))
	f.Add("", "9007199254740992", "0", "-", "", uint8(1))
	f.Add(strings.Repeat("a/", 200), "05", "+5", " ", strings.Repeat("x", MaxTokenBytes+1), uint8(31))
	f.Add("s", "18446744073709551617", "1e3", "m\x00", "", uint8(2))
	f.Add("s", strings.Repeat("0", 1000)+"1", "٥", "m", "", uint8(0))
	f.Fuzz(func(t *testing.T, scope, fence, term, leader, token string, twice uint8) {
		given := map[string][]string{}
		for i, v := range []string{scope, fence, term, leader, token} {
			if v != "" {
				given[headers[i]] = []string{v}
			}
			if twice&(1<<i) != 0 {
				given[headers[i]] = append(given[headers[i]], v)
			}
		}
		a, err := parse(func(h string) []string { return given[h] })
		if err != nil {
			var e *core.Error
			if !errors.As(err, &e) && !errors.As(err, new(*MissingError)) || len(err.Error()) > 1_000 {
				t.Fatalf("%T of %d bytes: %v", err, len(err.Error()), err)
			}
			if v, known := verdictOf(err); !known || v.http < 400 || v.http > 499 {
				t.Fatalf("%v is answered as %+v", err, v)
			}
			return
		}
		if a.Fence > MaxFence || a.Term > MaxFence || len(a.Token) > MaxTokenBytes || len(a.Leader) > core.MaxMemberID || len(a.Scope) > core.MaxScopeID {
			t.Fatalf("%+v", a)
		}
		if fence != "" && strconv.FormatUint(a.Fence, 10) != fence {
			t.Fatalf("%q became %d", fence, a.Fence)
		}
		again := map[string][]string{}
		for _, p := range a.pairs() {
			again[p[0]] = []string{p[1]}
		}
		if b, err := parse(func(h string) []string { return again[h] }); err != nil && len(again) > 0 || b != a {
			t.Fatalf("%+v became %+v, %v", a, b, err)
		}
	})
}

// A file of marks is what formatFile writes, or it is refused.
func FuzzMarksFile(f *testing.F) {
	f.Add(formatFile(nil))
	f.Add(formatFile(map[string]uint64{"a": 1, "shard/mesh.demo/07": MaxFence}))
	f.Add([]byte("leadership-marks 1 00000000\n"))
	f.Add([]byte("5 a\n5 a\n"))
	f.Fuzz(func(t *testing.T, data []byte) {
		marks, err := parseFile(data)
		if err == nil {
			if again, err := parseFile(formatFile(marks)); err != nil || !maps.Equal(again, marks) {
				t.Fatalf("%v became %v, %v", marks, again, err)
			}
		}
		// The same behind a checksum that is right, which no mutation finds.
		head := fmt.Appendf(nil, fileHead, crc32.Checksum(data, castagnoli))
		marks, err = parseFile(append(head, data...))
		if err != nil {
			return
		}
		for scope, fence := range marks {
			if fence == 0 || fence > MaxFence || core.ParseScopeID(scope) != nil {
				t.Fatalf("%d for %q", fence, scope)
			}
		}
	})
}

// A response is read as far as it must be, and stays what it was.
func FuzzStaleResponse(f *testing.F) {
	f.Add([]byte(`{"code":"stale-token","scope":"s","fence":5,"required":6}`))
	f.Add([]byte(`{"code":"stale-token","scope":"s","fence":-5,"required":1e300}`))
	f.Add([]byte(`{"code":"stale-token","scope":"s","fence":5,"required":6}{`))
	f.Add(bytes.Repeat([]byte("["), maxProblem+1))
	f.Fuzz(func(t *testing.T, body []byte) {
		r := &http.Response{StatusCode: http.StatusConflict, Header: http.Header{"Content-Type": {wire.ProblemContentType}}, Body: io.NopCloser(bytes.NewReader(body))}
		defer r.Body.Close()
		s, found := StaleResponse(r)
		if found && (s.Fence == 0 || s.Fence > MaxFence || s.Required == 0 || s.Required > MaxFence || core.ParseScopeID(s.Scope) != nil) {
			t.Fatalf("%+v", s)
		}
		if left, err := io.ReadAll(r.Body); err != nil || !bytes.Equal(left, body) {
			t.Fatalf("%d bytes of %d are left: %v", len(left), len(body), err)
		}
	})
}

package gossip

import (
	"fmt"
	"reflect"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/omnirelay/leadership/core"
)

func someWord() Word {
	return Word{Member: "a", Life: 9, Seq: 5, Set: 4, Part: 1, Parts: 2, Remaining: 1500 * time.Millisecond,
		Claims: []core.Claim{{Scope: "global-control", Fence: 3}, {Scope: "shard/x/00", Fence: 1 << 60}}}
}

func TestWordComesBack(t *testing.T) {
	for _, w := range []Word{someWord(), {Member: "b", Life: 1, Seq: 1, Set: 1, Parts: 1, Leaving: true}} {
		got, err := DecodeWord(w.Encode())
		if err != nil || !reflect.DeepEqual(got, w) {
			t.Errorf("%+v came back as %+v, %v", w, got, err)
		}
	}
	w := someWord()
	if got, err := DecodeWord(append(w.Encode(), "of a later version"...)); err != nil || !reflect.DeepEqual(got, w) {
		t.Errorf("with something behind it: %+v, %v", got, err)
	}
	w.Remaining = 5000 * time.Hour
	if got, err := DecodeWord(w.Encode()); err != nil || got.Remaining != core.MaxTTL {
		t.Errorf("a lease for ever: %v, %v", got.Remaining, err)
	}
}

func TestWordsThatAreRefused(t *testing.T) {
	with := func(change func(*Word)) []byte {
		w := someWord()
		change(&w)
		return w.Encode()
	}
	claims := make([]core.Claim, core.MaxClaims+1)
	for i := range claims {
		claims[i] = core.Claim{Scope: "a", Fence: 1}
	}
	good := with(func(*Word) {})
	for name, data := range map[string][]byte{
		"nothing":        nil,
		"too long":       append(slices.Clone(good), make([]byte, MaxWord)...),
		"another format": append([]byte{2}, good[1:]...),
		"cut":            good[:len(good)-1],
		"no member":      with(func(w *Word) { w.Member = "" }),
		"member":         with(func(w *Word) { w.Member = "a b" }),
		"long member":    with(func(w *Word) { w.Member = strings.Repeat("a", core.MaxMemberID+1) }),
		"no life":        with(func(w *Word) { w.Life = 0 }),
		"no seq":         with(func(w *Word) { w.Seq, w.Set = 0, 0 }),
		"set to come":    with(func(w *Word) { w.Set = 6 }),
		"part":           with(func(w *Word) { w.Part = 2 }),
		"no parts":       with(func(w *Word) { w.Part, w.Parts = 0, 0 }),
		"parts":          with(func(w *Word) { w.Parts = maxParts + 1 }),
		"scope":          with(func(w *Word) { w.Claims[0].Scope = "a//b" }),
		"many claims":    with(func(w *Word) { w.Claims = claims }),
	} {
		if w, err := DecodeWord(data); err == nil {
			t.Errorf("%s: read as %+v", name, w)
		}
	}
}

func TestClaimsAreSplitToFit(t *testing.T) {
	var claims []core.Claim
	for i := range 200 {
		claims = append(claims, core.Claim{Scope: fmt.Sprintf("shard/%s/%03d", strings.Repeat("n", 1+i%60), i), Fence: 1 << 62})
	}
	member := strings.Repeat("m", core.MaxMemberID)
	parts := splitClaims(member, claims)
	var all []core.Claim
	for i, p := range parts {
		w := Word{Member: member, Life: 1 << 63, Seq: 1 << 62, Set: 1 << 62, Part: i, Parts: len(parts), Remaining: core.MaxTTL, Claims: p}
		if _, err := DecodeWord(w.Encode()); err != nil {
			t.Fatalf("part %d with %d claims: %v", i, len(p), err)
		}
		all = append(all, p...)
	}
	if !slices.Equal(all, claims) {
		t.Error("the parts together are not the whole")
	}
	if len(parts) > 25 {
		t.Errorf("%d parts: words are not filled", len(parts))
	}
	if parts := splitClaims("m", nil); len(parts) != 1 || len(parts[0]) != 0 {
		t.Errorf("nothing is split into %v", parts)
	}
	longest := core.Claim{Scope: strings.TrimRight(strings.Repeat(strings.Repeat("s", 31)+"/", 8), "/"), Fence: 1 << 63}
	for i, p := range splitClaims(member, []core.Claim{longest, longest, longest, longest}) {
		if len(p) == 0 {
			t.Errorf("part %d is empty", i)
		}
	}
}

func TestWindow(t *testing.T) {
	var w window
	for _, step := range []struct {
		n   uint64
		new bool
	}{{1, true}, {1, false}, {3, true}, {2, true}, {2, false}, {3, false}, {70, true}, {7, true}, {6, false}, {3, false}, {1 << 63, true}, {70, false}, {1<<63 - 63, true}, {1<<63 - 64, false}} {
		if got := w.take(step.n); got != step.new {
			t.Errorf("%d: new %v", step.n, got)
		}
	}
}

// Words are put together to what the member claims, for no longer than it said.
func TestClaimSet(t *testing.T) {
	at := time.Unix(1000, 0)
	word := func(seq, set uint64, part int, remaining time.Duration, scopes ...string) *Word {
		w := &Word{Member: "a", Life: 1, Seq: seq, Set: set, Part: part, Parts: 2, Remaining: remaining}
		for _, s := range scopes {
			w.Claims = append(w.Claims, core.Claim{Scope: s, Fence: 1})
		}
		return w
	}
	scopes := func(s *claimSet, now time.Time) (string, time.Duration) {
		claims, remaining := s.now(now)
		var names []string
		for _, c := range claims {
			names = append(names, c.Scope)
		}
		slices.Sort(names)
		return strings.Join(names, " "), remaining
	}
	expect := func(s *claimSet, now time.Time, want string, remaining time.Duration) {
		t.Helper()
		if got, r := scopes(s, now); got != want || r != remaining {
			t.Errorf("claims %q for %v, want %q for %v", got, r, want, remaining)
		}
	}
	var s claimSet
	s.take(word(1, 1, 0, 2*time.Second, "a"), at)
	s.take(word(2, 1, 1, 2*time.Second, "b"), at.Add(500*time.Millisecond))
	expect(&s, at.Add(500*time.Millisecond), "a b", 2*time.Second)
	expect(&s, at.Add(2*time.Second), "a b", 500*time.Millisecond)
	expect(&s, at.Add(3*time.Second), "", 0)
	// One that was overtaken adds what it claims and not how long.
	s.take(word(4, 1, 1, time.Second, "b"), at.Add(time.Second))
	if !s.take(word(3, 1, 0, 9*time.Second, "a"), at.Add(time.Second)) {
		t.Error("overtaken is not heard before")
	}
	expect(&s, at.Add(time.Second), "a b", time.Second)
	if s.take(word(3, 1, 0, 9*time.Second, "a"), at.Add(time.Second)) {
		t.Error("heard before is news")
	}
	// Another set takes the place of the whole.
	s.take(word(5, 5, 0, time.Second, "c"), at.Add(time.Second))
	expect(&s, at.Add(time.Second), "c", time.Second)
	s.take(word(6, 6, 0, time.Second), at.Add(time.Second))
	expect(&s, at.Add(time.Second), "", time.Second)
}

// However much a member claims, what is kept and told of it is bounded.
func TestClaimSetIsBounded(t *testing.T) {
	var s claimSet
	at := time.Unix(1000, 0)
	for i := range 1000 {
		w := &Word{Member: "a", Life: 1, Seq: uint64(i + 1), Set: 1, Part: i, Parts: 1000, Remaining: time.Second}
		for j := range 1 + i%core.MaxClaims {
			w.Claims = append(w.Claims, core.Claim{Scope: fmt.Sprintf("a/%d/%d", i, j), Fence: 1})
		}
		s.take(w, at)
		claims, _ := s.now(at)
		if len(claims) > core.MaxClaims || len(claims) < len(w.Claims) {
			t.Fatalf("%d claims after part %d with %d", len(claims), i, len(w.Claims))
		}
	}
}

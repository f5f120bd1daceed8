package gossip

import (
	"time"

	"github.com/omnirelay/leadership/core"
)

// claimSet is what a member is heard to claim, put together from its words.
type claimSet struct {
	set   uint64 // see Word
	seen  window
	until time.Time // when the newest word says that the lease behind all of it ends
	parts []heardPart
	fresh bool // something of it is to be told
}

// heardPart is one part of the set.
type heardPart struct {
	part   int
	claims []core.Claim
}

// take takes a word of this set or a later one, unless it was heard before.
func (s *claimSet) take(w *Word, now time.Time) bool {
	if !s.seen.take(w.Seq) {
		return false
	}
	if w.Set > s.set {
		s.set, s.parts = w.Set, nil
	}
	if w.Seq == s.seen.newest {
		// What is known of the way here is in Remaining; a word that was overtaken was
		// longer under way than that, and cannot add to what a later one said.
		s.until = now.Add(w.Remaining)
	}
	s.keep(heardPart{w.Part, w.Claims})
	return true
}

// keep holds the latest parts, as many as one piece of news can tell.
func (s *claimSet) keep(latest heardPart) {
	kept, total := []heardPart{latest}, len(latest.claims)
	for _, p := range s.parts {
		if p.part == latest.part || len(p.claims) == 0 || total+len(p.claims) > core.MaxClaims {
			continue
		}
		kept, total = append(kept, p), total+len(p.claims)
	}
	s.parts = kept
}

// now returns what the member claims, and for how long it may yet: 0 when its words
// have run out.
func (s *claimSet) now(now time.Time) ([]core.Claim, time.Duration) {
	remaining := s.until.Sub(now)
	if remaining <= 0 {
		return nil, 0
	}
	var claims []core.Claim
	for _, p := range s.parts {
		claims = append(claims, p.claims...)
	}
	return claims, remaining
}

// window remembers which numbers were seen, among the newest 64.
type window struct {
	newest uint64
	seen   uint64 // bit i: newest-i was seen
}

// take reports whether the number is new, and remembers it. One too old to be
// remembered counts as seen.
func (w *window) take(n uint64) bool {
	if n > w.newest {
		shift := n - w.newest
		w.seen = w.seen<<min(shift, 64) | 1
		w.newest = n
		return true
	}
	bit := w.newest - n
	if bit >= 64 || w.seen>>bit&1 == 1 {
		return false
	}
	w.seen |= 1 << bit
	return true
}

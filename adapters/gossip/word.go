package gossip

import (
	"encoding/binary"
	"fmt"
	"time"

	"github.com/omnirelay/leadership/core"
)

// Limits on words.
const (
	MaxWord  = 1000 // bytes of one word: it fits into a packet beside a ping
	maxParts = core.MaxScopes
)

// wordFormat starts every word. What follows the claims is for later versions.
const wordFormat = 1

const flagLeaving = 1

// Word is what a member says of what it leads, sized to a packet. All that a member
// claims is a set, told in parts, one word each. Every word renews the whole set: all of
// it hangs on one lease.
type Word struct {
	Member string
	Life   uint64 // see Metadata
	Seq    uint64 // 1, 2, 3 ... within the life
	Set    uint64 // the Seq of the first word of this set
	Part   int    // 0 to Parts-1
	Parts  int
	// Remaining is how long the member may believe in the set from when the word was
	// sent, in milliseconds on the wire.
	Remaining time.Duration
	Claims    []core.Claim
	// Leaving: this life of the member has given up all it led, and ends.
	Leaving bool
}

// Encode returns the word as it travels. It does not check it.
func (w *Word) Encode() []byte {
	data := []byte{wordFormat, 0}
	if w.Leaving {
		data[1] = flagLeaving
	}
	data = appendText(data, w.Member)
	for _, n := range []uint64{w.Life, w.Seq, w.Set, uint64(w.Part), uint64(w.Parts), uint64(max(w.Remaining, 0).Milliseconds()), uint64(len(w.Claims))} {
		data = binary.AppendUvarint(data, n)
	}
	for _, c := range w.Claims {
		data = appendClaim(data, c)
	}
	return data
}

func appendClaim(data []byte, c core.Claim) []byte {
	return binary.AppendUvarint(appendText(data, c.Scope), c.Fence)
}

// DecodeWord reads a word and holds it to its limits.
func DecodeWord(data []byte) (Word, error) {
	w, err := decodeWord(data)
	if err != nil {
		return Word{}, fmt.Errorf("word: %w", err)
	}
	return w, nil
}

func decodeWord(data []byte) (w Word, err error) {
	if len(data) < 2 || len(data) > MaxWord {
		return w, fmt.Errorf("%d bytes; 2 to %d are right", len(data), MaxWord)
	}
	if data[0] != wordFormat {
		return w, fmt.Errorf("format %d; this version reads %d", data[0], wordFormat)
	}
	w.Leaving = data[1]&flagLeaving != 0
	member, rest, err := takeText(data[2:], core.MaxMemberID)
	if err != nil {
		return w, err
	}
	var part, parts, remaining, claims uint64
	for _, n := range []*uint64{&w.Life, &w.Seq, &w.Set, &part, &parts, &remaining, &claims} {
		if *n, rest, err = takeNumber(rest); err != nil {
			return w, err
		}
	}
	w.Member = string(member)
	if err := core.CheckMemberID("member", w.Member); err != nil {
		return w, err
	}
	switch {
	case w.Life == 0 || w.Seq == 0 || w.Set == 0 || w.Set > w.Seq:
		return w, fmt.Errorf("life %d, seq %d and set %d do not fit together", w.Life, w.Seq, w.Set)
	case parts == 0 || parts > maxParts || part >= parts:
		return w, fmt.Errorf("part %d of %d", part, parts)
	case claims > core.MaxClaims:
		return w, fmt.Errorf("%d claims; at most %d are allowed", claims, core.MaxClaims)
	}
	w.Part, w.Parts = int(part), int(parts)
	// Whoever states more than any lease can last is taken at that.
	w.Remaining = min(time.Duration(min(remaining, uint64(core.MaxTTL.Milliseconds())))*time.Millisecond, core.MaxTTL)
	w.Claims, err = takeClaims(rest, int(claims))
	return w, err
}

func takeClaims(data []byte, n int) ([]core.Claim, error) {
	if n == 0 {
		return nil, nil
	}
	claims := make([]core.Claim, 0, n)
	for range n {
		scope, rest, err := takeText(data, core.MaxScopeID)
		if err != nil {
			return nil, err
		}
		fence, rest, err := takeNumber(rest)
		if err != nil {
			return nil, err
		}
		if err := core.ParseScopeID(string(scope)); err != nil {
			return nil, err
		}
		claims, data = append(claims, core.Claim{Scope: string(scope), Fence: fence}), rest
	}
	return claims, nil
}

// splitClaims cuts a set into parts that fit into one word of the member each: at least
// one, which may be empty.
func splitClaims(member string, claims []core.Claim) [][]core.Claim {
	const numbers = 7 * binary.MaxVarintLen64
	room := MaxWord - 2 - binary.MaxVarintLen64 - len(member) - numbers
	var parts [][]core.Claim
	used, from := 0, 0
	for i, c := range claims {
		size := len(appendClaim(nil, c))
		if used+size > room || i-from == core.MaxClaims {
			parts = append(parts, claims[from:i])
			used, from = 0, i
		}
		used += size
	}
	return append(parts, claims[from:])
}

package gossip

import (
	"fmt"
	"testing"
	"time"

	"github.com/omnirelay/leadership/core"
)

// page is a board on a clock of the test's.
type page struct {
	*board
	t   *testing.T
	now time.Time
}

func newPage(t *testing.T) *page {
	p := &page{t: t, now: time.Unix(1000, 0)}
	p.board = newBoard("me", 7, 3, func() time.Time { return p.now })
	return p
}

// taken are the words of one packet.
func (p *page) taken(limit int) []Word {
	p.t.Helper()
	var words []Word
	for _, data := range p.take(3, limit) {
		w, err := DecodeWord(data)
		if err != nil {
			p.t.Fatal(err)
		}
		words = append(words, w)
	}
	return words
}

func someClaims(n int) []core.Claim {
	claims := make([]core.Claim, n)
	for i := range claims {
		claims[i] = core.Claim{Scope: fmt.Sprintf("shard/mesh.demo/%04d", i), Fence: uint64(i + 1)}
	}
	return claims
}

func TestWordsAreSentAFewTimesAndAge(t *testing.T) {
	p := newPage(t)
	p.tell(someClaims(1), 2*time.Second, 5)
	for i := range 3 { // 3 x log10(6), rounded up to 3
		words := p.taken(1300)
		if len(words) != 1 || words[0].Member != "me" || words[0].Life != 7 || words[0].Remaining != 2*time.Second-time.Duration(i)*300*time.Millisecond {
			t.Fatalf("packet %d: %+v", i, words)
		}
		p.now = p.now.Add(300 * time.Millisecond)
	}
	if words := p.taken(1300); len(words) != 0 {
		t.Errorf("sent once more: %+v", words)
	}
	if got, want := p.sends(200), 9; got != want {
		t.Errorf("among 200 members it is sent %d times, want %d", got, want)
	}
}

func TestWordsThatRanOutAreNotSent(t *testing.T) {
	p := newPage(t)
	p.pass(Word{Member: "a", Life: 1, Seq: 1, Set: 1, Parts: 1, Remaining: time.Second}, 5)
	p.now = p.now.Add(time.Second)
	if words := p.taken(1300); len(words) != 0 || len(p.notes) != 0 || len(p.turn) != 0 {
		t.Errorf("%+v is sent, %d notes, %d in turn", words, len(p.notes), len(p.turn))
	}
}

func TestLaterWordTakesThePlaceOfAnEarlierOne(t *testing.T) {
	p := newPage(t)
	w := Word{Member: "a", Life: 1, Seq: 5, Set: 1, Parts: 1, Remaining: time.Second}
	p.pass(w, 5)
	w.Seq = 4
	p.pass(w, 5)
	if words := p.taken(1300); len(words) != 1 || words[0].Seq != 5 {
		t.Errorf("%+v", words)
	}
	w.Life, w.Seq = 2, 1
	p.pass(w, 5)
	if words := p.taken(1300); len(words) != 1 || words[0].Life != 2 {
		t.Errorf("of another life: %+v", words)
	}
}

// A long set goes round in parts; a packet is never overfilled, and a word that does not
// fit keeps its turn.
func TestLongSetGoesRound(t *testing.T) {
	p := newPage(t)
	heard := map[string]bool{}
	const scopes = 500
	for range 20 {
		p.tell(someClaims(scopes), 2*time.Second, 3)
		for {
			words := p.taken(1300)
			if len(words) == 0 {
				break
			}
			for _, w := range words {
				if w.Set != 1 {
					t.Fatalf("the set changed without a change: %+v", w)
				}
				for _, c := range w.Claims {
					heard[c.Scope] = true
				}
			}
		}
		p.now = p.now.Add(wordPeriod)
	}
	if len(heard) != scopes {
		t.Errorf("%d of %d scopes were told", len(heard), scopes)
	}
	p.tell(someClaims(scopes), 2*time.Second, 3)
	if words := p.take(3, 200); len(words) != 0 {
		t.Errorf("%d words in 200 bytes", len(words))
	}
	if words := p.taken(1300); len(words) != 1 {
		t.Errorf("%d words in 1300 bytes", len(words))
	}
}

func TestNothingClaimedIsSaidAFewTimes(t *testing.T) {
	p := newPage(t)
	if n := p.tell(nil, 0, 3); n != 0 {
		t.Errorf("%d words of one who never claimed anything", n)
	}
	p.tell(someClaims(2), time.Second, 3)
	for i := range emptyTold + 2 {
		p.tell(nil, 0, 3)
		words := p.taken(1300)
		if i < emptyTold && (len(words) != 1 || len(words[0].Claims) != 0 || words[0].Remaining != emptyFor || words[0].Set != 2) {
			t.Errorf("time %d: %+v", i, words)
		}
	}
	if n := p.tell(nil, 0, 3); n != 0 {
		t.Errorf("%d words more", n)
	}
}

func TestAfterFarewellNothingIsSaid(t *testing.T) {
	p := newPage(t)
	p.tell(someClaims(2), time.Second, 3)
	w := p.farewell(3)
	if !w.Leaving || w.Seq != 2 {
		t.Errorf("%+v", w)
	}
	if n := p.tell(someClaims(2), time.Second, 3); n != 0 {
		t.Errorf("%d words after it", n)
	}
	if words := p.taken(1300); len(words) != 1 || !words[0].Leaving {
		t.Errorf("%+v", words)
	}
}

// A board that nobody reads, and one that is flooded, do not grow.
func TestBoardIsBounded(t *testing.T) {
	p := newPage(t)
	for i := range 10_000 {
		p.tell(someClaims(i%100), time.Second, 3)
		p.pass(Word{Member: fmt.Sprint("m", i), Life: 1, Seq: 1, Set: 1, Parts: 1, Remaining: time.Hour}, 3)
	}
	if len(p.turn) > maxNotes || len(p.notes) > maxNotes || len(p.waits) != len(p.turn) {
		t.Errorf("%d in turn, %d waiting, %d notes; at most %d are right", len(p.turn), len(p.waits), len(p.notes), maxNotes)
	}
	state := p.state()
	words, err := splitState(state)
	if err != nil || len(state) > MaxState || len(words) < 100 {
		t.Errorf("a state of %d bytes with %d words, %v", len(state), len(words), err)
	}
	for _, bad := range [][]byte{nil, {2}, make([]byte, MaxState+1), state[:len(state)-1], append([]byte{wordFormat}, 0xff, 0xff, 0xff)} {
		if _, err := splitState(bad); err == nil {
			t.Errorf("a state of %d bytes is read", len(bad))
		}
	}
}

package gossip

import (
	"math"
	"sync"
	"time"

	"github.com/omnirelay/leadership/core"
)

const (
	// maxNotes bounds the words that wait to be passed on.
	maxNotes = 2 * MaxMembers
	// partsAtOnce is how many parts of a long set are told in one period.
	partsAtOnce = 4
	// MaxState bounds the words that are exchanged in a full exchange, in bytes.
	MaxState = 64 << 10
	// emptyTold is how often it is told that nothing is claimed any more.
	emptyTold = 4
	// emptyFor is how long that is believed.
	emptyFor = 2 * time.Second
)

// board holds the words that are to be passed on, this member's own among them. Each is
// sent a few times, in turn, in what room memberlist's packets leave; so what words cost
// is bounded by what packets are sent anyway.
type board struct {
	member     string
	life       uint64
	retransmit int
	now        func() time.Time

	mu    sync.Mutex
	notes map[noteKey]*note
	turn  []noteKey        // whose turn it is to be sent; keys without a note are passed over
	waits map[noteKey]bool // what is in turn, once each

	seq, set uint64
	last     []core.Claim // the set told last
	parts    [][]core.Claim
	next     int  // the part to be told next
	empty    int  // how often it was told that the set is empty
	ended    bool // farewell was said
}

// noteKey: a later word takes the place of an earlier one.
type noteKey struct {
	member string
	part   int
}

// note is a word on its way. Its remaining time runs while it waits here.
type note struct {
	word  Word
	until time.Time
	left  int // times to be sent
}

func newBoard(member string, life uint64, retransmit int, now func() time.Time) *board {
	return &board{member: member, life: life, retransmit: retransmit, now: now, notes: map[noteKey]*note{}, waits: map[noteKey]bool{}}
}

// sends is how often a word is sent in a mesh of that many members, as memberlist has it
// for its own messages.
func (b *board) sends(members int) int {
	return b.retransmit * max(1, int(math.Ceil(math.Log10(float64(members+1)))))
}

// tell writes what this member claims now, or part of it when it is much. It returns how
// many words that took.
func (b *board) tell(claims []core.Claim, remaining time.Duration, members int) (words int) {
	b.mu.Lock()
	defer b.mu.Unlock()
	if b.ended {
		return 0
	}
	if len(claims) == 0 || remaining <= 0 {
		claims, remaining = nil, emptyFor
	}
	changed := !sameClaims(claims, b.last)
	if changed {
		b.last, b.parts, b.next, b.empty = claims, splitClaims(b.member, claims), 0, 0
		b.set = b.seq + 1
		b.dropOwn()
	}
	if len(claims) == 0 {
		if b.set == 0 || b.empty >= emptyTold {
			return 0
		}
		b.empty++
	}
	for range min(partsAtOnce, len(b.parts)) {
		b.post(Word{Part: b.next, Parts: len(b.parts), Remaining: remaining, Claims: b.parts[b.next]}, members)
		b.next = (b.next + 1) % len(b.parts)
		words++
	}
	return words
}

// farewell says that this life of the member ends, and returns the word.
func (b *board) farewell(members int) Word {
	b.mu.Lock()
	defer b.mu.Unlock()
	b.dropOwn()
	b.ended, b.set = true, b.seq+1
	return b.post(Word{Parts: 1, Remaining: gossipToGone, Leaving: true}, members)
}

func (b *board) post(w Word, members int) Word {
	b.seq++
	w.Member, w.Life, w.Seq, w.Set = b.member, b.life, b.seq, b.set
	b.put(w, members)
	return w
}

// dropOwn takes back what was written of a set that is no more.
func (b *board) dropOwn() {
	for key := range b.notes {
		if key.member == b.member {
			delete(b.notes, key)
		}
	}
}

// pass takes a fresh word of another member to be passed on.
func (b *board) pass(w Word, members int) {
	b.mu.Lock()
	defer b.mu.Unlock()
	b.put(w, members)
}

func (b *board) put(w Word, members int) {
	key := noteKey{w.Member, w.Part}
	if old := b.notes[key]; old != nil && old.word.Life == w.Life && old.word.Seq > w.Seq {
		return
	}
	if !b.waits[key] {
		if len(b.turn) >= maxNotes {
			return // later words will find room
		}
		b.turn, b.waits[key] = append(b.turn, key), true
	}
	b.notes[key] = &note{word: w, until: b.now().Add(w.Remaining), left: b.sends(members)}
}

// take returns words that fit into limit bytes, each with its overhead.
func (b *board) take(overhead, limit int) [][]byte {
	b.mu.Lock()
	defer b.mu.Unlock()
	var words [][]byte
	for range len(b.turn) {
		if limit <= overhead {
			break
		}
		key := b.turn[0]
		n := b.notes[key]
		data := b.current(key, n)
		if data == nil {
			b.leave(key)
			continue
		}
		if len(data)+overhead > limit {
			break // it keeps its turn, so that a long word is not passed over for ever
		}
		b.leave(key)
		words, limit = append(words, data), limit-len(data)-overhead
		if n.left--; n.left > 0 {
			b.turn, b.waits[key] = append(b.turn, key), true
		} else {
			delete(b.notes, key)
		}
	}
	return words
}

// leave takes the first key, which is this one, out of the turn.
func (b *board) leave(key noteKey) {
	b.turn = b.turn[1:]
	delete(b.waits, key)
}

// current encodes a note as it is true now; nil: it is no longer.
func (b *board) current(key noteKey, n *note) []byte {
	if n == nil {
		return nil
	}
	w := n.word
	if w.Remaining = n.until.Sub(b.now()); w.Remaining < time.Millisecond {
		delete(b.notes, key)
		return nil
	}
	return w.Encode()
}

// state returns all words that are true now, as far as MaxState reaches.
func (b *board) state() []byte {
	b.mu.Lock()
	defer b.mu.Unlock()
	state := []byte{wordFormat}
	for key, n := range b.notes {
		data := b.current(key, n)
		if data != nil && len(state)+len(data)+2 <= MaxState {
			state = appendText(state, string(data))
		}
	}
	return state
}

// splitState takes a state apart into the words in it.
func splitState(state []byte) ([][]byte, error) {
	if len(state) == 0 || len(state) > MaxState || state[0] != wordFormat {
		return nil, errState
	}
	var words [][]byte
	for rest := state[1:]; len(rest) > 0; {
		word, after, err := takeText(rest, MaxWord)
		if err != nil {
			return nil, err
		}
		words, rest = append(words, word), after
	}
	return words, nil
}

func sameClaims(a, b []core.Claim) bool {
	if len(a) != len(b) {
		return false
	}
	for i := range a {
		if a[i] != b[i] {
			return false
		}
	}
	return true
}

package sim

import (
	"fmt"
	"math/rand/v2"

	"github.com/omnirelay/leadership/core"
	"github.com/omnirelay/leadership/sim/check"
)

// subscriber follows the event stream of one replica after another, resuming
// where it left off.
type subscriber struct {
	w      *World
	rng    *rand.Rand
	from   int // index of the replica
	life   int // its incarnation
	stream *core.Subscription
	seen   uint64 // the revision at which it was compared last
	checks *check.FaithfulStream
}

func newSubscriber(w *World, i int, rng *rand.Rand) *subscriber {
	return &subscriber{w: w, rng: rng, checks: check.NewFaithfulStream(w.checks.violated, w.checks.chronicle, fmt.Sprint("subscriber-", i+1))}
}

func (s *subscriber) begin() {
	s.checks.Restart()
	s.move()
}

// move goes to another replica now and then, and sometimes begins anew.
func (s *subscriber) move() {
	running := s.w.running()
	s.from, s.stream = int(running[s.rng.IntN(len(running))].id)-1, nil
	if s.rng.IntN(8) == 0 {
		s.checks.Restart()
	}
	s.w.after(spread(s.rng, 3*sec), s.move)
}

// turned reads what a turn of its replica added. A slow reader leaves it for
// later.
func (s *subscriber) turned(r *replica) {
	if r != s.w.replicas[s.from] || s.rng.IntN(4) == 0 || s.w.lost(r.core.Registry().Revision()) {
		return
	}
	if s.stream == nil || s.life != r.incarnation {
		s.attach(r)
	}
	s.read(r, 1+s.rng.IntN(16))
}

func (s *subscriber) attach(r *replica) {
	s.life, s.seen = r.incarnation, 0
	var resume *core.Cursor
	if s.checks.Whole() {
		c := s.checks.Cursor()
		resume = &c
	} else {
		s.checks.Restart()
	}
	s.stream = core.NewSubscription(core.Filter{}, resume).WithPlants(s.w.plants)
}

func (s *subscriber) read(r *replica, limit int) {
	g := r.core.Registry()
	items := s.stream.Poll(g, limit)
	for i := range items {
		s.w.digest.words(uint64(items[i].Kind), items[i].Cursor.Revision, uint64(items[i].Cursor.Ordinal))
		s.checks.Item(s.w.now, items[i])
	}
	if len(items) < limit && (len(items) > 0 || s.seen != g.Revision()) {
		s.seen = g.Revision()
		s.checks.CaughtUp(s.w.now, g.Revision(), g.Tokens())
	}
}

// finish reads to the end.
func (s *subscriber) finish() {
	r := s.w.replicas[s.from]
	if r.core == nil || s.w.lost(r.core.Registry().Revision()) {
		return
	}
	if s.stream == nil || s.life != r.incarnation {
		s.attach(r)
	}
	s.read(r, core.MaxHistory)
}

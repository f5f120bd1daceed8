package sim

import (
	"math/rand/v2"
	"time"
)

// endpoint is a machine's place on the network.
type endpoint int

// Quality is how a network treats messages.
type Quality struct {
	// DelayMin and DelayMax bound the usual one-way delay.
	DelayMin, DelayMax time.Duration
	// Loss, Duplicate and Late are chances in a thousand. A late message takes up
	// to LateMax: it is overtaken, and may outlive the process that sent it.
	Loss, Duplicate, Late int
	LateMax               time.Duration
}

// network carries messages between machines. Any of them may be lost, repeated,
// late or overtaken; links may be cut, each direction by itself.
type network struct {
	w       *World
	rng     *rand.Rand
	quality Quality
	storms  int // faults that spoil the quality
	size    int
	cuts    []int           // by from*size+to: how many faults cut the link
	held    []time.Duration // by sender: what its messages take on top
}

func newNetwork(w *World, size int, q Quality, rng *rand.Rand) *network {
	return &network{w: w, rng: rng, quality: q, size: size, cuts: make([]int, size*size), held: make([]time.Duration, size)}
}

// send carries a message: deliver runs when, and as often as, it arrives. It
// reports whether the link was open, which a sender may learn or not.
func (n *network) send(from, to endpoint, deliver func()) bool {
	if n.cuts[int(from)*n.size+int(to)] > 0 {
		return false
	}
	if n.chance(n.quality.Loss) {
		return true
	}
	n.w.after(n.held[from]+n.delay(), deliver)
	if n.chance(n.quality.Duplicate) {
		n.w.after(n.held[from]+n.delay(), deliver)
	}
	return true
}

// call carries one direction of a call on the store. It goes over a connection
// that mends what a network usually loses, repeats or delays, but for a storm.
func (n *network) call(from, to endpoint, deliver func()) bool {
	if n.storms > 0 {
		return n.send(from, to, deliver)
	}
	if n.cuts[int(from)*n.size+int(to)] > 0 {
		return false
	}
	q := &n.quality
	n.w.after(n.held[from]+q.DelayMin+time.Duration(n.rng.Int64N(int64(q.DelayMax-q.DelayMin)+1)), deliver)
	return true
}

func (n *network) chance(perMille int) bool { return n.chanceOf(n.rng, perMille) }

func (n *network) chanceOf(rng *rand.Rand, perMille int) bool {
	return perMille > 0 && rng.IntN(1000) < perMille
}

func (n *network) delay() time.Duration {
	if n.chance(n.quality.Late) {
		return n.quality.DelayMax + time.Duration(n.rng.Int64N(int64(n.quality.LateMax)))
	}
	return n.quality.DelayMin + time.Duration(n.rng.Int64N(int64(n.quality.DelayMax-n.quality.DelayMin)+1))
}

// cut blocks one direction of a link until it is mended as often as it was cut.
func (n *network) cut(from, to endpoint) { n.cuts[int(from)*n.size+int(to)]++ }

func (n *network) mend(from, to endpoint) { n.cuts[int(from)*n.size+int(to)]-- }

// open reports whether messages pass in both directions.
func (n *network) open(a, b endpoint) bool {
	return a == b || n.cuts[int(a)*n.size+int(b)] == 0 && n.cuts[int(b)*n.size+int(a)] == 0
}

package sim

import (
	"math/rand/v2"
	"time"

	"github.com/omnirelay/leadership/core"
	"github.com/omnirelay/leadership/core/plant"
)

// effect is what a leader does to a resource.
type effect struct {
	scope string
	fence uint64
	seq   uint64
}

// resource is something that leaders act on and that lets only the latest of
// them through. Its mark is durable together with the effect.
type resource struct {
	w     *World
	name  string
	at    endpoint
	rng   *rand.Rand
	up    bool
	guard *core.Guard
	marks map[string]uint64 // on its disk
}

func newResource(w *World, name string, at endpoint, rng *rand.Rand) *resource {
	return &resource{w: w, name: name, at: at, rng: rng, up: true, guard: core.NewGuard(nil), marks: map[string]uint64{}}
}

// receive applies an effect or refuses it.
func (r *resource) receive(e effect) {
	if !r.up {
		return
	}
	r.w.digest.words(uint64(r.w.now), uint64(r.at), e.fence, e.seq)
	if err := r.guard.Admit(e.scope, e.fence); err != nil {
		r.w.stats.StaleEffectsRefused++
		r.w.tracef(e.scope, "%s refused effect %d under fence %d", r.name, e.seq, e.fence)
		r.plantRecordRefused(e)
		return
	}
	r.marks[e.scope] = e.fence
	r.w.stats.EffectsApplied++
	r.w.checks.noStaleEffect.Applied(r.w.now, r.name, e.scope, e.fence)
}

func (r *resource) plantRecordRefused(e effect) {
	if r.w.plants.Has(plant.GuardRecordsRefused) {
		r.marks[e.scope] = e.fence
		r.guard = core.NewGuard(r.marks)
	}
}

// restart takes the resource down for a while; it comes back with the marks that
// its disk kept.
func (r *resource) restart(d time.Duration) {
	if !r.up {
		return
	}
	r.up = false
	r.w.after(d, func() {
		if r.w.plants.Has(plant.GuardForgetsOnRestart) {
			clear(r.marks)
		}
		r.up, r.guard = true, core.NewGuard(r.marks)
	})
}

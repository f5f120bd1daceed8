package sim

import (
	"time"

	"github.com/omnirelay/leadership/core"
)

// pause lets the primary stand still: what has arrived and what arrives is executed
// when it goes on.
func (s *store) pause(d time.Duration) {
	v := s.main()
	v.until = max(v.until, s.w.now+int64(d))
}

// crash takes the primary down, and brings it back after a while with all that it
// acknowledged.
func (s *store) crash(down time.Duration) {
	v := s.main()
	if !v.up {
		return
	}
	v.end()
	s.w.stats.StoreRestarts++
	s.w.after(down, func() {
		v.up = true
		if !s.w.scenario.Store.KeepsIdentity {
			v.identity = s.newIdentity()
		}
		s.w.tracef("", "the store is back as %s", v.identity)
		s.w.healthChanged()
	})
	s.w.healthChanged()
}

// end is the end of a server's process.
func (v *storeServer) end() {
	v.up, v.waiting, v.until = false, nil, 0
	v.s.aloneAt = v.s.w.now
	v.life++
}

// failOver makes the other machine the primary, from a copy that misses the last
// changes. The old one goes on for a while, and some clients still talk to it.
func (s *store) failOver(missing int, outlives time.Duration) {
	old, heir := s.main(), s.servers[1-s.primary]
	if !old.up || heir.up {
		return
	}
	missing = min(missing, len(old.past))
	heir.model = old.model.Clone()
	if missing > 0 {
		heir.model = old.past[len(old.past)-missing].Clone()
		s.lossy = true
	}
	s.primary = 1 - s.primary
	heir.up, heir.past, heir.identity = true, nil, s.newIdentity()
	s.w.stats.StoreFailOvers++
	s.w.tracef("", "the store fails over to %s, %d changes behind, at %+v instead of %+v", heir.identity, missing, heir.model.Position(), old.model.Position())
	s.cutTrail(heir)
	if s.rng.IntN(3) == 0 {
		outlives = 0
	}
	if outlives == 0 {
		old.end()
	} else {
		s.strand(old, outlives)
	}
	s.w.healthChanged()
}

// strand leaves clients on a superseded server until it is taken away.
func (s *store) strand(old *storeServer, outlives time.Duration) {
	for _, r := range s.w.replicas {
		r.client.toOldStore = s.rng.IntN(2) == 0
		s.w.after(time.Duration(s.rng.Int64N(int64(outlives))), func() { r.client.toOldStore = false })
	}
	flaps := s.rng.IntN(2)
	s.flapping += flaps
	life := old.life
	s.w.after(outlives, func() {
		s.flapping -= flaps
		if old.life == life {
			old.end()
		}
		for _, r := range s.w.replicas {
			r.client.toOldStore = false
		}
		s.w.healthChanged()
	})
}

// cutTrail drops what the new primary does not have of the audit trail.
func (s *store) cutTrail(v *storeServer) {
	reply := v.model.Do(v.identity, &core.StoreCall{Fetch: &core.StoreFetch{After: v.model.Position().Last}})
	s.trail = s.trail[:min(len(s.trail), int(reply.Published))]
}

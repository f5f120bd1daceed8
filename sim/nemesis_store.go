package sim

import (
	"slices"
	"time"

	"github.com/omnirelay/leadership/core"
	"github.com/omnirelay/leadership/core/logpb"
)

// storePlaces is where the store is on the network; empty without one.
func (w *World) storePlaces() []endpoint {
	if w.store == nil {
		return nil
	}
	var places []endpoint
	for _, v := range w.store.servers {
		places = append(places, v.at)
	}
	return places
}

func (n *nemesis) pauseStore(d time.Duration) {
	n.w.tracef("", "the store stands still for %v", d)
	n.w.store.pause(min(d, n.left()))
	n.lasting(d, func() {})
}

// slowStore lets calls take long.
func (n *nemesis) slowStore(d time.Duration) {
	s := n.w.store
	longest := []time.Duration{20 * ms, 150 * ms, 900 * ms}[n.rng.IntN(3)]
	s.serveMax = longest
	s.slow++
	n.w.tracef("", "calls on the store take up to %v", longest)
	n.lasting(d, func() {
		s.serveMax = n.w.scenario.Store.ServeMax.D()
		n.recover(&s.slow, longest)
	})
}

// loseCalls loses calls before they are executed and answers after, and repeats
// some.
func (n *nemesis) loseCalls(d time.Duration) {
	s := n.w.store
	s.slow++
	s.loseCalls, s.loseReply, s.repeat = n.rng.IntN(200), n.rng.IntN(300), n.rng.IntN(100)
	n.w.tracef("", "in a thousand calls on the store %d are lost, %d answers are, and %d are executed twice", s.loseCalls, s.loseReply, s.repeat)
	n.lasting(d, func() {
		s.loseCalls, s.loseReply, s.repeat = 0, 0, 0
		n.recover(&s.slow, 2*core.DefaultElectionTimeout) // who waits for an answer gives up
	})
}

// lagTail lets a replica learn late what became of its calls, and even later what is
// in the log.
func (n *nemesis) lagTail(d time.Duration) {
	r := n.anyReplica()
	lag := 50*ms + time.Duration(n.rng.Int64N(int64(400*ms)))
	n.w.tracef(r.name, "answers of the store take %v to it and the tail of the log %v, for %v", lag/2, lag, d)
	r.slow++
	r.client.lag = lag
	n.lasting(d, func() {
		r.client.lag = 0
		n.recover(&r.slow, lag)
	})
}

// wipeMark gives a replica an empty disk.
func (n *nemesis) wipeMark(time.Duration) {
	r := n.anyReplica()
	n.crash(r)
	n.w.tracef(r.name, "loses its mark")
	r.disk.mark, n.w.store.wiped = nil, true
}

// cutStore cuts a replica from the store, and from nothing else, in one direction
// or in both.
func (n *nemesis) cutStore(r *replica, d time.Duration) {
	said, heard := true, true
	if n.rng.IntN(2) == 0 {
		heard = n.rng.IntN(2) == 0
		said = !heard
	}
	n.w.tracef(r.name, "is cut from the store for %v (its calls: %v, the answers: %v)", d, said, heard)
	var links [][2]endpoint
	for _, at := range n.w.storePlaces() {
		if said {
			links = append(links, [2]endpoint{r.at, at})
		}
		if heard {
			links = append(links, [2]endpoint{at, r.at})
		}
	}
	n.cutLinks(links, d)
}

// interceptCall sees every call on the store and reports whether it is swallowed;
// deliver sends it on its way.
func (n *nemesis) interceptCall(r *replica, c *core.StoreCall, deliver func()) bool {
	switch {
	case c.Confirm != nil && c.Confirm.Beat && n.atCheck > 0:
		d := n.atCheck
		n.atCheck = 0
		n.w.after(0, func() { n.pauseAtCheck(r, d) })
	case c.Append == nil:
	case n.atExpiry > 0 && appends(c.Append, isExpiry):
		d := n.atExpiry
		n.atExpiry = 0
		n.blackHole(r, d)
	case n.atDecision > 0 && appends(c.Append, isDecision):
		d := n.atDecision
		n.atDecision = 0
		n.blackHole(r, d)
		return n.rng.IntN(2) == 0
	case n.atAppend > 0:
		d := n.atAppend
		n.atAppend = 0
		n.holdUp(r, d, deliver)
		return true
	}
	return n.holes[r.id] > 0 && c.Append != nil
}

// holdUp lets an append arrive late, perhaps when its office is over.
func (n *nemesis) holdUp(r *replica, d time.Duration, deliver func()) {
	n.w.tracef(r.name, "its append is held up for %v", d)
	r.slow++
	n.w.after(d, deliver)
	n.lasting(min(d, core.DefaultElectionTimeout), func() { n.recover(&r.slow, core.DefaultElectionTimeout) })
}

// appends reports whether an append carries such a command.
func appends(a *core.StoreAppend, such func(*logpb.Command) bool) bool {
	return slices.ContainsFunc(a.Entries, func(e *core.StoredEntry) bool { return dataCarries(e.Data, such) })
}

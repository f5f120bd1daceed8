package sim

import (
	"fmt"
	"math/rand/v2"
	"slices"
	"time"

	"google.golang.org/protobuf/proto"

	"github.com/omnirelay/leadership/core"
	"github.com/omnirelay/leadership/core/plant"
	"github.com/omnirelay/leadership/sim/check"
)

// store is the external store that the log lies in: two machines, one of which is
// the primary. What a server does with a call is core's own model of the contract;
// what happens to the call on its way there and back is the simulator's business.
type store struct {
	w       *World
	rng     *rand.Rand
	servers [2]*storeServer
	primary int
	names   int // identities given so far

	// What the faults do to it at present.
	slow      int // how many of them slow it down
	serveMax  time.Duration
	loseCalls int // chance in a thousand
	loseReply int // likewise
	repeat    int // likewise: a call is executed twice
	skip      int // likewise: an entry is left out of the tail, against the contract
	flapping  int // calls go to either server

	// lossy says that a fail-over lost something that was acknowledged.
	lossy bool
	// wiped says that a replica lost its mark: only a jump helps when the server changes.
	wiped bool
	// stillborn says that what was lost is the beginning: only a new registry helps.
	stillborn bool
	// closedAt is when the operator found the log closed, never: it is open.
	closedAt, jumpAt int64
	aloneAt          int64 // when a superseded server was last taken away
	// trail is what was published, as the audit's readers find it.
	trail []*core.Record
}

// storeServer is one machine of the store.
type storeServer struct {
	s        *store
	at       endpoint
	model    *core.StoreModel
	identity string
	up       bool
	life     int
	until    int64 // paused until
	past     []*core.StoreModel
	waiting  []*storeVisit
}

// maxPast is how many earlier states a server keeps for its successor to begin at.
const maxPast = 12

// storeVisit is a call on a server.
type storeVisit struct {
	call  *core.StoreCall
	from  *replica
	life  int // of the caller
	began int64
	rest  time.Duration // from its execution to its answer
}

func newStore(w *World, rng *rand.Rand) *store {
	s := &store{w: w, rng: rng, closedAt: never, serveMax: w.scenario.Store.ServeMax.D()}
	if w.plants.Has(plant.GapAccepted) {
		s.skip = 50
	}
	for i := range s.servers {
		at := w.scenario.Replicas + w.scenario.Members + w.scenario.Resources + i
		s.servers[i] = &storeServer{s: s, at: endpoint(at)}
	}
	first := s.servers[0]
	first.up, first.model, first.identity = true, core.NewStoreModel(), s.newIdentity()
	return s
}

// storeMachines is how many places the store takes on the network.
const storeMachines = 2

func (s *store) newIdentity() string {
	s.names++
	return fmt.Sprintf("server-%d", s.names)
}

func (s *store) main() *storeServer { return s.servers[s.primary] }

// server is the one that a replica's client is connected to.
func (s *store) server(r *replica) *storeServer {
	other := s.servers[1-s.primary]
	if other.up && (r.client.toOldStore || s.flapping > 0 && s.rng.IntN(2) == 0) {
		return other
	}
	return s.main()
}

// lead is the lead record as it stands on a server, nil for none.
func (v *storeServer) lead() *core.Lead {
	return v.model.Do(v.identity, &core.StoreCall{Confirm: &core.StoreConfirm{}}).Lead
}

// arrive takes a call that came over the network. It is executed after a while, or
// when the server goes on.
func (v *storeServer) arrive(c *storeVisit) {
	if !v.up {
		if v.s.rng.IntN(2) == 0 {
			v.s.w.network.call(v.at, c.from.at, func() { c.from.storeFailed(c, "connection refused") })
		}
		return
	}
	life, took := v.life, v.s.serveTime()
	before := time.Duration(v.s.rng.Int64N(int64(took) + 1))
	c.rest = took - before
	v.s.w.after(before, func() { v.execute(c, life) })
}

func (s *store) serveTime() time.Duration {
	least := s.w.scenario.Store.ServeMin.D()
	return least + time.Duration(s.rng.Int64N(int64(s.serveMax-least)+1))
}

// execute makes a call take effect, unless the process that took it is gone.
func (v *storeServer) execute(c *storeVisit, life int) {
	switch w := v.s.w; {
	case !v.up || v.life != life:
		return
	case w.now < v.until:
		w.at(v.until, func() { v.execute(c, life) })
		return
	case v.mustWait(c):
		v.waiting = append(v.waiting, c)
		w.at(c.began+int64(c.call.Fetch.Wait), func() { v.waitOver(c, life) })
		return
	}
	v.perform(c)
}

// mustWait reports whether a fetch waits for something new.
func (v *storeServer) mustWait(c *storeVisit) bool {
	f := c.call.Fetch
	if f == nil || f.Wait == 0 {
		return false
	}
	if c.began == 0 {
		c.began = v.s.w.now
	}
	return v.model.Position().Last <= f.After && v.s.w.now < c.began+int64(f.Wait)
}

func (v *storeServer) waitOver(c *storeVisit, life int) {
	if i := slices.Index(v.waiting, c); i >= 0 && v.life == life {
		v.waiting = slices.Delete(v.waiting, i, i+1)
		v.execute(c, life)
	}
}

// perform makes the call on the model and sends the answer off.
func (v *storeServer) perform(c *storeVisit) {
	s := v.s
	before := v.model.Position()
	if c.call.Confirm == nil && c.call.Fetch == nil {
		v.remember()
	}
	reply := v.model.Do(v.identity, s.planted(v, c.call))
	s.leaveOut(reply)
	s.noteCall(v, c, reply)
	if v.model.Position() != before {
		v.wakeWaiting()
	}
	if s.w.network.chanceOf(s.rng, s.loseReply) {
		return
	}
	life, rest := v.life, c.rest+c.from.client.lag/2
	if c.call.Fetch != nil {
		rest += c.from.client.lag / 2
	}
	s.w.after(rest, func() {
		if v.life == life {
			s.w.network.call(v.at, c.from.at, func() { c.from.storeAnswered(c, reply) })
		}
	})
}

// remember keeps the state before a change, for a successor that missed it.
func (v *storeServer) remember() {
	v.past = append(v.past, v.model.Clone())
	if len(v.past) > maxPast {
		v.past = v.past[1:]
	}
}

func (v *storeServer) wakeWaiting() {
	life, waiting := v.life, v.waiting
	v.waiting = nil
	for _, c := range waiting {
		v.s.w.after(v.s.serveTime(), func() { v.execute(c, life) })
	}
}

// noteCall tells the checkers what a call did.
func (s *store) noteCall(v *storeServer, c *storeVisit, reply *core.StoreReply) {
	w := s.w
	w.stats.StoreCalls++
	w.digest.words(uint64(w.now), uint64(c.from.id), c.call.ID, uint64(reply.Status), reply.Lead.GetTerm(), reply.Lead.GetLast(), reply.Lead.GetBeat())
	w.digest.bytes(reply.Lead.GetChain())
	switch {
	case c.call.Append != nil:
		w.tracef(c.from.name, "append at %+v on %s: %s %s", c.call.Append.Guard, v.identity, statusName(reply.Status), reply.Text)
		if reply.Status == core.StoreOK {
			s.lossy = s.lossy || v != s.main()
			for _, e := range c.call.Append.Entries {
				w.checks.linearizable.Proposed(w.now, e.Index, e.Term)
			}
		}
	case c.call.Attest != nil:
		w.tracef(c.from.name, "attests %s: %s %s", c.call.Attest.Identity, statusName(reply.Status), reply.Text)
	case c.call.Close != nil:
		w.tracef(c.from.name, "closes the log on %s: %s: %s %s", v.identity, c.call.Close.Reason, statusName(reply.Status), reply.Text)
		// A server that was superseded does miss what was acknowledged since.
		if reply.Status == core.StoreOK && !s.lossy && v == s.main() {
			w.checks.violated(check.Violation{Property: check.NoPanicProperty, At: w.now, Text: c.from.name + " closed a log that lost nothing: " + c.call.Close.Reason})
		}
	case c.call.Publish != nil && reply.Status == core.StoreOK && v == s.main():
		s.published(c.call.Publish)
	}
}

// published holds the audit trail in the store to what was told.
func (s *store) published(p *core.StorePublish) {
	for _, r := range p.Records {
		var last *core.Record
		if n := len(s.trail); n > 0 {
			last = s.trail[n-1]
		}
		s.w.checks.stored(s.w.now, 0, last, r)
		s.trail = append(s.trail, r)
	}
	s.w.checks.durable.Trail(s.w.now, 0, uint64(len(s.trail)), p.Revision)
}

func statusName(s core.StoreStatus) string {
	return [...]string{"none", "ok", "refused:", "failed:", "unfit:"}[s]
}

// carriedReply is an answer as a client gets it that decodes it from the wire.
func (w *World) carriedReply(r *core.StoreReply) *core.StoreReply {
	if !w.copies {
		return r
	}
	c := *r
	c.Lead, c.Snapshot = proto.CloneOf(r.Lead), proto.CloneOf(r.Snapshot)
	c.Entries = nil
	for _, e := range r.Entries {
		c.Entries = append(c.Entries, proto.CloneOf(e))
	}
	return &c
}

package sim

import (
	"slices"

	"google.golang.org/protobuf/proto"

	"github.com/omnirelay/leadership/core"
	"github.com/omnirelay/leadership/core/plant"
)

// planted is a call as a server with a planted bug understands it.
func (s *store) planted(v *storeServer, c *core.StoreCall) *core.StoreCall {
	switch {
	case c.Append != nil && s.w.plants.Has(plant.AppendUnguarded):
		return s.plantUnguarded(v, c)
	case c.Publish != nil && s.w.plants.Has(plant.PublishedTwice):
		d, p := *c, *c.Publish
		p.After = v.model.Do(v.identity, &core.StoreCall{Fetch: &core.StoreFetch{After: v.model.Position().Last}}).Published
		d.Publish = &p
		return &d
	}
	return c
}

// plantUnguarded puts the entries of an office that is over behind the newest one.
func (s *store) plantUnguarded(v *storeServer, c *core.StoreCall) *core.StoreCall {
	at := v.model.Position()
	if c.Append.Guard.Term >= at.Term {
		return c
	}
	lead := proto.CloneOf(v.lead())
	a := &core.StoreAppend{Guard: at, Lead: lead}
	for _, e := range c.Append.Entries {
		lead.Last++
		lead.Chain = core.ChainEntry(lead.Chain, lead.Last, e.Term, e.Data)
		a.Entries = append(a.Entries, &core.StoredEntry{Index: lead.Last, Term: e.Term, Data: e.Data, Chain: lead.Chain})
	}
	lead.AppendId = c.Append.Lead.AppendId
	return &core.StoreCall{ID: c.ID, Timeout: c.Timeout, Append: a}
}

// leaveOut is what a store does that breaks the contract: its tail skips an entry.
func (s *store) leaveOut(reply *core.StoreReply) {
	if n := len(reply.Entries); n > 2 && s.w.network.chanceOf(s.rng, s.skip) {
		i := 1 + s.rng.IntN(n-2)
		reply.Entries = slices.Delete(slices.Clone(reply.Entries), i, i+1)
	}
}
